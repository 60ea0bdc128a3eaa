//! One machine: Debian's own kernel in QEMU, wholly emulated.
//!
//! For what a container cannot have: an own clock, board and disk identity,
//! device-mapper, kernel modules, cgroup v2 controllers, odd file systems.
//! Boots in 10 to 15 s on an idle machine, so tests here do much per boot.
//! A power cut is SIGKILL to QEMU: the guest's page cache is lost, what it had
//! written to its disks is kept.

mod agent;
mod image;

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use self::agent::Agent;
use crate::cmd::{Cmd, Output, run, wait_until};
use crate::lab::Lab;
use crate::net::PREFIX;
use crate::root::{self, Suite};
use crate::say;

/// The file system of a machine's root disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RootFs {
    /// As installers make it today.
    #[default]
    Ext4,
    /// As installers made it around 2015: directory entries do not tell types (`-m crc=0 -n ftype=0`).
    XfsNoFtype,
}

impl RootFs {
    fn kernel_word(self) -> &'static str {
        match self {
            Self::Ext4 => "rootfstype=ext4",
            Self::XfsNoFtype => "rootfstype=xfs",
        }
    }
}

/// What a machine shall be; start from [`MachineSpec::new`] and change fields.
#[derive(Debug, Clone)]
pub struct MachineSpec {
    /// Its name in the lab, at most 11 of `a-z`, `0-9`, `-`.
    pub name: String,
    /// Its Debian.
    pub suite: Suite,
    /// The file system of `/dev/vda`.
    pub root: RootFs,
    /// Its memory in MiB.
    pub memory_mib: u32,
    /// Sizes in MiB of blank data disks: `/dev/vdb`, `/dev/vdc` and so on.
    pub disks: Vec<u32>,
    /// Its address on the lab's bridge; `None`: no network.
    pub address: Option<Ipv4Addr>,
    /// More words for the kernel's command line.
    pub kernel: String,
    /// More arguments for QEMU, for example `-rtc` or `-smbios`.
    pub qemu: Vec<String>,
    /// Serial numbers of its disks, `/dev/vda` first; those that the list does not reach have none.
    pub serials: Vec<String>,
    /// The hardware address of its network card; `None`: one that stays the same for this name.
    pub mac: Option<String>,
}

impl MachineSpec {
    /// A machine with 1 GiB of memory, no data disk and no network.
    #[must_use]
    pub fn new(name: &str, suite: Suite) -> Self {
        Self {
            name: name.to_owned(),
            suite,
            root: RootFs::Ext4,
            memory_mib: 1024,
            disks: Vec::new(),
            address: None,
            kernel: String::new(),
            qemu: Vec::new(),
            serials: Vec::new(),
            mac: None,
        }
    }
}

/// A machine of a lab; QEMU and its disks are gone when it is dropped.
#[derive(Debug)]
pub struct Machine {
    name: String,
    spec: Mutex<MachineSpec>,
    dir: PathBuf,
    base: PathBuf,
    qemu: Vec<String>,
    tap: Option<String>,
    process: Mutex<Option<Child>>,
    lab: Lab,
}

/// Bytes of a file that go to the agent at once.
const PIECE: usize = 512 * 1024;

/// The time that a boot may take before it counts as failed.
const BOOT: Duration = Duration::from_mins(3);

impl Machine {
    pub(crate) fn create(lab: &Lab, spec: MachineSpec) -> Result<Self> {
        let dir = lab.dir().join("machines").join(&spec.name);
        fs::create_dir_all(&dir)?;
        let base = image::base(spec.suite)?;
        copy_sparse(&image::disk(spec.suite, spec.root)?, &dir.join("disk0.img"))?;
        for (at, mib) in spec.disks.iter().enumerate() {
            let path = dir.join(format!("disk{}.img", at + 1)).display().to_string();
            run(&["truncate", "-s", &format!("{mib}M"), &path])?;
        }
        let tap = spec.address.map(|_| lab.net().tap(&spec.name)).transpose()?;
        let qemu = image::qemu()?;
        let (name, process) = (spec.name.clone(), Mutex::new(None));
        Ok(Self { base, qemu, tap, process, lab: lab.clone(), name, spec: Mutex::new(spec), dir })
    }

    /// Changes what the next boot has: [`MachineSpec::kernel`], `qemu`, `serials`, `mac` and
    /// `memory_mib`, as somebody does who works on the hardware. Its name, suite, disks and
    /// whether it has a network are settled when it is made; a machine that is on does not notice.
    pub fn change(&self, change: impl FnOnce(&mut MachineSpec)) {
        change(&mut self.spec.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn spec(&self) -> MachineSpec {
        self.spec.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Switches it on and waits until systemd has run all boot jobs; gives
    /// `running` or `degraded`.
    ///
    /// # Errors
    /// It is on already, ends, or takes longer than three minutes.
    pub fn boot(&self) -> Result<String> {
        let began = Instant::now();
        say(&format!("booting the machine {}", self.name));
        self.boot_no_wait()?;
        let state = self.cmd(&["systemctl", "is-system-running", "--wait"], &[], BOOT)?;
        say(&format!("{} booted in {:.0} s", self.name, began.elapsed().as_secs_f32()));
        Ok(state.stdout.trim().to_owned())
    }

    /// Switches it on.
    ///
    /// # Errors
    /// It is on already, or QEMU cannot be started.
    pub fn boot_no_wait(&self) -> Result<()> {
        if self.is_on() {
            bail!("{} is on already", self.name);
        }
        fs::remove_file(self.socket()).ok();
        let log = File::create(self.dir.join("qemu.log"))?;
        let child = Command::new("ip")
            .args(["netns", "exec", self.lab.net().netns()])
            .args(&self.qemu)
            .args(self.arguments())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start QEMU")?;
        *self.process() = Some(child);
        Ok(())
    }

    /// Runs a program inside, as root; waits for a machine that still boots.
    ///
    /// # Errors
    /// The machine is off or goes off, or the program takes longer than five minutes.
    pub fn exec<S: AsRef<str>>(&self, argv: &[S]) -> Result<Output> {
        let words: Vec<&str> = argv.iter().map(AsRef::as_ref).collect();
        self.cmd(&words, &[], Duration::from_mins(5))
    }

    /// Runs a shell script inside and gives its standard output, trimmed.
    ///
    /// # Errors
    /// Its exit code is not 0, and as [`Machine::exec`].
    pub fn sh(&self, script: &str) -> Result<String> {
        self.exec(&["sh", "-euc", script])?.ok()
    }

    /// Writes and syncs a file of the machine that is on; directories are made.
    /// Some MB take some seconds.
    ///
    /// # Errors
    /// The machine's file system refuses it, and as [`Machine::exec`].
    pub fn write_file(&self, path: &str, content: &[u8]) -> Result<()> {
        let empty = format!("mkdir -p \"$(dirname '{path}')\"; : >'{path}'");
        self.sh(&empty)?;
        for part in content.chunks(PIECE) {
            let append = format!("cat >>'{path}'");
            self.cmd(&["sh", "-euc", &append], part, Duration::from_mins(1))?.ok()?;
        }
        self.sh(&format!("sync '{path}' \"$(dirname '{path}')\""))?;
        Ok(())
    }

    /// The content of a file of the machine that is on; `None` when there is none. Costs it
    /// far less than a program that shows the file.
    ///
    /// # Errors
    /// As [`Machine::exec`].
    pub fn read_file(&self, path: &str) -> Result<Option<String>> {
        self.agent()?.read(path)
    }

    /// Runs a shell script with the root of the machine that is off as its
    /// working directory, with these bytes as its input.
    ///
    /// # Errors
    /// The machine is on, its root is one that this kernel cannot mount
    /// ([`RootFs::XfsNoFtype`]), or the script's exit code is not 0.
    pub fn edit(&self, script: &str, input: &[u8]) -> Result<String> {
        if self.is_on() {
            bail!("{} is on: its disk can be edited only while it is off", self.name);
        }
        if self.spec().root == RootFs::XfsNoFtype {
            bail!("{} has an xfs without ftype: write its files while it is on", self.name);
        }
        let mount = self.dir.join("root");
        fs::create_dir_all(&mount)?;
        let script =
            format!("mount -o loop \"$DISK\" \"$ROOT\"; cd \"$ROOT\"; {script}\ncd /; umount \"$ROOT\"");
        Cmd::new(&["unshare", "-m", "--propagation", "private", "sh", "-euc", &script])
            .env("DISK", &self.dir.join("disk0.img").display().to_string())
            .env("ROOT", &mount.display().to_string())
            .shown("(on the disk of a machine that is off)")
            .input(input)
            .run()?
            .ok()
    }

    /// Boots the machine, which is off, and has dpkg install a Debian package.
    ///
    /// # Errors
    /// The machine is on, does not boot, or dpkg refuses the package.
    pub fn boot_and_install(&self, package: &Path) -> Result<()> {
        let bytes = fs::read(package).with_context(|| format!("cannot read {}", package.display()))?;
        if self.spec().root == RootFs::Ext4 {
            self.edit("cat >./root/package.deb", &bytes)?;
        }
        self.boot()?;
        if self.spec().root != RootFs::Ext4 {
            self.write_file("/root/package.deb", &bytes)?;
        }
        self.sh("dpkg -i /root/package.deb && rm /root/package.deb")?;
        Ok(())
    }

    /// Keeps its disks as they are, for [`Machine::put_disks_back`].
    ///
    /// # Errors
    /// The machine is on, or there is no room.
    pub fn keep_disks(&self) -> Result<()> {
        self.copy_disks("disk", "kept")
    }

    /// Makes its disks what they were at [`Machine::keep_disks`].
    ///
    /// # Errors
    /// The machine is on, or they were never kept.
    pub fn put_disks_back(&self) -> Result<()> {
        self.copy_disks("kept", "disk")
    }

    fn copy_disks(&self, from: &str, to: &str) -> Result<()> {
        if self.is_on() {
            bail!("{} is on: its disks are not at rest", self.name);
        }
        for at in 0..=self.spec().disks.len() {
            let file = |name: &str| self.dir.join(format!("{name}{at}.img"));
            copy_sparse(&file(from), &file(to))?;
        }
        Ok(())
    }

    /// The power goes.
    ///
    /// # Errors
    /// It is off already.
    pub fn cut(&self) -> Result<()> {
        let Some(mut child) = self.process().take() else { bail!("{} is off already", self.name) };
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Switches it off in good order.
    ///
    /// # Errors
    /// It is not off after two minutes.
    pub fn off(&self) -> Result<()> {
        self.exec(&["systemctl", "poweroff", "--no-block"])?.ok()?;
        wait_until(Duration::from_mins(2), "the machine is off", || Ok((!self.is_on()).then_some(())))
    }

    /// True until QEMU has ended.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.process().as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Whether QEMU itself crashed (under TCG a rare assertion of its own,
    /// `iotlb_to_section`). A guest that panics or reboots ends it in good order.
    #[must_use]
    pub fn has_crashed(&self) -> bool {
        use std::os::unix::process::ExitStatusExt as _;
        let status = self.process().as_mut().and_then(|child| child.try_wait().ok().flatten());
        status.is_some_and(|status| status.core_dumped() || status.signal() == Some(nix::libc::SIGABRT))
    }

    /// What its serial console showed in this boot.
    #[must_use]
    pub fn console(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    fn cmd(&self, argv: &[&str], input: &[u8], limit: Duration) -> Result<Output> {
        self.agent()?.exec(argv, input, limit)
    }

    fn agent(&self) -> Result<Agent> {
        let agent = wait_until(BOOT, "the machine's agent answers", || {
            if !self.is_on() {
                bail!("{} is off", self.name);
            }
            Ok(Agent::connect(&self.socket()))
        });
        agent.with_context(|| self.last_words())
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("agent.sock")
    }

    fn last_words(&self) -> String {
        let read = |name: &str| fs::read(self.dir.join(name)).unwrap_or_default();
        let text = [read("console.log"), read("qemu.log")].concat();
        let start = text.len().saturating_sub(2000);
        String::from_utf8_lossy(text.get(start..).unwrap_or_default()).into_owned()
    }

    fn arguments(&self) -> Vec<String> {
        let (dir, spec) = (self.dir.display(), self.spec());
        let mut all: Vec<String> = QEMU.split_whitespace().map(str::to_owned).collect();
        let mut add = |name: &str, value: String| all.extend([name.to_owned(), value]);
        add("-m", spec.memory_mib.to_string());
        add("-serial", format!("file:{dir}/console.log"));
        add("-chardev", format!("socket,path={dir}/agent.sock,server=on,wait=off,id=agent"));
        add("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0".to_owned());
        add("-kernel", self.base.join("vmlinux").display().to_string());
        add("-initrd", self.base.join("initrd").display().to_string());
        add("-append", self.kernel_words());
        for at in 0..=spec.disks.len() {
            add(
                "-drive",
                format!("file={dir}/disk{at}.img,format=raw,if=none,id=d{at},cache=unsafe,discard=unmap"),
            );
            let serial = spec.serials.get(at).map(|serial| format!(",serial={serial}")).unwrap_or_default();
            add("-device", format!("virtio-blk-pci,drive=d{at}{serial}"));
        }
        if let Some(tap) = &self.tap {
            add("-netdev", format!("tap,id=n0,ifname={tap},script=no,downscript=no"));
            add(
                "-device",
                format!("virtio-net-pci,netdev=n0,mac={}", spec.mac.unwrap_or_else(|| self.mac())),
            );
        }
        all.extend(spec.qemu);
        all
    }

    fn kernel_words(&self) -> String {
        let spec = self.spec();
        let address = spec.address.map(|ip| format!(" lab.address={ip}/{PREFIX}")).unwrap_or_default();
        let id: String = self.digest().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let root = spec.root.kernel_word();
        format!("{KERNEL} {root} systemd.machine_id={id}{address} {}", spec.kernel)
    }

    fn mac(&self) -> String {
        let tail: String = self.digest().iter().take(3).map(|byte| format!(":{byte:02x}")).collect();
        format!("52:54:00{tail}")
    }

    /// The same at each boot, different for each machine.
    fn digest(&self) -> Vec<u8> {
        Sha256::digest(format!("{} {}", self.lab.name(), self.name)).to_vec()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.is_on() {
            self.cut().ok();
        }
        if std::env::var_os("EDGE_LAB_KEEP").is_none() {
            root::remove_tree(&self.dir).ok();
        }
    }
}

/// The emulated processor has nothing that is slow to emulate, and not
/// `cmpxchg16b`. `cache=unsafe` on the disks (above) is safe for this: only a
/// cut of the machine that runs QEMU could lose what a guest has written.
const QEMU: &str = "-accel tcg,thread=multi,tb-size=512 -machine q35,usb=off,smbus=off,sata=off \
    -cpu max,-la57,-svm,-cx16,-avx,-avx2,-smap,-smep,-pku,-pks -smp 2 \
    -nodefaults -no-user-config -display none -no-reboot -device virtio-serial-pci \
    -object rng-random,id=r0,filename=/dev/urandom -device virtio-rng-pci,rng=r0";

/// Nothing that costs emulated time and that no test looks at.
const KERNEL: &str = "console=ttyS0 quiet TERM=dumb root=/dev/vda rw net.ifnames=0 panic=-1 nokaslr \
    mitigations=off nowatchdog no_timer_check tsc=reliable audit=0 apparmor=0 lsm=capability \
    init_on_alloc=0 rcupdate.rcu_expedited=1 modprobe.blacklist=kvm,kvm_amd";

fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    let (from, to) = (from.display().to_string(), to.display().to_string());
    run(&["cp", "--sparse=always", &from, &to])?;
    Ok(())
}
