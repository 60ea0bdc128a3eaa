//! The gate against every way in which k3s forks or loses a cluster at start: one
//! named case per row, on a file tree that stands for a pinned host.
//!
//! Rows are those of k3s's own decision (k3s: pkg/cluster/managed.go,
//! bootstrap.go, pkg/etcd/etcd.go) and of what its identity hangs on. The same
//! rows with k3s itself are in `tests/hosts/forks.rs`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise")]
#![allow(clippy::disallowed_methods, reason = "a test prepares its own files")]

#[path = "gate_rows/binary.rs"]
mod binary;
#[path = "gate_rows/runtime.rs"]
mod runtime;
#[path = "gate_rows/tree.rs"]
mod tree;

use std::os::unix::fs::symlink;

use edge_bootstrap::{gate, identity, lease, observe, reset};
use serde_json::json;
use tree::{Host, PEER, WAL};

const TOMBSTONE: &str = "/var/lib/rancher/k3s/server/db/etcd/tombstone";
const NAME: &str = "/var/lib/rancher/k3s/server/db/etcd/name";
const CA: &str = "/var/lib/rancher/k3s/server/tls/server-ca.crt";
const SERVER: &str = "server: https://172.16.36.2:6443\n";
const INIT: &str = "cluster-init: true\n";
const ENDPOINT: &str = "datastore-endpoint: mysql://x\n";

/// A datastore that was begun, as k3s leaves it.
fn member() -> Host {
    Host::server().joined().with(WAL, "wal").with(NAME, "172-16-36-1-0a1b2c3d").with_ca(tree::ROOT_CA)
}

/// A server that never was READY.
fn fresh() -> Host {
    Host::server()
}

// === how a server decides at start ===

#[test]
fn row_wal_whatever_else_is_set_starts_the_member() {
    for extra in ["", SERVER, INIT, ENDPOINT] {
        for more in ["", INIT, ENDPOINT] {
            let more = if extra == more { "" } else { more };
            member().config(&format!("{extra}{more}")).goes();
            fresh().with(WAL, "wal").config(&format!("{extra}{more}")).goes();
        }
    }
}

#[test]
fn row_tombstone_with_server_and_token_waits_for_its_directory_to_be_moved() {
    for extra in [SERVER.to_owned(), format!("{SERVER}{INIT}")] {
        member().with(TOMBSTONE, "").config(&extra).refused("EB-tombstone");
    }
}

#[test]
fn row_tombstone_with_an_empty_token_is_refused() {
    let host = member().with(TOMBSTONE, "").config(SERVER).with(tree::TOKEN, "");
    host.refused("EB-token-empty");
    // A person who lets that pass has not let the fork pass.
    host.allow("EB-token-empty");
    host.refused("EB-tombstone");
}

#[test]
fn row_tombstone_without_server_is_refused() {
    for extra in ["", INIT] {
        member().with(TOMBSTONE, "").config(extra).refused("EB-tombstone");
    }
}

#[test]
fn row_nothing_and_cluster_init_needs_the_lease_of_this_boot() {
    let host = fresh().config(INIT);
    host.refused("EB-wait-init-lease");
    lease::confirm(&host.root, &host.identity()).unwrap();
    host.goes();
    host.with("/proc/sys/kernel/random/boot_id", "another-boot\n").refused("EB-wait-init-lease");
}

#[test]
fn row_nothing_and_cluster_init_with_a_lease_of_another_epoch_or_node_is_refused() {
    for (key, value) in [("epoch", json!(2)), ("node_id", json!("node-b"))] {
        let host = fresh().config(INIT);
        let mut other = serde_json::to_value(host.identity()).unwrap();
        other[key] = value;
        lease::confirm(&host.root, &serde_json::from_value(other).unwrap()).unwrap();
        host.refused("EB-wait-init-lease");
    }
}

#[test]
fn row_nothing_and_cluster_init_on_a_host_that_has_joined_is_refused_with_any_lease() {
    let host = Host::server().joined().config(INIT);
    lease::confirm(&host.root, &host.identity()).unwrap();
    host.refused("EB-datastore-missing");
}

#[test]
fn row_nothing_and_cluster_init_is_refused_also_when_the_identity_cannot_be_read() {
    let host = fresh().config(INIT);
    std::fs::write(host.root.path("/var/lib/edge-bootstrap/identity.json"), "{").unwrap();
    host.refused("EB-wait-init-lease");
}

#[test]
fn row_nothing_with_server_and_token_joins() {
    for extra in [SERVER.to_owned(), format!("{SERVER}{INIT}")] {
        fresh().config(&extra).goes();
        Host::server().joined().config(&extra).goes();
    }
}

#[test]
fn row_nothing_with_server_and_an_empty_token_is_refused_with_and_without_cluster_init() {
    for extra in [SERVER.to_owned(), format!("{SERVER}{INIT}")] {
        let host = fresh().config(&extra).with(tree::TOKEN, "\n");
        host.refused("EB-token-empty");
        host.allow("EB-token-empty");
        host.refused("EB-datastore-sqlite");
        let host = host.config_without_token(&extra);
        host.refused("EB-token-missing");
        host.config_without_token(&format!("{extra}token: \"\"\n")).refused("EB-token-missing");
    }
}

#[test]
fn row_nothing_at_all_would_be_sqlite() {
    fresh().refused("EB-datastore-sqlite");
    Host::server().joined().refused("EB-datastore-missing");
}

#[test]
fn row_nothing_and_a_wal_directory_that_is_empty_counts_as_nothing() {
    let host = Host::server().joined().with(WAL, "wal");
    std::fs::remove_file(host.root.path(WAL)).unwrap();
    host.refused("EB-datastore-missing");
}

#[test]
fn row_nothing_and_an_endpoint_is_another_datastore() {
    for extra in ["", SERVER, INIT] {
        fresh().config(&format!("{extra}{ENDPOINT}")).refused("EB-override");
    }
}

#[test]
fn row_server_that_names_this_host_itself_is_no_way_to_join() {
    for url in [
        "https://172.16.36.1:6443",
        "https://172-16-36-1:6443",
        "https://127.0.0.1:6443",
        "https://[::1]:6443",
    ] {
        fresh().config(&format!("server: {url}\n")).refused("EB-datastore-sqlite");
        Host::server().joined().config(&format!("server: {url}\n")).refused("EB-datastore-missing");
    }
}

// === what identity hangs on ===

#[test]
fn identity_hostname_changed_with_an_intact_datastore_is_refused() {
    member().with("/proc/sys/kernel/hostname", "localhost\n").refused("EB-hostname");
}

#[test]
fn identity_hostname_changed_before_a_join_is_refused() {
    fresh().config(SERVER).with("/proc/sys/kernel/hostname", "localhost\n").refused("EB-hostname");
}

#[test]
fn identity_a_deleted_node_object_took_the_member_with_it() {
    member().with(TOMBSTONE, "").config(SERVER).refused("EB-tombstone");
}

#[test]
fn identity_all_servers_renamed_at_once_are_each_refused_until_their_name_is_back() {
    for name in ["server-1", "server-2", "localhost"] {
        let host = member().with("/proc/sys/kernel/hostname", name);
        host.refused("EB-hostname");
        host.with("/proc/sys/kernel/hostname", "172-16-36-1\n").goes();
    }
}

#[test]
fn identity_node_ip_changed_with_an_intact_datastore_is_refused() {
    member().with("/.facts/addresses", "eth0 172.16.36.9/24\n").refused("EB-ip-absent");
    let drop_in = "/etc/rancher/k3s/config.yaml.d/ip.yaml";
    member().with(drop_in, "node-ip: 172.16.36.9\n").refused("EB-config-identity");
}

#[test]
fn identity_an_impostor_on_the_network_never_stops_a_joined_original() {
    // The gate sends no packet and asks nobody: there is nothing an impostor could say to it.
    member().config(SERVER).goes();
    Host::agent().joined().goes();
}

#[test]
fn identity_two_servers_of_one_name_are_refused_by_the_cluster_not_by_the_gate() {
    fresh().config(SERVER).goes();
}

#[test]
fn identity_a_reimaged_disk_holds_nothing_to_contradict() {
    let host = fresh().config(SERVER);
    std::fs::remove_file(host.root.path("/var/lib/edge-bootstrap/identity.json")).unwrap();
    host.goes();
}

#[test]
fn identity_only_the_datastore_lost_joins_or_is_refused_and_never_forms() {
    let lost = |extra| Host::server().joined().with_ca(tree::ROOT_CA).config(extra);
    lost(SERVER).goes();
    lost("").refused("EB-datastore-missing");
    lost(INIT).refused("EB-datastore-missing");
}

#[test]
fn identity_a_lost_or_empty_node_password_is_no_reason_to_refuse() {
    member().goes();
    member().with("/etc/rancher/node/password", "").goes();
    Host::agent().joined().with("/etc/rancher/node/password", "").goes();
}

#[test]
fn identity_a_kubelet_certificate_of_another_name_is_no_reason_to_refuse() {
    Host::agent().joined().with("/var/lib/rancher/k3s/agent/client-kubelet.crt", "other").goes();
}

#[test]
fn identity_an_agent_without_its_token_is_refused() {
    Host::agent().joined().with(tree::TOKEN, "").refused("EB-token-empty");
}

#[test]
fn identity_an_agent_without_a_server_is_refused() {
    Host::agent().bare_config("").refused("EB-server-missing");
    Host::agent().bare_config(INIT).refused("EB-server-key");
}

#[test]
fn identity_a_member_without_a_node_name_is_another_one() {
    // k3s etcd-snapshot during a first start made such names (k3s#9521).
    member().with(NAME, "-0a1b2c3e").refused("EB-datastore-name");
}

#[test]
fn identity_the_datastore_of_another_host_is_refused() {
    for name in ["172-16-36-2-0a1b2c3d", "default", "172-16-36-1"] {
        member().with(NAME, name).refused("EB-datastore-name");
    }
}

#[test]
fn identity_an_empty_member_name_is_refused_with_its_remedy() {
    let refusal = member().with(NAME, "").refused("EB-datastore-name");
    assert!(refusal.next.contains("edge-bootstrap apply"), "{refusal}");
}

#[test]
fn identity_the_datastore_of_another_cluster_is_refused() {
    member().with_ca(tree::OTHER_CA).refused("EB-datastore-ca");
}

#[test]
fn identity_a_datastore_of_an_earlier_epoch_is_refused() {
    member().pinned(|identity| identity["highest_epoch"] = json!(2)).refused("EB-datastore-epoch");
    // Without a datastore there is nothing of the earlier life to start.
    let moved = Host::server().joined().config(SERVER);
    moved.pinned(|identity| identity["highest_epoch"] = json!(2)).goes();
}

#[test]
fn identity_a_host_that_is_leaving_starts_nothing() {
    let leaving = |identity: &mut serde_json::Value| {
        identity["retiring"] = json!({"number": 1, "reason": "moved to room b"});
    };
    member().pinned(leaving).refused("EB-retiring");
    Host::agent().pinned(leaving).refused("EB-retiring");
}

#[test]
fn identity_a_host_whose_reset_was_cut_starts_nothing() {
    let reset = |finished: bool| reset::Reset { number: 1, finished, ..reset::Reset::default() };
    for host in [member(), Host::agent()] {
        reset::record(&host.root, &reset(false)).unwrap();
        host.refused("EB-resetting");
        // Done, and its files are there again: a person brought it back by hand.
        reset::record(&host.root, &reset(true)).unwrap();
        host.goes();
    }
}

// === no false refusal ===

#[test]
fn a_cluster_reset_by_hand_is_undisturbed() {
    member()
        .with(NAME, "172-16-36-1-ffffffff")
        .with("/var/lib/rancher/k3s/server/db/reset-flag", "")
        .with("/var/lib/edge-bootstrap/pause.json", "{}")
        .goes();
}

#[test]
fn a_snapshot_restored_by_hand_is_undisturbed() {
    member()
        .with("/var/lib/rancher/k3s/server/db/etcd-old-1700000000/member/wal/0-0.wal", "old")
        .with(NAME, "172-16-36-1-eeeeeeee")
        .goes();
}

#[test]
fn a_removed_member_joins_once_its_directory_is_aside() {
    let host = member().with(TOMBSTONE, "").config(SERVER);
    host.refused("EB-tombstone");
    let etcd = host.root.path("/var/lib/rancher/k3s/server/db/etcd");
    std::fs::rename(&etcd, etcd.with_extension("quarantine-1")).unwrap();
    host.goes();
}

#[test]
fn a_single_server_passes_before_and_after_a_second_joined() {
    let host = member();
    host.goes();
    host.config(SERVER).goes();
}

#[test]
fn a_new_member_name_with_the_same_ca_is_pinned_anew_and_passes() {
    let host = member().with(NAME, "172-16-36-1-ffffffff");
    let facts = host.facts();
    let pinned = identity::after_ready(&host.identity(), &facts);
    assert_eq!(pinned.joined.as_ref().unwrap().etcd_member.as_deref(), Some("172-16-36-1-ffffffff"));
    identity::pin(&host.root, &pinned).unwrap();
    host.goes();
    // Another CA is never taken over.
    let other = member().with(NAME, "172-16-36-1-ffffffff").with_ca(tree::OTHER_CA);
    assert_eq!(identity::after_ready(&other.identity(), &other.facts()), other.identity());
}

#[test]
fn letters_of_a_node_name_may_be_capital() {
    let capital = |identity: &mut serde_json::Value| identity["node_name"] = json!("Room-A");
    let host = member().pinned(capital).with("/proc/sys/kernel/hostname", "Room-A\n");
    let host = host.config_text("node-name: Room-A\nnode-ip: 172.16.36.1\ntoken-file: /srv/token\n");
    host.with("/srv/token", "x").with(NAME, "room-a-0a1b2c3d").goes();
}

#[test]
fn what_cannot_be_read_is_no_evidence() {
    // Directories in the place of files cannot be read as text.
    member().without(NAME).with(&format!("{NAME}/x"), "").goes();
    member().without(CA).with(&format!("{CA}/x"), "").goes();
    member().with(CA, "").goes();
    member().with("/etc/default/k3s/x", "").goes();
    // As a disk that answers with errors: the link leads to itself.
    let host = Host::server().joined().with("/var/lib/rancher/k3s/server/db/etcd/member/x", "");
    let wal = host.root.path("/var/lib/rancher/k3s/server/db/etcd/member/wal");
    symlink(&wal, &wal).unwrap();
    host.goes();
}

// === settings of others ===

#[test]
fn drop_ins_that_break_an_invariant_are_refused_and_others_pass() {
    let rows = [
        ("cluster-reset: true", Some("EB-override")),
        ("cluster-reset: 1", Some("EB-override")),
        ("cluster-reset: false", None),
        ("cluster-reset-restore-path: /srv/snapshot", Some("EB-override")),
        ("data-dir: /srv/k3s", Some("EB-override")),
        ("data-dir: /var/lib/rancher/k3s/", None),
        ("disable-etcd: true", Some("EB-override")),
        ("with-node-id: true", Some("EB-override")),
        ("cluster-cidr: 10.42.0.0/16", Some("EB-override")),
        ("service-cidr: 10.43.0.0/16", Some("EB-override")),
        ("flannel-backend: vxlan", Some("EB-override")),
        ("flannel-backend: none", None),
        ("node-name: other", Some("EB-config-identity")),
        ("node-ip: 10.0.0.1", Some("EB-config-identity")),
        ("server: https://172.16.36.3:6443", None),
        ("cluster-init: true", None),
        ("datastore-endpoint: mysql://x", None),
        ("kubelet-arg+: v=2", None),
        ("kubelet-arg+: [v=2, hostname-override=other]", Some("EB-override")),
        ("kubelet-arg+: hostname-override=172-16-36-1", None),
        ("etcd-arg: force-new-cluster=true", Some("EB-override")),
        ("kube-apiserver-arg: etcd-prefix=/other", Some("EB-override")),
        ("kubelet-arg+: node-ip=10.0.0.1", None),
    ];
    for (text, code) in rows {
        let host = member().with("/etc/rancher/k3s/config.yaml.d/10-other.yaml", "debug: true");
        let host = host.with("/etc/rancher/k3s/config.yaml.d/50-person.yaml", text);
        host.says(code, text);
        if code == Some("EB-override") {
            let next = host.verdict().refusal.unwrap().next;
            assert_eq!(next, "remove it from /etc/rancher/k3s/config.yaml.d/50-person.yaml", "{text}");
        }
    }
}

#[test]
fn variables_count_where_the_file_leaves_a_key_open() {
    let rows = [
        ("K3S_CONFIG_FILE=/srv/config.yaml", Some("EB-override")),
        ("K3S_CONFIG_FILE=/etc/rancher/k3s/config.yaml", None),
        ("K3S_DATA_DIR=/srv/k3s", Some("EB-override")),
        ("K3S_CLUSTER_RESET=true", Some("EB-override")),
        ("K3S_NODE_NAME=other", None),
        ("K3S_TOKEN=other", None),
        ("K3S_URL=https://172.16.36.2:6443", None),
        ("K3S_CLUSTER_INIT=true", None),
        ("K3S_DATASTORE_ENDPOINT=mysql://x", None),
        ("HTTP_PROXY=http://172.16.36.5:3128", None),
    ];
    let files = ["/etc/default/k3s", "/etc/sysconfig/k3s", "/etc/systemd/system/k3s.service.env"];
    for (text, code) in rows {
        for file in files {
            member().with(file, &format!("{text}\n")).says(code, &format!("{text} in {file}"));
        }
        let unit = format!("[Service]\nEnvironment=\"{text}\"\n");
        member().with("/etc/systemd/system/k3s.service.d/50.conf", &unit).says(code, &unit);
        member().with("/etc/default/k3s-agent", text).says(None, "the other unit's file");
    }
}

#[test]
fn variables_that_would_fork_a_host_without_its_datastore_are_named() {
    for text in ["K3S_CLUSTER_INIT=true", "K3S_DATASTORE_ENDPOINT=mysql://x"] {
        let host = fresh().config("").with("/etc/default/k3s", text);
        let refusal = host.refused("EB-override");
        assert!(refusal.reason.contains("/etc/default/k3s"), "{refusal}");
    }
    // A server to join may come from there as well as from the file.
    fresh().with("/etc/default/k3s", "K3S_URL=https://172.16.36.2:6443").goes();
}

#[test]
fn arguments_win_over_the_file() {
    let rows = [
        ("--cluster-reset", Some("EB-override")),
        ("--node-name other", Some("EB-override")),
        ("--node-name=172-16-36-1", None),
        ("--node-ip 10.0.0.1", Some("EB-override")),
        ("--data-dir=/srv", Some("EB-override")),
        ("-c /srv/config.yaml", Some("EB-override")),
        ("--disable-etcd", Some("EB-override")),
        ("--cluster-init", None),
        ("--server https://172.16.36.2:6443", None),
        ("--debug", None),
    ];
    for (arguments, code) in rows {
        let unit = format!("[Service]\nExecStart=\nExecStart=/usr/local/bin/k3s server {arguments}\n");
        for place in ["/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system"] {
            let path = format!("{place}/k3s.service.d/override.conf");
            member().with(&path, &unit).says(code, &format!("{arguments} in {place}"));
        }
        member().with("/etc/systemd/system/k3s.service", &unit).says(code, arguments);
    }
}

#[test]
fn arguments_that_take_the_way_to_join_away_are_named() {
    for arguments in ["--token= ", "--server=https://127.0.0.1:6443", "--server=", "--token-file="] {
        let unit = format!("[Service]\nExecStart=/usr/local/bin/k3s server {arguments}\n");
        let host = Host::server().joined().config(SERVER).with("/etc/systemd/system/k3s.service", &unit);
        // A plain token loses to the token file.
        let code = (arguments != "--token= ").then_some("EB-override");
        host.says(code, arguments);
    }
}

// === another k3s ===

fn listening(host: Host, comm: &str, cgroup: &str) -> Host {
    let table =
        "  sl  local_address rem_address st\n   1: 00000000:192B 00000000:0000 0A 0:0 0:0 0 0 0 4242 1\n";
    let host =
        host.with("/proc/net/tcp", table).with("/proc/4711/comm", comm).with("/proc/4711/cgroup", cgroup);
    std::fs::create_dir_all(host.root.path("/proc/4711/fd")).unwrap();
    symlink("socket:[4242]", host.root.path("/proc/4711/fd/7")).unwrap();
    host
}

#[test]
fn a_k3s_of_another_group_on_our_ports_is_refused_with_its_process() {
    let refusal =
        listening(member(), "k3s-server\n", "0::/user.slice/session-1.scope\n").refused("EB-orphan");
    for words in ["4711", "session-1.scope", "6443"] {
        assert!(refusal.reason.contains(words), "{refusal}");
    }
}

#[test]
fn a_process_of_this_unit_and_a_program_that_is_no_k3s_are_no_reason_to_refuse() {
    listening(member(), "k3s-server\n", "0::/system.slice/k3s.service\n").goes();
    let host = listening(member(), "nginx\n", "0::/system.slice/nginx.service\n");
    assert!(host.goes().notes.iter().any(|note| note.contains("nginx")), "nobody is told");
}

#[test]
fn each_refusal_says_what_to_do_and_how_to_let_it_pass() {
    let hosts = [
        member().with(TOMBSTONE, ""),
        Host::server().joined(),
        fresh(),
        fresh().config(INIT),
        member().with(NAME, "x-1"),
        member().with_ca(tree::OTHER_CA),
    ];
    for host in hosts {
        let refusal = host.verdict().refusal.unwrap();
        assert!(!refusal.next.is_empty());
        assert!(gate::allow_command(&refusal.code).contains("--i-accept-data-loss"), "{refusal}");
        host.allow(&refusal.code);
        host.goes();
    }
}

#[test]
fn the_facts_say_what_the_gate_saw() {
    let host = member().with(TOMBSTONE, "").with(PEER, "K3S_NODE_NAME=x\n");
    let k3s = host.facts().runtime.k3s;
    assert_eq!(k3s.tombstone.known(), Some(&true));
    assert_eq!(k3s.overrides.known().unwrap()[0].key, "node-name");
    assert_eq!(observe::k3s::etcd_name_empty(&host.root).known(), Some(&false));
}
