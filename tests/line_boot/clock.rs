//! A pass with a clock that stands still at a wrong time.

use edge_bootstrap::allow::{self, Allowance};
use edge_bootstrap::boot::Severity;
use edge_bootstrap::facts::Fact;
use edge_bootstrap::floor;
use edge_bootstrap::paths;
use edge_bootstrap::plan::time::{self, LastSeen, Source};
use edge_bootstrap::sys::Clock;

use super::*;

const DAY: u64 = 86_400;
/// 2027-01-15, recorded as the last synchronised time.
const KNOWN: u64 = 1_800_000_000;

/// A host that was synchronised at [`KNOWN`], and its agent at `now`.
fn at(now: u64) -> (Host, Agent) {
    let host = local();
    let seen = LastSeen { at: KNOWN, source: Source::Synchronized, disowned: None };
    floor::store(&Root::new(host.dir.path()), &seen).unwrap();
    let mut agent = host.agent();
    agent.clock = Clock::Fixed(now);
    (host, agent)
}

fn found<'a>(pass: &'a Pass, code: &str) -> Option<&'a str> {
    pass.findings.iter().find(|(found, _)| found.code == code).map(|(found, _)| found.reason.as_str())
}

#[tokio::test]
async fn a_right_clock_is_no_word() {
    let (_host, mut agent) = at(KNOWN + DAY);
    let pass = boot::pass(&mut agent, order(Until::Verified, 0)).await;
    no_trouble(&pass);
    assert!(
        !pass.findings.iter().any(|(found, _)| found.code.starts_with("EB-clock-")),
        "{:?}",
        pass.findings
    );
}

#[tokio::test]
async fn a_clock_that_cannot_be_set_holds_k3s_before_anything_is_planned() {
    let (host, mut agent) = at(12);
    let before = host.files();
    let stop = boot::pass(&mut agent, order(Until::Ready, 0)).await.stop.unwrap();
    assert_eq!((stop.kind, stop.why.code.as_str()), (StopKind::Held, "EB-clock-behind"));
    // This is another host's root: the machine's own clock is not ours to set.
    assert!(
        stop.why.reason.ends_with("it cannot be set: act set-clock: not on a foreign root"),
        "{}",
        stop.why
    );
    assert_eq!(host.files(), before);
    assert_eq!(host.systemd.calls(), Vec::<String>::new());
}

#[tokio::test]
async fn a_clock_of_the_future_holds_k3s_and_is_not_recorded() {
    for now in [KNOWN + 401 * DAY, 4_070_908_800] {
        let (host, mut agent) = at(now);
        let before = host.files();
        let stop = boot::pass(&mut agent, order(Until::Verified, 0)).await.stop.unwrap();
        assert_eq!((stop.kind, stop.why.code.as_str()), (StopKind::Held, "EB-clock-ahead"));
        assert_eq!(host.files(), before, "the next boot with a right clock knows nothing of it");
        agent.clock = Clock::Fixed(KNOWN + DAY);
        no_trouble(&boot::pass(&mut agent, order(Until::Verified, 0)).await);
    }
}

#[tokio::test]
async fn a_running_k3s_goes_on_with_any_clock() {
    for now in [12, KNOWN + 900 * DAY] {
        let (host, mut agent) = at(now);
        host.systemd.unit("k3s-agent.service", |unit| unit.active = "active".into());
        let pass = boot::pass(&mut agent, order(Until::Verified, 0)).await;
        no_trouble(&pass);
        assert!(
            pass.findings
                .iter()
                .any(|(found, severity)| found.code.starts_with("EB-clock-") && *severity == Severity::Warn)
        );
        assert!(!host.systemd.calls().iter().any(|call| call.starts_with("Stop")));
    }
}

#[tokio::test]
async fn a_paused_host_only_tells_about_its_clock() {
    for (now, code) in [(12, "EB-clock-behind"), (KNOWN + 900 * DAY, "EB-clock-ahead")] {
        let (host, mut agent) = at(now);
        let before = host.files();
        let order = Order { observe_only: true, ..order(Until::Verified, 0) };
        let pass = boot::pass(&mut agent, order).await;
        assert_eq!(pass.stop, None);
        assert!(found(&pass, code).is_some(), "{:?}", pass.findings);
        assert_eq!(host.files(), before);
    }
}

#[tokio::test]
async fn a_person_lets_a_clock_pass_that_nobody_vouches_for() {
    let (host, mut agent) = at(KNOWN + 900 * DAY);
    let now = agent.clock.unix();
    let allowance: Allowance = serde_json::from_value(serde_json::json!({
        "code": "EB-clock-ahead", "since": now, "until": now + 600, "by": "me", "reason": "it is right"
    }))
    .unwrap();
    allow::add(&Root::new(host.dir.path()), agent.clock, allowance).unwrap();
    let pass = boot::pass(&mut agent, order(Until::Verified, 0)).await;
    no_trouble(&pass);
    assert!(found(&pass, "EB-clock-ahead").is_some());
}

#[tokio::test]
async fn a_synchronised_clock_is_right_and_its_time_is_recorded() {
    for now in [KNOWN - 900 * DAY, KNOWN + 900 * DAY] {
        let (host, mut agent) = at(now);
        host.systemd.world().synchronized = true;
        let pass = boot::pass(&mut agent, order(Until::Verified, 0)).await;
        no_trouble(&pass);
        let facts = &pass.facts.system.time;
        assert_eq!((&facts.synchronized, &facts.ntp), (&Fact::Known(true), &Fact::Known(true)));
        let record = floor::load(&Root::new(host.dir.path())).unwrap().value().unwrap();
        assert_eq!((record.at, record.source), (now, Source::Synchronized), "also when that lowers it");
        assert_eq!(floor::known(&Root::new(host.dir.path())).at, now);
    }
}

#[tokio::test]
async fn centrals_time_is_recorded_and_a_clock_that_is_a_little_off_holds_nothing() {
    let (host, mut agent) = at(KNOWN + DAY);
    assert!(!agent.time.told(KNOWN + DAY + 200, agent.clock));
    no_trouble(&boot::pass(&mut agent, order(Until::Verified, 0)).await);
    let record = floor::load(&Root::new(host.dir.path())).unwrap().value().unwrap();
    assert_eq!(record.source, Source::Central);
    assert!(record.at >= KNOWN + DAY + 200, "{record:?}");
    // An hour apart, and this root's clock cannot be set: told, not held.
    assert!(agent.time.told(KNOWN + DAY + 3800, agent.clock));
    let pass = boot::pass(&mut agent, order(Until::Verified, 0)).await;
    no_trouble(&pass);
    assert!(
        found(&pass, "EB-clock-behind").unwrap().contains("behind the central service's"),
        "{:?}",
        pass.findings
    );
}

#[tokio::test]
async fn a_damaged_record_falls_back_and_is_told() {
    let (host, mut agent) = at(KNOWN + DAY);
    for name in [paths::CLOCK.to_owned(), format!("{}.prev", paths::CLOCK)] {
        host.write(name.trim_start_matches('/'), "{");
    }
    agent.clock = Clock::Fixed(time::released() + DAY);
    let pass = boot::pass(&mut agent, order(Until::Verified, 0)).await;
    no_trouble(&pass);
    assert!(found(&pass, "EB-state-file").unwrap().starts_with("clock record: "), "{:?}", pass.findings);
}
