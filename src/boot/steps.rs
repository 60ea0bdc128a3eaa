//! The steps as the line calls them: one call each, its time, its log line.
//!
//! Owns how a step's result becomes part of a [`Pass`], or ends it. Decides
//! nothing about content.

use std::time::Duration;

use tracing::{debug, info};

use super::{
    Agent, Order, Pass, Severity, Stop, StopKind, containerd, fetch, health, mend, record, renames, retire,
    started, storage,
};
use crate::activate::{self, Wish};
use crate::enrol::{EnrolError, Enrolled, Freshness, Outcome, Waiting};
use crate::error::Chain;
use crate::facts::{Fact, HostFacts};
use crate::plan::{self, CheckedPlan, Inputs, Refusal, WaitingOn, diff, fingerprint, rules, units};
use crate::sys::systemd::Systemd;
use crate::sys::{Clock, Root, clock};
use crate::verify::{self, Probing};
use crate::{apply, observe};

/// Units whose state is a fact.
const UNITS: [&str; 5] = [units::CONTAINERD, units::K3S, units::K3S_AGENT, units::SYSCTL, units::MODULES];

/// Runs `work` and notes its milliseconds under `step`.
pub(super) async fn timed<T>(pass: &mut Pass, step: &str, work: impl Future<Output = T>) -> T {
    let begin = clock::monotonic();
    let result = work.await;
    note_time(pass, step, clock::monotonic().saturating_sub(begin));
    result
}

fn note_time(pass: &mut Pass, step: &str, taken: Duration) {
    *pass.steps_ms.entry(step.to_owned()).or_default() +=
        u64::try_from(taken.as_millis()).unwrap_or(u64::MAX);
}

/// What is observed on the host.
pub(super) async fn facts(root: &Root, systemd: &Systemd, clock: Clock) -> HostFacts {
    let units = activate::unit_facts(systemd, &UNITS).await;
    observe::host(root, clock, &units).await
}

pub(super) async fn observe(agent: &mut Agent, pass: &mut Pass) {
    let facts = timed(pass, "observe", facts(&agent.root, &agent.systemd, agent.clock)).await;
    agent.introduce(&facts);
    pass.facts = facts;
}

/// A copied disk goes no further; a machine that was repaired does, and says so.
pub(super) fn same_machine(pass: &mut Pass) -> Result<(), Stop> {
    rules::hardware_fits(&pass.facts).map_err(|why| Stop { why, kind: StopKind::Held })?;
    let remark = plan::pinned(&pass.facts)
        .and_then(|pinned| fingerprint::remark(&fingerprint::of(&pass.facts), pinned));
    if let Some(remark) = remark {
        let severity = if remark.code == "EB-hardware-changed" { Severity::Warn } else { Severity::Info };
        pass.find(severity, remark);
    }
    Ok(())
}

pub(super) async fn enrol(agent: &mut Agent, order: Order, pass: &mut Pass) -> Result<(), Stop> {
    let outcome = timed(pass, "enrol", agent.enrolment.assignment(order.patience)).await;
    match outcome {
        Ok(Outcome::Enrolled(enrolled)) => take_over(agent, *enrolled, pass),
        Ok(Outcome::Waiting(waiting)) => return Err(enrol_waits(&waiting)),
        Err(error) => return Err(enrol_failed(&error)),
    }
    Ok(())
}

fn take_over(agent: &mut Agent, enrolled: Enrolled, pass: &mut Pass) {
    let Enrolled { assignment, freshness, trouble, damage, told, time, .. } = enrolled;
    if let Some(time) = time {
        agent.time.told(time, agent.clock);
    }
    if freshness != Freshness::Cached {
        agent.confirmed = Some(assignment.digest.clone());
    }
    if let Some(trouble) = trouble {
        // The WAN is never a health signal (invariant 11).
        pass.find(
            Severity::Info,
            Refusal::new(
                trouble.code(),
                Chain(&trouble).to_string(),
                "the assignment on disk stays in force",
            ),
        );
    }
    if let Some(damage) = damage {
        pass.find(Severity::Warn, Refusal::new("EB-state-file", damage, "its earlier copy is in force"));
    }
    debug!(EDGE_STEP = "enrol", EDGE_GENERATION = assignment.generation, EDGE_ROLE = %assignment.role(), "assignment in force");
    pass.freshness = Some(freshness);
    pass.told = told;
    pass.assignment = Some(assignment);
}

fn enrol_waits(waiting: &Waiting) -> Stop {
    let kind = match waiting {
        Waiting::NotConfigured => StopKind::NotConfigured,
        Waiting::Approval { .. } => StopKind::Approval,
        _ => StopKind::Waiting,
    };
    // The approval code is for root only; `status` has it in a file of its own.
    let reason = match waiting {
        Waiting::Approval { .. } => "central waits for a person to approve this host".to_owned(),
        other => other.to_string(),
    };
    let next = match waiting {
        Waiting::Approval { .. } => {
            "tell the code that `edge-bootstrap status` shows to the central service's people"
        }
        _ => "then it goes on by itself",
    };
    Stop { why: Refusal::new(waiting.code(), reason, next), kind }
}

fn enrol_failed(error: &EnrolError) -> Stop {
    let kind = if error.kind().can_retry() { StopKind::Waiting } else { StopKind::Failed };
    Stop { why: Refusal::new(error.code(), Chain(error).to_string(), "it is tried again by itself"), kind }
}

pub(super) fn plan(agent: &Agent, pass: &mut Pass) -> Result<CheckedPlan, Stop> {
    let begin = clock::monotonic();
    let result = planned(agent, pass);
    note_time(pass, "plan", clock::monotonic().saturating_sub(begin));
    let (checked, changes) = result?;
    if !changes.is_empty() {
        info!(
            EDGE_STEP = "plan",
            EDGE_GENERATION = pass.assignment.as_ref().map_or(0, |assignment| assignment.generation),
            EDGE_FILES = changes.files.len(),
            EDGE_UNITS = changes.units.len(),
            "plan changes this host"
        );
    }
    pass.changes = Some(changes);
    pass.plan = Some(checked.clone());
    Ok(checked)
}

fn planned(agent: &Agent, pass: &Pass) -> Result<(CheckedPlan, diff::Changes), Stop> {
    let Some(assignment) = &pass.assignment else {
        let why = Refusal::new(
            "EB-assignment-pending",
            "there is no assignment yet",
            "it goes on when there is one",
        );
        return Err(Stop { why, kind: StopKind::Waiting });
    };
    let local = agent.local();
    let confirmed = agent.confirmed.as_deref() == Some(assignment.digest.as_str());
    let inputs = Inputs { facts: &pass.facts, assignment, local: &local, confirmed };
    let plan = plan::plan(inputs).map_err(|waiting| plan_waits(&waiting))?;
    let changes = diff::changes(&plan, &pass.facts);
    let checked = plan::check(plan, inputs).map_err(|broken| plan_refused(&broken))?;
    Ok((checked, changes))
}

/// What a person must do about a server token that the cluster does not have yet.
pub(super) fn tell_token(pass: &mut Pass) {
    let duty = pass.assignment.as_ref().and_then(|assignment| assignment.duty.as_ref());
    let Some(duty) = duty else { return };
    let is_ours = plan::tokens::change(&pass.facts, duty).is_some();
    let severity = match (plan::tokens::is_unknown(&pass.facts, duty), is_ours) {
        (true, _) => Severity::Fail,
        (false, true) => Severity::Info,
        (false, false) => Severity::Warn,
    };
    if let Some(finding) = plan::tokens::finding(&pass.facts, duty) {
        pass.find(severity, finding);
    }
}

fn plan_waits(waiting: &WaitingOn) -> Stop {
    let kind = if waiting.holds_k3s() { StopKind::Held } else { StopKind::Waiting };
    Stop { why: waiting.words(), kind }
}

/// All broken invariants in one refusal, the first one's code in front.
fn plan_refused(broken: &[Refusal]) -> Stop {
    let code = broken.first().map_or("EB-lint", |first| first.code.as_str());
    let reason = broken.iter().map(|refusal| refusal.reason.clone()).collect::<Vec<_>>().join("; ");
    let next = broken.first().map_or("report it", |first| first.next.as_str());
    Stop { why: Refusal::new(code, reason, next), kind: StopKind::Held }
}

pub(super) async fn apply(
    agent: &mut Agent,
    order: Order,
    checked: &CheckedPlan,
    pass: &mut Pass,
) -> Result<(), Stop> {
    let ledger = record::load(agent, pass);
    if let Some(blocked) = record::blocked(ledger.as_ref(), checked) {
        pass.find(Severity::Fail, blocked);
        pass.blocked = true;
        return mend::mend_files(agent, checked, pass).await;
    }
    containerd::validate(agent, checked, pass).await?;
    if pass.blocked || !fetch::bring(agent, order, checked, pass).await? {
        return mend::mend_files(agent, checked, pass).await;
    }
    let root = agent.root.clone();
    retire::leave(agent, order, checked, pass).await?;
    // A leave writes there that nothing of the old life may be put back.
    let ledger = if checked.plan().retirement.is_some() { record::load(agent, pass) } else { ledger };
    mend::mend(agent, checked, pass).await?;
    let result = timed(pass, "apply", async { apply::apply(&root, checked) }).await;
    let applied = result.map_err(|error| Stop::failed("EB-apply", &error))?;
    record::committed(agent, ledger.as_ref(), checked, pass)
        .map_err(|error| Stop::failed("EB-state-file", &error))?;
    storage::record(agent, checked, pass).map_err(|error| Stop::failed("EB-state-file", &error))?;
    if checked.plan().retirement.is_some() {
        // Reports must not tell of the old life under the new assignment.
        pass.facts.runtime.identity = Fact::Known(checked.plan().identity.clone());
    }
    if !applied.changed.is_empty() {
        info!(EDGE_STEP = "apply", EDGE_FILES = applied.changed.len(), "files written");
    }
    pass.applied = Some(applied);
    Ok(())
}

fn host(agent: &Agent) -> activate::Host<'_> {
    activate::Host { root: &agent.root, systemd: &agent.systemd, clock: agent.clock }
}

pub(super) async fn settle(agent: &mut Agent, checked: &CheckedPlan, pass: &mut Pass) -> Result<(), Stop> {
    let plan = checked.plan();
    let wish = Wish {
        hostname: plan.hostname.as_ref(),
        units: &plan.units,
        unit_files_changed: pass.applied.as_ref().is_some_and(apply::Applied::touched_units),
    };
    let before = renames::before(&agent.root);
    let result = timed(pass, "activate", activate::settle(host(agent), &wish)).await;
    let result = result.map(|activated| pass.activated = Some(activated));
    renames::note(agent, plan.hostname.as_ref(), before, pass);
    result.map_err(|error| Stop::failed("EB-systemd", &error))
}

pub(super) async fn start(agent: &mut Agent, checked: &CheckedPlan, pass: &mut Pass) -> Result<(), Stop> {
    let mut units = checked.plan().units.clone();
    if pass.blocked {
        // Another generation than the planned one is in force, on purpose.
        units.iter_mut().for_each(|unit| unit.restart = None);
    }
    if let Some(why) = storage::restart(&agent.root, checked, &pass.facts) {
        let containerd = units.iter_mut().filter(|unit| unit.name == units::CONTAINERD);
        containerd.for_each(|unit| unit.restart = Some(why.clone()));
    }
    let before = started::before(&agent.root, &pass.facts);
    let done = timed(pass, "activate", activate::start(host(agent), &units)).await;
    let started = done.map_err(|error| Stop::failed("EB-systemd", &error))?;
    started::note(&agent.root, before, &started.jobs);
    for job in &started.jobs {
        info!(EDGE_STEP = "activate", EDGE_UNIT = %job.unit, EDGE_VERB = job.verb, EDGE_REASON = %job.reason, "unit job");
    }
    containerd::note_start(agent, &started.jobs, &pass.facts).await;
    let all = pass.activated.get_or_insert_default();
    all.jobs.extend(started.jobs);
    all.changed.extend(started.changed);
    all.left_alone.extend(started.left_alone);
    all.troubles.extend(started.troubles);
    record::activated(agent).map_err(|error| Stop::failed("EB-state-file", &error))
}

pub(super) async fn verify(agent: &mut Agent, checked: &CheckedPlan, pass: &mut Pass) -> Result<(), Stop> {
    let Some(identity) = &checked.plan().identity else { return Ok(()) };
    let probing = Probing {
        root: &agent.root,
        systemd: &agent.systemd,
        containerd: Some(health::expected(checked)),
        k3s_unit: checked.plan().k3s_unit(),
        node_name: &identity.node_name,
        ports: verify::Ports::default(),
    };
    let verdict = timed(pass, "verify", verify::look(&probing, &mut agent.containerd)).await;
    debug!(
        EDGE_STEP = "verify",
        EDGE_REASON = verdict.cause.as_deref().unwrap_or_default(),
        "node was looked at"
    );
    pass.verdict = Some(verdict);
    health::tell_upgrade(agent, pass);
    Ok(())
}
