//! Every reason to leave a Node alone, and the way of one that may go.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::role::parse_payload;

const ID: &str = "bcdefghijklmnopqrstuvwxy2a";

fn leaver(name: &str, member: Option<&str>) -> Retired {
    let member = member.map(|member| member.parse().unwrap());
    Retired { name: name.parse().unwrap(), node_id: ID.parse().unwrap(), member }
}

/// A server that is up; its Node has identity `u-NAME`.
fn server(name: &str, last: u8) -> SeenNode {
    SeenNode {
        name: name.to_owned(),
        uid: format!("u-{name}"),
        is_ready: true,
        is_server: true,
        is_member: true,
        member: Some(format!("{name}-0000000{last}")),
        addresses: [format!("10.0.0.{last}")].into(),
        ..SeenNode::default()
    }
}

/// Three servers, of which `c` has lost its power; it was the one of `ID`.
fn room() -> Seen {
    let dead = SeenNode { is_ready: false, ..server("c", 3) };
    Seen {
        nodes: vec![server("a", 1), server("b", 2), dead],
        serving: ["a", "b"].map(str::to_owned).into(),
        secret: Some("s-c".to_owned()),
        is_overdue: false,
    }
}

fn next_for(record: Option<&Record>, seen: &Seen) -> Next {
    let leaver = leaver("c", Some("c-00000003"));
    next("a", (&leaver, std::slice::from_ref(&leaver)), record, seen)
}

fn code(next: &Next) -> &str {
    match next {
        Next::Wait(why) | Next::Refuse(why) => &why.code,
        Next::Done | Next::Act(_) => "",
    }
}

fn begun() -> Record {
    Record { node: Some("u-c".to_owned()), secret: Some("s-c".to_owned()), ..Record::default() }
}

fn node<'a>(seen: &'a mut Seen, name: &str) -> &'a mut SeenNode {
    seen.nodes.iter_mut().find(|node| node.name == name).unwrap()
}

#[test]
fn a_dead_server_is_noted_saved_taken_out_and_removed_in_this_order() {
    let mut seen = room();
    assert_eq!(next_for(None, &seen), Next::Act(Act::Note(begun())));
    assert_eq!(next_for(Some(&begun()), &seen), Next::Act(Act::Save));
    let saved = Record { saved: true, ..begun() };
    assert_eq!(next_for(Some(&saved), &seen), Next::Act(Act::TakeOut("u-c".to_owned())));
    node(&mut seen, "c").is_asked_out = true;
    assert_eq!(code(&next_for(Some(&saved), &seen)), "EB-retired-waits");
    let overdue = Seen { is_overdue: true, ..seen.clone() };
    assert_eq!(next_for(Some(&saved), &overdue), Next::Act(Act::RemoveNode("u-c".to_owned())));
    node(&mut seen, "c").taken_out = node(&mut seen, "c").member.take();
    assert_eq!(next_for(Some(&saved), &seen), Next::Act(Act::RemoveNode("u-c".to_owned())));
    node(&mut seen, "c").is_going = true;
    assert_eq!(code(&next_for(Some(&saved), &seen)), "EB-retired-waits");
    seen.nodes.retain(|node| node.name != "c");
    assert_eq!(next_for(Some(&saved), &seen), Next::Act(Act::RemoveSecret("s-c".to_owned())));
    seen.secret = None;
    let done = Record { done: true, ..saved.clone() };
    assert_eq!(next_for(Some(&saved), &seen), Next::Act(Act::Note(done.clone())));
    assert_eq!(next_for(Some(&done), &seen), Next::Done);
}

#[test]
fn an_agent_needs_no_snapshot_and_no_vote() {
    let mut seen = room();
    *node(&mut seen, "c") =
        SeenNode { is_member: false, is_server: false, member: None, ..node(&mut seen, "c").clone() };
    seen.serving.clear();
    let leaver = leaver("c", None);
    let next = next("a", (&leaver, std::slice::from_ref(&leaver)), Some(&begun()), &seen);
    assert_eq!(next, Next::Act(Act::RemoveNode("u-c".to_owned())));
}

#[test]
fn a_later_life_of_the_same_name_is_never_touched() {
    let mut seen = room();
    (node(&mut seen, "c").uid, seen.secret) = ("u-later".to_owned(), Some("s-later".to_owned()));
    let finished = Next::Act(Act::Note(Record { done: true, ..begun() }));
    assert_eq!(next_for(Some(&begun()), &seen), finished);
    let done = Record { done: true, ..begun() };
    assert_eq!(next_for(Some(&done), &seen), Next::Done);
    // A host that never registered: what comes later is not it.
    let nobody = Record { node: None, secret: None, ..begun() };
    assert!(matches!(next_for(Some(&nobody), &seen), Next::Act(Act::Note(Record { done: true, .. }))));
}

#[test]
fn another_member_than_the_retired_one_is_left_alone() {
    let mut seen = room();
    node(&mut seen, "c").member = Some("c-ffffffff".to_owned());
    assert_eq!(code(&next_for(None, &seen)), "EB-retired-other");
    assert_eq!(code(&next_for(Some(&begun()), &seen)), "EB-retired-other");
}

#[test]
fn no_member_goes_where_no_majority_would_be_left() {
    for (voters, healthy, goes) in
        [(3, 2, true), (3, 1, false), (5, 3, true), (5, 2, false), (2, 1, true), (4, 2, true), (1, 0, false)]
    {
        let mut seen = Seen::default();
        for number in 1..=voters {
            seen.nodes.push(server(&format!("n{number}"), number));
        }
        seen.nodes.last_mut().unwrap().is_ready = false;
        seen.serving = (1..=healthy).map(|number| format!("n{number}")).collect();
        let leaver = leaver(&format!("n{voters}"), None);
        let next = next("n0", (&leaver, std::slice::from_ref(&leaver)), None, &seen);
        assert_eq!(code(&next) != "EB-retired-quorum", goes, "{healthy} of {voters}: {next:?}");
    }
}

#[test]
fn of_two_that_are_retired_none_protects_the_other() {
    let mut seen = room();
    let ghost =
        SeenNode { name: "c-old".to_owned(), uid: "u-old".to_owned(), ..node(&mut seen, "c").clone() };
    seen.nodes.push(ghost);
    assert_eq!(code(&next_for(None, &seen)), "EB-retired-shared");
    let both = [leaver("c", Some("c-00000003")), leaver("c-old", None)];
    assert!(matches!(next("a", (&both[0], &both), None, &seen), Next::Act(Act::Note(_))));
    node(&mut seen, "c-old").is_ready = true;
    assert_eq!(code(&next("a", (&both[0], &both), None, &seen)), "EB-retired-shared");
}

#[test]
fn the_ready_server_of_the_lowest_name_carries_it_out() {
    let text = include_str!("../../tests/plan/01-first-server/assignment.json");
    let mut payload: Value = serde_json::from_str(text).unwrap();
    payload["node"]["name"] = json!("b");
    let host =
        |name: &str, role: &str| json!({"name": name, "ip": "172.16.36.9", "role": role, "node_id": ID});
    payload["room"] = json!([host("0", "agent"), host("a", "server"), host("c", "server")]);
    let own = parse_payload(payload.to_string().as_bytes()).unwrap();
    let mut nodes = room().nodes;
    nodes.push(SeenNode { is_server: false, ..server("0", 9) });
    assert!(!is_mine(&own, &nodes));
    nodes[0].is_ready = false;
    assert!(is_mine(&own, &nodes));
    // One that shall become an agent, and waits for just this, is still a server.
    nodes.last_mut().unwrap().is_server = true;
    assert!(is_mine(&own, &nodes));
    nodes[1].is_ready = false;
    assert!(!is_mine(&own, &nodes));
}

#[test]
fn what_an_assignment_says_of_leavers_is_checked() {
    let text = include_str!("../../tests/plan/01-first-server/assignment.json");
    let mut payload: Value = serde_json::from_str(text).unwrap();
    let mut parse = |name: &str, member: &str| {
        payload["cluster"]["retired"] = json!([{"name": name, "node_id": ID, "etcd_member": member}]);
        parse_payload(payload.to_string().as_bytes()).map(|it| it.duty.unwrap().cluster.retired)
    };
    assert_eq!(parse("c", "").unwrap(), [leaver("c", None)]);
    assert_eq!(parse("c", "c-00000003").unwrap(), [leaver("c", Some("c-00000003"))]);
    for (name, member) in
        [("../c", ""), ("c", "c-0000000g"), ("c", "c"), ("c", "-00000003"), ("c", "a b-00000003")]
    {
        assert!(parse(name, member).is_err(), "{name} {member}");
    }
}

/// One of the ways in which another Node may be tied to the leaver's.
fn tie(other: &mut SeenNode, of: &SeenNode, ties: [bool; 2]) {
    if ties[0] {
        other.member.clone_from(&of.member);
    }
    if ties[1] {
        other.addresses.extend(of.addresses.iter().cloned());
    }
}

/// Where the Node of the leaver stands: member or not, its annotations or none.
fn cases() -> impl Strategy<Value = (SeenNode, Record)> {
    let flags = proptest::array::uniform8(any::<bool>());
    flags.prop_map(|[is_member, has_name, has_address, is_asked_out, is_out, is_going, saved, is_ready]| {
        let mut node = SeenNode { is_member, is_asked_out, is_going, is_ready, ..server("c", 3) };
        if !has_name || is_out {
            node.member = None;
        }
        if !has_address {
            node.addresses.clear();
        }
        node.taken_out = is_out.then(|| "c-00000003".to_owned());
        (node, Record { saved, ..begun() })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Invariant 7, whatever else is so: own or live ones, and those that share a
    /// member or an address with a Node behind which somebody may live, stay.
    #[test]
    fn a_node_that_shares_member_or_address_with_a_live_one_stays(
        (target, record) in cases(),
        ties in proptest::array::uniform2(any::<bool>()),
        other_ready in any::<bool>(),
        other_serves in any::<bool>(),
        other_retired in any::<bool>(),
        is_begun in any::<bool>(),
        is_overdue in any::<bool>(),
        own in prop::sample::select(vec!["a", "c"]),
        target_serves in any::<bool>(),
    ) {
        let mut other = SeenNode { is_ready: other_ready, ..server("z", 7) };
        tie(&mut other, &target, ties);
        let mut seen = Seen { is_overdue, ..room() };
        seen.nodes.retain(|node| node.name != "c");
        let is_tied = shares(&target, &other);
        let may_live = other_ready || other_serves || !other_retired;
        let is_live = own == "c" || target.is_ready || target_serves;
        seen.nodes.extend([target, other]);
        seen.serving.extend(other_serves.then(|| "z".to_owned()));
        seen.serving.extend(target_serves.then(|| "c".to_owned()));
        let mut all = vec![leaver("c", Some("c-00000003"))];
        all.extend(other_retired.then(|| leaver("z", None)));
        let next = next(own, (&all[0], &all), is_begun.then_some(&record), &seen);
        let acts = matches!(next, Next::Act(_));
        prop_assert!(!(acts && is_live), "live: {next:?}");
        prop_assert!(!(acts && is_tied && may_live), "tied: {next:?}");
        if !is_live && is_tied && may_live {
            prop_assert_eq!(code(&next), "EB-retired-shared");
        }
        let may_begin = !(is_live || is_tied && may_live);
        if may_begin && !is_begun {
            // Nothing is done before it is noted.
            prop_assert!(matches!(next, Next::Act(Act::Note(_))) || code(&next) == "EB-retired-quorum");
        }
    }
}
