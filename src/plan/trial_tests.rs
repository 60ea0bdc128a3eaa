#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::*;
use crate::facts::Fact;
use crate::facts::runtime::Runtime;

fn unit(active: &str, since_monotonic_s: u64) -> Unit {
    Unit { active: active.to_owned(), since_monotonic_s, ..Unit::default() }
}

fn seen(unit: &Unit, ends: u32) -> Seen<'_> {
    Seen {
        generation: 2,
        runs: true,
        unit: Some(unit),
        ends,
        is_fair: true,
        may_start: true,
        boot_id: "one",
        now_s: 1000,
    }
}

/// A generation whose predecessor was up in boot `well`, and with which k3s was begun.
fn begun(well: &str) -> Trial {
    let up = unit("active", 10);
    let before = before(&Trial::default(), Seen { runs: false, boot_id: well, ..seen(&up, 0) });
    next(&before, seen(&unit("activating", 999), 0))
}

const THREE: &str = "it ended 3 times before it was well";

#[test]
fn systemds_count_is_no_more_than_what_the_gate_let_go() {
    let mut runtime = Runtime::default();
    assert_eq!(runtime.ends("k3s"), 0);
    let restarts = Fact::Known(7);
    runtime.units.insert("k3s".to_owned(), Fact::Known(Unit { restarts, ..Unit::default() }));
    assert_eq!(runtime.ends("k3s"), 7, "who records no starts is believed");
    for (starts, ends) in [(1, 1), (5, 5), (9, 7)] {
        runtime.k3s.starts = Some(starts);
        assert_eq!(runtime.ends("k3s"), ends);
    }
}

#[test]
fn a_generation_with_which_k3s_ends_after_ready_again_and_again_has_failed() {
    let (up, down) = (unit("active", 995), unit("activating", 998));
    let mut trial = begun("one");
    assert_eq!(trial.started.as_ref().unwrap().restarts, 0);
    for (unit, ends, says) in [
        (&up, 0, None),
        (&down, 1, None),
        (&up, 2, None),
        (&down, 2, None),
        (&up, 3, None),
        (&down, 3, Some(THREE)),
    ] {
        trial = next(&trial, seen(unit, ends));
        assert_eq!(over(&trial, seen(unit, ends), true).as_deref(), says, "{} {ends}", unit.active);
        assert!(!holds(Some(unit), 1000));
    }
    let failed = unit("failed", 998);
    assert_eq!(over(&trial, seen(&failed, 0), true).as_deref(), Some("its unit has failed"));
    // Counted anew after a start by hand, and from what had been before.
    assert_eq!(over(&trial, seen(&down, 2), true), None);
    let late = next(&Trial { of: 0, started: None, ..trial }, seen(&down, 5));
    assert_eq!(over(&late, seen(&down, 7), true), None);
    assert_eq!(over(&late, seen(&down, 8), true).as_deref(), Some(THREE));
}

#[test]
fn where_something_else_may_be_why_it_takes_longer() {
    let down = unit("activating", 998);
    let after = |trial: &Trial, ends, is_sure| over(trial, seen(&down, ends), is_sure).is_some();
    assert_eq!([3, 11, 12].map(|ends| after(&begun("one"), ends, false)), [false, false, true]);
    // The boot in which k3s was up before is over: a power cut may be why.
    assert_eq!([3, 11, 12].map(|ends| after(&begun("zero"), ends, true)), [false, false, true]);
    // Another boot of this host: what is counted begins anew.
    let again = next(&begun("one"), Seen { boot_id: "two", ..seen(&down, 9) });
    assert_eq!(again.started.as_ref().unwrap().restarts, 9);
    assert_eq!(over(&begun("one"), Seen { boot_id: "two", ..seen(&down, 30) }, true), None);
}

#[test]
fn a_k3s_that_was_ending_before_is_no_evidence_against_what_is_new() {
    let (down, up, flaps) = (unit("activating", 998), unit("active", 10), unit("active", 990));
    let old = |unit, ends| Seen { runs: false, ..seen(unit, ends) };
    for ill in [old(&down, 1), old(&flaps, 4)] {
        let trial = next(&before(&Trial::default(), ill), seen(&down, 4));
        assert!(trial.ill && over(&trial, seen(&down, 99), false).is_none(), "{trial:?}");
        // It was mended before what is new had its turn.
        let mended = next(&next(&Trial::default(), ill), old(&up, 9));
        assert!(over(&next(&mended, seen(&down, 9)), seen(&down, 12), true).is_some(), "{mended:?}");
    }
    // Not started yet in this boot: nothing is known of it.
    let dead = unit("inactive", 0);
    assert_eq!(before(&Trial::default(), old(&dead, 0)), Trial::default());
    // What replaces one that was on trial has the same excuse or none.
    let third = next(&begun("one"), Seen { generation: 3, ..old(&down, 5) });
    assert_eq!(third, begun("one"));
    let third = next(&third, Seen { generation: 3, ..seen(&down, 5) });
    assert_eq!((third.of, third.ill, third.started.unwrap().restarts), (3, false, 5));
}

#[test]
fn without_containerd_or_the_gates_leave_nothing_is_judged() {
    let down = unit("activating", 998);
    let trial = begun("one");
    let refused = Seen { may_start: false, ..seen(&down, 50) };
    assert_eq!((next(&trial, refused), over(&trial, refused, true)), (trial.clone(), None));
    let without = Seen { is_fair: false, ..seen(&down, 50) };
    let excused = next(&trial, without);
    assert_eq!((over(&trial, without, true), &excused.started), (None, &None));
    // It is there again: what was before does not count.
    let again = next(&excused, seen(&down, 50));
    assert_eq!(over(&again, seen(&down, 52), true), None);
    assert_eq!(over(&again, seen(&down, 53), true).as_deref(), Some(THREE));
    // And a k3s that waits, for its servers or for a majority, ends not at all.
    assert_eq!(over(&trial, Seen { now_s: 90_000, ..seen(&down, 0) }, true), None);
}

#[test]
fn what_is_up_counts_after_a_while() {
    let up = unit("active", 980);
    assert_eq!([999, 1000].map(|now| holds(Some(&up), now)), [false, true]);
    assert!(!holds(Some(&unit("activating", 10)), 1000) && !holds(None, 1000));
}
