//! What lies in containerd's store, and what would be in the way of setting it
//! aside as a whole.
//!
//! Owns shapes. Whether the store is damaged is the plan's to say.

use serde::{Deserialize, Serialize};

use super::Fact;
use super::devices::Ahead;

/// The store as far as it matters for its repair.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Store {
    /// Images that were in it, by the record that lies outside of it.
    pub images: u64,
    /// Snapshots that were in it, by the same record.
    pub snapshots: u64,
    /// Whether its content directory holds blobs.
    pub has_blobs: Fact<bool>,
    /// Snapshotters below whose directories something is unpacked.
    pub unpacked: Fact<Vec<String>>,
    /// It was being set aside when the power went.
    pub half_aside: bool,
    /// Processes that keep containers alive without containerd. Looked for only
    /// where something is wrong.
    pub shims: Fact<Vec<u32>>,
    /// Mount points below it and below containerd's state directory.
    pub mounts: Fact<Vec<String>>,
    /// When it was set aside before, oldest first.
    pub aside: Vec<SetAside>,
    /// Earlier stores that lie on the disk.
    pub kept: Vec<Kept>,
    /// Thin devices that are ahead of the snapshots.
    pub ahead: Fact<Ahead>,
    /// This boot.
    pub boot_id: Fact<String>,
    /// A time that is surely past, in seconds since 1970: a clock that jumped
    /// does not move it.
    pub past: u64,
}

/// The store was set aside as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAside {
    /// Where it lies now.
    pub to: String,
    /// Why, for people.
    pub reason: String,
    /// Boot in which it was.
    pub boot_id: String,
    /// Seconds since 1970.
    pub at: u64,
}

/// An earlier store that was kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Where it lies.
    pub path: String,
    /// When it was moved there, in seconds since 1970, by its inode.
    pub moved_at: u64,
    /// Bytes of the image layers in it, without what was unpacked from them.
    pub blob_bytes: u64,
}
