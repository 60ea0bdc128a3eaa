//! Names that others gave this host, and when it got its own back.
//!
//! Owns the record: the newest 16, and the name that is kept, without which a
//! first boot's own renaming would look like somebody else's. Survives a power
//! cut. Who did it is judged elsewhere.

use serde::{Deserialize, Serialize};

use crate::facts::rename::{Rename, Who};
use crate::paths;
use crate::sys::Root;
use crate::sys::statefile::{self, StateError};

/// How many are kept.
const KEPT: usize = 16;
/// How long one counts as news, in seconds.
pub const NEWS: u64 = 24 * 60 * 60;
/// The same name again within this many seconds is the same program at it.
const AGAIN: u64 = 10 * 60;

/// The record. One that is damaged in both copies counts as empty: it decides nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// The name that was made so and is ours to keep.
    pub kept: Option<String>,
    /// Oldest first.
    pub renames: Vec<Rename>,
}

impl Record {
    /// Loads it.
    #[must_use]
    pub fn load(root: &Root) -> Self {
        statefile::load(root, paths::RENAMES).ok().and_then(statefile::Loaded::value).unwrap_or_default()
    }

    /// Stores it, durably, when it says something else than `before`.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub fn store_over(&self, before: &Self, root: &Root) -> Result<(), StateError> {
        if self == before {
            return Ok(());
        }
        root.make_dir(paths::STATE_DIR, 0o700)?;
        statefile::store(root, paths::RENAMES, self).map(|_| ())
    }

    /// Adds `rename`; one more of the same is counted with the last.
    pub fn add(&mut self, rename: Rename) {
        if let Some(last) = self.renames.last_mut()
            && last.is_like(&rename)
            && rename.at.saturating_sub(last.last) < AGAIN
        {
            last.last = rename.at;
            last.times = last.times.saturating_add(1);
            return;
        }
        self.renames.push(rename);
        let old = self.renames.len().saturating_sub(KEPT);
        self.renames.drain(..old);
    }

    /// The oldest one of which nobody has judged yet who did it.
    #[must_use]
    pub fn open(&self) -> Option<usize> {
        self.renames.iter().position(|rename| rename.who.is_none())
    }

    /// Notes who did it.
    pub fn judged(&mut self, at: usize, who: Who) {
        if let Some(rename) = self.renames.get_mut(at) {
            rename.who = Some(who);
        }
    }

    /// Those of this boot and of the last day, newest first. A clock that went
    /// back hides nothing.
    pub fn recent(&self, now: u64, boot_id: &str) -> impl Iterator<Item = &Rename> {
        let is_recent = move |rename: &&Rename| rename.boot_id == boot_id || is_news(rename, now);
        self.renames.iter().rev().filter(is_recent)
    }
}

/// Whether it happened within the last day.
#[must_use]
pub fn is_news(rename: &Rename, now: u64) -> bool {
    now.saturating_sub(rename.last) < NEWS
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::facts::rename::Writer;

    fn rename(at: u64, name: &str) -> Rename {
        Rename {
            at,
            last: at,
            times: 1,
            kernel: Some(name.to_owned()),
            boot_id: "one".into(),
            ..Rename::default()
        }
    }

    #[test]
    fn a_program_that_does_not_give_in_is_one_entry_and_the_newest_stay() {
        let mut record = Record::default();
        for at in 0..100 {
            record.add(rename(at, "x"));
        }
        assert_eq!((record.renames.len(), record.renames[0].times, record.renames[0].last), (1, 100, 99));
        for at in 0..40 {
            record.add(rename(10_000 + at, &format!("x-{at}")));
        }
        assert_eq!(record.renames.len(), KEPT);
        assert_eq!(record.renames.last().unwrap().kernel.as_deref(), Some("x-39"));
    }

    #[test]
    fn what_is_recent_is_told_for_a_day_and_for_its_boot() {
        let mut record = Record::default();
        record.add(rename(1_000, "x"));
        let told = |now, boot| record.recent(now, boot).count();
        assert_eq!((told(2_000, "two"), told(1_000 + NEWS, "two"), told(1_000 + NEWS, "one")), (1, 0, 1));
        assert_eq!(told(0, "two"), 1, "a clock that went back hides nothing");
    }

    #[test]
    fn the_record_survives_and_damage_is_no_rename() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let mut record = Record { kept: Some("a".into()), ..Record::default() };
        record.add(rename(1, "x"));
        assert_eq!(record.open(), Some(0));
        record.judged(0, Who { writer: Writer::CloudInit, how: "its log".into() });
        assert_eq!(record.open(), None);
        record.store_over(&Record::default(), &root).unwrap();
        assert_eq!(Record::load(&root), record);
        for path in [paths::RENAMES.to_owned(), format!("{}.prev", paths::RENAMES)] {
            crate::sys::atomic::write_volatile(&root, &path, b"{", 0o600).unwrap();
        }
        assert_eq!(Record::load(&root), Record::default());
    }
}
