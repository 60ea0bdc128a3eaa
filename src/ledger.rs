//! What the agent did last and where it stands.
//!
//! Owns the durable record that survives power cuts, and the one function that
//! moves it. Written only when something changed, so that a quiet pass touches
//! no file.
//!
//! ```text
//!             commit            k3s and containerd up          probes good
//!  (none) ──────────▶ Applied ─────────────────────▶ Active ─────────────▶ Healthy
//!                        ▲                              │                     │
//!                        │ next commit                  │ never came up       │ next commit
//!                        └──────────── RolledBack ◀─────┘                     ▼
//!                                                                          Applied
//! ```

use serde::{Deserialize, Serialize};

use crate::facts::upgrade::Trial;
use crate::paths;
use crate::sys::statefile::{self, Loaded, StateError};
use crate::sys::{Change, Root};

/// How far the current generation came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Committed to disk.
    Applied,
    /// Its units were brought up.
    Active,
    /// Its probes were good once.
    Healthy,
    /// It failed; an earlier generation is in force.
    RolledBack,
}

/// The durable record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Number of the generation in force.
    pub generation: u64,
    /// Digest of its plan.
    pub digest: String,
    /// How far it came.
    pub phase: Phase,
    /// Newest generation whose probes were good.
    #[serde(default)]
    pub last_good: Option<u64>,
    /// The plan that failed and must not be tried again by itself.
    #[serde(default)]
    pub failed: Option<Failed>,
    /// The newest leave of an old life, and where its files are.
    #[serde(default)]
    pub left: Option<Left>,
    /// How k3s does with the generation in force, until its probes were good.
    #[serde(default)]
    pub trial: Trial,
}

/// A leave of an old life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Number of its quarantine directories.
    pub number: u64,
    /// Why, for people.
    pub reason: String,
    /// New places of what was moved.
    pub moved: Vec<String>,
    /// RFC 3339 UTC: when it began.
    pub at: String,
}

/// A plan that was rolled back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Digest of the plan.
    pub digest: String,
    /// What went wrong.
    pub reason: String,
    /// RFC 3339 UTC.
    pub at: String,
    /// SHA-256 of containerd's file, where containerd did not come up with it.
    #[serde(default)]
    pub containerd: Option<String>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A generation was committed (or found committed already).
    Committed {
        /// Its number.
        generation: u64,
        /// Digest of its plan.
        digest: String,
        /// How k3s was with what was in force, when that was good.
        trial: Trial,
    },
    /// k3s was looked at.
    Looked(Trial),
    /// Its units are up.
    Activated,
    /// Its probes are good.
    Verified,
    /// It failed and `to` is in force again.
    RolledBack {
        /// The generation that was put back.
        to: u64,
        /// The failed plan.
        failed: Failed,
    },
    /// An old life is left: none of its generations may be put back.
    Left(Left),
    /// A person asked to try a failed plan again.
    Forgiven,
}

impl Ledger {
    /// The record after `event`. An event that does not fit the phase changes
    /// nothing: after a cut the same event may come twice.
    #[must_use]
    pub fn after(now: Option<&Self>, event: Event) -> Option<Self> {
        match (now.cloned(), event) {
            (Some(now), Event::Committed { generation, .. }) if now.generation == generation => Some(now),
            (now, Event::Committed { generation, digest, trial }) => Some(Self {
                generation,
                digest,
                phase: Phase::Applied,
                // What takes the place of one that never was good is not better off for it.
                trial: now.as_ref().filter(|now| now.is_open()).map_or(trial, |now| now.trial.clone()),
                last_good: now.as_ref().and_then(|now| now.last_good),
                left: now.as_ref().and_then(|now| now.left.clone()),
                failed: now.and_then(|now| now.failed),
            }),
            (Some(now), Event::Activated) if now.phase == Phase::Applied => {
                Some(Self { phase: Phase::Active, ..now })
            }
            (Some(now), Event::Looked(trial)) if now.is_open() => Some(Self { trial, ..now }),
            (Some(now), Event::Verified) if now.is_open() => Some(Self {
                phase: Phase::Healthy,
                last_good: Some(now.generation),
                failed: None,
                trial: Trial::default(),
                ..now
            }),
            (Some(now), Event::RolledBack { to, failed }) => Some(Self {
                generation: to,
                phase: Phase::RolledBack,
                failed: Some(failed),
                trial: Trial::default(),
                ..now
            }),
            (Some(now), Event::Left(left)) => Some(now.without(left)),
            (Some(now), Event::Forgiven) => Some(Self { failed: None, ..now }),
            (now, _) => now,
        }
    }

    /// The record of a host that leaves an old life. Of a leave that was cut the
    /// first record knows all that was moved.
    fn without(self, left: Left) -> Self {
        let same = |before: &Left| before.number == left.number && before.reason == left.reason;
        let before = self.left.clone().filter(same);
        Self { last_good: None, failed: None, left: before.or(Some(left)), ..self }
    }

    /// Whether the generation in force has not shown yet that it is good.
    fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Applied | Phase::Active)
    }

    /// The good generation that the one in force may give way to, while that has not
    /// shown yet that it is good too.
    #[must_use]
    pub fn way_back(&self) -> Option<u64> {
        self.last_good.filter(|good| self.is_open() && *good != self.generation)
    }

    /// Whether a plan with this digest was rolled back and waits for a person.
    #[must_use]
    pub fn has_failed(&self, digest: &str) -> bool {
        self.failed.as_ref().is_some_and(|failed| failed.digest == digest)
    }
}

/// Loads the record.
///
/// # Errors
/// When neither copy can be read.
pub fn load(root: &Root) -> Result<Loaded<Ledger>, StateError> {
    statefile::load(root, paths::LEDGER)
}

/// Moves the record by `event` and stores it, when that changes anything.
///
/// # Errors
/// When it cannot be stored.
pub fn record(root: &Root, now: Option<&Ledger>, event: Event) -> Result<Option<Ledger>, StateError> {
    let next = Ledger::after(now, event);
    if let Some(next) = next.as_ref().filter(|next| Some(*next) != now) {
        let _: Change = statefile::store(root, paths::LEDGER, next)?;
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(generation: u64) -> Event {
        Event::Committed {
            generation,
            digest: format!("d{generation}"),
            trial: trial(&format!("b{generation}")),
        }
    }

    fn trial(well: &str) -> Trial {
        Trial { well: Some(well.to_owned()), ..Trial::default() }
    }

    fn failed() -> Failed {
        let at = "2026-11-21T00:00:00Z".into();
        Failed { digest: "d2".into(), reason: "k3s failed".into(), at, containerd: None }
    }

    fn run(events: Vec<Event>) -> Option<Ledger> {
        events.into_iter().fold(None, |now, event| Ledger::after(now.as_ref(), event))
    }

    #[test]
    fn a_first_boot_ends_healthy() {
        let ledger = run(vec![committed(1), Event::Activated, Event::Verified]);
        assert!(matches!(ledger, Some(Ledger { phase: Phase::Healthy, last_good: Some(1), .. })));
    }

    #[test]
    fn a_failed_generation_gives_way_and_is_remembered() {
        let ledger = run(vec![
            committed(1),
            Event::Activated,
            Event::Verified,
            committed(2),
            Event::RolledBack { to: 1, failed: failed() },
        ]);
        let ledger = ledger.unwrap_or_else(|| unreachable!());
        assert!(ledger.has_failed("d2") && ledger.generation == 1 && ledger.phase == Phase::RolledBack);
    }

    #[test]
    fn what_k3s_does_is_noted_until_the_generation_is_good() {
        let good = [committed(1), Event::Verified, Event::Looked(trial("late"))];
        let ledger = run(good.to_vec()).unwrap_or_else(|| unreachable!());
        assert_eq!((ledger.trial.clone(), ledger.way_back()), (Trial::default(), None));
        let after = |events: &[Event]| run([&good, events].concat()).unwrap_or_else(|| unreachable!());
        let second = after(&[committed(2)]);
        assert_eq!((second.trial.clone(), second.way_back()), (trial("b2"), Some(1)));
        let looked = [committed(2), Event::Looked(trial("x"))];
        assert_eq!(after(&looked).trial, trial("x"));
        // A third one is not excused by what the second did.
        let third = after(&[&looked[..], &[committed(3)]].concat());
        assert_eq!((third.trial.clone(), third.way_back()), (trial("x"), Some(1)));
        let back = Event::RolledBack { to: 1, failed: failed() };
        let back = after(&[&looked[..], &[back, Event::Looked(trial("y"))]].concat());
        assert_eq!((back.trial.clone(), back.way_back()), (Trial::default(), None));
    }

    #[test]
    fn a_leave_forgets_what_could_be_put_back_and_keeps_its_first_record() {
        let left = |moved: &[&str]| {
            let moved = moved.iter().map(|path| (*path).to_owned()).collect();
            Event::Left(Left {
                number: 1,
                reason: "it moves".into(),
                moved,
                at: "2026-11-21T00:00:00Z".into(),
            })
        };
        let events = vec![committed(1), Event::Activated, Event::Verified, left(&["a", "b"]), left(&["b"])];
        let ledger = run(events).unwrap_or_else(|| unreachable!());
        assert_eq!(ledger.last_good, None);
        assert_eq!(ledger.left.map(|left| left.moved), Some(vec!["a".to_owned(), "b".to_owned()]));
    }

    #[test]
    fn the_same_event_twice_changes_nothing() {
        let once = run(vec![committed(1), Event::Activated]);
        let twice = run(vec![committed(1), committed(1), Event::Activated, Event::Activated]);
        assert_eq!(once, twice);
        assert_eq!(run(vec![Event::Activated, Event::Verified]), None);
    }
}
