//! `pause` and `resume`: a person says that nothing may be changed for a while.
//!
//! Owns the record. It survives a reboot and ends by itself.

use serde::{Deserialize, Serialize};

use crate::paths;
use crate::sys::root::FileError;
use crate::sys::statefile::{self, StateError};
use crate::sys::{Clock, Root};

/// Who paused the agent, until when and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Seconds since 1970.
    pub until: u64,
    /// Login of the person.
    pub by: String,
    /// In the person's words.
    pub reason: String,
}

/// The pause in force; one that ran out is none. A damaged record counts as
/// none, because a pause that nobody can read would never end.
#[must_use]
pub fn current(root: &Root, clock: Clock) -> Option<Pause> {
    let loaded = statefile::load::<Pause>(root, paths::PAUSE).ok()?;
    loaded.value().filter(|pause| pause.until > clock.unix())
}

/// Pauses.
///
/// # Errors
/// When the record cannot be stored.
pub fn set(root: &Root, pause: &Pause) -> Result<(), StateError> {
    root.make_dir(paths::STATE_DIR, 0o700)?;
    statefile::store(root, paths::PAUSE, pause).map(|_| ())
}

/// Ends a pause; whether there was one.
///
/// # Errors
/// When the record cannot be removed.
pub fn clear(root: &Root) -> Result<bool, FileError> {
    let was = root.remove_file(paths::PAUSE)?;
    root.remove_file(&format!("{}.prev", paths::PAUSE))?;
    Ok(was)
}
