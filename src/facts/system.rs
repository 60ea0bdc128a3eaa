//! Kernel, distribution, cgroups, time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Fact;

/// The system's software below k3s.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    /// `/etc/os-release`.
    pub os: Fact<OsRelease>,
    /// Kernel release, for example `6.1.0-28-amd64`.
    pub kernel: Fact<String>,
    /// Kernel command line.
    pub cmdline: Fact<String>,
    /// Loaded modules, by name.
    pub modules: Fact<Vec<String>>,
    /// File systems that the kernel knows now.
    pub filesystems: Fact<Vec<String>>,
    /// Control groups.
    pub cgroup: Fact<Cgroup>,
    /// Version of systemd, for example 252.
    pub systemd: Fact<u32>,
    /// Clock.
    pub time: Time,
    /// Kernel settings that a node needs, by name.
    pub sysctl: BTreeMap<String, Fact<String>>,
}

/// `/etc/os-release`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OsRelease {
    /// `ID`, for example `debian`.
    pub id: String,
    /// `ID_LIKE`, split.
    pub id_like: Vec<String>,
    /// `VERSION_ID`; empty on rolling releases.
    pub version_id: String,
    /// `PRETTY_NAME`.
    pub pretty_name: String,
}

/// Control groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    /// Which tree is at `/sys/fs/cgroup`.
    pub version: CgroupVersion,
    /// Controllers that can be used.
    pub controllers: Vec<String>,
}

/// Which cgroup tree a host runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupVersion {
    /// One hierarchy per controller.
    V1,
    /// v1 with a v2 tree beside it; counts as v1.
    Hybrid,
    /// The unified hierarchy.
    V2,
}

/// The clock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Time {
    /// Seconds since 1970.
    pub now: Fact<u64>,
    /// Whether the kernel says that the clock is synchronised (`adjtimex`).
    pub synchronized: Fact<bool>,
    /// Whether a time service is on, as timedated tells.
    pub ntp: Fact<bool>,
}
