//! Which server token a member starts with while the cluster's is being changed.
//!
//! Owns the rule: the server token is the key of the CA record in the datastore
//! (k3s: pkg/cluster/storage.go), so a member that starts with another one than
//! the record's does not come up. A new token of the assignment therefore stays
//! out of the token file until k3s on this host holds it. Says when it can be
//! made to, and when a server must be started anew to know who asks by the token
//! that it has taken. Changes no token.

use super::refusal::Refusal;
use crate::facts::HostFacts;
use crate::role::version::K3sVersion;
use crate::role::words::TokenText;
use crate::role::{Duty, Role};
use crate::wire::secret::fingerprint;

/// A k3s that ended this often with the former token is tried with the new
/// one: the cluster may have changed it while this host was down.
const TOO_MANY_RESTARTS: u32 = 3;
/// After so many starts with one of both the other one has its turn: whatever else
/// kept k3s from starting must not leave it with a token that the cluster never had.
const TURN: u32 = 12;

/// Why a server restarts that has taken another token since its start.
pub const FORMER: &str = "k3s still takes joins by the former server token";

/// How the token that k3s holds on this host stands to the assignment's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    /// The same, or nothing speaks against it.
    Assigned,
    /// The one that the assignment names as the one before.
    Former,
    /// Neither.
    Other,
}

/// The server token that belongs in the token file.
pub(super) fn of_server<'a>(facts: &HostFacts, duty: &'a Duty) -> Option<&'a TokenText> {
    match held(facts, duty) {
        Held::Former => duty.join.previous_server.as_ref(),
        Held::Assigned | Held::Other => duty.join.server.as_ref(),
    }
}

/// The change that k3s on this host can be asked for while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change<'a> {
    /// What it holds.
    pub held: &'a TokenText,
    /// What it shall hold.
    pub new: &'a TokenText,
}

/// The change that is due, where k3s runs and is new enough for it. One that was
/// started with yet another token would refuse whoever shows one of these two.
#[must_use]
pub fn change<'a>(facts: &HostFacts, duty: &'a Duty) -> Option<Change<'a>> {
    let version = facts.runtime.k3s.version.known()?.as_deref()?.parse().ok()?;
    let is_due = runs(facts) && can_change(&version) && held(facts, duty) == Held::Former;
    is_due.then_some(())?;
    let change = Change { held: duty.join.previous_server.as_ref()?, new: duty.join.server.as_ref()? };
    let started = facts.runtime.k3s.started_token.as_ref();
    let is_known = started.is_none_or(|started| [change.held, change.new].map(name).contains(started));
    is_known.then_some(change)
}

/// Why a running server must be started anew: it has taken the token of its token
/// file since its start, and knows who asks by the token of its start (k3s:
/// pkg/authenticator). An agent goes on with its certificates. Of a start that
/// recorded no token nothing is known, and nothing restarts for it.
pub(super) fn restart(facts: &HostFacts, duty: &Duty) -> Option<&'static str> {
    let k3s = &facts.runtime.k3s;
    let wanted = of_server(facts, duty).filter(|_| duty.role == Role::Server).map(name)?;
    let is_taken = k3s.server_token.as_ref() == Some(&wanted);
    let is_former = k3s.started_token.as_ref().is_some_and(|started| *started != wanted);
    (runs(facts) && is_taken && is_former).then_some(FORMER)
}

fn name(token: &TokenText) -> String {
    fingerprint(token.as_str().as_bytes())
}

fn runs(facts: &HostFacts) -> bool {
    let unit = facts.runtime.units.get("k3s").and_then(|unit| unit.known());
    unit.is_some_and(|unit| unit.active == "active")
}

/// From these versions on the change reaches the record in the datastore and the
/// server's own files (k3s: pkg/server/handlers/token.go, commits 8acba4a62,
/// d451d4f34 and dface01de).
fn can_change(version: &K3sVersion) -> bool {
    let (major, minor, patch) = version.kubernetes;
    (major, minor) >= (1, 29)
        || [(26, 10), (27, 7), (28, 3)].iter().any(|(of, from)| minor == *of && patch >= *from)
}

/// What a person should know while the cluster's server token is not the
/// assignment's.
#[must_use]
pub fn finding(facts: &HostFacts, duty: &Duty) -> Option<Refusal> {
    let (reason, next) = match held(facts, duty) {
        Held::Assigned => return None,
        Held::Former if change(facts, duty).is_some() => (
            "the assignment has a new server token, and k3s on this host still holds the one before",
            "it is changed by itself, on one server after the other",
        ),
        Held::Former if restart(facts, duty).is_some() => (
            "the assignment has a new server token, and k3s on this host still takes joins by one before the last",
            "it is changed by itself after the restart that is due",
        ),
        Held::Former => (
            "the assignment has a new server token, and k3s on this host still holds the one before: it stays in the token file",
            "k3s takes it while it runs, from v1.26.10 on; an older one keeps the one before (docs/tokens.md)",
        ),
        Held::Other => (
            "k3s on this host holds another server token than the assignment names, now or before: the token file stays as it is, and nothing of the assignment is put in force",
            "name the one that the cluster has as `previous_server_token` (docs/tokens.md)",
        ),
    };
    Some(Refusal::new("EB-token-rotate", reason, next))
}

/// k3s holds a token that the assignment does not name: what it names would keep
/// this member from starting.
#[must_use]
pub fn is_unknown(facts: &HostFacts, duty: &Duty) -> bool {
    held(facts, duty) == Held::Other
}

fn held(facts: &HostFacts, duty: &Duty) -> Held {
    let k3s = &facts.runtime.k3s;
    let is_member = duty.role == Role::Server && k3s.has_datastore.known() == Some(&true);
    let Some(now) = k3s.server_token.as_deref().filter(|_| is_member) else { return Held::Assigned };
    let is = |token: &Option<TokenText>| token.as_ref().is_some_and(|token| name(token) == now);
    if duty.join.server.is_none() || is(&duty.join.server) {
        Held::Assigned
    } else if !is(&duty.join.previous_server) {
        Held::Other
    } else if starts_in_vain(facts) {
        Held::Assigned
    } else {
        Held::Former
    }
}

fn starts_in_vain(facts: &HostFacts) -> bool {
    let since = facts.runtime.ends("k3s").checked_sub(TOO_MANY_RESTARTS);
    !runs(facts) && since.is_some_and(|since| (since / TURN).is_multiple_of(2))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::facts::Fact;
    use crate::facts::runtime::Unit;
    use crate::role::{Assignment, parse_payload};

    fn assignment(new: &str, former: Option<&str>) -> Assignment {
        let text = include_str!("../../tests/plan/01-first-server/assignment.json");
        let mut payload: Value = serde_json::from_str(text).unwrap();
        payload["join"]["server_token"] = json!(new);
        payload["join"]["previous_server_token"] = json!(former);
        parse_payload(payload.to_string().as_bytes()).unwrap()
    }

    fn host(holds: Option<&str>) -> HostFacts {
        let mut facts = HostFacts::default();
        facts.runtime.k3s.has_datastore = Fact::Known(true);
        facts.runtime.k3s.server_token = holds.map(|token| fingerprint(token.as_bytes()));
        facts
    }

    /// The token in the file, and whether a person is told.
    fn decided(facts: &HostFacts, assignment: &Assignment) -> (String, bool) {
        let duty = assignment.duty.as_ref().unwrap();
        (of_server(facts, duty).unwrap().to_string(), finding(facts, duty).is_some())
    }

    fn told(token: &str, is_told: bool) -> (String, bool) {
        (token.to_owned(), is_told)
    }

    #[test]
    fn a_new_token_waits_until_k3s_holds_it() {
        let new = assignment("new-token", Some("old-token"));
        assert_eq!(decided(&host(Some("old-token")), &new), told("old-token", true));
        assert_eq!(decided(&host(Some("new-token")), &new), told("new-token", false));
        assert_eq!(decided(&host(Some("other")), &new), told("new-token", true));
        let unknown = |token: &str| is_unknown(&host(Some(token)), new.duty.as_ref().unwrap());
        assert_eq!(["other", "old-token", "new-token"].map(unknown), [true, false, false]);
        assert_eq!(
            decided(&host(Some("old-token")), &assignment("new-token", None)),
            told("new-token", true)
        );
    }

    #[test]
    fn only_a_running_k3s_that_can_is_asked_to_change_it() {
        let new = assignment("new-token", Some("old-token"));
        let duty = new.duty.as_ref().unwrap();
        let mut facts = host(Some("old-token"));
        let mut is_due = |version: &str, active: &str| {
            let unit = Unit { active: active.to_owned(), ..Unit::default() };
            facts.runtime.units.insert("k3s".to_owned(), Fact::Known(unit));
            facts.runtime.k3s.version = Fact::Known(Some(version.to_owned()));
            let change = change(&facts, duty);
            change.map(|change| (change.held.to_string(), change.new.to_string()))
        };
        let both = Some(("old-token".to_owned(), "new-token".to_owned()));
        for version in ["v1.26.10+k3s1", "v1.27.7+k3s1", "v1.28.3+k3s1", "v1.29.0+k3s1", "v1.36.2+k3s1"] {
            assert_eq!(is_due(version, "active"), both, "{version}");
            assert_eq!(is_due(version, "activating"), None, "{version}");
        }
        for version in ["v1.21.14+k3s1", "v1.26.9+k3s1", "v1.27.6+k3s1", "v1.28.2+k3s1"] {
            assert_eq!(is_due(version, "active"), None, "{version}");
        }
        facts.runtime.k3s.server_token = Some(fingerprint(b"new-token"));
        assert_eq!(change(&facts, duty), None, "it holds it");
    }

    #[test]
    fn a_server_that_took_the_token_since_its_start_restarts_once_and_nobody_else_does() {
        let new = assignment("new-token", Some("old-token"));
        let duty = new.duty.as_ref().unwrap();
        let (one, two, three) = ("old-token", "new-token", "oldest-token");
        let restarts = |holds: &str, started: Option<&str>, active: &str| {
            let mut facts = host(Some(holds));
            let unit = Unit { active: active.to_owned(), ..Unit::default() };
            facts.runtime.units.insert("k3s".to_owned(), Fact::Known(unit));
            facts.runtime.k3s.version = Fact::Known(Some("v1.36.2+k3s1".to_owned()));
            facts.runtime.k3s.started_token = started.map(|token| fingerprint(token.as_bytes()));
            let told = finding(&facts, duty).map(|finding| finding.next);
            (restart(&facts, duty).is_some(), change(&facts, duty).is_some(), told)
        };
        let due = |holds, started| restarts(holds, started, "active").0;
        assert!(due(two, Some(one)), "it took the new one while it ran");
        assert!(!due(two, Some(two)), "it was started with it since");
        assert!(!due(one, Some(one)), "the change comes first");
        assert!(!due(two, None), "an agent of before recorded none, or the record is lost");
        assert!(!due("other", Some(one)), "nothing of such an assignment is put in force");
        assert!(!restarts(two, Some(one), "activating").0 && !restarts(two, Some(one), "inactive").0);
        // Two changes in a row: it would refuse whoever asks by the last two.
        let (is_due, is_asked, told) = restarts(one, Some(three), "active");
        assert!(is_due && !is_asked && told.unwrap().contains("after the restart"));
        assert!(restarts(one, Some(two), "active").1, "it is asked by the new one");

        let text = include_str!("../../tests/plan/07-agent/assignment.json");
        let agent = parse_payload(text.as_bytes()).unwrap();
        let mut facts = host(Some(two));
        facts.runtime.k3s.started_token = Some(fingerprint(b"old-token"));
        assert_eq!(restart(&facts, agent.duty.as_ref().unwrap()), None);
    }

    #[test]
    fn a_host_without_a_datastore_or_a_token_takes_the_new_one() {
        let new = assignment("new-token", Some("old-token"));
        assert_eq!(decided(&host(None), &new), told("new-token", false));
        let mut fresh = host(Some("old-token"));
        fresh.runtime.k3s.has_datastore = Fact::Known(false);
        assert_eq!(decided(&fresh, &new), told("new-token", false));
    }

    #[test]
    fn a_member_that_was_down_meanwhile_tries_the_new_one() {
        let new = assignment("new-token", Some("old-token"));
        let mut facts = host(Some("old-token"));
        let unit = |active: &str, restarts| {
            let (active, restarts) = (active.to_owned(), Fact::Known(restarts));
            Fact::Known(Unit { active, restarts, ..Unit::default() })
        };
        for (active, restarts, token) in [
            ("activating", 2, "old-token"),
            ("active", 7, "old-token"),
            ("activating", 3, "new-token"),
            ("activating", 14, "new-token"),
            // It was not the token: the former one comes back, and so on.
            ("activating", 15, "old-token"),
            ("activating", 26, "old-token"),
            ("activating", 27, "new-token"),
        ] {
            facts.runtime.units.insert("k3s".to_owned(), unit(active, restarts));
            assert_eq!(decided(&facts, &new).0, token, "{active} {restarts}");
        }
        // What the gate refused was no start of k3s.
        for (restarts, starts, token) in
            [(40, 1, "old-token"), (40, 2, "old-token"), (40, 3, "new-token"), (2, 9, "old-token")]
        {
            facts.runtime.units.insert("k3s".to_owned(), unit("activating", restarts));
            facts.runtime.k3s.starts = Some(starts);
            assert_eq!(decided(&facts, &new).0, token, "{restarts} {starts}");
        }
    }
}
