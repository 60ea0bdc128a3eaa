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
    let Some(begun) = jobs.iter().find(is_begun) else { return };
    let effective = k3s::effective(root).known().cloned();
    let server_token = k3s::token_of_start(root, &begun.unit, effective.as_ref());
    let binary = root.read_link(paths::K3S_LINK).ok().flatten();
    let record = StartRecord { effective, binary, server_token, ..before };
    let bytes = serde_json::to_vec(&record).unwrap_or_default();
    if !atomic::write_volatile_or_drop(root, paths::K3S_STARTED_BY_AGENT, &bytes, 0o600) {
        // Where `/run` is full the gate's may be of an earlier start: then nobody knows.
        let _ = root.remove_file(&paths::started_with(begun.unit.trim_end_matches(".service")));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::wire::secret::fingerprint;

    #[test]
    fn a_job_of_ours_is_noted_with_the_token_that_it_starts_with() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let put = |path: &str, text: &str| {
            root.ensure_dir(path.rsplit_once('/').unwrap().0).unwrap();
            atomic::write(&root, path, text.as_bytes(), 0o600).unwrap();
        };
        put(paths::K3S_CONFIG, "token-file: /t/x\n");
        // What the gate recorded of the start before.
        put(&paths::started_with("k3s"), "{\"server_token\": \"former\"}");
        let before = before(&root, &HostFacts::default());
        let job = |unit: &str, verb| UnitJob {
            unit: unit.to_owned(),
            verb,
            reason: String::new(),
            outcome: Outcome::Queued,
            state: String::new(),
        };
        for (text, named) in
            [("K10aa::server:new\n", Some("new")), ("new\n", Some("new")), ("K10aa::node:a\n", None)]
        {
            put("/t/x", text);
            note(
                &root,
                before.clone(),
                &[job("containerd.service", "restart"), job("k3s.service", "restart")],
            );
            let bytes = root.read(paths::K3S_STARTED_BY_AGENT).unwrap().unwrap();
            let record: StartRecord = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(record.server_token, named.map(|token| fingerprint(token.as_bytes())), "{text}");
            assert_eq!((record.main_pid, record.gate), (Some(0), before.gate.clone()));
        }
        root.remove_file(paths::K3S_STARTED_BY_AGENT).unwrap();
        note(&root, before.clone(), &[job("k3s.service", "stop")]);
        assert_eq!(root.read(paths::K3S_STARTED_BY_AGENT).unwrap(), None, "a stop starts nothing");
        // It cannot be noted: the gate's record may be of the start before, and would restart k3s for ever.
        root.ensure_dir(&format!("{}/in-the-way", paths::K3S_STARTED_BY_AGENT)).unwrap();
        note(&root, before, &[job("k3s.service", "restart")]);
        assert_eq!(root.read(&paths::started_with("k3s")).unwrap(), None);
    }
}
