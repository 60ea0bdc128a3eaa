//! `pause` and `resume`: a person says that nothing may be changed for a while.
//!
//! Owns the record. It survives a reboot and ends by itself.

use serde::{Deserialize, Serialize};

use crate::paths;
use crate::sys::root::FileError;
use crate::sys::statefile::{self, Loaded, StateError};
use crate::sys::{Clock, Root, clock};

/// Who paused the agent, until when and why.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// When it began. A clock far before it is wrong, and the pause then does not
    /// count: one that ran out must not come back with a dead clock battery.
    #[serde(default)]
    pub since: u64,
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
    load(root).ok()?.value().filter(|pause| clock::runs(clock.unix(), pause.since, pause.until))
}

/// Loads the record, also of a pause that ran out.
///
/// # Errors
/// When neither copy can be read.
pub fn load(root: &Root) -> Result<Loaded<Pause>, StateError> {
    statefile::load(root, paths::PAUSE)
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
    // The earlier copy first: with it gone last, a cut between the two would bring it back.
    root.remove_file(&format!("{}.prev", paths::PAUSE))?;
    let was = root.remove_file(paths::PAUSE)?;
    if was {
        root.sync_dir(paths::STATE_DIR)?;
    }
    Ok(was)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn a_pause_ends_by_itself_by_hand_and_does_not_come_back_with_a_dead_clock() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let [by, reason] = ["wang", "disk"].map(str::to_owned);
        let pause = Pause { since: 1_000_000, until: 1_000_060, by, reason };
        set(&root, &pause).unwrap();
        set(&root, &Pause { until: 1_000_050, ..pause.clone() }).unwrap();
        let at = |now| current(&root, Clock::Fixed(now)).map(|pause| pause.until);
        assert_eq!(at(1_000_001), Some(1_000_050));
        assert_eq!((at(1_000_050), at(0)), (None, None));
        assert!(clear(&root).unwrap());
        assert_eq!(at(1_000_001), None, "its earlier copy is in force");
        assert!(!clear(&root).unwrap());
    }
}
