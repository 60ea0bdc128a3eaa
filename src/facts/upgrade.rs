//! What is new to k3s and must show itself, as it is recorded on the disk: an
//! upgrade that was begun, or another generation.
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

/// What is new, since it was first seen to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// This boot.
    pub boot_id: String,
    /// Seconds since boot (monotonic).
    pub at_s: u64,
    /// How often k3s had ended by itself then.
    pub restarts: u32,
    /// Boots in which it ran.
    pub boots: u32,
}

/// How k3s does with a generation that was not seen to be good yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// Boot in which k3s was last seen to be up with values that were good.
    #[serde(default)]
    pub well: Option<String>,
    /// k3s was already ending by itself with them.
    #[serde(default)]
    pub ill: bool,
    /// Generation that it runs with since, 0 before that.
    #[serde(default)]
    pub of: u64,
    /// Since when; absent while what it does would say nothing about its values.
    #[serde(default)]
    pub started: Option<Started>,
}
