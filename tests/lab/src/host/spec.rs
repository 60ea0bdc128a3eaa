//! What a lab host shall be: plain data, no action.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use super::hardware::Hardware;
use crate::cgroup;
use crate::disk::Fs;
use crate::root::Suite;

/// The cgroup tree that a host sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cgroups {
    /// v2. On a machine with v1 hierarchies it has no controllers: runc then
    /// refuses every limit, so no pods.
    V2,
    /// v1 with systemd's own v2 tree beside it; needs a machine that has v1.
    Hybrid,
    /// v1 alone; needs a machine that has v1, and systemd 257 or older.
    V1,
}

impl Cgroups {
    /// The tree in which runc can set limits on this machine, if `suite` can
    /// have it: systemd from 258 on has v2 alone.
    #[must_use]
    pub fn with_controllers(suite: Suite) -> Self {
        if cgroup::pure_v2() || suite == Suite::Sid { Self::V2 } else { Self::V1 }
    }
}

/// A file or directory of the machine that the host sees.
#[derive(Debug, Clone)]
pub struct Bind {
    /// Where it is on the machine.
    pub source: PathBuf,
    /// Where the host sees it.
    pub target: PathBuf,
    /// Whether the host may write there.
    pub writable: bool,
}

impl Bind {
    /// `source` of the machine, seen as `target`, read-only.
    pub fn read_only(source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Self { source: source.into(), target: target.into(), writable: false }
    }

    pub(super) fn argument(&self) -> String {
        let how = if self.writable { "bind" } else { "bind-ro" };
        format!("--{how}={}:{}", self.source.display(), self.target.display())
    }
}

/// What a host shall be; start from [`HostSpec::new`] and change fields.
#[derive(Debug, Clone)]
pub struct HostSpec {
    /// Its name in the lab, at most 11 of `a-z`, `0-9`, `-`.
    pub name: String,
    /// Its Debian.
    pub suite: Suite,
    /// Its address in 10.77.0.0/16; `None`: the lab's next one, from 10.77.0.11.
    pub address: Option<Ipv4Addr>,
    /// The name that the machine room gave it (it has no `/etc/hostname`).
    pub hostname: String,
    /// Its cgroup tree.
    pub cgroups: Cgroups,
    /// What it sees of the machine's files.
    pub binds: Vec<Bind>,
    /// The file system of its disk.
    pub fs: Fs,
    /// The size of its disk in MiB; the file is sparse.
    pub disk_mib: u32,
    /// Whether a real kubelet can run: it reads the machine's `/dev/kmsg`.
    pub kubelet: bool,
    /// More arguments for systemd-nspawn.
    pub nspawn: Vec<String>,
    /// Board and disks of its own; `None`: what the machine shows.
    pub hardware: Option<Hardware>,
    /// Packages beside those that every host has.
    pub packages: &'static [&'static str],
}

impl HostSpec {
    /// A host with 8 GiB of ext4, cgroup v2, and its name as hostname.
    #[must_use]
    pub fn new(name: &str, suite: Suite) -> Self {
        Self {
            name: name.to_owned(),
            suite,
            address: None,
            hostname: name.to_owned(),
            cgroups: Cgroups::V2,
            binds: Vec::new(),
            fs: Fs::Ext4,
            disk_mib: 8192,
            kubelet: false,
            nspawn: Vec::new(),
            hardware: None,
            packages: &[],
        }
    }

    /// The same, for a real k3s: with `/dev/kmsg` and limits by cgroup.
    #[must_use]
    pub fn with_kubelet(name: &str, suite: Suite) -> Self {
        let cgroups = Cgroups::with_controllers(suite);
        Self { kubelet: true, cgroups, ..Self::new(name, suite) }
    }
}
