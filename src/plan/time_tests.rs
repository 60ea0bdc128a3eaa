//! The rules of the clock: cases by name, and what holds for every clock.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may stop at the first surprise, and may look at the clock"
)]

use std::time::SystemTime;

use proptest::prelude::*;

use super::*;

/// 2027-01-15.
const NOW: u64 = 1_800_000_000;
const DAY: u64 = 86_400;

fn at(now: u64) -> Reading {
    let floor = Floor { at: NOW, source: Source::Synchronized };
    Reading { now, floor, synchronized: false, told: None, k3s_runs: false, datastore_runs: false }
}

fn seen(at: u64) -> LastSeen {
    LastSeen { at, source: Source::Central, disowned: None }
}

fn code(judgement: &Judgement) -> Option<&str> {
    match judgement {
        Judgement::Sane => None,
        Judgement::Step { why, .. } | Judgement::Hold(why) | Judgement::Tell(why) => Some(&why.code),
    }
}

#[test]
fn the_release_is_known_and_past() {
    let day = 1_795_298_400;
    assert!(released() >= day, "{}", released());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(released() <= now, "the changelog's newest entry is of tomorrow");
    assert_eq!(rfc2822("Sat, 21 Nov 2026 22:00:00 +0000"), Some(day));
    assert_eq!(rfc2822("Sat, 21 Nov 2026 22:00:00 +0100"), None, "only UTC");
}

#[test]
fn the_floor_is_the_highest_of_what_is_known() {
    let of = |seen: Option<&LastSeen>, issued| Floor::of(NOW, seen, issued);
    assert_eq!(of(None, None), Floor { at: NOW, source: Source::Release });
    assert_eq!(of(Some(&seen(NOW + 9)), Some(NOW + 5)), Floor { at: NOW + 9, source: Source::Central });
    assert_eq!(of(Some(&seen(NOW + 9)), Some(NOW + 50)), Floor { at: NOW + 50, source: Source::Assignment });
}

#[test]
fn a_clock_below_the_floor_is_set_to_it_however_far_that_is() {
    for now in [0, 12, NOW - 3600, NOW - 6] {
        let Judgement::Step { to, why } = judge(&at(now)) else { panic!("{now}") };
        assert_eq!((to, why.code.as_str()), (NOW, "EB-clock-behind"));
    }
    assert_eq!(judge(&at(NOW - 3)), Judgement::Sane, "whole seconds");
}

#[test]
fn a_clock_that_lost_its_time_names_the_battery_and_a_late_one_does_not() {
    let why = |now| match judge(&at(now)) {
        Judgement::Step { why, .. } => why.reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        why(12),
        "the clock stands at 1970-01-01T00:00:12Z, before 2027-01-15T08:00:00Z, which is surely past (the clock was synchronised then); the hardware clock lost its time while the power was off: its battery is probably empty"
    );
    assert!(why(1_500_000_000).contains("before this program was released"));
    assert!(!why(NOW - 3600).contains("battery"));
}

#[test]
fn far_ahead_k3s_is_held_before_its_start_and_never_stopped() {
    assert_eq!(judge(&at(NOW + 399 * DAY)), Judgement::Sane);
    let ahead = at(NOW + 401 * DAY);
    assert!(matches!(judge(&ahead), Judgement::Hold(why) if why.code == "EB-clock-ahead"));
    let running = Reading { k3s_runs: true, datastore_runs: true, ..ahead };
    assert!(matches!(judge(&running), Judgement::Tell(_)));
    assert_eq!(judge(&Reading { synchronized: true, ..ahead }), Judgement::Sane);
}

#[test]
fn the_central_service_sets_the_clock_unless_the_kernel_is_synchronised() {
    let told = |now, told| Reading { told: Some(told), ..at(now) };
    let step = |reading: &Reading| match judge(reading) {
        Judgement::Step { to, .. } => to,
        other => panic!("{other:?}"),
    };
    assert_eq!(judge(&told(NOW + 299, NOW)), Judgement::Sane);
    assert_eq!(step(&told(NOW, NOW + 301)), NOW + 301);
    assert_eq!(step(&told(NOW + 73 * 365 * DAY, NOW)), NOW, "back, while nothing runs");
    assert_eq!(step(&told(NOW, NOW - DAY)), NOW - DAY, "also below a wrong floor");
    let running = Reading { datastore_runs: true, ..told(NOW + DAY, NOW) };
    assert_eq!(code(&judge(&running)), Some("EB-clock-ahead"));
    assert!(matches!(judge(&running), Judgement::Tell(_)));
    assert_eq!(judge(&Reading { synchronized: true, ..running }), Judgement::Sane);
}

#[test]
fn an_unauthenticated_time_is_never_recorded() {
    let future = at(NOW + 73 * 365 * DAY);
    assert_eq!(record(&future, Some(&seen(NOW)), NOW + 60), None);
    let hour = record(&future, Some(&seen(NOW)), NOW + 3600).unwrap();
    assert_eq!((hour.at, hour.source), (NOW + 3600, Source::Elapsed), "what is surely past, not the clock");
}

#[test]
fn an_authenticated_time_is_recorded_from_time_to_time() {
    let synchronized = Reading { synchronized: true, ..at(NOW + 599) };
    assert_eq!(record(&synchronized, Some(&seen(NOW)), 0), None);
    let later = Reading { now: NOW + 600, ..synchronized };
    assert_eq!(record(&later, Some(&seen(NOW)), 0).unwrap().source, Source::Synchronized);
    let told = Reading { told: Some(NOW + 700), ..at(NOW) };
    assert_eq!(record(&told, Some(&seen(NOW)), 0), Some(seen(NOW + 700)));
}

#[test]
fn an_authenticated_time_lowers_a_wrong_floor_for_good() {
    let wrong = NOW + 1000 * DAY;
    let floor = Floor::of(wrong, None, Some(NOW - DAY));
    assert_eq!(floor.at, wrong, "a package that was released by a wrong clock");
    let told = Reading { floor, told: Some(NOW), ..at(wrong) };
    assert!(matches!(judge(&told), Judgement::Step { to: NOW, .. }));
    let record = record(&told, None, wrong).unwrap();
    assert_eq!(record, LastSeen { at: NOW, source: Source::Central, disowned: Some(wrong) });
    assert_eq!(Floor::of(wrong, Some(&record), Some(NOW - DAY)).at, NOW);
    assert_eq!(Floor::of(wrong + 1, Some(&record), None).at, wrong + 1, "a newer word counts again");
    let next = Reading { told: Some(NOW + DAY), ..at(NOW + DAY) };
    let next = super::record(&next, Some(&record), 0).unwrap();
    assert_eq!(next.disowned, Some(wrong), "it stays disowned until its time has come");
}

#[test]
fn a_step_names_its_size_and_way() {
    assert!(stepped(-3700, true).to_string().starts_with("EB-clock-step: the clock was set back by 61 min"));
    assert!(stepped(90, true).reason.ends_with("forward by 90 s"));
}

fn reading() -> impl Strategy<Value = Reading> {
    let time = || prop_oneof![0..4_102_444_800_u64, NOW - 700..NOW + 700, Just(u64::MAX)];
    (time(), time(), any::<bool>(), proptest::option::of(time()), any::<bool>(), any::<bool>()).prop_map(
        |(now, floor, synchronized, told, k3s_runs, datastore_runs)| Reading {
            now,
            floor: Floor { at: floor, source: Source::Release },
            synchronized,
            told,
            k3s_runs,
            datastore_runs,
        },
    )
}

proptest! {
    #[test]
    fn a_clock_is_never_set_back_across_a_running_datastore(reading in reading()) {
        if let Judgement::Step { to, .. } = judge(&reading) {
            prop_assert!(to >= reading.now || !reading.datastore_runs);
        }
    }

    #[test]
    fn a_running_k3s_is_never_held(reading in reading()) {
        let held = matches!(judge(&reading), Judgement::Hold(_));
        prop_assert!(!held || (!reading.k3s_runs && !reading.is_authenticated()));
    }

    #[test]
    fn a_step_ends_in_a_sane_clock(reading in reading()) {
        if let Judgement::Step { to, .. } = judge(&reading) {
            prop_assert_eq!(judge(&Reading { now: to, ..reading }), Judgement::Sane);
        }
    }

    #[test]
    fn without_anybody_who_vouches_a_clock_goes_only_forward_and_only_to_the_floor(reading in reading()) {
        let alone = Reading { synchronized: false, told: None, ..reading };
        if let Judgement::Step { to, .. } = judge(&alone) {
            prop_assert!(to == alone.floor.at && to > alone.now);
        }
    }

    #[test]
    fn the_record_alone_never_moves_the_floor_beyond_what_somebody_vouched_for(
        reading in reading(), before in 0..4_102_444_800_u64, past in 0..4_102_444_800_u64,
    ) {
        if let Some(seen) = record(&reading, Some(&seen(before)), past) {
            let vouched = match seen.source {
                Source::Synchronized => reading.synchronized && seen.at == reading.now,
                Source::Central => reading.told == Some(seen.at),
                Source::Elapsed => seen.at == past,
                Source::Release | Source::Assignment => false,
            };
            prop_assert!(vouched);
        }
    }
}
