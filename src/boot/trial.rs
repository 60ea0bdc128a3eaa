//! How k3s does with a generation that was not seen to be good yet.
//!
//! Owns what is looked at for that, and its record in the ledger, which survives
//! this process and a power cut. Decides nothing ([`crate::plan::trial`]); the way
//! back is that of every generation ([`super::record`]).

use futures_util::future::join_all;

use super::{Agent, Pass, record};
use crate::facts::runtime::Unit;
use crate::facts::upgrade::Trial;
use crate::kube::Kube;
use crate::ledger::{self, Event};
use crate::plan::trial::{self as rules, Seen};
use crate::plan::{CheckedPlan, restart};
use crate::role::{Duty, Role};
use crate::sys::clock;
use crate::sys::statefile::StateError;
use crate::verify::State;
use crate::{apply, gate};

/// Whether k3s is up for long enough to count as good. What was begun in this pass
/// is another process than the one that was seen at its begin.
pub(super) fn holds(checked: &CheckedPlan, pass: &Pass) -> bool {
    let Some(name) = checked.plan().k3s_unit() else { return true };
    let is_begun = pass.activated.iter().flat_map(|all| &all.jobs).any(|job| job.unit == name);
    !is_begun && rules::holds(unit(pass, name), clock::monotonic().as_secs())
}

fn unit<'a>(pass: &'a Pass, name: &str) -> Option<&'a Unit> {
    pass.facts.runtime.units.get(name.trim_end_matches(".service"))?.known()
}

/// How k3s is when another generation is committed.
pub(super) fn begin(agent: &Agent, checked: &CheckedPlan, pass: &Pass) -> Trial {
    seen(agent, checked, pass).map(|seen| rules::before(&Trial::default(), seen)).unwrap_or_default()
}

/// Notes how k3s does; why the generation in force has failed, where it has.
///
/// # Errors
/// When that cannot be written.
pub(super) async fn watch(
    agent: &Agent,
    checked: &CheckedPlan,
    pass: &Pass,
) -> Result<Option<String>, StateError> {
    let Some(ledger) = record::current(agent).filter(|_| !pass.blocked) else { return Ok(None) };
    let (Some(last_good), Some(seen)) = (ledger.way_back(), seen(agent, checked, pass)) else {
        return Ok(None);
    };
    if seen.generation != ledger.generation {
        return Ok(None);
    }
    let trial = rules::next(&ledger.trial, seen);
    ledger::record(&agent.root, Some(&ledger), Event::Looked(trial.clone()))?;
    let Some(why) = rules::over(&trial, seen, true) else { return Ok(None) };
    if !apply::is_a_way_back(&agent.root, ledger.generation, last_good) {
        return Ok(None);
    }
    let is_over = rules::over(&trial, seen, false).is_some() || room_works(agent, pass).await;
    Ok(is_over.then_some(why))
}

fn seen<'a>(agent: &Agent, checked: &CheckedPlan, pass: &'a Pass) -> Option<Seen<'a>> {
    let plan = checked.plan();
    let generation = plan.generation.as_ref()?;
    let name = plan.k3s_unit()?.trim_end_matches(".service");
    let runtime = &pass.facts.runtime;
    let started = runtime.k3s.started_with.known().and_then(Option::as_ref);
    // What another version of k3s does is not its configuration's fault.
    let is_tried = plan.upgrade.as_ref().is_some_and(|upgrade| *upgrade.in_force() == upgrade.to);
    Some(Seen {
        generation: generation.number,
        runs: started.is_some_and(|started| restart::changed_keys(started, &generation.effective).is_empty()),
        unit: unit(pass, name),
        ends: runtime.ends(name),
        is_fair: !is_tried && has_containerd(pass),
        may_start: gate::refused(&agent.root, name).is_none(),
        boot_id: pass.facts.identity.boot_id.known().map_or("", String::as_str),
        now_s: clock::monotonic().as_secs(),
    })
}

/// Without containerd the kubelet ends, and k3s with it.
fn has_containerd(pass: &Pass) -> bool {
    let probes = pass.verdict.iter().flat_map(|verdict| &verdict.probes);
    probes
        .filter(|probe| probe.is_of_containerd())
        .all(|probe| matches!(probe.state, State::Ok | State::Degraded))
}

/// Whether somebody else in the room serves the API, with etcd behind it; a server
/// alone in its room misses nobody.
pub(super) async fn room_works(agent: &Agent, pass: &Pass) -> bool {
    let duty = pass.assignment.as_ref().and_then(|assignment| assignment.duty.as_ref());
    let others = duty.map(others).unwrap_or_default();
    let kube = Kube::kubelet(&agent.root);
    let asked = others.iter().map(|address| kube.serves(address));
    let is_alone = others.is_empty() && duty.is_some_and(|duty| duty.role == Role::Server);
    is_alone || join_all(asked).await.iter().any(Result::is_ok)
}

/// Addresses of the room's servers but this one.
fn others(duty: &Duty) -> Vec<&str> {
    let own = duty.node.ip.to_string();
    let all = duty.cluster.servers.iter().map(|url| url.as_str().trim_start_matches("https://"));
    all.filter(|address| {
        address.rsplit_once(':').is_none_or(|(host, _)| host.trim_matches(['[', ']']) != own)
    })
    .collect()
}
