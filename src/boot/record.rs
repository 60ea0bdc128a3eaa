//! What a pass writes down about itself: ledger and the second step of identity.
//!
//! Owns when a generation counts as committed, active and good, and the way
//! back from one that failed.

use tracing::{info, warn};

use super::{Agent, Pass, Severity, Stop, StopKind, containerd, mend, trial};
use crate::error::Chain;
use crate::facts::Fact;
use crate::facts::k3s_config::Effective;
use crate::ledger::{self, Event, Failed, Ledger, Left};
use crate::plan::{
    CheckedPlan, PlannedFile, PlannedUnit, Refusal, Wanted, fingerprint, restart, tokens, units,
};
use crate::sys::Root;
use crate::sys::statefile::{Loaded, StateError};
use crate::verify::Health;
use crate::{activate, apply, identity, observe, pause};

/// The ledger; one that cannot be read counts as none, and is told.
pub(super) fn load(agent: &Agent, pass: &mut Pass) -> Option<Ledger> {
    let loaded = ledger::load(&agent.root);
    tell_damage(pass, "ledger", loaded.as_ref().map(Loaded::damage), "it is written anew");
    loaded.ok().and_then(Loaded::value)
}

/// What a power cut left of the records of who this host is and of a pause. A
/// pause that nobody can read is none: it would never end.
pub(super) fn notice(agent: &Agent, pass: &mut Pass) {
    let (identity, pause) = (identity::load(&agent.root), pause::load(&agent.root));
    let kept = "when it is pinned anew, what is left of it goes to /var/lib/edge-bootstrap/quarantine";
    tell_damage(pass, "identity.json", identity.as_ref().map(Loaded::damage), kept);
    let none =
        "no pause is in force: `edge-bootstrap pause` pauses anew, `edge-bootstrap resume` clears this";
    tell_damage(pass, "pause.json", pause.as_ref().map(Loaded::damage), none);
}

fn tell_damage(pass: &mut Pass, name: &str, loaded: Result<Option<&str>, &StateError>, none: &str) {
    let (reason, next) = match loaded {
        Ok(None) => return,
        Ok(Some(damage)) => (format!("{name}: {damage}"), "its earlier copy is in force"),
        Err(error) => (Chain(error).to_string(), none),
    };
    pass.find(Severity::Warn, Refusal::new("EB-state-file", reason, next));
}

pub(super) fn current(agent: &Agent) -> Option<Ledger> {
    ledger::load(&agent.root).ok().and_then(Loaded::value)
}

/// Why this plan is not tried: it failed before, and nothing changed since. Of a
/// plan with which containerd did not come up, containerd's file is what failed,
/// whatever else changed.
pub(super) fn blocked(ledger: Option<&Ledger>, checked: &CheckedPlan) -> Option<Refusal> {
    let digest = &checked.plan().generation.as_ref()?.digest;
    let file = containerd::planned(checked).map(PlannedFile::sha256);
    let is_same = |failed: &&Failed| {
        failed.digest == *digest || failed.containerd.is_some() && failed.containerd == file
    };
    let failed = ledger?.failed.as_ref().filter(is_same)?;
    Some(Refusal::new(
        rolled_back_code(failed),
        format!("this plan was rolled back at {}: {}", failed.at, failed.reason),
        "change the assignment, or run `edge-bootstrap apply` to try it again",
    ))
}

fn rolled_back_code(failed: &Failed) -> &'static str {
    if failed.containerd.is_some() { "EB-containerd-rolled-back" } else { "EB-rolled-back" }
}

pub(super) fn committed(
    agent: &Agent,
    now: Option<&Ledger>,
    checked: &CheckedPlan,
    pass: &Pass,
) -> Result<(), StateError> {
    let Some(generation) = &checked.plan().generation else { return Ok(()) };
    let (generation, digest) = (generation.number, generation.digest.clone());
    let event = Event::Committed { generation, digest, trial: trial::begin(agent, checked, pass) };
    ledger::record(&agent.root, now, event).map(|_| ())
}

/// A leave has begun: what was good before is no way back.
pub(super) fn leaving(agent: &Agent, left: Left) -> Result<(), StateError> {
    ledger::record(&agent.root, current(agent).as_ref(), Event::Left(left)).map(|_| ())
}

pub(super) fn activated(agent: &Agent) -> Result<(), StateError> {
    ledger::record(&agent.root, current(agent).as_ref(), Event::Activated).map(|_| ())
}

/// After the verdict: a good generation is recorded and what the host learnt of
/// its cluster is pinned; one that failed gives way to the last good one. k3s that
/// is not well, or waits for its next start, has not failed for that alone.
pub(super) async fn learn(agent: &mut Agent, checked: &CheckedPlan, pass: &mut Pass) -> Result<(), Stop> {
    let over = trial::watch(agent, checked, pass).await.map_err(|error| state(&error))?;
    match pass.verdict.as_ref().map(|verdict| verdict.health) {
        Some(Health::Healthy) => good(agent, checked, pass).await,
        _ if over.is_some() || containerd::is_over(&pass.facts) => failed(agent, checked, over, pass).await,
        _ => Ok(()),
    }
}

async fn good(agent: &Agent, checked: &CheckedPlan, pass: &mut Pass) -> Result<(), Stop> {
    let ledger = current(agent);
    let may_fail = ledger.as_ref().is_some_and(|ledger| ledger.way_back().is_some());
    let is_young = may_fail && !trial::holds(checked, pass);
    pass.on_trial |= is_young;
    if !is_young && checked.plan().units.iter().all(shows_itself) {
        ledger::record(&agent.root, ledger.as_ref(), Event::Verified).map_err(|error| state(&error))?;
    }
    let Some(pinned) = &checked.plan().identity else { return Ok(()) };
    let main_pid = observe::k3s::main_pid(&pass.facts.runtime.units);
    pass.facts.runtime.k3s = observe::k3s::observe(&agent.root, main_pid).await;
    let is_first = pinned.joined.is_none();
    mend::keep_password(&agent.root, &pass.facts, is_first).map_err(|error| state(&error))?;
    let joined = identity::after_ready(pinned, &pass.facts);
    for change in fingerprint::changes(&pinned.fingerprint, &joined.fingerprint) {
        info!(EDGE_STEP = "identity", EDGE_REASON = %change, "hardware is recorded anew");
    }
    let change = identity::pin(&agent.root, &joined).map_err(|error| state(&error))?;
    // The next plan depends on it: full token form, no `cluster-init`.
    pass.again |= change.is_change();
    pass.facts.runtime.identity = Fact::Known(Some(joined));
    Ok(())
}

/// What waits for its restart has not shown yet that it is good. A server token
/// that k3s has taken is the cluster's: there is no way back to the one before.
fn shows_itself(unit: &PlannedUnit) -> bool {
    unit.restart_pending.as_ref().is_none_or(|reason| reason.starts_with(tokens::FORMER))
}

async fn failed(
    agent: &mut Agent,
    checked: &CheckedPlan,
    k3s: Option<String>,
    pass: &mut Pass,
) -> Result<(), Stop> {
    let Some(ledger) = current(agent) else { return Ok(()) };
    let Some(last_good) = ledger.way_back() else { return Ok(()) };
    let containerd = containerd::gave_up(&agent.root, &pass.facts, last_good);
    if containerd.is_none() && k3s.is_none() {
        return Ok(());
    }
    if let Some(why) = containerd::keeps_here(&agent.root, &pass.facts, last_good).await {
        why.into_iter().for_each(|why| pass.find(Severity::Fail, why));
        return Ok(());
    }
    let reason = match &containerd {
        Some(gave_up) => format!("{}{}", gave_up.words, containerd::last_words(&agent.root).await),
        None => with_cause(k3s, pass),
    };
    warn!(EDGE_STEP = "verify", EDGE_GENERATION = last_good, EDGE_REASON = %reason, "generation failed, rolling back");
    let before = observe::k3s::effective(&agent.root);
    apply::rollback(&agent.root, last_good).map_err(|error| state(&error))?;
    let failed = Failed {
        digest: ledger.digest.clone(),
        reason: reason.clone(),
        at: agent.clock.rfc3339(),
        containerd: containerd.map(|gave_up| gave_up.file),
    };
    let code = rolled_back_code(&failed);
    let only_containerd = failed.containerd.is_some() && reads_the_same(&before, &agent.root);
    let event = Event::RolledBack { to: last_good, failed };
    ledger::record(&agent.root, Some(&ledger), event).map_err(|error| state(&error))?;
    restart_running(agent, checked, only_containerd).await;
    pass.find(
        Severity::Fail,
        Refusal::new(
            code,
            format!("generation {} failed: {reason}", ledger.generation),
            "generation before it is in force again",
        ),
    );
    Ok(())
}

/// Whether k3s would read what it has read (invariant 10).
fn reads_the_same(before: &Fact<Effective>, root: &Root) -> bool {
    let after = observe::k3s::effective(root);
    match (before.known(), after.known()) {
        (Some(before), Some(after)) => restart::changed_keys(before, after).is_empty(),
        _ => false,
    }
}

fn with_cause(k3s: Option<String>, pass: &Pass) -> String {
    let cause = pass.verdict.as_ref().and_then(|verdict| verdict.cause.clone());
    let cause = cause.map(|cause| format!(" ({cause})")).unwrap_or_default();
    format!("k3s does not hold out with it: {}{cause}", k3s.unwrap_or_default())
}

async fn restart_running(agent: &Agent, checked: &CheckedPlan, only_containerd: bool) {
    let units = restarted(&checked.plan().units, only_containerd);
    let host = activate::Host { root: &agent.root, systemd: &agent.systemd, clock: agent.clock };
    if let Err(error) = activate::start(host, &units).await {
        warn!(EDGE_STEP = "activate", EDGE_REASON = %Chain(&error), "units could not be restarted, retrying in the next pass");
    }
}

/// What is restarted after a way back. A unit that waits for its turn has not
/// been restarted with what was rolled back: it runs as it was.
fn restarted(units: &[PlannedUnit], only_containerd: bool) -> Vec<PlannedUnit> {
    let again = |unit: &PlannedUnit| PlannedUnit { restart: Some("rolled back".to_owned()), ..unit.clone() };
    let is_meant = |unit: &&PlannedUnit| {
        unit.wanted == Wanted::Running
            && unit.restart_pending.is_none()
            && (!only_containerd || unit.name == units::CONTAINERD)
    };
    units.iter().filter(is_meant).map(again).collect()
}

fn state(error: &(dyn std::error::Error + 'static)) -> Stop {
    let why = Refusal::new("EB-state-file", Chain(error).to_string(), "it is tried again by itself");
    Stop { why, kind: StopKind::Failed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_waits_for_its_turn_is_not_restarted_by_a_way_back() {
        let unit = |name: &str, wanted, waits: Option<&str>| PlannedUnit {
            name: name.to_owned(),
            wanted,
            manage_boot: true,
            restart: None,
            restart_pending: waits.map(str::to_owned),
            reason: String::new(),
        };
        let planned = |waits| {
            [
                unit(units::CONTAINERD, Wanted::Running, None),
                unit(units::K3S, Wanted::Running, waits),
                unit(units::K3S_AGENT, Wanted::Stopped, None),
            ]
        };
        let names = |waits, only| {
            let units = restarted(&planned(waits), only);
            assert!(units.iter().all(|unit| unit.restart.as_deref() == Some("rolled back")));
            units.into_iter().map(|unit| unit.name).collect::<Vec<_>>()
        };
        assert_eq!(names(None, false), [units::CONTAINERD, units::K3S]);
        assert_eq!(names(Some("changed: disable"), false), [units::CONTAINERD]);
        assert_eq!(names(None, true), [units::CONTAINERD]);
    }
}
