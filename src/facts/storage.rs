//! containerd's root, what lies in it, and what a snapshotter could stand on.
//!
//! Owns shapes. What needs privileges beyond the daemon's sandbox (a mount, the
//! device-mapper control device, raw disks) comes from the act `look-at-storage`,
//! which leaves a [`Look`] in the run directory; everything else is read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Fact;
use super::store::Store;
use crate::role::Snapshotter;

/// What decides about the snapshotter, and whether the store is whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Storage {
    /// The file system below containerd's root.
    pub root: Fact<StoreRoot>,
    /// containerd's databases, by their headers and sizes.
    pub databases: Fact<Vec<Database>>,
    /// Snapshotters with content below the root, each with the number of its snapshots.
    pub content: Fact<BTreeMap<String, u64>>,
    /// The last look with privileges in this boot.
    pub look: Fact<Look>,
    /// What was decided on this host before, and where its store was then.
    pub choice: Fact<Option<Choice>>,
    /// What a repair of the store would have to know.
    pub store: Store,
    /// Archives whose images are in the store, synced, by SHA-256.
    pub archives: Fact<Vec<String>>,
}

/// The file system that holds containerd's root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreRoot {
    /// Where it is mounted: `/`, `/var`, `/var/lib/containerd`, …
    pub mount_point: String,
    /// Our own records lie on the same mount: it is the one that they tell of,
    /// or a copy of it.
    pub holds_records: bool,
    /// `ext4`, `xfs`, `overlay`, `nfs4`, …
    pub fs_type: String,
    /// `/dev/sda2`, `172.16.0.9:/export`, …
    pub source: String,
    /// UUID of the file system, as `/dev/disk/by-uuid` names it.
    pub uuid: Fact<String>,
    /// Whether directory entries tell their type.
    pub d_type: Fact<bool>,
    /// xfs: whether it was made with `ftype=1`; `None` for other file systems.
    pub xfs_ftype: Fact<Option<bool>>,
    /// Mounted read-only.
    pub read_only: bool,
    /// Free space in bytes, for root.
    pub free_bytes: Fact<u64>,
    /// Size in bytes.
    pub total_bytes: Fact<u64>,
    /// Free inodes; `None` where there is no fixed number of them.
    pub free_inodes: Fact<Option<u64>>,
}

/// One database file of containerd (bbolt).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Absolute path below the root.
    pub path: String,
    /// What its header and its size say.
    pub state: DatabaseState,
}

/// Whether a database can be opened at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DatabaseState {
    /// Both or one of its headers are valid and the file is as long as they say.
    Whole,
    /// No bytes at all.
    Empty,
    /// Says what is wrong.
    Damaged(String),
}

/// What the act `look-at-storage` saw, in this boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Look {
    /// Boot in which it looked; another one's result is unknown.
    pub boot_id: String,
    /// Seconds after that boot.
    pub since_boot_s: u64,
    /// What the settings named then.
    pub named: Named,
    /// Whether directory entries below containerd's root tell their type, tried with new ones.
    pub d_type: Fact<bool>,
    /// A real overlay mount below containerd's root.
    pub overlay: Fact<OverlayTest>,
    /// Device-mapper targets of the kernel: `thin-pool`, `thin`, …
    pub targets: Fact<Vec<String>>,
    /// Programs that thin pools take and that are not installed.
    pub missing_tools: Vec<String>,
    /// The pool that the settings name; `None`: there is no such device.
    pub pool: Fact<Option<Pool>>,
    /// The volume group that the settings name; `None`: there is none.
    pub group: Fact<Option<VolumeGroup>>,
    /// The block device that the settings name; `None`: there is none.
    pub device: Fact<Option<Device>>,
}

/// The pool of the settings, and what it lies on, when a look was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Named {
    /// Device-mapper name of the pool.
    pub pool: Option<String>,
    /// Volume group that holds it.
    pub group: Option<String>,
    /// Block device that holds it.
    pub device: Option<String>,
}

/// How the overlay mount went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OverlayTest {
    /// Mounted with two lower directories, read, and a lower file removed.
    Works,
    /// Says which step failed, and the name of the error: `EINVAL`, `ENODEV`, …
    Fails {
        /// `mount`, `read`, `remove`, …
        step: String,
        /// Name of the errno.
        errno: String,
    },
}

/// A thin pool as device-mapper tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pool {
    /// Its device-mapper name.
    pub name: String,
    /// Whether the device exists now; LVM may know a pool that is not active.
    pub active: bool,
    /// `rw`, `ro`, `out_of_data_space`, `fail`.
    pub mode: String,
    /// Its metadata must be checked before it takes another write.
    pub needs_check: bool,
    /// Data blocks in use and in all.
    pub data: (u64, u64),
    /// Metadata blocks in use and in all.
    pub metadata: (u64, u64),
    /// LVM: its volume group and logical volume.
    pub volume: Option<(String, String)>,
}

/// A volume group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeGroup {
    /// Its name.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// Free bytes.
    pub free: u64,
    /// Some of its disks are missing.
    pub is_partial: bool,
}

/// A block device that a pool could be made on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// Its path.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// Everything that says that it is not empty: signatures, partitions,
    /// mounts, holders, swap. Empty: provably empty.
    pub in_use: Vec<String>,
}

/// What was decided, and where the store was when it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// The snapshotter.
    pub snapshotter: Snapshotter,
    /// devmapper: name of the pool.
    #[serde(default)]
    pub pool: Option<String>,
    /// devmapper: size of a new container's device, for example `10GB`; never changed.
    #[serde(default)]
    pub base_image_size: Option<String>,
    /// Mount point of the file system that held the root.
    pub mount_point: String,
    /// Its type.
    pub fs_type: String,
    /// Its UUID, when it was known.
    #[serde(default)]
    pub uuid: Option<String>,
    /// Why, for people.
    pub reason: String,
}
