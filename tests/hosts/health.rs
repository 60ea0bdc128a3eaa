//! Whether containerd is well is asked on its own socket, and what is wrong has
//! a name: with every distribution's containerd.

use std::time::Duration;

use edge_lab::room::{LONG, steady, wait_phase};
use edge_lab::{Host, Room, Suite, wait_until};
use serde_json::Value;

use crate::hand::{is_active, status, status_text};

/// Longer than one look and the pause between two.
const A_LOOK: Duration = Duration::from_secs(45);

/// Findings about containerd's health: probe and words.
fn findings(host: &Host) -> Vec<(String, String)> {
    let status = status(host);
    let all = status["findings"].as_array().into_iter().flatten();
    let ours = all.filter(|finding| finding["code"] == "EB-containerd-health");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    ours.map(|finding| (text(&finding["id"]), text(&finding["text"]))).collect()
}

/// Waits for a finding of the probe `id` that says `words`.
fn wait_finding(host: &Host, id: &str, words: &str) {
    host.sh("systemctl reload edge-bootstrap").unwrap();
    let what = format!("{}: {id}: {words}", host.name());
    let found = || {
        let found = findings(host);
        Ok(found.iter().any(|(probe, text)| probe == id && text.contains(words)).then_some(()))
    };
    let seen = wait_until(A_LOOK, &what, found);
    assert!(seen.is_ok(), "{what}: {:#?}", status(host)["findings"]);
}

/// Every tier of every containerd is good, or its host would not be steady.
fn a_stopped_containerd_is_named(host: &Host) {
    assert_eq!(findings(host), Vec::new());
    let pid = host.sh("systemctl show -P MainPID containerd").unwrap();
    host.sh(&format!("kill -STOP {pid}")).unwrap();
    wait_finding(host, "containerd", "takes connections and answers nothing within 2 s");
    assert!(is_active(host, "containerd"), "systemd saw nothing of it");
    // While k3s is young as well, the host still counts as coming up.
    wait_phase(host, "degraded", 2 * A_LOOK).unwrap();
    host.sh(&format!("kill -CONT {pid}")).unwrap();
    steady(host, A_LOOK).unwrap();
    assert_eq!(findings(host), Vec::new());
}

/// The agent would put the network back at once; paused, it only tells. The file
/// comes back by its writer: containerd takes no notice of one that is moved in
/// from another directory.
fn a_missing_network_is_named(host: &Host) {
    host.sh("edge-bootstrap pause --for 1h --reason health").unwrap();
    host.sh("rm /etc/cni/net.d/*").unwrap();
    wait_finding(host, "cni", "not NetworkReady");
    host.sh("edge-bootstrap resume").unwrap();
    steady(host, A_LOOK).unwrap();
}

/// containerd opens it at the first use: the plugin itself is well.
fn a_snapshotter_that_cannot_read_its_database_is_named(host: &Host) {
    host.sh("edge-bootstrap pause --for 1h --reason health").unwrap();
    let database = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/metadata.db";
    host.sh("systemctl stop containerd").unwrap();
    let break_it = format!("head -c 32768 /dev/zero | tr '\\0' x >{database}");
    host.sh(&format!("{break_it} && systemctl start containerd")).unwrap();
    // Its header tells, without asking containerd; and under a running one it stays.
    host.sh("systemctl reload edge-bootstrap").unwrap();
    wait_until(A_LOOK, "the database is named", || {
        Ok(status_text(host).contains("metadata.db is damaged").then_some(()))
    })
    .unwrap();
}

#[test]
fn what_is_wrong_with_a_containerd_that_is_active_is_named_and_goes_when_it_is_well_again() {
    let mut room = Room::open("health").unwrap();
    room.add_all(&[("n1", Suite::Bookworm), ("n2", Suite::Trixie), ("n3", Suite::Sid)]).unwrap();
    room.wait_steady(LONG).unwrap();
    room.on_each(a_stopped_containerd_is_named);
    room.on_each(a_missing_network_is_named);
    a_snapshotter_that_cannot_read_its_database_is_named(&room.hosts[0]);
}
