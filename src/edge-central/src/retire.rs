//! Replacing a host that is gone for good, or has lost its disk.
//!
//! Owns what a person must not order, what the new host takes over, and who waits
//! until the old one has left the cluster. Pure; the live server that carries it
//! out checks again what it sees (`docs/replacement.md`).

use edge_bootstrap::role::Role;
use edge_bootstrap::role::words::MemberName;
use edge_bootstrap::wire::assignment::Retired;

use crate::clock::Seconds;
use crate::contact::CONTACT;
use crate::store::nodes::{Node, NodeState};
use crate::store::retired::Retirement;
use crate::store::sites::Site;

/// Why `old` cannot be retired now; `since`: a report after that shows that it lives.
#[must_use]
pub fn objection(site: &Site, room: &[Node], old: &Node, since: Seconds) -> Option<String> {
    only_server(site, room, old).or_else(|| {
        let reported = old.reported.at.filter(|at| *at > since)?;
        let at = crate::clock::rfc3339(reported);
        Some(format!(
            "{} lives: it reported at {at}; --force when you know that it is off for good",
            old.name
        ))
    })
}

/// Why `new` does not come in the place of `old`: another key was given that place
/// after `new` had asked for it.
#[must_use]
pub fn given_meanwhile(old: &Node, new: &Node) -> Option<String> {
    let at = old.claimed_at.filter(|at| *at > new.up_since)?;
    Some(format!(
        "{} is another host by now: {} got that place at {}, after {} had asked for it; --force when that one \
         is off for good",
        old.name,
        old.id,
        crate::clock::rfc3339(at),
        new.id
    ))
}

/// From when on a report shows that a host is on, seen from `now`.
#[must_use]
pub fn lately(now: Seconds) -> Seconds {
    now - CONTACT
}

/// Nobody could take its member out, and its datastore is the only one: a server
/// that has not said that it is in the cluster may never have joined it.
#[must_use]
pub fn only_server(site: &Site, room: &[Node], old: &Node) -> Option<String> {
    let is_server = |node: &&Node| node.state == NodeState::Claimed && node.role == Some(Role::Server);
    let has_joined = |node: &&Node| node.id != old.id && node.reported.ca_hash.is_some();
    let is_alone = !room.iter().filter(is_server).any(|node| has_joined(&node));
    let is_last = site.ca_hash.is_some() && old.role == Some(Role::Server) && is_alone;
    is_last.then(|| {
        format!(
            "{} is the only server of {} that has joined its cluster: with it the cluster is lost; \
             `edge-central site reinit --confirm {}` begins a new one",
            old.name, site.name, site.name
        )
    })
}

/// What of `old` must leave the cluster; none when it never can have been in it.
#[must_use]
pub fn order(site: &Site, old: &Node, successor: Option<&Node>, now: Seconds) -> Option<Retirement> {
    let may_have_joined = site.ca_hash.is_some() && old.role.is_some_and(|role| role != Role::None);
    (may_have_joined && old.generation > 0).then(|| Retirement {
        node_id: old.id.clone(),
        site: site.name.clone(),
        name: old.name.clone(),
        ip: old.ip,
        is_server: old.role == Some(Role::Server),
        member: member(old).unwrap_or_default(),
        successor: successor.map(|node| node.id.clone()),
        ordered_at: now,
        confirmed_at: None,
    })
}

/// Its member, when what it reported is the name of one: nothing else may come
/// into the assignments of the others.
fn member(old: &Node) -> Option<String> {
    let reported = old.reported.etcd_member.as_ref()?;
    reported.parse::<MemberName>().ok().map(String::from)
}

/// Gives `new` the role of `old`, and its name where it has its address.
pub fn take_over(new: &mut Node, old: &Node) {
    if new.ip == old.ip {
        new.name.clone_from(&old.name);
    }
    (new.role, new.forced_role, new.role_order) = (old.role, old.forced_role, old.role_order);
    new.server_ok = old.server_ok;
}

/// Whether a node waits until another one has left: it comes in its place, or has
/// its name or address.
#[must_use]
pub fn is_held(open: &[Retirement], node: &Node) -> bool {
    open.iter().any(|leaver| {
        leaver.node_id != node.id
            && (leaver.successor.as_ref() == Some(&node.id)
                || leaver.name == node.name
                || leaver.ip == node.ip)
    })
}

/// Whether no server is made now: a dead member still counts in etcd's majority.
#[must_use]
pub fn keeps_servers(open: &[Retirement]) -> bool {
    open.iter().any(|leaver| leaver.is_server)
}

/// What the assignments of servers say.
#[must_use]
pub fn listed(open: &[Retirement]) -> Vec<Retired> {
    let leaver = |it: &Retirement| Retired {
        name: it.name.clone(),
        node_id: it.node_id.clone(),
        etcd_member: it.member.clone(),
    };
    open.iter().map(leaver).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::store::nodes::Reported;
    use crate::testing::{node, site};

    fn server(number: u8) -> Node {
        let reported = Reported { ca_hash: formed().ca_hash, ..Reported::default() };
        Node { role: Some(Role::Server), generation: 3, reported, ..node(number) }
    }

    fn formed() -> Site {
        Site { ca_hash: Some("a".repeat(64)), ..site() }
    }

    #[test]
    fn only_what_may_have_joined_leaves() {
        assert!(order(&formed(), &server(1), None, 5).is_some());
        assert!(order(&site(), &server(1), None, 5).is_none());
        assert!(order(&formed(), &Node { generation: 0, ..server(1) }, None, 5).is_none());
        for (said, told) in [("m-0000000a", "m-0000000a"), ("../m", "")] {
            let mut old = server(1);
            old.reported.etcd_member = Some(said.to_owned());
            assert_eq!(order(&formed(), &old, None, 5).unwrap().member, told);
        }
        for role in [None, Some(Role::None)] {
            assert!(order(&formed(), &Node { role, ..server(1) }, None, 5).is_none());
        }
    }

    #[test]
    fn the_only_server_and_one_that_lives_are_not_retired() {
        let (formed, room) = (formed(), [server(1), server(2)]);
        assert_eq!(objection(&formed, &room, &server(1), 100), None);
        let words = objection(&formed, &room[..1], &server(1), 100).unwrap();
        assert!(words.contains("site reinit"), "{words}");
        assert_eq!(objection(&formed, &room[..1], &Node { role: Some(Role::Agent), ..server(3) }, 100), None);
        let joins = Node { reported: Reported::default(), ..server(2) };
        assert!(
            objection(&formed, &[server(1), joins], &server(1), 100).is_some(),
            "it may never have joined"
        );
        let mut alive = server(1);
        alive.reported.at = Some(101);
        assert!(objection(&formed, &room, &alive, 100).unwrap().contains("--force"));
        assert_eq!(objection(&formed, &room, &alive, 101), None);
    }

    #[test]
    fn who_has_the_name_or_address_of_a_leaver_waits_for_it() {
        let open = [order(&formed(), &server(1), Some(&node(9)), 5).unwrap()];
        assert!(is_held(&open, &node(9)));
        assert!(is_held(&open, &Node { name: node(1).name, ..node(2) }));
        assert!(is_held(&open, &Node { ip: node(1).ip, ..node(2) }));
        assert!(!is_held(&open, &node(2)) && !is_held(&open, &server(1)) && !is_held(&[], &node(9)));
    }

    #[test]
    fn a_host_with_another_address_keeps_its_own_name() {
        let old = Node { role_order: 4, server_ok: true, name: "old".to_owned(), ..server(1) };
        let mut same = Node { ip: old.ip, ..node(7) };
        take_over(&mut same, &old);
        assert_eq!((same.name.as_str(), same.role, same.role_order), ("old", Some(Role::Server), 4));
        let mut moved = node(7);
        take_over(&mut moved, &old);
        assert_eq!((moved.name, moved.role), (node(7).name, Some(Role::Server)));
    }
}
