//! No sequence of events leads to a start of k3s as another node or in another
//! cluster than the pinned one, nor to a refusal that `status` cannot explain.
//!
//! Real: passes of the program on a root of files, its gate, its status. Modelled:
//! k3s, by the stand-in's table of decisions and a reading of its files that shares
//! no code with the program; the central service; the kernel's name and addresses,
//! which are fixtures.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stdout,
    missing_docs,
    dead_code,
    reason = "a test may stop at the first surprise, and works on its own files"
)]

#[path = "identity_model/central.rs"]
mod central;
#[path = "standin-k3s/src/decide.rs"]
mod decide;
#[path = "identity_model/k3s.rs"]
mod k3s;
#[path = "common/central.rs"]
mod service;
#[path = "common/tree.rs"]
mod tree;
#[path = "identity_model/world.rs"]
mod world;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use world::{Begin, Event, Step, Wan, Word, World};

fn drop_in() -> impl Strategy<Value = Event> {
    prop::sample::select(vec![
        "node-name: other",
        "node-ip: 172.16.36.9",
        "with-node-id: true",
        "server: https://172.16.36.66:6443",
        "server: https://172.16.36.2:6443",
        "token: another-rooms-token",
        "token-file: /etc/empty",
        "cluster-init: true",
        "cluster-reset: true",
        "datastore-endpoint: mysql://x",
        "data-dir: /data/k3s",
        "debug: true",
        "broken: [",
    ])
    .prop_map(Event::DropIn)
}

fn word() -> impl Strategy<Value = Event> {
    prop::sample::select(vec![Word::Formed, Word::Joined, Word::Alone, Word::InitHere, Word::InitElsewhere])
        .prop_map(Event::Central)
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => any::<bool>().prop_map(|is_static| Event::Rename { is_static }),
        2 => prop::sample::select(vec!["172.16.36.9", "10.0.0.7", "172.16.36.2"]).prop_map(Event::Address),
        2 => any::<bool>().prop_map(|is_other| Event::Machine { is_other }),
        3 => Just(Event::Cut),
        4 => (0..6_usize, 0..8_usize).prop_map(|(file, age)| Event::Restore { file, age }),
        3 => (0..6_usize, prop_oneof![Just(0), any::<u8>()]).prop_map(|(file, keeps)| Event::Damage { file, keeps }),
        1 => Just(Event::Token),
        1 => prop::sample::select(vec!["server", "agent", "none"]).prop_map(Event::Role),
        3 => word(),
        1 => prop::sample::select(vec![0, 1_700_000_000, 1_800_000_000, 4_000_000_000]).prop_map(Event::Clock),
        3 => Just(Event::DatastoreLost),
        2 => Just(Event::Tombstone),
        2 => any::<(bool, bool)>().prop_map(|(name, ca)| Event::Foreign { name, ca }),
        3 => drop_in(),
        1 => Just(Event::NoDropIns),
        2 => any::<bool>().prop_map(|lives| Event::Daemon { lives }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let wan = prop::sample::select(vec![Some(Wan::Up), Some(Wan::Up), Some(Wan::Down), None]);
    (event(), wan, prop::bool::weighted(0.7)).prop_map(|(event, pass, ready)| Step { event, pass, ready })
}

/// How a host begins, how far it comes before anything happens, and what happens.
fn case() -> impl Strategy<Value = (Begin, usize, Vec<Step>)> {
    let begin = prop::sample::select(vec![Begin::Holder, Begin::Server, Begin::Server, Begin::Agent]);
    let days = prop::sample::select(vec![0, 1, 2, 2, 2, 2]);
    (begin, days, prop::collection::vec(step(), 1..=8))
}

fn codes() -> BTreeSet<String> {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/codes.md");
    let text = std::fs::read_to_string(document).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `EB-")?.split('`').next());
    rows.map(|code| format!("EB-{code}")).collect()
}

/// Quiet days: pinned and started; then seen to be up.
const QUIET: [Step; 2] = [
    Step { event: Event::NoDropIns, pass: Some(Wan::Up), ready: false },
    Step { event: Event::NoDropIns, pass: Some(Wan::Up), ready: true },
];

fn play(world: &mut World, days: usize, steps: &[Step]) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (number, step) in QUIET.iter().take(days).chain(steps).enumerate() {
        runtime.block_on(world.step(step)).map_err(|why| format!("step {number}, {step:?}: {why}"))?;
    }
    Ok(())
}

/// `EDGE_MODEL=5000` plays more cases than the quick run does.
fn cases() -> u32 {
    std::env::var("EDGE_MODEL").ok().and_then(|cases| cases.parse().ok()).unwrap_or(256)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_events_starts_k3s_as_another_or_is_left_unexplained((begin, days, steps) in case()) {
        let mut world = World::new(begin, &codes());
        let played = play(&mut world, days, &steps);
        prop_assert!(played.is_ok(), "{}", played.unwrap_err());
    }
}

/// The law is empty if the gate lets nothing start, or refuses nothing.
#[test]
fn the_cases_start_k3s_often_and_are_refused_for_many_reasons() {
    let mut runner = TestRunner::deterministic();
    let (mut starts, mut refusals) = (0, BTreeMap::<String, u32>::new());
    for _ in 0..120 {
        let (begin, days, steps) = case().new_tree(&mut runner).unwrap().current();
        let mut world = World::new(begin, &codes());
        play(&mut world, days, &steps).unwrap();
        starts += world.tally.starts;
        for (code, count) in &world.tally.refusals {
            *refusals.entry(code.clone()).or_default() += count;
        }
    }
    println!("{starts} starts, refusals {refusals:?}");
    assert!(starts > 100, "only {starts} starts");
    assert!(refusals.len() >= 8, "only {refusals:?}");
}

/// A check that keeps the law, by the codes that must be let pass to take it
/// away, and a short way to what it prevents.
type Guard = (&'static [&'static str], Begin, usize, &'static [Event]);

const GUARDS: &[Guard] = &[
    (&["EB-hostname"], Begin::Server, 2, &[Event::Rename { is_static: false }]),
    (&["EB-ip-absent"], Begin::Agent, 2, &[Event::Address("10.0.0.7")]),
    (&["EB-copied-disk"], Begin::Server, 2, &[Event::Machine { is_other: true }]),
    (&["EB-unit-role"], Begin::Agent, 2, &[Event::NoDropIns]),
    (&["EB-override"], Begin::Server, 2, &[Event::DropIn("cluster-reset: true")]),
    (&["EB-config-identity", "EB-override"], Begin::Agent, 2, &[Event::DropIn("node-name: other")]),
    (
        &["EB-config-empty", "EB-token-missing", "EB-config-identity"],
        Begin::Server,
        2,
        &[Event::Damage { file: 0, keeps: 0 }],
    ),
    (
        &["EB-token-empty", "EB-datastore-missing"],
        Begin::Server,
        2,
        &[Event::Damage { file: 4, keeps: 0 }, Event::DatastoreLost],
    ),
    (&["EB-datastore-missing"], Begin::Holder, 2, &[Event::DatastoreLost]),
    (&["EB-datastore-name"], Begin::Server, 2, &[Event::Foreign { name: true, ca: false }]),
    (&["EB-datastore-ca"], Begin::Server, 2, &[Event::Foreign { name: false, ca: true }]),
    (&["EB-tombstone"], Begin::Server, 2, &[Event::Tombstone]),
    (&["EB-wait-init-lease"], Begin::Holder, 1, &[Event::Cut, Event::DatastoreLost]),
];

/// Each guard refuses with its code, and without it the law is broken: so the
/// law can be broken, and by each of these ways.
#[test]
fn without_one_of_its_guards_the_law_is_broken() {
    for (codes_of_guard, begin, days, events) in GUARDS {
        let steps: Vec<Step> =
            events.iter().map(|event| Step { event: event.clone(), pass: None, ready: false }).collect();
        let mut guarded = World::new(*begin, &codes());
        play(&mut guarded, *days, &steps).unwrap();
        let (code, refusals) = (codes_of_guard[0], &guarded.tally.refusals);
        assert!(refusals.contains_key(code), "nothing is refused with {code}: {refusals:?}");
        let mut open = World::new(*begin, &codes());
        codes_of_guard.iter().for_each(|code| open.without_check(code));
        let broken = play(&mut open, *days, &steps);
        println!("without {codes_of_guard:?}: {broken:?}");
        assert!(broken.is_err(), "nothing is noticed without {codes_of_guard:?}");
    }
}

/// An epoch that the host has heard of and not followed keeps its old datastore down.
#[test]
fn without_the_epoch_an_old_datastore_starts() {
    let step = |event, pass| Step { event, pass, ready: false };
    let steps = [
        // A plan that is refused is not followed, and the epoch is pinned all the same.
        step(Event::DropIn("with-node-id: true"), None),
        step(Event::Central(Word::InitElsewhere), Some(Wan::Up)),
        step(Event::Daemon { lives: false }, None),
        step(Event::NoDropIns, None),
    ];
    let mut guarded = World::new(Begin::Server, &codes());
    play(&mut guarded, 2, &steps).unwrap();
    assert!(guarded.tally.refusals.contains_key("EB-datastore-epoch"), "{:?}", guarded.tally.refusals);
    let mut open = World::new(Begin::Server, &codes());
    open.without_check("EB-datastore-epoch");
    assert!(play(&mut open, 2, &steps).is_err());
}
