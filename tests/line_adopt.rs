//! Taking over a k3s of others on a temporary root: the files as upstream's
//! installer leaves them, real D-Bus messages on a socket, the whole pass.
//!
//! `EDGE_GOLDEN=update cargo test --test line_adopt` writes what `adopt` shows
//! into `tests/line_adopt/` anew.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may stop at the first surprise, and prepares its own files"
)]

#[allow(dead_code, reason = "shared with other line tests")]
#[path = "common/systemd.rs"]
mod systemd;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use edge_bootstrap::boot::adopt::{self, Look};
use edge_bootstrap::boot::{self, Agent, Order, Pass, Until};
use edge_bootstrap::paths;
use edge_bootstrap::plan::adopt::{in_force, line};
use edge_bootstrap::sys::{Clock, Root};
use systemd::{Fake, FakeUnit};

/// A Debian host with containerd and a k3s binary that somebody put there.
const HOST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/plan/37-binary-installed-by-hand/root");
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/line_adopt");
const CA: &str = include_str!("../src/facts/testdata/ca-root.pem");

/// The command line of the field, as its installer was given it.
const FIELD: &str = "--disable coredns,servicelb,traefik,local-storage,metrics-server --disable-kube-proxy --disable-network-policy --no-flannel --cluster-init --cluster-cidr 10.253.0.0/16 --service-cidr 10.254.0.0/16 --container-runtime-endpoint unix:///run/containerd/containerd.sock --node-name 10-0-0-1 --node-ip 10-0-0-1";

/// The unit as install.sh writes it: one quoted argument per line, each
/// continued, an empty line at the end.
fn unit(verb: &str, arguments: &str) -> String {
    let arguments: String = arguments.split_whitespace().map(|word| format!("\t'{word}' \\\n")).collect();
    format!(
        "[Unit]\nDescription=Lightweight Kubernetes\nWants=network-online.target\nAfter=network-online.target\n\n\
         [Install]\nWantedBy=multi-user.target\n\n[Service]\nType=notify\nEnvironmentFile=-/etc/default/%N\n\
         EnvironmentFile=-/etc/sysconfig/%N\nEnvironmentFile=-/etc/systemd/system/{name}.service.env\n\
         KillMode=process\nDelegate=yes\nLimitNOFILE=1048576\nRestart=always\nRestartSec=5s\n\
         ExecStartPre=/bin/sh -xc '! /usr/bin/systemctl is-enabled --quiet nm-cloud-setup.service'\n\
         ExecStartPre=-/sbin/modprobe br_netfilter\nExecStart=/usr/local/bin/k3s \\\n    {verb} \\\n{arguments}\n",
        name = if verb == "agent" { "k3s-agent" } else { "k3s" },
    )
}

struct Host {
    dir: tempfile::TempDir,
    systemd: Option<Fake>,
}

impl Host {
    /// A server that runs k3s `version` with `arguments`.
    fn server(arguments: &str, version: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let copied =
            Command::new("cp").args(["-a", &format!("{HOST}/."), dir.path().to_str().unwrap()]).status();
        assert!(copied.unwrap().success());
        let host = Self { dir, systemd: None };
        for (path, text) in [
            (".facts/addresses", "eth0 10.0.0.1/24\nlo 127.0.0.1/8\n".to_owned()),
            (".facts/k3s-version", format!("k3s version {version} (0123abcd)\n")),
            ("proc/sys/kernel/hostname", "web-7\n".to_owned()),
            ("etc/hostname", "web-7\n".to_owned()),
            ("etc/systemd/system/k3s.service", unit("server", arguments)),
            (
                "etc/systemd/system/k3s.service.env",
                "K3S_TOKEN='canary-server'\nK3S_NODE_NAME=\"other\"\nHTTP_PROXY=http://10.0.0.9:3128\n"
                    .to_owned(),
            ),
            ("var/lib/rancher/k3s/server/db/etcd/member/wal/0.wal", "x".to_owned()),
            ("var/lib/rancher/k3s/server/db/etcd/name", "10-0-0-1-0123abcd".to_owned()),
            ("var/lib/rancher/k3s/server/tls/server-ca.crt", CA.to_owned()),
            ("var/lib/rancher/k3s/server/token", format!("K10{}::server:canary-server\n", "5d".repeat(32))),
            ("etc/rancher/node/password", "0123456789abcdef0123456789abcdef\n".to_owned()),
        ] {
            host.write(path, &text);
        }
        let link = host.path("var/lib/rancher/k3s/server/agent-token");
        std::os::unix::fs::symlink("/var/lib/rancher/k3s/server/token", link).unwrap();
        host
    }

    /// The same with a systemd that runs it.
    fn running(arguments: &str, version: &str) -> Self {
        let mut host = Self::server(arguments, version);
        let mut command = vec!["/usr/local/bin/k3s".to_owned(), "server".to_owned()];
        command.extend(arguments.split_whitespace().map(str::to_owned));
        let gone = FakeUnit { load: "not-found".into(), file_state: String::new(), ..FakeUnit::dead() };
        let units = [
            ("containerd.service", FakeUnit::up()),
            ("k3s.service", FakeUnit { command, ..FakeUnit::up() }),
            ("k3s-agent.service", gone),
            ("systemd-sysctl.service", FakeUnit::up()),
            ("systemd-modules-load.service", FakeUnit::up()),
        ];
        let fake = Fake::new(&host.root(), &units);
        fake.serve_bus(&host.root());
        host.systemd = Some(fake);
        host
    }

    fn root(&self) -> Root {
        Root::new(self.dir.path())
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let real = self.path(path);
        std::fs::create_dir_all(real.parent().unwrap()).unwrap();
        std::fs::write(&real, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&real, mode).unwrap();
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap_or_default()
    }

    fn agent(&self) -> Agent {
        Agent::new(self.root(), None).unwrap()
    }

    async fn look(&self) -> Look {
        adopt::look(&mut self.agent(), Duration::ZERO).await.unwrap().unwrap()
    }

    async fn pass(&self) -> Pass {
        let order = Order { until: Until::Verified, patience: Duration::ZERO, observe_only: false };
        boot::pass(&mut self.agent(), order).await
    }

    /// Every file below `/etc` and `/var/lib` with its content.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        ["etc", "var/lib", "usr/local"].iter().for_each(|top| walk(&self.path(top), &mut files));
        files
    }

    /// Jobs that were asked of systemd since the last time.
    fn jobs(&self) -> Vec<String> {
        let calls = self.systemd.as_ref().unwrap().calls();
        calls.into_iter().filter(|call| call.contains("StartUnit") || call.contains("StopUnit")).collect()
    }
}

fn walk(directory: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            walk(&path, files);
        } else {
            files.insert(path.display().to_string(), std::fs::read(&path).unwrap_or_default());
        }
    }
}

/// What `adopt` prints and its exit code.
fn shown(host: &Host, arguments: &[&str]) -> (String, Option<i32>) {
    let output = Command::new(env!("CARGO_BIN_EXE_edge-bootstrap"))
        .args(["adopt", "--root", host.dir.path().to_str().unwrap()])
        .args(arguments)
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (text, output.status.code())
}

fn golden(name: &str, text: &str) {
    let path = format!("{GOLDEN}/{name}.txt");
    if std::env::var_os("EDGE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == text, "{path}:\n{text}");
}

#[test]
fn the_command_line_of_the_field_is_shown_and_nothing_is_touched() {
    let host = Host::server(FIELD, "v1.21.5+k3s2");
    let before = host.files();
    let (text, code) = shown(&host, &[]);
    assert!(!text.contains("canary"), "{text}");
    golden("field", &text);
    assert_eq!((code, host.files() == before), (Some(2), true));
}

#[test]
fn a_server_on_sqlite_with_data_elsewhere_is_refused_with_what_to_do() {
    let host = Host::server("--data-dir /srv/k3s --docker", "v1.36.2+k3s1");
    std::fs::remove_dir_all(host.path("var/lib/rancher/k3s/server/db/etcd")).unwrap();
    let before = host.files();
    let (text, code) = shown(&host, &["--yes"]);
    golden("refused", &text);
    assert_eq!((code, host.files() == before), (Some(1), true));
}

/// The line of the field with the address that was meant.
fn right() -> String {
    FIELD.replace("--node-ip 10-0-0-1", "--node-ip 10.0.0.1 --kubelet-arg max-pods=64")
}

#[tokio::test]
async fn a_pass_leaves_the_k3s_of_others_alone() {
    let host = Host::running(&right(), "v1.21.5+k3s2");
    let look = host.look().await;
    host.write(&paths::CONFIG[1..], "[central]\nassignment-file = \"/etc/edge-bootstrap/assignment.toml\"\n");
    host.write("etc/edge-bootstrap/assignment.toml", &look.proposed.as_ref().unwrap().text);
    let before = host.files();
    let pass = host.pass().await;
    assert_eq!(pass.stop.map(|stop| stop.why.code).as_deref(), Some("EB-adopt-needed"));
    assert_eq!((host.files() == before, host.jobs()), (true, Vec::<String>::new()));
}

#[tokio::test]
async fn after_a_take_over_and_one_pass_nothing_was_restarted_and_the_plan_is_empty() {
    let host = Host::running(&right(), "v1.21.5+k3s2");
    let unit = host.read("etc/systemd/system/k3s.service");
    let look = host.look().await;
    assert_eq!(look.refusals, []);
    adopt::take(&host.root(), Clock::System, &look, false).unwrap();
    let first = host.pass().await;
    assert_eq!(first.stop, None);
    let second = host.pass().await;
    assert_eq!(second.stop, None);
    let changes = second.changes.unwrap();
    assert!(changes.is_empty(), "{changes:?}");
    assert_eq!(changes.pending, []);
    let jobs = host.jobs();
    assert!(!jobs.iter().any(|job| job.contains("k3s") || job.contains("containerd")), "{jobs:?}");
    let config = host.read("etc/rancher/k3s/config.yaml");
    assert!(config.starts_with("# Written by edge-bootstrap"), "{config}");
    for line in
        ["node-name: \"10-0-0-1\"", "node-ip: \"10.0.0.1\"", "max-pods=64", "flannel-backend: \"none\""]
    {
        assert!(config.contains(line), "{line} in {config}");
    }
    assert!(host.read("etc/systemd/system/k3s.service").starts_with("# Written by edge-bootstrap"));
    assert_eq!(host.read("var/lib/edge-bootstrap/backup/adopted/etc/systemd/system/k3s.service"), unit);
    let left = host.read("etc/systemd/system/k3s.service.env");
    assert!(left.contains("HTTP_PROXY=http://10.0.0.9:3128") && !left.contains("K3S_"), "{left}");
    assert!(adopt::look(&mut host.agent(), Duration::ZERO).await.unwrap().is_none(), "it is ours now");
}

#[tokio::test]
async fn a_take_over_that_was_cut_says_the_same_and_may_be_run_again() {
    let host = Host::running(&right(), "v1.21.5+k3s2");
    let look = host.look().await;
    let before = in_force(&look.settings);
    adopt::take(&host.root(), Clock::System, &look, false).unwrap();
    // The power goes before the record: the unit is still that of others.
    host.root().remove_file(paths::ADOPTED).unwrap();
    let files = host.files();
    let again = host.look().await;
    assert_eq!((again.refusals.as_slice(), in_force(&again.settings) == before), ([].as_slice(), true));
    assert!(again.proposed.is_none(), "the assignment is there");
    adopt::take(&host.root(), Clock::System, &again, false).unwrap();
    host.root().remove_file(paths::ADOPTED).unwrap();
    assert!(host.files() == files, "a second time writes the same");
}

#[tokio::test]
async fn a_restart_that_is_asked_for_is_for_what_differs() {
    let host = Host::running(&right(), "v1.21.5+k3s2");
    let look = host.look().await;
    assert!(look.differences.iter().any(|one| one.key == "flannel-backend"));
    adopt::take(&host.root(), Clock::System, &look, true).unwrap();
    let pass = host.pass().await;
    let restarts: Vec<_> =
        pass.changes.unwrap().units.into_iter().filter(|unit| unit.action == "restart").collect();
    assert!(
        restarts.iter().any(|unit| unit.name == "k3s.service" && unit.reason.contains("flannel-backend")),
        "{restarts:?}"
    );
}

#[test]
fn the_unit_of_the_fixture_is_read_as_systemd_reads_it() {
    let text = unit("server", FIELD);
    let start = line::directives(&text).into_iter().find(|one| one.name == "ExecStart").unwrap();
    let words = line::words(&start.value);
    assert_eq!(words[2..].join(" "), FIELD);
}
