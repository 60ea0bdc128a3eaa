//! containerd's store, set aside in a pass, and what is told about it.
//!
//! Owns the moment (nobody uses it), the record, which outlives a power cut right
//! after the move, and the findings. Decides nothing: damage and budget are the
//! plan's.

use tracing::warn;

use super::mend::{Held, down, failed};
use super::{Agent, Pass, Severity, Stop};
use crate::facts::HostFacts;
use crate::facts::store::{Kept, SetAside};
use crate::plan::store::{self, Cure};
use crate::plan::{self, CheckedPlan, Refusal, units};
use crate::sys::host;
use crate::sys::statefile::StateError;
use crate::{activate, apply, inventory, observe, paths};

/// Sets the store aside where the plan says so and nobody uses it. Also where
/// the rest of the plan is not carried out: without it containerd does not run.
pub(super) async fn mend(agent: &Agent, checked: &CheckedPlan, pass: &Pass) -> Result<(), Stop> {
    record_unrecorded(agent, &pass.facts).map_err(|error| failed(&error))?;
    if !checked.plan().quarantines.iter().any(|item| item.path == paths::CONTAINERD_ROOT) {
        return Ok(());
    }
    let held = Held::begin(&agent.root).map_err(|error| failed(&error))?;
    let moved = if is_free(agent, &pass.facts).await {
        apply::set_store_aside(&agent.root, checked)
    } else {
        Ok(None)
    };
    held.end(&agent.root).map_err(|error| failed(&error))?;
    match moved.map_err(|error| failed(&error))? {
        Some(moved) => record(agent, moved, &pass.facts.storage.store.kept).map_err(|error| failed(&error)),
        None => Ok(()),
    }
}

/// Whether it may be moved in this moment: what the plan rests on is as old as
/// the wait for an answer from the network.
async fn is_free(agent: &Agent, facts: &HostFacts) -> bool {
    let states = activate::unit_facts(&agent.systemd, &[units::CONTAINERD]).await;
    let is_down = states.values().all(|state| down(state, agent.root.is_host()));
    let mut now = facts.clone();
    now.runtime.units.extend(states);
    now.storage = observe::storage::again(&agent.root);
    is_down && matches!(store::decide(&now), Some(Cure::SetAside(_)))
}

/// Records that the store lies elsewhere now, with everything that was in it.
fn record(agent: &Agent, (to, reason): (String, String), kept: &[Kept]) -> Result<(), StateError> {
    warn!(EDGE_STEP = "apply", EDGE_CODE = "EB-store-damaged", EDGE_PATH = %to, EDGE_REASON = %reason, "containerd's store set aside");
    let boot_id = host::boot_id(&agent.root).unwrap_or_default();
    let aside = SetAside { to, reason, boot_id, at: agent.clock.unix() };
    inventory::update(&agent.root, |inventory| inventory.set_aside(aside, kept)).map(|_| ())
}

/// The power went between a move and its record: the images that the record
/// still names are not there any more.
fn record_unrecorded(agent: &Agent, facts: &HostFacts) -> Result<(), StateError> {
    let kept = &facts.storage.store.kept;
    for one in store::unrecorded(&facts.storage.store) {
        let aside = SetAside {
            to: one.path.clone(),
            reason: "containerd's store was damaged, and the power went while it was set aside".to_owned(),
            boot_id: String::new(),
            at: one.moved_at,
        };
        inventory::update(&agent.root, |inventory| inventory.set_aside(aside, kept))?;
    }
    Ok(())
}

/// What is wrong with the store, what was done about it, and what it left. Only
/// on a host with a role: the store of any other is not ours.
pub(super) fn findings(pass: &mut Pass) {
    if plan::pinned(&pass.facts).is_none() {
        return;
    }
    let found = [damage(&pass.facts), was_set_aside(&pass.facts), kept(&pass.facts)];
    found.into_iter().flatten().for_each(|(severity, finding)| pass.find(severity, finding));
}

type Found = Option<(Severity, Refusal)>;

fn damage(facts: &HostFacts) -> Found {
    match store::decide(facts)? {
        Cure::Stays(refusal) => Some((Severity::Fail, refusal)),
        Cure::SetAside(item) => {
            let next = "nothing: it is set aside as a whole, and images are brought again by themselves";
            Some((Severity::Warn, Refusal::new("EB-store-damaged", item.reason, next)))
        }
    }
}

fn was_set_aside(facts: &HostFacts) -> Found {
    store::was_set_aside(&facts.storage.store).map(|finding| (Severity::Warn, finding))
}

fn kept(facts: &HostFacts) -> Found {
    let (finding, is_short) = store::kept(&facts.storage)?;
    Some((if is_short { Severity::Warn } else { Severity::Info }, finding))
}
