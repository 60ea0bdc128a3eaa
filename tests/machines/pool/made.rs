//! A pool that is made, and a making that is killed or cut anywhere.

use std::time::Duration;

use edge_lab::{Lab, Machine, wait_until};

use super::{done, lvm, refused, status, thin, with_disks};

const UNFINISHED: &str = "edge-bootstrap-unfinished";

#[test]
fn a_pool_is_made_on_a_blank_disk_once_and_is_up_again_after_a_cut() {
    let lab = Lab::open("poolmade").unwrap();
    let machine = with_disks(&lab, &[2048, 1024]);
    let said = done(&machine, "create-pool --pool edge-thinpool --device /dev/vdb");
    assert!(said.contains("edge/thinpool made: data 17") && said.contains("metadata 104 MiB"), "{said}");
    let line = status(&machine, "edge-thinpool");
    assert!(
        line.contains(" thin-pool 0 ") && line.contains(" rw ") && line.contains("error_if_no_space"),
        "{line}"
    );
    assert_eq!(lvm(&machine, "lvs", "chunk_size", "edge/thinpool"), "0.12");
    assert_eq!(lvm(&machine, "lvs", "zero", "edge/thinpool"), "");
    assert_eq!(lvm(&machine, "vgs", "vg_tags", "edge"), "edge-bootstrap");
    assert_eq!(lvm(&machine, "lvs", "lv_tags", "edge/thinpool"), "edge-bootstrap");
    assert!(lvm(&machine, "lvs -a", "lv_name", "edge").contains("pmspare"));
    let free: f64 = lvm(&machine, "vgs", "vg_free", "edge").parse().unwrap();
    assert!((100.0..120.0).contains(&free), "{free}");

    thin(&machine, "edge-thinpool", (1, 64));
    machine.sh("echo kept | dd of=/dev/mapper/thin1 conv=fsync status=none").unwrap();
    let number = lvm(&machine, "vgs", "vg_seqno", "edge");
    for act in ["create-pool --device /dev/vdb", "activate-pool", "extend-pool", "repair-pool"] {
        done(&machine, &format!("{act} --pool edge-thinpool"));
    }
    assert_eq!(lvm(&machine, "vgs", "vg_seqno", "edge"), number, "a second run changed something");

    // Ends are told by the clock of systemd's times, which counts no suspend.
    machine
        .sh("unshare --time --boottime 1000000 --fork /usr/bin/edge-bootstrap act activate-pool --pool edge-thinpool")
        .unwrap();
    let end = machine.sh("cat /run/edge-bootstrap/act-activate-pool.json").unwrap();
    let end: serde_json::Value = serde_json::from_str(&end).unwrap();
    assert!(end["at_s"].as_u64().unwrap() < 1_000_000, "{end}");

    machine.sh("vgcreate -q vg0 /dev/vdc; lvcreate -q -L 100M -n mine vg0").unwrap();
    done(&machine, "create-pool --pool vg0-pool --volume-group vg0");
    assert!(status(&machine, "vg0-pool").contains(" rw "));
    let (_, said) = refused(&machine, "create-pool --pool vg0-mine --volume-group vg0");
    assert!(said.contains("vg0/mine is a volume and no thin pool"), "{said}");
    let (code, _) = refused(&machine, "activate-pool --pool no-pool");
    assert_eq!(code, "EB-pool-inactive");

    machine.cut().unwrap();
    machine.boot().unwrap();
    // LVM may have been first: then it was up already.
    done(&machine, "activate-pool --pool edge-thinpool");
    machine.sh("dmsetup create thin1 --table '0 131072 thin /dev/mapper/edge-thinpool 1'").unwrap();
    assert_eq!(machine.sh("head -c 4 /dev/mapper/thin1").unwrap(), "kept");
    machine.sh("dmsetup remove thin1; lvchange -an edge/thinpool").unwrap();
    assert!(done(&machine, "activate-pool --pool edge-thinpool").contains("brought up"));
}

#[test]
fn making_a_pool_goes_on_after_a_kill_and_after_a_cut_at_any_moment() {
    let lab = Lab::open("poolkill").unwrap();
    let machine = with_disks(&lab, &[1024]);
    let mut states = Vec::new();
    for killed_after in (0..12).map(|step| step * 500) {
        begin(&machine);
        machine.sh(&format!("sleep {}.{:03}", killed_after / 1000, killed_after % 1000)).unwrap();
        machine.sh("systemctl kill -s KILL --kill-who=all making 2>/dev/null || true").unwrap();
        gone(&machine);
        states.push((killed_after, left(&machine)));
        goes_on(&machine);
    }
    for cut_after in (0..4).map(|step| 700 + step * 900) {
        begin(&machine);
        std::thread::sleep(Duration::from_millis(cut_after));
        machine.cut().unwrap();
        machine.boot().unwrap();
        states.push((cut_after, left(&machine)));
        goes_on(&machine);
    }
    println!("states after kills and cuts: {states:#?}");
    let kinds: std::collections::BTreeSet<_> = states.iter().map(|(_, left)| left).collect();
    assert!(kinds.len() > 2, "the moments were too alike: {states:?}");
}

/// Begins to make the pool, and does not wait.
fn begin(machine: &Machine) {
    machine
        .sh("systemctl reset-failed making 2>/dev/null || true
             systemd-run --quiet --unit=making -p DefaultDependencies=no /usr/bin/edge-bootstrap act create-pool --pool edge-thinpool --device /dev/vdb")
        .unwrap();
}

fn gone(machine: &Machine) {
    wait_until(Duration::from_secs(30), "the killed act is gone", || {
        let state = machine.sh("systemctl show -p ActiveState --value making")?;
        Ok((state != "active" && state != "deactivating").then_some(()))
    })
    .unwrap();
}

/// What a kill has left on the disk.
fn left(machine: &Machine) -> String {
    machine
        .sh("pvs --noheadings -o pv_name,vg_name,vg_tags 2>/dev/null; lvs -a --noheadings -o lv_name,lv_attr,lv_tags 2>/dev/null")
        .unwrap()
}

/// The next run ends with a whole pool; then all of it is removed for the next kill.
fn goes_on(machine: &Machine) {
    done(machine, "create-pool --pool edge-thinpool --device /dev/vdb");
    assert!(status(machine, "edge-thinpool").contains(" rw "));
    assert!(!left(machine).contains(UNFINISHED), "{}", left(machine));
    thin(machine, "edge-thinpool", (1, 16));
    machine
        .sh("dd if=/dev/zero of=/dev/mapper/thin1 bs=1M count=8 conv=fsync status=none
             dmsetup remove --retry thin1; vgremove -q --force --yes edge; pvremove -q /dev/vdb
             blkdiscard -f /dev/vdb || dd if=/dev/zero of=/dev/vdb bs=1M status=none || true")
        .unwrap();
}
