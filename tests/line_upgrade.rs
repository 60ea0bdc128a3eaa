//! An upgrade over the whole line, on a temporary root with real D-Bus messages:
//! what each pass leaves behind, and that a power cut after any of them changes
//! nothing about the end.
#![cfg(feature = "agent")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may stop at the first surprise, and makes its own world"
)]

#[allow(missing_docs, missing_debug_implementations, dead_code, reason = "shared with other line tests")]
#[path = "common/systemd.rs"]
mod systemd;
#[allow(missing_docs, missing_debug_implementations, dead_code, reason = "shared with other line tests")]
#[path = "common/tls.rs"]
mod tls;
#[path = "line_upgrade/trial.rs"]
mod trial;

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use edge_bootstrap::boot::{self, Agent, Order, Pass, Until};
use edge_bootstrap::facts::runtime::Joined;
use edge_bootstrap::facts::upgrade::{Attempt, Progress, Started};
use edge_bootstrap::paths::{self, IMPORT, K3S_LINK};
use edge_bootstrap::sys::Root;
use edge_bootstrap::{identity, observe, upgrade};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use systemd::{Fake, FakeUnit, OnStart};

const CASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/plan/37-binary-installed-by-hand");
const OLD: &str = "v1.36.2+k3s1";
const NEW: &str = "v1.36.3+k3s1";
const CA_HASH: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// More than any way through takes.
const PASSES: usize = 12;

struct Host {
    dir: tempfile::TempDir,
    systemd: Fake,
    is_server: bool,
}

impl Host {
    /// An agent with the old version in force and not up yet: what it waits for
    /// is no matter of an upgrade.
    async fn with_the_old_version() -> Self {
        Self::with_role(false).await
    }

    /// The same, an agent or a server beside two others.
    async fn with_role(is_server: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let from = format!("{CASE}/root/.");
        let copied = Command::new("cp").args(["-a", &from, dir.path().to_str().unwrap()]).status();
        assert!(copied.unwrap().success());
        let root = Root::new(dir.path());
        let dead = FakeUnit::dead().on_start(OnStart::Activating);
        let mut units = vec![(if is_server { "k3s.service" } else { "k3s-agent.service" }, dead)];
        for name in ["containerd.service", "systemd-sysctl.service", "systemd-modules-load.service"] {
            units.push((name, FakeUnit::up()));
        }
        let systemd = Fake::new(&root, &units);
        systemd.serve_bus(&root);
        let host = Self { dir, systemd, is_server };
        host.boots("boot-0");
        host.remove("/.facts/k3s-version");
        host.remove(K3S_LINK);
        host.assign(OLD);
        host.pass().await;
        assert_eq!(host.linked(), paths::k3s_binary(OLD));
        let mut identity = observe::runtime::identity(&host.root()).known().cloned().flatten().unwrap();
        let ca_hash = is_server.then(|| CA_HASH.to_owned());
        identity.joined = Some(Joined { ca_hash, etcd_member: None });
        identity::pin(&host.root(), &identity).unwrap();
        if is_server {
            host.write("/var/lib/rancher/k3s/server/db/etcd/member/wal/0.wal", b"wal");
        }
        host.gate();
        host
    }

    fn root(&self) -> Root {
        Root::new(self.dir.path())
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let real = self.root().path(path);
        std::fs::create_dir_all(real.parent().unwrap()).unwrap();
        std::fs::write(&real, bytes).unwrap();
        std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn remove(&self, path: &str) {
        let _ = std::fs::remove_file(self.root().path(path));
    }

    /// The local file names `version`, and a person brought its file.
    fn assign(&self, version: &str) {
        let binary = format!("k3s {version}").repeat(100);
        self.write(&format!("{IMPORT}/{version}"), binary.as_bytes());
        let sha256: String = Sha256::digest(&binary).iter().map(|byte| format!("{byte:02x}")).collect();
        let text = std::fs::read_to_string(format!("{CASE}/assignment.json")).unwrap();
        let mut value: Value = serde_json::from_str(&text).unwrap();
        value.as_object_mut().unwrap().remove("node_id");
        value["runtime"].as_object_mut().unwrap().remove("sandbox_image");
        if self.is_server {
            value["role"] = json!("server");
            value["cluster"]["ca_hash"] = json!(CA_HASH);
            let others = ["https://172.16.36.7:6443", "https://172.16.36.8:6443"];
            value["cluster"]["servers"] = json!(others);
            value["join"] = json!({"agent_token": "agent-canary-0001", "server_token": "server-canary-0001"});
        }
        value["k3s"]["version"] = json!(version);
        value["k3s"]["artifacts"] = json!({"amd64": {"urls": ["file:///none"], "sha256": sha256}});
        self.write("/etc/edge-bootstrap/assignment.toml", toml::to_string(&value).unwrap().as_bytes());
        let config = "[central]\nassignment-file = \"/etc/edge-bootstrap/assignment.toml\"\n";
        self.write("/etc/edge-bootstrap/config.toml", config.as_bytes());
    }

    /// A pass of a process that knows nothing of the one before, and what systemd
    /// and the gate do after it: k3s is started again and again with what is
    /// linked, the new version fails, and the old one is on its way up.
    async fn pass(&self) -> Pass {
        let order = Order { until: Until::Verified, patience: Duration::ZERO, observe_only: false };
        boot::pass(&mut Agent::new(self.root(), None).unwrap(), order).await
    }

    async fn turn(&self) -> Pass {
        let pass = self.pass().await;
        self.gate();
        pass
    }

    fn gate(&self) {
        let linked = self.linked();
        let record = json!({"binary": linked}).to_string();
        self.write(&paths::started_with(self.unit().trim_end_matches(".service")), record.as_bytes());
        let fails = linked == paths::k3s_binary(NEW);
        self.systemd.unit(self.unit(), |unit| {
            unit.active = if fails { "failed" } else { "activating" }.to_owned();
        });
    }

    fn unit(&self) -> &'static str {
        if self.is_server { "k3s.service" } else { "k3s-agent.service" }
    }

    fn linked(&self) -> String {
        self.root().read_link(K3S_LINK).unwrap().unwrap_or_default()
    }

    fn boots(&self, id: &str) {
        let _ = std::fs::remove_dir_all(self.root().path("/run/edge-bootstrap"));
        self.root().ensure_dir("/run/edge-bootstrap").unwrap();
        self.write(BOOT_ID, format!("{id}\n").as_bytes());
        self.systemd.unit(self.unit(), |unit| unit.active = "inactive".to_owned());
    }

    fn state(&self) -> Option<Progress> {
        upgrade::load(&self.root()).map(|attempt| attempt.state)
    }

    /// Passes until the try is over; what was linked after each.
    async fn to_the_end(&self) -> Vec<String> {
        let mut linked = Vec::new();
        for _ in 0..PASSES {
            self.turn().await;
            linked.push(self.linked());
            if self.state() == Some(Progress::Failed) && self.linked() == paths::k3s_binary(OLD) {
                return linked;
            }
        }
        linked
    }
}

fn says<'a>(pass: &'a Pass, code: &str) -> Vec<&'a str> {
    let found = pass.findings.iter().filter(|(finding, _)| finding.code == code);
    found.map(|(finding, _)| finding.reason.as_str()).collect()
}

#[tokio::test]
async fn a_version_that_fails_gives_way_to_the_one_before_and_is_not_tried_again() {
    let host = Host::with_the_old_version().await;
    host.assign(NEW);
    let first = host.turn().await;
    assert!(first.again && host.root().exists(&paths::k3s_binary(NEW)), "its file comes first");
    assert_eq!((host.linked(), host.state()), (paths::k3s_binary(OLD), None));
    let second = host.turn().await;
    assert!(second.again, "{:?}", second.stop);
    assert_eq!(
        (host.linked(), host.state()),
        (paths::k3s_binary(OLD), Some(Progress::Begun)),
        "then the record"
    );
    host.turn().await;
    assert_eq!(host.linked(), paths::k3s_binary(NEW), "then the swap");
    host.to_the_end().await;
    assert_eq!((host.linked(), host.state()), (paths::k3s_binary(OLD), Some(Progress::Failed)));

    let settled = std::fs::read(host.root().path(paths::UPGRADE)).unwrap();
    for _ in 0..3 {
        let pass = host.turn().await;
        let told = says(&pass, "EB-upgrade-failed");
        assert!(told[0].contains(NEW) && told[0].contains("its unit has failed"), "{told:?}");
        assert_eq!(host.linked(), paths::k3s_binary(OLD));
    }
    assert_eq!(std::fs::read(host.root().path(paths::UPGRADE)).unwrap(), settled);
    assert!(host.root().exists(&paths::k3s_binary(NEW)), "it stays for a person's next try");

    // A person asks for one more try, and then for the old version.
    upgrade::forgive(&host.root()).unwrap();
    let mut linked = host.to_the_end().await;
    linked.dedup();
    assert_eq!(linked, [OLD, NEW, OLD].map(paths::k3s_binary));
    host.assign(OLD);
    assert_eq!(says(&host.turn().await, "EB-upgrade-failed"), [""; 0]);
    assert_eq!((host.linked(), host.state()), (paths::k3s_binary(OLD), Some(Progress::Done)));
}

#[tokio::test]
async fn a_power_cut_after_any_pass_leads_to_the_same_end() {
    for passes in 0..7 {
        let host = Host::with_the_old_version().await;
        host.assign(NEW);
        for _ in 0..passes {
            host.turn().await;
        }
        host.boots("boot-1");
        // As at a boot: what is linked is not judged before it was started.
        let order = Order { until: Until::Ready, patience: Duration::ZERO, observe_only: false };
        let ready = boot::pass(&mut Agent::new(host.root(), None).unwrap(), order).await;
        assert_eq!(ready.stop, None, "cut after {passes} passes: a boot is not held up");
        host.gate();
        host.to_the_end().await;
        assert_eq!(
            (host.linked(), host.state()),
            (paths::k3s_binary(OLD), Some(Progress::Failed)),
            "cut after {passes} passes"
        );
    }
}

/// Without the servers of the room no version would be Ready.
#[tokio::test]
async fn a_version_has_its_time_again_while_nobody_else_in_the_room_answers() {
    let host = Host::with_the_old_version().await;
    host.assign(NEW);
    for _ in 0..3 {
        host.turn().await;
    }
    assert_eq!((host.linked(), host.state()), (paths::k3s_binary(NEW), Some(Progress::Begun)));
    host.systemd.unit(host.unit(), |unit| unit.active = "activating".to_owned());
    let begun = upgrade::load(&host.root()).unwrap();
    let last = Started { boot_id: "before".to_owned(), at_s: 5, restarts: 0, boots: 3 };
    upgrade::store(&host.root(), &Attempt { started: Some(last), ..begun }).unwrap();
    host.pass().await;
    let goes_on = upgrade::load(&host.root()).unwrap();
    assert_eq!((goes_on.state, goes_on.started.unwrap().boots), (Progress::Begun, 1));
    assert_eq!(host.linked(), paths::k3s_binary(NEW));
}

#[tokio::test]
async fn an_earlier_minor_is_refused_and_nothing_is_brought() {
    let host = Host::with_the_old_version().await;
    host.assign("v1.35.6+k3s1");
    let pass = host.turn().await;
    assert!(says(&pass, "EB-upgrade-refused")[0].contains("earlier minor"), "{:?}", pass.findings);
    assert_eq!((host.linked(), host.state()), (paths::k3s_binary(OLD), None));
    assert!(!host.root().exists(&paths::k3s_binary("v1.35.6+k3s1")));
}

#[tokio::test]
async fn servers_that_boot_together_do_not_all_begin_at_once() {
    let host = Host::with_role(true).await;
    host.boots("boot-1");
    host.assign(NEW);
    let mut agent = Agent::new(host.root(), None).unwrap();
    let order = Order { until: Until::Verified, patience: Duration::ZERO, observe_only: false };
    for passes in 1..=3 {
        let pass = boot::pass(&mut agent, order).await;
        assert_eq!((pass.stop.clone(), host.state()), (None, None), "{:?}", pass.findings);
        let told = says(&pass, "EB-upgrade-waits");
        assert!(passes == 1 || told[0].contains("k3s is not up yet"), "pass {passes}: {told:?}");
        host.gate();
    }
    assert_eq!(host.linked(), paths::k3s_binary(OLD));
    assert!(host.root().exists(&paths::k3s_binary(NEW)), "it is brought meanwhile");
}
