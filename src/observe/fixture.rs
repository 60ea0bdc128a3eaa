//! Directory trees that stand for hosts.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test builds its own tree and may stop at once"
)]

use std::fs;
use std::os::unix::fs::symlink;

use crate::sys::Root;

pub struct Tree {
    directory: tempfile::TempDir,
}

impl Tree {
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub fn root(&self) -> Root {
        Root::new(self.directory.path())
    }

    pub fn file(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        let real = self.root().path(path);
        fs::create_dir_all(real.parent().unwrap()).unwrap();
        fs::write(real, content).unwrap();
        self
    }

    pub fn link(&self, path: &str, target: &str) -> &Self {
        let real = self.root().path(path);
        fs::create_dir_all(real.parent().unwrap()).unwrap();
        symlink(target, real).unwrap();
        self
    }

    /// Puts `garbage` into every file; links and directories stay.
    pub fn garble(&self, garbage: &[u8]) {
        let mut directories = vec![self.root().path("/")];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
                let kind = entry.file_type().unwrap();
                if kind.is_dir() {
                    directories.push(entry.path());
                } else if kind.is_file() {
                    fs::write(entry.path(), garbage).unwrap();
                }
            }
        }
    }

    pub fn directory(&self, path: &str) -> &Self {
        fs::create_dir_all(self.root().path(path)).unwrap();
        self
    }
}

/// Bare metal with Debian 12: ext4 and xfs, one NIC of two in a bond, cgroup v2.
pub fn debian() -> Tree {
    let tree = Tree::new();
    kernel(&tree, "6.1.0-28-amd64", "172-16-36-1");
    tree.file("/etc/hostname", "172-16-36-1\n")
        .file("/etc/machine-id", "0123456789abcdef0123456789abcdef\n")
        .file(
            "/etc/os-release",
            "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n",
        )
        .file("/usr/lib/x86_64-linux-gnu/systemd/libsystemd-shared-252.so", "")
        .file("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n")
        .file("/usr/lib/systemd/system/containerd.service", "[Service]\nExecStart=/usr/bin/containerd\n")
        .file("/usr/bin/containerd", "")
        .file(
            "/.facts/containerd-version",
            "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3\n",
        )
        .file("/.facts/addresses", "eth0 172.16.36.1/24\neth0 fe80::1/64\nlo 127.0.0.1/8\n")
        .file("/.facts/arch", "amd64\n")
        .file("/usr/lib/cni/loopback", "")
        .file("/run/systemd/timesync/synchronized", "")
        .file(
            "/proc/self/mountinfo",
            "25 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw,errors=remount-ro\n\
             26 25 0:24 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n\
             27 25 8:3 / /var/lib/containerd rw,noatime shared:2 - xfs /dev/sda3 rw,attr2\n\
             28 25 0:30 / /proc rw - proc proc rw\n",
        );
    board(&tree);
    nic(&tree);
    disks(&tree);
    tree
}

fn kernel(tree: &Tree, release: &str, hostname: &str) {
    tree.file("/proc/sys/kernel/osrelease", format!("{release}\n"))
        .file("/proc/sys/kernel/hostname", format!("{hostname}\n"))
        .file("/proc/sys/kernel/random/boot_id", "7b0c9e0a-0000-4000-8000-000000000001\n")
        .file("/proc/cmdline", "root=/dev/sda2 quiet\n")
        .file("/proc/modules", "overlay 1 0 - Live 0x0\nbr_netfilter 1 0 - Live 0x0\n")
        .file("/proc/filesystems", "nodev\toverlay\n\text4\n")
        .file("/proc/meminfo", "MemTotal: 4096 kB\nMemAvailable: 2048 kB\nSwapTotal: 1024 kB\n")
        .file("/proc/sys/net/ipv4/ip_forward", "1\n")
        .file("/sys/devices/system/cpu/online", "0-3\n")
        .file("/etc/resolv.conf", "search lan\nnameserver 10.0.0.53\n")
        .file(
            "/proc/net/route",
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
             eth0\t00000000\tFE2410AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n",
        );
}

fn board(tree: &Tree) {
    let dmi = |name: &str| format!("/sys/class/dmi/id/{name}");
    tree.file(&dmi("product_uuid"), "4C4C4544-0042-3510-8052-B4C04F4D3132\n")
        .file(&dmi("product_serial"), "7XK2Q93\n")
        .file(&dmi("board_serial"), "Default string\n")
        .file(&dmi("chassis_serial"), "To Be Filled By O.E.M.\n")
        .file(&dmi("sys_vendor"), "Dell Inc.\n")
        .file(&dmi("product_name"), "PowerEdge R640\n");
}

fn nic(tree: &Tree) {
    let net = |rest: &str| format!("/sys/class/net/{rest}");
    tree.file(&net("bonding_masters"), "bond0\n")
        .directory(&net("lo"))
        .file(&net("eth0/address"), "52:54:00:AA:BB:01\n")
        .file(&net("eth0/addr_assign_type"), "0\n")
        .file(&net("eth0/carrier"), "1\n")
        .link(&net("eth0/device/driver"), "../../../bus/pci/drivers/igb")
        .file(&net("eth1/address"), "52:54:00:aa:bb:01\n")
        .file(&net("eth1/addr_assign_type"), "3\n")
        .file(&net("eth1/bonding_slave/perm_hwaddr"), "52:54:00:aa:bb:02\n")
        .file(&net("veth0/address"), "0a:00:00:00:00:01\n")
        .file(&net("veth0/addr_assign_type"), "1\n");
}

fn disks(tree: &Tree) {
    let block = |rest: &str| format!("/sys/block/{rest}");
    tree.file(&block("sda/size"), "2048\n")
        .file(&block("sda/queue/rotational"), "1\n")
        .file(&block("sda/device/model"), "ST2000NM  \n")
        .file(&block("sda/device/vpd_pg80"), b"\x00\x80\x00\x08WD-00042")
        .file(&block("vda/size"), "4096\n")
        .file(&block("vda/serial"), "edge-1\n")
        .directory(&block("loop0"))
        .directory(&block("dm-0"));
}

/// RHEL 7: kernel 3.10, cgroup v1 with a systemd tree, no MemAvailable.
pub fn rhel_7() -> Tree {
    let tree = Tree::new();
    kernel(&tree, "3.10.0-1160.el7.x86_64", "localhost.localdomain");
    tree.file("/etc/hostname", "node-by-hand\n")
        .file(
            "/etc/os-release",
            "ID=\"rhel\"\nID_LIKE=\"fedora\"\nVERSION_ID=\"7.9\"\nPRETTY_NAME=\"Red Hat Enterprise Linux\"\n",
        )
        .file("/proc/meminfo", "MemTotal: 4096 kB\nMemFree: 1024 kB\n")
        .file(
            "/proc/cgroups",
            "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t3\t1\t1\nmemory\t0\t1\t0\n",
        )
        .file("/etc/systemd/system/containerd.service", "[Service]\nExecStart=/usr/local/bin/containerd\n")
        .file("/usr/local/bin/containerd", "")
        .file(
            "/.facts/containerd-version",
            "containerd containerd.io 1.6.33 d2d58213f83a351ca8f528a95fbd145f5654e957\n",
        )
        .file("/.facts/addresses", "")
        .directory("/opt/cni/bin")
        .directory("/usr/libexec/cni")
        .file("/usr/libexec/cni/loopback", "")
        .file(
            "/proc/self/mountinfo",
            "17 1 253:0 / / rw shared:1 - xfs /dev/mapper/rhel-root rw,attr2\n\
             23 17 0:20 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n\
             24 23 0:21 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
             25 23 0:22 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n",
        );
    tree
}
