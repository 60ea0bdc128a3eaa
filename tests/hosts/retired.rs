//! Hosts that are gone for good, or come back with an empty disk: their old life
//! leaves the cluster first, and one word of a person is enough.

use edge_lab::room::{LONG, SITE};
use edge_lab::{Hardware, Host, HostSpec, Room, Suite, wait_until};
use serde_json::Value;

use crate::hand::{assert_keys_known, property, status, status_text};

/// A host with a board and a disk of its own, off and without our package; its
/// empty disk is kept, to be put back later.
fn bare(room: &Room, number: u8) -> Host {
    let name = format!("n{number}");
    let spec = if room.k3s.real {
        HostSpec::with_kubelet(&name, Suite::Trixie)
    } else {
        HostSpec::new(&name, Suite::Trixie)
    };
    let board = format!("{number:08x}-7a4f-4c39-9b1e-3f6a5d0c2b71");
    let hardware = Some(Hardware::new(&board, &[&format!("WD-{number}")]));
    let host = room.lab.host(HostSpec { hardware, ..spec }).unwrap();
    host.keep_disk().unwrap();
    host
}

/// What is done at rack-up, and again after a disk was replaced.
fn rack_up(room: &Room, host: &Host) {
    host.boot().unwrap();
    room.configure(host).unwrap();
    host.install(room.package()).unwrap();
}

fn add(room: &mut Room, numbers: &[u8]) {
    let hosts: Vec<Host> = numbers.iter().map(|number| bare(room, *number)).collect();
    std::thread::scope(|scope| {
        hosts.iter().for_each(|host| drop(scope.spawn(|| rack_up(room, host))));
    });
    room.hosts.extend(hosts);
}

fn wait_role(host: &Host, role: &str) {
    let seen = wait_until(LONG, "the host is what it shall be", || {
        let now = status(host);
        Ok((now["phase"] == "steady" && now["role"] == role).then_some(()))
    });
    assert!(seen.is_ok(), "{} is no steady {role}:\n{}", host.name(), status_text(host));
}

fn node_name(host: &Host) -> String {
    host.address().to_string().replace('.', "-")
}

/// The Nodes of the cluster as JSON.
fn nodes(server: &Host) -> Vec<Value> {
    let answer = server.sh("k3s kubectl get nodes -o json").unwrap();
    let list: Value = serde_json::from_str(&answer).unwrap();
    list["items"].as_array().cloned().unwrap_or_else(|| vec![list])
}

/// Names of the Nodes, and full names of the members that have a vote.
fn members(server: &Host) -> (Vec<String>, Vec<String>) {
    let nodes = nodes(server);
    let name = |node: &Value| node["metadata"]["name"].as_str().unwrap().to_owned();
    let votes = |node: &&Value| {
        let all = node["status"]["conditions"].as_array();
        all.is_some_and(|all| all.iter().any(|it| it["type"] == "EtcdIsVoter" && it["status"] == "True"))
    };
    let member = |node: &Value| {
        let member = &node["metadata"]["annotations"]["etcd.k3s.cattle.io/node-name"];
        member.as_str().map(str::to_owned)
    };
    let mut names: Vec<String> = nodes.iter().map(name).collect();
    names.sort();
    (names, nodes.iter().filter(votes).filter_map(member).collect())
}

/// Waits for exactly these Nodes and three votes: a new member of etcd is a learner
/// at first, and its Node Ready before it votes. Gives the members that vote.
fn wait_members(server: &Host, expected: &[String]) -> Vec<String> {
    let are_there = || {
        let (names, voters) = members(server);
        Ok((names == expected && voters.len() == 3).then_some(voters))
    };
    let seen = wait_until(LONG, "three voters", are_there);
    seen.unwrap_or_else(|error| panic!("{error:#}: {:?}", members(server)))
}

/// The same machine with an empty disk, put up again as at rack-up.
fn reimage(room: &Room, host: &Host) {
    host.put_disk_back().unwrap();
    rack_up(room, host);
}

/// The one word of a person.
fn approve(room: &Room, host: &Host) {
    let code = wait_until(LONG, "the claim waits for a person", || {
        let found = room.central.nodes()?.into_iter().find(|node| {
            node["state"] == "pending" && node["reason"] == "replaces" && node["of"] == node_name(host)
        });
        Ok(found.and_then(|node| node["code"].as_str().map(str::to_owned)))
    })
    .unwrap();
    room.central.run(&["approve", &code]).unwrap().ok().unwrap();
}

fn wait_nobody_leaves(room: &Room, server: &Host) {
    let left = wait_until(LONG, "everybody who shall leave has left", || {
        let site = room.central.run(&["site", "show", SITE, "--json"])?.ok()?;
        let site: Value = serde_json::from_str(&site)?;
        Ok(site["leaving"].as_array().is_some_and(Vec::is_empty).then_some(()))
    });
    assert!(left.is_ok(), "{}", status_text(server));
}

/// Whose Node has the address of a live member stays, retired or not: k3s would take
/// the live one out of etcd with it.
fn stays_while_shared(server: &Host, lost: &str, lives: &Host) {
    let note = |address: &str| {
        let pair = format!("etcd.k3s.cattle.io/node-address={address}");
        server.sh(&format!("k3s kubectl annotate node {lost} {pair} --overwrite")).unwrap();
    };
    note(&lives.address().to_string());
    let refused = || {
        let now = status(server);
        let mut all = now["findings"].as_array().into_iter().flatten();
        Ok(all.any(|finding| finding["code"] == "EB-retired-shared").then_some(()))
    };
    let seen = wait_until(LONG, "its Node is said to stay", refused);
    assert!(seen.is_ok(), "{}", status_text(server));
    let (names, voters) = members(server);
    assert!(names.contains(&lost.to_owned()), "{names:?}");
    assert!(voters.iter().any(|member| member.starts_with(&node_name(lives))), "{voters:?}");
    note(&lost.replace('-', "."));
}

#[test]
fn what_is_gone_for_good_leaves_the_cluster_and_what_comes_in_its_place_joins_after_one_word() {
    let mut room = Room::open("r-gone").unwrap();
    add(&mut room, &[1]);
    room.wait_steady(LONG).unwrap();
    add(&mut room, &[2, 3]);
    room.hosts.iter().for_each(|host| wait_role(host, "server"));
    add(&mut room, &[4]);
    wait_role(&room.hosts[3], "agent");
    // A person's word: the place of a server is for a new host.
    let words = ["assign", &node_name(&room.hosts[3]), "--role", "agent"];
    room.central.run(&words).unwrap().ok().unwrap();
    let start = property(&room.hosts[0], "k3s", "InvocationID");

    // A server that never comes back, a new host for it, and an agent with an empty disk.
    let lost = node_name(&room.hosts[2]);
    room.hosts[2].cut().unwrap();
    room.hosts[3].cut().unwrap();
    room.central.run(&["node", "retire", &lost, "--force"]).unwrap().ok().unwrap();
    stays_while_shared(&room.hosts[0], &lost, &room.hosts[1]);
    reimage(&room, &room.hosts[3]);
    approve(&room, &room.hosts[3]);
    add(&mut room, &[5]);
    let [first, second, _, agent, new] = room.hosts.as_slice() else { unreachable!("five hosts") };
    wait_nobody_leaves(&room, first);
    wait_role(agent, "agent");
    wait_role(new, "server");
    let expected = [first, second, agent, new].map(node_name);
    let voters = wait_members(first, &expected);
    let saved = first.sh("ls /var/lib/rancher/k3s/server/db/snapshots").unwrap();
    assert!(saved.contains(&format!("eb-before-{lost}-left")), "{saved}");

    // A server with an empty disk.
    let before = voters.iter().find(|member| member.starts_with(&node_name(second))).unwrap();
    second.cut().unwrap();
    reimage(&room, second);
    approve(&room, second);
    wait_nobody_leaves(&room, first);
    wait_role(second, "server");
    let voters = wait_members(first, &expected);
    assert!(!voters.contains(before), "it is another member");
    assert_eq!(property(first, "k3s", "InvocationID"), start, "no other server was restarted");
    assert_keys_known(&[first, second, agent, new]);
}
