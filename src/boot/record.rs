//! What a pass writes down about itself: ledger and the second step of identity.
//!
//! Owns when a generation counts as committed, active and good, and the way
//! back from one that failed.

use tracing::{info, warn};

use super::{Agent, Pass, Severity, Stop, StopKind, mend};
use crate::error::Chain;
use crate::ledger::{self, Event, Failed, Ledger, Left, Phase};
use crate::plan::{CheckedPlan, PlannedUnit, Refusal, Wanted, fingerprint};
use crate::sys::statefile::{Loaded, StateError};
use crate::verify::Health;
use crate::{activate, apply, identity, observe};

/// A unit of a new generation that was restarted this often has failed.
const TOO_MANY_RESTARTS: u32 = 3;

/// The ledger; one that cannot be read counts as none, and is told.
pub(super) fn load(agent: &Agent, pass: &mut Pass) -> Option<Ledger> {
    match ledger::load(&agent.root) {
        Ok(loaded) => {
            if let Some(damage) = loaded.damage() {
                pass.find(
                    Severity::Warn,
                    Refusal::new(
                        "EB-state-file",
                        format!("ledger: {damage}"),
                        "its earlier copy is in force",
                    ),
                );
            }
            loaded.value()
        }
        Err(error) => {
            pass.find(
                Severity::Warn,
                Refusal::new("EB-state-file", Chain(&error).to_string(), "it is written anew"),
            );
            None
        }
    }
}

fn current(agent: &Agent) -> Option<Ledger> {
    ledger::load(&agent.root).ok().and_then(Loaded::value)
}

/// Why this plan is not tried: it failed before, and nothing changed since.
pub(super) fn blocked(ledger: Option<&Ledger>, checked: &CheckedPlan) -> Option<Refusal> {
    let digest = &checked.plan().generation.as_ref()?.digest;
    let failed = ledger?.failed.as_ref().filter(|failed| failed.digest == *digest)?;
    Some(Refusal::new(
        "EB-rolled-back",
        format!("this plan was rolled back at {}: {}", failed.at, failed.reason),
        "change the assignment, or run `edge-bootstrap apply` to try it again",
    ))
}

pub(super) fn committed(
    agent: &Agent,
    now: Option<&Ledger>,
    checked: &CheckedPlan,
) -> Result<(), StateError> {
    let Some(generation) = &checked.plan().generation else { return Ok(()) };
    let event = Event::Committed { generation: generation.number, digest: generation.digest.clone() };
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
/// its cluster is pinned; one that failed gives way to the last good one.
pub(super) async fn learn(agent: &mut Agent, checked: &CheckedPlan, pass: &mut Pass) -> Result<(), Stop> {
    let health = pass.verdict.as_ref().map(|verdict| verdict.health);
    match health {
        Some(Health::Healthy) => good(agent, checked, pass).await,
        Some(Health::Failed) => failed(agent, checked, pass).await,
        _ => Ok(()),
    }
}

async fn good(agent: &Agent, checked: &CheckedPlan, pass: &mut Pass) -> Result<(), Stop> {
    ledger::record(&agent.root, current(agent).as_ref(), Event::Verified).map_err(|error| state(&error))?;
    let Some(pinned) = &checked.plan().identity else { return Ok(()) };
    pass.facts.runtime.k3s = observe::k3s::observe(&agent.root).await;
    let is_first = pinned.joined.is_none();
    mend::keep_password(&agent.root, &pass.facts, is_first).map_err(|error| state(&error))?;
    let joined = identity::after_ready(pinned, &pass.facts);
    for change in fingerprint::changes(&pinned.fingerprint, &joined.fingerprint) {
        info!(EDGE_STEP = "identity", EDGE_REASON = %change, "hardware is recorded anew");
    }
    let change = identity::pin(&agent.root, &joined).map_err(|error| state(&error))?;
    // The next plan depends on it: full token form, no `cluster-init`.
    pass.again |= change.is_change();
    pass.facts.runtime.identity = crate::facts::Fact::Known(Some(joined));
    Ok(())
}

async fn failed(agent: &mut Agent, checked: &CheckedPlan, pass: &mut Pass) -> Result<(), Stop> {
    let Some(ledger) = current(agent) else { return Ok(()) };
    let Some(last_good) = ledger.last_good.filter(|good| *good != ledger.generation) else { return Ok(()) };
    if ledger.phase == Phase::Healthy || !gave_up(pass, checked) {
        return Ok(());
    }
    let reason = pass.verdict.as_ref().and_then(|verdict| verdict.cause.clone()).unwrap_or_default();
    warn!(EDGE_STEP = "verify", EDGE_GENERATION = last_good, EDGE_REASON = %reason, "generation failed, rolling back");
    apply::rollback(&agent.root, last_good).map_err(|error| state(&error))?;
    let failed = Failed { digest: ledger.digest.clone(), reason: reason.clone(), at: agent.clock.rfc3339() };
    let event = Event::RolledBack { to: last_good, failed };
    ledger::record(&agent.root, Some(&ledger), event).map_err(|error| state(&error))?;
    restart(agent, checked).await;
    pass.find(
        Severity::Fail,
        Refusal::new(
            "EB-rolled-back",
            format!("generation {} failed: {reason}", ledger.generation),
            "generation before it is in force again",
        ),
    );
    Ok(())
}

/// k3s was started again and again with the new generation, or systemd gave up.
fn gave_up(pass: &Pass, checked: &CheckedPlan) -> bool {
    let Some(name) = checked.plan().k3s_unit() else { return false };
    let unit = pass.facts.runtime.units.get(name.trim_end_matches(".service")).and_then(|fact| fact.known());
    unit.is_some_and(|unit| {
        unit.active == "failed"
            || unit.restarts.known().is_some_and(|restarts| *restarts >= TOO_MANY_RESTARTS)
    })
}

async fn restart(agent: &Agent, checked: &CheckedPlan) {
    let again = |unit: &PlannedUnit| PlannedUnit { restart: Some("rolled back".to_owned()), ..unit.clone() };
    let running = checked.plan().units.iter().filter(|unit| unit.wanted == Wanted::Running);
    let units: Vec<PlannedUnit> = running.map(again).collect();
    let host = activate::Host { root: &agent.root, systemd: &agent.systemd, clock: agent.clock };
    if let Err(error) = activate::start(host, &units).await {
        warn!(EDGE_STEP = "activate", EDGE_REASON = %Chain(&error), "units could not be restarted, retrying in the next pass");
    }
}

fn state(error: &(dyn std::error::Error + 'static)) -> Stop {
    let why = Refusal::new("EB-state-file", Chain(error).to_string(), "it is tried again by itself");
    Stop { why, kind: StopKind::Failed }
}
