//! An upgrade of k3s, as one step of the line.
//!
//! Owns the order: the binary is brought, then it is this host's turn, then the
//! record is written; the next plan has the new version in force and the line
//! swaps and restarts as for any change. After that it is looked at until it is
//! Ready, or has failed: then the record says so, and the next plan has the old
//! version in force again. A cut anywhere leaves a host whose next pass goes on.
//! Decides nothing ([`crate::plan::upgrade`]).

use std::time::Duration;

use futures_util::future::join_all;
use tracing::{info, warn};

use super::{Agent, Order, Pass, Severity, Stop, StopKind, Until, trial, turn};
use crate::enrol::Source;
use crate::error::Chain;
use crate::facts::upgrade::{Attempt, Progress};
use crate::kube::lease::RESTART;
use crate::kube::{Kube, KubeError};
use crate::plan::turn::Wait;
use crate::plan::upgrade::{self as rules, Next, PlannedUpgrade, Seen, Step};
use crate::plan::{CheckedPlan, Refusal, units};
use crate::role::{Duty, Role};
use crate::sys::statefile::StateError;
use crate::sys::{Root, clock, host};
use crate::verify::Health;
use crate::{apply, gate, observe, paths, upgrade};

/// What passes remember of the unit.
#[derive(Debug, Default)]
pub struct Memory {
    /// Since when it was seen not to be up, in time since boot.
    down_since: Option<Duration>,
}

impl Memory {
    /// How long it has not been up.
    fn down(&mut self, is_up: bool, now: Duration) -> Duration {
        let since = if is_up { None } else { Some(self.down_since.unwrap_or(now)) };
        self.down_since = since;
        now.saturating_sub(since.unwrap_or(now))
    }
}

/// Where nothing runs there is nothing to wait for, and no way back is needed.
pub(super) fn offline(agent: &Agent, order: Order, pass: &mut Pass) {
    let Some(assignment) = pass.assignment.as_ref().filter(|_| order.until == Until::Written) else { return };
    let (Some(duty), local) = (&assignment.duty, agent.local()) else { return };
    let inputs = crate::plan::Inputs { facts: &pass.facts, assignment, local: &local, confirmed: false };
    let due = rules::decide(inputs, duty).filter(|planned| planned.step == Step::Due);
    let begun = due.map(|planned| planned.attempt(&pass.facts, agent.clock.rfc3339()));
    if begun.is_some() {
        pass.facts.runtime.k3s.upgrade = begun;
    }
}

/// Says why an upgrade does not go on.
pub(super) fn tell(checked: &CheckedPlan, pass: &mut Pass) {
    let words = checked.plan().upgrade.as_ref().and_then(|planned| planned.words.clone());
    words.into_iter().for_each(|words| pass.find(Severity::Fail, words));
}

/// Goes on with what is due, after the node was looked at.
pub(super) async fn go_on(agent: &mut Agent, checked: &CheckedPlan, pass: &mut Pass) -> Result<(), Stop> {
    let planned = checked.plan().upgrade.as_ref();
    match planned.map(|planned| (planned, planned.step)) {
        Some((planned, Step::Due)) => begin(agent, checked, planned, pass).await,
        Some((planned, Step::Begun | Step::Stuck)) => watch(agent, checked, planned, pass).await,
        Some((_, Step::Refused | Step::Failed)) => Ok(()),
        None => close(agent, pass),
    }
}

/// What was tried is over: it is not asked for any more.
fn close(agent: &Agent, pass: &Pass) -> Result<(), Stop> {
    let attempt = pass.facts.runtime.k3s.upgrade.clone().filter(|attempt| attempt.state != Progress::Done);
    match attempt {
        Some(attempt) => store(&agent.root, &Attempt { state: Progress::Done, ..attempt }),
        None => Ok(()),
    }
}

async fn begin(
    agent: &mut Agent,
    checked: &CheckedPlan,
    planned: &PlannedUpgrade,
    pass: &mut Pass,
) -> Result<(), Stop> {
    if !bring(agent, checked, planned, pass).await {
        return if pass.again { Ok(()) } else { turn::restart(agent, checked, pass).await };
    }
    if let Err(wait) = may_begin(agent, checked, planned, pass).await? {
        let reason = format!("k3s {} runs, and {} waits: {}", planned.from, planned.to, wait.reason);
        pass.find(Severity::Info, Refusal::new("EB-upgrade-waits", reason, "then it goes on by itself"));
        let is_long = !wait.soon;
        pass.turn.get_or_insert(wait);
        // What waited for the upgrade does not wait for what holds that up.
        return if is_long { turn::restart(agent, checked, pass).await } else { Ok(()) };
    }
    info!(EDGE_STEP = "apply", EDGE_VERSION = %planned.to, EDGE_REASON = %planned.line(), "upgrade begins");
    store(&agent.root, &planned.attempt(&pass.facts, agent.clock.rfc3339()))?;
    pass.again = true;
    Ok(())
}

/// Whether the binary is in the store. What cannot be brought leaves everything
/// as it is.
async fn bring(agent: &Agent, checked: &CheckedPlan, planned: &PlannedUpgrade, pass: &mut Pass) -> bool {
    if planned.artifact.is_none() {
        let is_there = pass.facts.runtime.k3s.store.contains_key(planned.to.as_str());
        if !is_there {
            let reason = format!("k3s {} is assigned, and there is no file of it for this host", planned.to);
            let next = format!("name it in the assignment, or install it as {}", paths::K3S_LINK);
            pass.find(Severity::Warn, Refusal::new("EB-upgrade-waits", reason, next));
        }
        return is_there;
    }
    let source = Source::from(&agent.settings);
    let downloader = super::Downloader::new(&source, agent.watcher.as_ref()).resting(&agent.rests);
    match apply::stage(&agent.root, checked, &downloader).await {
        Ok(()) => pass.again = true,
        Err(error) => {
            let goes_on = agent.rests.goes_on();
            pass.again |= goes_on.is_some();
            let failed =
                || Refusal::new(error.code(), Chain(&error).to_string(), "it is tried again by itself");
            let severity = if goes_on.is_some() { Severity::Info } else { Severity::Fail };
            pass.find(severity, goes_on.unwrap_or_else(failed));
        }
    }
    false
}

/// Whether it may begin: the node is well and the room lets it, or its k3s is
/// down for good.
async fn may_begin(
    agent: &mut Agent,
    checked: &CheckedPlan,
    planned: &PlannedUpgrade,
    pass: &Pass,
) -> Result<Result<(), Wait>, Stop> {
    let Some(duty) = pass.assignment.as_ref().and_then(|assignment| assignment.duty.as_ref()) else {
        return Ok(Err(Wait::long("the assignment gives this host no role")));
    };
    let name = units::of_role(duty.role);
    let mut left_alone = pass.activated.iter().flat_map(|activated| &activated.left_alone);
    if pass.blocked || left_alone.any(|left| left.unit == name) {
        return Ok(Err(Wait::long(
            "k3s stays as it is: a person stopped it, or its newest configuration is not in force",
        )));
    }
    let unit = pass.facts.runtime.units.get(name.trim_end_matches(".service")).and_then(|unit| unit.known());
    let is_up = unit.is_some_and(|unit| unit.active == "active");
    let down = agent.upgrade.down(is_up, clock::since_boot());
    let is_well = pass.verdict.as_ref().is_some_and(|verdict| verdict.health == Health::Healthy);
    // A newer version is the only way out of one that is not well and has no way back.
    let tried = pass.facts.runtime.k3s.upgrade.as_ref().filter(|tried| tried.state == Progress::Stuck);
    let is_way_out = tried.is_some_and(|tried| tried.to == planned.from.as_str());
    if is_up && !is_well && !is_way_out {
        return Ok(Err(Wait::long(
            "this node must be healthy first; `edge-bootstrap status` says what is wrong with it",
        )));
    }
    let others = duty.cluster.servers.len();
    match duty.role {
        Role::Agent => Ok(follows(&agent.root, duty, planned).await),
        _ if !is_up => Ok(rules::may_begin_while_down(others, down).map_err(Wait::long)),
        // Of two servers no one may go by itself: what is swapped waits for the
        // restart that a person does. A power cut would start it on both.
        _ if others == 1 && rules::is_second(duty) => Ok(follows(&agent.root, duty, planned).await),
        _ if others == 1 => Ok(Ok(())),
        _ => match turn::is_alone(agent, pass).await {
            Ok(true) => Ok(Ok(())),
            Ok(false) => match untried(&agent.root, duty, planned).await {
                Ok(()) => turn::begin(agent, checked, pass).await,
                Err(wait) => Ok(Err(wait)),
            },
            Err(wait) => Ok(Err(wait)),
        },
    }
}

/// No other server has gone back from it.
async fn untried(root: &Root, duty: &Duty, planned: &PlannedUpgrade) -> Result<(), Wait> {
    let lease = Kube::own_admin(root).lease(RESTART).await.map_err(|error| turn::unreached(&error))?;
    planned.may_try(duty.node.name.as_str(), lease.failed()).map_err(Wait::long)
}

/// An agent goes after its servers.
async fn follows(root: &Root, duty: &Duty, planned: &PlannedUpgrade) -> Result<(), Wait> {
    let kube = Kube::kubelet(root);
    let asked = duty.cluster.servers.iter().map(|url| async move {
        let address = url.as_str().trim_start_matches("https://").to_owned();
        let says = kube.version(&address).await;
        (address, says)
    });
    let mut servers = Vec::new();
    for (address, says) in join_all(asked).await {
        match says {
            // A host that was in no cluster yet has no kubelet that could be too new.
            Err(KubeError::NoCredentials { .. }) => return Ok(()),
            says => servers.push((address, says.map_err(|error| error.words()))),
        }
    }
    rules::may_follow(&planned.to, &servers).map_err(Wait::long)
}

/// Looks at a version that may run, and records what becomes of it.
async fn watch(
    agent: &Agent,
    checked: &CheckedPlan,
    planned: &PlannedUpgrade,
    pass: &mut Pass,
) -> Result<(), Stop> {
    let Some(attempt) = pass.facts.runtime.k3s.upgrade.clone() else { return Ok(()) };
    let attempt = planned.goes_on(attempt);
    let role = checked.plan().identity.as_ref().map_or(Role::None, |identity| identity.role);
    let is_healthy = pass.verdict.as_ref().is_some_and(|verdict| verdict.health == Health::Healthy);
    let holds = trial::holds(checked, pass);
    pass.on_trial |= is_healthy && !holds;
    let next = match rules::judge(&attempt, role, seen(agent, &attempt, (is_healthy && holds, pass))) {
        // Nobody waits for it any more, but it may come up all the same.
        Next::Runs(_) | Next::Over(_) | Next::Late(..) if attempt.state == Progress::Stuck => Next::Wait,
        // Without the others no version would be Ready: it has its time again.
        Next::Late(started, _) if !trial::room_works(agent, pass).await => Next::Runs(started),
        next => next,
    };
    match next {
        Next::Wait => Ok(()),
        Next::Runs(started) => store(&agent.root, &Attempt { started: Some(started), ..attempt }),
        Next::Done => {
            info!(EDGE_STEP = "verify", EDGE_VERSION = %attempt.to, "upgrade is done");
            pass.again = true;
            store(&agent.root, &Attempt { state: Progress::Done, ..attempt })
        }
        Next::Over(reason) | Next::Late(_, reason) => over(agent, (attempt, role), reason, pass),
    }
}

fn seen<'a>(agent: &Agent, attempt: &Attempt, (is_healthy, pass): (bool, &'a Pass)) -> Seen<'a> {
    let runtime = &pass.facts.runtime;
    let started = runtime.k3s.started_binary.known().and_then(Option::as_deref);
    let name = pass.plan.as_ref().and_then(|plan| plan.plan().k3s_unit()).unwrap_or(units::K3S);
    let name = name.trim_end_matches(".service");
    Seen {
        runs: started == Some(paths::k3s_binary(&attempt.to).as_str()),
        is_healthy,
        unit: runtime.units.get(name).and_then(|unit| unit.known()),
        ends: runtime.ends(name),
        may_start: gate::refused(&agent.root, name).is_none(),
        boot_id: pass.facts.identity.boot_id.known().map_or("", String::as_str),
        now_s: clock::monotonic().as_secs(),
    }
}

/// The way back, or the word that there is none.
fn over(
    agent: &Agent,
    (attempt, role): (Attempt, Role),
    reason: String,
    pass: &mut Pass,
) -> Result<(), Stop> {
    let cause = pass.verdict.as_ref().and_then(|verdict| verdict.cause.clone());
    let reason = format!("{reason}{}", cause.map(|cause| format!(" ({cause})")).unwrap_or_default());
    let way_back = rules::may_go_back(&attempt, role, is_untouched(&agent.root, &attempt));
    let (state, reason) = match way_back {
        Ok(()) => (Progress::Failed, reason),
        Err(why) => (Progress::Stuck, format!("{reason}; {why}")),
    };
    warn!(EDGE_STEP = "verify", EDGE_VERSION = %attempt.to, EDGE_REASON = %reason, "k3s did not come up with another version");
    pass.again = true;
    store(&agent.root, &Attempt { state, reason: Some(reason), ..attempt })
}

/// The gate names the datastore before the first start; a record of an earlier
/// boot is gone and proves nothing.
fn is_untouched(root: &Root, attempt: &Attempt) -> bool {
    let record = observe::k3s::started(root, &["k3s"]);
    let record = record.known().and_then(Option::as_ref);
    let binary = paths::k3s_binary(&attempt.to);
    let is_same_boot = attempt.started.as_ref().is_some_and(|started| {
        started.boots == 1 && host::boot_id(root).is_ok_and(|boot| boot == started.boot_id)
    });
    let before = record.filter(|record| record.binary.as_ref() == Some(&binary) && is_same_boot);
    let before = before.and_then(|record| record.datastore.as_ref());
    before.is_some() && before == observe::k3s::datastore_stamp(root).as_ref()
}

fn store(root: &Root, attempt: &Attempt) -> Result<(), Stop> {
    upgrade::store(root, attempt).map_err(|error| failed(&error))
}

fn failed(error: &StateError) -> Stop {
    let why = Refusal::new("EB-state-file", Chain(error).to_string(), "it is tried again by itself");
    Stop { why, kind: StopKind::Failed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_down_since_it_was_first_seen_not_to_be_up() {
        let (mut memory, s) = (Memory::default(), Duration::from_secs);
        assert_eq!(memory.down(false, s(100)), s(0));
        assert_eq!(memory.down(false, s(160)), s(60));
        assert_eq!(memory.down(true, s(170)), s(0));
        assert_eq!(memory.down(false, s(180)), s(0));
    }
}
