//! containerd on real disks and a real device-mapper: which snapshotter is
//! chosen, what comes back after power cuts, what a killed daemon leaves.

mod cuts;
mod journal;
mod kills;
mod orphan;
mod room;

use edge_lab::{Lab, MachineSpec, RootFs, Suite};

#[test]
fn a_machine_can_have_a_root_on_xfs_without_file_types_and_overlayfs_refuses_it() {
    let lab = Lab::open("xfs").unwrap();
    let spec = MachineSpec {
        root: RootFs::XfsNoFtype,
        disks: vec![2048],
        serials: vec!["ROOT-1".to_owned(), "POOL-1".to_owned()],
        ..MachineSpec::new("m1", Suite::Bookworm)
    };
    let machine = lab.machine(spec).unwrap();
    assert_eq!(machine.boot().unwrap(), "running");
    assert!(machine.sh("xfs_info /").unwrap().contains("ftype=0"));
    let plugins = machine.sh("ctr plugins ls").unwrap();
    let overlayfs = plugins.lines().find(|line| line.contains(" overlayfs ")).unwrap_or_default();
    assert!(overlayfs.trim_end().ends_with("error"), "{plugins}");
    machine.sh("test -b /dev/disk/by-id/virtio-POOL-1").unwrap();
    machine.write_file("/root/large", &vec![7; 3 << 20]).unwrap();
    machine.cut().unwrap();
    assert_eq!(machine.boot().unwrap(), "running");
    assert_eq!(machine.sh("stat -c %s /root/large").unwrap(), (3 << 20).to_string());
}
