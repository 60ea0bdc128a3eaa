//! From a pass to the status that people and machines read.
//!
//! Owns which phase a pass means. Pure: the daemon and `apply` publish the
//! result.

use super::{Agent, Pass, Severity, StopKind};
use crate::facts::runtime::PinnedIdentity;
use crate::hold::Hold;
use crate::pause::Pause;
use crate::plan;
use crate::report::status::{
    self, Finding, LastPass, LeftAlone, NodeAddress, Paused, PendingRestart, Status,
};
use crate::report::{FindingStatus, Outcome, Phase};
use crate::sys::clock::rfc3339;
use crate::verify::{Health, State};

/// What stands beside a pass.
#[derive(Debug, Clone, Default)]
pub struct Beside {
    /// A person's pause.
    pub pause: Option<Pause>,
    /// Why k3s must not start.
    pub hold: Option<Hold>,
    /// When the central service last answered, seconds since 1970.
    pub last_contact: Option<u64>,
    /// Nothing may be changed because the daemon failed to start too often.
    pub safe_mode: bool,
}

/// Brings `status` up to what `pass` saw.
pub fn update(status: &mut Status, agent: &Agent, pass: &Pass, beside: &Beside) {
    let now = agent.clock.rfc3339();
    if let Some(name) = pass.facts.identity.hostname.kernel.known() {
        status.host.clone_from(name);
    }
    place(status, pass);
    status.last_contact = beside.last_contact.map(rfc3339);
    status.last_pass =
        Some(LastPass { at: now.clone(), outcome: outcome(pass, beside), steps_ms: pass.steps_ms.clone() });
    status.waiting_on = pass.stop.as_ref().map(|stop| (&stop.why).into());
    status.hold = beside.hold.as_ref().map(|hold| status::Hold {
        code: hold.code.clone(),
        reason: hold.reason.clone(),
        since: status.hold.as_ref().map_or_else(|| now.clone(), |hold| hold.since.clone()),
    });
    status.paused = beside.pause.as_ref().map(|pause| Paused {
        until: rfc3339(pause.until),
        by: pause.by.clone(),
        reason: pause.reason.clone(),
    });
    units(status, pass);
    status.findings = findings(pass, beside);
    let phase = phase(pass, beside);
    status.coming_up = coming_up(&phase, pass);
    status.enter(phase, now);
}

/// What a person who looks meanwhile should know.
fn coming_up(phase: &Phase, pass: &Pass) -> Option<String> {
    match (phase, &pass.verdict) {
        (Phase::Activating, _) => {
            Some("containerd and k3s, which are being started; then each is looked at".to_owned())
        }
        (Phase::Verifying, Some(verdict)) => verdict.cause.clone(),
        _ => None,
    }
}

fn place(status: &mut Status, pass: &Pass) {
    let assignment = pass.assignment.as_ref();
    if let Some(assignment) = assignment {
        status.role = Some(assignment.role().to_string());
        status.site = Some(assignment.site.to_string());
        status.generation = assignment.generation;
    }
    let pinned =
        pass.plan.as_ref().and_then(|plan| plan.plan().identity.as_ref()).or(plan::pinned(&pass.facts));
    if let Some(pinned) = pinned {
        status.node = Some(NodeAddress { name: pinned.node_name.clone(), ip: pinned.node_ip });
        status.epoch = pinned.epoch;
        status.role.get_or_insert_with(|| pinned.role.to_string());
        status.site.get_or_insert_with(|| pinned.site.clone());
    }
    let generation = pass.applied.as_ref().and_then(|applied| applied.generation);
    let on_disk = pass.facts.runtime.generations.current.as_ref().map(|current| current.number);
    status.plan_generation = generation.or(on_disk).unwrap_or(status.plan_generation);
}

fn units(status: &mut Status, pass: &Pass) {
    let runtime = &pass.facts.runtime;
    let seen = ["containerd", "k3s", "k3s-agent"].into_iter().filter_map(|name| {
        let unit = runtime.units.get(name)?.known().filter(|unit| unit.load != "not-found")?;
        Some((name.to_owned(), unit.into()))
    });
    status.units = seen.collect();
    let left = pass.activated.iter().flat_map(|activated| &activated.left_alone);
    status.left_alone = left
        .map(|left| LeftAlone {
            unit: left.unit.clone(),
            why: format!("{:?} by a person", left.why).to_lowercase(),
            since: rfc3339(left.since),
        })
        .collect();
    let pending = pass.changes.iter().flat_map(|changes| &changes.pending);
    let waits_for = pass.turn.as_ref().map(|wait| wait.reason.clone());
    let pending = pending.map(PendingRestart::from);
    status.pending_restarts =
        pending.map(|restart| PendingRestart { waits_for: waits_for.clone(), ..restart }).collect();
    status.versions.insert("edge-bootstrap".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    if let Some(version) = runtime.k3s.version.known().cloned().flatten() {
        status.versions.insert("k3s".to_owned(), version);
    }
    if let Some((major, minor, patch)) = runtime.containerd.version.known() {
        status.versions.insert("containerd".to_owned(), format!("{major}.{minor}.{patch}"));
    }
}

fn outcome(pass: &Pass, beside: &Beside) -> Outcome {
    match &pass.stop {
        _ if beside.pause.is_some() || beside.safe_mode => Outcome::Observed,
        Some(stop) if stop.kind == StopKind::Failed => Outcome::Failed,
        Some(_) => Outcome::Waiting,
        None if pass.blocked => not_in_force(pass),
        None => Outcome::Converged,
    }
}

/// Why an earlier generation is in force than the planned one.
fn not_in_force(pass: &Pass) -> Outcome {
    let is_back = |(why, _): &(plan::Refusal, Severity)| {
        matches!(why.code.as_str(), "EB-rolled-back" | "EB-containerd-rolled-back")
    };
    if pass.findings.iter().any(is_back) {
        Outcome::RolledBack
    } else if pass.findings.iter().any(|(_, severity)| *severity == Severity::Fail) {
        Outcome::Failed
    } else {
        Outcome::Waiting
    }
}

fn phase(pass: &Pass, beside: &Beside) -> Phase {
    // Before a pause: a copy must never pass for its original, which may be paused too.
    if pass.is_quarantined() {
        return Phase::Quarantined;
    }
    if beside.pause.is_some() {
        return Phase::Paused;
    }
    if let Some(stop) = &pass.stop {
        return match stop.kind {
            StopKind::NotConfigured => Phase::NotConfigured,
            StopKind::Approval => Phase::PendingApproval,
            StopKind::Waiting if pass.assignment.is_none() && !pass.is_reset() => Phase::Enrolling,
            StopKind::Waiting => Phase::Waiting,
            StopKind::Held => Phase::Held,
            StopKind::Failed => Phase::Failed,
        };
    }
    running_phase(pass, beside)
}

fn running_phase(pass: &Pass, beside: &Beside) -> Phase {
    let is_wrong = pass.findings.iter().any(|(_, severity)| *severity == Severity::Fail);
    if pass.is_steady() && !pass.blocked && !beside.safe_mode {
        return if is_wrong { Phase::Degraded } else { Phase::Steady };
    }
    match &pass.verdict {
        None => Phase::Activating,
        Some(_) if pass.comes_up() => Phase::Verifying,
        Some(verdict) if verdict.health == Health::Healthy && pass.again => Phase::Verifying,
        Some(_) => Phase::Degraded,
    }
}

fn findings(pass: &Pass, beside: &Beside) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        pass.findings.iter().map(|(refusal, severity)| finding(refusal, *severity)).collect();
    if beside.safe_mode {
        findings.push(Finding {
            id: "agent-starts".to_owned(),
            code: "EB-safe-mode".to_owned(),
            status: FindingStatus::Fail,
            text: "edge-bootstrap failed to start twice in this boot and only observes; look at its journal, then restart it".to_owned(),
        });
    }
    let troubles = pass.activated.iter().flat_map(|activated| &activated.troubles);
    findings.extend(troubles.map(|trouble| Finding {
        id: "activate".to_owned(),
        code: "EB-activate".to_owned(),
        status: FindingStatus::Fail,
        text: format!("{}: {}", trouble.object, trouble.what),
    }));
    findings.extend(probes(pass));
    findings
}

/// A refusal as `status` shows it.
#[must_use]
pub fn finding(refusal: &plan::Refusal, severity: Severity) -> Finding {
    Finding {
        id: refusal.code.trim_start_matches("EB-").to_owned(),
        code: refusal.code.clone(),
        status: match severity {
            Severity::Info => FindingStatus::Info,
            Severity::Warn => FindingStatus::Warn,
            Severity::Fail => FindingStatus::Fail,
        },
        text: format!("{}; {}", refusal.reason, refusal.next),
    }
}

/// Probes that are not good; one that waits is no finding.
fn probes(pass: &Pass) -> Vec<Finding> {
    let probes = pass.verdict.iter().flat_map(|verdict| &verdict.probes);
    let bad = probes.filter(|probe| matches!(probe.state, State::Degraded | State::Failed | State::Unknown));
    bad.map(|probe| Finding {
        id: probe.name.to_owned(),
        code: probe.code().to_owned(),
        status: match probe.state {
            State::Failed => FindingStatus::Fail,
            State::Unknown => FindingStatus::Unknown,
            _ => FindingStatus::Warn,
        },
        text: format!("{}: {}", probe.name, probe.detail),
    })
    .collect()
}

/// The identity as the pass left it.
#[must_use]
pub fn identity(pass: &Pass) -> Option<&PinnedIdentity> {
    plan::pinned(&pass.facts)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::verify::Verdict;

    #[test]
    fn a_node_that_only_waits_for_a_file_was_not_rolled_back() {
        let told = |code: &str, severity| {
            let findings = vec![(plan::Refusal::new(code, "", ""), severity)];
            outcome(&Pass { blocked: true, findings, ..Pass::default() }, &Beside::default())
        };
        assert_eq!(told("EB-wait-k3s", Severity::Info), Outcome::Waiting);
        assert_eq!(told("EB-apply", Severity::Fail), Outcome::Failed);
        assert_eq!(told("EB-rolled-back", Severity::Fail), Outcome::RolledBack);
    }

    #[test]
    fn a_node_that_comes_up_says_what_it_waits_for_and_one_that_is_up_says_nothing() {
        let cause = Some("k3s-unit: k3s.service is activating/start, for 14 s".to_owned());
        let probes = Vec::new();
        let verdict = Verdict { health: Health::Unknown, waiting: true, cause: cause.clone(), probes };
        let looked_at = Pass { verdict: Some(verdict), ..Pass::default() };
        assert_eq!(coming_up(&Phase::Verifying, &looked_at), cause);
        assert_eq!(coming_up(&Phase::Degraded, &looked_at), None, "a finding says it");
        assert!(coming_up(&Phase::Activating, &Pass::default()).unwrap().contains("being started"));
    }
}
