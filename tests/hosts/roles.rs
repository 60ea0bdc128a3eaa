//! A host with another role in its own cluster, by the central service's word alone.

use edge_lab::room::LONG;
use edge_lab::{Host, Room, wait_until};
use serde_json::Value;

use crate::hand::{SOON, is_active, server_and_agent, status, status_text, told};
use crate::incident::voters;

const K3S: &str = "/var/lib/rancher/k3s";
const IDENTITY: &str = "var/lib/edge-bootstrap/identity.json";

pub fn assign(room: &Room, host: &Host, role: &str) {
    let ip = host.address().to_string();
    let nodes = room.central.nodes().unwrap();
    let node = nodes.into_iter().find(|node| node["ip"] == ip.as_str()).unwrap();
    room.central.run(&["assign", node["id"].as_str().unwrap(), "--role", role]).unwrap().ok().unwrap();
}

pub fn wait_role(host: &Host, role: &str, unit: &str) {
    let is_it = || {
        let now = status(host);
        Ok((now["phase"] == "steady" && now["role"] == role && is_active(host, unit)).then_some(()))
    };
    let seen = wait_until(LONG, role, is_it);
    assert!(seen.is_ok(), "{} is no {role}:\n{}", host.name(), status_text(host));
}

/// What the cluster calls a Node, as `kubectl get nodes` shows it.
pub fn called(server: &Host, node: &str) -> String {
    let all = server.sh("k3s kubectl get nodes").unwrap();
    let line = all.lines().find(|line| line.starts_with(node)).unwrap_or_default();
    line.split_whitespace().nth(2).unwrap_or_default().to_owned()
}

/// Voters of etcd. A real k3s leaves the condition on the Node of one that left, and
/// the stand-in has no etcd to ask.
pub fn members(room: &Room) -> usize {
    let server = &room.hosts[0];
    if room.k3s.real {
        return voters(server).len();
    }
    let names = server.sh("k3s kubectl get nodes -o json").unwrap();
    let nodes: Value = serde_json::from_str(&names).unwrap();
    let is_voter = |node: &&Value| {
        let conditions = node["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|it| it["type"] == "EtcdIsVoter" && it["status"] == "True")
    };
    nodes["items"].as_array().into_iter().flatten().filter(is_voter).count()
}

/// Whether the host has begun to leave etcd, or its old role.
fn leaves(host: &Host) -> bool {
    let text = host.seen_from_outside().and_then(|root| std::fs::read_to_string(root.join(IDENTITY)).ok());
    let record: Value = serde_json::from_str(&text.unwrap_or_default()).unwrap_or_default();
    !record["body"]["departing"].is_null() || !record["body"]["retiring"].is_null()
}

/// How often somebody had k3s started in this boot. A real one ends by itself, and systemd
/// starts it again, when the other of two members is without power for longer than the leases
/// of its controllers last.
fn ordered_starts(host: &Host) -> usize {
    told(host, "k3s", "Starting k3s.service") - told(host, "k3s", "Scheduled restart job")
}

#[test]
fn an_agent_becomes_a_server_and_an_agent_again_though_the_power_goes_on_the_way() {
    let room = server_and_agent("r-roles");
    let (first, host) = (&room.hosts[0], &room.hosts[1]);
    let (node, runs) = (host.sh("hostname").unwrap(), ordered_starts(first));
    let password = host.sh("sha256sum </etc/rancher/node/password").unwrap();
    let image = format!("{K3S}/agent/images/pause.tar");
    host.sh(&format!("mkdir -p {K3S}/agent/images; echo image >{image}; sync {image} {K3S}/agent/images"))
        .unwrap();

    assign(&room, host, "server");
    wait_role(host, "server", "k3s");
    wait_until(SOON, "a second voter", || Ok((members(&room) == 2).then_some(()))).unwrap();
    assert_eq!(called(first, &node), "control-plane,etcd");
    let member = host.sh(&format!("cat {K3S}/server/db/etcd/name")).unwrap();

    assign(&room, host, "agent");
    wait_until(LONG, "the host leaves", || Ok(leaves(host).then_some(()))).unwrap();
    host.cut().unwrap();
    host.boot_no_wait().unwrap();
    wait_role(host, "agent", "k3s-agent");
    assert_eq!((called(first, &node).as_str(), members(&room)), ("<none>", 1));
    let kept = host.sh(&format!("cat {K3S}/server.quarantine-*/db/etcd/name")).unwrap();
    assert_eq!(kept, member, "the datastore is kept");
    let left = host.sh(&format!("ls {K3S} | grep -x server || :")).unwrap();
    assert_eq!(left, "", "a server's files are there");
    assert_eq!(host.sh(&format!("cat {image}")).unwrap(), "image", "the images went with them");
    assert_eq!(host.sh("sha256sum </etc/rancher/node/password").unwrap(), password);
    assert_eq!(ordered_starts(first), runs, "the other server was restarted");

    // The last server never leaves, whatever the assignment says.
    assign(&room, first, "agent");
    wait_until(SOON, "the last server stays", || {
        Ok((status(first)["waiting_on"]["code"] == "EB-leave-server").then_some(()))
    })
    .unwrap();
    assert!(is_active(first, "k3s") && ordered_starts(first) == runs);
    assign(&room, first, "server");
    wait_role(first, "server", "k3s");
    loses_its_database(first, host);
}

/// The only server of two hosts, and nobody has a copy: it stays down until a person
/// goes the way that it names.
fn loses_its_database(only: &Host, agent: &Host) {
    let db = format!("{K3S}/server/db");
    only.sh("k3s etcd-snapshot save --name kept").unwrap();
    only.sh(&format!("systemctl stop edge-bootstrap k3s; mv {db} /root/db; sync -f /root")).unwrap();
    only.cut().unwrap();
    only.boot_no_wait().unwrap();
    let missing = || Ok((status(only)["waiting_on"]["code"] == "EB-datastore-missing").then_some(()));
    wait_until(LONG, "it says that the database is gone", missing).unwrap();
    let said = status_text(only);
    assert!(said.contains("--cluster-reset-restore-path=FILE"), "no way back is named: {said}");
    // Nor by a person's hand, who does not look.
    only.exec(&["systemctl", "start", "k3s"]).unwrap();
    assert!(!is_active(only, "k3s"), "k3s runs without its database");
    assert_eq!(only.sh(&format!("ls -A {db} 2>/dev/null || :")).unwrap(), "", "another database was begun");
    assert!(is_active(agent, "k3s-agent"), "the agent is left alone");

    let reset = "k3s server --cluster-reset --cluster-reset-restore-path=$(ls /root/db/snapshots/kept*)";
    only.sh("edge-bootstrap pause --for 1h --reason restore").unwrap();
    let ended = only.sh(&format!("timeout 100 {reset} 2>&1 | grep 'membership has been reset'"));
    ended.unwrap();
    only.sh("edge-bootstrap resume").unwrap();
    wait_role(only, "server", "k3s");
    wait_role(agent, "agent", "k3s-agent");
    let name = agent.sh("hostname").unwrap();
    wait_until(LONG, "the agent is known again", || Ok((called(only, &name) == "<none>").then_some(())))
        .unwrap();
}
