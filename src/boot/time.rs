//! The clock within a pass: judged before anything is planned, set when it is
//! wrong, recorded when somebody vouches for it.
//!
//! Owns what is remembered of it from pass to pass, and the order of its steps.
//! What follows from a clock is decided by `plan::time`; it is set by an act,
//! because our sandbox cannot.

use std::time::Duration;

use tracing::{info, warn};

use super::act::{ActError, run_act};
use super::{Agent, Order, Pass, Severity, Stop, StopKind, Until};
use crate::error::Chain;
use crate::facts::Fact;
use crate::plan::time::{self, Floor, Judgement, LastSeen, Reading};
use crate::plan::{Refusal, units};
use crate::sys::timedate::{self, Keeping};
use crate::sys::{Clock, clock};
use crate::{activate, allow, floor, hold, paths};

/// How long setting the clock may take.
const ACT: Duration = Duration::from_secs(5);
/// Between two tries to set a clock that cannot be set.
const ACT_AGAIN: Duration = Duration::from_secs(60);
/// Between two questions to timedated.
const ASK: Duration = Duration::from_secs(600);
/// The same while the answer decides whether k3s may start.
const ASK_SOON: Duration = Duration::from_secs(30);
/// How long a time that central told is carried on by the machine's own count.
const TOLD: Duration = Duration::from_secs(86_400);
/// How long a step of the clock is shown.
const SHOWN: Duration = Duration::from_secs(3600);
/// A smaller step is none, in seconds: a time service does that all day.
const STEP: u64 = 5;

/// What is known of the clock from pass to pass; gone with the process. All
/// times are since boot, which no step can change.
#[derive(Debug, Clone, Default)]
pub struct Remembered {
    /// What the central service told, and when.
    told: Option<(u64, Duration)>,
    /// What timedated said, and when.
    keeping: Option<(Result<Keeping, String>, Duration)>,
    /// The floor at the first look, and when that was.
    anchor: Option<(u64, Duration)>,
    /// Seconds between 1970 and the boot, as the clock had it at the last look.
    offset: Option<i64>,
    /// The last step that was not ours.
    stepped: Option<(Refusal, Severity, Duration)>,
    /// Why the clock could not be set, and when that was.
    failed: Option<(String, Duration)>,
    /// Why we set the clock; shown until somebody vouches for it, at least for a while.
    set: Option<(Refusal, Duration)>,
}

impl Remembered {
    /// The central service told its time just now, authenticated. Whether the
    /// clock is far enough from it to be looked at.
    pub fn told(&mut self, unix: u64, clock: Clock) -> bool {
        self.told = Some((unix, clock::since_boot()));
        clock.unix().abs_diff(unix) > time::APART
    }

    fn told_now(&self) -> Option<u64> {
        let (unix, at) = self.told?;
        let since = clock::since_boot().saturating_sub(at);
        (since < TOLD).then(|| unix.saturating_add(since.as_secs()))
    }

    fn synchronized(&self) -> Option<bool> {
        let (keeping, _) = self.keeping.as_ref()?;
        keeping.as_ref().ok().map(|keeping| keeping.synchronized)
    }

    /// What is surely past by now: the first floor, and the time since then.
    fn past(&mut self, floor: Floor) -> u64 {
        let now = clock::since_boot();
        let (at, since) = *self.anchor.get_or_insert((floor.at, now));
        at.saturating_add(now.saturating_sub(since).as_secs())
    }

    /// Compares clock and boot time with the last look; seconds of the step.
    fn compare(&mut self, now: u64, since_boot: Duration) -> Option<i64> {
        let offset = now.cast_signed().saturating_sub(since_boot.as_secs().cast_signed());
        let before = self.offset.replace(offset)?;
        Some(offset.saturating_sub(before)).filter(|step| step.unsigned_abs() > STEP)
    }
}

/// Judges the clock, sets it when it is wrong, and ends the pass when k3s must
/// not start with it.
pub(super) async fn check(agent: &mut Agent, order: Order, pass: &mut Pass) -> Result<(), Stop> {
    // Another root's host has a clock of its own.
    if order.until == Until::Written {
        return Ok(());
    }
    notice(agent, pass);
    let last_seen = load(agent, pass);
    let reading = read(agent, order, pass, last_seen.as_ref()).await;
    let result = follow(agent, order, pass, &reading).await;
    let reading = Reading { now: agent.clock.unix(), ..reading };
    pass.facts.system.time.now = Fact::Known(reading.now);
    if !order.observe_only {
        keep(agent, pass, &reading, last_seen.as_ref());
    }
    show(agent, pass, &reading);
    result
}

/// Looks for a step that was not ours.
fn notice(agent: &mut Agent, pass: &Pass) {
    let now = clock::since_boot();
    let Some(step) = agent.time.compare(agent.clock.unix(), now) else { return };
    let k3s_runs = runs(pass, units::K3S).or(runs(pass, units::K3S_AGENT)).unwrap_or(false);
    let found = time::stepped(step, k3s_runs);
    warn!(EDGE_STEP = "observe", EDGE_CODE = %found.code, EDGE_REASON = %found.reason, "clock was set");
    let severity = if step < 0 { Severity::Warn } else { Severity::Info };
    agent.time.stepped = Some((found, severity, now));
    // Setting the clock ends its synchronisation.
    agent.time.keeping = None;
}

/// The record; one that cannot be read counts as none, and is told.
fn load(agent: &Agent, pass: &mut Pass) -> Option<LastSeen> {
    let (value, damage) = match floor::load(&agent.root) {
        Ok(loaded) => {
            let damage = loaded.damage().map(str::to_owned);
            (loaded.value(), damage)
        }
        Err(error) => (None, Some(Chain(&error).to_string())),
    };
    if let Some(damage) = damage {
        let next = "an earlier time counts as the last known one; it is written anew";
        pass.find(Severity::Warn, Refusal::new("EB-state-file", format!("clock record: {damage}"), next));
    }
    value
}

async fn read(agent: &mut Agent, order: Order, pass: &mut Pass, seen: Option<&LastSeen>) -> Reading {
    let issued_at = pass.assignment.as_ref().and_then(|assignment| assignment.issued_at);
    let (server, node) = (runs(pass, units::K3S), runs(pass, units::K3S_AGENT));
    let mut reading = Reading {
        now: agent.clock.unix(),
        floor: Floor::new(seen, issued_at),
        synchronized: agent.time.synchronized().unwrap_or(false),
        told: agent.time.told_now(),
        k3s_runs: server == Some(true) || node == Some(true),
        datastore_runs: server.unwrap_or(true),
    };
    let matters = time::judge(&reading) != Judgement::Sane;
    ask(agent, order, matters).await;
    let time = &mut pass.facts.system.time;
    match &agent.time.keeping {
        Some((Ok(keeping), _)) => {
            time.synchronized = Fact::Known(keeping.synchronized);
            time.ntp = Fact::Known(keeping.ntp);
        }
        Some((Err(why), _)) => time.ntp = Fact::unknown(why.clone()),
        None => {}
    }
    reading.synchronized = agent.time.synchronized().unwrap_or(false);
    reading
}

/// Asks timedated when that is due: often while it matters, else seldom, and
/// before READY only when it matters.
async fn ask(agent: &mut Agent, order: Order, matters: bool) {
    let age = agent.time.keeping.as_ref().map(|(_, at)| clock::since_boot().saturating_sub(*at));
    let due = |limit| age.is_none_or(|age| age >= limit);
    if (matters && due(ASK_SOON)) || (order.until == Until::Verified && due(ASK)) {
        let answer = timedate::keeping(&agent.systemd).await;
        agent.time.keeping = Some((answer, clock::since_boot()));
    }
}

/// Whether a unit's program runs; `None` when that is not known.
fn runs(pass: &Pass, unit: &str) -> Option<bool> {
    let unit = pass.facts.runtime.units.get(unit.trim_end_matches(".service"))?;
    unit.known().map(|unit| unit.main_pid != 0)
}

async fn follow(agent: &mut Agent, order: Order, pass: &mut Pass, reading: &Reading) -> Result<(), Stop> {
    let why = match time::judge(reading) {
        Judgement::Sane => return Ok(()),
        Judgement::Tell(why) => {
            pass.find(Severity::Warn, why);
            return Ok(());
        }
        Judgement::Step { why, .. } | Judgement::Hold(why) if order.observe_only => {
            pass.find(Severity::Warn, why);
            return Ok(());
        }
        Judgement::Hold(why) => why,
        Judgement::Step { to, why } => match set_or_wait(agent, reading, to, &why).await {
            Ok(()) => return Ok(()),
            Err(failure) => Refusal { reason: format!("{}; it cannot be set: {failure}", why.reason), ..why },
        },
    };
    let alone = time::judge(&Reading { told: None, ..*reading });
    let harmless = reading.k3s_runs || !matches!(alone, Judgement::Step { .. } | Judgement::Hold(_));
    if harmless || allow::lets_pass(&agent.root, agent.clock, &why.code).is_some() {
        pass.find(Severity::Warn, why);
        return Ok(());
    }
    Err(Stop { why, kind: StopKind::Held })
}

/// A clock that could not be set is left alone for a while.
async fn set_or_wait(agent: &mut Agent, reading: &Reading, to: u64, why: &Refusal) -> Result<(), String> {
    let is_fresh = |at: &Duration| clock::since_boot().saturating_sub(*at) < ACT_AGAIN;
    if let Some((failure, _)) = agent.time.failed.as_ref().filter(|(_, at)| is_fresh(at)) {
        return Err(failure.clone());
    }
    let result = set(agent, reading, to, why).await;
    agent.time.failed = result.as_ref().err().map(|failure| (failure.clone(), clock::since_boot()));
    result
}

/// Sets the clock, and looks whether it is set. Backwards only with k3s kept
/// down, and seen to be down after that.
async fn set(agent: &mut Agent, reading: &Reading, to: u64, why: &Refusal) -> Result<(), String> {
    let back = to < reading.now;
    let was_held = hold::current(&agent.root).is_some();
    if back {
        let held = agent.root.ensure_dir(paths::RUN_DIR).and_then(|()| hold::set(&agent.root, why));
        held.map_err(|error| Chain(&error).to_string())?;
    }
    let done = if back && !is_down(agent).await {
        Err("k3s has started meanwhile".to_owned())
    } else {
        act(agent, to).await.map_err(|error| Chain(&error).to_string())
    };
    if back
        && !was_held
        && let Err(error) = hold::clear(&agent.root)
    {
        warn!(EDGE_STEP = "observe", EDGE_REASON = %Chain(&error), "hold cannot be removed, retrying in the next pass");
    }
    done?;
    let now = agent.clock.unix();
    if now.abs_diff(to) > time::APART {
        return Err("the system took it, and the clock stands elsewhere".to_owned());
    }
    // This step was ours.
    agent.time.compare(now, clock::since_boot());
    info!(EDGE_STEP = "observe", EDGE_CODE = %why.code, EDGE_REASON = %why.reason, "clock was set by us");
    let next = format!("it was set to {}; a time service would keep it right", clock::rfc3339(to));
    agent.time.set = Some((Refusal { next, ..why.clone() }, clock::since_boot()));
    Ok(())
}

async fn act(agent: &Agent, to: u64) -> Result<(), ActError> {
    let words = ["--to".to_owned(), to.to_string()];
    run_act((&agent.root, &agent.systemd), "set-clock", &words, ACT).await
}

async fn is_down(agent: &Agent) -> bool {
    let facts = activate::unit_facts(&agent.systemd, &[units::K3S]).await;
    facts.values().all(|unit| unit.known().is_some_and(|unit| unit.main_pid == 0))
}

fn keep(agent: &mut Agent, pass: &mut Pass, reading: &Reading, before: Option<&LastSeen>) {
    let past = agent.time.past(reading.floor);
    let Some(seen) = time::record(reading, before, past) else { return };
    if let Err(error) = floor::store(&agent.root, &seen) {
        let next = "it is tried again by itself; after a power cut the clock may stand too early";
        pass.find(Severity::Warn, Refusal::new("EB-state-file", Chain(&error).to_string(), next));
    }
}

fn show(agent: &mut Agent, pass: &mut Pass, reading: &Reading) {
    let now = clock::since_boot();
    let is_fresh = |at: Duration| now.saturating_sub(at) < SHOWN;
    agent.time.stepped.take_if(|(_, _, at)| !is_fresh(*at));
    agent.time.set.take_if(|(_, at)| reading.is_authenticated() && !is_fresh(*at));
    if let Some((found, severity, _)) = &agent.time.stepped {
        pass.find(*severity, found.clone());
    }
    if let Some((found, _)) = &agent.time.set {
        pass.find(Severity::Warn, found.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_step_counts_as_one() {
        let mut remembered = Remembered::default();
        let boot = Duration::from_secs;
        assert_eq!(remembered.compare(1_800_000_000, boot(100)), None, "the first look");
        assert_eq!(remembered.compare(1_800_000_060, boot(160)), None, "time has passed");
        assert_eq!(remembered.compare(1_800_000_064, boot(160)), None, "a time service slews");
        assert_eq!(remembered.compare(1_799_996_464, boot(160)), Some(-3600));
        assert_eq!(remembered.compare(1_799_996_465, boot(161)), None, "told once");
    }

    #[test]
    fn what_is_surely_past_grows_with_the_time_since_boot() {
        let floor = |at| Floor { at, source: time::Source::Release };
        let mut remembered = Remembered { anchor: Some((1_000, Duration::ZERO)), ..Remembered::default() };
        let up = clock::since_boot().as_secs();
        let past = remembered.past(floor(9_000));
        assert!((1_000 + up..=1_001 + up).contains(&past), "{past}");
    }

    #[test]
    fn the_central_services_time_goes_on_by_itself() {
        let mut remembered = Remembered::default();
        assert!(remembered.told(1_800_000_000, Clock::Fixed(0)));
        assert!(!remembered.told(1_800_000_000, Clock::Fixed(1_800_000_299)));
        assert!(matches!(remembered.told_now(), Some(1_800_000_000 | 1_800_000_001)));
        remembered.told = Some((1_800_000_000, Duration::ZERO));
        let up = clock::since_boot();
        assert_eq!(remembered.told_now().is_some(), up < TOLD);
    }
}
