//! The daemon as systemd runs it: when it is ready, what it leaves alone, what
//! it puts back, and how it goes and comes again.

use std::time::Duration;

use edge_lab::room::{LONG, steady};
use edge_lab::{Host, wait_until};
use serde_json::Value;

use crate::hand::{
    SOON, further_pass, invocations, is_active, number, one_steady, property, status, status_text, told,
    wait_active,
};

const CONTAINERD_CONFIG: &str = "/etc/containerd/edge-bootstrap.toml";

/// Of systemd's lines about the begin of a unit's start.
const STARTING: &str = "MESSAGE_ID=7d4958e842da4a758f6c1cdc7b36dcc5";

/// Microseconds from the first start of the agent in this boot to that of containerd,
/// which like k3s is ordered after it.
fn held_for(host: &Host) -> u64 {
    let log =
        host.sh(&format!("journalctl -b -o json --no-pager {STARTING} UNIT=edge-bootstrap.service")).unwrap();
    let first: Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    let began: u64 = first["__MONOTONIC_TIMESTAMP"].as_str().unwrap().parse().unwrap();
    number(host, "containerd", "InactiveExitTimestampMonotonic") - began
}

#[test]
fn a_daemon_that_hangs_before_ready_delays_k3s_by_at_most_60_seconds() {
    let room = one_steady("d-hang");
    let host = &room.hosts[0];
    let hang = "[Service]\nExecStart=\nExecStart=/bin/sleep infinity\n";
    host.write_file("/etc/systemd/system/edge-bootstrap.service.d/50-hang.conf", hang).unwrap();
    // What k3s has only just unpacked a cut would empty, and nobody is there to mend it.
    host.sh("sync -f /var/lib/rancher").unwrap();
    host.cut().unwrap();
    host.boot_no_wait().unwrap();
    wait_until(Duration::from_secs(90), "k3s is up beside a daemon that hangs", || {
        let state = host.exec(&["systemctl", "is-active", "k3s"])?;
        Ok((state.stdout.trim() == "active").then_some(()))
    })
    .unwrap();
    let delay = Duration::from_micros(held_for(host));
    assert!(delay > Duration::from_secs(50), "the daemon did not hang: {delay:?}");
    // The limit itself, and a second for its expiry and two processes more.
    assert!(delay <= Duration::from_secs(61), "k3s was delayed by {delay:?}");
}

/// Everything about all files that a write would change.
fn files(host: &Host) -> String {
    // Which number the next report has is no pass's work.
    let print = "-printf '%p %i %T@ %C@ %m %U:%G %s %l\\n'";
    host.sh(&format!("find /etc /var/lib/edge-bootstrap ! -name 'counter.json*' {print} | sort")).unwrap()
}

/// Jobs of units that we manage, begun and done, as systemd logs them.
fn jobs(host: &Host) -> Vec<String> {
    let script = "journalctl -b -o json --no-pager JOB_TYPE=start + JOB_TYPE=stop + JOB_TYPE=restart";
    let managed =
        ["k3s", "containerd", "systemd-sysctl", "systemd-modules-load"].map(|name| format!("{name}.service"));
    let log = host.sh(script).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let ours = lines.filter(|line| managed.iter().any(|unit| line["UNIT"] == unit.as_str()));
    ours.map(|line| format!("{} of {}", line["JOB_ID"], line["UNIT"])).collect()
}

#[test]
fn a_second_pass_changes_nothing() {
    let room = one_steady("d-second");
    let host = &room.hosts[0];
    // What the first steady pass learnt is written by the one after it, and counts as good after 20 s of k3s.
    further_pass(host);
    wait_until(LONG, "the generation is good", || {
        let ledger = host.read_file("/var/lib/edge-bootstrap/ledger.json")?.unwrap_or_default();
        Ok(ledger.contains(r#""phase":"healthy""#).then_some(()))
    })
    .unwrap();
    further_pass(host);
    let before = (files(host), invocations(host), jobs(host));
    assert!(before.2.iter().any(|job| job.contains("k3s")), "no job is found in {:?}", before.2);
    further_pass(host);
    further_pass(host);
    let after = (files(host), invocations(host), jobs(host));
    let changed: Vec<&str> = after.0.lines().filter(|line| !before.0.contains(line)).collect();
    assert_eq!(changed, Vec::<&str>::new(), "files were written");
    assert_eq!(before.0.lines().count(), after.0.lines().count(), "files are gone");
    assert_eq!((before.1, before.2), (after.1, after.2), "units were touched");
    let plan = host.exec(&["edge-bootstrap", "plan"]).unwrap();
    assert_eq!(plan.code, 0, "{}{}", plan.stdout, plan.stderr);
    host.sh(&format!("echo '# drift' >>{CONTAINERD_CONFIG}")).unwrap();
    assert_eq!(host.exec(&["edge-bootstrap", "plan"]).unwrap().code, 2, "plan does not see a change");
}

#[test]
fn a_unit_that_a_person_stopped_stays_stopped_until_resume() {
    let room = one_steady("d-person");
    let host = &room.hosts[0];
    let stopped = host.sh("date -u +%Y-%m-%dT%H:%M; systemctl stop k3s").unwrap();
    wait_until(SOON, "status tells", || Ok(status_text(host).contains("left alone").then_some(()))).unwrap();
    further_pass(host);
    further_pass(host);
    assert!(!is_active(host, "k3s"), "somebody started it");
    let text = status_text(host);
    let line = text.lines().find(|line| line.starts_with("left alone")).unwrap();
    let hour = &stopped[..13];
    assert!(line.contains("k3s.service: stopped by a person (since ") && line.contains(hour), "{line}");
    host.sh("edge-bootstrap resume").unwrap();
    wait_active(host, "k3s");
    steady(host, LONG).unwrap();
    assert!(!status_text(host).contains("left alone"));
}

fn drift(host: &Host) {
    host.sh(&format!("echo '# drift' >>{CONTAINERD_CONFIG}")).unwrap();
}

fn has_drifted(host: &Host) -> bool {
    host.read_file(CONTAINERD_CONFIG).unwrap().is_none_or(|text| text.contains("# drift"))
}

#[test]
fn what_a_hand_changed_is_put_back_but_not_while_a_person_pauses_the_agent() {
    let room = one_steady("d-drift");
    let host = &room.hosts[0];
    let running = invocations(host);
    let name = host.sh("hostname").unwrap();
    host.sh("hostname drifted").unwrap();
    let back = || Ok((host.sh("hostname")? == name).then_some(()));
    wait_until(SOON, "the hostname is put back", back).unwrap();
    drift(host);
    host.sh("systemctl reload edge-bootstrap").unwrap();
    wait_until(SOON, "the file is put back", || Ok((!has_drifted(host)).then_some(()))).unwrap();
    steady(host, SOON).unwrap();
    host.sh("edge-bootstrap pause --for 2h --reason 'disk is changed'").unwrap();
    drift(host);
    wait_until(SOON, "status is paused", || Ok((status(host)["phase"] == "paused").then_some(()))).unwrap();
    further_pass(host);
    assert!(has_drifted(host), "a paused agent wrote a file");
    let text = status_text(host);
    assert!(
        text.lines().any(|line| line.starts_with("paused") && line.ends_with("disk is changed")),
        "{text}"
    );
    host.sh("edge-bootstrap resume").unwrap();
    wait_until(SOON, "the file is put back", || Ok((!has_drifted(host)).then_some(()))).unwrap();
    assert_eq!(invocations(host), running, "a comment restarted something");
}

#[test]
fn a_boot_without_any_answer_from_the_network_starts_k3s() {
    let room = one_steady("d-dark");
    let host = &room.hosts[0];
    host.cut().unwrap();
    room.lab.net().fault(8443, "counter drop").unwrap();
    host.boot().unwrap();
    wait_active(host, "k3s");
    steady(host, LONG).unwrap();
    assert!(status(host)["last_contact"].is_null(), "central answered");
    let ready = number(host, "edge-bootstrap", "ActiveEnterTimestampMonotonic");
    let took = ready - number(host, "edge-bootstrap", "ExecMainStartTimestampMonotonic");
    // Less than any connection that is dropped takes to give up, on any machine;
    // how quick it is, the benchmark tells.
    assert!(took < 9_000_000, "READY after {took} µs");
}

#[test]
fn a_stop_and_an_upgrade_of_the_agent_leave_k3s_alone() {
    let room = one_steady("d-stop");
    let host = &room.hosts[0];
    let running = invocations(host);
    host.sh("systemctl stop edge-bootstrap").unwrap();
    let ended =
        ["Result", "ExecMainCode", "ExecMainStatus"].map(|name| property(host, "edge-bootstrap", name));
    assert_eq!(ended, ["success", "1", "0"], "not a clean end");
    assert!(is_active(host, "k3s"));
    host.sh("systemctl start edge-bootstrap").unwrap();
    let before = property(host, "edge-bootstrap", "InvocationID");
    host.install(room.package()).unwrap();
    wait_active(host, "edge-bootstrap");
    assert_ne!(property(host, "edge-bootstrap", "InvocationID"), before, "the old program goes on");
    steady(host, LONG).unwrap();
    assert_eq!(invocations(host), running);
}

#[test]
fn a_daemon_that_stands_still_is_started_again_and_k3s_runs_on() {
    let room = one_steady("d-dog");
    let host = &room.hosts[0];
    let running = invocations(host);
    assert_eq!(property(host, "edge-bootstrap", "WatchdogUSec"), "1min");
    // The shipped minute is shortened, and nothing else.
    let short = "[Service]\nWatchdogSec=20\nTimeoutStopSec=3\nRestartSec=1\n";
    host.write_file("/etc/systemd/system/edge-bootstrap.service.d/50-short.conf", short).unwrap();
    host.sh("systemctl daemon-reload; systemctl restart edge-bootstrap").unwrap();
    steady(host, LONG).unwrap();
    let before = property(host, "edge-bootstrap", "MainPID");
    host.sh(&format!("kill -STOP {before}")).unwrap();
    wait_until(LONG, "another process", || {
        let now = property(host, "edge-bootstrap", "MainPID");
        Ok((now != before && now != "0" && is_active(host, "edge-bootstrap")).then_some(()))
    })
    .unwrap();
    assert_eq!(number(host, "edge-bootstrap", "NRestarts"), 1);
    assert!(told(host, "edge-bootstrap", "atchdog timeout") > 0);
    steady(host, LONG).unwrap();
    assert_eq!(invocations(host), running);
}

/// How many starts the daemon counted in this boot.
fn begun(host: &Host) -> u64 {
    let text = host.read_file("/run/edge-bootstrap/starts.json").unwrap().unwrap_or_default();
    serde_json::from_str::<Value>(&text).unwrap_or_default()["begun"].as_u64().unwrap_or(0)
}

/// Starts the daemon and kills it before READY, for which somebody holds the lock.
fn fails_before_ready(host: &Host) {
    let further = begun(host) + 1;
    // In one breath: it waits for the lock for no more than two seconds.
    let state = host.sh(&format!(
        "systemctl restart --no-block edge-bootstrap
         until grep -q '\"begun\":{further}\\b' /run/edge-bootstrap/starts.json; do sleep 0.02; done
         systemctl show -P ActiveState edge-bootstrap
         kill -KILL $(systemctl show -P MainPID edge-bootstrap)"
    ));
    assert_eq!(state.unwrap(), "activating", "READY came too soon");
    let dead = || Ok((property(host, "edge-bootstrap", "MainPID") == "0").then_some(()));
    wait_until(SOON, "it is dead", dead).unwrap();
}

#[test]
fn the_third_start_after_two_that_failed_is_ready_at_once_and_only_observes() {
    let room = one_steady("d-third");
    let host = &room.hosts[0];
    let running = invocations(host);
    host.sh("systemctl stop edge-bootstrap; systemd-run -q -u locked flock /run/edge-bootstrap/lock sleep infinity")
        .unwrap();
    let locked =
        || Ok((!host.exec(&["flock", "-n", "/run/edge-bootstrap/lock", "true"])?.success()).then_some(()));
    wait_until(SOON, "the lock is held", locked).unwrap();
    fails_before_ready(host);
    fails_before_ready(host);
    drift(host);
    host.sh("systemctl restart edge-bootstrap").unwrap();
    let ready = number(host, "edge-bootstrap", "ActiveEnterTimestampMonotonic");
    let took = ready - number(host, "edge-bootstrap", "ExecMainStartTimestampMonotonic");
    // The lock alone would have cost so much.
    assert!(took < 2_000_000, "READY after {took} µs");
    host.sh("systemctl stop locked").unwrap();
    further_pass(host);
    assert!(has_drifted(host), "it did more than observe");
    assert!(status_text(host).contains("EB-safe-mode"), "{}", status_text(host));
    assert_eq!(invocations(host), running);
    // The way out that it names.
    host.sh("systemctl restart edge-bootstrap").unwrap();
    assert!(!has_drifted(host), "it still only observes");
    steady(host, SOON).unwrap();
}

#[test]
fn a_reload_with_a_broken_configuration_leaves_the_settings_in_force() {
    const BROKEN: &str = "/etc/edge-bootstrap/config.d/90-broken.toml";
    let room = one_steady("d-broken");
    let host = &room.hosts[0];
    host.write_file(BROKEN, "[node]\nsitte = \"x\"\n").unwrap();
    host.sh("systemctl reload edge-bootstrap").unwrap();
    wait_until(SOON, "status tells of it", || Ok(status_text(host).contains("EB-config").then_some(())))
        .unwrap();
    drift(host);
    wait_until(LONG, "the file is put back all the same", || Ok((!has_drifted(host)).then_some(()))).unwrap();
    host.sh(&format!("rm {BROKEN}; systemctl reload edge-bootstrap")).unwrap();
    wait_until(SOON, "status forgets it", || Ok((!status_text(host).contains("EB-config")).then_some(())))
        .unwrap();
}
