//! Transient services: one program, run once by systemd outside our sandbox.
//!
//! Owns the start, the wait for its end, and finding again one that runs
//! already. The unit is collected by systemd when it succeeded; one that failed
//! stays until its result has been read here, which is why there is no
//! `CollectMode=`: with it the result would be gone before it can be asked for.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use zbus::{OwnedObjectPath, Variant};

use super::proxy::UnitProperties;
use super::{Ask, Retry, Systemd, SystemdError, UnitState, decoded};

/// Beyond its limit systemd kills the program; this long we wait for that.
const GRACE: Duration = Duration::from_secs(5);
/// Between two looks at a unit that has no job any more and is not down yet.
const LOOK: Duration = Duration::from_millis(500);
/// Starts of one call: the unit that was found, the failure that was
/// forgotten, our own.
const ATTEMPTS: u32 = 3;

/// One program to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transient {
    /// Name of the unit, with `.service`.
    pub unit: String,
    /// What it does, for people.
    pub description: String,
    /// Program by absolute path, and its arguments. Shown to everybody: no secrets.
    pub command: Vec<String>,
    /// After this long systemd kills it.
    pub limit: Duration,
}

/// How a transient service ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ran {
    /// Exit status 0.
    Done,
    /// It failed.
    Failed {
        /// `exit-code`, `signal`, `timeout`, …
        result: String,
        /// Exit status, or number of the signal; `None` when systemd does not tell.
        status: Option<i32>,
    },
    /// Not at its end when we stopped waiting.
    Running,
}

impl Systemd {
    /// Runs a program to its end as a transient oneshot service, at most for
    /// its limit and five seconds.
    ///
    /// A unit of that name that runs already is waited for. When its command is
    /// the same, its end is ours; any other is followed by our own. The program
    /// may run twice when the connection breaks, so it must be one that may.
    ///
    /// # Errors
    /// When systemd is not reached or refuses.
    pub async fn run_transient(&self, transient: &Transient) -> Result<Ran, SystemdError> {
        let deadline = Instant::now() + transient.limit + GRACE;
        let mut attempt = 1;
        loop {
            let mut signals = self.link().await?.signals();
            let refused = match self.submit_transient(transient).await {
                Ok(job) => {
                    self.job_end(&mut signals, &job, (&transient.unit, deadline)).await?;
                    return self.outcome(&transient.unit).await;
                }
                Err(error) if error.is_transport() || attempt == ATTEMPTS => return Err(error),
                Err(error) => error,
            };
            attempt += 1;
            if let Some(ran) = self.found(transient, deadline).await? {
                return Ok(ran);
            }
            tracing::debug!(EDGE_UNIT = %transient.unit, EDGE_REASON = %refused, "once more");
        }
    }

    /// The end of a unit that stands in the way, when it does what we want;
    /// `None` when the way is free now.
    async fn found(&self, transient: &Transient, deadline: Instant) -> Result<Option<Ran>, SystemdError> {
        let before = self.unit(&transient.unit).await?;
        if before.is_down() {
            if before.active == "failed" {
                self.reset_failed(&transient.unit).await?;
            } else {
                // It ended just now and is about to be collected.
                sleep_until(deadline.min(Instant::now() + LOOK)).await;
            }
            return Ok(None);
        }
        self.until_down(&before, deadline).await?;
        let ran = self.outcome(&transient.unit).await?;
        let same = before.command.as_ref() == Some(&transient.command);
        Ok((same || ran == Ran::Running).then_some(ran))
    }

    async fn until_down(&self, unit: &UnitState, deadline: Instant) -> Result<(), SystemdError> {
        let mut signals = self.link().await?.signals();
        if let Some(id) = unit.job
            && let Ok(job) = OwnedObjectPath::try_from(format!("/org/freedesktop/systemd1/job/{id}"))
        {
            self.job_end(&mut signals, &job, (&unit.name, deadline)).await?;
        }
        while !self.unit(&unit.name).await?.is_down() && Instant::now() < deadline {
            sleep_until(deadline.min(Instant::now() + LOOK)).await;
        }
        Ok(())
    }

    /// What is left of the unit tells how it ended: only a failure stays loaded.
    async fn outcome(&self, unit: &str) -> Result<Ran, SystemdError> {
        let after = self.unit(unit).await?;
        if after.active == "failed" {
            self.reset_failed(unit).await?;
            return Ok(Ran::Failed { result: after.result, status: after.exit_status });
        }
        Ok(if after.is_down() { Ran::Done } else { Ran::Running })
    }

    async fn submit_transient(&self, transient: &Transient) -> Result<OwnedObjectPath, SystemdError> {
        let ask = Ask::manager("StartTransientUnit", &transient.unit, Retry::Yes);
        let others: Vec<(&str, UnitProperties<'_>)> = Vec::new();
        let body = (transient.unit.as_str(), "fail", properties(transient), others);
        decoded(ask, &self.manager(ask, &body).await?)
    }
}

/// Properties as systemd's D-Bus interface names them; each is there since 219.
fn properties(transient: &Transient) -> UnitProperties<'static> {
    let program = transient.command.first().cloned().unwrap_or_default();
    let micros = u64::try_from(transient.limit.as_micros()).unwrap_or(u64::MAX);
    vec![
        ("Description", Variant::new(transient.description.clone())),
        ("Type", Variant::new("oneshot")),
        ("ExecStart", Variant::new(vec![(program, transient.command.clone(), false)])),
        // It must run while we are still starting, and before anything else has.
        ("DefaultDependencies", Variant::new(false)),
        ("RemainAfterExit", Variant::new(false)),
        ("TimeoutStartUSec", Variant::new(micros)),
    ]
}
