//! What a report may change: laws of the init lease and of the CA hash.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use serde_json::json;

use super::*;
use crate::testing::{node, site};

fn report(ca_hash: Option<char>, init_started: Option<u64>) -> Report {
    let hash = ca_hash.map(|digit| digit.to_string().repeat(64));
    let report = json!({
        "sequence": 1, "boot_id": "b", "generation": 3, "epoch": 1, "phase": "steady", "verdict": "healthy",
        "cluster": {"ca_hash": hash, "etcd_member": null, "init_started": init_started, "snapshots": []},
        "facts_digest": "",
    });
    serde_json::from_value(report).unwrap()
}

fn hash(digit: char) -> String {
    digit.to_string().repeat(64)
}

fn leased() -> Site {
    Site { lease: Some(node(1).id), ..site() }
}

fn server(number: u8) -> Node {
    Node { role: Some(Role::Server), generation: 3, ..node(number) }
}

fn effects(site: &Site, node: &Node, report: &Report) -> Vec<Effect> {
    judge(site, node, report, &Issued::Unchanged)
}

#[test]
fn the_holder_of_the_lease_sets_the_ca_hash() {
    assert_eq!(effects(&leased(), &server(1), &report(Some('a'), Some(1))), [Effect::CaHash(hash('a'))]);
}

#[test]
fn nobody_else_sets_the_ca_hash() {
    let expected = [Effect::CaMismatch(hash('a'))];
    assert_eq!(effects(&leased(), &server(2), &report(Some('a'), None)), expected);
    assert_eq!(effects(&site(), &server(2), &report(Some('a'), None)), expected);
}

#[test]
fn another_ca_hash_never_replaces_the_first() {
    let joined = Site { ca_hash: Some(hash('a')), ..leased() };
    assert_eq!(effects(&joined, &server(1), &report(Some('b'), Some(1))), [Effect::CaMismatch(hash('b'))]);
    assert_eq!(effects(&joined, &server(2), &report(Some('a'), None)), []);
}

#[test]
fn another_epoch_says_nothing_about_this_one() {
    let again = Site { epoch: 2, ..leased() };
    assert_eq!(effects(&again, &server(1), &report(Some('a'), Some(1))), []);
}

#[test]
fn what_is_no_hash_is_not_taken() {
    let mut report = report(None, None);
    report.cluster.ca_hash = Some("../x".to_owned());
    assert_eq!(effects(&leased(), &server(1), &report), []);
}

#[test]
fn a_holder_that_never_started_gives_the_lease_back_once_it_is_no_server() {
    let off = Node { role: Some(Role::None), ..server(1) };
    assert_eq!(effects(&leased(), &server(1), &report(None, None)), []);
    assert_eq!(effects(&leased(), &off, &report(None, None)), [Effect::LeaseFree]);
}

#[test]
fn a_holder_that_started_or_may_still_start_keeps_the_lease() {
    let off = Node { role: Some(Role::None), ..server(1) };
    assert_eq!(effects(&leased(), &off, &report(None, Some(1))), []);
    let mut said_before = off.clone();
    said_before.reported.init_started = Some(1);
    assert_eq!(effects(&leased(), &said_before, &report(None, None)), []);
    for not_taken_over in [Issued::Newer(String::new()), Issued::Undecided] {
        assert_eq!(judge(&leased(), &off, &report(None, None), &not_taken_over), []);
    }
}

#[test]
fn a_holder_that_cannot_tell_whether_it_started_keeps_the_lease() {
    let off = Node { role: Some(Role::Agent), ..server(1) };
    let mut unsure = report(None, None);
    unsure.cluster.init_unknown = true;
    assert_eq!(effects(&leased(), &off, &unsure), []);
}

#[test]
fn a_lease_of_a_later_epoch_is_not_freed_by_what_was_started_before_it() {
    let off = Node { role: Some(Role::Agent), ..server(1) };
    let again = Site { epoch: 2, ..leased() };
    assert_eq!(effects(&again, &off, &report(None, Some(1))), [Effect::LeaseFree]);
    assert_eq!(effects(&again, &off, &report(None, Some(2))), []);
}

#[test]
fn what_a_host_said_once_about_its_start_stays() {
    let mut host = server(1);
    remember(&leased(), &mut host, &report(Some('a'), Some(1)));
    remember(&leased(), &mut host, &report(None, None));
    assert_eq!(host.reported.init_started, Some(1));
    assert_eq!(host.reported.ca_hash, Some(hash('a')));
}
