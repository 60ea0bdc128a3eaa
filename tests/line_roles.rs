//! A server becomes an agent and a server again, on a temporary root: real D-Bus
//! messages, real TLS to the API of another server, real files. The power goes at
//! every request that the host makes of its cluster, before and after it took
//! effect; each time the next pass is that of a new process. What a cut between
//! two files leaves is in `faults`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    missing_docs,
    missing_debug_implementations,
    reason = "a test may stop at the first surprise, and prepares its own files"
)]

#[path = "line_roles/cluster.rs"]
mod cluster;
#[allow(dead_code, reason = "shared with other line tests")]
#[path = "common/systemd.rs"]
mod systemd;
#[path = "common/tls.rs"]
mod tls;

use std::process::Command;
use std::time::Duration;

use cluster::{Cluster, Cut, MEMBER, NODE};
use edge_bootstrap::boot::{self, Agent, Order, Pass, Until};
use edge_bootstrap::facts::runtime::{Departure, Joined, PinnedIdentity};
use edge_bootstrap::identity;
use edge_bootstrap::role::Role;
use edge_bootstrap::sys::Root;
use edge_bootstrap::wire::secret::sha256_hex;
use serde_json::{Value, json};
use systemd::{Fake, FakeUnit};

/// A host whose k3s lies ready.
const CASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/plan/37-binary-installed-by-hand");
const K3S: &str = "var/lib/rancher/k3s";
const WAL: &str = "server/db/etcd/member/wal/0.wal";
const ORDER: Order = Order { until: Until::Verified, patience: Duration::ZERO, observe_only: false };

struct Host {
    dir: tempfile::TempDir,
    systemd: Fake,
    cluster: Cluster,
}

impl Host {
    /// A server of two that has joined.
    async fn server() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let copied = Command::new("cp").args(["-a", &format!("{CASE}/root/.")]).arg(dir.path()).status();
        assert!(copied.unwrap().success());
        let root = Root::new(dir.path());
        root.make_dir("/run/edge-bootstrap", 0o755).unwrap();
        let units = [
            ("containerd.service", FakeUnit::up()),
            ("k3s-agent.service", FakeUnit::dead()),
            ("k3s.service", FakeUnit::dead()),
            ("systemd-sysctl.service", FakeUnit::up()),
            ("systemd-modules-load.service", FakeUnit::up()),
        ];
        let systemd = Fake::new(&root, &units);
        systemd.serve_bus(&root);
        let host = Self { dir, systemd, cluster: Cluster::start() };
        let config = "[central]\nassignment-file = \"/etc/edge-bootstrap/assignment.toml\"\n";
        host.write("etc/edge-bootstrap/config.toml", config);
        host.assign("server");
        let pass = host.pass().await;
        assert_eq!(pass.stop, None);
        host.lives();
        host
    }

    fn write(&self, path: &str, text: &str) {
        let real = self.dir.path().join(path);
        std::fs::create_dir_all(real.parent().unwrap()).unwrap();
        std::fs::write(&real, text).unwrap();
        std::fs::set_permissions(&real, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }

    fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.dir.path().join(path)).ok()
    }

    fn assign(&self, role: &str) {
        self.assign_with(role, |_| ());
    }

    fn assign_with(&self, role: &str, change: impl FnOnce(&mut Value)) {
        let text = std::fs::read_to_string(format!("{CASE}/assignment.json")).unwrap();
        let mut value: Value = serde_json::from_str(&text).unwrap();
        let all = value.as_object_mut().unwrap();
        all.remove("node_id");
        all["runtime"].as_object_mut().unwrap().remove("sandbox_image");
        all["role"] = json!(role);
        all["room"] = json!([]);
        all["cluster"]["ca_hash"] = json!(sha256_hex(self.cluster.ca.as_bytes()));
        all["cluster"]["servers"] = json!([format!("https://0.0.0.0:{}", self.cluster.port)]);
        all["join"] = json!({"agent_token": "agent-canary-0001"});
        match role {
            "server" => all["join"]["server_token"] = json!("server-canary-0001"),
            "none" => ["node", "cluster", "join", "k3s", "runtime"].iter().for_each(|key| {
                all.remove(*key);
            }),
            _ => {}
        }
        change(&mut value);
        self.write("etc/edge-bootstrap/assignment.toml", &toml::to_string(&value).unwrap());
    }

    /// What k3s leaves on a server.
    fn lives(&self) {
        let (certificate, key) = &self.cluster.admin;
        for (name, text) in [
            (WAL, "wal"),
            ("server/db/etcd/name", MEMBER),
            ("server/tls/server-ca.crt", &self.cluster.ca),
            ("server/tls/client-admin.crt", certificate),
            ("server/tls/client-admin.key", key),
            ("agent/client-kubelet.crt", certificate),
            ("agent/images/pause.tar", "image"),
        ] {
            self.write(&format!("{K3S}/{name}"), text);
        }
        self.write("etc/rancher/node/password", "node password");
        let root = Root::new(self.dir.path());
        let ca_hash = Some(sha256_hex(self.cluster.ca.as_bytes()));
        let joined = Some(Joined { ca_hash, etcd_member: Some(MEMBER.to_owned()) });
        identity::pin(&root, &PinnedIdentity { joined, ..self.pinned() }).unwrap();
    }

    fn pinned(&self) -> PinnedIdentity {
        identity::load(&Root::new(self.dir.path())).unwrap().value().unwrap()
    }

    /// A pass of a new process.
    async fn pass(&self) -> Pass {
        let mut agent = Agent::new(Root::new(self.dir.path()), None).unwrap();
        boot::pass(&mut agent, ORDER).await
    }

    /// A pass that ends where the power goes; whether it went.
    async fn cut_pass(&self) -> bool {
        tokio::select! {
            biased;
            () = self.cluster.cut.notified() => true,
            _ = self.pass() => false,
        }
    }

    fn is_up(&self, unit: &str) -> bool {
        self.systemd.world().units[unit].active == "active"
    }

    /// Nothing of a server goes while etcd counts on it.
    fn check(&self, when: &str) {
        let is_member = self.cluster.state().members.iter().any(|member| member == MEMBER);
        if is_member {
            assert!(self.is_up("k3s.service"), "{when}: a member of etcd was stopped");
            assert!(self.read(&format!("{K3S}/{WAL}")).is_some(), "{when}: its datastore was moved");
        }
        let seen = self.cluster.state().seen.clone();
        assert!(!seen.iter().any(|line| line.starts_with("DELETE")), "{when}: {seen:?}");
    }

    /// Passes until nothing more is learnt.
    async fn converge(&self, when: &str) {
        for _ in 0..8 {
            let pass = self.pass().await;
            self.check(when);
            if pass.stop.is_none() && !pass.again {
                return;
            }
        }
        panic!("{when}: it does not end: {:?}", self.pass().await.stop);
    }

    fn check_agent(&self, when: &str) {
        let pinned = self.pinned();
        assert_eq!((pinned.role, pinned.departing, pinned.retiring), (Role::Agent, None, None), "{when}");
        assert!(self.is_up("k3s-agent.service") && !self.is_up("k3s.service"), "{when}");
        let kept = [
            (format!("{K3S}/server.quarantine-1/db/etcd/member/wal/0.wal"), "wal"),
            (format!("{K3S}/agent/images/pause.tar"), "image"),
            ("etc/rancher/node/password".to_owned(), "node password"),
        ];
        for (path, text) in kept {
            assert_eq!(self.read(&path).as_deref(), Some(text), "{when}: {path}");
        }
        assert!(!self.read("etc/rancher/k3s/config.yaml").unwrap().contains("cluster-cidr"), "{when}");
        let state = self.cluster.state();
        assert_eq!(state.node["metadata"]["labels"], json!({"kubernetes.io/hostname": NODE}), "{when}");
        assert_eq!(state.node["metadata"]["annotations"], json!({}), "{when}");
        assert_eq!(state.lease["spec"]["holderIdentity"], "", "{when}: the room's Lease was kept");
        assert_eq!(state.members.len(), 1, "{when}");
    }
}

/// The least and the most that the way out of etcd asks.
const REQUESTS: std::ops::RangeInclusive<usize> = 8..=30;

#[tokio::test]
async fn a_server_becomes_an_agent_whatever_request_of_it_the_power_cuts() {
    let mut ends = 0;
    for after in 0.. {
        for is_done in [false, true] {
            let when = format!("cut at request {after}, done: {is_done}");
            let host = Host::server().await;
            host.assign("agent");
            host.cluster.state().cut = Some(Cut { after, is_done });
            let mut passes = 0;
            let was_cut = loop {
                passes += 1;
                if host.cut_pass().await {
                    break true;
                }
                host.check(&when);
                if host.pinned().role == Role::Agent || passes > 8 {
                    break false;
                }
            };
            host.check(&when);
            host.converge(&when).await;
            host.check_agent(&when);
            ends += usize::from(!was_cut);
        }
        if ends > 0 {
            assert!(
                REQUESTS.contains(&after),
                "{after} requests: {:?}",
                Host::server().await.cluster.state().seen
            );
            return;
        }
    }
}

#[tokio::test]
async fn an_agent_becomes_a_server_again_and_joins_as_another_member() {
    let host = Host::server().await;
    host.assign("agent");
    host.converge("to an agent").await;
    host.check_agent("there");
    host.write(&format!("{K3S}/agent/client-kubelet.crt"), "agent's");
    let joined = Some(Joined { ca_hash: Some(sha256_hex(host.cluster.ca.as_bytes())), etcd_member: None });
    let root = Root::new(host.dir.path());
    identity::pin(&root, &PinnedIdentity { joined, ..host.pinned() }).unwrap();
    host.assign("server");
    host.converge("back to a server").await;
    let pinned = host.pinned();
    assert_eq!((pinned.role, pinned.retiring, pinned.init_started), (Role::Server, None, None));
    assert!(host.is_up("k3s.service") && !host.is_up("k3s-agent.service"));
    let config = host.read("etc/rancher/k3s/config.yaml").unwrap();
    assert!(config.contains("server: ") && !config.contains("cluster-init"), "{config}");
    let aside = host.read(&format!("{K3S}/agent/client-kubelet.crt.quarantine-2"));
    assert_eq!(aside.as_deref(), Some("agent's"));
}

/// What the pass says that it waits for.
fn waits(pass: &Pass) -> String {
    pass.stop.as_ref().map(|stop| stop.why.reason.clone()).unwrap_or_default()
}

#[tokio::test]
async fn a_server_stays_while_the_room_is_not_well() {
    let host = Host::server().await;
    host.assign("agent");
    // Another host restarts.
    host.cluster.state().lease = json!({"metadata": {"name": "edge-bootstrap-restart", "resourceVersion": "7"},
        "spec": {"holderIdentity": "172-16-36-1", "leaseDurationSeconds": 600}});
    assert!(waits(&host.pass().await).contains("has the room's Lease"));
    // Its Node names a member that this host is not.
    host.cluster.state().lease = Value::Null;
    let own = std::mem::replace(
        &mut host.cluster.state().node["metadata"]["annotations"]["etcd.k3s.cattle.io/node-name"],
        json!("172-16-36-4-ffffffff"),
    );
    assert!(waits(&host.pass().await).contains("nothing is removed before they agree"));
    host.cluster.state().node["metadata"]["annotations"]["etcd.k3s.cattle.io/node-name"] = own;
    let patched = host.cluster.state().seen.iter().any(|line| line.starts_with("PATCH"));
    assert!(!patched && host.pinned().departing.is_none(), "nothing was begun");
    // etcd keeps the member: nobody else waits for this host meanwhile.
    host.cluster.state().refuses = true;
    assert!(waits(&host.pass().await).contains("etcd refused to remove it"));
    assert_eq!(host.cluster.state().lease["spec"]["holderIdentity"], "", "the room's Lease was kept");
    host.cluster.state().refuses = false;
    host.converge("well again").await;
    host.check_agent("well again");
}

/// A voter that left and then could not begin would be lost until the network is back.
#[tokio::test]
async fn a_server_stays_one_while_what_its_new_role_needs_cannot_be_had() {
    let host = Host::server().await;
    host.assign_with("agent", |value| {
        value["k3s"]["version"] = json!("v1.36.3+k3s1");
        value["k3s"]["artifacts"] = json!({"amd64": {"urls": ["file:///none"], "sha256": "cd".repeat(32)}});
    });
    for _ in 0..3 {
        let pass = host.pass().await;
        host.check("no file");
        assert!(waits(&pass).contains("what the new role needs is not here yet"), "{:?}", pass.stop);
        assert!(pass.findings.iter().any(|(finding, _)| finding.reason.contains("v1.36.3+k3s1")));
    }
    {
        let state = host.cluster.state();
        assert_eq!((state.members.len(), state.lease.is_null()), (2, true), "{:?}", state.seen);
    }
    assert_eq!(host.pinned().departing, None);
    host.assign("agent");
    host.converge("with the file that is here").await;
    host.check_agent("with the file that is here");
}

/// Somebody's k3s runs under the name of this host by now: what is told of the Node
/// is that one's, and to take it away could cost the living member.
#[tokio::test]
async fn a_node_that_stands_for_another_member_by_now_is_left_as_it_is() {
    let host = Host::server().await;
    host.assign("agent");
    host.pass().await;
    assert_eq!(host.pinned().departing.map(|departing| departing.step), Some(Departure::Left));
    let later = json!({"etcd.k3s.cattle.io/node-name": "172-16-36-4-ffffffff",
        "etcd.k3s.cattle.io/node-address": "172.16.36.9"});
    host.cluster.state().node["metadata"]["uid"] = json!("later");
    host.cluster.state().node["metadata"]["annotations"] = later.clone();
    let before = host.cluster.state().node.clone();
    host.converge("to an agent").await;
    assert_eq!(host.cluster.state().node, before);
    assert_eq!((host.pinned().role, host.is_up("k3s-agent.service")), (Role::Agent, true));
}

/// k3s adds the member's annotations again whenever they are missing.
#[tokio::test]
async fn a_node_that_changes_while_it_is_tidied_is_read_again() {
    let another =
        json!({"metadata": {"annotations": {"etcd.k3s.cattle.io/node-name": "172-16-36-4-ffffffff"}}});
    let own = json!({"metadata": {"annotations": {"etcd.k3s.cattle.io/node-name": MEMBER}}});
    for (change, stays) in [(another, true), (own, false)] {
        let host = Host::server().await;
        host.assign("agent");
        host.pass().await;
        assert_eq!(host.pinned().departing.map(|departing| departing.step), Some(Departure::Left));
        host.cluster.state().between = Some(change);
        host.converge("to an agent").await;
        let state = host.cluster.state();
        assert_eq!(state.between, None, "nothing was changed meanwhile");
        let (labels, notes) = (&state.node["metadata"]["labels"], &state.node["metadata"]["annotations"]);
        assert_eq!(labels["node-role.kubernetes.io/etcd"].is_string(), stays, "{}", state.node);
        assert_eq!(notes["etcd.k3s.cattle.io/node-name"].is_string(), stays, "{}", state.node);
    }
}

#[tokio::test]
async fn a_server_without_a_role_leaves_etcd_and_runs_nothing() {
    let host = Host::server().await;
    host.assign("none");
    host.converge("none").await;
    assert!(!host.is_up("k3s.service") && !host.is_up("k3s-agent.service"));
    assert_eq!(host.pinned().departing.map(|departing| departing.step), Some(Departure::Tidied));
    assert_eq!(host.read(&format!("{K3S}/server.quarantine-1/db/etcd/name")).as_deref(), Some(MEMBER));
    assert_eq!(host.cluster.state().members.len(), 1);
    let before = host.cluster.state().seen.len();
    host.pass().await;
    assert_eq!(host.cluster.state().seen.len(), before, "it asks its old cluster for nothing more");
}
