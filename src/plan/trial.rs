//! Whether k3s holds out with what is new to it: another generation, or another
//! version ([`super::upgrade`]).
//!
//! Owns how many ends are too many, since when they count, and what does not
//! count. Evidence only: k3s ended by itself and was started again. One that is
//! not up yet, or not well, is waited for; it may miss its servers. Pure: what was
//! seen before is a record ([`Trial`]).

use std::time::Duration;

use crate::facts::runtime::Unit;
use crate::facts::upgrade::{Started, Trial};

/// How long a k3s that is well must have been up to count as good. Its parts begin
/// after READY, and one that does not take its arguments ends the whole (k3s:
/// pkg/executor/embed/embed.go waits for the API server before each of them).
pub const HOLDS: Duration = Duration::from_secs(20);
/// What ended this often since it is new has failed.
pub(super) const ENDS: u32 = 3;
/// The same where something else may be why: nobody says that the rest of the room
/// works, or k3s was not seen to be up with the values before in this boot.
const ENDS_UNSURE: u32 = 12;

/// What is seen after a pass.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen<'a> {
    /// Generation in force.
    pub generation: u64,
    /// k3s was started with its values.
    pub runs: bool,
    /// Its unit.
    pub unit: Option<&'a Unit>,
    /// How often it ended by itself since its last start by a job.
    pub ends: u32,
    /// What k3s needs works, and nothing else about it is new.
    pub is_fair: bool,
    /// The gate lets it start.
    pub may_start: bool,
    /// This boot.
    pub boot_id: &'a str,
    /// Seconds since boot (monotonic).
    pub now_s: u64,
}

/// Whether the unit is up for long enough to count, `now_s` being seconds since boot
/// (monotonic).
#[must_use]
pub fn holds(unit: Option<&Unit>, now_s: u64) -> bool {
    unit.is_some_and(|unit| {
        unit.active == "active" && now_s.saturating_sub(unit.since_monotonic_s) >= HOLDS.as_secs()
    })
}

/// The record after what was seen.
#[must_use]
pub fn next(trial: &Trial, seen: Seen<'_>) -> Trial {
    if !seen.runs {
        return if trial.of == 0 { before(trial, seen) } else { trial.clone() };
    }
    let goes_on = |started: &&Started| trial.of == seen.generation && started.boot_id == seen.boot_id;
    let same = trial.started.as_ref().filter(goes_on).cloned();
    let anew =
        || Started { boot_id: seen.boot_id.to_owned(), at_s: seen.now_s, restarts: seen.ends, boots: 1 };
    let started = seen.is_fair.then(|| same.unwrap_or_else(anew));
    Trial { of: seen.generation, started, ..trial.clone() }
}

/// How k3s is with the values before: what it did with them is no evidence against
/// the new ones. Of the last good generation, that is; what takes the place of one
/// that never was good goes on with the record of that.
#[must_use]
pub fn before(trial: &Trial, seen: Seen<'_>) -> Trial {
    let is_up = seen.unit.is_some_and(|unit| unit.active == "active");
    match seen.ends {
        ends if is_up && (ends == 0 || holds(seen.unit, seen.now_s)) => {
            Trial { well: Some(seen.boot_id.to_owned()), ill: false, ..trial.clone() }
        }
        0 => trial.clone(),
        _ => Trial { ill: true, ..trial.clone() },
    }
}

/// Why the generation on trial has failed. `is_sure`: the rest of the room works, so
/// that nothing outside this host keeps k3s from it.
#[must_use]
pub fn over(trial: &Trial, seen: Seen<'_>, is_sure: bool) -> Option<String> {
    let is_judged = seen.runs && seen.is_fair && seen.may_start && !trial.ill && trial.of == seen.generation;
    let since = trial.started.as_ref().filter(|since| is_judged && since.boot_id == seen.boot_id)?;
    let is_sure = is_sure && trial.well.as_deref() == Some(seen.boot_id);
    gave_up(seen.unit?, seen.ends, since, if is_sure { ENDS } else { ENDS_UNSURE })
}

/// Why k3s, which ended so often by itself, does not come up any more with what is
/// new `since`. Ends are counted anew after a start by hand.
pub(super) fn gave_up(unit: &Unit, ends: u32, since: &Started, limit: u32) -> Option<String> {
    let count = ends.checked_sub(since.restarts).unwrap_or(ends);
    match unit.active.as_str() {
        "failed" => Some("its unit has failed".to_owned()),
        "active" => None,
        _ => (count >= limit).then(|| format!("it ended {count} times before it was well")),
    }
}

#[cfg(test)]
#[path = "trial_tests.rs"]
mod tests;
