//! What the gate let pass because a person said so.
//!
//! Owns the record in `/run` of how often each allowance was used in this boot.
//! Decides nothing.

use serde::{Deserialize, Serialize};

use crate::allow::Allowance;
use crate::ordered::sort_by;
use crate::paths;
use crate::plan::Refusal;
use crate::sys::{Clock, Root, atomic};
use crate::wire::json;

/// How often one refusal was let pass in this boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    /// `EB-…`.
    pub code: String,
    /// Starts that were let go with it.
    pub count: u64,
    /// The last of them, seconds since 1970.
    pub last_at: u64,
}

/// Everything that was let pass in this boot, by code.
#[must_use]
pub fn passed(root: &Root) -> Vec<Passed> {
    let bytes = root.read(paths::PASSED).ok().flatten().unwrap_or_default();
    json::read(&bytes).unwrap_or_default()
}

/// Counts one start. A record that cannot be written is no reason to hold it up.
pub(super) fn record(root: &Root, clock: Clock, allowed: &[(Refusal, Allowance)]) {
    if allowed.is_empty() {
        return;
    }
    let mut all = passed(root);
    for (refusal, _) in allowed {
        let before = all.iter().position(|passed| passed.code == refusal.code);
        let before = before.map(|at| all.remove(at)).unwrap_or_default();
        all.push(Passed { code: refusal.code.clone(), count: before.count + 1, last_at: clock.unix() });
    }
    sort_by(&mut all, |one, other| one.code < other.code);
    let _ = root.ensure_dir(paths::RUN_DIR);
    let bytes = serde_json::to_vec(&all).unwrap_or_default();
    let _ = atomic::write_volatile(root, paths::PASSED, &bytes, 0o644);
}
