//! Pools that are full or damaged, for real: nothing that was written is lost.

use edge_lab::{Lab, Machine};

use super::{done, lvm, refused, status, thin, with_disks};

/// Writes 8 MiB that can be told again, and gives their digest.
fn written(machine: &Machine, device: &str) -> String {
    machine
        .sh(&format!(
            "head -c 8388608 /dev/urandom >/tmp/{device}; dd if=/tmp/{device} of=/dev/mapper/{device} bs=1M conv=fsync status=none"
        ))
        .unwrap();
    machine.sh(&format!("sha256sum </tmp/{device}")).unwrap()
}

/// The digest of these 8 MiB as the device has them now.
fn read(machine: &Machine, device: &str) -> String {
    machine
        .sh(&format!(
            "blockdev --flushbufs /dev/mapper/{device}; head -c 8388608 /dev/mapper/{device} | sha256sum"
        ))
        .unwrap()
}

#[test]
fn a_pool_without_room_for_data_is_told_extended_and_has_lost_nothing() {
    let lab = Lab::open("poolfull").unwrap();
    let machine = with_disks(&lab, &[600]);
    done(&machine, "create-pool --pool edge-thinpool --device /dev/vdb");
    thin(&machine, "edge-thinpool", (1, 2048));
    let digest = written(&machine, "thin1");
    machine
        .sh("dd if=/dev/zero of=/dev/mapper/thin1 bs=1M seek=16 oflag=direct status=none 2>/dev/null || true")
        .unwrap();
    let line = status(&machine, "edge-thinpool");
    assert!(line.contains(" out_of_data_space "), "{line}");
    let said = done(&machine, "extend-pool --pool edge-thinpool");
    assert!(said.contains("edge-thinpool: data +"), "{said}");
    let line = status(&machine, "edge-thinpool");
    assert!(line.contains(" rw "), "{line}");
    assert_eq!(read(&machine, "thin1"), digest);
    machine
        .sh("dd if=/dev/zero of=/dev/mapper/thin1 bs=1M seek=16 oflag=direct status=none 2>/dev/null || true")
        .unwrap();
    let (code, said) = refused(&machine, "extend-pool --pool edge-thinpool");
    assert_eq!(code, "EB-pool-full", "{said}");
    assert!(said.contains("data 100 %") && said.contains("vgextend edge"), "{said}");
    assert_eq!(read(&machine, "thin1"), digest);
}

#[test]
fn a_pool_without_room_for_metadata_is_told_extended_and_has_lost_nothing() {
    let lab = Lab::open("poolmeta").unwrap();
    let machine = with_disks(&lab, &[1024]);
    machine
        .sh("vgcreate -q -s 1M edge /dev/vdb
             lvcreate -q --yes --type thin-pool -n thinpool -L 600M --poolmetadatasize 2M --chunksize 64k -Zn edge")
        .unwrap();
    // The older device is looked at first, and nobody has it open.
    thin(&machine, "edge-thinpool", (2, 16));
    thin(&machine, "edge-thinpool", (1, 400));
    let digest = written(&machine, "thin1");
    machine
        .sh("i=10; while [ $i -lt 1000 ] && dmsetup message /dev/mapper/edge-thinpool 0 \"create_thin $i\" 2>/dev/null; do i=$((i + 1)); done
             for part in 100 150 200 250 300 350; do
               dd if=/dev/zero of=/dev/mapper/thin1 bs=1M seek=$part count=20 oflag=direct conv=notrunc status=none 2>/dev/null || true
             done")
        .unwrap();
    let line = status(&machine, "edge-thinpool");
    assert!(line.contains(" ro ") && line.contains(" 512/512 "), "{line}");
    machine.sh("sleep 1000 </dev/mapper/thin1 >/dev/null 2>&1 & echo $! >/tmp/holder").unwrap();
    let (code, said) = refused(&machine, "repair-pool --pool edge-thinpool");
    assert_eq!(
        (code.as_str(), said.contains("thin1 on edge-thinpool is in use")),
        ("EB-pool-check", true),
        "{said}"
    );
    // Not one of them is removed where any is in use.
    machine.sh("dmsetup info thin2 && dmsetup remove --retry thin2").unwrap();
    let said = done(&machine, "extend-pool --pool edge-thinpool");
    assert!(said.contains("metadata +"), "{said}");
    let line = status(&machine, "edge-thinpool");
    assert!(line.contains(" rw ") && !line.contains("needs_check"), "{line}");
    assert_eq!(read(&machine, "thin1"), digest);
    machine.sh("kill $(cat /tmp/holder); udevadm settle; dmsetup remove --retry thin1").unwrap();
    machine.sh("dmsetup create thin1 --table '0 819200 thin /dev/mapper/edge-thinpool 1'").unwrap();
    assert_eq!(read(&machine, "thin1"), digest);
    thin(&machine, "edge-thinpool", (9999, 16));
}

#[test]
fn damaged_metadata_are_repaired_once_with_the_old_ones_kept() {
    let lab = Lab::open("pooldamage").unwrap();
    let machine = with_disks(&lab, &[1024]);
    done(&machine, "create-pool --pool edge-thinpool --device /dev/vdb");
    thin(&machine, "edge-thinpool", (1, 64));
    let digest = written(&machine, "thin1");
    machine.sh("dmsetup remove --retry thin1").unwrap();
    damage(&machine);
    let (code, said) = refused(&machine, "activate-pool --pool edge-thinpool");
    assert_eq!(code, "EB-pool-check", "{said}");
    let said = done(&machine, "repair-pool --pool edge-thinpool");
    assert!(said.contains("was repaired and is up"), "{said}");
    assert!(lvm(&machine, "lvs -a", "lv_name", "edge").contains("thinpool_meta0"));
    machine.sh("dmsetup create thin1 --table '0 131072 thin /dev/mapper/edge-thinpool 1'").unwrap();
    assert_eq!(read(&machine, "thin1"), digest);
    machine.sh("dmsetup remove --retry thin1").unwrap();
    damage(&machine);
    let (code, said) = refused(&machine, "repair-pool --pool edge-thinpool");
    assert_eq!(code, "EB-pool-failed", "{said}");
    assert!(said.contains("was repaired before") && said.contains("lvremove edge/thinpool_meta0"), "{said}");
}

#[test]
fn a_pool_that_the_kernel_wants_checked_is_checked_and_repaired_only_where_a_check_fails() {
    let lab = Lab::open("poolcheck").unwrap();
    let machine = with_disks(&lab, &[1024]);
    done(&machine, "create-pool --pool edge-thinpool --device /dev/vdb");
    thin(&machine, "edge-thinpool", (1, 256));
    let digest = written(&machine, "thin1");
    fail_a_commit(&machine, 32);
    let (code, said) = refused(&machine, "extend-pool --pool edge-thinpool");
    assert_eq!(code, "EB-pool-check", "{said}");
    machine.sh("/usr/bin/edge-bootstrap act look-at-storage --pool edge-thinpool").unwrap();
    let seen = machine.sh("cat /run/edge-bootstrap/storage.json").unwrap();
    assert!(seen.contains("\"needs_check\":true"), "{seen}");

    let said = done(&machine, "repair-pool --pool edge-thinpool");
    assert!(said.contains("was checked and is up"), "{said}");
    back(&machine, &digest);
    assert!(!lvm(&machine, "lvs -a", "lv_name", "edge").contains("_meta0"));

    // Down for a reason that has nothing to do with its metadata.
    machine
        .sh("dmsetup remove --retry thin1; lvchange -q -an edge/thinpool; lvchange -q -ky edge/thinpool")
        .unwrap();
    let number = lvm(&machine, "vgs", "vg_seqno", "edge");
    let (code, said) = refused(&machine, "repair-pool --pool edge-thinpool");
    assert_eq!((code.as_str(), said.contains("is not active")), ("EB-pool-inactive", true), "{said}");
    assert_eq!(lvm(&machine, "vgs", "vg_seqno", "edge"), number, "it was changed all the same");
    machine.sh("lvchange -q -kn edge/thinpool").unwrap();
    done(&machine, "activate-pool --pool edge-thinpool");

    // The kernel wants a check, and that one does not pass.
    back(&machine, &digest);
    fail_a_commit(&machine, 64);
    break_a_block(&machine);
    let said = done(&machine, "repair-pool --pool edge-thinpool");
    assert!(said.contains("was repaired and is up"), "{said}");
    back(&machine, &digest);
    let kept = "lvchange -q -ay edge/thinpool_meta0; thin_check -q /dev/edge/thinpool_meta0 && echo whole || echo damaged";
    assert_eq!(machine.sh(kept).unwrap(), "damaged");
}

/// Has the kernel set `needs_check`: the device below the metadata fails writes
/// while a write to new blocks is committed. Then it is well again.
fn fail_a_commit(machine: &Machine, at_mib: u32) {
    machine
        .sh(&format!(
            "modprobe dm_flakey
             put() {{ dmsetup suspend $M; dmsetup load $M --table \"$1\"; dmsetup resume $M; }}
             M=edge-thinpool_tmeta
             well=$(dmsetup table $M); set -- $well
             put \"$1 $2 flakey $4 $5 0 3600 1 error_writes\"
             dd if=/dev/urandom of=/dev/mapper/thin1 bs=1M seek={at_mib} count=4 conv=notrunc,fsync status=none 2>/dev/null || true
             i=0; until dmsetup status edge-thinpool | grep -q needs_check; do i=$((i + 1)); [ $i -lt 100 ]; sleep 0.1; done
             put \"$well\""
        ))
        .unwrap();
    let line = status(machine, "edge-thinpool");
    assert!(line.contains(" ro ") && line.contains(" needs_check "), "{line}");
}

/// The pool takes writes, and what was written before is there.
fn back(machine: &Machine, digest: &str) {
    let line = status(machine, "edge-thinpool");
    assert!(line.contains(" rw ") && !line.contains("needs_check"), "{line}");
    machine
        .sh("dmsetup info thin1 >/dev/null 2>&1 || dmsetup create thin1 --table '0 524288 thin /dev/mapper/edge-thinpool 1'")
        .unwrap();
    assert_eq!(read(machine, "thin1"), digest);
}

/// Destroys one block of the metadata of a pool that is down.
fn damage(machine: &Machine) {
    machine.sh("lvchange -an edge/thinpool; lvchange -q --yes -ay edge/thinpool_tmeta").unwrap();
    break_a_block(machine);
    machine.sh("lvchange -q -an edge/thinpool_tmeta").unwrap();
}

/// Destroys one block of the metadata, below device-mapper, that thin_check
/// misses and thin_repair makes again: which one it is, is tried on copies.
fn break_a_block(machine: &Machine) {
    machine
        .sh("M=/dev/mapper/edge-thinpool_tmeta
             dd if=$M of=/tmp/whole bs=4k count=2048 iflag=direct status=none; thin_dump /tmp/whole >/tmp/dump
             found=
             for block in $(seq 1 40); do
               cp /tmp/whole /tmp/broken
               dd if=/dev/urandom of=/tmp/broken bs=4k count=1 seek=$block conv=notrunc status=none
               if ! thin_check -q /tmp/broken; then
                 truncate -s 8M /tmp/mended
                 thin_repair -i /tmp/broken -o /tmp/mended >/dev/null 2>&1 || continue
                 thin_dump /tmp/mended >/tmp/again || continue
                 cmp -s /tmp/dump /tmp/again && { found=$block; break; }
               fi
             done
             [ -n \"$found\" ]
             at=$(dmsetup table edge-thinpool_tmeta | cut -d' ' -f5)
             dd if=/dev/urandom of=/dev/vdb bs=4k count=1 seek=$((at / 8 + found)) conv=notrunc,fsync status=none
             blockdev --flushbufs /dev/vdb $M")
        .unwrap();
}
