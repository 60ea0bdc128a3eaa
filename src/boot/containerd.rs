//! containerd's file before it is put in force, and the way back from one with
//! which containerd does not come up.
//!
//! Owns what becomes of a file that the installed containerd does not take:
//! nothing of its generation is put in force, and the generation before it goes
//! on. Without evidence a file is put in force. Renders nothing; what counts as
//! taken is the plan's ([`crate::plan::containerd::dump`]).

mod back;
mod checked;

use std::collections::BTreeMap;

pub(super) use back::{gave_up, is_over, keeps_here, last_words};
use checked::Verdict;
pub use checked::forget;
use tracing::warn;

use super::{Agent, Pass, Severity, Stop, StopKind};
use crate::activate::{self, UnitJob};
use crate::facts::runtime::{StartRecord, Unit};
use crate::facts::{Fact, HostFacts};
use crate::paths;
use crate::plan::units::CONTAINERD;
use crate::plan::{self, CheckedPlan, PlannedFile, Refusal};
use crate::sys::{Root, atomic};
use crate::wire::json;
use crate::wire::secret::sha256_hex;

/// How many keys a refusal names.
const NAMED: usize = 4;

/// containerd's file in a plan.
pub(super) fn planned(checked: &CheckedPlan) -> Option<&PlannedFile> {
    checked.plan().files.iter().find(|file| file.path == paths::CONTAINERD_CONFIG)
}

/// Notes with which file a job of this pass left containerd running: the gate
/// may have recorded nothing, and another restart would not change that. A job
/// that was refused, cancelled or still waits has left the process of before.
pub(super) async fn note_start(agent: &Agent, jobs: &[UnitJob], before: &HostFacts) {
    if !jobs.iter().any(|job| job.unit == CONTAINERD && job.verb != "stop") {
        return;
    }
    let pid =
        |units: &BTreeMap<String, Fact<Unit>>| units.get("containerd")?.known().map(|unit| unit.main_pid);
    let units = activate::unit_facts(&agent.systemd, &[CONTAINERD]).await;
    let main_pid = pid(&units).filter(|now| *now != 0);
    if main_pid.is_none() || main_pid == pid(&before.runtime.units) {
        return;
    }
    let config = agent.root.read(paths::CONTAINERD_CONFIG).ok().flatten().map(|bytes| sha256_hex(&bytes));
    let record = StartRecord { config, main_pid, ..StartRecord::default() };
    let bytes = serde_json::to_vec(&record).unwrap_or_default();
    // Without it containerd is restarted once more, which harms nobody.
    let _ = atomic::write_volatile(&agent.root, paths::STARTED_BY_AGENT, &bytes, 0o600);
}

/// Tells of a gate that records no start, and of a network of others that
/// containerd reads before ours.
pub(super) fn notice(agent: &Agent, pass: &mut Pass) {
    if let Some(finding) = gate_silent(&agent.root, pass) {
        pass.find(Severity::Warn, finding);
    }
    let Some(network) = plan::containerd::foreign_network(&pass.facts) else { return };
    let (severity, next) = if network.blocks {
        (Severity::Fail, "move that file out of the directory; never the directory itself")
    } else {
        (Severity::Info, "remove that file if its network is not wanted any more")
    };
    pass.find(severity, Refusal::new("EB-cni-foreign", network.words, next));
}

/// The running containerd was started by the agent, as far as is known, and the
/// gate recorded nothing of it, or an earlier start. Where a drop-in takes the
/// gate away, that is told instead.
fn gate_silent(root: &Root, pass: &Pass) -> Option<Refusal> {
    let runtime = &pass.facts.runtime;
    let unit =
        runtime.units.get("containerd")?.known().filter(|unit| unit.has_gate.known() != Some(&false))?;
    let config = |path: &str| -> Option<StartRecord> { json::read(&root.read(path).ok()??).ok() };
    let by_agent = config(paths::STARTED_BY_AGENT).filter(|record| record.main_pid == Some(unit.main_pid))?;
    let by_gate = config(&paths::started_with("containerd")).and_then(|record| record.config);
    (by_gate != by_agent.config).then(|| {
        Refusal::new(
            "EB-gate-silent",
            "the agent started containerd, and our check before that start recorded nothing; it is not restarted again for that",
            "`journalctl -u containerd -b` shows what became of it: it ends itself after 5 s on a disk that does not answer",
        )
    })
}

/// Asks the installed containerd what it makes of the planned file, unless it has
/// been asked before.
pub(super) async fn validate(agent: &Agent, checked: &CheckedPlan, pass: &mut Pass) -> Result<(), Stop> {
    let Some(file) = planned(checked) else { return Ok(()) };
    let Some(binary) = pass.facts.runtime.containerd.binary.known().cloned() else { return Ok(()) };
    // Nothing of a root that is not the running host can be run here.
    if !agent.root.is_host() {
        return Ok(());
    }
    match checked::ask(&agent.root, &binary, &file.bytes).await {
        Verdict::Accepted => Ok(()),
        Verdict::Unknown(why) => {
            pass.find(Severity::Info, unchecked(&why));
            Ok(())
        }
        Verdict::Refused(why) => refuse(agent, checked, (binary, why), pass).await,
    }
}

fn unchecked(why: &str) -> Refusal {
    Refusal::new(
        "EB-containerd-unchecked",
        format!("containerd could not be asked whether it takes its file: {why}"),
        "the file is put in force; it is asked again at the next boot",
    )
}

fn words(why: &[String]) -> String {
    let mut words = why.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    if why.len() > NAMED {
        words.push_str(&format!("; and {} more", why.len() - NAMED));
    }
    words
}

const NEXT: &str = "send this line to the maintainers with `containerd --version`, or put the containerd before it back; \
                    `edge-bootstrap apply` tries it again";

/// Nothing of the generation is put in force. Where there is one before it, that
/// goes on, and the rest of the pass with it: a host must keep its name and
/// address whatever containerd thinks of a file.
async fn refuse(
    agent: &Agent,
    checked: &CheckedPlan,
    (binary, why): (String, Vec<String>),
    pass: &mut Pass,
) -> Result<(), Stop> {
    let refused = |said: &str| Refusal::new("EB-containerd-refused", format!("{}{said}", words(&why)), NEXT);
    if !goes_on(checked, pass) {
        return Err(Stop { why: refused(""), kind: StopKind::Failed });
    }
    let old = agent.root.read(paths::CONTAINERD_CONFIG).ok().flatten().unwrap_or_default();
    let (severity, said) = match checked::ask(&agent.root, &binary, &old).await {
        Verdict::Refused(_) => (Severity::Fail, "; the file in force is refused too"),
        Verdict::Accepted | Verdict::Unknown(_) => (Severity::Warn, "; the file before it stays in force"),
    };
    let finding = refused(said);
    warn!(EDGE_STEP = "apply", EDGE_CODE = %finding.code, EDGE_REASON = %finding.reason, "containerd refuses its new file");
    pass.find(severity, finding);
    pass.blocked = true;
    Ok(())
}

/// Whether an earlier generation of the same life is in force.
pub(super) fn goes_on(checked: &CheckedPlan, pass: &Pass) -> bool {
    let runtime = &pass.facts.runtime;
    let same_role = plan::pinned(&pass.facts).map(|pinned| pinned.role)
        == checked.plan().identity.as_ref().map(|identity| identity.role);
    checked.plan().retirement.is_none()
        && same_role
        && runtime.generations.current.is_some()
        && runtime.files.contains_key(paths::CONTAINERD_CONFIG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_some_keys_and_counts_the_rest() {
        let keys: Vec<String> = (0..6).map(|number| format!("k{number}")).collect();
        assert_eq!(words(&keys), "k0; k1; k2; k3; and 2 more");
        assert_eq!(words(keys.get(..1).unwrap_or_default()), "k0");
    }
}
