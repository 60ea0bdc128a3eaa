//! What is not provably empty is refused, in the right words, and not one of its
//! bytes changes.

use std::fs;
use std::path::PathBuf;

use edge_lab::{Lab, Machine};
use sha2::{Digest as _, Sha256};

use super::{done, refused, with_disks};

/// Size in MiB, how the disk is marked, and what the refusal must say.
const DISKS: [(u32, &str, &str); 17] = [
    (32, "mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 $D", "signature of ext4"),
    (320, "mkfs.xfs -q $D", "signature of xfs"),
    (32, "GPT", "partition table gpt"),
    (32, "MBR", "partition vdeX"),
    (32, "pvcreate -q $D", "signature of LVM2_member"),
    (32, "vgcreate -q other $D", "signature of LVM2_member"),
    (
        32,
        "mdadm -q --create /dev/md0 --metadata=1.2 --level=1 --raid-devices=2 --run $D missing; mdadm -q --stop /dev/md0",
        "signature of linux_raid_member|member of the array md",
    ),
    (
        32,
        "mdadm -q --create /dev/md1 --metadata=1.0 --level=1 --raid-devices=2 --run $D missing; mdadm -q --stop /dev/md1",
        "signature of linux_raid_member|member of the array md",
    ),
    (
        32,
        "mdadm -q --create /dev/md2 --metadata=1.2 --level=1 --raid-devices=2 --run $D missing",
        "member of the array md2",
    ),
    (
        32,
        "echo secret >/tmp/key; cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 $D /tmp/key",
        "signature of crypto_LUKS",
    ),
    (32, "mkswap -q $D", "signature of swap"),
    (32, "mkswap -q $D; swapon $D", "swap that is on"),
    (
        32,
        "mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 $D; mkdir -p /mnt/m; mount -o ro $D /mnt/m",
        "mounted at /mnt/m",
    ),
    (32, "dmsetup create holder --table \"0 1000 linear $D 0\"", "(holder)"),
    (32, "echo words | dd of=$D bs=1 seek=70000 conv=notrunc status=none", "data in its first MiB"),
    (32, "echo words | dd of=$D bs=1 seek=33500000 conv=notrunc status=none", "data in its last MiB"),
    (32, "blockdev --setro $D", "read-only"),
];

fn letter(at: usize) -> char {
    char::from(b'b' + u8::try_from(at).unwrap())
}

#[test]
fn a_disk_with_anything_on_it_is_refused_by_name_and_keeps_every_byte() {
    let lab = Lab::open("poolempty").unwrap();
    let mut sizes: Vec<u32> = DISKS.iter().map(|(size, ..)| *size).collect();
    sizes.push(600);
    let machine = with_disks(&lab, &sizes);
    for (at, (size, mark, _)) in DISKS.iter().enumerate() {
        let device = format!("/dev/vd{}", letter(at));
        match *mark {
            "GPT" => write(&machine, &device, &gpt(u64::from(*size) * 2048)),
            "MBR" => write(&machine, &device, &[(0, mbr(0x83))]),
            script => drop(machine.sh(&format!("D={device}; {script}")).unwrap()),
        }
    }
    machine.sh("udevadm settle; sync; for d in /dev/vd[b-z]; do blockdev --flushbufs $d; done").unwrap();
    let before = digests(&machine);
    for (at, (_, mark, words)) in DISKS.iter().enumerate() {
        let device = format!("/dev/vd{}", letter(at));
        let (code, said) = refused(&machine, &format!("create-pool --pool edge-thinpool --device {device}"));
        assert_eq!(code, "EB-pool-space", "{device} ({mark}): {said}");
        let words = words.replace("vdeX", "vde1");
        // udev may have assembled a stopped array again.
        let is_named = words.split('|').any(|words| said.contains(words));
        assert!(is_named && said.contains(&device), "{device} ({mark}): {said}");
    }
    for device in ["/dev/vdzz", "/dev/null", "/root"] {
        let (code, said) = refused(&machine, &format!("create-pool --pool edge-thinpool --device {device}"));
        assert_eq!((code.as_str(), said.contains("is no block device")), ("EB-pool-space", true), "{said}");
    }
    let (_, said) = refused(&machine, "create-pool --pool other-thinpool --volume-group vg0");
    assert!(said.contains("name the pool vg0-thinpool"), "{said}");
    let (_, said) = refused(&machine, "create-pool --pool other-thinpool --volume-group other");
    assert!(said.contains("too little for a pool"), "{said}");
    let free = format!("/dev/vd{}", letter(DISKS.len()));
    let (_, said) = refused(&machine, &format!("create-pool --pool other-thinpool --device {free}"));
    assert!(said.contains("volume group other that is not on"), "{said}");
    machine.sh("sync; for d in /dev/vd[b-z]; do blockdev --flushbufs $d; done").unwrap();
    assert_eq!(digests(&machine), before);
    // The same words on a blank disk make a pool: the refusals were about the disks.
    assert!(done(&machine, &format!("create-pool --pool edge-thinpool --device {free}")).contains("made"));
}

/// SHA-256 of each whole data disk, as it lies outside the machine.
fn digests(machine: &Machine) -> Vec<(PathBuf, Vec<u8>)> {
    let console = machine.console();
    let dir = console.parent().unwrap();
    let paths = (1..=DISKS.len() + 1).map(|at| dir.join(format!("disk{at}.img")));
    paths.map(|path| (path.clone(), Sha256::digest(fs::read(&path).unwrap()).to_vec())).collect()
}

/// Writes bytes at offsets of a device, and has the kernel read its partitions.
fn write(machine: &Machine, device: &str, parts: &[(u64, Vec<u8>)]) {
    for (at, bytes) in parts {
        machine.write_file("/tmp/part", bytes).unwrap();
        let sector = at / 512;
        machine
            .sh(&format!("dd if=/tmp/part of={device} bs=512 seek={sector} conv=notrunc,fsync status=none"))
            .unwrap();
    }
    // udev, which looks at what was just written, makes it busy for a moment.
    let reread =
        format!("for i in 1 2 3 4 5; do udevadm settle; blockdev --rereadpt {device} && exit; done; exit 1");
    machine.sh(&reread).unwrap();
}

/// A master boot record with one partition of this type from 1 MiB on.
fn mbr(kind: u8) -> Vec<u8> {
    let mut sector = vec![0_u8; 512];
    sector[446 + 4] = kind;
    sector[446 + 8..446 + 12].copy_from_slice(&2048_u32.to_le_bytes());
    sector[446 + 12..446 + 16].copy_from_slice(&8192_u32.to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// A GUID partition table without partitions: protective record, header and
/// table at the begin, both again at the end (UEFI 2.10, 5.3).
fn gpt(sectors: u64) -> Vec<(u64, Vec<u8>)> {
    let table = vec![0_u8; 128 * 128];
    let header = |own: u64, other: u64, table_at: u64| {
        let mut it = vec![0_u8; 512];
        it[..8].copy_from_slice(b"EFI PART");
        it[8..12].copy_from_slice(&0x0001_0000_u32.to_le_bytes());
        it[12..16].copy_from_slice(&92_u32.to_le_bytes());
        for (at, value) in [(24, own), (32, other), (40, 34), (48, sectors - 34), (72, table_at)] {
            it[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        it[56..72].copy_from_slice(&[7; 16]);
        it[80..84].copy_from_slice(&128_u32.to_le_bytes());
        it[84..88].copy_from_slice(&128_u32.to_le_bytes());
        it[88..92].copy_from_slice(&crc32(&table).to_le_bytes());
        let sum = crc32(&it[..92]);
        it[16..20].copy_from_slice(&sum.to_le_bytes());
        it
    };
    let last = sectors - 1;
    let begin = [mbr(0xee), header(1, last, 2), table.clone()].concat();
    let second = header(last, 1, last - 32);
    let end = [table, second].concat();
    vec![(0, begin), ((last - 32) * 512, end)]
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |sum: u32, byte: &u8| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xedb8_8320 * (sum & 1)))
    };
    !bytes.iter().fold(u32::MAX, step)
}
