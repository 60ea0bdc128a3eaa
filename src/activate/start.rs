//! After READY: the jobs.
//!
//! Stops come first, then everything in plan order. A job's result is not
//! believed: the unit's state after it is.

use std::time::Duration;

use super::record::Record;
use super::{ActivateError, Activated, Changed, Host, Outcome, UnitJob, mount};
use crate::plan::units::is_k3s;
use crate::plan::{PlannedUnit, Wanted};
use crate::sys::systemd::{Job, JobEnd, SystemdError, UnitState, Verb};

/// How long a job may take while we watch. It goes on afterwards.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts, stops and restarts what the plan says.
///
/// # Errors
/// When systemd is not reached or the run directory cannot be written. A unit
/// that fails is an outcome, not an error.
pub async fn start(host: Host<'_>, units: &[PlannedUnit]) -> Result<Activated, ActivateError> {
    let mut pass = Pass { host, record: Record::load(host.root), done: Activated::default() };
    let stops = units.iter().filter(|unit| unit.wanted == Wanted::Stopped);
    let others = units.iter().filter(|unit| unit.wanted != Wanted::Stopped);
    for unit in stops.chain(others) {
        let result = pass.one(unit).await;
        // What was noticed must outlive a failure further on.
        pass.record.store(host.root)?;
        match result {
            Err(error) if error.is_transport() => return Err(error.into()),
            Err(error) => pass.done.trouble(&unit.name, &error),
            Ok(()) => {}
        }
    }
    Ok(pass.done)
}

struct Pass<'a> {
    host: Host<'a>,
    record: Record,
    done: Activated,
}

impl Pass<'_> {
    async fn one(&mut self, unit: &PlannedUnit) -> Result<(), SystemdError> {
        match unit.wanted {
            Wanted::Rerun => self.job(unit, Verb::Restart, &unit.reason).await,
            Wanted::Stopped => self.stop(unit).await,
            Wanted::Running => self.run(unit).await,
        }
    }

    async fn stop(&mut self, unit: &PlannedUnit) -> Result<(), SystemdError> {
        let state = self.host.systemd.unit(&unit.name).await?;
        self.record.note_unwanted(&state, self.host.clock);
        if !(state.is_up() || state.is_activating()) {
            return Ok(());
        }
        self.record.unit(&unit.name).stopped_by_us = true;
        self.job(unit, Verb::Stop, &unit.reason).await
    }

    async fn run(&mut self, unit: &PlannedUnit) -> Result<(), SystemdError> {
        let state = self.host.systemd.unit(&unit.name).await?;
        if let Some(person) = mount::note(self.host, &mut self.record, &state).await {
            self.done.left_alone.push(person);
            return Ok(());
        }
        match &unit.restart {
            Some(why) if state.is_up() || state.is_activating() => self.job(unit, Verb::Restart, why).await,
            _ if state.is_down() => self.bring_up(unit, &state).await,
            _ => Ok(()),
        }
    }

    async fn bring_up(&mut self, unit: &PlannedUnit, state: &UnitState) -> Result<(), SystemdError> {
        if state.hit_start_limit() {
            self.host.systemd.reset_failed(&unit.name).await?;
            self.done.changed.push(Changed::FailureReset(unit.name.clone()));
        }
        self.job(unit, Verb::Start, &unit.reason).await
    }

    async fn job(&mut self, unit: &PlannedUnit, verb: Verb, reason: &str) -> Result<(), SystemdError> {
        let queue_only = is_k3s(&unit.name) && verb != Verb::Stop;
        let job = if queue_only {
            self.host.systemd.queue(verb, &unit.name).await
        } else {
            self.host.systemd.run(verb, &unit.name, PATIENCE).await
        };
        let (outcome, state) = match job {
            Ok(job) => self.after(unit, &job, queue_only),
            Err(error) if error.is_transport() => return Err(error),
            Err(error) => (Outcome::Refused(crate::error::Chain(&error).to_string()), String::new()),
        };
        let (unit, reason) = (unit.name.clone(), reason.to_owned());
        self.done.jobs.push(UnitJob { unit, verb: word(verb), reason, outcome, state });
        Ok(())
    }

    fn after(&mut self, unit: &PlannedUnit, job: &Job, queue_only: bool) -> (Outcome, String) {
        self.record.note_unwanted(&job.after, self.host.clock);
        let state = format!("{}/{}", job.after.active, job.after.sub);
        if queue_only && !job.after.is_up() {
            return (Outcome::Queued, state);
        }
        (judge(unit.wanted, job), state)
    }
}

fn word(verb: Verb) -> &'static str {
    match verb {
        Verb::Start => "start",
        Verb::Stop => "stop",
        Verb::Restart => "restart",
    }
}

/// What a finished job means, by the unit's state.
fn judge(wanted: Wanted, job: &Job) -> Outcome {
    let after = &job.after;
    let as_wanted = match wanted {
        Wanted::Running => after.is_up(),
        Wanted::Stopped => matches!(after.active.as_str(), "inactive" | "failed"),
        // A unit that runs to its end may be inactive afterwards.
        Wanted::Rerun => after.is_up() || after.active == "inactive" && after.result == "success",
    };
    match &job.end {
        JobEnd::Pending => Outcome::Waiting,
        _ if after.condition == Some(false) && wanted != Wanted::Stopped && !after.is_up() => {
            Outcome::Failed("a condition of the unit does not hold".to_owned())
        }
        _ if as_wanted => Outcome::Done,
        _ if after.is_activating() => Outcome::Waiting,
        end => Outcome::Failed(format!(
            "the job ended as {}, the unit is {} with result {}",
            said(end),
            after.active,
            if after.result.is_empty() { "unknown" } else { &after.result },
        )),
    }
}

fn said(end: &JobEnd) -> &str {
    match end {
        JobEnd::Said(result) => result,
        JobEnd::Gone => "lost",
        JobEnd::Pending => "pending",
    }
}
