//! What a pass tells about mirrors that do not answer.
//!
//! Owns the finding. Which mirrors answer was seen by the daemon's own looks,
//! beside the passes; leaving one out is the plan's.

use super::{Order, Pass, Severity};
use crate::facts::mirrors::{Mirrors, Seen, State};
use crate::plan::Refusal;
use crate::role::Mirror;

/// Tells of every mirror that does not answer.
pub(super) fn notice(order: Order, pass: &mut Pass) {
    let Some(seen) = pass.facts.runtime.mirrors.known() else { return };
    let duty = pass.assignment.as_ref().and_then(|assignment| assignment.duty.as_ref());
    let mirrors = duty.map(|duty| duty.runtime.mirrors.as_slice()).unwrap_or_default();
    let found: Vec<_> = mirrors.iter().flat_map(|mirror| down(mirror, seen, order.observe_only)).collect();
    found.into_iter().for_each(|(severity, finding)| pass.find(severity, finding));
}

/// A registry whose mirrors are all away is asked itself, over the WAN: that is
/// worth more attention than one of several.
fn down(mirror: &Mirror, seen: &Mirrors, observe_only: bool) -> Vec<(Severity, Refusal)> {
    let states = mirror.endpoints.iter().map(|url| (url.as_str(), seen.get(url.as_str())));
    let away: Vec<(&str, &Seen)> = states
        .filter_map(|(url, seen)| Some((url, seen.filter(|seen| seen.state != State::Answers)?)))
        .collect();
    let severity = if away.len() == mirror.endpoints.len() { Severity::Warn } else { Severity::Info };
    let registry = mirror.registry.as_str();
    away.into_iter().map(|(url, seen)| (severity, finding(registry, url, seen, observe_only))).collect()
}

fn finding(registry: &str, url: &str, seen: &Seen, observe_only: bool) -> Refusal {
    let Seen { since, why, .. } = seen;
    let meanwhile = match (seen.state, observe_only) {
        (State::Stalls, true) => "it would be left out of hosts.toml, but nothing may be changed now",
        (State::Stalls, false) => "it is left out of hosts.toml so that pulls do not wait for it",
        _ => "containerd goes on to the next host by itself",
    };
    Refusal::new(
        "EB-mirror-down",
        format!("mirror {url} of {registry} does not answer since {since}: {why}; {meanwhile}"),
        "bring it back, and it is used again by itself",
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn seen(state: State) -> Seen {
        Seen { state, since: "2026-11-21T10:00:00Z".to_owned(), why: "no connection within 1 s".to_owned() }
    }

    #[test]
    fn one_of_several_is_news_and_the_last_one_is_a_warning() {
        let mirror = Mirror {
            registry: "docker.io".parse().unwrap(),
            endpoints: vec!["http://10.0.0.5:5000".parse().unwrap(), "http://10.0.0.6:5000".parse().unwrap()],
        };
        let mut states: Mirrors = [("http://10.0.0.5:5000".to_owned(), seen(State::Stalls))].into();
        let found = down(&mirror, &states, false);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, Severity::Info);
        assert!(found[0].1.reason.contains("mirror http://10.0.0.5:5000 of docker.io does not answer since 2026-11-21T10:00:00Z: no connection within 1 s; it is left out"), "{:?}", found[0].1);
        states.insert("http://10.0.0.6:5000".to_owned(), seen(State::Fails));
        let found = down(&mirror, &states, true);
        assert!(found.iter().all(|(severity, _)| *severity == Severity::Warn));
        assert!(found[0].1.reason.ends_with("nothing may be changed now"));
        assert!(found[1].1.reason.ends_with("next host by itself"));
        states.values_mut().for_each(|seen| seen.state = State::Answers);
        assert!(down(&mirror, &states, false).is_empty());
    }
}
