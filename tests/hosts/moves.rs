//! Hosts that leave an old life: moved to another room by the central service
//! alone, or left behind by their site's new epoch.

use std::net::Ipv4Addr;
use std::time::Duration;

use edge_lab::central::TOKEN_FILE;
use edge_lab::room::{LONG, SITE, VERSION};
use edge_lab::{Host, Room, Suite, wait_until};
use serde_json::Value;

use crate::hand::{SOON, further_pass, is_active, server_and_agent, status, status_text, told};

/// Where hosts are moved to.
const ELSEWHERE: &str = "hz-018";
const K3S: &str = "/var/lib/rancher/k3s";

/// A room of `SITE` with `hosts` hosts, and one host that is server of another.
fn two_sites(name: &str, hosts: &[&str]) -> Room {
    let mut room = Room::open(name).unwrap();
    room.central.run(&["site", "add", ELSEWHERE, "--k3s-version", VERSION]).unwrap().ok().unwrap();
    for host in hosts {
        room.add(host, Suite::Trixie).unwrap();
        // The first one forms its cluster before the next one comes.
        room.wait_steady(LONG).unwrap();
    }
    add_elsewhere(&mut room, "far");
    room.wait_steady(LONG).unwrap();
    room
}

fn add_elsewhere(room: &mut Room, name: &str) {
    let token = room.central.token(ELSEWHERE, 1, true).unwrap();
    let host = room.bare(name, Suite::Trixie).unwrap();
    host.boot().unwrap();
    host.write_file_mode(TOKEN_FILE, format!("{token}\n"), 0o600).unwrap();
    let node = format!("\n[node]\nsite = \"{ELSEWHERE}\"\nip-networks = [\"10.77.0.0/16\"]\n");
    let config = room.central.host_config().unwrap() + &node;
    host.write_file("/etc/edge-bootstrap/config.d/20-site.toml", config).unwrap();
    host.install(room.package()).unwrap();
    room.hosts.push(host);
}

/// The host whose name in the lab is `name`.
fn host<'a>(room: &'a Room, name: &str) -> &'a Host {
    room.hosts.iter().find(|host| host.name() == name).unwrap()
}

fn dashed(ip: Ipv4Addr) -> String {
    ip.to_string().replace('.', "-")
}

/// The node as the central service shows it, by its address.
fn node(room: &Room, ip: Ipv4Addr) -> Value {
    let nodes = room.central.nodes().unwrap();
    nodes.into_iter().find(|node| node["ip"] == ip.to_string()).unwrap()
}

/// What a person at the central service does: nothing else, and no login.
fn order_move(room: &Room, from: Ipv4Addr, (site, to): (&str, Ipv4Addr), more: &[&str]) {
    let (name, ip) = (dashed(from), to.to_string());
    let words = [&["node", "move", &name, "--site", site, "--ip", &ip], more].concat();
    room.central.run(&words).unwrap().ok().unwrap();
}

/// What the network of another room does: the host has another address there.
fn readdress(room: &Room, host: &Host, from: Ipv4Addr, to: Ipv4Addr) {
    let net = room.lab.net();
    let namespace = format!("{}.{}", net.netns(), host.name());
    let ip = |words: &str| {
        let all = [&["ip", "-n", &namespace][..], &words.split(' ').collect::<Vec<_>>()].concat();
        net.cmd(&all).run().unwrap().ok().unwrap();
    };
    ip(&format!("addr del {from}/16 dev eth0"));
    ip(&format!("addr add {to}/16 dev eth0"));
    ip("route replace default via 10.77.0.1");
}

/// Waits until the host is steady as what it shall be.
fn wait_arrived(host: &Host, site: &str, ip: Ipv4Addr) {
    let arrived = || {
        let now = status(host);
        let is_it = now["phase"] == "steady" && now["site"] == site && now["node"]["name"] == dashed(ip);
        Ok(is_it.then_some(()))
    };
    let seen = wait_until(LONG, "the host has arrived", arrived);
    assert!(seen.is_ok(), "{} has not arrived in {site}:\n{}", host.name(), status_text(host));
}

/// The service takes the permission to change back once the host has arrived.
fn wait_settled(room: &Room, ip: Ipv4Addr, site: &str) {
    wait_until(SOON, "the service knows that it arrived", || {
        let node = node(room, ip);
        Ok((node["site"] == site && node["rejoin"] == false).then_some(()))
    })
    .unwrap();
}

/// Names of the Nodes that the API of a server tells.
fn cluster_of(server: &Host) -> String {
    server.sh("k3s kubectl get nodes").unwrap()
}

fn quarantines(host: &Host) -> Vec<String> {
    let found = host.sh(&format!("find {K3S} -maxdepth 2 -name '*.quarantine-*' | sort"));
    found.unwrap().lines().map(str::to_owned).collect()
}

/// Hash of the CA that a host's cluster has, as its files tell.
fn ca(host: &Host, path: &str) -> String {
    host.sh(&format!("sha256sum <{K3S}/{path}")).unwrap()
}

#[test]
fn an_agent_is_moved_to_another_room_and_address_without_a_login() {
    let room = two_sites("mv-agent", &["n1", "n2"]);
    let (agent, from, to) = (host(&room, "n2"), host(&room, "n2").address(), Ipv4Addr::new(10, 77, 5, 9));
    assert!(is_active(agent, "k3s-agent"));
    let password = agent.sh("sha256sum </etc/rancher/node/password").unwrap();
    agent.sh(&format!("mkdir -p {K3S}/agent/images; echo image >{K3S}/agent/images/pause.tar")).unwrap();
    // A person at the host wins: it knows of the move, and nothing of it happens.
    agent.sh("edge-bootstrap pause --for 2h --reason 'somebody works here'").unwrap();
    order_move(&room, from, (ELSEWHERE, to), &[]);
    wait_until(SOON, "the host knows", || Ok((status(agent)["site"] == ELSEWHERE).then_some(()))).unwrap();
    further_pass(agent);
    assert!(quarantines(agent).is_empty() && is_active(agent, "k3s-agent"), "a paused host left");
    agent.sh("edge-bootstrap resume").unwrap();
    readdress(&room, agent, from, to);
    wait_arrived(agent, ELSEWHERE, to);
    assert_eq!(agent.sh("hostname").unwrap(), dashed(to));
    assert!(cluster_of(host(&room, "far")).contains(&dashed(to)));
    assert_eq!(ca(agent, "agent/server-ca.crt"), ca(host(&room, "far"), "server/tls/server-ca.crt"));
    assert!(
        quarantines(agent).iter().any(|path| path.contains("client-kubelet")),
        "{:?}",
        quarantines(agent)
    );
    assert_eq!(agent.sh("sha256sum </etc/rancher/node/password").unwrap(), password);
    assert_eq!(
        agent.read_file(&format!("{K3S}/agent/images/pause.tar")).unwrap().as_deref(),
        Some("image\n")
    );
    assert!(told(agent, "edge-bootstrap", "in quarantine") > 0);
    wait_settled(&room, to, ELSEWHERE);
    // The old room forgets it, the new one knows it.
    let hosts = |host: &Host| host.read_file("/etc/hosts").unwrap().unwrap_or_default();
    wait_until(SOON, "the old room forgets it", || {
        Ok((!hosts(host(&room, "n1")).contains(&dashed(from))).then_some(()))
    })
    .unwrap();
    wait_until(SOON, "the new room knows it", || {
        Ok(hosts(host(&room, "far")).contains(&dashed(to)).then_some(()))
    })
    .unwrap();
    // Said again, and after the permission is gone: nothing happens.
    let before = (quarantines(agent), agent.sh("systemctl show -P InvocationID k3s-agent").unwrap());
    order_move(&room, to, (ELSEWHERE, to), &[]);
    further_pass(agent);
    assert_eq!((quarantines(agent), agent.sh("systemctl show -P InvocationID k3s-agent").unwrap()), before);
}

#[test]
fn the_only_server_of_a_room_leaves_its_datastore_in_quarantine_and_joins_another_room() {
    let room = two_sites("mv-server", &["n1"]);
    let (server, from, to) = (host(&room, "n1"), host(&room, "n1").address(), Ipv4Addr::new(10, 77, 5, 1));
    let old = ca(server, "server/tls/server-ca.crt");
    let name = dashed(from);
    let refused = room.central.run(&["node", "move", &name, "--site", ELSEWHERE]).unwrap();
    assert!(!refused.success() && refused.stderr.contains("no majority"), "{}", refused.stderr);
    order_move(&room, from, (ELSEWHERE, to), &["--force"]);
    readdress(&room, server, from, to);
    wait_arrived(server, ELSEWHERE, to);
    assert_eq!(ca(server, "server.quarantine-1/tls/server-ca.crt"), old, "the old life is kept whole");
    server.sh(&format!("test -s {K3S}/server.quarantine-1/db/etcd/name")).unwrap();
    assert!(cluster_of(host(&room, "far")).contains(&dashed(to)));
    wait_settled(&room, to, ELSEWHERE);
}

#[test]
fn a_move_that_loses_its_power_is_ended_by_the_next_boot() {
    let room = two_sites("mv-cut", &["n1", "n2"]);
    let agent = host(&room, "n2");
    let mut from = agent.address();
    for (round, moment) in [0, 200, 600, 1200, 2500, 5000].into_iter().enumerate() {
        let site = if round.is_multiple_of(2) { ELSEWHERE } else { SITE };
        let to = Ipv4Addr::new(10, 77, 6, u8::try_from(round).unwrap() + 1);
        order_move(&room, from, (site, to), &[]);
        readdress(&room, agent, from, to);
        // The moment is what is tested; nothing is awaited.
        std::thread::sleep(Duration::from_millis(moment));
        agent.cut().unwrap();
        agent.boot().unwrap();
        wait_arrived(agent, site, to);
        let server = host(&room, if site == SITE { "n1" } else { "far" });
        assert!(cluster_of(server).contains(&dashed(to)), "after a cut at {moment} ms");
        assert_eq!(ca(agent, "agent/server-ca.crt"), ca(server, "server/tls/server-ca.crt"));
        wait_settled(&room, to, site);
        from = to;
    }
    assert!(!quarantines(agent).is_empty());
}

#[test]
fn a_site_that_begins_anew_puts_the_old_datastore_aside_and_its_agents_follow() {
    let room = server_and_agent("mv-reinit");
    let (server, agent) = (&room.hosts[0], &room.hosts[1]);
    let mut old = ca(server, "server/tls/server-ca.crt");
    for (life, cut) in [(1, None), (2, Some(Duration::from_millis(1500)))] {
        room.central.run(&["site", "reinit", "--confirm", SITE]).unwrap().ok().unwrap();
        if let Some(moment) = cut {
            // The moment is what is tested; nothing is awaited.
            std::thread::sleep(moment);
            room.cut().unwrap();
            room.boot().unwrap();
        }
        for host in [server, agent] {
            let seen = wait_until(LONG, "the new life is steady", || {
                let now = status(host);
                Ok((now["phase"] == "steady" && now["epoch"] == life + 1).then_some(()))
            });
            assert!(
                seen.is_ok(),
                "{} is not steady in life {}:\n{}",
                host.name(),
                life + 1,
                status_text(host)
            );
        }
        let new = ca(server, "server/tls/server-ca.crt");
        assert_ne!(new, old, "it is the old cluster");
        assert_eq!(ca(server, &format!("server.quarantine-{life}/tls/server-ca.crt")), old);
        assert_eq!(ca(agent, "agent/server-ca.crt"), new);
        old = new;
    }
}
