//! Processors, memory, disks and file systems.

use serde::{Deserialize, Serialize};

use super::Fact;

/// The parts of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    /// Logical processors.
    pub cpus: Fact<u32>,
    /// Architecture as in k3s's artifacts: `amd64`, `arm64`.
    pub arch: Fact<String>,
    /// Memory and swap.
    pub memory: Fact<Memory>,
    /// Whole disks, by name.
    pub disks: Fact<Vec<Disk>>,
    /// Mounted file systems that hold data, by mount point.
    pub filesystems: Fact<Vec<Filesystem>>,
}

impl Hardware {
    /// Drops what changes by itself while a host runs.
    pub fn forget_usage(&mut self) {
        if let Fact::Known(memory) = &mut self.memory {
            memory.available_bytes = 0;
        }
        self.filesystems = Fact::default();
    }
}

/// Memory and swap in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Installed.
    pub total_bytes: u64,
    /// Usable without swapping.
    pub available_bytes: u64,
    /// Swap that is on; 0 when there is none.
    pub swap_total_bytes: u64,
}

/// One whole disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Kernel name, for example `sda`.
    pub name: String,
    /// Serial number or WWN.
    pub serial: Fact<String>,
    /// Model.
    pub model: Fact<String>,
    /// Size in bytes.
    pub size_bytes: Fact<u64>,
    /// Turning platters.
    pub rotational: Fact<bool>,
    /// A removable medium, or a disk on USB or of the network: it may go from
    /// host to host and tells nothing about this one.
    #[serde(default)]
    pub removable: Fact<bool>,
}

/// One mounted file system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filesystem {
    /// Where it is mounted.
    pub mount_point: String,
    /// Device or source.
    pub source: String,
    /// Type, for example `ext4`.
    pub fs_type: String,
    /// Mount and superblock options.
    pub options: Vec<String>,
    /// Size in bytes.
    pub total_bytes: Fact<u64>,
    /// Bytes free for root.
    pub free_bytes: Fact<u64>,
    /// Free inodes; unknown where the file system has no fixed number.
    pub free_inodes: Fact<u64>,
}
