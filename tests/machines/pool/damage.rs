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

/// Destroys one block of the metadata that thin_check misses and thin_repair
/// makes again: which one it is, is tried on copies.
fn damage(machine: &Machine) {
    machine
        .sh("lvchange -an edge/thinpool
             lvchange -q --yes -ay edge/thinpool_tmeta
             M=/dev/mapper/edge-thinpool_tmeta
             dd if=$M of=/tmp/whole bs=4k count=2048 status=none; thin_dump $M >/tmp/dump
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
             lvchange -q -an edge/thinpool_tmeta
             dd if=/dev/urandom of=/dev/vdb bs=4k count=1 seek=$((at / 8 + found)) conv=notrunc,fsync status=none
             blockdev --flushbufs /dev/vdb")
        .unwrap();
}
