//! Jobs: queue one, and see it end.
//!
//! Owns the order that loses nothing: signals are watched before the job is
//! queued, the job is matched by its path (its `JobRemoved` may come before
//! the reply), the state is polled beside the signals because a reload can
//! swallow them, and what counts in the end is the unit's state: systemd says
//! `done` also for a unit whose condition did not hold or that died at once.

use std::time::Duration;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep_until};
use zbus::OwnedObjectPath;

use super::connect::Signal;
use super::{Ask, Retry, Systemd, SystemdError, UnitState, decoded};

/// How often a job's end is looked for beside the signals.
const POLL: Duration = Duration::from_secs(1);

/// What a job does to its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Bring it up.
    Start,
    /// Bring it down.
    Stop,
    /// Bring it down and up, or up when it is down.
    Restart,
}

impl Verb {
    /// systemd's method.
    #[must_use]
    pub fn method(self) -> &'static str {
        match self {
            Self::Start => "StartUnit",
            Self::Stop => "StopUnit",
            Self::Restart => "RestartUnit",
        }
    }
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobEnd {
    /// systemd said so: `done`, `failed`, `dependency`, `timeout`, `canceled`, `skipped`, …
    Said(String),
    /// It is gone and its signal was not seen.
    Gone,
    /// Not at its end when we stopped waiting.
    Pending,
}

/// One job and the unit's state afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// What was asked.
    pub verb: Verb,
    /// How the job ended. No sign of health.
    pub end: JobEnd,
    /// The unit after it.
    pub after: UnitState,
}

impl Systemd {
    /// Queues a job and comes back at once.
    ///
    /// # Errors
    /// When systemd is not reached or refuses.
    pub async fn queue(&self, verb: Verb, unit: &str) -> Result<Job, SystemdError> {
        self.submit(verb, unit).await?;
        Ok(Job { verb, end: JobEnd::Pending, after: self.unit(unit).await? })
    }

    /// Queues a job and waits for its end, at most for `patience`.
    ///
    /// Never for a unit that is ordered after ourselves while we are still
    /// starting: it would wait for us.
    ///
    /// # Errors
    /// When systemd is not reached or refuses.
    pub async fn run(&self, verb: Verb, unit: &str, patience: Duration) -> Result<Job, SystemdError> {
        let deadline = Instant::now() + patience;
        let mut signals = self.link().await?.signals();
        let job = self.submit(verb, unit).await?;
        let end = self.job_end(&mut signals, &job, (unit, deadline)).await?;
        Ok(Job { verb, end, after: self.unit(unit).await? })
    }

    async fn submit(&self, verb: Verb, unit: &str) -> Result<OwnedObjectPath, SystemdError> {
        // Starting or stopping twice is the same as once; restarting is not.
        let retry = if verb == Verb::Restart { Retry::No } else { Retry::Yes };
        let ask = Ask::manager(verb.method(), unit, retry);
        decoded(ask, &self.manager(ask, &(unit, "replace")).await?)
    }

    pub(super) async fn job_end(
        &self,
        signals: &mut Receiver<Signal>,
        job: &OwnedObjectPath,
        (unit, deadline): (&str, Instant),
    ) -> Result<JobEnd, SystemdError> {
        let id = job_id(job.as_str());
        let mut listening = true;
        loop {
            let next_look = deadline.min(Instant::now() + POLL);
            if let Some(result) = until_removed(signals, &mut listening, job.as_str(), next_look).await {
                return Ok(JobEnd::Said(result));
            }
            let now = self.unit(unit).await?;
            if now.job.is_none() || now.job != id {
                // The signal may have come while the state was read.
                return Ok(removed_already(signals, job.as_str()).map_or(JobEnd::Gone, JobEnd::Said));
            }
            if Instant::now() >= deadline {
                return Ok(JobEnd::Pending);
            }
        }
    }
}

/// Result of `job` when its signal comes before `until`. Both branches may be
/// dropped at any time: a received signal is returned in the same poll.
async fn until_removed(
    signals: &mut Receiver<Signal>,
    listening: &mut bool,
    job: &str,
    until: Instant,
) -> Option<String> {
    loop {
        tokio::select! {
            biased;
            signal = signals.recv(), if *listening => match signal {
                Ok(Signal::JobRemoved { job: path, result }) if path == job => return Some(result),
                Ok(Signal::Lost) | Err(RecvError::Closed) => *listening = false,
                Ok(_) | Err(RecvError::Lagged(_)) => {}
            },
            () = sleep_until(until) => return None,
        }
    }
}

fn removed_already(signals: &mut Receiver<Signal>, job: &str) -> Option<String> {
    use tokio::sync::broadcast::error::TryRecvError;
    loop {
        match signals.try_recv() {
            Ok(Signal::JobRemoved { job: path, result }) if path == job => return Some(result),
            Ok(_) | Err(TryRecvError::Lagged(_)) => {}
            Err(TryRecvError::Empty | TryRecvError::Closed) => return None,
        }
    }
}

fn job_id(path: &str) -> Option<u32> {
    path.rsplit('/').next()?.parse().ok()
}
