//! Laws that need a kernel, a clock or disks of their own: Debian in QEMU.
//!
//! Needs root; a run as somebody else fails and says so. One machine at a time:
//! an emulated one takes all processors of a small test machine.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use edge_lab::{Lab, MachineSpec, Suite};

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
