//! The node IP on real hosts: taken away, in the dark, kept by us, and used by somebody else.

use std::time::{Duration, Instant};

use edge_lab::room::{self, LONG};
use edge_lab::{Host, HostSpec, Room, Suite, wait_until};
use serde_json::Value;

use crate::hand::{
    SOON, further_pass, invocations, is_active, one_steady, status, told, wait_active, wait_told,
};
use crate::router::Router;

/// The text of a finding of this code.
fn finding(host: &Host, code: &str) -> Option<String> {
    let findings = status(host)["findings"].as_array().cloned().unwrap_or_default();
    let found = findings.into_iter().find(|finding| finding["code"] == code)?;
    assert_eq!(found["status"], "fail", "{found}");
    found["text"].as_str().map(str::to_owned)
}

fn wait_finding(host: &Host, code: &str, limit: Duration) -> String {
    wait_until(limit, code, || Ok(finding(host, code))).unwrap()
}

fn wait_gone(host: &Host, code: &str) {
    wait_until(SOON, "the finding is gone", || Ok(finding(host, code).is_none().then_some(()))).unwrap();
}

/// The last look at who else has the address.
fn look(host: &Host) -> Value {
    let text = host.read_file("/run/edge-bootstrap/address.json").unwrap().unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// `ip` in a host's network, from outside it, also while the host is off.
fn ip(room: &Room, host: &str, words: &str) -> String {
    let netns = format!("{}.{host}", room.lab.net().netns());
    let all: Vec<&str> = ["ip", "-n", &netns].into_iter().chain(words.split(' ')).collect();
    room.lab.net().cmd(&all).run().unwrap().ok().unwrap()
}

fn mac(room: &Room, host: &str) -> String {
    let link = ip(room, host, "-o link show dev eth0");
    link.split_once("link/ether ").unwrap().1.split(' ').next().unwrap().to_owned()
}

/// Somebody with the address of `host`: its kernel answers, though nothing is booted there.
fn impostor(room: &Room, host: &Host) -> Host {
    let mut spec = HostSpec::new("imp", Suite::Trixie);
    spec.address = Some(host.address());
    // The bridge's own side must keep talking to the right one.
    let own = mac(room, host.name());
    let fixed = format!("neigh replace {} lladdr {own} dev br0 nud permanent", host.address());
    let words: Vec<&str> = ["ip"].into_iter().chain(fixed.split(' ')).collect();
    room.lab.net().cmd(&words).run().unwrap().ok().unwrap();
    room.lab.host(spec).unwrap()
}

fn prefixed(host: &Host) -> String {
    format!("{}/16", host.address())
}

#[test]
fn an_address_taken_away_is_told_with_its_cause_while_k3s_goes_on_and_its_next_start_waits() {
    let room = one_steady("a-gone");
    let host = &room.hosts[0];
    let (before, address) = (invocations(host), prefixed(host));
    // After a quiet pass the next one by the clock is 30 s away.
    further_pass(host);
    let began = Instant::now();
    host.sh(&format!("ip address del {address} dev eth0")).unwrap();
    let text = wait_finding(host, "EB-ip-absent", Duration::from_secs(15));
    println!("told after {:?}: {text}", began.elapsed());
    assert!(text.contains("eth0 is up and has no such address"), "{text}");
    host.sh("ip address add 10.77.9.9/16 dev eth0").unwrap();
    wait_until(SOON, "the other address", || {
        Ok(finding(host, "EB-ip-absent").filter(|text| text.contains("eth0 has 10.77.9.9/16 instead")))
    })
    .unwrap();
    further_pass(host);
    assert_eq!(invocations(host), before, "something was stopped or started");
    assert!(
        !host.exec(&["systemctl", "restart", "k3s"]).unwrap().success(),
        "k3s started without its address"
    );
    wait_until(SOON, "the gate's line", || {
        Ok((told(host, "k3s", "eth0 has 10.77.9.9/16 instead") > 0).then_some(()))
    })
    .unwrap();
    host.sh(&format!("ip address add {address} dev eth0; ip route replace default via 10.77.0.1")).unwrap();
    wait_active(host, "k3s");
    wait_gone(host, "EB-ip-absent");
    room.wait_steady(LONG).unwrap();
    // It came back, so it is asked at once who else has it.
    wait_until(SOON, "a look", || Ok((look(host)["result"] == "free").then_some(()))).unwrap();
}

#[test]
fn a_cable_that_is_out_is_the_cause_that_gate_and_status_name() {
    let room = one_steady("a-cable");
    let host = &room.hosts[0];
    let address = prefixed(host);
    room.lab.net().unplug("n1").unwrap();
    host.sh(&format!("ip address del {address} dev eth0")).unwrap();
    let text = wait_finding(host, "EB-ip-absent", SOON);
    assert!(text.contains("eth0 has no carrier"), "{text}");
    assert!(!host.exec(&["systemctl", "restart", "k3s"]).unwrap().success());
    wait_until(SOON, "the gate's line", || Ok((told(host, "k3s", "eth0 has no carrier") > 0).then_some(())))
        .unwrap();
    room.lab.net().plug("n1").unwrap();
    host.sh(&format!("ip address add {address} dev eth0; ip route replace default via 10.77.0.1")).unwrap();
    wait_active(host, "k3s");
    wait_gone(host, "EB-ip-absent");
}

#[test]
fn an_address_that_nothing_else_configures_is_put_back_before_k3s_starts_after_a_power_cut() {
    let mut room = Room::open("a-manage").unwrap();
    let host = room.bare("n1", Suite::Trixie).unwrap();
    let address = prefixed(&host);
    host.boot().unwrap();
    room.configure(&host).unwrap();
    host.write_file("/etc/edge-bootstrap/config.d/30-ip.toml", "[node]\nmanage-ip = true\n").unwrap();
    host.install(room.package()).unwrap();
    room.hosts.push(host);
    room.wait_steady(LONG).unwrap();
    let host = &room.hosts[0];
    wait_until(SOON, "the interface is pinned", || {
        let text = host.read_file("/var/lib/edge-bootstrap/identity.json")?.unwrap_or_default();
        Ok(text.contains("\"name\":\"eth0\"").then_some(()))
    })
    .unwrap();
    host.cut().unwrap();
    ip(&room, "n1", "address flush dev eth0");
    ip(&room, "n1", "link set eth0 down");
    host.boot_no_wait().unwrap();
    room.wait_steady(LONG).unwrap();
    let shown = ip(&room, "n1", "-o -4 address show dev eth0");
    assert!(shown.contains(&address), "{shown}");
    assert_eq!(told(host, "k3s", "EB-ip-absent"), 0, "k3s was asked to start before the address was there");
    assert_eq!(told(host, "edge-bootstrap", "node IP added"), 1);
    // Somebody takes it away while everything runs.
    let before = invocations(host);
    host.sh(&format!("ip address del {address} dev eth0")).unwrap();
    wait_until(SOON, "the address is back", || {
        Ok(ip(&room, "n1", "-o -4 address show dev eth0").contains(&address).then_some(()))
    })
    .unwrap();
    assert_eq!(invocations(host), before);
}

#[test]
fn an_impostor_with_its_address_never_stops_a_joined_node_and_is_named_by_its_hardware_address() {
    let room = one_steady("a-joined");
    let host = &room.hosts[0];
    wait_until(SOON, "a first look", || Ok((look(host)["result"] == "free").then_some(()))).unwrap();
    host.cut().unwrap();
    let other = impostor(&room, host);
    let mac = mac(&room, "imp");
    host.boot_no_wait().unwrap();
    let is_up = || host.exec(&["systemctl", "is-active", "k3s"]).map(|answer| answer.success());
    wait_until(LONG, "k3s is up", || Ok(is_up()?.then_some(()))).unwrap();
    let text = wait_finding(host, "EB-address-duplicate", Duration::from_secs(90));
    assert!(text.contains(&mac), "{text} does not name {mac}");
    let before = invocations(host);
    assert_eq!(told(host, "k3s", "EB-"), 0, "the gate refused the original");
    assert!(host.exec(&["systemctl", "restart", "k3s"]).unwrap().success(), "the original may not start");
    further_pass(host);
    assert_ne!(invocations(host)[0], before[0]);
    assert!(is_active(host, "k3s"));
    drop(other);
    wait_until(Duration::from_secs(150), "the finding is gone", || {
        Ok(finding(host, "EB-address-duplicate").is_none().then_some(()))
    })
    .unwrap();
    room::steady(host, LONG).unwrap();
}

#[test]
fn a_host_that_never_joined_does_not_start_while_another_one_has_its_address() {
    let room = Room::open("a-taken").unwrap();
    let host = room.bare("n1", Suite::Trixie).unwrap();
    let other = impostor(&room, &host);
    let mac = mac(&room, "imp");
    host.boot().unwrap();
    room.configure(&host).unwrap();
    host.install(room.package()).unwrap();
    let why = wait_until(LONG, "the refusal", || {
        let status = status(&host);
        let code = status["waiting_on"]["code"].as_str().unwrap_or_default().to_owned();
        Ok((code == "EB-address-duplicate").then_some(status["waiting_on"].to_string()))
    })
    .unwrap();
    assert!(why.contains(&mac), "{why}");
    assert_eq!(look(&host)["result"]["taken"]["mac"].as_str(), Some(mac.as_str()));
    assert!(
        !host.exec(&["systemctl", "start", "k3s"]).unwrap().success(),
        "a person's start was not refused"
    );
    wait_told(&host, "k3s", "EB-address-duplicate");
    // A boot begins with the question, before the unit could start.
    host.cut().unwrap();
    host.boot().unwrap();
    wait_until(LONG, "refused again", || Ok((look(&host)["result"]["taken"].is_object()).then_some(())))
        .unwrap();
    assert!(!is_active(&host, "k3s"));
    assert!(!started(&host), "k3s has run");
    drop(other);
    room::steady(&host, LONG).unwrap();
    assert!(is_active(&host, "k3s"));
}

/// Whether k3s ever made its datastore.
fn started(host: &Host) -> bool {
    host.exec(&["test", "-e", "/var/lib/rancher/k3s/server/db"]).unwrap().success()
}

#[test]
fn a_router_that_answers_for_everybody_does_not_keep_a_new_host_down() {
    let mut room = Room::open("a-proxy").unwrap();
    let host = room.bare("n1", Suite::Trixie).unwrap();
    // Unbooted: only its place on the bridge.
    let place = room.lab.host(HostSpec::new("router", Suite::Trixie)).unwrap();
    let router = Router::open(&format!("{}.router", room.lab.net().netns()));
    host.boot().unwrap();
    room.configure(&host).unwrap();
    host.install(room.package()).unwrap();
    room.hosts.push(host);
    room.wait_steady(LONG).unwrap();
    let host = &room.hosts[0];
    assert_eq!(look(host)["result"], "free", "{}", look(host));
    let answered = router.close();
    assert!(answered.contains(&host.address()), "the router did not answer for the node IP: {answered:?}");
    assert!(answered.len() >= 3, "nobody asked for the two that nobody has: {answered:?}");
    drop(place);
}
