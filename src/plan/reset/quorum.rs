//! What becomes of a cluster when one of its servers leaves by a reset.
//!
//! Owns the rule: a reset does not remove the host's etcd member, which from then
//! on counts as one that is down. Pure: who answers is seen by `boot::reset`.

use crate::facts::runtime::PinnedIdentity;
use crate::plan::turn::Other;
use crate::role::Role;

/// The members of the cluster's etcd, as far as somebody tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Members {
    /// There are other servers, and none of them tells.
    Unknown,
    /// They do not count this host as a member any more.
    Without,
    /// The members besides this one; none for the only server.
    With(Vec<Other>),
}

/// What a person should know before a server leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// In words, with what to do first.
    pub warning: String,
    /// Why it needs a word more, and when that is given: etcd answers the others no
    /// more, or nobody knows.
    pub breaks: Option<&'static str>,
}

const MAJORITY: &str = "the other servers would lose their majority; if they shall";
const UNKNOWN: &str = "no server tells whether others would lose their majority: start k3s, here or on one of them; \
     where no other is left, or the cluster shall end";

/// What the cluster of this host loses with it; `None` when that is nothing.
#[must_use]
pub fn loss(pinned: Option<&PinnedIdentity>, members: &Members) -> Option<Loss> {
    let pinned = pinned.filter(|pinned| pinned.role == Role::Server && pinned.joined.is_some())?;
    let name = &pinned.node_name;
    let others = match members {
        Members::Without => return None,
        Members::Unknown => {
            let warning = format!(
                "no server of the cluster tells how it is, so that nobody can say what it loses with {name}; \
                 its datastore may be the last one"
            );
            return Some(Loss { warning, breaks: Some(UNKNOWN) });
        }
        Members::With(others) => others,
    };
    if others.is_empty() {
        let warning = format!(
            "{name} is the only server of its cluster: the cluster ends here. It comes back only from the backup \
             or a snapshot, or as a new one (edge-central site reinit)"
        );
        // Nobody else counts on it, and its datastore is kept in the backup.
        return Some(Loss { warning, breaks: None });
    }
    Some(of_several(name, others))
}

fn of_several(name: &str, others: &[Other]) -> Loss {
    let all = others.len() + 1;
    let well = others.iter().filter(|other| other.trouble.is_none()).count();
    let breaks = well * 2 <= all;
    let trouble =
        others.iter().filter_map(|other| Some(format!("{}: {}", other.name, other.trouble.as_ref()?)));
    let trouble: Vec<String> = trouble.collect();
    let why = if trouble.is_empty() { String::new() } else { format!(" ({})", trouble.join("; ")) };
    let remain = if well == 1 { "1 remains".to_owned() } else { format!("{well} remain") };
    let effect = if breaks { "too few: etcd answers nobody any more" } else { "enough for etcd" };
    let command = format!(
        "on another server: k3s kubectl annotate node {name} etcd.k3s.cattle.io/remove=true && k3s kubectl delete node {name}"
    );
    let warning = format!(
        "a reset does not take {name} out of etcd. Of {all} members {remain} healthy without it{why}, {effect}. \
         Take it out {}, {command}",
        if breaks { "first" } else { "before or after the reset" }
    );
    Loss { warning, breaks: breaks.then_some(MAJORITY) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::facts::runtime::{Joined, pinned_server};

    fn server() -> PinnedIdentity {
        let joined = Some(Joined { ca_hash: None, etcd_member: Some("a-1".into()) });
        PinnedIdentity { joined, ..pinned_server() }
    }

    /// With as many others that are well, and one for each trouble.
    fn of(well: usize, troubles: &[&str]) -> Loss {
        let other = |trouble: Option<&str>| Other {
            name: "b".into(),
            address: "10.0.0.2:6443".into(),
            trouble: trouble.map(str::to_owned),
        };
        let others = (0..well).map(|_| other(None)).chain(troubles.iter().map(|it| other(Some(it))));
        loss(Some(&server()), &Members::With(others.collect())).unwrap()
    }

    #[test]
    fn a_majority_is_counted_over_all_members_and_by_those_that_are_well() {
        let breaks = |well, troubles: &[&str]| of(well, troubles).breaks.is_some();
        assert!(!breaks(0, &[]) && of(0, &[]).warning.contains("only server"));
        assert!(breaks(1, &[]), "one of two");
        assert!(!breaks(2, &[]) && breaks(1, &["its Node is not Ready"]), "of three");
        assert!(breaks(2, &["down"]) && !breaks(3, &[]), "of four");
        assert!(!breaks(3, &["down"]), "of five");
        let told = of(1, &["its Node is not Ready"]).warning;
        for word in
            ["Of 3 members 1 remains healthy", "b: its Node is not Ready", "Take it out first", "remove=true"]
        {
            assert!(told.contains(word), "{word} is not in {told}");
        }
    }

    #[test]
    fn who_is_no_member_takes_nothing_with_it_and_what_nobody_tells_counts_as_the_worst() {
        assert_eq!(loss(Some(&server()), &Members::Without), None);
        assert_eq!(loss(Some(&server()), &Members::Unknown).unwrap().breaks, Some(UNKNOWN));
        let agent = PinnedIdentity { role: Role::Agent, ..server() };
        for no_member in [agent, PinnedIdentity { joined: None, ..server() }] {
            assert_eq!(loss(Some(&no_member), &Members::Unknown), None);
        }
        assert_eq!(loss(None, &Members::Unknown), None);
    }
}
