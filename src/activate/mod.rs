//! Makes units and the hostname true: step 5 of the boot line.
//!
//! Owns two effects. [`settle`] comes before READY: the name, the boot links
//! with their fsync, and `Reload`; it queues no job, so it cannot wait for one
//! that is ordered after ourselves. [`start`] comes after READY: jobs in plan
//! order; k3s has no start timeout and is queued, never waited for. A second
//! call changes nothing. What a person stopped, disabled or masked stays so.
//! Never decides what shall run: that is the plan's.

mod mount;
pub mod person;
pub mod record;
mod settle;
mod start;

use std::collections::BTreeMap;

use futures_util::future::join_all;
use serde::Serialize;
use thiserror::Error;

pub use person::{LeftAlone, Why};
pub use settle::settle;
pub use start::start;

use crate::error::ErrorKind;
use crate::facts::Fact;
use crate::facts::runtime::Unit;
use crate::ordered::Ordered as _;
use crate::plan::{PlannedHostname, PlannedUnit};
use crate::sys::systemd::{Systemd, SystemdError, UnitState};
use crate::sys::{Clock, FileError, Root};
use record::Record;

/// The host whose units are made true.
#[derive(Debug, Clone, Copy)]
pub struct Host<'a> {
    /// Where `/` is.
    pub root: &'a Root,
    /// Its systemd.
    pub systemd: &'a Systemd,
    /// Its clock.
    pub clock: Clock,
}

/// What shall be so before READY.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// The name, when it is ours to keep.
    pub hostname: Option<&'a PlannedHostname>,
    /// Units in plan order.
    pub units: &'a [PlannedUnit],
    /// Whether apply wrote or removed a unit file or drop-in.
    pub unit_files_changed: bool,
}

/// A step that could not be finished.
#[derive(Debug, Error)]
pub enum ActivateError {
    /// systemd was not reached; nothing is known about the units.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    /// The run directory cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
}

impl ActivateError {
    /// Its category.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Systemd(_) => ErrorKind::Transient,
            Self::File(_) => ErrorKind::Environment,
        }
    }
}

/// What activation did and found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Activated {
    /// Jobs that were queued, in order.
    pub jobs: Vec<UnitJob>,
    /// Everything else that was changed.
    pub changed: Vec<Changed>,
    /// Units that a person wants as they are.
    pub left_alone: Vec<LeftAlone>,
    /// What did not work; the rest was done all the same.
    pub troubles: Vec<Trouble>,
}

impl Activated {
    /// Whether everything was right already.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.jobs.is_empty() && self.changed.is_empty() && self.troubles.is_empty()
    }

    fn trouble(&mut self, object: &str, error: &(dyn std::error::Error + 'static)) {
        let what = crate::error::Chain(error).to_string();
        self.troubles.push(Trouble { object: object.to_owned(), what });
    }
}

/// Something that was changed without a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Changed {
    /// The hostname.
    Hostname {
        /// Kernel's name before, when it was told.
        from: Option<String>,
        /// Name now.
        to: String,
        /// Whether hostnamed did it; otherwise we did ourselves.
        by_hostnamed: bool,
    },
    /// The unit is started at boot.
    Enabled(String),
    /// The unit is not started at boot any more.
    Disabled(String),
    /// systemd read its files again.
    Reloaded,
    /// A failed unit may be started again.
    FailureReset(String),
}

/// One job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnitJob {
    /// Unit name.
    pub unit: String,
    /// `start`, `stop`, `restart`.
    pub verb: &'static str,
    /// Why, for people.
    pub reason: String,
    /// How it went.
    pub outcome: Outcome,
    /// The unit afterwards, as `active/sub`.
    pub state: String,
}

/// How a job went, judged by the unit's state and not by the job's result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The unit is as wanted.
    Done,
    /// Queued, and not waited for.
    Queued,
    /// Not there yet when its time was over.
    Waiting,
    /// The unit is not as wanted; says why.
    Failed(String),
    /// systemd did not take the job; says why.
    Refused(String),
}

/// Something that did not work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// Unit name, or `hostname`.
    pub object: String,
    /// The chain of causes.
    pub what: String,
}

/// Forgets what people did: for `resume` and `apply`.
///
/// # Errors
/// When the run directory cannot be written.
pub fn forget(root: &Root) -> Result<(), FileError> {
    let mut record = Record::load(root);
    record.units.clear();
    record.store(root)
}

/// Units that a person wants as they are, as last noticed in this boot.
#[must_use]
pub fn left_alone(root: &Root) -> Vec<LeftAlone> {
    Record::load(root).units.into_values().filter_map(|seen| seen.left_alone).collect()
}

/// States of `units` as facts, by name without `.service`. All are asked for at
/// once: in the middle of a boot systemd takes its time for each answer, and one
/// that hangs costs its limit once.
pub async fn unit_facts(systemd: &Systemd, units: &[&str]) -> BTreeMap<String, Fact<Unit>> {
    let states = join_all(units.iter().map(|name| systemd.unit(name))).await;
    let facts = states.into_iter().map(|state| match state {
        Ok(state) => Fact::Known(unit_fact(state)),
        Err(error) => Fact::unknown(crate::error::Chain(&error).to_string()),
    });
    units.iter().map(|name| name.trim_end_matches(".service").to_owned()).zip(facts).into_map()
}

fn unit_fact(state: UnitState) -> Unit {
    Unit {
        load: state.load,
        active: state.active,
        sub: state.sub,
        file_state: state.file_state,
        main_pid: state.main_pid,
        restarts: state
            .restarts
            .map_or_else(|| Fact::unknown("systemd before 235 does not count restarts"), Fact::Known),
        need_reload: state.need_reload,
        exec: state.exec,
        drop_ins: state.drop_ins,
        has_gate: state
            .has_gate
            .map_or_else(|| Fact::unknown("systemd did not tell what runs before its start"), Fact::Known),
        since_monotonic_s: state.since_monotonic_us / 1_000_000,
    }
}
