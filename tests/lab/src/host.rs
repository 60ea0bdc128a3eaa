//! One lab host: Debian with systemd as PID 1 in systemd-nspawn.
//!
//! Owns the host's life: boot, reboot, power cut, clean end. Each host has a
//! mount namespace, a network namespace, a cgroup and a disk of its own. Never
//! grants `CAP_SYS_TIME`: a time zone set inside would warp the machine's clock.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cgroup::{self, Group};
use crate::cmd::{Cmd, Output, wait_until};
use crate::disk::{Disk, Fs};
use crate::lab::Lab;
use crate::net;
use crate::root::{self, Suite};
use crate::say;

/// The cgroup tree that a host sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cgroups {
    /// v2. On a machine with v1 hierarchies it has no controllers: runc then
    /// refuses every limit, so no pods.
    V2,
    /// v1 with systemd's own v2 tree beside it; needs a machine that has v1.
    Hybrid,
    /// v1 alone; needs a machine that has v1, and systemd 257 or older.
    V1,
}

impl Cgroups {
    /// The tree in which runc can set limits on this machine: what a real k3s needs.
    #[must_use]
    pub fn with_controllers() -> Self {
        if cgroup::pure_v2() { Self::V2 } else { Self::V1 }
    }
}

/// A file or directory of the machine that the host sees.
#[derive(Debug, Clone)]
pub struct Bind {
    /// Where it is on the machine.
    pub source: PathBuf,
    /// Where the host sees it.
    pub target: PathBuf,
    /// Whether the host may write there.
    pub writable: bool,
}

impl Bind {
    /// `source` of the machine, seen as `target`, read-only.
    pub fn read_only(source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Self { source: source.into(), target: target.into(), writable: false }
    }

    fn argument(&self) -> String {
        let how = if self.writable { "bind" } else { "bind-ro" };
        format!("--{how}={}:{}", self.source.display(), self.target.display())
    }
}

/// What a host shall be; start from [`HostSpec::new`] and change fields.
#[derive(Debug, Clone)]
pub struct HostSpec {
    /// Its name in the lab, at most 11 of `a-z`, `0-9`, `-`.
    pub name: String,
    /// Its Debian.
    pub suite: Suite,
    /// Its address in 10.77.0.0/16; `None`: the lab's next one, from 10.77.0.11.
    pub address: Option<Ipv4Addr>,
    /// The name that the machine room gave it (it has no `/etc/hostname`).
    pub hostname: String,
    /// Its cgroup tree.
    pub cgroups: Cgroups,
    /// What it sees of the machine's files.
    pub binds: Vec<Bind>,
    /// The file system of its disk.
    pub fs: Fs,
    /// The size of its disk in MiB; the file is sparse.
    pub disk_mib: u32,
    /// Whether it sees the machine's `/dev/kmsg`, without which a kubelet ends.
    pub kmsg: bool,
    /// Whether all of `/proc/sys` and `/sys` is writable, and not only the
    /// network's part: the machine's own kernel settings are then at its mercy.
    pub writable_sys: bool,
    /// More arguments for systemd-nspawn.
    pub nspawn: Vec<String>,
}

impl HostSpec {
    /// A host with 8 GiB of ext4, cgroup v2, and its name as hostname.
    #[must_use]
    pub fn new(name: &str, suite: Suite) -> Self {
        Self {
            name: name.to_owned(),
            suite,
            address: None,
            hostname: name.to_owned(),
            cgroups: Cgroups::V2,
            binds: Vec::new(),
            fs: Fs::Ext4,
            disk_mib: 8192,
            kmsg: false,
            writable_sys: false,
            nspawn: Vec::new(),
        }
    }
}

/// A host of a lab; its disk and all its processes are gone when it is dropped.
#[derive(Debug)]
pub struct Host {
    spec: HostSpec,
    address: Ipv4Addr,
    dir: PathBuf,
    root: PathBuf,
    netns: String,
    group: Group,
    disk: Disk,
    supervisor: Mutex<Option<Child>>,
    lab: Lab,
}

/// The time that a boot may take before it counts as failed.
const BOOT: Duration = Duration::from_mins(2);

impl Host {
    pub(crate) fn create(lab: &Lab, spec: HostSpec) -> Result<Self> {
        let dir = lab.dir().join("hosts").join(&spec.name);
        if dir.exists() {
            bail!("there is a host `{}` already", spec.name);
        }
        fs::create_dir_all(&dir)?;
        let root = root::host_root(spec.suite)?;
        let address = spec.address.unwrap_or_else(|| lab.next_address());
        Ok(Self {
            address,
            disk: Disk::create(&dir, &root, spec.fs, spec.disk_mib)?,
            netns: lab.net().attach(&spec.name, address)?,
            group: Group::new(format!("edge-{}.{}", lab.name(), spec.name)),
            supervisor: Mutex::new(None),
            lab: lab.clone(),
            spec,
            dir,
            root,
        })
    }

    /// Switches it on and waits until systemd has run all boot jobs; gives
    /// systemd's own word for the result, `running` or `degraded`.
    ///
    /// # Errors
    /// It is on already, ends, or takes longer than two minutes.
    pub fn boot(&self) -> Result<String> {
        self.boot_no_wait()?;
        self.wait_booted(BOOT)
    }

    /// Switches it on.
    ///
    /// # Errors
    /// It is on already, or its supervisor cannot be started.
    pub fn boot_no_wait(&self) -> Result<()> {
        if self.is_on() {
            bail!("{} is on already", self.name());
        }
        self.disk.wait_unused()?;
        fs::remove_file(self.dir.join("supervisor.pid")).ok();
        let child = self.supervise()?;
        *self.supervisor.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        Ok(())
    }

    /// Waits until systemd has run all boot jobs; gives `running` or `degraded`.
    ///
    /// # Errors
    /// The host ends, or the time is over; the message holds the console's end.
    pub fn wait_booted(&self, limit: Duration) -> Result<String> {
        let state = wait_until(limit, &format!("{} has booted", self.name()), || {
            if !self.is_on() {
                bail!("{} went off while booting", self.name());
            }
            let state = self.exec(&["systemctl", "is-system-running"])?.stdout;
            Ok(matches!(state.trim(), "running" | "degraded").then(|| state.trim().to_owned()))
        });
        let state = state.with_context(|| format!("console: {}", self.console_tail()))?;
        if self.spec.cgroups != Cgroups::V2 {
            // nspawn mounts them read-only; runc makes its groups there.
            self.sh("for c in /sys/fs/cgroup /sys/fs/cgroup/*/; do mount -o remount,bind,rw $c; done")?;
        }
        Ok(state)
    }

    /// Runs a program inside, as root; its exit code is part of the output.
    ///
    /// # Errors
    /// It takes longer than two minutes, or cannot be started at all. When the
    /// host is off the exit code is 125.
    pub fn exec<S: AsRef<str>>(&self, argv: &[S]) -> Result<Output> {
        self.cmd(argv).run()
    }

    /// Runs a shell script inside and gives its standard output, trimmed.
    ///
    /// # Errors
    /// Its exit code is not 0, or it takes longer than two minutes.
    pub fn sh(&self, script: &str) -> Result<String> {
        self.exec(&["sh", "-euc", script])?.ok()
    }

    /// A program to run inside, for those who need input or another limit.
    #[must_use]
    pub fn cmd<S: AsRef<str>>(&self, argv: &[S]) -> Cmd {
        let words: Vec<&str> = argv.iter().map(AsRef::as_ref).collect();
        let shown = format!("{}: {}", self.name(), words.join(" "));
        let Some(leader) = self.leader() else {
            return Cmd::new(&["sh", "-c", "echo the host is off >&2; exit 125"]).shown(&shown);
        };
        let groups: Vec<String> = self.group.inside().iter().map(|dir| dir.display().to_string()).collect();
        let (leader, groups) = (leader.to_string(), groups.join(" "));
        let mut all = vec!["sh", "-c", JOIN, "enter", &groups, &leader];
        all.extend(words);
        Cmd::new(&all).shown(&shown)
    }

    /// Writes a file with mode 0644 and syncs it, while on or off; directories are made.
    ///
    /// # Errors
    /// The host's file system refuses it.
    pub fn write_file(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        self.write_file_mode(path, content, 0o644)
    }

    /// Writes a file with `mode` and syncs it, while on or off; directories are made.
    ///
    /// # Errors
    /// The host's file system refuses it.
    pub fn write_file_mode(&self, path: &str, content: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        let path = path.trim_start_matches('/');
        let script = format!(
            "mkdir -p \"$(dirname './{path}')\"; umask 077; cat >'./{path}'; chmod {mode:o} './{path}'; sync './{path}' \"$(dirname './{path}')\""
        );
        self.at_root(&script, content.as_ref())?;
        Ok(())
    }

    /// Copies a file of the machine into the host, with its mode, while on or off.
    ///
    /// # Errors
    /// It cannot be read, or the host's file system refuses it.
    pub fn copy_in(&self, source: &Path, path: &str) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let content = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        let mode = fs::metadata(source)?.permissions().mode() & 0o7777;
        self.write_file_mode(path, content, mode)
    }

    /// The text of a file, while on or off; `None` when there is none.
    ///
    /// # Errors
    /// It is there but cannot be read.
    pub fn read_file(&self, path: &str) -> Result<Option<String>> {
        let path = path.trim_start_matches('/');
        let text = self.at_root(
            &format!(
                "[ -e './{path}' ] || [ -L './{path}' ] || {{ echo no; exit; }}; echo yes; cat './{path}'"
            ),
            &[],
        )?;
        Ok(text.strip_prefix("yes\n").map(str::to_owned))
    }

    /// Runs a shell script with the root of the host that is off as its
    /// working directory (so: relative paths), to break or to look at files.
    ///
    /// # Errors
    /// The host is on, or the script's exit code is not 0.
    pub fn edit(&self, script: &str) -> Result<String> {
        if self.is_on() {
            bail!("{} is on: its disk can be edited only while it is off", self.name());
        }
        self.disk.edit(script, &[])?.ok()
    }

    fn at_root(&self, script: &str, input: &[u8]) -> Result<String> {
        let output = if self.is_on() {
            let script = format!("cd /; {script}");
            self.cmd(&["sh", "-euc", &script]).input(input).run()?
        } else {
            self.disk.edit(script, input)?
        };
        if output.success() { Ok(output.stdout) } else { output.ok() }
    }

    /// The power goes: what was not synced is lost, everything is dead, the disk stays.
    ///
    /// # Errors
    /// The host is off, or does not die.
    pub fn cut(&self) -> Result<()> {
        let pid = self.supervisor_pid().with_context(|| format!("{} is off already", self.name()))?;
        self.disk.stop(pid)?;
        self.bury()
    }

    /// Kills everything but keeps all writes: only user space crashed.
    ///
    /// # Errors
    /// The host does not die.
    pub fn kill(&self) -> Result<()> {
        self.bury()
    }

    /// Switches it off in good order.
    ///
    /// # Errors
    /// It is not off after a minute and a half, systemd's own patience with a unit.
    pub fn off(&self) -> Result<()> {
        self.exec(&["systemctl", "poweroff", "--no-block"])?.ok()?;
        wait_until(Duration::from_secs(100), &format!("{} is off", self.name()), || {
            Ok((!self.is_on()).then_some(()))
        })?;
        self.bury()
    }

    /// Ends it and removes its disk; the same as dropping it, with the error told.
    ///
    /// # Errors
    /// The host does not die.
    pub fn destroy(self) -> Result<()> {
        self.bury()
    }

    /// True from [`Host::boot_no_wait`] until it is off, also while it reboots.
    #[must_use]
    pub fn is_on(&self) -> bool {
        let mut child = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner);
        child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Its name in the lab.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The lab that it belongs to.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// What its console showed, over all boots.
    #[must_use]
    pub fn console(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// The ids, as the machine counts them, of all processes in it.
    #[must_use]
    pub fn processes(&self) -> Vec<i32> {
        self.group.processes()
    }

    /// Installs a Debian package from the machine, as a person would.
    ///
    /// # Errors
    /// The host is off, or dpkg refuses it.
    pub fn install(&self, package: &Path) -> Result<()> {
        self.copy_in(package, "/root/package.deb")?;
        self.sh("dpkg -i /root/package.deb && rm /root/package.deb")?;
        Ok(())
    }

    /// Where the machine sees its root directory while it is on.
    #[must_use]
    pub fn seen_from_outside(&self) -> Option<PathBuf> {
        self.leader().map(|pid| PathBuf::from(format!("/proc/{pid}/root")))
    }

    /// Starts the supervisor, which boots and reboots the host until it is off.
    fn supervise(&self) -> Result<Child> {
        let console = File::options().create(true).append(true).open(self.console())?;
        let groups: Vec<String> = self.group.create()?.iter().map(|dir| dir.display().to_string()).collect();
        Command::new("setsid")
            .args(["unshare", "-m", "--propagation", "private", "sh", "-c", SUPERVISE, "supervise"])
            .args(self.nspawn_arguments())
            .env("DIR", &self.dir)
            .env("ROOT", &self.root)
            .env("KEEPER", self.group.keeper()?)
            .env("GROUPS", groups.join(" "))
            .envs(self.nspawn_environment())
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console)
            .spawn()
            .context("cannot start the host's supervisor")
    }

    fn nspawn_arguments(&self) -> Vec<String> {
        let mut all: Vec<String> = NSPAWN.split_whitespace().map(str::to_owned).collect();
        let dir = self.dir.display();
        all.push(format!("--directory={dir}/root"));
        all.push(format!("--bind={dir}/disk/var:/var"));
        all.push(format!("--machine=edge-{}.{}", self.lab.name(), self.name()));
        all.push(format!("--hostname={}", self.spec.hostname));
        all.push(format!("--network-namespace-path=/run/netns/{}", self.netns));
        if self.spec.cgroups != Cgroups::V2 {
            all.push("--setenv=SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1".to_owned());
        }
        let devices = [("/dev/fuse", true), ("/dev/kmsg", self.spec.kmsg)];
        let wanted = devices.iter().filter(|(path, wanted)| *wanted && Path::new(path).exists());
        all.extend(wanted.map(|(path, _)| format!("--bind={path}")));
        all.extend(self.spec.binds.iter().map(Bind::argument));
        all.extend(self.spec.nspawn.iter().cloned());
        all
    }

    fn nspawn_environment(&self) -> Vec<(&'static str, &'static str)> {
        let sys = if self.spec.writable_sys { "yes" } else { "network" };
        // runc needs keyctl and bpf, CNI plugins need the network's settings.
        let mut all = vec![("SYSTEMD_SECCOMP", "0"), ("SYSTEMD_NSPAWN_API_VFS_WRITABLE", sys)];
        match self.spec.cgroups {
            Cgroups::V2 => all.push(("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")),
            Cgroups::V1 => all.push(("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "0")),
            Cgroups::Hybrid => {}
        }
        all
    }

    fn supervisor_pid(&self) -> Option<i32> {
        let text = fs::read_to_string(self.dir.join("supervisor.pid")).ok()?;
        let pid = text.trim().parse().ok()?;
        self.is_on().then_some(pid)
    }

    /// The host's PID 1 as the machine sees it: supervisor, nspawn, init.
    fn leader(&self) -> Option<i32> {
        let nspawn = child_of(self.supervisor_pid()?, "systemd-nspawn")?;
        child_of(nspawn, "systemd").or_else(|| child_of(nspawn, "init"))
    }

    /// Ends all processes and waits for the supervisor.
    fn bury(&self) -> Result<()> {
        self.group.kill()?;
        let child = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut child) = child {
            child.wait()?;
        }
        Ok(())
    }

    fn console_tail(&self) -> String {
        let text = fs::read(self.console()).unwrap_or_default();
        let start = text.len().saturating_sub(2000);
        String::from_utf8_lossy(text.get(start..).unwrap_or_default()).into_owned()
    }

    /// For the person who reads why a test failed.
    fn last_words(&self) {
        let journal = ["journalctl", "--no-pager", "-b", "-n", "60", "-o", "short-monotonic"];
        let text = self.exec(&journal).map(|output| output.stdout).unwrap_or_default();
        say(&format!("the test failed; the journal of {} ends with\n{text}", self.name()));
        say(&format!("and its console with\n{}", self.console_tail()));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() && self.is_on() {
            self.last_words();
        }
        if let Err(error) = self.bury() {
            say(&format!("{error:#}"));
        }
        net::remove(&self.netns);
        root::remove_tree(&Path::new("/run/systemd/nspawn/propagate").join(format!(
            "edge-{}.{}",
            self.lab.name(),
            self.name()
        )))
        .ok();
        if std::env::var_os("EDGE_LAB_KEEP").is_none() {
            root::remove_tree(&self.dir).ok();
        }
    }
}

const SUPERVISE: &str = include_str!("supervise.sh");

/// Arguments that every host has. No machined: the lab enters hosts by itself.
const NSPAWN: &str = "--register=no --keep-unit --quiet --boot --console=pipe \
    --link-journal=no --resolv-conf=off --timezone=off";

/// Enters a host's cgroups ($1, several) and all namespaces of its PID 1 ($2),
/// with a clean environment.
const JOIN: &str = r#"for group in $1; do echo 0 >"$group/cgroup.procs"; done 2>/dev/null
leader=$2; shift 2
exec nsenter -t "$leader" -m -u -i -n -p -C -r -w -- env -i HOME=/root LANG=C.UTF-8 \
  PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@""#;

/// The first child of `parent` with that command name.
fn child_of(parent: i32, comm: &str) -> Option<i32> {
    crate::entries("/proc".as_ref()).into_iter().find_map(|name| {
        let pid: i32 = name.parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // pid (comm) state ppid ...; the name may hold spaces and brackets.
        let (front, back) = stat.rsplit_once(") ")?;
        let ppid: i32 = back.split(' ').nth(1)?.parse().ok()?;
        (ppid == parent && front.ends_with(&format!("({comm}"))).then_some(pid)
    })
}
