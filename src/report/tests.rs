//! Laws of what is told.
#![allow(clippy::disallowed_methods, reason = "a test damages files on purpose")]

use super::status::{Agent, Finding, Paused, Waiting, one_line};
use super::*;
use crate::plan::WaitingOn;
use crate::wire::json;

fn status() -> Status {
    let agent = Agent { version: "0.1.0".to_owned(), pid: 7, starts_in_boot: 1 };
    Status::starting("172-16-36-1", agent, "2026-11-21T10:00:00Z")
}

fn finding(status: FindingStatus) -> Finding {
    Finding { id: "clock".to_owned(), code: "EB-hostname".to_owned(), status, text: "x".to_owned() }
}

fn claim() -> PendingClaim {
    PendingClaim {
        schema: 1,
        code: "7KQ2MX".to_owned(),
        reason: "replaces".to_owned(),
        of: Some("172-16-36-9".to_owned()),
        since: "2026-11-21T10:00:00Z".to_owned(),
    }
}

#[test]
fn everybody_reads_the_status_and_a_second_time_touches_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    assert_eq!(read_status(&root).unwrap(), None);
    assert_eq!(publish(&root, &status()).unwrap(), Change::Created);
    for (path, mode) in [(RUN_DIR, 0o755), (STATUS, 0o644), (METRICS, 0o644)] {
        assert_eq!(root.stat(path).unwrap().unwrap().mode, mode, "{path}");
    }
    let inode = |path| root.stat(path).unwrap().unwrap().inode;
    let before = (inode(STATUS), inode(METRICS));
    assert_eq!(publish(&root, &status()).unwrap(), Change::Unchanged);
    assert_eq!((inode(STATUS), inode(METRICS)), before);
    assert_eq!(read_status(&root).unwrap(), Some(status()));
}

#[test]
fn the_code_of_a_claim_is_for_root_and_goes_with_the_claim() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    let mut status = status();
    status.phase = Phase::PendingApproval;
    publish(&root, &status).unwrap();
    publish_claim(&root, Some(&claim())).unwrap();
    assert_eq!(root.stat(CLAIM).unwrap().unwrap().mode, 0o600);
    assert_eq!(read_claim(&root).unwrap(), Some(claim()));
    for path in [STATUS, METRICS] {
        assert!(!root.read_text(path).unwrap().unwrap().contains("7KQ2MX"), "{path}");
    }
    assert!(!format!("{:?}", claim()).contains("7KQ2MX"));
    publish_claim(&root, None).unwrap();
    assert!(!root.exists(CLAIM));
    assert_eq!(publish_claim(&root, None).unwrap(), Change::Unchanged);
}

#[test]
fn a_status_of_another_version_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    publish(&root, &status()).unwrap();
    let mut value: serde_json::Value = json::read(&root.read(STATUS).unwrap().unwrap()).unwrap();
    value["phase"] = "hibernating".into();
    value["new_field"] = 1.into();
    value.as_object_mut().unwrap().remove("left_alone");
    std::fs::write(root.path(STATUS), value.to_string()).unwrap();
    let read = read_status(&root).unwrap().unwrap();
    assert_eq!(read.phase, Phase::Other("hibernating".to_owned()));
    assert_eq!(read.exit_code(), 1);
}

#[test]
fn a_torn_status_is_an_error_that_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    publish(&root, &status()).unwrap();
    std::fs::write(root.path(STATUS), b"{").unwrap();
    assert!(read_status(&root).unwrap_err().to_string().contains(STATUS));
}

#[test]
fn since_moves_only_with_the_phase() {
    let mut status = status();
    status.enter(Phase::Starting, "2026-11-21T11:00:00Z");
    assert_eq!(status.since, "2026-11-21T10:00:00Z");
    status.enter(Phase::Steady, "2026-11-21T11:00:00Z");
    assert_eq!((status.since.as_str(), status.exit_code()), ("2026-11-21T11:00:00Z", 0));
}

#[test]
fn only_a_steady_host_without_a_finding_is_healthy() {
    for phase in Phase::ALL {
        let mut status = status();
        status.phase = phase.clone();
        assert_eq!(status.verdict() == Verdict::Healthy, *phase == Phase::Steady, "{phase}");
        status.findings = vec![finding(FindingStatus::Info)];
        assert_eq!(status.verdict() == Verdict::Healthy, *phase == Phase::Steady, "{phase}");
        status.findings = vec![finding(FindingStatus::Warn), finding(FindingStatus::Fail)];
        assert_eq!(status.verdict(), Verdict::Failed, "{phase}");
    }
    let mut status = status();
    status.phase = Phase::Steady;
    status.findings = vec![finding(FindingStatus::Warn)];
    assert_eq!(status.verdict(), Verdict::Degraded);
}

#[test]
fn one_line_says_where_it_stands_and_why() {
    let mut status = status();
    status.phase = Phase::Waiting;
    status.waiting_on = Some(Waiting::from(&WaitingOn::FirstServer));
    let line = status.line();
    assert!(line.starts_with("waiting; waits, EB-wait-first-server: the cluster's CA"), "{line}");
    status.role = Some("server".to_owned());
    status.site = Some("hz-017".to_owned());
    status.paused = Some(Paused {
        until: "2026-11-21T12:00:00Z".to_owned(),
        by: "wang".to_owned(),
        reason: "disk\nswap\u{1b}[2J".to_owned(),
    });
    let line = status.line();
    assert!(line.contains("server of hz-017") && line.contains("paused by wang"), "{line}");
    assert!(!line.chars().any(char::is_control), "{line:?}");
}

#[test]
fn a_wait_keeps_code_and_reason_apart() {
    for waiting in [
        WaitingOn::FirstServer,
        WaitingOn::InitLease,
        WaitingOn::Server,
        WaitingOn::Containerd("it is not there".to_owned()),
        WaitingOn::K3s("it is not there".to_owned()),
        WaitingOn::Refused(crate::plan::Refusal::new("EB-hostname", "the name is wrong", "put it back")),
    ] {
        let told = Waiting::from(&waiting);
        assert_eq!(told.code, waiting.code());
        assert!(!told.reason.contains("EB-") && !told.reason.is_empty() && !told.next.is_empty(), "{told:?}");
    }
}

#[test]
fn the_console_line_names_host_and_code() {
    let line = console_line(&status(), &claim());
    assert!(
        line.contains("172-16-36-1 waits") && line.contains("7KQ2MX") && line.contains("172-16-36-9"),
        "{line}"
    );
    assert_eq!(one_line("a\r\n\u{7}b"), "a   b");
}

#[test]
fn a_report_tells_only_what_is_pinned_and_what_is_not_ok() {
    let mut facts = HostFacts::default();
    facts.runtime.k3s.ca_hash = crate::facts::Fact::Known(Some("a".repeat(64)));
    facts.system.time.now = crate::facts::Fact::Known(60);
    facts.runtime.identity = crate::facts::Fact::Known(None);
    facts.runtime.k3s.has_datastore = crate::facts::Fact::Known(false);
    let mut status = status();
    status.generation = 7;
    status.findings = [FindingStatus::Ok, FindingStatus::Skipped, FindingStatus::Unknown].map(finding).into();
    let sent = report(&status, Evidence { facts: &facts, identity: None, snapshots: &[] }, 42);
    assert_eq!((sent.sequence, sent.generation, sent.phase.as_str()), (42, 7, "starting"));
    assert_eq!(sent.cluster, ReportedCluster::default());
    assert_eq!(sent.findings.len(), 1);
    assert_eq!(sent.clock.time.as_deref(), Some("1970-01-01T00:01:00Z"));
    assert_eq!(sent.facts_digest, facts.digest());
}

#[test]
fn a_host_that_cannot_tell_whether_it_started_says_so() {
    use crate::facts::Fact;
    let pinned = |init_started: Option<u64>| -> PinnedIdentity {
        let text = serde_json::json!({
            "node_id": null, "site": "s", "cluster": "s", "role": "server", "node_name": "n",
            "node_ip": "172.16.36.1", "manage_hostname": true, "epoch": 1, "init_started": init_started,
        });
        serde_json::from_value(text).unwrap()
    };
    let unknown = |identity: Fact<Option<PinnedIdentity>>, datastore| {
        let mut facts = HostFacts::default();
        facts.runtime.identity = identity;
        facts.runtime.k3s.has_datastore = datastore;
        let identity = crate::plan::pinned(&facts);
        report(&status(), Evidence { facts: &facts, identity, snapshots: &[] }, 1).cluster.init_unknown
    };
    assert!(!unknown(Fact::Known(None), Fact::Known(false)), "a bare host knows that it never did");
    assert!(!unknown(Fact::Known(Some(pinned(None))), Fact::Known(false)));
    assert!(!unknown(Fact::Known(Some(pinned(Some(1)))), Fact::Known(true)), "it says so");
    assert!(unknown(Fact::default(), Fact::Known(false)), "the record is damaged");
    assert!(unknown(Fact::Known(None), Fact::Known(true)), "somebody made the datastore");
    assert!(unknown(Fact::Known(Some(pinned(None))), Fact::Known(true)), "an older copy of the record");
    assert!(unknown(Fact::Known(Some(pinned(None))), Fact::default()));
}

#[test]
fn a_life_that_is_being_left_says_nothing_of_its_cluster_any_more() {
    let told = |retiring: serde_json::Value| {
        let text = serde_json::json!({
            "node_id": null, "site": "old", "cluster": "old", "role": "server", "node_name": "n",
            "node_ip": "172.16.36.1", "manage_hostname": true, "epoch": 1, "init_started": 1,
            "joined": {"ca_hash": "ab", "etcd_member": "n-1"}, "retiring": retiring,
        });
        let mut facts = HostFacts::default();
        facts.runtime.identity = crate::facts::Fact::Known(Some(serde_json::from_value(text).unwrap()));
        let identity = crate::plan::pinned(&facts);
        report(&status(), Evidence { facts: &facts, identity, snapshots: &[] }, 1)
    };
    let before = told(serde_json::Value::Null);
    assert_eq!(before.cluster.ca_hash.as_deref(), Some("ab"));
    assert_eq!(before.node.unwrap().site, "old");
    let cluster = told(serde_json::json!({"number": 1, "reason": "it moves"})).cluster;
    assert_eq!((cluster.ca_hash, cluster.etcd_member, cluster.init_started), (None, None, None));
}

#[test]
fn a_server_tells_what_all_servers_must_have_alike_and_no_secret() {
    let mut started = crate::facts::k3s_config::Effective::default();
    started
        .merge("cluster-cidr: 10.253.0.0/16\ndisable: [b, a]\ntoken: canary\nkubelet-arg: [v=2]\n")
        .unwrap();
    let mut facts = HostFacts::default();
    facts.runtime.k3s.started_with = crate::facts::Fact::Known(Some(started));
    let mut identity = crate::facts::runtime::pinned_server();
    let critical = |identity: &PinnedIdentity| {
        let evidence = Evidence { facts: &facts, identity: Some(identity), snapshots: &[] };
        report(&status(), evidence, 1).cluster.critical
    };
    let told = critical(&identity);
    let wanted = [("cluster-cidr", "10.253.0.0/16"), ("disable", "a,b")];
    assert_eq!(told, wanted.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    identity.role = Role::Agent;
    assert!(critical(&identity).is_empty());
}
