//! The boot line on real hosts: from bare to steady, and back after a cut.

use std::time::Duration;

use edge_lab::room::{LONG, phase};
use edge_lab::{Room, Suite};

#[test]
fn three_bare_hosts_become_steady_and_come_back_after_a_power_cut_without_central() {
    let mut room = Room::open("three").unwrap();
    room.add_all(&["a1", "a2", "a3"].map(|name| (name, Suite::Trixie))).unwrap();
    room.wait_steady(LONG).unwrap();
    room.cut().unwrap();
    room.central.stop().unwrap();
    room.boot().unwrap();
    room.wait_steady(LONG).unwrap();
    assert!(room.hosts.iter().all(|host| phase(host) == "steady"));
}

#[test]
fn one_bare_host_becomes_steady() {
    let mut room = Room::open("one").unwrap();
    room.add("b1", Suite::Trixie).unwrap();
    room.wait_steady(Duration::from_secs(120)).unwrap();
}
