//! From probe results to a verdict. Pure.

use std::time::Duration;

use super::{Health, Probe, State, Verdict};

/// Weighs the probes; they come in order from cause to effect.
#[must_use]
pub fn judge(probes: Vec<Probe>) -> Verdict {
    let has = |state| probes.iter().any(|probe| probe.state == state);
    let waiting = has(State::Waiting);
    let (health, worst) = if has(State::Failed) {
        (Health::Failed, Some(State::Failed))
    } else if waiting {
        (Health::Unknown, Some(State::Waiting))
    } else if has(State::Degraded) {
        (Health::Degraded, Some(State::Degraded))
    } else if has(State::Unknown) {
        (Health::Unknown, Some(State::Unknown))
    } else {
        (Health::Healthy, None)
    };
    let first = probes.iter().find(|probe| Some(probe.state) == worst);
    let cause = first.map(|probe| format!("{}: {}", probe.name, probe.detail));
    Verdict { health, waiting, cause, probes }
}

/// A host that still waits when its time is over is degraded.
pub(super) fn overdue(verdict: Verdict, budget: Duration) -> Verdict {
    if !verdict.waiting || verdict.health != Health::Unknown {
        return verdict;
    }
    let cause = verdict.cause.unwrap_or_default();
    let cause = format!("not ready after {} s ({cause})", budget.as_secs());
    Verdict { health: Health::Degraded, cause: Some(cause), ..verdict }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probes(states: &[(&'static str, State)]) -> Vec<Probe> {
        states.iter().map(|(name, state)| Probe { name, state: *state, detail: "x".into() }).collect()
    }

    #[test]
    fn the_first_of_the_worst_is_the_cause() {
        let verdict = judge(probes(&[
            ("containerd-unit", State::Ok),
            ("k3s-unit", State::Waiting),
            ("containerd-socket", State::Failed),
            ("api", State::Failed),
        ]));
        assert_eq!(verdict.health, Health::Failed);
        assert!(verdict.waiting);
        assert_eq!(verdict.cause.as_deref(), Some("containerd-socket: x"));
    }

    #[test]
    fn waiting_is_no_failure_and_becomes_degraded_when_it_lasts() {
        let verdict = judge(probes(&[("k3s-unit", State::Waiting), ("node", State::Unknown)]));
        assert_eq!((verdict.health, verdict.waiting), (Health::Unknown, true));
        let late = overdue(verdict, Duration::from_secs(90));
        assert_eq!(late.health, Health::Degraded);
        assert_eq!(late.cause.as_deref(), Some("not ready after 90 s (k3s-unit: x)"));
    }

    #[test]
    fn all_good_is_healthy_without_a_cause() {
        let verdict = judge(probes(&[("a", State::Ok), ("b", State::Ok)]));
        assert_eq!((verdict.health, verdict.cause), (Health::Healthy, None));
        assert_eq!(judge(probes(&[("a", State::Degraded)])).health, Health::Degraded);
        assert_eq!(judge(probes(&[("a", State::Unknown)])).health, Health::Unknown);
    }
}
