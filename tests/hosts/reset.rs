//! What people do to etcd by hand, with a real k3s: the gate is never in their way.
//!
//! Only a real k3s has these commands: the tests run when `K3S_BIN` names one
//! (`make real`), and fail with the reason when it does not.

use std::time::Duration;

use edge_lab::room::{LONG, steady};
use edge_lab::{Host, Room, wait_until};
use serde_json::Value;

use crate::hand::{is_active, one_steady, told};
use crate::incident::{three_servers, voters};

const NAME_FILE: &str = "/var/lib/rancher/k3s/server/db/etcd/name";

/// A steady room of one server with a real k3s.
fn one_real(name: &str) -> Room {
    let room = one_steady(name);
    assert!(room.k3s.real, "this law is about k3s itself: set K3S_BIN to a real one");
    room
}

fn identity(host: &Host) -> Value {
    serde_json::from_str(&host.sh("edge-bootstrap identity show --json").unwrap()).unwrap()
}

fn member(host: &Host) -> String {
    host.sh(&format!("cat {NAME_FILE}")).unwrap()
}

/// A paused host whose k3s a person stopped.
fn paused(host: &Host) {
    host.sh("edge-bootstrap pause --for 1h --reason reset; systemctl stop k3s").unwrap();
}

/// Runs k3s by hand until it ends, and gives what it said.
fn by_hand(host: &Host, arguments: &str) -> String {
    let output = host.exec(&["sh", "-c", &format!("timeout 180 k3s server {arguments} 2>&1")]).unwrap();
    output.stdout
}

/// The unit starts at a person's word and becomes active; no refusal was told meanwhile.
fn starts_unhindered(host: &Host) {
    let refusals = told(host, "k3s", "must not start");
    host.sh("systemctl start k3s --no-block").unwrap();
    wait_until(LONG, "k3s is active", || Ok(is_active(host, "k3s").then_some(()))).unwrap();
    assert_eq!(told(host, "k3s", "must not start"), refusals, "the gate was in the way");
}

#[test]
#[ignore = "needs K3S_BIN: run by `make real`"]
fn a_cluster_reset_by_hand_on_a_paused_host_is_undisturbed_and_pinned_anew() {
    let room = one_real("r-reset");
    let host = &room.hosts[0];
    let (before, old) = (identity(host), member(host));
    paused(host);
    let config = host.sh("cat /etc/rancher/k3s/config.yaml").unwrap();
    let said = by_hand(host, "--cluster-reset");
    assert!(said.contains("membership has been reset"), "{said}");
    assert_ne!(member(host), old, "the reset makes a new member");
    assert_eq!(host.sh("cat /etc/rancher/k3s/config.yaml").unwrap(), config);
    starts_unhindered(host);
    host.sh("edge-bootstrap resume").unwrap();
    steady(host, LONG).unwrap();
    wait_until(Duration::from_secs(60), "the new member is pinned", || {
        Ok((identity(host)["joined"]["etcd_member"] == member(host)).then_some(()))
    })
    .unwrap();
    assert_eq!(identity(host)["joined"]["ca_hash"], before["joined"]["ca_hash"]);
    // And it holds over a cut.
    host.cut().unwrap();
    host.boot_no_wait().unwrap();
    steady(host, LONG).unwrap();
}

#[test]
#[ignore = "needs K3S_BIN: run by `make real`"]
fn a_snapshot_restored_by_hand_on_a_paused_host_starts() {
    let room = one_real("r-restore");
    let host = &room.hosts[0];
    host.sh("k3s etcd-snapshot save --name by-hand").unwrap();
    host.sh("k3s kubectl create configmap later -n default --from-literal=a=b").unwrap();
    paused(host);
    let snapshot = host.sh("ls /var/lib/rancher/k3s/server/db/snapshots/by-hand*").unwrap();
    let said = by_hand(host, &format!("--cluster-reset --cluster-reset-restore-path={snapshot}"));
    assert!(said.contains("membership has been reset"), "{said}");
    starts_unhindered(host);
    host.sh("edge-bootstrap resume").unwrap();
    steady(host, LONG).unwrap();
    let later = host.exec(&["k3s", "kubectl", "get", "configmap", "later", "-n", "default"]).unwrap();
    assert!(!later.success(), "the snapshot was not restored");
    assert_eq!(identity(host)["joined"]["etcd_member"], member(host));
}

#[test]
#[ignore = "needs K3S_BIN: run by `make real`"]
fn a_removed_member_rejoins_by_itself_after_a_restart() {
    let room = three_servers("r-tombstone");
    let (peer, victim) = (&room.hosts[0], &room.hosts[2]);
    let (old, name) = (member(victim), victim.sh("hostname").unwrap());
    peer.sh(&format!("k3s kubectl annotate node {name} etcd.k3s.cattle.io/remove=true")).unwrap();
    wait_until(LONG, "the tombstone", || {
        let path = "/var/lib/rancher/k3s/server/db/etcd/tombstone";
        Ok(victim.exec(&["test", "-e", path])?.success().then_some(()))
    })
    .unwrap();
    victim.cut().unwrap();
    victim.boot_no_wait().unwrap();
    wait_until(LONG, "three voters again", || {
        let now = voters(peer);
        Ok((now.len() == 3 && !now.contains(&old)).then_some(()))
    })
    .unwrap();
    steady(victim, LONG).unwrap();
    assert_ne!(member(victim), old);
    assert!(
        victim.sh("ls -d /var/lib/rancher/k3s/server/db/etcd.quarantine-*").is_ok(),
        "the old database is kept"
    );
}
