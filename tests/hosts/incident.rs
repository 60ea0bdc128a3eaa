//! The incident that this project exists for: all masters of a room come back
//! under new hostnames. With us, and as the control without us.
//!
//! Only a real k3s says something here: the tests run when `K3S_BIN` names one
//! (`make real`), and fail with the reason when it does not.

use std::collections::BTreeSet;
use std::time::Duration;

use edge_lab::room::LONG;
use edge_lab::{Host, Room, Suite, wait_until};
use serde_json::Value;

/// What the cluster knows of one Node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    name: String,
    member: String,
    address: String,
    is_ready: bool,
}

/// Three servers of a real k3s, steady.
pub fn three_servers(name: &str) -> Room {
    let mut room = Room::open(name).unwrap();
    assert!(room.k3s.real, "this law is about k3s itself: set K3S_BIN to a real one");
    for name in ["m1", "m2", "m3"] {
        room.add(name, Suite::Trixie).unwrap();
    }
    room.wait_steady(LONG).unwrap();
    // The first host is server at once; the other two become servers together.
    wait_until(LONG, "three voters", || Ok((voters(&room.hosts[0]).len() == 3).then_some(()))).unwrap();
    room.wait_steady(LONG).unwrap();
    room
}

fn kubectl(host: &Host, words: &str) -> Option<Value> {
    let script = format!("timeout 20 k3s kubectl {words}");
    let answer = host.exec(&["sh", "-c", &script]).ok()?;
    serde_json::from_str(&answer.stdout).ok()
}

/// The Nodes that the API of `host` tells; none while it does not answer.
fn nodes(host: &Host) -> BTreeSet<Seen> {
    let answer = kubectl(host, "get nodes -o json").unwrap_or_default();
    let items = answer["items"].as_array().cloned().unwrap_or_default();
    items.iter().map(seen).collect()
}

fn seen(node: &Value) -> Seen {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let annotations = &node["metadata"]["annotations"];
    let ready = list(&node["status"]["conditions"]).into_iter().find(|it| it["type"] == "Ready");
    let address = list(&node["status"]["addresses"]).into_iter().find(|it| it["type"] == "InternalIP");
    Seen {
        name: text(&node["metadata"]["name"]),
        member: text(&annotations["etcd.k3s.cattle.io/node-name"]),
        address: address.map(|it| text(&it["address"])).unwrap_or_default(),
        is_ready: ready.is_some_and(|it| it["status"] == "True"),
    }
}

/// Names of the members of etcd that vote, as etcd itself tells.
pub fn voters(host: &Host) -> BTreeSet<String> {
    let tls = "/var/lib/rancher/k3s/server/tls/etcd";
    let script = format!(
        "curl -sS -m 5 --cacert {tls}/server-ca.crt --cert {tls}/client.crt --key {tls}/client.key \
         -X POST -d '{{}}' https://127.0.0.1:2382/v3/cluster/member/list"
    );
    let answer = host.exec(&["sh", "-c", &script]).map(|output| output.stdout).unwrap_or_default();
    let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
    let members = answer["members"].as_array().cloned().unwrap_or_default();
    let votes = members.iter().filter(|member| member["isLearner"] != true);
    votes.filter_map(|member| member["name"].as_str().map(str::to_owned)).collect()
}

/// Gives every host another name, as a network cut-over does: static and at once.
fn rename_all(room: &Room) {
    for (at, host) in room.hosts.iter().enumerate() {
        host.sh(&format!("echo renamed-{at} >/etc/hostname; sync /etc/hostname /etc; hostname renamed-{at}"))
            .unwrap();
    }
}

#[test]
#[ignore = "needs K3S_BIN: run by `make real`"]
fn three_renamed_servers_come_back_after_a_power_cut_as_the_same_cluster_without_a_person() {
    let mut room = three_servers("inc-with");
    let (members, before) = (voters(&room.hosts[0]), nodes(&room.hosts[0]));
    assert_eq!(before.len(), 3, "{before:?}");
    // The agent is quick to put names back: it must not, so that the boot finds them changed.
    for host in &room.hosts {
        host.sh("systemctl kill -s STOP edge-bootstrap").unwrap();
    }
    rename_all(&room);
    room.cut().unwrap();
    room.central.stop().unwrap();
    room.boot().unwrap();
    room.wait_steady(LONG).unwrap();
    for host in &room.hosts {
        wait_until(LONG, "the same three Nodes, Ready", || Ok((nodes(host) == before).then_some(())))
            .unwrap();
        assert_eq!(voters(host), members, "the list of members changed");
    }
}

/// What is left of a host's set-up when nobody installed the agent: k3s takes
/// the hostname for its name, and nothing stands before its start.
fn without_agent(host: &Host) {
    host.sh("systemctl disable --now edge-bootstrap
         rm -f /etc/systemd/system/k3s.service.d/10-edge-bootstrap.conf
         sed -i '/^ExecStartPre=.*edge-bootstrap/d' /etc/systemd/system/k3s.service
         sed -i '/^node-name:/d' /etc/rancher/k3s/config.yaml
         systemctl daemon-reload; systemctl restart k3s; sync -f /")
        .unwrap();
}

#[test]
#[ignore = "needs K3S_BIN: run by `make real`"]
fn the_control_without_us_leaves_ghost_nodes_and_deleting_one_removes_a_live_member() {
    let room = three_servers("inc-without");
    let (members, before) = (voters(&room.hosts[0]), nodes(&room.hosts[0]));
    for host in &room.hosts {
        without_agent(host);
        wait_until(LONG, "three Nodes", || Ok((nodes(host) == before).then_some(()))).unwrap();
    }
    rename_all(&room);
    room.cut().unwrap();
    room.boot().unwrap();
    let host = &room.hosts[0];
    let twice =
        |seen: &BTreeSet<Seen>| seen.len() == 6 && seen.iter().filter(|node| node.is_ready).count() == 3;
    wait_until(LONG, "six Nodes, three of them Ready", || Ok(twice(&nodes(host)).then_some(()))).unwrap();
    assert_eq!(voters(host), members, "etcd keeps its members under their old names");
    let after = nodes(host);
    for old in &before {
        let same: Vec<&Seen> = after.iter().filter(|node| node.member == old.member).collect();
        assert_eq!(same.len(), 2, "old and new Node carry one member: {after:?}");
        assert_eq!(same.iter().filter(|node| node.is_ready).count(), 1, "{after:?}");
        assert!(after.iter().any(|node| node.name == old.name && !node.is_ready), "{after:?}");
    }
    tidy_up_as_people_do(&room, &before);
}

/// A person sees a dead Node and deletes it: the member that lives goes with it.
fn tidy_up_as_people_do(room: &Room, before: &BTreeSet<Seen>) {
    let (host, victim) = (&room.hosts[0], room.hosts[2].address().to_string());
    let dead = before.iter().find(|node| node.address == victim).unwrap();
    host.sh(&format!("k3s kubectl delete node {} --wait=false", dead.name)).unwrap();
    wait_until(Duration::from_secs(120), "the live member is gone", || {
        let now = voters(host);
        Ok((!now.is_empty() && !now.contains(&dead.member)).then_some(()))
    })
    .unwrap();
    wait_until(Duration::from_secs(60), "the victim's tombstone", || {
        let path = "/var/lib/rancher/k3s/server/db/etcd/tombstone";
        Ok(room.hosts[2].exec(&["test", "-e", path])?.success().then_some(()))
    })
    .unwrap();
}
