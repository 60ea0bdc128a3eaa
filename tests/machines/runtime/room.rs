//! One machine that shall become a server by itself: the shipped package, an
//! assignment in a file, an archive with an image, and something that runs
//! containers of it.
//!
//! Owns what a person at rack-up does, and how it is seen that all is well.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use edge_lab::{Lab, Machine, MachineSpec, Profile, RootFs, Suite, programs};
use serde_json::{Value, json};

use super::journal::Said;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 2);
const ASSIGNMENT: &str = "/etc/edge-bootstrap/assignment.toml";
/// The image in the archive; also the one for sandboxes, so that it is pinned.
const IMAGE: &str = "registry.lab/tool:1";
/// The pool's device, by its serial number.
const DEVICE: &str = "/dev/disk/by-id/virtio-POOL-1";
/// Name of the pool.
pub const POOL: &str = "edge-thinpool";
/// How each container went, in this boot.
const SAID: &str = "/run/lab-pods/said";
/// Lines of the agent that are worse than information, in this boot.
const WARNINGS: &str = "journalctl -b -o cat --no-pager -p warning -u edge-bootstrap | cut -c 1-200";
/// How long a boot may take until everything is well, beside builds.
pub const LONG: Duration = Duration::from_secs(300);

/// A machine, and what is expected of it.
pub struct Room {
    pub machine: Machine,
    /// Which snapshotter it must choose.
    pub snapshotter: &'static str,
    /// SHA-256 of the archive.
    pub archive: String,
}

/// Before a start of containerd: whether it starts with the agent's configuration, and how its pool is.
const LOOK_AT_POOL: &str = r#"if test -e /etc/systemd/system/containerd.service.d/10-edge-bootstrap.conf; then echo -n "ours "; fi >>/run/lab-pool; dmsetup status edge-thinpool >>/run/lab-pool 2>&1; true"#;

/// How the machine was when all was well.
pub struct Well {
    /// Since the power came.
    pub after: Duration,
    /// systemd's words of this boot.
    pub said: Said,
    /// Containers that failed after one had run: an image of an import that was cut is brought anew.
    pub failed: Vec<String>,
    /// What the agent warned of.
    pub warnings: Vec<String>,
}

impl Room {
    /// A machine as it leaves the work bench: everything in place, off, never
    /// on with its assignment. Its disks are kept so.
    pub fn bench(name: &str, root: RootFs) -> Self {
        let room = Self::bare(name, root);
        room.give_assignment();
        room.machine
            .sh("systemctl stop edge-bootstrap; rm -rf /var/lib/edge-bootstrap/* /var/log/journal/*")
            .unwrap();
        room.machine.off().unwrap();
        room.machine.keep_disks().unwrap();
        room
    }

    /// The same, on, and still without an assignment.
    pub fn bare(name: &str, root: RootFs) -> Self {
        let package = programs::package(Profile::Dev, "").unwrap();
        let k3s = programs::k3s().unwrap();
        let lab = Lab::open(name).unwrap();
        let is_old = root == RootFs::XfsNoFtype;
        let spec = MachineSpec {
            root,
            disks: if is_old { vec![8192] } else { Vec::new() },
            serials: vec!["ROOT-1".to_owned(), "POOL-1".to_owned()],
            address: Some(ADDRESS),
            ..MachineSpec::new("m1", Suite::Bookworm)
        };
        let machine = lab.machine(spec).unwrap();
        machine.boot_and_install(&package).unwrap();
        machine.write_file("/srv/k3s", &stripped(&k3s.path)).unwrap();
        let archive = run_script(&machine, "archive.sh", edge_lab::MAKE_ARCHIVE, &[IMAGE, "16"]);
        let snapshotter = if is_old { "devmapper" } else { "overlayfs" };
        let room = Self { machine, snapshotter, archive };
        room.add_units();
        room
    }

    /// Local settings and the assignment, as a person writes them.
    pub fn give_assignment(&self) {
        let mut settings = format!("[central]\nassignment-file = \"{ASSIGNMENT}\"\n");
        if self.snapshotter == "devmapper" {
            settings += "\n[storage]\nsnapshotter = \"auto\"\n";
            settings +=
                &format!("devmapper = {{ pool = \"{POOL}\", device = \"{DEVICE}\", create = true }}\n");
        }
        self.machine.write_file("/etc/edge-bootstrap/config.d/20-site.toml", settings.as_bytes()).unwrap();
        let k3s = self.machine.sh("sha256sum /srv/k3s | cut -d' ' -f1").unwrap();
        let assignment = json!({
            "schema": 1, "site": "hz-017", "role": "server",
            "node": {"name": "10-77-1-2", "ip": ADDRESS},
            "cluster": {"name": "hz-017", "init": true},
            "join": {"server_token": "server-canary-0001"},
            "k3s": {"version": "v1.36.2+k3s1", "artifacts": {"amd64": {"urls": ["file:///srv/k3s"], "sha256": k3s}}},
            "runtime": {
                "sandbox_image": IMAGE,
                "images": [{"url": "file:///srv/images/1.tar", "sha256": self.archive}],
            },
        });
        let text = toml::to_string(&assignment).unwrap();
        self.machine.write_file(ASSIGNMENT, text.as_bytes()).unwrap();
        self.machine.sh(&format!("chmod 600 {ASSIGNMENT}")).unwrap();
    }

    /// What runs containers, and what writes down how the pool is before every start of containerd.
    fn add_units(&self) {
        let (machine, snapshotter) = (&self.machine, self.snapshotter);
        machine.write_file("/srv/pods.sh", include_bytes!("pods.sh")).unwrap();
        let pods = format!(
            "[Unit]\nAfter=containerd.service\n[Service]\nExecStart=/bin/sh /srv/pods.sh {IMAGE} {snapshotter}\nRestart=always\n[Install]\nWantedBy=multi-user.target\n"
        );
        machine.write_file("/etc/systemd/system/lab-pods.service", pods.as_bytes()).unwrap();
        // After the gate, which refuses while the pool is down: a refused start is none.
        let look = format!("[Service]\nExecStartPre=/bin/sh -c '{LOOK_AT_POOL}'\n");
        machine.sh("mkdir -p /etc/systemd/system/containerd.service.d").unwrap();
        machine.write_file("/etc/systemd/system/containerd.service.d/20-lab.conf", look.as_bytes()).unwrap();
        machine.sh("systemctl enable lab-pods.service; sync -f /").unwrap();
    }

    /// Waits until all is well in the boot that began then, and looks at what shows it.
    pub fn wait_well(&self, began: Instant) -> Result<Well> {
        let mut last = String::new();
        while let Some(missing) = self.missing().unwrap_or_else(|error| Some(format!("{error:#}"))) {
            last = missing;
            if began.elapsed() > LONG || !self.machine.is_on() {
                bail!("not well after {:.0?}: {last}\n{}", began.elapsed(), self.journal());
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        let after = began.elapsed();
        self.check()
            .with_context(|| format!("well after {after:?}, last without {last}\n{}", self.journal()))?;
        let containers = self.machine.read_file(SAID)?.unwrap_or_default();
        let failed =
            containers.lines().skip_while(|line| *line != "ran").filter(|line| line.starts_with("failed"));
        let failed = failed.map(str::to_owned).collect();
        let warnings = self.machine.sh(WARNINGS)?.lines().map(str::to_owned).collect();
        Ok(Well { after, said: Said::by(&self.machine)?, failed, warnings })
    }

    /// Whether an act is at work.
    pub fn runs(&self, act: &str) -> Result<bool> {
        let group = format!("/sys/fs/cgroup/system.slice/edge-bootstrap-act-{act}.service/cgroup.procs");
        Ok(self.machine.read_file(&group)?.is_some_and(|processes| !processes.is_empty()))
    }

    /// Whether an act has left the word of its end in this boot.
    pub fn has_ended(&self, act: &str) -> Result<bool> {
        let path = match act {
            "import-images" => format!("/run/edge-bootstrap/imported-{}.json", self.archive),
            _ => format!("/run/edge-bootstrap/act-{act}.json"),
        };
        let end = self.json(&path)?;
        // An act on a pool writes there too that it begins.
        Ok(end.is_object() && end["is_open"] != true)
    }

    /// What is not yet as it shall be; `None` when everything is.
    fn missing(&self) -> Result<Option<String>> {
        let status = self.json("/run/edge-bootstrap/status.json")?;
        if status["phase"] != "steady" {
            return Ok(Some(format!("steady: {status:#}")));
        }
        let inventory = self.json("/var/lib/edge-bootstrap/inventory.json")?;
        if inventory["body"]["archives"][&self.archive].is_null() {
            return Ok(Some(format!("an image of the archive: {inventory:#}")));
        }
        if inventory["body"]["boot"]["suspect"] != false {
            return Ok(Some("the look at the images after the power cut".to_owned()));
        }
        let said = self.machine.read_file(SAID)?.unwrap_or_default();
        let last = said.lines().last().unwrap_or_default();
        Ok((last != "ran").then(|| format!("a container that runs: {last}")))
    }

    /// What must be so when the host says that it is steady.
    fn check(&self) -> Result<()> {
        let status = self.json("/run/edge-bootstrap/status.json")?;
        let findings = status["findings"].as_array().cloned().unwrap_or_default();
        if findings.iter().any(|finding| finding["status"] == "fail") {
            bail!("a finding says fail: {findings:#?}");
        }
        let inventory = self.json("/var/lib/edge-bootstrap/inventory.json")?;
        if inventory["body"]["choice"]["snapshotter"] != self.snapshotter {
            bail!("chose {:#}", inventory["body"]["choice"]);
        }
        let plugins = self.machine.sh("ctr plugins ls")?;
        let is_ok = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.get(1) == Some(&self.snapshotter) && words.last() == Some(&"ok")
        };
        if !plugins.lines().any(is_ok) {
            bail!("the plugin is not ok:\n{plugins}");
        }
        if self.snapshotter == "devmapper" {
            let pool = self.machine.sh("cat /run/lab-pool")?;
            let mut ours = pool.lines().filter(|line| line.starts_with("ours")).peekable();
            if ours.peek().is_none()
                || !ours.all(|line| line.contains(" thin-pool ") && line.contains(" rw "))
            {
                bail!("containerd was started without its pool: {pool}");
            }
        }
        Ok(())
    }

    fn json(&self, path: &str) -> Result<Value> {
        let text = self.machine.read_file(path)?.unwrap_or_default();
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    /// The end of what was said in this boot.
    pub fn journal(&self) -> String {
        let units = "-u edge-bootstrap -u 'edge-bootstrap-act-*' -u containerd -u k3s";
        let script = format!(
            "journalctl -b -o short-monotonic --no-pager {units} | grep -v 'loading plugin' | cut -c 1-300 | tail -n 60; tail -n 5 /run/lab-pods/said; dmsetup status; ctr plugins ls | grep -v 'ok *$'"
        );
        self.machine.exec(&["sh", "-c", &script]).map(|output| output.stdout).unwrap_or_default()
    }
}

/// A program without what a debugger wants, which would take half a minute to get inside.
fn stripped(program: &Path) -> Vec<u8> {
    let small = std::env::temp_dir().join(format!("edge-lab-k3s-{}", std::process::id()));
    let done = std::process::Command::new("strip").arg("-o").arg(&small).arg(program).status().unwrap();
    assert!(done.success(), "strip cannot read {}", program.display());
    let bytes = std::fs::read(&small).unwrap();
    std::fs::remove_file(small).unwrap();
    bytes
}

/// Runs a script inside and gives what it printed last.
fn run_script(machine: &Machine, name: &str, script: &str, words: &[&str]) -> String {
    let path = format!("/root/{name}");
    machine.write_file(&path, script.as_bytes()).unwrap();
    let said = machine.sh(&format!("sh {path} {}", words.join(" "))).unwrap();
    said.lines().last().unwrap_or_default().to_owned()
}
