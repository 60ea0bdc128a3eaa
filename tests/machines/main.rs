//! Laws that need a kernel, a clock or disks of their own: Debian in QEMU.
//!
//! Needs root; a run as somebody else fails and says so. One machine at a time:
//! an emulated one takes all processors of a small test machine.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod clock;
mod hardware;
mod pool;
mod runtime;

use std::net::Ipv4Addr;

use edge_lab::{Lab, MachineSpec, Profile, Suite, programs};

#[test]
fn a_machine_keeps_what_was_synced_when_its_power_is_cut() {
    let lab = Lab::open("machine").unwrap();
    let machine = lab.machine(MachineSpec::new("m1", Suite::Bookworm)).unwrap();
    assert_eq!(machine.boot().unwrap(), "running");
    machine.write_file("/root/synced", b"kept").unwrap();
    machine.sh("echo lost >/root/not-synced").unwrap();
    machine.cut().unwrap();
    machine.boot().unwrap();
    assert_eq!(machine.sh("cat /root/synced").unwrap(), "kept");
    assert_eq!(machine.sh("cat /root/not-synced 2>/dev/null || true").unwrap(), "");
}

#[test]
fn a_machine_has_device_mapper_a_data_disk_and_the_labs_network() {
    let lab = Lab::open("devices").unwrap();
    let address = Some(Ipv4Addr::new(10, 77, 1, 2));
    let spec = MachineSpec { disks: vec![256], address, ..MachineSpec::new("m1", Suite::Bookworm) };
    let machine = lab.machine(spec).unwrap();
    assert_eq!(machine.boot().unwrap(), "running");
    machine.sh("dmsetup create part --table '0 1000 linear /dev/vdb 0'").unwrap();
    machine.sh("echo written >/dev/mapper/part").unwrap();
    machine.sh("ping -c 1 -W 5 10.77.0.1").unwrap();
    assert_eq!(machine.sh("stat -fc %T /sys/fs/cgroup").unwrap(), "cgroup2fs");
    machine.off().unwrap();
}

#[test]
fn the_package_installs_in_a_machine_and_reads_its_board_and_disks() {
    let package = programs::package(Profile::Dev, "").unwrap();
    let lab = Lab::open("package").unwrap();
    let board = ["-smbios", "type=1,uuid=8d3b6d2e-7a4f-4c39-9b1e-3f6a5d0c2b71,serial=EDGE-0001"];
    let qemu = board.map(str::to_owned).to_vec();
    let machine = lab.machine(MachineSpec { qemu, ..MachineSpec::new("m1", Suite::Bookworm) }).unwrap();
    machine.boot_and_install(&package).unwrap();
    let facts = machine.sh("edge-bootstrap facts --json").unwrap();
    assert!(facts.to_lowercase().contains("8d3b6d2e-7a4f-4c39-9b1e-3f6a5d0c2b71"), "{facts}");
    assert!(facts.contains("EDGE-0001"), "{facts}");
    machine.sh("sync -f /").unwrap();
    machine.cut().unwrap();
    machine.boot().unwrap();
    machine.sh("systemctl is-enabled edge-bootstrap.service").unwrap();
    machine.sh("edge-bootstrap facts --json >/dev/null").unwrap();
}
