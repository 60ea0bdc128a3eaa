//! systemd, hostname and activation over a real wire, against a fake systemd.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    missing_docs,
    missing_debug_implementations,
    reason = "a test may stop at the first surprise, and makes its own world"
)]

#[path = "common/systemd.rs"]
mod fake;
#[path = "line_systemd/looking.rs"]
mod looking;
#[path = "common/tls.rs"]
mod tls;
#[path = "line_systemd/transient.rs"]
mod transient;

use std::time::{Duration, Instant};

use edge_bootstrap::activate::{self, Activated, Changed, Host, Outcome, Why, Wish};
use edge_bootstrap::plan::{PlannedHostname, PlannedUnit, Wanted};
use edge_bootstrap::sys::hostnamed::{self, HostnameError, Renamed};
use edge_bootstrap::sys::systemd::{Event, JobEnd, Systemd, SystemdError, Verb, Way};
use edge_bootstrap::sys::{Clock, Root};
use edge_bootstrap::verify::{self, Health, Memory, Ports, Probing, Verdict};
use fake::{Fake, FakeUnit, OnStart, serve_silence};

const K3S: &str = "k3s.service";
const AGENT: &str = "k3s-agent.service";
const CONTAINERD: &str = "containerd.service";
const SYSCTL: &str = "systemd-sysctl.service";
const NAME: &str = "172-16-36-1";

struct Lab {
    _dir: tempfile::TempDir,
    root: Root,
    fake: Fake,
    systemd: Systemd,
}

impl Lab {
    /// A host as before its first start: nothing runs, nothing is enabled.
    fn bare() -> Self {
        let dead = FakeUnit::dead;
        Self::with(&[
            (CONTAINERD, dead()),
            (K3S, dead().on_start(OnStart::Activating)),
            (AGENT, dead()),
            (SYSCTL, FakeUnit::up()),
        ])
    }

    fn with(units: &[(&str, FakeUnit)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        for directory in ["/etc", "/run", "/proc/sys/kernel/random"] {
            root.ensure_dir(directory).unwrap();
        }
        std::fs::write(root.path("/proc/sys/kernel/random/boot_id"), "boot-1\n").unwrap();
        std::fs::write(root.path("/proc/sys/kernel/hostname"), "localhost\n").unwrap();
        std::fs::write(root.path("/etc/hostname"), "localhost\n").unwrap();
        let fake = Fake::new(&root, units);
        let systemd = Systemd::new(&root);
        Self { _dir: dir, root, fake, systemd }
    }

    fn on_bus(self) -> Self {
        self.fake.serve_bus(&self.root);
        self
    }

    fn private(self) -> Self {
        self.fake.serve_private(&self.root);
        self
    }

    fn host(&self) -> Host<'_> {
        Host { root: &self.root, systemd: &self.systemd, clock: Clock::Fixed(1_000) }
    }

    async fn settle(&self, units: &[PlannedUnit]) -> Activated {
        let hostname = PlannedHostname { name: NAME.into(), reason: "pinned".into() };
        let wish = Wish { hostname: Some(&hostname), units, unit_files_changed: false };
        activate::settle(self.host(), &wish).await.unwrap()
    }

    async fn start(&self, units: &[PlannedUnit]) -> Activated {
        activate::start(self.host(), units).await.unwrap()
    }

    fn read(&self, path: &str) -> String {
        self.root.read_text(path).unwrap().unwrap().trim().to_owned()
    }
}

fn planned(name: &str, wanted: Wanted) -> PlannedUnit {
    PlannedUnit {
        name: name.into(),
        wanted,
        manage_boot: true,
        restart: None,
        restart_pending: None,
        reason: "the plan says so".into(),
    }
}

/// A server's units in plan order.
fn server() -> Vec<PlannedUnit> {
    vec![
        planned(SYSCTL, Wanted::Rerun),
        planned(CONTAINERD, Wanted::Running),
        planned(K3S, Wanted::Running),
        planned(AGENT, Wanted::Stopped),
    ]
}

/// The same when nothing has to be run once more.
fn server_again() -> Vec<PlannedUnit> {
    server().into_iter().filter(|unit| unit.wanted != Wanted::Rerun).collect()
}

// === calls ===

#[tokio::test]
async fn a_unit_is_read_with_what_this_systemd_knows() {
    let lab = Lab::bare().on_bus();
    assert_eq!(lab.systemd.way().await.unwrap(), Way::Bus);
    assert_eq!(lab.systemd.version().await.unwrap(), 252);
    let unit = lab.systemd.unit(K3S).await.unwrap();
    assert_eq!(
        (unit.load.as_str(), unit.active.as_str(), unit.file_state.as_str()),
        ("loaded", "inactive", "disabled")
    );
    assert_eq!(unit.exec.as_deref(), Some("/usr/local/bin/k3s"));
    assert_eq!((unit.main_pid, unit.job, unit.restarts), (0, None, Some(0)));
    lab.fake.unit(CONTAINERD, |unit| (unit.active, unit.restarts) = ("active".into(), 3));
    let containerd = lab.systemd.unit(CONTAINERD).await.unwrap();
    assert_eq!((containerd.main_pid, containerd.restarts), (4711, Some(3)));
    assert_eq!(unit.drop_ins, ["/etc/systemd/system/k3s.service.d/10-edge-bootstrap.conf"]);
    assert_eq!(unit.since_monotonic_us, 42_000_000);
    assert!(lab.fake.calls().is_empty(), "reading changes nothing");
}

#[tokio::test]
async fn without_a_bus_systemds_own_socket_is_used() {
    let lab = Lab::bare().private();
    assert_eq!(lab.systemd.way().await.unwrap(), Way::Private);
    assert_eq!(lab.systemd.unit(CONTAINERD).await.unwrap().active, "inactive");
}

#[tokio::test]
async fn who_is_in_a_hurry_does_not_wait_for_the_bus_unless_another_service_is_needed() {
    let lab = Lab::bare().private().on_bus();
    lab.systemd.hurry().await;
    assert_eq!(lab.systemd.unit(CONTAINERD).await.unwrap().active, "inactive");
    assert_eq!(lab.systemd.way().await.unwrap(), Way::Private);
    lab.settle(&[]).await;
    assert!(lab.fake.calls().contains(&format!("SetStaticHostname {NAME}")), "{:?}", lab.fake.calls());
    assert_eq!(lab.systemd.way().await.unwrap(), Way::Bus);
    lab.systemd.hurry().await;
    lab.systemd.take_time().await;
    assert_eq!(lab.systemd.way().await.unwrap(), Way::Bus);
}

#[tokio::test]
async fn a_bus_that_never_answers_costs_its_limit_once() {
    let lab = Lab::bare().private();
    serve_silence(&lab.root, "/run/dbus/system_bus_socket");
    let before = Instant::now();
    assert_eq!(lab.systemd.way().await.unwrap(), Way::Private);
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
    let after = Instant::now();
    lab.systemd.unit(K3S).await.unwrap();
    assert!(after.elapsed() < Duration::from_secs(1), "the bus is left alone: {:?}", after.elapsed());
}

#[tokio::test]
async fn a_systemd_that_hangs_on_the_bus_is_asked_over_its_own_socket() {
    let lab = Lab::bare().on_bus();
    let second = Fake::new(&lab.root, &[(K3S, FakeUnit::up())]);
    second.serve_private(&lab.root);
    assert_eq!(lab.systemd.way().await.unwrap(), Way::Bus);
    lab.fake.world().hangs = true;
    let unit = lab.systemd.unit(K3S).await.unwrap();
    assert_eq!(unit.active, "active", "the answer of the other socket");
    assert_eq!(lab.systemd.way().await.unwrap(), Way::Private);
}

#[tokio::test]
async fn a_systemd_that_hangs_everywhere_is_a_timeout_that_names_the_call() {
    let lab = Lab::bare().private();
    lab.systemd.way().await.unwrap();
    lab.fake.world().hangs = true;
    let error = lab.systemd.unit(K3S).await.unwrap_err();
    assert_eq!(error.to_string(), "LoadUnit k3s.service got no answer within 5 s");
    assert!(error.is_transport());
}

#[tokio::test]
async fn a_host_without_systemd_is_told_at_once() {
    let lab = Lab::bare();
    let error = lab.systemd.unit(K3S).await.unwrap_err();
    assert!(matches!(error, SystemdError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_cut_connection_is_replaced_by_the_next_call() {
    let lab = Lab::bare().on_bus();
    lab.systemd.unit(K3S).await.unwrap();
    lab.fake.cut().await;
    assert_eq!(lab.systemd.unit(K3S).await.unwrap().name, K3S);
}

// === jobs ===

#[tokio::test]
async fn a_job_removed_before_its_reply_is_not_lost() {
    let lab = Lab::with(&[(CONTAINERD, FakeUnit::dead().on_start(OnStart::UpBeforeReply))]).on_bus();
    let job = lab.systemd.run(Verb::Start, CONTAINERD, Duration::from_secs(30)).await.unwrap();
    assert_eq!(job.end, JobEnd::Said("done".into()));
    assert!(job.after.is_up());
}

#[tokio::test]
async fn a_lost_signal_is_made_good_by_looking() {
    let lab = Lab::with(&[(CONTAINERD, FakeUnit::dead().on_start(OnStart::UpSilently))]).on_bus();
    let job = lab.systemd.run(Verb::Start, CONTAINERD, Duration::from_secs(30)).await.unwrap();
    assert_eq!(job.end, JobEnd::Gone);
    assert!(job.after.is_up());
}

#[tokio::test]
async fn a_job_has_a_deadline() {
    let lab = Lab::with(&[(CONTAINERD, FakeUnit::dead().on_start(OnStart::Activating))]).on_bus();
    let job = lab.systemd.run(Verb::Start, CONTAINERD, Duration::from_millis(300)).await.unwrap();
    assert_eq!(job.end, JobEnd::Pending);
    assert!(job.after.is_activating());
}

// === activation ===

#[tokio::test]
async fn a_bare_host_is_settled_before_ready_without_any_job() {
    let lab = Lab::bare().on_bus();
    let done = lab.settle(&server()).await;
    assert_eq!(
        lab.fake.calls(),
        [
            "SetStaticHostname 172-16-36-1",
            "SetHostname 172-16-36-1",
            "EnableUnitFiles containerd.service",
            "EnableUnitFiles k3s.service",
            "Reload"
        ]
    );
    assert!(done.jobs.is_empty() && done.troubles.is_empty(), "{done:?}");
    assert_eq!(done.changed.last(), Some(&Changed::Reloaded));
}

#[tokio::test]
async fn jobs_come_in_plan_order_and_k3s_is_not_waited_for() {
    let lab = Lab::bare().on_bus();
    let before = Instant::now();
    let done = lab.start(&server()).await;
    assert!(
        before.elapsed() < Duration::from_secs(5),
        "k3s stays activating for ever: {:?}",
        before.elapsed()
    );
    assert_eq!(
        lab.fake.calls(),
        ["RestartUnit systemd-sysctl.service", "StartUnit containerd.service", "StartUnit k3s.service"]
    );
    let outcomes: Vec<_> = done.jobs.iter().map(|job| (job.unit.as_str(), job.outcome.clone())).collect();
    assert_eq!(outcomes, [(SYSCTL, Outcome::Done), (CONTAINERD, Outcome::Done), (K3S, Outcome::Queued)]);
    assert_eq!(done.jobs[2].state, "activating/start");
}

#[tokio::test]
async fn a_second_pass_changes_nothing() {
    for up in [true, false] {
        let lab = Lab::bare().on_bus();
        lab.settle(&server()).await;
        lab.start(&server()).await;
        if up {
            lab.fake.unit(K3S, |unit| (unit.active, unit.job) = ("active".into(), 0));
        }
        lab.fake.calls();
        let record = std::fs::metadata(lab.root.path("/run/edge-bootstrap/units.json")).unwrap();
        assert!(lab.settle(&server_again()).await.is_quiet());
        assert!(lab.start(&server_again()).await.is_quiet());
        assert_eq!(lab.fake.calls(), [""; 0]);
        use std::os::unix::fs::MetadataExt as _;
        let now = std::fs::metadata(lab.root.path("/run/edge-bootstrap/units.json")).unwrap();
        assert_eq!(now.ino(), record.ino(), "the record is not written again");
    }
}

#[tokio::test]
async fn done_is_not_believed() {
    let lab = Lab::with(&[
        (CONTAINERD, FakeUnit::dead().on_start(OnStart::FailedDone)),
        (K3S, FakeUnit::dead().on_start(OnStart::Activating)),
    ])
    .on_bus();
    let done = lab.start(&[planned(CONTAINERD, Wanted::Running), planned(K3S, Wanted::Running)]).await;
    let Outcome::Failed(why) = &done.jobs[0].outcome else { panic!("{done:?}") };
    assert_eq!(why, "the job ended as done, the unit is failed with result exit-code");
    assert_eq!(done.jobs[1].outcome, Outcome::Queued, "k3s is started all the same: systemd orders it");
}

#[tokio::test]
async fn a_refused_job_does_not_stop_the_others() {
    let lab = Lab::with(&[
        (CONTAINERD, FakeUnit::dead().on_start(OnStart::Refused)),
        (K3S, FakeUnit::dead().on_start(OnStart::Activating)),
    ])
    .on_bus();
    let done = lab.start(&[planned(CONTAINERD, Wanted::Running), planned(K3S, Wanted::Running)]).await;
    assert!(
        matches!(&done.jobs[0].outcome, Outcome::Refused(why) if why.contains("Unit is refused.")),
        "{done:?}"
    );
    assert_eq!(done.jobs[1].outcome, Outcome::Queued);
}

#[tokio::test]
async fn the_start_limit_is_reset_first() {
    let failed = FakeUnit { active: "failed".into(), result: "start-limit-hit".into(), ..FakeUnit::up() };
    let lab = Lab::with(&[(K3S, failed)]).on_bus();
    let done = lab.start(&[planned(K3S, Wanted::Running)]).await;
    assert_eq!(lab.fake.calls(), ["ResetFailedUnit k3s.service", "StartUnit k3s.service"]);
    assert_eq!(done.changed, [Changed::FailureReset(K3S.into())]);
}

#[tokio::test]
async fn only_a_reason_restarts_a_running_unit() {
    let lab = Lab::with(&[(K3S, FakeUnit::up())]).on_bus();
    let mut unit = planned(K3S, Wanted::Running);
    unit.restart_pending = Some("waits for the lease".into());
    assert!(lab.start(std::slice::from_ref(&unit)).await.is_quiet());
    unit.restart = Some("node-ip changed".into());
    let done = lab.start(&[unit]).await;
    assert_eq!(lab.fake.calls(), ["RestartUnit k3s.service"]);
    assert_eq!(done.jobs[0].reason, "node-ip changed");
}

#[tokio::test]
async fn the_unit_of_the_other_role_is_stopped_first_and_disabled() {
    let lab = Lab::with(&[(K3S, FakeUnit::dead()), (AGENT, FakeUnit::up())]).on_bus();
    let units = [planned(K3S, Wanted::Running), planned(AGENT, Wanted::Stopped)];
    lab.settle(&units).await;
    let calls = lab.fake.calls();
    assert!(calls.contains(&"DisableUnitFiles k3s-agent.service".to_owned()), "{calls:?}");
    lab.start(&units).await;
    assert_eq!(lab.fake.calls(), ["StopUnit k3s-agent.service", "StartUnit k3s.service"]);
}

#[tokio::test]
async fn changed_unit_files_are_read_again_whoever_noticed() {
    let lab = Lab::with(&[(K3S, FakeUnit { need_reload: true, ..FakeUnit::up() })]).private();
    let wish = Wish { hostname: None, units: &[planned(K3S, Wanted::Running)], unit_files_changed: false };
    activate::settle(lab.host(), &wish).await.unwrap();
    assert_eq!(lab.fake.calls(), ["Reload"], "systemd noticed");
    let wish = Wish { unit_files_changed: true, ..wish };
    activate::settle(lab.host(), &wish).await.unwrap();
    assert_eq!(lab.fake.calls(), ["Reload"], "apply says so");
}

// === a person wins ===

#[tokio::test]
async fn what_a_person_stopped_stays_stopped_until_told_otherwise() {
    let lab = Lab::with(&[(K3S, FakeUnit::up())]).on_bus();
    let units = [planned(K3S, Wanted::Running)];
    assert!(lab.start(&units).await.is_quiet());
    lab.fake.unit(K3S, |unit| (unit.active, unit.sub) = ("inactive".into(), "dead".into()));
    let done = lab.start(&units).await;
    assert!(lab.fake.calls().is_empty(), "nothing is started");
    assert_eq!(done.left_alone[0].why, Why::Stopped);
    assert_eq!(activate::left_alone(&lab.root), done.left_alone);
    activate::forget(&lab.root).unwrap();
    lab.start(&units).await;
    assert_eq!(lab.fake.calls(), ["StartUnit k3s.service"]);
}

#[tokio::test]
async fn a_reboot_ends_a_persons_stop() {
    let lab = Lab::with(&[(K3S, FakeUnit::up())]).on_bus();
    let units = [planned(K3S, Wanted::Running)];
    lab.start(&units).await;
    lab.fake.unit(K3S, |unit| unit.active = "inactive".into());
    assert_eq!(lab.start(&units).await.left_alone.len(), 1);
    std::fs::write(lab.root.path("/proc/sys/kernel/random/boot_id"), "boot-2\n").unwrap();
    assert_eq!(lab.start(&units).await.jobs.len(), 1);
}

#[tokio::test]
async fn what_a_person_disabled_or_masked_stays_so() {
    for (file_state, why) in [("disabled", Why::Disabled), ("masked", Why::Masked)] {
        let lab = Lab::bare().on_bus();
        let units = [planned(K3S, Wanted::Running)];
        lab.settle(&units).await;
        lab.fake.calls();
        lab.fake.unit(K3S, |unit| unit.file_state = file_state.into());
        lab.settle(&units).await;
        let done = lab.start(&units).await;
        assert!(lab.fake.calls().is_empty(), "{file_state}");
        assert_eq!(done.left_alone[0].why, why);
    }
}

#[tokio::test]
async fn our_own_stop_is_no_persons_stop() {
    let lab = Lab::with(&[(K3S, FakeUnit::up())]).on_bus();
    lab.start(&[planned(K3S, Wanted::Stopped)]).await;
    assert_eq!(lab.fake.calls(), ["StopUnit k3s.service"]);
    lab.start(&[planned(K3S, Wanted::Running)]).await;
    assert_eq!(lab.fake.calls(), ["StartUnit k3s.service"]);
}

// === hostname ===

#[tokio::test]
async fn a_right_name_is_no_call() {
    let lab = Lab::bare().on_bus();
    std::fs::write(lab.root.path("/etc/hostname"), format!("# ours\n{NAME}\n")).unwrap();
    std::fs::write(lab.root.path("/proc/sys/kernel/hostname"), NAME).unwrap();
    assert_eq!(hostnamed::ensure(&lab.root, &lab.systemd, NAME, true).await.unwrap(), Renamed::Unchanged);
    assert!(lab.fake.calls().is_empty());
}

#[tokio::test]
async fn a_drifted_kernel_name_leaves_the_file_alone() {
    let lab = Lab::bare().on_bus();
    std::fs::write(lab.root.path("/etc/hostname"), format!("{NAME}\n")).unwrap();
    let renamed = hostnamed::ensure(&lab.root, &lab.systemd, NAME, false).await.unwrap();
    assert!(matches!(renamed, Renamed::Changed { by_hostnamed: true, .. }));
    assert_eq!(lab.fake.calls(), ["SetHostname 172-16-36-1"]);
}

#[tokio::test]
async fn without_hostnamed_the_name_is_set_by_ourselves() {
    for reachable in [true, false] {
        let lab = if reachable { Lab::bare().private() } else { Lab::bare() };
        let renamed = hostnamed::ensure(&lab.root, &lab.systemd, NAME, false).await.unwrap();
        assert!(matches!(renamed, Renamed::Changed { by_hostnamed: false, .. }));
        assert_eq!(
            (lab.read("/etc/hostname"), lab.read("/proc/sys/kernel/hostname")),
            (NAME.into(), NAME.into())
        );
    }
}

#[tokio::test]
async fn a_hostnamed_that_lies_is_not_believed() {
    let lab = Lab::bare().on_bus();
    lab.fake.world().hostnamed_lies = true;
    let renamed = hostnamed::ensure(&lab.root, &lab.systemd, NAME, false).await.unwrap();
    assert!(matches!(renamed, Renamed::Changed { by_hostnamed: false, .. }));
    assert_eq!(lab.read("/etc/hostname"), NAME);
}

#[tokio::test]
async fn a_name_that_cannot_be_written_is_a_trouble_and_the_rest_goes_on() {
    let lab = Lab::bare().private();
    std::fs::remove_file(lab.root.path("/etc/hostname")).unwrap();
    std::fs::create_dir(lab.root.path("/etc/hostname")).unwrap();
    let error = hostnamed::ensure(&lab.root, &lab.systemd, NAME, false).await.unwrap_err();
    assert!(matches!(error, HostnameError::File(_)));
    let done = lab.settle(&[planned(K3S, Wanted::Running)]).await;
    assert_eq!(done.troubles[0].object, "hostname");
    assert_eq!(lab.fake.calls(), ["EnableUnitFiles k3s.service", "Reload"]);
}

// === watching ===

async fn next(watch: &mut edge_bootstrap::sys::systemd::Watch) -> Event {
    tokio::time::timeout(Duration::from_secs(10), watch.changed()).await.unwrap()
}

#[tokio::test]
async fn a_watch_outlives_its_connection() {
    let lab = Lab::bare().on_bus();
    let mut watch = lab.systemd.watch(&[K3S, AGENT, CONTAINERD]);
    assert_eq!(next(&mut watch).await, Event::Missed, "nothing was watched before");
    lab.fake.changed(K3S).await;
    assert_eq!(next(&mut watch).await, Event::Unit(K3S.into()));
    lab.fake.changed(SYSCTL).await;
    lab.fake.renamed().await;
    assert_eq!(next(&mut watch).await, Event::Hostname, "other units are not told");
    lab.fake.cut().await;
    assert_eq!(next(&mut watch).await, Event::Missed);
    lab.fake.changed(CONTAINERD).await;
    assert_eq!(next(&mut watch).await, Event::Unit(CONTAINERD.into()));
}

#[test]
fn the_futures_can_move_between_threads() {
    fn moves(_: impl Send) {}
    let (root, clock) = (Root::default(), Clock::System);
    let systemd = Systemd::new(&root);
    let host = Host { root: &root, systemd: &systemd, clock };
    moves(activate::start(host, &[]));
    moves(activate::settle(host, &Wish { hostname: None, units: &[], unit_files_changed: false }));
    moves(systemd.watch(&[]).changed());
}
