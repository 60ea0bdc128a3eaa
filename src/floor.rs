//! The last time that is surely past, kept over power cuts.
//!
//! Owns the record. What may be recorded is decided by `plan::time`; file times
//! are never looked at: they were made by the clock that is in question.

use crate::paths;
use crate::plan::time::{self, Floor, LastSeen};
use crate::sys::statefile::{self, Loaded, StateError};
use crate::sys::{Change, Root};

/// The record; `None` when there is none.
///
/// # Errors
/// [`StateError::Damaged`] when neither copy is whole.
pub fn load(root: &Root) -> Result<Loaded<LastSeen>, StateError> {
    statefile::load(root, paths::CLOCK)
}

/// Records a time, durably.
///
/// # Errors
/// When it cannot be written.
pub fn store(root: &Root, seen: &LastSeen) -> Result<Change, StateError> {
    root.make_dir(paths::STATE_DIR, 0o700)?;
    statefile::store(root, paths::CLOCK, seen)
}

/// The floor without the assignment's part. A record that cannot be used
/// counts as none: the release remains.
#[must_use]
pub fn known(root: &Root) -> Floor {
    let seen = load(root).ok().and_then(Loaded::value);
    time::Floor::new(seen.as_ref(), None)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::plan::time::Source;
    use crate::sys::atomic;

    #[test]
    fn a_damaged_record_falls_back_to_its_earlier_copy_and_then_to_the_release() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert_eq!(known(&root).source, Source::Release);
        let seen = |at| LastSeen { at, source: Source::Synchronized, disowned: None };
        store(&root, &seen(4_000_000_000)).unwrap();
        store(&root, &seen(4_000_000_600)).unwrap();
        assert_eq!(known(&root).at, 4_000_000_600);
        atomic::write(&root, paths::CLOCK, b"{", 0o600).unwrap();
        assert_eq!(known(&root).at, 4_000_000_000);
        assert!(load(&root).unwrap().damage().is_some());
        atomic::write(&root, &format!("{}.prev", paths::CLOCK), b"{", 0o600).unwrap();
        assert_eq!(known(&root), Floor { at: time::released(), source: Source::Release });
        assert!(load(&root).is_err());
    }
}
