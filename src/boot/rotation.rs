//! A new server token, as one step of the line.
//!
//! Owns the order: this host's turn, the record, the request to k3s, and the
//! record goes. One that was cut is made once more, from whichever half k3s
//! stands on. The token file follows in the next pass, when k3s holds the new
//! token, and then the restart that makes it know who asks by it, in the same
//! turn. Decides nothing ([`crate::plan::tokens`]), restarts nothing.

use tracing::info;

use super::{Agent, Pass, Severity, Stop, mend, turn};
use crate::error::Chain;
use crate::kube::{Kube, KubeError};
use crate::plan::tokens::{self, Change};
use crate::plan::turn::{Wait, may_change};
use crate::plan::{CheckedPlan, Refusal};
use crate::role::words::TokenText;
use crate::sys::clock;
use crate::verify::Health;
use crate::wire::secret::fingerprint;
use crate::{paths, rotation};

/// A change that was cut leaves users here that the datastore does not have. k3s takes
/// older ones from there, and ends at newer ones for ever (k3s: pkg/cluster/bootstrap.go).
pub(super) fn before_start(agent: &Agent, pass: &mut Pass) {
    let state = pass.facts.runtime.units.get("k3s");
    let is_down = state.is_some_and(|state| mend::down(state, agent.root.is_host()));
    if !is_down || rotation::load(&agent.root).is_none() {
        return;
    }
    if let Err(error) = agent.root.age(paths::K3S_USERS) {
        tell(pass, Severity::Warn, Chain(&error).to_string());
    }
}

/// Goes on with what is due, on a node that is well.
pub(super) async fn go_on(agent: &mut Agent, checked: &CheckedPlan, pass: &mut Pass) -> Result<(), Stop> {
    let Some(duty) = pass.assignment.as_ref().and_then(|assignment| assignment.duty.clone()) else {
        return Ok(());
    };
    let is_well = pass.verdict.as_ref().is_some_and(|verdict| verdict.health == Health::Healthy);
    let due = tokens::change(&pass.facts, &duty).filter(|_| is_well && !pass.again && !pass.blocked);
    let Some(change) = due else { return Ok(()) };
    if let Err(wait) = my_turn(agent, checked, pass).await? {
        let reason = format!("the new server token waits for this host's turn: {}", wait.reason);
        tell(pass, Severity::Info, reason);
        pass.turn.get_or_insert(wait);
        return Ok(());
    }
    let was_begun = rotation::load(&agent.root).is_some();
    let former = fingerprint(change.held.as_str().as_bytes());
    rotation::begin(&agent.root, former).map_err(|error| Stop::failed("EB-state-file", &error))?;
    match ask(Kube::own_admin(&agent.root), change, was_begun).await {
        Ok(()) => done(agent, pass),
        Err(error) => {
            let is_told = agent.turn.rotation.is_told(&error, clock::since_boot());
            let severity = if is_told { Severity::Warn } else { Severity::Info };
            let reason = format!("k3s on this host did not take the new server token: {}", error.words());
            tell(pass, severity, reason);
            // What k3s does not take must not keep the room's turn.
            turn::end(agent, checked, pass).await;
            Ok(())
        }
    }
}

/// Two servers at once could leave two records in the datastore.
async fn my_turn(agent: &mut Agent, checked: &CheckedPlan, pass: &Pass) -> Result<Result<(), Wait>, Stop> {
    match turn::is_alone(agent, pass).await {
        Ok(true) => Ok(Ok(())),
        Ok(false) => turn::begin_by(agent, checked, pass, may_change).await,
        Err(wait) => Ok(Err(wait)),
    }
}

/// k3s takes the new token itself before it writes the record anew. One that was
/// cut in between refuses to write it from there, and goes back first.
async fn ask(kube: Kube<'_>, change: Change<'_>, was_begun: bool) -> Result<(), KubeError> {
    let Change { held, new } = change;
    match put(kube, change, new).await {
        Err(KubeError::Refused { status: 500.., .. }) if was_begun => {
            put(kube, change, held).await?;
            put(kube, change, new).await
        }
        other => other,
    }
}

/// Whoever asks shows the token that k3s was started with, whichever it has taken since.
async fn put(kube: Kube<'_>, change: Change<'_>, token: &TokenText) -> Result<(), KubeError> {
    match kube.change_token(change.held, token).await {
        Err(KubeError::Refused { status: 401 | 403, .. }) => kube.change_token(change.new, token).await,
        other => other,
    }
}

fn done(agent: &mut Agent, pass: &mut Pass) -> Result<(), Stop> {
    agent.turn.rotation.ends();
    rotation::end(&agent.root).map_err(|error| Stop::failed("EB-state-file", &error))?;
    info!(EDGE_STEP = "activate", "k3s on this host holds the new server token");
    pass.again = true;
    Ok(())
}

fn tell(pass: &mut Pass, severity: Severity, reason: String) {
    pass.find(severity, Refusal::new("EB-token-rotate", reason, "it is tried again by itself"));
}
