//! The gate as systemd runs it: what it refuses, and that it is never the outage.

use std::time::{Duration, Instant};

use edge_lab::{Host, wait_until};
use serde_json::json;

use crate::hand::{SOON, is_active, one_steady, property, told, wait_active};

/// Starts k3s again, and says what systemd answers.
fn restarts(host: &Host) -> bool {
    host.exec(&["systemctl", "restart", "k3s"]).unwrap().success()
}

/// Waits for the journal's `times`th line with this code.
fn refused_with(host: &Host, unit: &str, code: &str, times: usize) {
    wait_until(SOON, code, || Ok((told(host, unit, code) >= times).then_some(()))).unwrap();
    assert!(!is_active(host, unit), "{unit} runs in spite of {code}");
}

/// How often the refusal in force was repeated.
fn repeats(host: &Host) -> u64 {
    let text = host.read_file("/run/edge-bootstrap/refused-k3s.json").unwrap().unwrap_or_default();
    serde_json::from_str::<serde_json::Value>(&text).unwrap_or_default()["count"].as_u64().unwrap_or(0)
}

#[test]
fn a_start_by_hand_under_a_changed_name_is_refused_in_one_line_until_the_daemon_restores_the_name() {
    let room = one_steady("g-name");
    let host = &room.hosts[0];
    let name = host.sh("hostname").unwrap();
    host.sh("systemctl stop edge-bootstrap k3s; hostname drifted").unwrap();
    let by_hand = host.exec(&["systemctl", "start", "k3s"]).unwrap();
    assert!(!by_hand.success(), "systemd says that k3s started");
    refused_with(host, "k3s", "EB-hostname", 1);
    wait_until(SOON, "three refusals", || Ok((repeats(host) >= 3).then_some(()))).unwrap();
    assert_eq!(told(host, "k3s", "EB-hostname"), 1, "one line in ten minutes");
    assert_eq!(host.sh("hostname").unwrap(), "drifted", "somebody restored the name without the daemon");
    host.sh("systemctl start edge-bootstrap").unwrap();
    assert_eq!(host.sh("hostname").unwrap(), name, "READY came before the name");
    wait_active(host, "k3s");
}

#[test]
fn a_missing_empty_torn_or_hanging_gate_does_not_stop_k3s() {
    let room = one_steady("g-sick");
    let host = &room.hosts[0];
    host.sh("mv /usr/bin/edge-bootstrap /root/whole").unwrap();
    let sick = [
        ("missing", "true"),
        ("empty", ": >/usr/bin/edge-bootstrap"),
        ("torn", "head -c $(($(stat -c %s /root/whole) / 2)) /root/whole >/usr/bin/edge-bootstrap"),
        ("hanging", "printf '#!/bin/sh\\nexec sleep infinity\\n' >/usr/bin/edge-bootstrap"),
    ];
    for (how, make) in sick {
        host.sh(&format!(
            "rm -f /usr/bin/edge-bootstrap; {make}; chmod -f 755 /usr/bin/edge-bootstrap || true"
        ))
        .unwrap();
        let before = property(host, "k3s", "InvocationID");
        let began = Instant::now();
        assert!(restarts(host), "{how}: k3s does not start");
        let took = began.elapsed();
        // Ten seconds of a gate that hangs, and k3s's own way to READY.
        let limit = Duration::from_secs(if room.k3s.real { 60 } else { 30 });
        assert!(took < limit, "{how}: k3s was held up for {took:?}");
        assert!(is_active(host, "k3s"), "{how}");
        assert_ne!(property(host, "k3s", "InvocationID"), before, "{how}: nothing was started");
        if how == "hanging" {
            assert!(took > Duration::from_secs(5), "the gate did not hang: {took:?}");
        }
    }
    // The same line does ask the gate: one that says 1 is obeyed.
    host.sh("printf '#!/bin/sh\\nexit 1\\n' >/usr/bin/edge-bootstrap").unwrap();
    assert!(!restarts(host), "nobody asked the gate");
    host.sh("mv /root/whole /usr/bin/edge-bootstrap").unwrap();
    wait_active(host, "k3s");
}

/// How something is broken, the code of the refusal, and how it is repaired.
struct Evidence {
    broken: String,
    code: &'static str,
    repaired: &'static str,
}

fn evidence(host: &Host) -> Vec<Evidence> {
    let token = r#"$(sed -n 's/^token-file: *"\?\([^"]*\)"\?$/\1/p' /etc/rancher/k3s/config.yaml)"#;
    let address = host.address();
    let daemon = "systemctl start edge-bootstrap";
    let person = "rm -f /etc/rancher/k3s/config.yaml.d/50-person.yaml";
    let network = "ip address add $(cat /root/address) dev eth0; ip route replace default via 10.77.0.1";
    let taken = format!(
        "ip -o -4 address show dev eth0 | grep -o '{address}/[0-9]*' >/root/address; ip address del $(cat /root/address) dev eth0"
    );
    let broken = |broken: &str, code, repaired| Evidence { broken: broken.to_owned(), code, repaired };
    vec![
        broken(": >/etc/rancher/k3s/config.yaml", "EB-config-empty", daemon),
        broken("rm /etc/rancher/k3s/config.yaml", "EB-config-empty", daemon),
        broken("echo 'a: [' >/etc/rancher/k3s/config.yaml", "EB-config-damaged", daemon),
        broken(&format!("test -s {token}; : >{token}"), "EB-token-empty", daemon),
        broken(&taken, "EB-ip-absent", network),
        broken(
            "mkdir -p /etc/rancher/k3s/config.yaml.d; echo 'node-name: other' >/etc/rancher/k3s/config.yaml.d/50-person.yaml",
            "EB-config-identity",
            person,
        ),
    ]
}

#[test]
fn each_evidence_refuses_with_its_code_and_k3s_comes_up_by_itself_after_the_repair() {
    let room = one_steady("g-evidence");
    let host = &room.hosts[0];
    for Evidence { broken, code, repaired } in evidence(host) {
        host.sh("systemctl stop edge-bootstrap").unwrap();
        let before = told(host, "k3s", code);
        host.sh(&broken).unwrap();
        assert!(!restarts(host), "{code}: k3s started with `{broken}`");
        refused_with(host, "k3s", code, before + 1);
        host.sh(repaired).unwrap();
        wait_active(host, "k3s");
    }
}

#[test]
fn the_unit_of_the_other_role_is_refused() {
    let room = one_steady("g-role");
    let host = &room.hosts[0];
    // A person who follows a guide for agents, with our drop-in for good measure.
    host.sh("cd /etc/systemd/system; systemctl stop edge-bootstrap
         sed 's/server/agent/; s/^Conflicts=.*/Conflicts=k3s.service/' k3s.service >k3s-agent.service
         cp -r k3s.service.d k3s-agent.service.d; systemctl daemon-reload")
        .unwrap();
    assert!(!host.exec(&["systemctl", "start", "k3s-agent"]).unwrap().success());
    refused_with(host, "k3s-agent", "EB-unit-role", 1);
    host.sh(
        "systemctl stop k3s-agent; rm -r /etc/systemd/system/k3s-agent.service*; systemctl daemon-reload",
    )
    .unwrap();
    host.sh("systemctl start k3s").unwrap();
    assert!(is_active(host, "k3s"));
}

#[test]
fn a_hold_counts_while_the_daemon_lives_and_not_after_its_death() {
    let room = one_steady("g-hold");
    let host = &room.hosts[0];
    host.write_file("/run/systemd/system/edge-bootstrap.service.d/test.conf", "[Service]\nRestart=no\n")
        .unwrap();
    host.sh("systemctl daemon-reload").unwrap();
    let pid = property(host, "edge-bootstrap", "MainPID");
    // Stopped, not dead: it would end a hold that it does not know.
    host.sh(&format!("kill -STOP {pid}")).unwrap();
    let start = host.sh(&format!("cut -d')' -f2 /proc/{pid}/stat | cut -d' ' -f21")).unwrap();
    let hold = json!({
        "code": "EB-pre-start-late",
        "reason": "held by a test",
        "boot_id": host.sh("cat /proc/sys/kernel/random/boot_id").unwrap(),
        "pid": pid.parse::<u32>().unwrap(),
        "start_time": start.parse::<u64>().unwrap(),
    });
    host.write_file("/run/edge-bootstrap/hold.json", hold.to_string()).unwrap();
    assert!(!restarts(host), "k3s started in spite of the hold");
    refused_with(host, "k3s", "held by a test", 1);
    host.sh(&format!("kill -KILL {pid}")).unwrap();
    wait_active(host, "k3s");
    assert!(!is_active(host, "edge-bootstrap"), "the daemon came back");
    assert!(
        host.read_file("/run/edge-bootstrap/hold.json").unwrap().is_some(),
        "the hold went by another way"
    );
}
