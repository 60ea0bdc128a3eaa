//! With what the agent itself started k3s, for where the gate records nothing.
//!
//! Owns the record of our own jobs: a gate that a slow disk ends after its 5 s
//! leaves the record of an earlier start behind, and what it says would restart
//! k3s in every pass. Decides nothing.

use crate::activate::{Outcome, UnitJob};
use crate::facts::HostFacts;
use crate::facts::runtime::StartRecord;
use crate::observe::k3s;
use crate::paths;
use crate::plan::units::is_k3s;
use crate::sys::{Root, atomic};

/// What must be known before a job: the process that runs, and what the gate has
/// recorded so far.
pub(super) fn before(root: &Root, facts: &HostFacts) -> StartRecord {
    let main_pid = Some(k3s::main_pid(&facts.runtime.units));
    StartRecord { main_pid, gate: k3s::gate_stamp(root), ..StartRecord::default() }
}

/// Notes what a job of k3s was begun with. One that was refused began nothing.
pub(super) fn note(root: &Root, before: StartRecord, jobs: &[UnitJob]) {
    let is_begun = |job: &&UnitJob| {
        is_k3s(&job.unit)
            && job.verb != "stop"
            && !matches!(job.outcome, Outcome::Refused(_) | Outcome::Failed(_))
    };
    if !jobs.iter().any(|job| is_begun(&job)) {
        return;
    }
    let effective = k3s::effective(root).known().cloned();
    let binary = root.read_link(paths::K3S_LINK).ok().flatten();
    let bytes = serde_json::to_vec(&StartRecord { effective, binary, ..before }).unwrap_or_default();
    // Without it the gate's record counts, as ever.
    let _ = atomic::write_volatile(root, paths::K3S_STARTED_BY_AGENT, &bytes, 0o600);
}
