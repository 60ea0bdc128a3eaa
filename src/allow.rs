//! `gate allow`: a person lets one refusal of the gate pass for a while.
//!
//! Owns the record. It survives a reboot, needs no daemon, and ends by itself.
//! Which refusals could fork a cluster or lose data is told here too.

use serde::{Deserialize, Serialize};

use crate::paths;
use crate::sys::statefile::{self, StateError};
use crate::sys::{Clock, Root};

/// Who lets which refusal pass, until when and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowance {
    /// `EB-…`.
    pub code: String,
    /// Seconds since 1970.
    pub until: u64,
    /// Login of the person.
    pub by: String,
    /// In the person's words.
    pub reason: String,
}

/// Codes that stand between a start and a second cluster, or lost data.
const RISKY: [&str; 9] = [
    "EB-config-empty",
    "EB-config-damaged",
    "EB-config-identity",
    "EB-token-missing",
    "EB-token-empty",
    "EB-unit-role",
    "EB-override",
    "EB-copied-disk",
    "EB-wait-init-lease",
];

/// Whether letting this code pass could fork the cluster or lose data.
#[must_use]
pub fn risks_data(code: &str) -> bool {
    RISKY.contains(&code) || code.starts_with("EB-datastore-")
}

/// Allowances in force. A damaged record counts as none: the gate refuses again,
/// and says how to allow it.
#[must_use]
pub fn current(root: &Root, clock: Clock) -> Vec<Allowance> {
    let loaded = statefile::load::<Vec<Allowance>>(root, paths::ALLOW).ok();
    let all = loaded.and_then(statefile::Loaded::value).unwrap_or_default();
    let now = clock.unix();
    all.into_iter().filter(|allowance| allowance.until > now).collect()
}

/// The allowance for exactly this code, when one is in force.
#[must_use]
pub fn lets_pass(root: &Root, clock: Clock, code: &str) -> Option<Allowance> {
    current(root, clock).into_iter().find(|allowance| allowance.code == code)
}

/// Lets a refusal pass; a newer allowance replaces one for the same code.
///
/// # Errors
/// When the record cannot be stored.
pub fn add(root: &Root, clock: Clock, allowance: Allowance) -> Result<(), StateError> {
    root.make_dir(paths::STATE_DIR, 0o700)?;
    let mut all = current(root, clock);
    all.retain(|other| other.code != allowance.code);
    all.push(allowance);
    statefile::store(root, paths::ALLOW, &all).map(|_| ())
}
