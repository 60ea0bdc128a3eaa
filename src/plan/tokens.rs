//! Which server token a member starts with while the cluster's is being changed.
//!
//! Owns the rule: the server token is the key of the CA record in the datastore
//! (k3s: pkg/cluster/storage.go), so a member that starts with another one than
//! the record's does not come up. A new token of the assignment therefore stays
//! out of the token file until k3s on this host holds it. Changes no token.

use super::refusal::Refusal;
use crate::facts::HostFacts;
use crate::role::words::TokenText;
use crate::role::{Duty, Role};
use crate::wire::secret::fingerprint;

/// A start that failed this often with the former token is tried with the new
/// one: the cluster may have changed it while this host was down.
const TOO_MANY_RESTARTS: u32 = 3;

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

/// What a person should know while the cluster's server token is not the
/// assignment's.
#[must_use]
pub fn finding(facts: &HostFacts, duty: &Duty) -> Option<Refusal> {
    let (reason, next) = match held(facts, duty) {
        Held::Assigned => return None,
        Held::Former => (
            "the assignment has a new server token, and k3s on this host still holds the one before: it stays in the token file",
            "change the cluster's with `k3s token rotate` on each server, one after the other (docs/tokens.md)",
        ),
        Held::Other => (
            "k3s on this host holds another server token than the assignment names, now or before: its next start may fail",
            "name the one that the cluster has as `previous_server_token` (docs/tokens.md)",
        ),
    };
    Some(Refusal::new("EB-token-rotate", reason, next))
}

fn held(facts: &HostFacts, duty: &Duty) -> Held {
    let k3s = &facts.runtime.k3s;
    let is_member = duty.role == Role::Server && k3s.has_datastore.known() == Some(&true);
    let Some(now) = k3s.server_token.as_deref().filter(|_| is_member) else { return Held::Assigned };
    let is = |token: &Option<TokenText>| {
        token.as_ref().is_some_and(|token| fingerprint(token.as_str().as_bytes()) == now)
    };
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
    let unit = facts.runtime.units.get("k3s").and_then(|unit| unit.known());
    unit.is_some_and(|unit| {
        let restarts = unit.restarts.known().is_some_and(|restarts| *restarts >= TOO_MANY_RESTARTS);
        unit.active != "active" && restarts
    })
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
        assert_eq!(
            decided(&host(Some("old-token")), &assignment("new-token", None)),
            told("new-token", true)
        );
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
        for (active, restarts, token) in
            [("activating", 2, "old-token"), ("active", 7, "old-token"), ("activating", 3, "new-token")]
        {
            facts.runtime.units.insert("k3s".to_owned(), unit(active, restarts));
            assert_eq!(decided(&facts, &new).0, token, "{active} {restarts}");
        }
    }
}
