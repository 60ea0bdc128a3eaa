//! Laws of the role policy and of the init lease.

use super::*;
use crate::testing::{node, site};

const RULES: Rules = Rules { now: 1000, steady: 100, contact: 180 };
const CA: &str = "aa";

/// Up for `up` seconds, allowed to be a server, no role yet.
fn host(number: u8, up: Seconds) -> Node {
    Node { server_ok: true, up_since: RULES.now - up, last_contact: RULES.now, ..node(number) }
}

fn with_role(number: u8, role: Role) -> Node {
    Node { role: Some(role), role_order: i64::from(number), ..host(number, 500) }
}

fn joined() -> Site {
    Site { ca_hash: Some(CA.to_owned()), lease: Some(node(1).id), ..site() }
}

fn roles(decisions: &[Decision]) -> Vec<(String, Role)> {
    let role = |decision: &Decision| match decision {
        Decision::Role(id, role) => Some((id.clone(), *role)),
        Decision::Lease(_) => None,
    };
    decisions.iter().filter_map(role).collect()
}

#[test]
fn the_first_host_is_server_with_the_lease_at_once() {
    let decisions = decide(&site(), &[host(1, 0), host(2, 0)], RULES);
    assert_eq!(decisions, [Decision::Role(node(1).id, Role::Server), Decision::Lease(node(1).id)]);
}

#[test]
fn others_wait_until_the_first_is_up() {
    let nodes = [with_role(1, Role::Server), host(2, 500), host(3, 500)];
    let leased = Site { lease: Some(node(1).id), ..site() };
    assert_eq!(decide(&leased, &nodes, RULES), []);
}

#[test]
fn second_and_third_become_servers_together() {
    let nodes = [with_role(1, Role::Server), host(2, 500), host(3, 99)];
    assert_eq!(decide(&joined(), &nodes, RULES), []);
    let nodes = [with_role(1, Role::Server), host(2, 500), host(3, 100)];
    let expected = [(node(2).id, Role::Server), (node(3).id, Role::Server)];
    assert_eq!(roles(&decide(&joined(), &nodes, RULES)), expected);
}

#[test]
fn a_second_host_that_stays_alone_is_agent_once_steady() {
    assert_eq!(decide(&joined(), &[with_role(1, Role::Server), host(2, 99)], RULES), []);
    let decisions = decide(&joined(), &[with_role(1, Role::Server), host(2, 100)], RULES);
    assert_eq!(roles(&decisions), [(node(2).id, Role::Agent)]);
}

#[test]
fn a_third_host_makes_the_agent_a_server_too() {
    let nodes = [with_role(1, Role::Server), with_role(2, Role::Agent), host(3, 100)];
    let expected = [(node(2).id, Role::Server), (node(3).id, Role::Server)];
    assert_eq!(roles(&decide(&joined(), &nodes, RULES)), expected);
}

#[test]
fn a_fourth_host_is_agent_at_once() {
    let nodes = [1, 2, 3].map(|number| with_role(number, Role::Server));
    let nodes: Vec<Node> = nodes.into_iter().chain([host(4, 0)]).collect();
    assert_eq!(roles(&decide(&joined(), &nodes, RULES)), [(node(4).id, Role::Agent)]);
}

#[test]
fn twenty_hosts_make_five_servers() {
    let first = with_role(1, Role::Server);
    let nodes: Vec<Node> = std::iter::once(first).chain((2..=20).map(|number| host(number, 500))).collect();
    let roles = roles(&decide(&joined(), &nodes, RULES));
    assert_eq!(roles.iter().filter(|(_, role)| *role == Role::Server).count(), 4);
    assert_eq!(roles.iter().filter(|(_, role)| *role == Role::Agent).count(), 15);
}

#[test]
fn a_token_alone_gives_agent() {
    let plain = Node { server_ok: false, ..host(1, 0) };
    assert_eq!(decide(&site(), &[plain], RULES), [Decision::Role(node(1).id, Role::Agent)]);
}

#[test]
fn servers_are_never_taken_away() {
    let nodes = [1, 2, 3].map(|number| with_role(number, Role::Server));
    let gone = nodes.clone().map(|node| Node { last_contact: 0, up_since: 0, ..node });
    assert_eq!(decide(&joined(), &nodes[..1], RULES), []);
    assert_eq!(decide(&joined(), &gone, RULES), []);
}

#[test]
fn a_persons_word_wins() {
    let forced = Node { forced_role: Some(Role::Server), server_ok: false, ..host(2, 0) };
    let nodes = [with_role(1, Role::Server), forced];
    assert_eq!(roles(&decide(&joined(), &nodes, RULES)), [(node(2).id, Role::Server)]);
}

#[test]
fn a_held_lease_is_given_to_nobody_else() {
    let leased = Site { lease: Some(node(1).id), ..site() };
    let dead = Node { last_contact: 0, up_since: 0, ..with_role(1, Role::Server) };
    let off = Node { role: Some(Role::None), forced_role: Some(Role::None), ..host(1, 500) };
    assert_eq!(decide(&leased, &[dead, host(2, 500)], RULES), []);
    assert_eq!(decide(&leased, &[off, host(2, 500)], RULES), []);
}

#[test]
fn neither_a_role_by_force_nor_time_moves_a_held_lease() {
    let leased = Site { lease: Some(node(1).id), ..site() };
    let agent = Node { forced_role: Some(Role::Agent), ..with_role(1, Role::Agent) };
    let forced = Node { forced_role: Some(Role::Server), ..with_role(2, Role::Server) };
    let late = Rules { now: i64::MAX / 2, ..RULES };
    for rules in [RULES, late] {
        let decisions = decide(&leased, &[agent.clone(), forced.clone()], rules);
        assert!(!decisions.iter().any(|decision| matches!(decision, Decision::Lease(_))), "{decisions:?}");
    }
    let revoked = Node { state: NodeState::Revoked, ..with_role(1, Role::Server) };
    let decisions = decide(&leased, &[revoked, forced], RULES);
    assert_eq!(decisions, [], "a holder whose place was taken away may still run");
}

#[test]
fn no_lease_where_a_host_has_seen_a_cluster() {
    let mut seen = host(1, 500);
    seen.reported.ca_hash = Some(CA.to_owned());
    assert_eq!(decide(&site(), &[seen, host(2, 500)], RULES), []);
}

#[test]
fn after_a_reinit_the_first_live_server_gets_the_lease() {
    let dead = Node { last_contact: 0, up_since: 0, ..with_role(1, Role::Server) };
    let nodes = [dead, with_role(2, Role::Server), with_role(3, Role::Server)];
    assert_eq!(decide(&site(), &nodes, RULES), [Decision::Lease(node(2).id)]);
}
