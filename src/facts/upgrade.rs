//! An upgrade of k3s that was begun, as it is recorded on the disk.
//!
//! Owns its shape. What it means is the plan's to say.

use serde::{Deserialize, Serialize};

/// One try of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Names what the assignment asked for: version, file and keys of k3s.
    pub wish: String,
    /// Version that ran before.
    pub from: String,
    /// Its binary.
    pub from_binary: String,
    /// Version that is tried.
    pub to: String,
    /// RFC 3339 UTC: when it was begun.
    pub at: String,
    /// How far it came.
    pub state: Progress,
    /// Since when the new version runs; absent before its first start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Started>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How far an upgrade came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Progress {
    /// The new version may run.
    Begun,
    /// It was Ready, or is not wanted any more.
    Done,
    /// It did not come up, and the one before is in force again.
    Failed,
    /// It did not come up, and there is no way back.
    Stuck,
}

/// The new version, since it was first seen to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// This boot.
    pub boot_id: String,
    /// Seconds since boot (monotonic).
    pub at_s: u64,
    /// Restarts that systemd had counted then.
    pub restarts: u32,
    /// Boots in which it ran.
    pub boots: u32,
}
