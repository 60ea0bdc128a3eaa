//! The writer's turn, with the cluster as k3s's deploy controller leaves it.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::role::parse_payload;

/// An assignment of `me` in a room of three servers and an agent.
fn assignment(me: &str, issued: &str, manifests: &[(&str, &str)]) -> Assignment {
    let text = include_str!("../../tests/plan/01-first-server/assignment.json");
    let mut payload: Value = serde_json::from_str(text).unwrap();
    payload["node"]["name"] = json!(me);
    payload["issued_at"] = json!(format!("2026-11-21T{issued}:00Z"));
    let host = |(name, role): (&str, &str)| json!({"name": name, "ip": "172.16.36.9", "role": role, "node_id": "bcdefghijklmnopqrstuvwxy2a"});
    let others = [("a", "server"), ("b", "server"), ("c", "server"), ("0", "agent")];
    payload["room"] = others.into_iter().filter(|(name, _)| *name != me).map(host).collect();
    payload["manifests"] =
        manifests.iter().map(|(name, content)| json!({"name": name, "content": content})).collect();
    parse_payload(payload.to_string().as_bytes()).unwrap()
}

fn files(assignment: &Assignment) -> Vec<PlannedFile> {
    planned(assignment.duty.as_ref().unwrap())
}

fn ready(names: &[&str]) -> Seen {
    Seen { ready: names.iter().map(|name| (*name).to_owned()).collect(), ..Seen::default() }
}

/// The cluster and the disk of one server, changed by its acts; `takes`: k3s
/// applies what lies there.
fn carry_out(seen: &mut Seen, acts: &[Act], issued: u64, takes: bool) {
    for act in acts {
        match act {
            Act::Claim { addon, is_new: true } => {
                seen.addons.push(SeenAddon {
                    name: addon.clone(),
                    issued_at: Some(issued),
                    ..SeenAddon::default()
                });
            }
            Act::Claim { addon, is_new: false } => {
                seen.addons.iter_mut().find(|it| it.name == *addon).unwrap().issued_at = Some(issued);
            }
            Act::Write(file) => drop(seen.files.insert(file_name(file).to_owned(), file.sha256())),
            Act::Remove(path) => drop(seen.files.remove(path.rsplit('/').next().unwrap())),
            Act::Clear(addon) => seen.addons.retain(|it| it.name != *addon),
        }
    }
    if takes {
        for (name, digest) in &seen.files {
            let addon = seen.addons.iter_mut().find(|it| format!("{}.yaml", it.name) == *name);
            addon.unwrap().checksum.clone_from(digest);
        }
    }
}

/// Turns until nothing is to be done; how many that took.
fn settle(assignment: &Assignment, seen: &mut Seen) -> usize {
    for turns in 0..9 {
        let turn = turn(assignment, &files(assignment), seen);
        if turn.acts.is_empty() && turn.waits.is_empty() {
            return turns;
        }
        carry_out(seen, &turn.acts, assignment.issued_at.unwrap(), true);
    }
    unreachable!("it never ends: {seen:?}")
}

#[test]
fn only_the_ready_server_of_the_lowest_name_writes() {
    let own = assignment("b", "10:00", &[("eb-base.yaml", "kind: X")]);
    let writer = |names: &[&str]| turn(&own, &files(&own), &ready(names)).writer;
    assert_eq!(
        writer(&["0", "a", "b", "c"]).as_deref(),
        Some("a"),
        "an agent never is, whatever its Node says"
    );
    assert_eq!(writer(&["b", "c"]).as_deref(), Some("b"));
    assert_eq!(writer(&["0"]), None);
    assert!(turn(&own, &files(&own), &ready(&["a", "b"])).acts.is_empty());
    let acts = turn(&own, &files(&own), &ready(&["b", "c"])).acts;
    assert!(matches!(&acts[..], [Act::Claim { is_new: true, .. }, Act::Write(_)]), "{acts:?}");
}

#[test]
fn without_a_list_of_the_room_one_server_writes_all_the_same() {
    let alone =
        |me: &str| Assignment { room: Vec::new(), ..assignment(me, "10:00", &[("eb-base.yaml", "kind: X")]) };
    let writes = |me: &str| !turn(&alone(me), &files(&alone(me)), &ready(&["a", "b"])).acts.is_empty();
    assert!(writes("a") && !writes("b"));
}

#[test]
fn a_former_writer_takes_its_files_away_and_removes_no_object() {
    let own = assignment("b", "10:00", &[("eb-base.yaml", "kind: X")]);
    let mut seen = ready(&["b"]);
    settle(&own, &mut seen);
    let before = seen.addons.clone();
    seen.ready.insert("a".to_owned());
    let turn = turn(&own, &files(&own), &seen);
    assert_eq!(turn.acts, [Act::Remove(path("eb-base.yaml"))]);
    carry_out(&mut seen, &turn.acts, 0, true);
    assert_eq!((seen.addons, seen.files.len()), (before, 0));
}

#[test]
fn nothing_is_done_twice_and_nothing_while_no_server_is_ready() {
    let own = assignment("a", "10:00", &[("eb-base.yaml", "kind: X"), ("eb-more.yaml", "kind: Y")]);
    let mut seen = ready(&["a"]);
    assert_eq!(settle(&own, &mut seen), 1);
    assert_eq!(settle(&own, &mut seen), 0);
    seen.ready.clear();
    assert_eq!(turn(&own, &[], &seen), Turn::default());
}

#[test]
fn what_the_assignment_drops_is_emptied_first_and_its_addon_goes_last() {
    let mut seen = ready(&["a"]);
    settle(&assignment("a", "10:00", &[("eb-base.yaml", "kind: X"), ("eb-more.yaml", "kind: Y")]), &mut seen);
    let own = assignment("a", "11:00", &[("eb-base.yaml", "kind: X")]);
    let first = turn(&own, &files(&own), &seen);
    assert_eq!(first.waits, ["eb-more"]);
    assert!(!first.acts.iter().any(|act| matches!(act, Act::Clear(_) | Act::Remove(_))), "{:?}", first.acts);
    carry_out(&mut seen, &first.acts, own.issued_at.unwrap(), true);
    let then = turn(&own, &files(&own), &seen).acts;
    assert_eq!(then, [Act::Remove(path("eb-more.yaml")), Act::Clear("eb-more".to_owned())]);
    // A cut between the two: the Addon alone is enough to go on.
    carry_out(&mut seen, &then[..1], 0, false);
    assert_eq!(turn(&own, &files(&own), &seen).acts, [Act::Clear("eb-more".to_owned())]);
    settle(&own, &mut seen);
    assert_eq!(seen.addons.len(), 1);
}

#[test]
fn an_older_assignment_takes_nothing_away_and_changes_nothing() {
    let mut seen = ready(&["b", "c"]);
    settle(
        &assignment("b", "12:00", &[("eb-base.yaml", "kind: New"), ("eb-more.yaml", "kind: Y")]),
        &mut seen,
    );
    // `a` was away and comes back with what it knew; its disk is its own.
    let own = assignment("a", "11:00", &[("eb-base.yaml", "kind: Old")]);
    seen.ready.insert("a".to_owned());
    seen.files = BTreeMap::from([("eb-base.yaml".to_owned(), files(&own)[0].sha256())]);
    let turn = turn(&own, &files(&own), &seen);
    assert_eq!(turn.acts, [Act::Remove(path("eb-base.yaml"))]);
    assert_eq!(turn.newer, ["eb-base", "eb-more"]);
    assert_eq!(turn.newest, own.issued_at.unwrap() + 3600);
}

#[test]
fn an_addon_of_a_person_stays() {
    let own = assignment("a", "10:00", &[]);
    let mut seen = ready(&["a"]);
    seen.addons = vec![SeenAddon { name: "eb-mine".to_owned(), ..SeenAddon::default() }];
    assert!(turn(&own, &[], &seen).acts.is_empty());
    assert!(!is_ours("eb-mine.yaml", b"kind: X") && !is_ours("traefik.yaml", OWNER.as_bytes()));
    assert!(is_ours("eb-mine.yaml", &file("eb-mine.yaml", "x", "").bytes));
}

#[test]
fn what_k3s_does_not_take_is_written_again() {
    let own = assignment("a", "10:00", &[("eb-base.yaml", "kind: X")]);
    let mut seen = ready(&["a"]);
    let first = turn(&own, &files(&own), &seen);
    carry_out(&mut seen, &first.acts, own.issued_at.unwrap(), false);
    assert!(turn(&own, &files(&own), &seen).acts.is_empty());
    seen.is_overdue = true;
    let again = turn(&own, &files(&own), &seen).acts;
    assert!(matches!(&again[..], [Act::Remove(_), Act::Write(_)]), "{again:?}");
}

#[test]
fn an_agent_writes_nothing() {
    let text = include_str!("../../tests/plan/07-agent/assignment.json");
    let mut payload: Value = serde_json::from_str(text).unwrap();
    payload["manifests"] = json!([{"name": "eb-base.yaml", "content": "kind: X"}]);
    let own = parse_payload(payload.to_string().as_bytes()).unwrap();
    assert!(files(&own).is_empty());
    assert_eq!(turn(&own, &[], &ready(&["172-16-36-1"])), Turn::default());
}

const NAMES: [&str; 3] = ["a", "b", "c"];
/// What the site has named, one after the other.
const SETS: [&[(&str, &str)]; 4] = [
    &[("eb-x.yaml", "1")],
    &[("eb-x.yaml", "2"), ("eb-y.yaml", "1")],
    &[("eb-y.yaml", "1")],
    &[("eb-x.yaml", "1"), ("eb-y.yaml", "2")],
];
/// Of each server, in that order.
static ASSIGNMENTS: LazyLock<Vec<Vec<Assignment>>> = LazyLock::new(|| {
    let of = |name| move |(at, set): (usize, &&[(&str, &str)])| assignment(name, &format!("1{at}:00"), set);
    NAMES.map(|name| SETS.iter().enumerate().map(of(name)).collect()).into()
});

proptest! {
    /// Servers come and go, assignments reach them in any order, cuts fall
    /// anywhere: what the newest assignment that was followed names is never
    /// cleared.
    #[test]
    fn nothing_that_is_still_assigned_is_cleared(
        steps in proptest::collection::vec((0..3_usize, 0..4_usize, any::<bool>(), 0..4_usize), 1..40),
    ) {
        let mut disks: [BTreeMap<String, String>; 3] = Default::default();
        let mut knows = [0_usize; 3];
        let mut addons = Vec::new();
        let mut newest = 0;
        for (host, news, takes, cut) in steps {
            knows[host] = knows[host].max(news);
            let own = &ASSIGNMENTS[host][knows[host]];
            let mut seen = Seen { addons, files: disks[host].clone(), ..ready(&[NAMES[host]]) };
            let turn = turn(own, &files(own), &seen);
            let done = turn.acts.len().saturating_sub(cut);
            newest = if turn.newer.is_empty() && done > 0 { newest.max(knows[host]) } else { newest };
            for act in &turn.acts[..done] {
                if let Act::Clear(name) = act {
                    let named = SETS[newest].iter().any(|(file, _)| *file == format!("{name}.yaml"));
                    prop_assert!(!named || knows[host] >= newest, "{name} is cleared");
                }
            }
            carry_out(&mut seen, &turn.acts[..done], own.issued_at.unwrap(), takes && done == turn.acts.len());
            (addons, disks[host]) = (seen.addons, seen.files);
        }
    }
}
