//! Runs stand-ins as processes on addresses of the loopback network: joins, kills, wrong
//! configurations. Every wait polls a condition with a deadline.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test may stop at the first surprise, and it works with real processes and files"
)]

mod host;

use std::time::Duration;

use host::{Host, address};

const TOKEN: &str = "a-server-password";

fn first(net: u8) -> Host {
    Host::new(net, 1, "server", &format!("cluster-init: true\ntoken: {TOKEN}\n"))
}

fn joining(net: u8, n: u8, to: &Host) -> Host {
    Host::new(net, n, "server", &format!("server: {}\ntoken: {TOKEN}\n", to.url()))
}

fn agent(net: u8, n: u8, to: &Host, token: &str) -> Host {
    Host::new(net, n, "agent", &format!("server: {}\ntoken: {token}\n", to.url()))
}

#[test]
fn three_servers_and_an_agent_come_back_after_kills() {
    let mut a = first(1);
    a.start();
    a.wait_ready();
    let (mut b, mut c) = (joining(1, 2, &a), joining(1, 3, &a));
    let mut d = agent(1, 4, &a, &a.read("var/lib/rancher/k3s/server/token"));
    for host in [&mut b, &mut c, &mut d] {
        host.start();
    }
    for host in [&mut b, &mut c, &mut d] {
        host.wait_ready();
    }
    let names = ["host-1", "host-2", "host-3", "host-4"];
    a.wait_nodes(&names);
    let member = a.read("var/lib/rancher/k3s/server/db/etcd/name");

    for host in [&mut a, &mut b, &mut c, &mut d] {
        host.kill();
    }
    a.set_config(&format!("server: {}\ntoken: {TOKEN}\n", b.url()));
    for host in [&mut d, &mut c, &mut b, &mut a] {
        host.start();
    }
    for host in [&mut a, &mut b, &mut c, &mut d] {
        host.wait_ready();
    }
    c.wait_nodes(&names);
    assert_eq!(a.read("var/lib/rancher/k3s/server/db/etcd/name"), member);

    a.kill();
    b.wait_nodes_after(&names, Duration::from_secs(20));
    let lb = d.read("var/lib/rancher/k3s/agent/etc/k3s-agent-load-balancer.json");
    assert!(lb.contains(&format!("{}:6443", c.ip)), "the agent learned all servers: {lb}");
}

#[test]
fn one_of_three_alone_is_not_ready() {
    let mut a = first(2);
    a.start();
    a.wait_ready();
    let mut others = [joining(2, 2, &a), joining(2, 3, &a)];
    for host in &mut others {
        host.start();
        host.wait_ready();
    }
    a.kill();
    others.iter_mut().for_each(Host::kill);
    a.start();
    a.wait_log("Failed to test etcd connection: context deadline exceeded");
    assert!(!a.is_ready());
    others[0].start();
    a.wait_ready();
}

#[test]
fn a_first_start_and_a_join_survive_a_kill_at_any_moment() {
    for step in 0..8_u8 {
        let delay = Duration::from_millis(u64::from(step) * 60);
        let mut a = first(10 + step);
        a.start();
        std::thread::sleep(delay);
        a.kill();
        a.start();
        a.wait_ready();
        let mut b = joining(10 + step, 2, &a);
        b.start();
        std::thread::sleep(delay * 2);
        b.kill();
        b.start();
        b.wait_ready();
        a.wait_nodes(&["host-1", "host-2"]);
    }
}

#[test]
fn an_address_that_is_not_the_members_never_gets_ready() {
    let mut a = first(3);
    a.start();
    a.wait_ready();
    a.kill();
    a.move_to(9);
    a.start();
    a.wait_log("this server is not a member of the etcd cluster. Found [");
    assert!(!a.is_ready());
}

#[test]
fn a_second_host_with_a_known_name_is_refused() {
    let mut a = first(4);
    a.start();
    a.wait_ready();
    let mut b = agent(4, 2, &a, TOKEN);
    b.start();
    b.wait_ready();
    let mut copy = agent(4, 3, &a, TOKEN);
    copy.append_config("node-name: host-2\n");
    copy.start();
    copy.wait_log("Node password rejected, duplicate hostname or contents of");
    assert!(!copy.is_ready());
    let mut server = joining(4, 5, &a);
    server.append_config("node-name: host-1\n");
    server.start();
    server.wait_log("etcd cluster join failed: duplicate node name found, please use a unique name");
    assert_eq!(server.wait_exit(), Some(1));
}

#[test]
fn an_agent_with_a_server_key_ends_at_once() {
    let mut host =
        Host::new(5, 1, "agent", &format!("server: https://{}:6443\ntoken: x\ntls-san: y\n", address(5, 2)));
    host.start();
    host.wait_log("flag provided but not defined: -tls-san");
    assert_eq!(host.wait_exit(), Some(1));
}

#[test]
fn a_server_without_a_token_starts_a_cluster_of_its_own() {
    let mut host = Host::new(6, 1, "server", &format!("server: https://{}:6443\n", address(6, 2)));
    host.start();
    host.wait_ready();
    host.wait_log("Configuring sqlite3 database connection pooling");
    let record = host.read("var/lib/rancher/k3s/standin-state.json");
    assert!(record.contains("\"datastore\": \"Sqlite\""), "{record}");
}

#[test]
fn an_empty_file_runs_on_defaults_and_the_record_says_so() {
    let mut host = Host::new(7, 1, "server", "");
    host.empty_config();
    host.start();
    host.wait_log("Starting k3s");
    let record = host.wait_file("var/lib/rancher/k3s/standin-state.json");
    assert!(record.contains("\"cluster-cidr\": \"10.42.0.0/16\""), "{record}");
    assert!(record.contains("\"flannel-backend\": \"vxlan\""), "{record}");
    assert!(record.contains("\"defaults_only\": true"), "{record}");
}

#[test]
fn a_wrong_pin_and_a_wrong_password_are_refused() {
    let mut a = first(8);
    a.start();
    a.wait_ready();
    let pin = format!("K10{}::server:{TOKEN}", "0".repeat(64));
    let mut b = Host::new(8, 2, "server", &format!("server: {}\ntoken: {pin}\n", a.url()));
    b.start();
    b.wait_log("token CA hash does not match the Cluster CA certificate hash: 000");
    assert_eq!(b.wait_exit(), Some(1));
    let mut c = agent(8, 3, &a, "wrong");
    c.start();
    c.wait_log("/v1-k3s/config: 401 Unauthorized");
    assert!(!c.is_ready());
}

#[test]
fn an_agent_waits_for_its_runtime() {
    let mut a = first(9);
    a.start();
    a.wait_ready();
    let mut b = agent(9, 2, &a, TOKEN);
    b.append_config(&format!("container-runtime-endpoint: unix://{}\n", b.socket().display()));
    b.start();
    b.wait_log("Waiting for CRI startup");
    assert!(!b.is_ready());
    let _listener = std::os::unix::net::UnixListener::bind(b.socket()).unwrap();
    b.wait_ready();
    a.wait_nodes(&["host-1", "host-2"]);
}

#[test]
fn a_removed_member_buries_itself_and_rejoins_only_with_a_server() {
    let mut a = first(30);
    a.start();
    a.wait_ready();
    let (mut b, mut c) = (joining(30, 2, &a), joining(30, 3, &a));
    for host in [&mut b, &mut c] {
        host.start();
        host.wait_ready();
    }
    a.wait_nodes(&["host-1", "host-2", "host-3"]);
    a.kubectl(&["annotate", "node", "host-3", "etcd.k3s.cattle.io/remove=true"]);
    c.wait_log("This node has been removed from the cluster - please restart k3s to rejoin the cluster");
    c.kill();
    c.set_config(&format!("token: {TOKEN}\n"));
    c.start();
    c.wait_log("tombstone file has been detected but --server is empty");
    c.kill();
    c.set_config(&format!("server: {}\ntoken: {TOKEN}\n", a.url()));
    c.start();
    c.wait_ready();
    a.wait_nodes(&["host-1", "host-2", "host-3"]);
}

#[test]
fn a_wrong_token_or_a_damaged_file_stops_a_known_member_with_k3ss_words() {
    let server = "var/lib/rancher/k3s/server";
    let mut a = first(32);
    a.start();
    a.wait_ready();
    a.kill();
    let mut broken = |config: &str, path: &str, words: &str| {
        a.set_config(config);
        let file = a.path(path);
        let saved = std::fs::read(&file).unwrap();
        if !path.ends_with(".yaml") {
            std::fs::write(&file, b"").unwrap();
            let later = std::time::SystemTime::now() + Duration::from_secs(60);
            std::fs::File::options().append(true).open(&file).unwrap().set_modified(later).unwrap();
        }
        a.start();
        a.wait_log(words);
        assert!(!a.is_ready());
        a.kill();
        if !path.ends_with(".yaml") {
            std::fs::write(&file, saved).unwrap();
        }
    };
    let good = format!("token: {TOKEN}\n");
    let db = format!("{server}/db/etcd/member/snap/db");
    broken("token: other\n", "etc/rancher/k3s/config.yaml", "encrypted with different token");
    broken(&good, &db, "failed to read consistent index");
    broken(&good, &format!("{server}/tls/server-ca.crt"), "newer than datastore and could cause");
    broken(&good, &format!("{server}/tls/dynamic-cert.json"), "failed to update cert with connection local");
    broken(&good, &format!("{server}/db/etcd/name"), "this server is not a member of the etcd cluster");
    a.set_config(&good);
    a.start();
    a.wait_ready();
}

#[test]
fn a_reset_leaves_one_member_once() {
    let mut a = first(31);
    a.start();
    a.wait_ready();
    let mut b = joining(31, 2, &a);
    b.start();
    b.wait_ready();
    a.wait_nodes(&["host-1", "host-2"]);
    let name = a.read("var/lib/rancher/k3s/server/db/etcd/name");
    [&mut a, &mut b].into_iter().for_each(Host::kill);
    for (round, text) in ["membership has been reset", "membership was previously reset"].iter().enumerate() {
        a.set_config(&format!("cluster-reset: true\ntoken: {TOKEN}\n"));
        a.start();
        a.wait_log(text);
        assert_eq!(a.wait_exit(), Some(i32::try_from(round).unwrap()), "the exit code says nothing");
    }
    a.set_config(&format!("token: {TOKEN}\n"));
    a.start();
    a.wait_ready();
    a.wait_nodes_after(&["host-1", "host-2"], Duration::from_secs(20));
    assert_ne!(a.read("var/lib/rancher/k3s/server/db/etcd/name"), name);
}

/// Small and seeded; `K3S_STANDIN_ROUNDS` makes it a soak.
#[test]
fn a_room_killed_at_random_moments_always_comes_back() {
    let rounds: u64 = std::env::var("K3S_STANDIN_ROUNDS").map_or(3, |text| text.parse().unwrap());
    let seed: u64 = std::env::var("K3S_STANDIN_SEED").map_or(1, |text| text.parse().unwrap());
    let mut random = Random(seed);
    for round in 0..rounds {
        let net = 40 + u8::try_from(round % 100).unwrap();
        let mut a = first(net);
        a.start();
        let mut room = [joining(net, 2, &a), joining(net, 3, &a), agent(net, 4, &a, TOKEN)];
        room.iter_mut().for_each(Host::start);
        for _ in 0..6 {
            std::thread::sleep(Duration::from_millis(random.below(1500)));
            let victim = random.below(4);
            let host = if victim == 0 { &mut a } else { &mut room[usize::try_from(victim).unwrap() - 1] };
            host.kill();
            host.start();
        }
        let mut all: Vec<&mut Host> = std::iter::once(&mut a).chain(&mut room).collect();
        let restart = |host: &mut &mut Host| host.wait_ready_with_restarts();
        all.iter_mut().for_each(restart);
        all[0].wait_nodes(&["host-1", "host-2", "host-3", "host-4"]);
        eprintln!("round {round} of seed {seed} done");
    }
}

/// A linear congruential generator: the same seed, the same kills.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}
