//! What a person does by hand on a host, and what systemd says about it.
//!
//! Owns no law: the files that do share it.

use std::time::{Duration, Instant};

use edge_lab::room::{self, LONG};
use edge_lab::{Host, Room, Suite, wait_until};
use serde_json::Value;

/// How long systemd, containerd, k3s and the agent may take for one thing on a busy machine.
/// A pass alone may take half a minute.
pub const SOON: Duration = Duration::from_secs(90);

/// A room whose only host is steady.
pub fn one_steady(name: &str) -> Room {
    let mut room = Room::open(name).unwrap();
    room.add("n1", Suite::Trixie).unwrap();
    room.wait_steady(LONG).unwrap();
    room
}

/// A room of two hosts, steady one after the other: the server, then its agent.
pub fn server_and_agent(name: &str) -> Room {
    let mut room = Room::open(name).unwrap();
    for name in ["n1", "n2"] {
        room.add(name, Suite::Trixie).unwrap();
        room.wait_steady(LONG).unwrap();
    }
    room
}

/// A property of a unit as systemd prints it.
pub fn property(host: &Host, unit: &str, name: &str) -> String {
    host.sh(&format!("systemctl show -P {name} {unit}")).unwrap()
}

/// A property that is a number.
pub fn number(host: &Host, unit: &str, name: &str) -> u64 {
    property(host, unit, name).parse().unwrap()
}

pub fn is_active(host: &Host, unit: &str) -> bool {
    property(host, unit, "ActiveState") == "active"
}

/// Waits until a unit is up.
pub fn wait_active(host: &Host, unit: &str) {
    wait_until(SOON, &format!("{unit} is active"), || Ok(is_active(host, unit).then_some(()))).unwrap();
}

/// Lines of a unit's journal of this boot in which `text` stands.
pub fn told(host: &Host, unit: &str, text: &str) -> usize {
    let journal = host.sh(&format!("journalctl -b -u {unit} -o cat --no-pager")).unwrap();
    journal.lines().filter(|line| line.contains(text)).count()
}

/// Waits for such a line: what a program says as its last word journald may read later.
pub fn wait_told(host: &Host, unit: &str, text: &str) {
    wait_until(SOON, &format!("{unit} says: {text}"), || Ok((told(host, unit, text) > 0).then_some(())))
        .unwrap();
}

/// Asserts that k3s knew every key of its configuration: it skips one that it does
/// not know, and says so only here (k3s: pkg/configfilearg/parser.go).
pub fn assert_keys_known(hosts: &[&Host]) {
    for host in hosts {
        let starts: usize = ["k3s", "k3s-agent"].iter().map(|unit| told(host, unit, "Starting k3s")).sum();
        assert!(starts > 0, "{} has no start of k3s in its journal", host.name());
        let skipped: usize = ["k3s", "k3s-agent"].iter().map(|unit| told(host, unit, "Unknown flag")).sum();
        assert_eq!(skipped, 0, "k3s skips keys on {}", host.name());
    }
}

/// What the daemon says.
pub fn status(host: &Host) -> Value {
    room::status(host).unwrap_or_default()
}

/// What `edge-bootstrap status` prints.
pub fn status_text(host: &Host) -> String {
    host.exec(&["edge-bootstrap", "status"]).unwrap().stdout
}

/// Lets the daemon run a pass that begins from now on, and waits for its end.
pub fn further_pass(host: &Host) {
    // The first that ends may have begun before.
    (0..2).for_each(|_| next_pass(host));
}

fn next_pass(host: &Host) {
    let before = status(host)["last_pass"].clone();
    let mut asked: Option<Instant> = None;
    wait_until(SOON, "a further pass", || {
        // A start of what is up changes nothing and wakes the daemon as any event
        // of a unit does. Again, because a pass that ends within the second of
        // the one before may look the same.
        if asked.is_none_or(|asked| asked.elapsed() > Duration::from_secs(2)) {
            host.sh("systemctl start containerd")?;
            asked = Some(Instant::now());
        }
        Ok((status(host)["last_pass"] != before).then_some(()))
    })
    .unwrap();
}

/// Identities of what runs: they change with every start.
pub fn invocations(host: &Host) -> [String; 2] {
    ["k3s", "containerd"].map(|unit| property(host, unit, "InvocationID"))
}
