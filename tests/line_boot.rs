//! The whole line on a temporary root: real D-Bus messages on a socket, real TLS
//! to a central service, real files.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]
#![allow(clippy::disallowed_methods, reason = "a test prepares its own files")]

#[allow(dead_code, reason = "shared with other line tests")]
#[path = "common/central.rs"]
mod central;
#[path = "line_boot/clock.rs"]
mod clock;
#[path = "line_boot/copies.rs"]
mod copies;
#[path = "line_boot/emptied.rs"]
mod emptied;
#[path = "line_boot/records.rs"]
mod records;
#[path = "line_boot/silent.rs"]
mod silent;
#[allow(dead_code, reason = "shared with other line tests")]
#[path = "common/systemd.rs"]
mod systemd;
#[path = "line_boot/tokens.rs"]
mod tokens;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use central::{Central, Signer};
use edge_bootstrap::boot::{self, Agent, Order, Pass, StopKind, Until};
use edge_bootstrap::sys::Root;
use serde_json::Value;
use systemd::{Fake, FakeUnit};

/// A host whose k3s lies ready, as an agent of a formed cluster.
const CASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/plan/37-binary-installed-by-hand");

struct Host {
    dir: tempfile::TempDir,
    systemd: Fake,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let copied =
            Command::new("cp").args(["-a", &format!("{CASE}/root/."), dir.path().to_str().unwrap()]).status();
        assert!(copied.unwrap().success());
        let root = Root::new(dir.path());
        root.make_dir("/run/edge-bootstrap", 0o755).unwrap();
        let units = [
            ("containerd.service", FakeUnit::up()),
            ("k3s-agent.service", FakeUnit::dead()),
            (
                "k3s.service",
                FakeUnit { load: "not-found".into(), file_state: String::new(), ..FakeUnit::dead() },
            ),
            ("systemd-sysctl.service", FakeUnit::up()),
            ("systemd-modules-load.service", FakeUnit::up()),
        ];
        let systemd = Fake::new(&root, &units);
        systemd.serve_bus(&root);
        Self { dir, systemd }
    }

    /// Its settings name `service`.
    fn ask(&self, service: &Central) {
        let pin = STANDARD.encode(service.proof.pin);
        self.write(
            "etc/edge-bootstrap/config.toml",
            &format!(
                "[central]\nendpoints = [\"{}\"]\npins = [\"sha256/{pin}\"]\n[node]\nsite = \"hz-017\"\nip = \"172.16.36.4\"\n",
                service.endpoint()
            ),
        );
    }

    fn write(&self, path: &str, text: &str) {
        let real = self.dir.path().join(path);
        std::fs::create_dir_all(real.parent().unwrap()).unwrap();
        std::fs::write(&real, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&real, mode).unwrap();
    }

    fn agent(&self) -> Agent {
        Agent::new(Root::new(self.dir.path()), None).unwrap()
    }

    /// Every file below `/etc` and `/var/lib/edge-bootstrap` with inode and content.
    fn files(&self) -> BTreeMap<String, (u64, Vec<u8>)> {
        let mut files = BTreeMap::new();
        for top in ["etc", "var/lib/edge-bootstrap", "usr/local"] {
            walk(&self.dir.path().join(top), &mut files);
        }
        files
    }
}

fn walk(directory: &Path, files: &mut BTreeMap<String, (u64, Vec<u8>)>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            walk(&path, files);
        } else {
            let inode = std::os::unix::fs::DirEntryExt::ino(&entry);
            files.insert(path.display().to_string(), (inode, std::fs::read(&path).unwrap_or_default()));
        }
    }
}

fn assignment() -> Value {
    let text = std::fs::read_to_string(format!("{CASE}/assignment.json")).unwrap();
    let mut value: Value = serde_json::from_str(&text).unwrap();
    value.as_object_mut().unwrap().remove("node_id");
    value
}

/// A host with a local assignment file.
fn local() -> Host {
    let host = Host::new();
    let mut assignment = assignment();
    // TOML has no null.
    assignment["runtime"].as_object_mut().unwrap().remove("sandbox_image");
    host.write("etc/edge-bootstrap/assignment.toml", &toml::to_string(&assignment).unwrap());
    host.write(
        "etc/edge-bootstrap/config.toml",
        "[central]\nassignment-file = \"/etc/edge-bootstrap/assignment.toml\"\n",
    );
    host
}

fn order(until: Until, patience: u64) -> Order {
    Order { until, patience: Duration::from_secs(patience), observe_only: false }
}

fn no_trouble(pass: &Pass) {
    assert_eq!(pass.stop, None);
    let troubles = pass.activated.iter().flat_map(|activated| &activated.troubles);
    assert_eq!(troubles.collect::<Vec<_>>(), Vec::<&edge_bootstrap::activate::Trouble>::new());
}

#[tokio::test]
async fn one_pass_makes_files_units_and_name_true_and_a_second_changes_nothing() {
    let host = local();
    let mut agent = host.agent();
    let first = boot::pass(&mut agent, order(Until::Verified, 0)).await;
    no_trouble(&first);
    let config = std::fs::read_to_string(host.dir.path().join("etc/rancher/k3s/config.yaml")).unwrap();
    assert!(config.starts_with("# Written by edge-bootstrap"), "{config}");
    assert!(config.contains("node-name: \"172-16-36-4\""), "{config}");
    let calls = host.systemd.calls();
    assert!(
        calls.iter().any(|call| call.contains("Start") && call.contains("k3s-agent.service")),
        "{calls:?}"
    );
    let before = host.files();
    let second = boot::pass(&mut agent, order(Until::Verified, 0)).await;
    no_trouble(&second);
    assert_eq!(second.applied.unwrap().changed, Vec::<String>::new());
    assert_eq!(host.files(), before, "a second pass touches no file");
    let again = host.systemd.calls();
    assert!(!again.iter().any(|call| call.contains("k3s")), "a second pass starts nothing: {again:?}");
}

/// What a pass says about names that others gave the host.
fn renamed(pass: &Pass) -> Vec<&str> {
    let found = pass.findings.iter().filter(|(finding, _)| finding.code == "EB-hostname-changed");
    found.map(|(finding, _)| finding.reason.as_str()).collect()
}

#[tokio::test]
async fn a_name_of_others_is_told_and_the_hosts_own_first_one_is_not() {
    let host = local();
    let mut agent = host.agent();
    let first = boot::pass(&mut agent, order(Until::Verified, 0)).await;
    assert_eq!(renamed(&first), Vec::<&str>::new());
    for path in ["etc/hostname", "proc/sys/kernel/hostname"] {
        host.write(path, "web-7\n");
    }
    host.write("var/lib/dhcp/dhclient.leases", "lease {\n  option host-name \"web-7\";\n}\n");
    let before_ready = boot::pass(&mut host.agent(), order(Until::Ready, 0)).await;
    assert!(renamed(&before_ready)[0].ends_with("by somebody who is still being looked for"));
    for boots in 0..2 {
        let pass = boot::pass(&mut host.agent(), order(Until::Verified, 0)).await;
        let told = renamed(&pass)[0].to_owned();
        assert!(told.contains("web-7, put back to 172-16-36-4 at "), "{boots}: {told}");
        assert!(told.contains("by dhclient (DHCP): its lease /var/lib/dhcp/dhclient.leases"), "{told}");
    }
}

#[tokio::test]
async fn before_ready_no_job_is_queued() {
    let host = local();
    let pass = boot::pass(&mut host.agent(), order(Until::Ready, 0)).await;
    no_trouble(&pass);
    let calls = host.systemd.calls();
    assert!(calls.iter().any(|call| call.contains("Reload")), "{calls:?}");
    assert!(
        !calls.iter().any(|call| call.contains("StartUnit") || call.contains("RestartUnit")),
        "{calls:?}"
    );
}

#[tokio::test]
async fn a_paused_host_is_only_looked_at() {
    let host = local();
    let before = host.files();
    let order = Order { observe_only: true, ..order(Until::Verified, 0) };
    let pass = boot::pass(&mut host.agent(), order).await;
    assert!(!pass.changes.unwrap().is_empty());
    assert_eq!(host.files(), before);
    assert_eq!(host.systemd.calls(), Vec::<String>::new());
}

#[tokio::test]
async fn a_host_without_anybody_to_ask_says_so_and_touches_nothing() {
    let host = Host::new();
    let before = host.files();
    let pass = boot::pass(&mut host.agent(), order(Until::Verified, 1)).await;
    assert_eq!(pass.stop.unwrap().kind, StopKind::NotConfigured);
    assert_eq!(host.files(), before);
}

#[tokio::test]
async fn an_assignment_of_the_service_is_followed_and_holds_without_it() {
    let host = Host::new();
    let service = Central::start(Signer::new()).await;
    service.assign(assignment());
    host.ask(&service);
    let first = boot::pass(&mut host.agent(), order(Until::Verified, 10)).await;
    no_trouble(&first);
    let before = host.files();
    drop(service);
    let next_boot = boot::pass(&mut host.agent(), order(Until::Verified, 0)).await;
    no_trouble(&next_boot);
    assert_eq!(next_boot.assignment.unwrap().generation, 7);
    assert_eq!(host.files(), before, "the cached assignment gives the same files");
}

#[tokio::test]
async fn a_plan_that_breaks_an_invariant_leaves_the_generation_in_force() {
    let host = local();
    let mut agent = host.agent();
    no_trouble(&boot::pass(&mut agent, order(Until::Verified, 0)).await);
    host.write("etc/rancher/k3s/config.yaml.d/90-mine.yaml", "node-name: other\n");
    let before = host.files();
    let pass = boot::pass(&mut agent, order(Until::Verified, 0)).await;
    let stop = pass.stop.unwrap();
    assert_eq!(stop.kind, StopKind::Held);
    assert!(stop.why.reason.contains("node-name"), "{}", stop.why);
    assert_eq!(host.files(), before);
}
