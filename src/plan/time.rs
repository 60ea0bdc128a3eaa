//! What time it can be: rules for a clock that nobody vouches for.
//!
//! Owns the floor (the latest time that is surely past), and what follows from
//! a clock below it, far above it, or apart from what the central service told.
//! Every part of the floor is authenticated: this program's release, a signed
//! assignment, a synchronised or told time, and time since boot on top of one
//! of these. So a step forward to it may be of any length; only what goes
//! beyond it needs somebody who vouches. Pure: steps are `boot`'s.

use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::Refusal;

/// How far above the floor a clock is believed although nobody vouches for it,
/// in seconds: 400 days. A spare that lay in a store for a year still starts.
pub const FAR: u64 = 400 * 86_400;
/// How far the clock may be from the central service's, in seconds.
pub const APART: u64 = 300;
/// A hardware clock counts whole seconds and drifts.
const SLACK: u64 = 5;
/// Between two records of a time that somebody vouches for, in seconds.
const RECORD: u64 = 600;
/// Between two records of a time that is only known to be past, in seconds.
const RECORD_ELAPSED: u64 = 3600;
/// Earlier than this only a clock that lost its time stands: hardware clocks
/// begin again at 1970, 1980 or 2000.
const LOST: u64 = 978_307_200;

/// The newest entry of the package's changelog: part of the source, so that
/// builds are reproducible and need no build script.
const CHANGELOG: &str = include_str!("../../packaging/deb/changelog");

/// Where a time came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// This program was released then.
    #[default]
    Release,
    /// The assignment in force was signed then.
    Assignment,
    /// The kernel said that the clock was synchronised.
    Synchronized,
    /// The central service told it, authenticated.
    Central,
    /// So long has passed since one of the others.
    Elapsed,
}

impl Source {
    fn words(self) -> &'static str {
        match self {
            Self::Release => "this program was released then",
            Self::Assignment => "the assignment in force was signed then",
            Self::Synchronized => "the clock was synchronised then",
            Self::Central => "the central service told it",
            Self::Elapsed => "so long has passed since a known time",
        }
    }
}

/// A time that is surely past, as recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastSeen {
    /// Seconds since 1970.
    pub at: u64,
    /// Where it came from.
    pub source: Source,
    /// A floor that an authenticated time has shown to be wrong: no source
    /// counts that tells a time after `at` and up to this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disowned: Option<u64>,
}

/// The latest time that is surely past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Floor {
    /// Seconds since 1970.
    pub at: u64,
    /// Where it came from.
    pub source: Source,
}

impl Floor {
    /// The highest of the release, the record, and the signature of the
    /// assignment in force.
    #[must_use]
    pub fn new(last_seen: Option<&LastSeen>, issued_at: Option<u64>) -> Self {
        Self::of(released(), last_seen, issued_at)
    }

    fn of(released: u64, last_seen: Option<&LastSeen>, issued_at: Option<u64>) -> Self {
        let seen = last_seen.cloned().unwrap_or_default();
        let believed = |at: &u64| *at <= seen.at || seen.disowned.is_none_or(|wrong| *at > wrong);
        let sources = [
            Some(released).filter(believed).map(|at| Self { at, source: Source::Release }),
            issued_at.filter(believed).map(|at| Self { at, source: Source::Assignment }),
        ];
        let record = Self { at: seen.at, source: seen.source };
        sources.into_iter().flatten().fold(record, |high, one| if one.at > high.at { one } else { high })
    }
}

/// When this version was released, seconds since 1970; 0 when the changelog
/// does not say.
#[must_use]
pub fn released() -> u64 {
    let mut lines = CHANGELOG.lines().filter(|line| line.starts_with(" -- "));
    lines.next().and_then(|line| line.split_once(">  ")).and_then(|(_, date)| rfc2822(date)).unwrap_or(0)
}

/// `Sat, 21 Nov 2026 22:00:00 +0000` as seconds since 1970; only UTC is known.
fn rfc2822(date: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = date.split_whitespace().collect();
    let [_, day, month, year, time, "+0000"] = words.as_slice() else { return None };
    let month = MONTHS.iter().position(|name| name == month)? + 1;
    let time = humantime::parse_rfc3339(&format!("{year}-{month:02}-{day:0>2}T{time}Z")).ok()?;
    time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

/// What is known at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The clock, seconds since 1970.
    pub now: u64,
    /// The floor.
    pub floor: Floor,
    /// The kernel says that the clock is synchronised.
    pub synchronized: bool,
    /// What the central service's clock shows at this moment, when it told its
    /// time in this boot.
    pub told: Option<u64>,
    /// k3s is known to run.
    pub k3s_runs: bool,
    /// A datastore runs, or it is not known that none does.
    pub datastore_runs: bool,
}

impl Reading {
    /// Whether somebody vouches for a time.
    #[must_use]
    pub fn is_authenticated(&self) -> bool {
        self.synchronized || self.told.is_some()
    }
}

/// What follows from a reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing.
    Sane,
    /// The clock is wrong and is to be set.
    Step {
        /// Seconds since 1970.
        to: u64,
        /// What was wrong with it.
        why: Refusal,
    },
    /// k3s must not start before somebody vouches for a time.
    Hold(Refusal),
    /// The clock is wrong and cannot be set now.
    Tell(Refusal),
}

/// Judges a clock.
#[must_use]
pub fn judge(reading: &Reading) -> Judgement {
    let Reading { now, floor, .. } = *reading;
    match reading.told {
        // The kernel's own synchronisation is nearer than the central service.
        _ if reading.synchronized => Judgement::Sane,
        Some(told) if now.saturating_add(APART) < told => {
            Judgement::Step { to: told, why: behind(now, told) }
        }
        Some(told) if now > told.saturating_add(APART) => {
            let why = ahead_of_central(now, told);
            if reading.datastore_runs { Judgement::Tell(why) } else { Judgement::Step { to: told, why } }
        }
        Some(_) => Judgement::Sane,
        None if now.saturating_add(SLACK) < floor.at => {
            Judgement::Step { to: floor.at, why: below(now, floor) }
        }
        None if now > floor.at.saturating_add(FAR) => {
            let why = far_ahead(now, floor);
            if reading.k3s_runs { Judgement::Tell(why) } else { Judgement::Hold(why) }
        }
        None => Judgement::Sane,
    }
}

/// What is to be recorded now, given the record of before and the time that is
/// surely past: the floor at the first look of this process and the seconds
/// since then. `None` when the record is good enough.
#[must_use]
pub fn record(reading: &Reading, before: Option<&LastSeen>, past: u64) -> Option<LastSeen> {
    let known = before.map_or(0, |before| before.at);
    if !reading.is_authenticated() {
        let due = past >= known.saturating_add(RECORD_ELAPSED) && past > reading.floor.at;
        let disowned = before.and_then(|before| before.disowned);
        return due.then_some(LastSeen { at: past, source: Source::Elapsed, disowned });
    }
    let (at, source) = match reading.told {
        Some(told) if !reading.synchronized => (told, Source::Central),
        _ => (reading.now, Source::Synchronized),
    };
    // A time that was authenticated is above every floor that is right.
    let wrong = (at.saturating_add(APART) < reading.floor.at).then_some(reading.floor.at);
    let earlier = before.and_then(|before| before.disowned).filter(|disowned| *disowned > at);
    let due = wrong.is_some() || at >= known.saturating_add(RECORD);
    due.then_some(LastSeen { at, source, disowned: wrong.max(earlier) })
}

/// Seconds since 1970 within which a certificate's dates are looked at, with
/// this floor: a clock outside of them is not asked.
#[must_use]
pub fn believable(floor: Floor) -> (u64, u64) {
    (floor.at, floor.at.saturating_add(FAR))
}

/// That somebody set the clock by `seconds`, positive forward.
#[must_use]
pub fn stepped(seconds: i64, k3s_runs: bool) -> Refusal {
    let (by, way) = (span(seconds.unsigned_abs()), if seconds < 0 { "back" } else { "forward" });
    let next = if seconds < 0 && k3s_runs {
        "k3s was running: look at its leases and certificates; find out what sets the clock (a time service, a person, the hypervisor)"
    } else {
        "nothing to do when a time service did it"
    };
    Refusal::new("EB-clock-step", format!("the clock was set {way} by {by}"), next)
}

fn behind(now: u64, told: u64) -> Refusal {
    let reason = format!(
        "the clock stands at {}, {} behind the central service's{}",
        date(now),
        span(told - now),
        battery(now)
    );
    Refusal::new("EB-clock-behind", reason, NEXT_SYNC)
}

fn below(now: u64, floor: Floor) -> Refusal {
    let reason = format!(
        "the clock stands at {}, before {}, which is surely past ({}){}",
        date(now),
        date(floor.at),
        floor.source.words(),
        battery(now)
    );
    Refusal::new("EB-clock-behind", reason, NEXT_SYNC)
}

fn ahead_of_central(now: u64, told: u64) -> Refusal {
    let reason =
        format!("the clock stands at {}, {} ahead of the central service's", date(now), span(now - told));
    Refusal::new(
        "EB-clock-ahead",
        reason,
        "it is set back only while no datastore runs here; let a time service slew it, or stop k3s for a moment",
    )
}

fn far_ahead(now: u64, floor: Floor) -> Refusal {
    let reason = format!(
        "the clock stands at {}, {} after the last known time {} ({}), and nobody vouches for it",
        date(now),
        span(now - floor.at),
        date(floor.at),
        floor.source.words()
    );
    Refusal::new(
        "EB-clock-ahead",
        reason,
        "it goes on when a time service or the central service tells the time; if the clock is right, let it pass",
    )
}

const NEXT_SYNC: &str = "its time is set forward; a time service would keep it right";

/// What a clock that lost its time usually means.
fn battery(now: u64) -> &'static str {
    if now < LOST {
        "; the hardware clock lost its time while the power was off: its battery is probably empty"
    } else if now < released() {
        "; that is before this program was released: the hardware clock is wrong, or its battery is empty"
    } else {
        ""
    }
}

fn date(unix: u64) -> String {
    // Beyond the year 9999 there is no such form.
    let time = UNIX_EPOCH + Duration::from_secs(unix.min(253_402_300_799));
    humantime::format_rfc3339_seconds(time).to_string()
}

/// The largest unit that tells enough.
fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
#[path = "time_tests.rs"]
mod tests;
