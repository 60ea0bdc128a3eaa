#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use proptest::prelude::*;

use super::*;
use crate::facts::Fact;

fn version(text: &str) -> K3sVersion {
    text.parse().unwrap()
}

fn attempt(from: &str, to: &str) -> Attempt {
    let started = Started { boot_id: "one".to_owned(), at_s: 100, restarts: 2, boots: 1 };
    Attempt {
        wish: "w".to_owned(),
        from: from.to_owned(),
        from_binary: paths::k3s_binary(from),
        to: to.to_owned(),
        at: "2026-11-21T10:00:00Z".to_owned(),
        state: Progress::Begun,
        started: Some(started),
        reason: None,
    }
}

fn unit(active: &str, restarts: u32) -> Unit {
    Unit { active: active.to_owned(), restarts: Fact::Known(restarts), ..Unit::default() }
}

fn seen(unit: &Unit, now_s: u64) -> Seen<'_> {
    let ends = unit.restarts.known().copied().unwrap();
    Seen { runs: true, is_healthy: false, unit: Some(unit), ends, may_start: true, boot_id: "one", now_s }
}

const A: &str = "v1.36.2+k3s1";
const B: &str = "v1.36.3+k3s1";

#[test]
fn a_server_takes_each_minor_and_nobody_goes_back_a_minor() {
    let says = |from: &str, to: &str, has_etcd| {
        step_refused(&version(from), &version(to), has_etcd).map(|refusal| refusal.to_string())
    };
    for (from, to) in [(A, B), (B, A), (A, "v1.37.0+k3s1"), ("v1.35.9+k3s1", A)] {
        assert_eq!((says(from, to, true), says(from, to, false)), (None, None), "{from} {to}");
    }
    assert_eq!(says("v1.33.1+k3s1", A, false), None, "an agent follows its servers however far");
    let skips = says("v1.34.9+k3s1", A, true).unwrap();
    assert!(skips.starts_with("EB-upgrade-refused: ") && skips.ends_with("assign a v1.35 first"), "{skips}");
    for has_etcd in [true, false] {
        assert!(says(A, "v1.35.9+k3s1", has_etcd).unwrap().contains("is of an earlier minor"));
    }
}

#[test]
fn etcd_3_6_comes_only_after_the_etcd_that_repairs_its_member_lists() {
    let is_refused = |from: &str| step_refused(&version(from), &version("v1.34.3+k3s1"), true).is_some();
    assert!(["v1.33.1+k3s1", "v1.33.7+k3s1", "v1.33.7+k3s2"].into_iter().all(is_refused));
    assert!(!["v1.33.7+k3s3", "v1.33.8+k3s1", "v1.34.1+k3s1"].into_iter().any(is_refused));
    let next = step_refused(&version("v1.33.1+k3s1"), &version("v1.34.3+k3s1"), true).unwrap().next;
    assert_eq!(next, "assign v1.33.7+k3s3 or a newer v1.33 first");
    assert!(step_refused(&version("v1.33.1+k3s1"), &version("v1.34.3+k3s1"), false).is_none());
}

#[test]
fn a_version_is_given_its_time_and_not_more() {
    let up = unit("activating", 2);
    let at = |role, now_s| judge(&attempt(A, B), role, seen(&up, now_s));
    assert_eq!((at(Role::Server, 699), at(Role::Agent, 339)), (Next::Wait, Next::Wait));
    let late = |now_s, words: &str| {
        let again = Started { boot_id: "one".to_owned(), at_s: now_s, restarts: 2, boots: 1 };
        Next::Late(again, words.to_owned())
    };
    assert_eq!(at(Role::Server, 700), late(700, "it was not Ready after 600 s"));
    assert_eq!(at(Role::Agent, 340), late(340, "it was not Ready after 240 s"));
}

#[test]
fn a_version_that_ends_again_and_again_has_failed_and_the_gates_refusals_are_not_its_fault() {
    let after =
        |unit: &Unit, may_start| judge(&attempt(A, B), Role::Server, Seen { may_start, ..seen(unit, 130) });
    let over = |words: &str| Next::Over(words.to_owned());
    assert_eq!(after(&unit("activating", 4), true), Next::Wait);
    assert_eq!(after(&unit("activating", 5), true), over("it ended 3 times before it was well"));
    assert_eq!(after(&unit("activating", 50), false), Next::Wait);
    assert_eq!(after(&unit("active", 50), true), Next::Wait);
    assert_eq!(after(&unit("failed", 0), true), over("its unit has failed"));
    // Counted anew after a start by hand.
    assert_eq!(after(&unit("activating", 1), true), Next::Wait);
}

#[test]
fn what_never_started_is_not_judged_and_what_is_well_is_done() {
    let failed = unit("failed", 9);
    let never = Seen { runs: false, ..seen(&failed, 9000) };
    assert_eq!(judge(&attempt(A, B), Role::Server, never), Next::Wait);
    let well = Seen { is_healthy: true, ..seen(&failed, 9000) };
    assert_eq!(judge(&attempt(A, B), Role::Server, well), Next::Done);
}

#[test]
fn each_boot_begins_the_time_anew_but_only_three_of_them() {
    let up = unit("activating", 0);
    let mut attempt = Attempt { started: None, ..attempt(A, B) };
    for (boot_id, boots) in [("one", 1), ("two", 2), ("three", 3)] {
        let Next::Runs(started) = judge(&attempt, Role::Agent, Seen { boot_id, ..seen(&up, 5) }) else {
            unreachable!("{boot_id}")
        };
        assert_eq!((started.boots, started.at_s), (boots, 5));
        attempt.started = Some(started);
        assert_eq!(judge(&attempt, Role::Agent, Seen { boot_id, ..seen(&up, 100) }), Next::Wait);
    }
    let fourth = judge(&attempt, Role::Agent, Seen { boot_id: "four", ..seen(&up, 5) });
    let Next::Late(again, why) = fourth else { unreachable!("{fourth:?}") };
    assert_eq!((again.boots, why.as_str()), (1, "it was not Ready in any of 3 boots"));
}

#[test]
fn a_server_goes_back_a_minor_only_to_data_that_nobody_touched() {
    let minor = attempt(A, "v1.37.0+k3s1");
    assert_eq!(may_go_back(&attempt(A, B), Role::Server, false), Ok(()));
    assert_eq!(may_go_back(&minor, Role::Agent, false), Ok(()));
    assert_eq!(may_go_back(&minor, Role::Server, true), Ok(()));
    let why = may_go_back(&minor, Role::Server, false).unwrap_err();
    assert!(why.starts_with("there is no way back to v1.36.2+k3s1"), "{why}");
    // The one where it is known for certain.
    assert!(may_go_back(&attempt("v1.33.8+k3s1", "v1.34.3+k3s1"), Role::Server, false).is_err());
    assert!(may_go_back(&attempt("?", "?"), Role::Server, false).is_err());
}

#[test]
fn an_agent_follows_when_every_server_has_gone() {
    let says = |versions: &[Result<&str, &str>]| {
        let one = |(at, says): (usize, &Result<&str, &str>)| {
            (format!("10.0.0.{at}:6443"), says.map(str::to_owned).map_err(str::to_owned))
        };
        let servers: Vec<_> = versions.iter().enumerate().map(one).collect();
        may_follow(&version(B), &servers)
    };
    assert_eq!(says(&[Ok(B), Ok("v1.37.0+k3s1")]), Ok(()));
    assert_eq!(
        says(&[Ok(B), Ok(A)]),
        Err("servers go first, and 10.0.0.1:6443 runs v1.36.2+k3s1".to_owned())
    );
    assert!(says(&[Ok(B), Err("connection refused")]).unwrap_err().ends_with("connection refused"));
    assert!(says(&[Ok("")]).unwrap_err().contains("servers go first"));
}

#[test]
fn beside_others_a_k3s_that_is_not_up_yet_is_waited_for() {
    let s = Duration::from_secs;
    assert_eq!(may_begin_while_down(0, s(0)), Ok(()));
    assert!(may_begin_while_down(2, s(599)).unwrap_err().contains("10 minutes"));
    assert_eq!(may_begin_while_down(2, s(600)), Ok(()));
}

/// A host that runs `B` while `attempt` is recorded.
fn host(attempt: &Attempt) -> HostFacts {
    let joined = Some(crate::facts::runtime::Joined { ca_hash: None, etcd_member: None });
    let mut facts = HostFacts::default();
    let pinned = crate::facts::runtime::PinnedIdentity { joined, ..crate::facts::runtime::pinned_server() };
    facts.runtime.identity = Fact::Known(Some(pinned));
    facts.runtime.k3s.version = Fact::Known(Some(B.to_owned()));
    facts.runtime.k3s.upgrade = Some(attempt.clone());
    facts
}

/// What is decided there when `to` is assigned with these keys.
fn assigned(facts: &HostFacts, to: &str, config: &serde_json::Value) -> Option<PlannedUpgrade> {
    let text = include_str!("../../tests/plan/01-first-server/assignment.json");
    let mut payload: serde_json::Value = serde_json::from_str(text).unwrap();
    payload["k3s"]["version"] = json!(to);
    payload["k3s"]["config"] = config.clone();
    let assignment = crate::role::parse_payload(payload.to_string().as_bytes()).unwrap();
    let local = crate::plan::Local::default();
    let inputs = Inputs { facts, assignment: &assignment, local: &local, confirmed: true };
    decide(inputs, assignment.duty.as_ref().unwrap())
}

fn decided(attempt: &Attempt, config: &serde_json::Value) -> Option<PlannedUpgrade> {
    assigned(&host(attempt), B, config)
}

const C: &str = "v1.36.4+k3s1";

#[test]
fn a_try_ends_before_another_version_begins_and_what_failed_is_no_way_back() {
    let tried = Attempt { from_binary: "/kept".to_owned(), ..attempt(A, B) };
    let planned = assigned(&host(&tried), C, &json!({})).unwrap();
    assert_eq!((planned.step, planned.in_force().as_str(), planned.words.clone()), (Step::Begun, B, None));
    assert!(
        planned
            .line()
            .ends_with("begun: v1.36.4+k3s1 is assigned meanwhile, and follows when this try is over")
    );
    assert_eq!(planned.goes_on(tried.clone()), tried, "its time goes on");
    let begun = |state| {
        let facts = host(&Attempt { state, ..tried.clone() });
        let planned = assigned(&facts, C, &json!({})).unwrap();
        let attempt = planned.attempt(&facts, String::new());
        assert_eq!(planned.step, Step::Due);
        (attempt.from, attempt.from_binary)
    };
    assert_eq!(begun(Progress::Failed), (A.to_owned(), "/kept".to_owned()), "while the failed one is linked");
    assert_eq!(begun(Progress::Done).0, B, "it was well");
    assert_eq!(begun(Progress::Stuck).0, B, "there is nothing else");
}

#[test]
fn the_version_before_ends_a_try_at_once_where_the_data_let_it() {
    const OLD: &str = "v1.35.9+k3s1";
    for state in [Progress::Begun, Progress::Failed] {
        let tried = Attempt { state, ..attempt(A, B) };
        assert_eq!(assigned(&host(&tried), A, &json!({})), None, "{state:?}");
    }
    let begun = attempt(OLD, B);
    let planned = assigned(&host(&begun), OLD, &json!({})).unwrap();
    assert_eq!((planned.step, planned.in_force().as_str()), (Step::Begun, B));
    assert_eq!(planned.words.as_ref().unwrap().code, "EB-upgrade-refused");
    assert_eq!(planned.goes_on(begun.clone()), begun, "its time goes on");
    let failed = Attempt { state: Progress::Failed, ..begun.clone() };
    assert_eq!(assigned(&host(&failed), OLD, &json!({})), None, "the way back was open");
    let done = Attempt { state: Progress::Done, ..begun };
    assert_eq!(assigned(&host(&done), OLD, &json!({})).unwrap().step, Step::Refused);
}

#[test]
fn a_try_whose_keys_are_corrected_meanwhile_keeps_its_way_back_and_gets_its_time_again() {
    let begun = attempt(A, B);
    let planned = decided(&begun, &json!({"debug": true})).unwrap();
    assert_eq!((planned.step, planned.from.as_str(), planned.to.as_str()), (Step::Begun, A, B));
    let goes_on = planned.goes_on(begun.clone());
    assert_eq!((&goes_on.wish, &goes_on.started), (&planned.wish, &None));
    // As it was recorded then, it is the same try.
    let recorded = Attempt { started: begun.started.clone(), ..goes_on };
    assert_eq!(planned.goes_on(recorded.clone()), recorded);
    let failed = Attempt { state: Progress::Failed, ..recorded };
    assert_eq!(decided(&failed, &json!({"debug": true})).unwrap().step, Step::Failed);
    assert_eq!(decided(&Attempt { state: Progress::Failed, ..begun }, &json!({})), None, "of another wish");
}

#[test]
fn of_two_servers_the_one_with_the_higher_address_follows() {
    let is_second = |other: &str| {
        let text = include_str!("../../tests/plan/01-first-server/assignment.json");
        let mut payload: serde_json::Value = serde_json::from_str(text).unwrap();
        payload["cluster"]["servers"] = json!([other]);
        let duty = crate::role::parse_payload(payload.to_string().as_bytes()).unwrap().duty.unwrap();
        assert_eq!(duty.node.ip.to_string(), "172.16.36.1");
        is_second(&duty)
    };
    assert!(is_second("https://172.16.35.9:6443"));
    assert!(!is_second("https://172.16.36.4:6443") && !is_second("https://172.16.36.10:6443"));
}

#[test]
fn what_one_server_went_back_from_no_other_tries() {
    let (from, to) = (version(A), version(B));
    let due = PlannedUpgrade {
        from,
        to,
        step: Step::Due,
        reason: None,
        artifact: None,
        wish: "w".to_owned(),
        words: None,
    };
    assert!(due.may_try("b", Some(("a", "w"))).unwrap_err().starts_with("a did not come up with it"));
    for failed in [None, Some(("b", "w")), Some(("a", "another wish"))] {
        assert_eq!(due.may_try("b", failed), Ok(()), "{failed:?}");
    }
}

fn any_version() -> impl Strategy<Value = K3sVersion> {
    (30_u32..40, 0_u32..12, 1_u32..4)
        .prop_map(|(minor, patch, k3s)| version(&format!("v1.{minor}.{patch}+k3s{k3s}")))
}

fn any_unit() -> impl Strategy<Value = Unit> {
    let active = prop::sample::select(vec!["active", "activating", "failed", "inactive", "deactivating"]);
    (active, 0_u32..20).prop_map(|(active, restarts)| unit(active, restarts))
}

proptest! {
    #[test]
    fn no_server_ever_goes_back_over_a_minor_that_it_may_have_written(from in any_version(), to in any_version()) {
        let tried = attempt(from.as_str(), to.as_str());
        prop_assert_eq!(may_go_back(&tried, Role::Server, false).is_ok(), from.minor() == to.minor());
        prop_assert_eq!(may_go_back(&tried, Role::Server, true), Ok(()));
    }

    #[test]
    fn a_step_that_is_not_refused_is_at_most_one_minor_up(from in any_version(), to in any_version()) {
        if step_refused(&from, &to, true).is_none() {
            prop_assert!(to.minor() == from.minor() || to.minor() == from.minor() + 1);
        }
        if step_refused(&from, &to, false).is_none() {
            prop_assert!(to.minor() >= from.minor());
        }
    }

    #[test]
    fn whatever_happens_a_try_ends(units in prop::collection::vec((any_unit(), 1_u64..400, any::<bool>()), 30)) {
        let mut tried = Attempt { started: None, ..attempt(A, B) };
        let (mut now_s, mut boot, mut ended) = (0, 0, false);
        for (unit, later, reboots) in &units {
            if *reboots {
                boot += 1;
                now_s = 0;
            }
            now_s += later;
            let boot_id = boot.to_string();
            match judge(&tried, Role::Server, Seen { boot_id: &boot_id, ..seen(unit, now_s) }) {
                Next::Runs(started) => tried.started = Some(started),
                Next::Over(_) | Next::Late(..) => { ended = true; break; }
                Next::Done => prop_assert!(false, "it was never well"),
                Next::Wait => {}
            }
        }
        // Three boots of ten minutes each, and a look at the end of each.
        let spent: u64 = units.iter().map(|(_, later, _)| later).sum();
        prop_assert!(ended || boot < 3 && spent < 3 * 1000);
    }
}
