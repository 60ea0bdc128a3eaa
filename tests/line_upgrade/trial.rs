//! Another value of the configuration, with which k3s ends some seconds after each
//! READY: what gives way, when, and what does not.

use edge_bootstrap::facts::Fact;
use edge_bootstrap::facts::runtime::StartRecord;
use edge_bootstrap::ledger::{self, Event, Ledger, Phase};
use edge_bootstrap::paths::K3S_CONFIG;
use edge_bootstrap::wire::secret::sha256_hex;

use super::*;

#[allow(missing_docs, missing_debug_implementations, dead_code, reason = "shared with other line tests")]
#[path = "../line_roles/cluster.rs"]
mod cluster;
#[allow(missing_docs, missing_debug_implementations, dead_code, reason = "shared with other line tests")]
#[path = "../common/containerd.rs"]
mod containerd;

const UNIT: &str = "k3s-agent.service";
const ASSIGNMENT: &str = "/etc/edge-bootstrap/assignment.toml";
const CODE: &str = "EB-rolled-back";

/// An agent whose first generation is good, in a room with a server that answers.
struct Room {
    host: Host,
    cluster: cluster::Cluster,
    _containerd: containerd::Containerd,
}

impl Room {
    async fn good() -> Self {
        let host = Host::with_the_old_version().await;
        let cluster = cluster::Cluster::start();
        let containerd = containerd::Containerd::serve(&host.root());
        let (certificate, key) = &cluster.admin;
        for (name, text) in
            [("server-ca.crt", &cluster.ca), ("client-kubelet.crt", certificate), ("client-kubelet.key", key)]
        {
            host.write(&format!("/var/lib/rancher/k3s/agent/{name}"), text.as_bytes());
        }
        let room = Self { host, cluster, _containerd: containerd };
        room.change(|all| {
            all["cluster"]["servers"] = json!([format!("https://0.0.0.0:{}", room.cluster.port)]);
            all["cluster"]["ca_hash"] = json!(sha256_hex(room.cluster.ca.as_bytes()));
        });
        room.pass().await;
        let good = room.ledger();
        ledger::record(&room.host.root(), Some(&good), Event::Verified).unwrap();
        room.starts(1);
        room.unit("active", 0);
        room
    }

    fn change(&self, change: impl FnOnce(&mut Value)) {
        let text = self.host.root().read_text(ASSIGNMENT).unwrap().unwrap();
        let mut value: Value = toml::from_str(&text).unwrap();
        change(&mut value);
        self.host.write(ASSIGNMENT, toml::to_string(&value).unwrap().as_bytes());
    }

    fn want(&self, level: u8) {
        self.change(|all| all["k3s"]["config"] = json!({"kubelet-arg": [format!("v={level}")]}));
    }

    async fn pass(&self) -> Pass {
        let pass = self.host.pass().await;
        assert_eq!(pass.stop, None);
        pass
    }

    /// What the gate writes at each start that it lets go.
    fn starts(&self, count: u32) {
        let root = self.host.root();
        let Fact::Known(effective) = observe::k3s::effective(&root) else { unreachable!() };
        let (effective, binary) = (Some(effective), Some(self.host.linked()));
        let record = StartRecord { effective, binary, starts: Some(count), ..StartRecord::default() };
        self.host.write(&paths::started_with("k3s-agent"), &serde_json::to_vec(&record).unwrap());
    }

    fn unit(&self, active: &str, restarts: u32) {
        self.host.systemd.unit(UNIT, |unit| {
            (unit.active, unit.restarts) = (active.to_owned(), restarts);
            unit.since = 42_000_000;
        });
    }

    /// One life of k3s more: it comes to READY, ends, and waits for its next start.
    async fn ends(&self, ends: u32) -> Pass {
        self.starts(1 + ends);
        self.unit("active", ends - 1);
        self.pass().await;
        self.unit("activating", ends);
        self.pass().await
    }

    fn ledger(&self) -> Ledger {
        ledger::load(&self.host.root()).unwrap().value().unwrap()
    }

    fn config(&self) -> String {
        self.host.root().read_text(K3S_CONFIG).unwrap().unwrap()
    }

    /// The new value comes into force and k3s is started with it.
    async fn begins(&self, level: u8) {
        self.want(level);
        self.host.systemd.calls();
        self.pass().await;
        assert!(self.config().contains(&format!("v={level}")), "{}", self.config());
        assert!(self.restarted(), "it is started with it");
        self.starts(1);
    }

    fn restarted(&self) -> bool {
        self.host.systemd.calls().iter().any(|call| *call == format!("RestartUnit {UNIT}"))
    }
}

#[tokio::test]
async fn a_value_at_which_k3s_ends_after_ready_gives_way_and_is_not_tried_again() {
    let room = Room::good().await;
    let good = room.ledger();
    room.begins(1).await;
    for ends in 1..3 {
        assert_eq!(says(&room.ends(ends).await, CODE), [""; 0]);
        assert!(room.config().contains("v=1") && room.ledger().phase != Phase::Healthy);
    }
    room.host.systemd.calls();
    let third = room.ends(3).await;
    assert!(says(&third, CODE)[0].contains("it ended 3 times before it was well"), "{:?}", third.findings);
    assert!(!room.config().contains("v=1"), "{}", room.config());
    assert!(room.restarted(), "the values before are in force again only with a start");
    let back = room.ledger();
    assert_eq!(
        (back.phase, back.generation, back.last_good),
        (Phase::RolledBack, good.generation, good.last_good)
    );

    // With the old values k3s is well. Whatever passes come by: it is not tried again.
    room.starts(1);
    room.unit("active", 0);
    for _ in 0..3 {
        let told = room.pass().await;
        assert!(says(&told, CODE)[0].contains("this plan was rolled back at"), "{:?}", told.findings);
    }
    assert_eq!((room.restarted(), room.ledger()), (false, back));
    // Another value is another try.
    room.begins(2).await;
}

#[tokio::test]
async fn where_nobody_in_the_room_answers_it_takes_longer_and_a_cut_changes_nothing() {
    let room = Room::good().await;
    for name in ["client-kubelet.crt", "client-kubelet.key"] {
        room.host.remove(&format!("/var/lib/rancher/k3s/agent/{name}"));
    }
    room.begins(1).await;
    for ends in 1..12 {
        assert_eq!(says(&room.ends(ends).await, CODE), [""; 0], "{ends}");
    }
    // Another boot: what ended before the cut does not count.
    room.host.boots("boot-1");
    room.starts(1);
    room.unit("activating", 0);
    room.pass().await;
    for ends in 1..12 {
        assert_eq!(says(&room.ends(ends).await, CODE), [""; 0], "{ends} after the cut");
    }
    assert!(says(&room.ends(12).await, CODE)[0].contains("12 times"));
    assert!(!room.config().contains("v=1"));
}

#[tokio::test]
async fn a_value_that_comes_while_k3s_is_ending_already_stays() {
    let room = Room::good().await;
    room.starts(5);
    room.unit("activating", 4);
    room.want(1);
    room.pass().await;
    for ends in 5..40 {
        assert_eq!(says(&room.ends(ends).await, CODE), [""; 0], "{ends}");
    }
    assert!(room.config().contains("v=1"));
}

#[tokio::test]
async fn starts_that_the_gate_refused_are_no_ends_of_k3s() {
    let room = Room::good().await;
    room.begins(1).await;
    room.unit("activating", 0);
    room.pass().await;
    // systemd counts on, and nothing is let go.
    for restarts in [3, 30] {
        room.unit("activating", restarts);
        assert_eq!(says(&room.pass().await, CODE), [""; 0]);
    }
    assert!(room.config().contains("v=1"));
}
