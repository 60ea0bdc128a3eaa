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

#[cfg(feature = "failpoints")]
#[path = "line_adopt/cuts.rs"]
mod cuts;
#[path = "line_adopt/odd.rs"]
mod odd;
#[path = "line_adopt/strangers.rs"]
mod strangers;
#[allow(dead_code, reason = "shared with other line tests")]
#[path = "common/systemd.rs"]
mod systemd;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use edge_bootstrap::boot::adopt::{self, Act, Look};
use edge_bootstrap::boot::{self, Agent, Order, Pass, Until};
use edge_bootstrap::facts::unit_text as line;
use edge_bootstrap::paths;
use edge_bootstrap::plan::adopt::{Raw, in_force};
use edge_bootstrap::sys::{Clock, Root};
use systemd::{Fake, FakeUnit};

/// A Debian host with containerd and a k3s binary that somebody put there.
const HOST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/plan/37-binary-installed-by-hand/root");
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/line_adopt");
const CA: &str = include_str!("../src/facts/testdata/ca-root.pem");
/// `CN=system:node:10-0-0-1`, and a certificate for 10.0.0.1 and 127.0.0.1.
const KUBELET: [&str; 2] =
    [include_str!("line_adopt/client-kubelet.crt"), include_str!("line_adopt/serving-kubelet.crt")];
const CONFIG: &str = "etc/edge-bootstrap/config.toml";
const SITE: &str = "[node]\nsite = \"hz-017\"\n";

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
        let host = Self::copy_of(HOST);
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
            ("var/lib/rancher/k3s/agent/client-kubelet.crt", KUBELET[0].to_owned()),
            ("var/lib/rancher/k3s/agent/serving-kubelet.crt", KUBELET[1].to_owned()),
            (CONFIG, SITE.to_owned()),
        ] {
            host.write(path, &text);
        }
        let link = host.path("var/lib/rancher/k3s/server/agent-token");
        std::os::unix::fs::symlink("/var/lib/rancher/k3s/server/token", link).unwrap();
        host
    }

    fn copy_of(path: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let copied =
            Command::new("cp").args(["-a", &format!("{path}/."), dir.path().to_str().unwrap()]).status();
        assert!(copied.unwrap().success());
        Self { dir, systemd: None }
    }

    /// The same with a systemd that runs it.
    fn running(arguments: &str, version: &str) -> Self {
        Self::server(arguments, version).with_systemd(arguments, FakeUnit::up())
    }

    /// With a systemd that has loaded `k3s` for the unit of k3s.
    fn with_systemd(self, arguments: &str, k3s: FakeUnit) -> Self {
        self.with_unit(["k3s.service", "k3s-agent.service"], &format!("server {arguments}"), k3s)
    }

    /// The same for either role: `unit` runs `k3s COMMAND`, the other is not there.
    fn with_unit(mut self, [unit, other]: [&str; 2], command: &str, k3s: FakeUnit) -> Self {
        let words = std::iter::once("/usr/local/bin/k3s").chain(command.split_whitespace());
        let command = words.map(str::to_owned).collect();
        let gone = FakeUnit { load: "not-found".into(), file_state: String::new(), ..FakeUnit::dead() };
        let units = [
            ("containerd.service", FakeUnit::up()),
            (unit, FakeUnit { command, ..k3s }),
            (other, gone),
            ("systemd-sysctl.service", FakeUnit::up()),
            ("systemd-modules-load.service", FakeUnit::up()),
        ];
        let fake = Fake::new(&self.root(), &units);
        fake.serve_bus(&self.root());
        self.systemd = Some(fake);
        self
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
        self.pass_until(Until::Verified).await
    }

    async fn pass_until(&self, until: Until) -> Pass {
        let order = Order { until, patience: Duration::ZERO, observe_only: false };
        boot::pass(&mut self.agent(), order).await
    }

    fn script(&self, look: &Look, restart: bool) -> Vec<Act> {
        adopt::script(&self.root(), Clock::Fixed(1_800_000_000), look, restart).unwrap()
    }

    async fn do_all(&self, acts: &[Act]) {
        let agent = self.agent();
        adopt::carry_out(&agent.root, &agent.systemd, acts).await.unwrap();
    }

    /// Takes it over; the pass that goes on is not made.
    async fn take(&self, restart: bool) -> Look {
        let look = self.look().await;
        assert_eq!(look.refusals, []);
        self.do_all(&self.script(&look, restart)).await;
        look
    }

    /// What k3s is told after a boot: by files, since systemd has read them anew.
    async fn told(&self) -> Raw {
        let host = edge_bootstrap::boot::facts(&self.root()).await;
        let found = adopt::found(&self.root(), "k3s.service", None, &host).unwrap().unwrap();
        let mut raw = in_force(&edge_bootstrap::plan::adopt::settings(&found.installed));
        raw.remove("config");
        raw
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

/// An agent of v1.24 that was told `no-flannel`, and that its systemd runs.
fn agent() -> Host {
    let arguments = "--no-flannel --container-runtime-endpoint unix:///run/containerd/containerd.sock";
    let host = Host::server("", "v1.24.17+k3s1");
    for gone in ["etc/systemd/system/k3s.service", "etc/systemd/system/k3s.service.env"] {
        std::fs::remove_file(host.path(gone)).unwrap();
    }
    std::fs::remove_dir_all(host.path("var/lib/rancher/k3s/server")).unwrap();
    host.write("etc/systemd/system/k3s-agent.service", &unit("agent", arguments));
    let variables = "K3S_URL='https://10.0.0.2:6443'\nK3S_TOKEN='canary-agent'\nK3S_CLUSTER_INIT=true\n";
    host.write("etc/systemd/system/k3s-agent.service.env", variables);
    host.write("var/lib/rancher/k3s/agent/server-ca.crt", CA);
    host.with_unit(["k3s-agent.service", "k3s.service"], &format!("agent {arguments}"), FakeUnit::up())
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
    let booting = || FakeUnit { file_state: "enabled".into(), ..FakeUnit::dead() };
    for unit in [FakeUnit::up(), booting(), FakeUnit::dead()] {
        let host = Host::server(&right(), "v1.21.5+k3s2").with_systemd(&right(), unit);
        let look = host.look().await;
        host.write(
            CONFIG,
            &format!("{SITE}[central]\nassignment-file = \"/etc/edge-bootstrap/assignment.toml\"\n"),
        );
        host.write("etc/edge-bootstrap/assignment.toml", &look.proposed.as_ref().unwrap().text);
        let before = host.files();
        for until in [Until::Ready, Until::Verified] {
            let pass = host.pass_until(until).await;
            assert_eq!(pass.stop.map(|stop| stop.why.code).as_deref(), Some("EB-adopt-needed"), "{until:?}");
        }
        assert_eq!((host.files() == before, host.jobs()), (true, Vec::<String>::new()));
    }
}

#[tokio::test]
async fn after_a_take_over_and_one_pass_nothing_was_restarted_and_the_plan_is_empty() {
    let host = Host::running(&right(), "v1.21.5+k3s2");
    let unit = host.read("etc/systemd/system/k3s.service");
    host.take(false).await;
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
    for path in [paths::ADOPT_CONFIG, paths::ADOPT_VARIABLES, DROP_IN] {
        assert!(!host.root().exists(path), "{path}");
    }
    assert!(adopt::look(&mut host.agent(), Duration::ZERO).await.unwrap().is_none(), "it is ours now");
}

const DROP_IN: &str = "/etc/systemd/system/k3s.service.d/zz-edge-bootstrap-adopt.conf";

/// A host with something in every place that k3s reads.
fn everywhere() -> Host {
    let line = format!("{} --kube-apiserver-arg v=1", right());
    let host = Host::running(&line, "v1.21.5+k3s2");
    host.write("etc/rancher/k3s/config.yaml", "kube-apiserver-arg: [a=b]\nnode-label: [c=d]\n");
    host.write("etc/rancher/k3s/config.yaml.d/x.yaml", "kube-apiserver-arg+: [e=f]\ntls-san: [x.example]\n");
    host.write("etc/default/k3s", "HTTP_PROXY=http://10.0.0.8:3128\nK3S_DEBUG=true\n");
    let drop_in =
        "[Service]\nEnvironment=K3S_RESOLV_CONF=/etc/resolv.conf HTTPS_PROXY=http://10.0.0.9:3128\n";
    host.write("etc/systemd/system/k3s.service.d/50-site.conf", drop_in);
    host
}

#[tokio::test]
async fn k3s_is_told_the_same_after_a_cut_behind_every_act_and_the_next_try_ends_it() {
    let host = everywhere();
    let before = host.told().await;
    assert_eq!(before["kube-apiserver-arg"], ["a=b", "e=f", "v=1"]);
    assert_eq!(before["debug"], ["true"]);
    let look = host.look().await;
    let acts = host.script(&look, false);
    let reload = acts.iter().position(|act| *act == Act::Reload).unwrap();
    for (number, act) in acts.iter().enumerate() {
        host.do_all(std::slice::from_ref(act)).await;
        assert!(host.told().await == before, "after {act:?} k3s is told something else");
        // Until then a k3s that ends is started with its old command line.
        let is_read = |path: &String| {
            ["/etc/rancher/k3s/config", "/etc/systemd/system/k3s.service.env", "/etc/default"]
                .iter()
                .any(|read| path.starts_with(read))
        };
        let touches = matches!(act, Act::Write { path, .. } | Act::Remove(path) if is_read(path));
        assert!(number > reload || !touches, "{act:?} comes before systemd has read the drop-in");
    }
    let end = host.files();
    for cut in (0..acts.len()).rev() {
        let host = everywhere();
        host.do_all(&acts[..cut]).await;
        host.take(false).await;
        assert!(host.told().await == before, "a second try after {cut} acts");
        let is_same = |(path, bytes): (&String, &Vec<u8>)| {
            let path = path.replace(end_root(&end), end_root(&host.files()));
            path.contains("/backup/adopted.") || host.files().get(&path) == Some(bytes)
        };
        let others: Vec<_> = end.iter().filter(|entry| !is_same(*entry)).map(|(path, _)| path).collect();
        assert!(others.is_empty(), "cut after {cut} acts: {others:?}");
    }
}

/// The temporary directory in which a host's files lie.
fn end_root(files: &BTreeMap<String, Vec<u8>>) -> &str {
    let path = files.keys().next().unwrap();
    &path[..path.find("/etc/").unwrap()]
}

#[tokio::test]
async fn a_cut_behind_each_act_ends_in_the_same_host_without_a_restart() {
    let look = everywhere().look().await;
    let count = everywhere().script(&look, false).len();
    for cut in [0, count / 2, count - 1, count] {
        let host = everywhere();
        let acts = host.script(&host.look().await, false);
        host.do_all(&acts[..cut]).await;
        let consented = cut == count;
        let stop = host.pass_until(Until::Ready).await.stop.map(|stop| stop.why.code);
        assert_eq!(stop.is_none(), consented, "{cut} of {count}: {stop:?}");
        if !consented {
            host.take(false).await;
        }
        let passes = [host.pass().await, host.pass().await];
        assert!(passes.iter().all(|pass| pass.stop.is_none()), "{:?}", passes[0].stop);
        assert!(passes[1].changes.as_ref().unwrap().is_empty(), "{:?}", passes[1].changes);
        let jobs = host.jobs();
        assert!(!jobs.iter().any(|job| job.contains("k3s") || job.contains("containerd")), "{jobs:?}");
        let config = host.read("etc/rancher/k3s/config.yaml");
        for text in ["a=b", "e=f", "v=1", "x.example", "debug: true"] {
            assert_eq!(config.matches(text).count(), 1, "{text} in {config}");
        }
        assert!(!host.root().exists("/etc/rancher/k3s/config.yaml.d/x.yaml"));
    }
}

#[tokio::test]
async fn proxies_that_lost_do_not_win_and_a_second_take_over_keeps_its_own_copies() {
    let host = everywhere();
    let unit = host.read("etc/systemd/system/k3s.service");
    let with = |proxy: &str| {
        unit.replace("KillMode=", &format!("Environment=HTTP_PROXY={proxy} NO_PROXY=a\nKillMode="))
    };
    host.write("etc/systemd/system/k3s.service", &with("http://10.0.0.7:3128"));
    host.take(false).await;
    let left = host.read("etc/systemd/system/k3s.service.env");
    assert!(
        left.contains("NO_PROXY=\"a\"") && left.contains("10.0.0.9") && !left.contains("10.0.0.7"),
        "{left}"
    );
    host.pass().await;
    // Somebody runs the installer again on a host that was reset.
    for path in [paths::ADOPTED, paths::IDENTITY] {
        host.root().remove_file(path).unwrap();
    }
    host.write("etc/systemd/system/k3s.service", &unit);
    host.write("etc/rancher/k3s/config.yaml", "debug: true\n");
    host.take(false).await;
    let copy =
        |set: &str| host.read(&format!("var/lib/edge-bootstrap/backup/{set}/etc/systemd/system/k3s.service"));
    assert_eq!(copy("adopted"), unit);
    assert!(copy("adopted.1").contains("10.0.0.7"));
}

#[tokio::test]
async fn what_was_accepted_waits_for_the_next_start_and_a_restart_that_is_asked_for_is_for_what_differs() {
    let host = Host::running(&right(), "v1.21.5+k3s2");
    let look = host.take(true).await;
    assert!(look.differences.iter().any(|one| one.key == "flannel-backend"));
    let changes = host.pass().await.changes.unwrap();
    let restarts = changes.units.into_iter().chain(changes.pending).filter(|unit| unit.action == "restart");
    let why = restarts.map(|unit| format!("{} {}", unit.name, unit.reason)).collect::<Vec<_>>().join("; ");
    assert!(why.contains("flannel-backend") && why.contains("containerd.service"), "{why}");

    let host = Host::running(&right(), "v1.21.5+k3s2");
    host.take(false).await;
    host.pass().await;
    let record = host.read("run/edge-bootstrap/started-k3s.json");
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["effective"]["no-flannel"], serde_json::json!(["true"]), "what runs is told as it is");
    // containerd alone is started anew: the kubelet must follow.
    host.write(
        "run/edge-bootstrap/started-containerd.json",
        &format!("{{\"config\":\"{}\"}}", containerd(&host)),
    );
    let pending = host.pass().await.changes.unwrap();
    let all: Vec<_> = pending.units.iter().chain(&pending.pending).map(|unit| unit.reason.as_str()).collect();
    assert_eq!(all, ["changed: kubelet-arg"]);
}

#[tokio::test]
async fn an_agent_keeps_flannel_away_until_its_servers_do_and_gets_no_key_of_a_server() {
    let host = agent();
    let look = host.take(false).await;
    assert_eq!(look.differences.iter().map(|one| one.key.as_str()).collect::<Vec<_>>(), ["kubelet-arg"]);
    let moved = host.read("etc/rancher/k3s/config.yaml");
    assert!(moved.contains("no-flannel: true") && !moved.contains("cluster-init"), "{moved}");
    for _ in 0..2 {
        assert_eq!(host.pass().await.stop, None);
    }
    let changes = host.pass().await.changes.unwrap();
    assert!(changes.is_empty() && changes.pending.is_empty(), "{changes:?}");
    let jobs = host.jobs();
    assert!(!jobs.iter().any(|job| job.contains("k3s") || job.contains("containerd")), "{jobs:?}");
    let config = host.read("etc/rancher/k3s/config.yaml");
    assert!(config.contains("server: \"https://10.0.0.2:6443\"") && !config.contains("flannel"), "{config}");
    assert!(host.read("etc/rancher/k3s/config.yaml.d/50-adopted.yaml").contains("\nno-flannel: true\n"));
    assert_eq!(host.read("etc/systemd/system/k3s-agent.service.env"), "");
}

fn containerd(host: &Host) -> String {
    let text = host.read(paths::CONTAINERD_CONFIG.trim_start_matches('/'));
    edge_bootstrap::wire::secret::sha256_hex(text.as_bytes())
}

#[test]
fn no_secret_is_in_what_a_program_reads_and_nothing_differs_unseen() {
    let line = format!("{} --token canary-1 --kube-apiserver-arg oidc-client-secret=canary-2", right());
    let host = Host::server(&line, "v1.21.5+k3s2");
    host.write("etc/default/k3s", "K3S_AGENT_TOKEN=canary-3\nHTTPS_PROXY=http://u:canary-4@10.0.0.9\n");
    for arguments in [&["--json"][..], &[]] {
        let (text, code) = shown(&host, arguments);
        assert!(!text.contains("canary"), "{text}");
        assert_eq!(code, Some(2), "{text}");
    }
    let before = host.files();
    let (text, code) = shown(&host, &["--yes", "--accept", "flannel-backend"]);
    assert!(text.contains("--accept flannel-backend,kubelet-arg"), "{text}");
    assert_eq!((code, host.files() == before), (Some(1), true));
}

#[test]
fn a_host_whose_site_nobody_has_named_is_shown_and_not_taken() {
    let host = Host::server(&right(), "v1.21.5+k3s2");
    host.write(CONFIG, "");
    let (text, code) = shown(&host, &[]);
    assert!(
        code == Some(1) && text.contains("config.yaml cluster-cidr") && text.contains("--site NAME"),
        "{text}"
    );
    let (text, code) = shown(&host, &["--site", "hz-017"]);
    assert!(code == Some(2) && text.contains("--site hz-017 --accept"), "{text}");
}

#[test]
fn the_unit_of_the_fixture_is_read_as_systemd_reads_it() {
    let text = unit("server", FIELD);
    let start = line::directives(&text).into_iter().find(|one| one.name == "ExecStart").unwrap();
    let words = line::words(&start.value);
    assert_eq!(words[2..].join(" "), FIELD);
}
