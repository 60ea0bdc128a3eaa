//! Passes on a host whose gate records nothing of containerd's starts.

use super::systemd::OnStart;
use super::*;

const UNIT: &str = "containerd.service";

fn restarts(host: &Host) -> usize {
    let calls = host.systemd.calls();
    calls.iter().filter(|call| call.contains("RestartUnit") && call.contains(UNIT)).count()
}

fn is_told(pass: &Pass) -> bool {
    pass.findings.iter().any(|(finding, _)| finding.code == "EB-gate-silent")
}

#[tokio::test]
async fn a_gate_that_records_nothing_costs_one_restart_of_containerd_and_is_told() {
    let host = local();
    // Each pass as one of a daemon that was started anew.
    let pass = async || boot::pass(&mut host.agent(), order(Until::Verified, 0)).await;
    let first = pass().await;
    no_trouble(&first);
    assert_eq!((restarts(&host), is_told(&first)), (1, false));
    for _ in 0..2 {
        let next = pass().await;
        no_trouble(&next);
        assert_eq!((restarts(&host), is_told(&next)), (0, true));
        assert!(
            next.changes.unwrap().units.iter().all(|unit| unit.name != UNIT || unit.action != "restart"),
            "the plan has no restart"
        );
    }
    // A process that others started may run on anything.
    host.systemd.unit(UNIT, |unit| unit.pid = 4720);
    assert_eq!((is_told(&pass().await), restarts(&host)), (false, 1));
    // Another file is taken all the same.
    host.write("etc/containerd/edge-bootstrap.toml", "version = 2\n");
    host.write("run/edge-bootstrap/started-containerd-by-agent.json", r#"{"config":"old","main_pid":4721}"#);
    pass().await;
    assert_eq!(restarts(&host), 1);
    // The gate is back.
    let config = std::fs::read(host.dir.path().join("etc/containerd/edge-bootstrap.toml")).unwrap();
    let record = format!(r#"{{"config":"{}"}}"#, edge_bootstrap::wire::secret::sha256_hex(&config));
    host.write("run/edge-bootstrap/started-containerd.json", &record);
    assert_eq!((is_told(&pass().await), restarts(&host)), (false, 0));
}

#[tokio::test]
async fn a_restart_that_was_refused_is_asked_for_again() {
    let host = local();
    let pass = async || boot::pass(&mut host.agent(), order(Until::Verified, 0)).await;
    host.systemd.unit(UNIT, |unit| unit.on_start = OnStart::Refused);
    for _ in 0..2 {
        let refused = pass().await;
        assert_eq!((restarts(&host), is_told(&refused)), (1, false));
    }
    host.systemd.unit(UNIT, |unit| unit.on_start = OnStart::Up);
    assert_eq!((is_told(&pass().await), restarts(&host)), (false, 1));
    assert_eq!((is_told(&pass().await), restarts(&host)), (true, 0));
}

#[tokio::test]
async fn an_earlier_record_of_the_gate_restarts_k3s_once_and_not_in_every_pass() {
    const AGENT: &str = "k3s-agent.service";
    let host = local();
    let restarts = || {
        let calls = host.systemd.calls();
        calls.iter().filter(|call| call.contains("RestartUnit") && call.contains(AGENT)).count()
    };
    let pass = async || boot::pass(&mut host.agent(), order(Until::Verified, 0)).await;
    no_trouble(&pass().await);
    host.systemd.unit(AGENT, |unit| *unit = FakeUnit { pid: 5000, ..FakeUnit::up() });
    // The gate of the start before recorded other values, that of ours nothing.
    let of_the_gate = "run/edge-bootstrap/started-k3s-agent.json";
    host.write(of_the_gate, r#"{"effective":{"node-name":["web-7"]}}"#);
    host.systemd.calls();
    no_trouble(&pass().await);
    assert_eq!(restarts(), 1);
    host.systemd.unit(AGENT, |unit| (unit.pid, unit.active) = (5001, "active".into()));
    for _ in 0..2 {
        no_trouble(&pass().await);
        assert_eq!(restarts(), 0, "its own restart is remembered");
    }
    // A job that changed nothing leaves the process of before.
    host.systemd.unit(AGENT, |unit| unit.pid = 5000);
    pass().await;
    assert_eq!(restarts(), 1);
    // What the gate records of a later start counts again.
    host.systemd.unit(AGENT, |unit| (unit.pid, unit.active) = (5002, "active".into()));
    pass().await;
    assert_eq!(restarts(), 0);
    host.write("run/edge-bootstrap/next", r#"{"effective":{"node-name":["web-8"]}}"#);
    let real = host.dir.path().join(of_the_gate);
    std::fs::rename(host.dir.path().join("run/edge-bootstrap/next"), real).unwrap();
    pass().await;
    assert_eq!(restarts(), 1);
}
