//! Which snapshotter containerd uses, and what its pool needs before that.
//!
//! Owns the decision: one table of rows, read from the top, the first that
//! applies decides. Never switches a host whose store holds anything; takes
//! nothing that is unknown for evidence. Pure; `docs/snapshotter.md` has the
//! same table for people.

mod case;
mod findings;
mod first;
mod pool;
mod words;

pub use case::{elsewhere, named};
pub use findings::{Finding, findings};

use super::Inputs;
use super::item::{PlannedStorage, PoolAct};
use super::refusal::{Refusal, WaitingOn};
use crate::facts::storage::Choice;
use crate::role::{Duty, Snapshotter};
use case::{Asked, Case};

/// Free bytes below which no first choice is made: images would fill the rest.
pub const FLOOR_BYTES: u64 = 5 << 30;
/// The same in percent of the file system.
pub const FLOOR_PERCENT: u64 = 10;
/// Free inodes below which no first choice is made: overlayfs takes one per file.
pub const FLOOR_INODES: u64 = 50_000;
/// Size of a new container's device with devmapper; recorded, and never changed
/// afterwards (containerd#7048).
pub const BASE_IMAGE_SIZE: &str = "10GB";

/// What was decided, and what a reader should know about it.
#[derive(Debug, Clone)]
pub struct Decided {
    /// The snapshotter and the work on its pool.
    pub storage: PlannedStorage,
    /// What does not stop anything.
    pub notes: Vec<String>,
}

/// One row of the table.
struct Row {
    /// As `docs/snapshotter.md` names it.
    name: &'static str,
    applies: fn(&Case<'_>) -> bool,
    then: fn(&Case<'_>) -> Result<Taken, Refusal>,
}

/// What a row takes.
#[derive(Debug)]
struct Taken {
    choice: Choice,
    reason: String,
    acts: Vec<PoolAct>,
}

/// The table. The last row always applies.
const ROWS: [Row; 23] = [
    Row { name: "recorded-elsewhere", applies: |case| case.is_elsewhere(), then: elsewhere_is_no_reason },
    Row { name: "recorded", applies: is_bound, then: keep_recorded },
    Row { name: "content-unread", applies: first::is_unread, then: first::keep_in_force },
    Row { name: "content-of-both", applies: first::has_both, then: first::which_of_both },
    Row { name: "content-of-the-other", applies: first::has_other, then: first::no_silent_switch },
    Row { name: "content-unusable", applies: first::is_unusable, then: first::content_without_overlay },
    Row { name: "content", applies: first::has_content, then: first::keep_content },
    Row { name: "content-of-a-third", applies: first::has_third, then: first::no_silent_switch },
    Row { name: "asked-for-both", applies: first::is_torn, then: first::who_is_right },
    Row { name: "read-only", applies: first::is_read_only, then: first::cannot_be_written },
    Row { name: "no-space", applies: first::is_full, then: first::below_floor },
    Row { name: "volatile-asked", applies: first::is_volatile_on_purpose, then: first::overlayfs_in_memory },
    Row { name: "volatile", applies: |case| case.is_volatile(), then: first::lost_at_reboot },
    Row { name: "devmapper-asked", applies: first::wants_devmapper, then: first::devmapper_as_asked },
    Row { name: "no-upper-directory", applies: |case| case.is_no_upper(), then: first::cannot_be_upper },
    Row { name: "xfs-without-ftype", applies: |case| case.lacks_ftype(), then: first::no_ftype },
    Row { name: "no-d-type", applies: |case| case.lacks_d_type(), then: first::no_d_type },
    Row { name: "overlay-denied", applies: first::is_denied, then: first::denied },
    Row { name: "overlay-missing", applies: first::is_missing, then: first::missing },
    Row { name: "overlay-fails", applies: first::fails, then: first::failed },
    Row { name: "overlay-works", applies: first::works, then: first::overlayfs },
    Row { name: "old-kernel", applies: |case| case.is_old_kernel(), then: first::old_kernel },
    Row { name: "untested", applies: |_| true, then: first::untested },
];

/// Decides from the host's storage, what was decided before, and what is asked for.
///
/// # Errors
/// [`WaitingOn::Refused`] when no snapshotter can be taken. Never for a host with
/// a recorded choice: it keeps that, and [`findings`] tell what is wrong.
pub fn decide(inputs: Inputs<'_>, duty: &Duty) -> Result<Decided, WaitingOn> {
    let case = Case::of(inputs, duty);
    let taken = take(&case)?;
    let found = findings::of(&case, &taken.choice);
    let is_cured =
        taken.acts.iter().any(|act| matches!(act, PoolAct::Create { .. } | PoolAct::Activate { .. }));
    let found = found.into_iter().filter(|finding| !is_cured || finding.refusal.code != "EB-pool-inactive");
    let note = |finding: Finding| finding.refusal.to_string();
    Ok(Decided {
        notes: found.map(note).collect(),
        storage: PlannedStorage {
            inputs: words::inputs(&case),
            choice: taken.choice,
            reason: taken.reason,
            acts: taken.acts,
        },
    })
}

fn take(case: &Case<'_>) -> Result<Taken, Refusal> {
    match ROWS.iter().find(|row| (row.applies)(case)) {
        Some(row) => (row.then)(case),
        // The last row always applies.
        None => first::untested(case),
    }
}

/// Names of the rows, in their order.
#[must_use]
pub fn rows() -> Vec<&'static str> {
    ROWS.iter().map(|row| row.name).collect()
}

/// A recorded choice stands until somebody asks for another one and nothing is
/// in its store.
fn is_bound(case: &Case<'_>) -> bool {
    let Some(recorded) = case.recorded else { return false };
    let other = matches!(case.asked(), Asked::For(asked) if asked != recorded.snapshotter);
    !other || case.count(recorded.snapshotter) != Some(0)
}

/// What lies at the root now is not this host's store.
fn elsewhere_is_no_reason(case: &Case<'_>) -> Result<Taken, Refusal> {
    let Some(choice) = case.recorded.cloned() else { return first::untested(case) };
    let reason = format!("keeping snapshotter {}: its store is on another file system", choice.snapshotter);
    Ok(Taken { choice, reason, acts: Vec::new() })
}

fn keep_recorded(case: &Case<'_>) -> Result<Taken, Refusal> {
    let Some(recorded) = case.recorded else { return first::untested(case) };
    let choice = case.here(recorded.clone());
    let acts = match choice.snapshotter {
        Snapshotter::Overlayfs => Vec::new(),
        Snapshotter::Devmapper => pool::acts(case, &choice),
    };
    Ok(Taken { reason: words::keeping(case, choice.snapshotter), choice, acts })
}

#[cfg(test)]
#[path = "snapshotter_tests.rs"]
mod tests;
