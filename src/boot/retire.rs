//! Leaving an old life, as one step of the line.
//!
//! Owns the order: that the leave has begun is pinned first, which closes the
//! gate; then k3s is stopped, and only when it is seen to be down its files are
//! moved. The apply that follows pins the new identity and so opens the gate. A
//! cut at any moment leaves a host whose next pass goes on. Decides nothing.

use tracing::info;

use super::{Agent, Order, Pass, Severity, Stop, StopKind, Until, mend, record};
use crate::activate;
use crate::apply::{self, aside};
use crate::ledger::Left;
use crate::plan::{self, CheckedPlan, PlannedRetirement, PlannedUnit, Refusal, Wanted, units};

const UNITS: [&str; 2] = [units::K3S, units::K3S_AGENT];

/// Carries out the leave that the plan begins with, when it does.
pub(super) async fn leave(
    agent: &Agent,
    order: Order,
    checked: &CheckedPlan,
    pass: &mut Pass,
) -> Result<(), Stop> {
    let Some(retirement) = &checked.plan().retirement else { return Ok(()) };
    let Some(pinned) = plan::pinned(&pass.facts) else { return Ok(()) };
    info!(EDGE_STEP = "apply", EDGE_REASON = %retirement.reason, "leaving the old life");
    let begun = apply::retire::begin(&agent.root, pinned, retirement);
    begun.map_err(|error| Stop::failed("EB-state-file", &error))?;
    record::leaving(agent, planned(agent, retirement))
        .map_err(|error| Stop::failed("EB-state-file", &error))?;
    if order.until != Until::Written {
        bring_down(agent, order, retirement).await?;
    }
    let moved = apply::retire::carry_out(&agent.root, retirement);
    let moved = moved.map_err(|error| Stop::failed("EB-apply", &error))?;
    for path in &moved {
        info!(EDGE_STEP = "apply", EDGE_PATH = %path, "old life's files are in quarantine");
    }
    pass.find(Severity::Info, left(retirement, &moved));
    Ok(())
}

fn planned(agent: &Agent, retirement: &PlannedRetirement) -> Left {
    let PlannedRetirement { number, reason, paths } = retirement.clone();
    let moved = paths.iter().map(|path| aside::aside_name(path, number)).collect();
    Left { number, reason, moved, at: agent.clock.rfc3339() }
}

fn left(retirement: &PlannedRetirement, moved: &[String]) -> Refusal {
    let places = if moved.is_empty() { "nothing was left to move".to_owned() } else { moved.join(", ") };
    Refusal::new(
        "EB-left",
        format!("this host left its old life ({}); in quarantine: {places}", retirement.reason),
        "remove the quarantine when nobody needs it any more",
    )
}

/// Stops what of k3s runs. Before READY nothing is stopped: a job could wait for
/// ourselves.
async fn bring_down(agent: &Agent, order: Order, retirement: &PlannedRetirement) -> Result<(), Stop> {
    if all_down(agent).await {
        return Ok(());
    }
    if order.until == Until::Verified {
        let host = activate::Host { root: &agent.root, systemd: &agent.systemd, clock: agent.clock };
        let stopped = activate::start(host, &UNITS.map(|name| stop(name, retirement))).await;
        stopped.map_err(|error| Stop::failed("EB-systemd", &error))?;
        if all_down(agent).await {
            return Ok(());
        }
    }
    let reason = format!("k3s still runs, and this host leaves its old life: {}", retirement.reason);
    Err(Stop { why: Refusal::new("EB-retiring", reason, "it goes on by itself"), kind: StopKind::Waiting })
}

fn stop(name: &str, retirement: &PlannedRetirement) -> PlannedUnit {
    PlannedUnit {
        name: name.to_owned(),
        wanted: Wanted::Stopped,
        manage_boot: false,
        restart: None,
        restart_pending: None,
        reason: retirement.reason.clone(),
    }
}

/// Asked after the gate was closed: what is down then stays down.
async fn all_down(agent: &Agent) -> bool {
    let states = activate::unit_facts(&agent.systemd, &UNITS).await;
    states.values().all(|state| mend::down(state, agent.root.is_host()))
}
