//! Programs that systemd runs once for us.

use edge_bootstrap::sys::systemd::{Ran, Transient};

use super::*;

const UNIT: &str = "edge-bootstrap-act-set-clock.service";

fn act(to: &str) -> Transient {
    let command = ["/usr/bin/edge-bootstrap", "act", "set-clock", "--to", to];
    Transient {
        unit: UNIT.into(),
        description: "edge-bootstrap: act set-clock".into(),
        command: command.map(str::to_owned).into(),
        limit: Duration::from_secs(10),
    }
}

fn lab(on_start: OnStart) -> Lab {
    Lab::with(&[(UNIT, FakeUnit::free().on_start(on_start))])
}

/// The unit as it is while its program runs.
fn running(to: &str) -> FakeUnit {
    let unit = FakeUnit { load: "loaded".into(), command: act(to).command, job: 6, ..FakeUnit::free() };
    FakeUnit { active: "activating".into(), sub: "start".into(), ..unit }
}

/// Lets the program of the unit end well after a moment.
fn soon_ended(fake: &Fake) {
    let fake = fake.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        fake.ended(UNIT);
    });
}

#[tokio::test]
async fn a_program_that_succeeds_leaves_nothing_behind() {
    for lab in
        [lab(OnStart::Up).on_bus(), lab(OnStart::UpBeforeReply).private(), lab(OnStart::UpSilently).private()]
    {
        assert_eq!(lab.systemd.run_transient(&act("1800000000")).await.unwrap(), Ran::Done);
        assert_eq!(lab.fake.calls(), [format!("StartTransientUnit {UNIT}")]);
        assert_eq!(
            lab.fake.world().transient,
            "Description Type ExecStart DefaultDependencies RemainAfterExit TimeoutStartUSec"
        );
        assert_eq!(lab.fake.world().units[UNIT].command, act("1800000000").command);
    }
}

#[tokio::test]
async fn a_failure_is_told_with_its_status_and_forgotten() {
    let lab = lab(OnStart::FailedDone).on_bus();
    let ran = lab.systemd.run_transient(&act("1")).await.unwrap();
    assert_eq!(ran, Ran::Failed { result: "exit-code".into(), status: Some(3) });
    assert_eq!(lab.fake.calls(), [format!("StartTransientUnit {UNIT}"), format!("ResetFailedUnit {UNIT}")]);
}

#[tokio::test]
async fn a_failure_that_nobody_fetched_does_not_stand_in_the_way() {
    let failed = FakeUnit { load: "loaded".into(), active: "failed".into(), ..FakeUnit::free() };
    let lab = Lab::with(&[(UNIT, failed)]).on_bus();
    assert_eq!(lab.systemd.run_transient(&act("1")).await.unwrap(), Ran::Done);
    let calls = lab.fake.calls();
    assert_eq!(calls.last(), Some(&format!("StartTransientUnit {UNIT}")), "{calls:?}");
}

#[tokio::test]
async fn a_unit_that_runs_already_is_waited_for_and_its_end_is_ours() {
    let lab = Lab::with(&[(UNIT, running("7"))]).on_bus();
    soon_ended(&lab.fake);
    assert_eq!(lab.systemd.run_transient(&act("7")).await.unwrap(), Ran::Done);
    assert_eq!(lab.fake.calls(), [format!("StartTransientUnit {UNIT}: exists")], "nothing is run twice");
}

#[tokio::test]
async fn one_with_other_arguments_is_followed_by_ours() {
    let lab = Lab::with(&[(UNIT, running("7"))]).on_bus();
    soon_ended(&lab.fake);
    assert_eq!(lab.systemd.run_transient(&act("8")).await.unwrap(), Ran::Done);
    let calls = lab.fake.calls();
    assert_eq!(calls, [format!("StartTransientUnit {UNIT}: exists"), format!("StartTransientUnit {UNIT}")]);
    assert_eq!(lab.fake.world().units[UNIT].command, act("8").command);
}

#[tokio::test]
async fn the_wait_for_a_program_that_hangs_has_an_end() {
    let lab = lab(OnStart::Activating).on_bus();
    let before = Instant::now();
    let hanging = Transient { limit: Duration::ZERO, ..act("1") };
    assert_eq!(lab.systemd.run_transient(&hanging).await.unwrap(), Ran::Running);
    assert!(before.elapsed() < Duration::from_secs(9), "{:?}", before.elapsed());
}

#[tokio::test]
async fn a_refusal_is_told_after_a_few_tries() {
    let lab = lab(OnStart::Refused).on_bus();
    let error = lab.systemd.run_transient(&act("1")).await.unwrap_err();
    assert_eq!(error.to_string(), format!("StartTransientUnit {UNIT} was refused"));
}
