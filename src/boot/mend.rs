//! The part of a pass that touches k3s's own files, and what a pass finds about
//! a node's membership.
//!
//! Owns the moment: k3s is down and held while a datastore is moved. Decides
//! nothing about content.

use tracing::info;

use super::{Agent, Pass, Severity, Stop};
use crate::activate;
use crate::apply::{self, Applied, ApplyError};
use crate::facts::runtime::Unit;
use crate::facts::{Fact, HostFacts};
use crate::plan::{self, CheckedPlan, Plan, Refusal, units};
use crate::role::Role;
use crate::sys::root::FileError;
use crate::sys::{Root, atomic};
use crate::{hold, lease, paths};

/// Moves aside and puts back what the plan says, and records the init lease that
/// the plan rests on. Comes before anything else of a plan is written.
pub(super) async fn mend(agent: &Agent, checked: &CheckedPlan, pass: &mut Pass) -> Result<(), Stop> {
    let plan = checked.plan();
    confirm_lease(agent, plan).map_err(|error| failed(&error))?;
    if plan.quarantines.is_empty() && plan.restores.is_empty() && plan.empty.is_none() {
        return Ok(());
    }
    held(agent, checked, pass, apply::mend).await
}

/// What k3s ends at, also where the rest of the plan is not carried out: the
/// generation in force does not run without it either.
pub(super) async fn mend_files(agent: &Agent, checked: &CheckedPlan, pass: &mut Pass) -> Result<(), Stop> {
    let plan = checked.plan();
    if plan.restores.is_empty() && plan.empty.is_none() {
        return Ok(());
    }
    held(agent, checked, pass, apply::mend_files).await
}

type Mend = fn(&Root, &CheckedPlan, &dyn Fn(&str) -> bool) -> Result<Applied, ApplyError>;

/// `work`, while k3s cannot start.
async fn held(agent: &Agent, checked: &CheckedPlan, pass: &mut Pass, work: Mend) -> Result<(), Stop> {
    let held = Held::begin(&agent.root).map_err(|error| failed(&error))?;
    let units = activate::unit_facts(&agent.systemd, &[units::K3S, units::K3S_AGENT]).await;
    let on_host = agent.root.is_host();
    let is_down =
        |unit: &str| units.get(unit.trim_end_matches(".service")).is_some_and(|state| down(state, on_host));
    let mended = work(&agent.root, checked, &is_down);
    held.end(&agent.root).map_err(|error| failed(&error))?;
    let mended = mended.map_err(|error| failed(&error))?;
    for path in &mended.changed {
        info!(EDGE_STEP = "apply", EDGE_PATH = %path, "k3s's own files mended");
    }
    pass.mended = mended.changed;
    Ok(())
}

/// Who gives the lease may take it back: word of this boot that it is not this
/// host's any more ends the confirmation, whatever becomes of the plan.
pub(super) fn heed_lease(agent: &Agent, pass: &Pass) -> Result<(), Stop> {
    let Some(assignment) = &pass.assignment else { return Ok(()) };
    if agent.confirmed.as_deref() != Some(assignment.digest.as_str()) {
        return Ok(());
    }
    let cluster = assignment.duty.as_ref().filter(|duty| duty.role == Role::Server).map(|duty| &duty.cluster);
    let held = cluster.filter(|cluster| cluster.init && cluster.ca_hash.is_none());
    lease::keep_only(&agent.root, held.map(|cluster| cluster.epoch)).map_err(|error| failed(&error))
}

/// The gate lets `cluster-init` pass only with this record.
fn confirm_lease(agent: &Agent, plan: &Plan) -> Result<(), FileError> {
    let forms =
        plan.generation.as_ref().is_some_and(|generation| generation.effective.is_true("cluster-init"));
    match plan.identity.as_ref().filter(|_| forms) {
        // The lint let the plan pass, so that it is confirmed.
        Some(identity) => lease::confirm(&agent.root, identity).map(|_| ()),
        None => Ok(()),
    }
}

/// No process of the unit runs, nor its checks before a start.
pub(super) fn down(state: &Fact<Unit>, on_host: bool) -> bool {
    match state {
        Fact::Known(unit) => {
            let waits = unit.active == "activating" && unit.sub.starts_with("auto-restart");
            unit.main_pid == 0 && (waits || ["inactive", "failed"].contains(&unit.active.as_str()))
        }
        // Below another root nothing runs.
        Fact::Unknown { .. } => !on_host,
    }
}

/// Keeps k3s from starting while its files are moved; a hold that is there
/// already stays.
pub(super) struct Held(bool);

impl Held {
    pub(super) fn begin(root: &Root) -> Result<Self, FileError> {
        if hold::current(root).is_some() {
            return Ok(Self(false));
        }
        root.ensure_dir(paths::RUN_DIR)?;
        let why = Refusal::new("EB-tombstone", "k3s's files are being mended", "it goes on by itself");
        hold::set(root, &why).map(|_| Self(true))
    }

    pub(super) fn end(self, root: &Root) -> Result<(), FileError> {
        if self.0 { hold::clear(root).map(|_| ()) } else { Ok(()) }
    }
}

pub(super) fn failed(error: &(dyn std::error::Error + 'static)) -> Stop {
    let code = if error.is::<ApplyError>() { "EB-apply" } else { "EB-state-file" };
    Stop::failed(code, error)
}

// === the copy of the node's password ===

/// Copies the node's password once the cluster has taken it: at the first READY
/// of an identity, or where there is no copy. A password that changed later was
/// changed by somebody, and is told, not taken over.
pub(super) fn keep_password(root: &Root, facts: &HostFacts, is_first: bool) -> Result<(), FileError> {
    let Some(password) = facts.runtime.k3s.node_password.known() else { return Ok(()) };
    if !password.is_whole || password.agree || (password.has_copy && !is_first) {
        return Ok(());
    }
    let Some(bytes) = root.read(paths::NODE_PASSWORD)? else { return Ok(()) };
    root.make_dir(paths::BACKUP, 0o700)?;
    atomic::write(root, paths::NODE_PASSWORD_COPY, &bytes, 0o600).map(|_| ())
}

// === findings ===

/// What a look at membership and units shows, beside the plan.
pub(super) fn findings(pass: &mut Pass) {
    let found = [gate_dropped(&pass.facts), runs_without_etcd(&pass.facts), password(&pass.facts)];
    found.into_iter().flatten().for_each(|(severity, finding)| pass.find(severity, finding));
}

/// What a power cut left of k3s's files, in the light of the plan.
pub(super) fn tell_empty(plan: &Plan, pass: &mut Pass) {
    let [mended, lost] = plan::empty::findings(plan, &pass.facts);
    mended.into_iter().for_each(|finding| pass.find(Severity::Warn, finding));
    lost.into_iter().for_each(|finding| pass.find(Severity::Fail, finding));
}

type Found = Option<(Severity, Refusal)>;

/// An operator's override that empties `ExecStartPre` takes the gate with it.
fn gate_dropped(facts: &HostFacts) -> Found {
    let drop_in = |unit: &str| format!("{unit}.d/{}", paths::DROP_IN);
    let guarded = [
        ("k3s", drop_in(paths::K3S_UNIT)),
        ("k3s-agent", drop_in(paths::K3S_AGENT_UNIT)),
        ("containerd", paths::CONTAINERD_DROP_IN.to_owned()),
    ];
    let is_dropped = |(name, drop_in): &(&str, String)| {
        let ours = facts.runtime.files.contains_key(drop_in);
        let unit = facts.runtime.units.get(*name).and_then(Fact::known);
        ours && unit.is_some_and(|unit| {
            unit.load == "loaded" && !unit.need_reload && unit.has_gate.known() == Some(&false)
        })
    };
    let dropped: Vec<&str> = guarded.iter().filter(|unit| is_dropped(unit)).map(|(name, _)| *name).collect();
    let name = dropped.first()?;
    let finding = Refusal::new(
        "EB-gate-dropped",
        format!(
            "a drop-in of {}.service removes the check of edge-bootstrap before its start",
            dropped.join(".service and ")
        ),
        format!("remove `ExecStartPre=` from it: systemctl cat {name}"),
    );
    Some((Severity::Fail, finding))
}

fn runs_without_etcd(facts: &HostFacts) -> Found {
    let k3s = &facts.runtime.k3s;
    let unit = facts.runtime.units.get("k3s").and_then(Fact::known);
    let runs = unit.is_some_and(|unit| unit.main_pid != 0);
    let removed = k3s.tombstone.known() == Some(&true) && k3s.has_datastore.known() == Some(&true);
    (runs && removed).then(|| {
        let finding = Refusal::new(
            "EB-tombstone",
            "etcd has removed this member while k3s runs on",
            "if it shall come back: systemctl restart k3s",
        );
        (Severity::Fail, finding)
    })
}

fn password(facts: &HostFacts) -> Found {
    let joined = plan::pinned(facts).is_some_and(|pinned| pinned.joined.is_some());
    let password = facts.runtime.k3s.node_password.known().filter(|_| joined)?;
    let (severity, reason, next) = match (password.is_whole, password.has_copy) {
        (true, true) if !password.agree => (
            Severity::Warn,
            "the node's password is another one than at its first READY",
            "put the copy back, or remove the copy when the new one is right",
        ),
        (false, false) => (
            Severity::Warn,
            "the node's password is missing, and there is no copy",
            "when the cluster refuses the node (403): delete its secret NAME.node-password.k3s in kube-system",
        ),
        _ => return None,
    };
    let reason = format!("{}: {reason}", paths::NODE_PASSWORD);
    let next = format!("{next} ({})", paths::NODE_PASSWORD_COPY);
    Some((severity, Refusal::new("EB-node-password", reason, next)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::runtime::FileFact;

    #[test]
    fn a_gate_that_a_drop_in_takes_away_is_told_of_each_unit() {
        let host = |gates: &[(&str, bool)]| {
            let mut facts = HostFacts::default();
            for path in
                [paths::CONTAINERD_DROP_IN.to_owned(), format!("{}.d/{}", paths::K3S_UNIT, paths::DROP_IN)]
            {
                let file = FileFact { mode: 0o644, size: 0, sha256: String::new(), text: None };
                facts.runtime.files.insert(path, file);
            }
            for (name, has_gate) in gates {
                let unit =
                    Unit { load: "loaded".into(), has_gate: Fact::Known(*has_gate), ..Unit::default() };
                facts.runtime.units.insert((*name).to_owned(), Fact::Known(unit));
            }
            facts
        };
        let told = |gates: &[(&str, bool)]| {
            gate_dropped(&host(gates)).map(|(severity, finding)| (severity, finding.code, finding.reason))
        };
        let words = |names: &str| {
            let reason = format!("a drop-in of {names} removes the check of edge-bootstrap before its start");
            Some((Severity::Fail, "EB-gate-dropped".to_owned(), reason))
        };
        assert_eq!(told(&[("containerd", true), ("k3s", true)]), None);
        assert_eq!(told(&[("containerd", false), ("k3s", true)]), words("containerd.service"));
        assert_eq!(
            told(&[("containerd", false), ("k3s", false)]),
            words("k3s.service and containerd.service")
        );
        assert_eq!(told(&[("k3s-agent", false)]), None, "there is no drop-in of ours");
        let mut facts = host(&[("containerd", false)]);
        facts.runtime.files.clear();
        assert!(gate_dropped(&facts).is_none(), "containerd is not ours");
    }
}
