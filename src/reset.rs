//! That a person resets this host, or has reset it.
//!
//! Owns the record, which is written before the first effect. While it is not
//! finished the gate lets nothing of k3s start, and no pass changes anything;
//! the same command goes on with it. Finished, it says that the host waits for
//! a person's word; `apply` and `enrol` end it. Decides nothing.

use serde::{Deserialize, Serialize};

use crate::paths;
use crate::plan::{Refusal, reset};
use crate::sys::statefile::{self, StateError};
use crate::sys::{FileError, Root};

/// A reset of this host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reset {
    /// Number of its backup directory.
    pub number: u64,
    /// The identity is dropped too.
    pub forget: bool,
    /// Login of the person.
    pub by: String,
    /// RFC 3339 UTC: when it began.
    pub at: String,
    /// It came to its end.
    #[serde(default)]
    pub finished: bool,
}

impl Reset {
    /// Why k3s must not start, or why no pass changes anything.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        if self.finished { reset::finished(&self.at, &self.by) } else { reset::unfinished(self.forget) }
    }
}

/// The reset that has begun or is done; none where neither copy of the record
/// can be read: a damaged record must not keep k3s down for ever.
#[must_use]
pub fn current(root: &Root) -> Option<Reset> {
    statefile::load::<Reset>(root, paths::RESET).ok()?.value()
}

/// The reset that has begun and is not done.
#[must_use]
pub fn unfinished(root: &Root) -> Option<Reset> {
    current(root).filter(|reset| !reset.finished)
}

/// Records how far it is.
///
/// # Errors
/// When it cannot be stored; nothing may be changed then.
pub fn record(root: &Root, reset: &Reset) -> Result<(), StateError> {
    root.make_dir(paths::STATE_DIR, 0o700)?;
    statefile::store(root, paths::RESET, reset).map(|_| ())
}

/// Ends a finished reset: the host may claim its place again. One that is not
/// finished stays; whether one was ended.
///
/// # Errors
/// When the record cannot be removed.
pub fn end(root: &Root) -> Result<bool, FileError> {
    if current(root).is_none_or(|reset| !reset.finished) {
        return Ok(false);
    }
    // The earlier copy first: with it gone last, a cut between the two would bring it back.
    root.remove_file(&format!("{}.prev", paths::RESET))?;
    root.remove_file(paths::RESET)?;
    root.sync_dir(paths::STATE_DIR)?;
    Ok(true)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn only_a_finished_reset_is_ended_and_it_does_not_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let begun =
            Reset { number: 2, by: "wang".into(), at: "2026-11-22T00:00:00Z".into(), ..Reset::default() };
        record(&root, &begun).unwrap();
        assert_eq!(unfinished(&root).unwrap().refusal().code, "EB-resetting");
        assert!(!end(&root).unwrap());
        record(&root, &Reset { finished: true, ..begun }).unwrap();
        assert_eq!((unfinished(&root), current(&root).unwrap().refusal().code.as_str()), (None, "EB-reset"));
        assert!(end(&root).unwrap() && current(&root).is_none());
    }
}
