//! What lies between two commits of containerd: the power goes, or containerd is
//! killed, when a device of the pool is written down and its snapshot is not.

use std::time::{Duration, Instant};

use edge_lab::{RootFs, say, wait_until};

use super::room::Room;

/// From now on, and until the next boot, a file system is made and then no more
/// happens: containerd commits the snapshot after it.
const HANG: &str = r#"
mkdir -p /var/tmp/real
cp /usr/sbin/mkfs.ext4 /var/tmp/real/mkfs.ext4
printf '#!/bin/sh\n/var/tmp/real/mkfs.ext4 "$@" || exit\ntouch /run/between\nsleep 3600\n' >/var/tmp/real/hang
chmod 755 /var/tmp/real/hang
mount --bind /var/tmp/real/hang "$(readlink -f /usr/sbin/mkfs.ext4)"
rm -f /run/between
"#;
/// Begins a snapshot that comes no further than that, when the last container has
/// gone in good order: one that is killed keeps its device mounted.
const BEGIN: &str = "systemctl kill --kill-whom=main --signal=STOP lab-pods
until [ -z \"$(ctr --namespace k8s.io containers ls -q)\" ]; do sleep 0.5; done
systemctl stop lab-pods
systemd-run --quiet --unit=lab-prepare ctr --namespace k8s.io snapshots --snapshotter devmapper prepare between ''";
/// The state of every device, by its name.
const DEVICES: &str = "strings /var/lib/containerd/io.containerd.snapshotter.v1.devmapper/edge-thinpool.db | grep -o '\"name\":.*\"state\":[0-9]*' | sort -u | tail -n 20";
const ENDED: &str = "/run/edge-bootstrap/act-release-device.json";

/// Leaves containerd between its two commits, with no other work.
fn between(room: &Room) {
    room.machine.sh(&format!("rm -f {ENDED}")).unwrap();
    room.machine.sh(HANG).unwrap();
    room.machine.sh(BEGIN).unwrap();
    let is_there = || Ok(room.machine.sh("test -e /run/between").ok());
    wait_until(Duration::from_secs(60), "a file system that was made", is_there).unwrap();
}

/// What the act says that it did.
fn released(room: &Room) -> String {
    let text = room.machine.sh(&format!("cat {ENDED}")).unwrap_or_else(|error| {
        panic!("nothing was let go: {error:#}\n{}\n{}", room.machine.sh(DEVICES).unwrap(), room.journal())
    });
    let record: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(record["changed"], true, "{record:#}");
    record["done"].as_str().unwrap().to_owned()
}

#[test]
fn a_device_that_was_left_without_its_snapshot_is_let_go_before_containerd_starts() {
    let room = Room::bare("orphan", RootFs::XfsNoFtype);
    room.give_assignment();
    room.machine.sh("systemctl restart --no-block edge-bootstrap lab-pods").unwrap();
    room.wait_well(Instant::now()).unwrap();

    between(&room);
    room.machine.cut().unwrap();
    let began = Instant::now();
    room.machine.boot_no_wait().unwrap();
    let well = room.wait_well(began).unwrap();
    say(&format!("cut: {}, all well after {:.1?}", released(&room), well.after));

    // The same by a killed containerd: the device is up, and the host is not booted anew.
    between(&room);
    room.machine
        .sh("kill -9 \"$(systemctl show -P MainPID containerd)\"; systemctl stop k3s containerd; pkill -f '[r]eal/hang' || true
             umount --lazy \"$(readlink -f /usr/sbin/mkfs.ext4)\"; rm -f /run/lab-pods/said")
        .unwrap();
    room.machine.sh("edge-bootstrap apply").unwrap();
    say(&format!("killed: {}", released(&room)));
    room.machine.sh("systemctl start containerd k3s lab-pods").unwrap();
    room.wait_well(Instant::now()).unwrap();
}
