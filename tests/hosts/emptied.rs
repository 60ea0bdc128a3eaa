//! What a power cut right after a join leaves of k3s's files: k3s syncs little of
//! what it writes, and ends for ever at a key that is there and empty.
//!
//! The rules are k3s's own (k3s: pkg/daemons/control/deps/deps.go, pkg/cluster/bootstrap.go);
//! the law holds for the stand-in and for a real k3s.

use edge_lab::room::LONG;
use edge_lab::{Host, Room, Suite, wait_until};

use crate::hand::{SOON, property, status_text, told};

const K3S: &str = "/var/lib/rancher/k3s";
/// What was found empty after a cut 5 s after a join, and what is written as
/// carelessly: keys, certificates, CAs, kubeconfigs, passwords.
const CARELESS: &str = "server/tls/*.key server/tls/*.crt server/tls/*/*.key server/tls/*/*.crt \
     server/tls/dynamic-cert.json server/cred/* server/etc/* server/db/etcd/config server/token \
     agent/*.key agent/*.crt agent/*.kubeconfig";

fn empty_all(host: &Host) {
    host.sh(&format!("systemctl stop edge-bootstrap {}", unit(host))).unwrap();
    let emptied = host.sh(&format!(
        "cd {K3S}; for file in {CARELESS}; do if [ -f $file ] && [ ! -L $file ]; then : >$file; echo $file; fi; done; sync"
    ));
    let emptied = emptied.unwrap();
    let of_a_server = ["server/tls/client-kube-proxy.key", "server/tls/client-ca.key", "server/cred/passwd"];
    let names = if is_server(host) { &of_a_server[..] } else { &[] };
    for name in names.iter().chain(&["agent/client-kubelet.key"]) {
        assert!(emptied.lines().any(|line| line == *name), "there is no {name}: {emptied}");
    }
}

/// The programs that k3s unpacked: it takes a directory that is there for whole.
fn empty_programs(host: &Host) {
    host.sh(&format!(
        "systemctl stop {}; cd {K3S}/data; for file in */bin/k3s */bin/containerd; do [ ! -f $file ] || : >$file; done; sync",
        unit(host)
    ))
    .unwrap();
}

/// Of two hosts one is a server.
fn is_server(host: &Host) -> bool {
    host.sh(&format!("test -d {K3S}/server/tls && echo yes || echo no")).unwrap() == "yes"
}

fn unit(host: &Host) -> &'static str {
    if is_server(host) { "k3s" } else { "k3s-agent" }
}

/// Keys and certificates in which nothing is.
fn still_empty(host: &Host) -> String {
    host.sh(&format!(
        "cd {K3S}; find . -maxdepth 4 -type f -size 0 \
         \\( -name '*.key' -o -name '*.crt' -o -name '*.kubeconfig' -o -name passwd \\)"
    ))
    .unwrap()
}

fn ca(host: &Host) -> String {
    host.sh(&format!(
        "cd {K3S}; find server/tls -name '*-ca.*' -o -name service.key | sort | xargs -r sha256sum"
    ))
    .unwrap()
}

#[test]
fn what_a_cut_right_after_a_join_left_empty_is_made_anew_before_k3s_starts() {
    let mut room = Room::open("emptied").unwrap();
    room.add_all(&[("n1", Suite::Bookworm), ("n2", Suite::Trixie)]).unwrap();
    room.wait_steady(LONG).unwrap();
    assert_eq!(room.hosts.iter().filter(|host| is_server(host)).count(), 1, "one server, one agent");
    let cas: Vec<String> = room.hosts.iter().map(ca).collect();
    room.on_each(empty_all);
    // Without the daemon k3s ends at the first of them, and would for ever.
    let alone = room.hosts.iter().find(|host| is_server(host)).unwrap();
    alone.sh("systemctl start --no-block k3s").unwrap();
    wait_until(SOON, "k3s ends", || {
        let ends = ["error loading key from", "newer than datastore"];
        Ok(ends.iter().any(|text| told(alone, "k3s", text) > 0).then_some(()))
    })
    .unwrap();
    assert_ne!(property(alone, "k3s", "ActiveState"), "active");
    room.on_each(empty_programs);
    alone.sh("systemctl start --no-block k3s").unwrap();
    wait_until(SOON, "k3s ends at its own program", || {
        Ok((told(alone, "k3s", "exec format error") > 0).then_some(()))
    })
    .unwrap();
    room.cut().unwrap();
    room.boot().unwrap();
    let seen = room.wait_steady(LONG);
    for (host, ca_before) in room.hosts.iter().zip(cas) {
        assert!(seen.is_ok(), "{}:\n{}", host.name(), status_text(host));
        assert_eq!(still_empty(host), "", "{}", host.name());
        let programs = host.sh(&format!(
            "cd {K3S}/data; find . -path '*/bin/k3s' -type f -size +0; find . -path '*/bin/*' -type f -size 0"
        ));
        assert_eq!(programs.unwrap().lines().count(), 1, "{}: not unpacked anew", host.name());
        assert_eq!(ca(host), ca_before, "{} has other CAs", host.name());
        assert!(told(host, "edge-bootstrap", "k3s's own files mended") > 0, "{}", host.name());
    }
}
