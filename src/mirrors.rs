//! Which registry mirrors answered in this boot.
//!
//! Owns the record in `/run`, which the plan reads as a fact, and how many
//! looks in a row make a state. Asks nobody and withdraws nothing.

use crate::facts::mirrors::{Mirrors, Seen, State};
use crate::paths;
use crate::sys::answers::Answer;
use crate::sys::root::FileError;
use crate::sys::{Change, Root, atomic};
use crate::wire::json;

/// Looks in a row that must agree before a mirror is left out or put back.
const IN_A_ROW: u32 = 2;

/// Loads the record; empty when nobody has looked in this boot, or it is damaged.
///
/// # Errors
/// When it is there and cannot be read.
pub fn load(root: &Root) -> Result<Option<Mirrors>, FileError> {
    let bytes = root.read(paths::MIRRORS)?;
    Ok(bytes.and_then(|bytes| json::read(&bytes).ok()))
}

/// Stores the record when it changed.
///
/// # Errors
/// When it cannot be written.
pub fn store(root: &Root, mirrors: &Mirrors) -> Result<Change, FileError> {
    root.ensure_dir(paths::RUN_DIR)?;
    let text = serde_json::to_vec(mirrors).unwrap_or_default();
    atomic::write_volatile(root, paths::MIRRORS, &text, 0o644)
}

/// What the looks at one mirror said so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Track {
    /// The state in force; `None` before the first look.
    pub seen: Option<Seen>,
    doubt: Option<(State, u32)>,
}

impl Track {
    /// What an earlier daemon of this boot recorded.
    #[must_use]
    pub fn known(seen: Seen) -> Self {
        Self { seen: Some(seen), doubt: None }
    }

    /// Whether the last look said something else than the state in force, so
    /// that another one is due soon.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.doubt.is_some()
    }

    /// Takes one look; whether the state in force changed by it.
    ///
    /// One stall is an accident: only two in a row take a mirror out, and only
    /// two answers in a row put it back. One that fails at once instead of
    /// stalling stays out until it answers.
    pub fn take(&mut self, answer: &Answer, now: &str) -> bool {
        let (state, why) = match answer {
            Answer::Came => (State::Answers, String::new()),
            Answer::Broke(why) => (State::Fails, why.clone()),
            Answer::Late(why) => (State::Stalls, why.clone()),
        };
        let force = self.seen.as_ref().map(|seen| seen.state);
        let stays_out = force == Some(State::Stalls) && state == State::Fails;
        if force == Some(state) || stays_out {
            self.doubt = None;
            return false;
        }
        let before = self.doubt.filter(|(doubt, _)| *doubt == state).map_or(0, |(_, times)| times);
        let enough = before + 1 >= IN_A_ROW || (force.is_none() && state != State::Stalls);
        self.doubt = (!enough).then_some((state, before + 1));
        if enough {
            self.seen = Some(Seen { state, since: now.to_owned(), why });
        }
        enough
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: &str = "2026-11-21T10:00:00Z";

    fn late() -> Answer {
        Answer::Late("no answer".to_owned())
    }

    fn broke() -> Answer {
        Answer::Broke("refused".to_owned())
    }

    fn after(looks: &[Answer]) -> Option<State> {
        let mut track = Track::default();
        looks.iter().for_each(|look| {
            track.take(look, NOW);
        });
        track.seen.map(|seen| seen.state)
    }

    #[test]
    fn two_stalls_take_a_mirror_out_and_two_answers_put_it_back() {
        use Answer::Came;
        assert_eq!(after(&[Came]), Some(State::Answers), "the first answer counts at once");
        assert_eq!(after(&[late()]), None);
        assert_eq!(after(&[late(), late()]), Some(State::Stalls));
        assert_eq!(after(&[Came, late()]), Some(State::Answers), "one is an accident");
        assert_eq!(after(&[Came, late(), Came, late()]), Some(State::Answers));
        assert_eq!(after(&[late(), late(), Came]), Some(State::Stalls));
        assert_eq!(after(&[late(), late(), Came, late(), Came]), Some(State::Stalls));
        assert_eq!(after(&[late(), late(), Came, Came]), Some(State::Answers));
    }

    #[test]
    fn a_mirror_that_fails_at_once_is_told_and_one_that_stalled_stays_out() {
        use Answer::Came;
        assert_eq!(after(&[broke()]), Some(State::Fails));
        assert_eq!(after(&[Came, broke(), broke()]), Some(State::Fails));
        assert_eq!(after(&[late(), late(), broke(), broke(), broke()]), Some(State::Stalls));
    }

    #[test]
    fn the_record_survives_and_a_damaged_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert_eq!(load(&root).unwrap(), None);
        let seen = Seen { state: State::Stalls, since: NOW.to_owned(), why: "x".to_owned() };
        let mirrors: Mirrors = [("http://10.0.0.5:5000".to_owned(), seen)].into();
        assert!(store(&root, &mirrors).unwrap().is_change());
        assert!(!store(&root, &mirrors).unwrap().is_change());
        assert_eq!(load(&root).unwrap(), Some(mirrors));
        atomic::write_volatile(&root, paths::MIRRORS, b"{", 0o644).unwrap();
        assert_eq!(load(&root).unwrap(), None);
    }

    proptest! {
        #[test]
        fn no_single_look_changes_a_state_twice(looks in proptest::collection::vec(0..3_u8, 1..40)) {
            let mut track = Track::default();
            let mut last = None;
            for look in looks {
                let answer = match look { 0 => Answer::Came, 1 => broke(), _ => late() };
                let before = track.seen.clone();
                let changed = track.take(&answer, NOW);
                prop_assert_eq!(changed, before != track.seen);
                // After a change the next one needs two looks of its own.
                prop_assert!(!(changed && last == Some(true)));
                last = Some(changed);
            }
        }
    }
}
