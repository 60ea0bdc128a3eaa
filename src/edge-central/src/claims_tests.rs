//! Who gets a place, who waits, who is refused.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use edge_bootstrap::wire::Secret;
use serde_json::json;

use super::*;
use crate::testing::{node, site};

const NOW: Seconds = 1000;

fn facts(machine: u8) -> serde_json::Value {
    json!({
        "identity": {"board": {"uuid": format!("uuid-{machine}")}},
        "network": {"interfaces": [{"permanent_mac": format!("52:54:00:00:00:{machine:02x}")}]},
    })
}

fn claim(number: u8, machine: u8, token: Option<&str>) -> Claim {
    let node = node(number);
    let facts = facts(machine);
    let request = serde_json::from_value(json!({
        "protocol": 1, "agent_version": "0.1.0", "site": "hz-017", "enrol_token": token, "boot_id": "b",
        "node": {"name": node.name, "ip": node.ip}, "facts": facts,
    }));
    Claim { id: node.id, request: request.unwrap(), hardware: Hardware::from_facts(&facts), now: NOW }
}

fn token() -> Token {
    Token {
        id: "t".to_owned(),
        site: "hz-017".to_owned(),
        uses: 1,
        used: 0,
        expires_at: NOW + 1,
        allow_server: false,
        revoked: false,
        created_at: 0,
    }
}

fn known(others: Vec<Node>) -> Known {
    Known { site: Some(site()), own: None, others, token: None, pending: 0, is_successor: false }
}

fn placed(number: u8, machine: u8) -> Node {
    Node { hardware: Hardware::from_facts(&facts(machine)), ..node(number) }
}

fn code(verdict: Result<Verdict, Refusal>) -> &'static str {
    verdict.unwrap_err().code.word()
}

#[test]
fn a_valid_token_gives_a_place() {
    let known = Known { token: Some(token()), ..known(vec![]) };
    assert_eq!(judge(&claim(1, 1, Some("x")), &known), Ok(Verdict::Claim(token())));
}

#[test]
fn a_token_that_is_not_valid_is_refused() {
    let spoilt = [
        Token { used: 1, ..token() },
        Token { expires_at: NOW, ..token() },
        Token { revoked: true, ..token() },
        Token { site: "other".to_owned(), ..token() },
    ];
    for token in spoilt.map(Some).into_iter().chain([None]) {
        let known = Known { token, ..known(vec![]) };
        assert_eq!(code(judge(&claim(1, 1, Some("x")), &known)), "token_invalid");
    }
}

#[test]
fn a_used_up_token_does_not_hurt_whom_it_brought_in() {
    let used = Token { used: 1, ..token() };
    let known = Known { own: Some(placed(1, 1)), token: Some(used), ..known(vec![]) };
    assert_eq!(judge(&claim(1, 1, Some("x")), &known), Ok(Verdict::Keep));
}

#[test]
fn without_a_token_a_person_decides_and_the_code_stays() {
    let known = known(vec![]);
    let verdict = judge(&claim(1, 1, None), &known).unwrap();
    assert_eq!(verdict, Verdict::Wait("approval", None));
    let mut waiting = new_node(&claim(1, 1, None));
    assert!(enter(&mut waiting, &claim(1, 1, None), &verdict).unwrap());
    let code = waiting.pending.clone().unwrap().code;
    assert!(!enter(&mut waiting, &claim(1, 1, None), &verdict).unwrap());
    assert_eq!(waiting.pending.unwrap().code, code);
}

#[test]
fn known_hardware_with_a_new_key_waits_even_with_a_token() {
    let known = Known { token: Some(token()), ..known(vec![placed(2, 1)]) };
    let expected = Verdict::Wait("replaces", Some(node(2).name));
    assert_eq!(judge(&claim(1, 1, Some("x")), &known), Ok(expected));
}

#[test]
fn a_taken_address_is_refused() {
    let other = Node { ip: node(1).ip, last_contact: NOW - CONTACT, ..placed(2, 2) };
    let taken = Known { token: Some(token()), ..known(vec![other.clone()]) };
    assert_eq!(code(judge(&claim(1, 1, Some("x")), &taken)), "address_taken");
    // Its holder is silent: a person may know that it is gone for good.
    let other = Node { last_contact: NOW - CONTACT - 1, ..other };
    let silent = Known { token: Some(token()), ..known(vec![other.clone()]) };
    let expected = Verdict::Wait("replaces", Some(other.name));
    assert_eq!(judge(&claim(1, 1, Some("x")), &silent), Ok(expected));
}

#[test]
fn a_key_in_another_machine_is_a_moved_disk() {
    let known = Known { own: Some(placed(1, 1)), ..known(vec![]) };
    assert_eq!(code(judge(&claim(1, 2, None), &known)), "moved_disk");
}

#[test]
fn unknown_sites_and_revoked_keys_are_refused() {
    let nowhere = Known { site: None, ..known(vec![]) };
    assert_eq!(code(judge(&claim(1, 1, None), &nowhere)), "site_unknown");
    let revoked = Node { state: NodeState::Revoked, ..placed(1, 1) };
    let known = Known { own: Some(revoked), token: Some(token()), ..known(vec![]) };
    assert_eq!(code(judge(&claim(1, 1, Some("x")), &known)), "denied");
}

#[test]
fn waiting_hosts_cannot_fill_the_database() {
    let full = Known { pending: MOST_PENDING, ..known(vec![]) };
    assert_eq!(code(judge(&claim(1, 1, None), &full)), "too_many_pending");
    let waiting = Node { state: NodeState::Pending, ..node(1) };
    let known = Known { own: Some(waiting), pending: MOST_PENDING, ..known(vec![]) };
    assert!(judge(&claim(1, 1, None), &known).is_ok());
}

#[test]
fn the_enrolment_token_is_not_shown() {
    let mut claim = claim(1, 1, None);
    claim.request.enrol_token = Some(Secret::new("canary"));
    assert!(!format!("{claim:?}").contains("canary"));
}
