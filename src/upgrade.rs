//! The record of the newest try of another version of k3s.
//!
//! Owns its file, which is written before the first effect of the try and
//! survives a power cut. What it means is `plan::upgrade`'s.

use crate::facts::upgrade::{Attempt, Progress};
use crate::paths;
use crate::sys::Root;
use crate::sys::statefile::{self, Loaded, StateError};

/// The record; one that is damaged in both copies counts as none, and the version
/// that is linked is then in force.
#[must_use]
pub fn load(root: &Root) -> Option<Attempt> {
    statefile::load(root, paths::UPGRADE).ok().and_then(Loaded::value)
}

/// Writes the record.
///
/// # Errors
/// When it cannot be written.
pub fn store(root: &Root, attempt: &Attempt) -> Result<(), StateError> {
    statefile::store(root, paths::UPGRADE, attempt).map(|_| ())
}

/// A person asks for one more try of what failed.
///
/// # Errors
/// When the record cannot be written.
pub fn forgive(root: &Root) -> Result<(), StateError> {
    match load(root).filter(|attempt| attempt.state == Progress::Failed) {
        Some(attempt) => store(root, &Attempt { state: Progress::Done, ..attempt }),
        None => Ok(()),
    }
}
