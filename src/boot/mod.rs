//! One boot as a straight line: observe, enrol, plan, apply, activate, verify,
//! report.
//!
//! Owns the order of the steps and nothing else: the only caller of all seven.
//! Every event of the daemon, `apply` in the foreground and every boot run the
//! same line; there is no second code path for repair.

pub mod act;
pub mod address;
pub mod adopt;
mod binary;
pub mod containerd;
mod disk;
mod download;
mod fetch;
mod health;
pub mod host;
pub mod images;
pub mod manifests;
mod mend;
mod mirrors;
mod peers;
mod record;
mod renames;
pub mod reset;
mod retire;
pub mod retired;
mod roles;
mod rotation;
mod started;
mod steps;
pub mod storage;
mod store;
pub mod summary;
mod time;
mod trial;
pub mod turn;
mod upgrade;

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

pub use download::{Downloader, Quiet, Rests, Watcher};
pub use host::{Agent, SetupError};
pub use time::Remembered;

use crate::activate::Activated;
use crate::apply::Applied;
use crate::enrol::Freshness;
use crate::enrol::peers::Told;
use crate::error::{Chain, io_cause};
use crate::facts::HostFacts;
use crate::plan::diff::Changes;
use crate::plan::refusal::MOVE_AWAY;
use crate::plan::{CheckedPlan, Refusal};
use crate::role::Assignment;
use crate::sys::systemd::Systemd;
use crate::sys::{Clock, Root, clock};
use crate::verify::Verdict;

/// How long a node may take from k3s's start of its unit state to Ready before
/// that is called degraded, in seconds.
const COMING_UP_S: u64 = 60;

/// How far a pass goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Files only: for a root that is no running host.
    Written,
    /// Everything that must be so before READY: files, name, boot links,
    /// `Reload`. No network, no job.
    Ready,
    /// Units up and looked at.
    Verified,
}

/// What one pass is told.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    /// How far it goes.
    pub until: Until,
    /// How long the central service may be asked; zero: not at all.
    pub patience: Duration,
    /// Look, and change nothing: a person paused the agent, or it failed to
    /// start too often.
    pub observe_only: bool,
}

/// Why a pass ended before its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// What it waits for, or what went wrong.
    pub why: Refusal,
    /// How bad that is.
    pub kind: StopKind,
}

impl Stop {
    /// Something went wrong that the next pass tries again.
    fn failed(code: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        let is_in_the_way = io_cause(error, &[io::ErrorKind::IsADirectory]).is_some();
        let next = if is_in_the_way { MOVE_AWAY } else { "it is tried again by itself" };
        Self { why: Refusal::new(code, Chain(error).to_string(), next), kind: StopKind::Failed }
    }
}

/// How bad it is that a pass ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopKind {
    /// Nobody says what this host shall be.
    NotConfigured,
    /// A person must approve the claim.
    Approval,
    /// Something outside must happen first.
    Waiting,
    /// As `Waiting`, and k3s must not start meanwhile.
    Held,
    /// A step failed; it is tried again.
    Failed,
}

/// What one pass saw and did. Filled from the top as far as it came.
#[derive(Debug, Default)]
pub struct Pass {
    /// The host before anything was changed.
    pub facts: HostFacts,
    /// What it shall be.
    pub assignment: Option<Assignment>,
    /// Where that came from.
    pub freshness: Option<Freshness>,
    /// The statement of its site, as the room may be told it.
    pub told: Option<Told>,
    /// What would change, or was changed.
    pub changes: Option<Changes>,
    /// The plan that was followed.
    pub plan: Option<CheckedPlan>,
    /// What of k3s's own files was moved aside or put back, by path.
    pub mended: Vec<String>,
    /// What was written.
    pub applied: Option<Applied>,
    /// What was started.
    pub activated: Option<Activated>,
    /// How the node is.
    pub verdict: Option<Verdict>,
    /// Why it ended early.
    pub stop: Option<Stop>,
    /// Findings that stopped nothing.
    pub findings: Vec<(Refusal, Severity)>,
    /// Milliseconds by step.
    pub steps_ms: BTreeMap<String, u64>,
    /// Another generation than the planned one stays in force: the plan was rolled
    /// back before, or something that it needs is not there.
    pub blocked: bool,
    /// What a restart that is due waits for.
    pub turn: Option<crate::plan::turn::Wait>,
    /// Node ids of retired hosts of which the cluster has nothing left.
    pub retired: Vec<String>,
    /// A retirement goes on: worth to look again soon.
    pub retires: bool,
    /// k3s is well, and was not for long enough with what is new: worth to look again soon.
    pub on_trial: bool,
    /// Something was pinned that the next plan depends on.
    pub again: bool,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Will need attention.
    Warn,
    /// Wrong.
    Fail,
}

/// Runs the line once.
pub async fn pass(agent: &mut Agent, order: Order) -> Pass {
    let mut pass = Pass::default();
    if let Err(stop) = line(agent, order, &mut pass).await {
        pass.stop = Some(stop);
    }
    renames::tell(agent, order, &mut pass).await;
    storage::tell(agent, &mut pass);
    pass
}

async fn line(agent: &mut Agent, order: Order, pass: &mut Pass) -> Result<(), Stop> {
    steps::observe(agent, pass).await;
    record::notice(agent, pass);
    reset::stands(agent)?;
    mend::findings(pass);
    binary::look(agent, order, pass).await;
    store::findings(pass);
    address::notice(agent, pass);
    // Before anything is asked or taken up in the name of the pinned identity.
    steps::same_machine(pass)?;
    let enrolled = steps::enrol(agent, order, pass).await;
    // Also while enrolment waits: what it waits for may need a right clock.
    time::check(agent, order, pass).await?;
    enrolled?;
    mend::heed_lease(agent, pass)?;
    peers::note_epoch(agent, order, pass)?;
    mirrors::notice(order, pass);
    storage::look(agent, order, pass).await;
    disk::measure(agent, order, pass).await;
    upgrade::offline(agent, order, pass);
    let plan = steps::plan(agent, pass)?;
    upgrade::tell(&plan, pass);
    mend::tell_empty(plan.plan(), pass);
    containerd::notice(agent, pass);
    steps::tell_token(pass);
    if order.observe_only {
        return steps::verify(agent, &plan, pass).await;
    }
    storage::prepare(agent, order, &plan, pass).await;
    store::mend(agent, &plan, pass).await?;
    steps::apply(agent, order, &plan, pass).await?;
    if order.until == Until::Written {
        return Ok(());
    }
    steps::settle(agent, &plan, pass).await?;
    address::settle(agent, order, &plan, pass).await?;
    // After the address was put in place, and before anything is started.
    peers::ask(agent, pass).await?;
    manifests::before_start(agent, pass);
    rotation::before_start(agent, pass);
    if order.until == Until::Ready {
        return Ok(());
    }
    steps::start(agent, &plan, pass).await?;
    turn::take(agent, &plan, pass).await?;
    address::watch(agent, &plan, pass);
    steps::verify(agent, &plan, pass).await?;
    roles::depart(agent, &plan, pass).await?;
    health::remember(agent);
    binary::tidy(agent, &plan, pass);
    turn::end(agent, &plan, pass).await;
    upgrade::go_on(agent, &plan, pass).await?;
    rotation::go_on(agent, &plan, pass).await?;
    manifests::keep(agent, &plan, pass).await;
    retired::keep(agent, &plan, pass).await;
    health::read_snapshots(agent, &plan, pass).await;
    record::learn(agent, &plan, pass).await
}

/// Observes the host below `root`, with the units that a pass looks at.
pub async fn facts(root: &Root) -> HostFacts {
    steps::facts(root, &Systemd::new(root), Clock::System).await
}

impl Pass {
    /// Whether everything is as it shall be and was seen to be.
    #[must_use]
    pub fn is_steady(&self) -> bool {
        let healthy =
            self.verdict.as_ref().is_some_and(|verdict| verdict.health == crate::verify::Health::Healthy);
        let idle = self.assignment.as_ref().is_some_and(|assignment| assignment.duty.is_none());
        self.stop.is_none() && !self.again && (healthy || idle)
    }

    /// Whether the pinned identity is that of another machine.
    #[must_use]
    pub fn is_quarantined(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| stop.why.code == "EB-copied-disk")
    }

    /// Whether a person has reset this host, or does so now: it is in no cluster
    /// and claims nothing before a person says so.
    #[must_use]
    pub fn is_reset(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| matches!(stop.why.code.as_str(), "EB-reset" | "EB-resetting"))
    }

    /// Whether the node is not healthy yet because k3s has only just started:
    /// its Node becomes Ready some seconds after READY.
    #[must_use]
    pub fn comes_up(&self) -> bool {
        let Some(verdict) = &self.verdict else { return false };
        let now = clock::monotonic().as_secs();
        let young = ["k3s", "k3s-agent"].into_iter().any(|name| {
            let unit = self.facts.runtime.units.get(name).and_then(|fact| fact.known());
            // Not up when it was looked at: it was started in this pass.
            unit.is_some_and(|unit| {
                unit.main_pid != 0 && now.saturating_sub(unit.since_monotonic_s) < COMING_UP_S
            })
        });
        let started = self.activated.as_ref().is_some_and(|activated| !activated.jobs.is_empty());
        verdict.waiting || (verdict.health != crate::verify::Health::Healthy && (young || started))
    }

    fn find(&mut self, severity: Severity, finding: Refusal) {
        self.findings.push((finding, severity));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_way_is_known_by_the_kind_of_its_error_and_not_by_its_words() {
        let next = |error: io::Error| {
            Stop::failed("EB-apply", &crate::sys::root::FileError::new("write", "/x", error)).why.next
        };
        assert_eq!(next(io::ErrorKind::IsADirectory.into()), MOVE_AWAY);
        assert_ne!(next(io::Error::other("x said: Is a directory, not a regular file")), MOVE_AWAY);
        let dir = tempfile::tempdir().expect("a directory");
        let error = Root::new(dir.path()).read("/").expect_err("it is no file");
        assert_eq!(Stop::failed("EB-apply", &error).why.next, MOVE_AWAY);
    }
}
