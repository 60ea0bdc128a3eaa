//! A host changes its role and loses its power at every step that its journal knows,
//! there and back: the next boot goes on from that step, with nobody's help.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use edge_lab::room::LONG;
use edge_lab::{Host, say};
use serde_json::Value;

use crate::hand::{property, server_and_agent, status_text};
use crate::roles::{assign, called, members, wait_role};

const IDENTITY: &str = "var/lib/edge-bootstrap/identity.json";
/// A role, its unit, and the steps on the way to it as `identity.json` tells them.
type Way = (&'static str, &'static str, &'static [&'static str]);
const WAYS: [Way; 2] = [
    ("server", "k3s", &["retiring", "written"]),
    ("agent", "k3s-agent", &["asked", "left", "tidied", "retiring", "written"]),
];
/// A step of milliseconds may be over before the power goes; it is then tried again.
const ROUNDS: u32 = 20;

/// The step of a record; `written`: the new configuration is in force and k3s has not joined with it.
fn step(record: &str, role: &str) -> Option<String> {
    let record: Value = serde_json::from_str(record).unwrap_or_default();
    let body = &record["body"];
    if let Some(step) = body["departing"]["step"].as_str() {
        return Some(step.to_owned());
    }
    if !body["retiring"].is_null() {
        return Some("retiring".to_owned());
    }
    let word = if body["joined"].is_null() { "written" } else { "joined" };
    (body["role"] == role).then(|| word.to_owned())
}

/// Cuts the power as soon as the host has come to this step, or past it; gives the
/// step that is on its disk.
fn cut_at(host: &Host, (role, _, steps): Way, wanted: &str) -> String {
    let file = host.seen_from_outside().unwrap().join(IDENTITY);
    let place = |step: &str| steps.iter().position(|it| *it == step).unwrap_or(steps.len());
    let end = Instant::now() + LONG;
    // Looked at more often than `wait_until` does: some steps last for milliseconds.
    loop {
        let now = step(&std::fs::read_to_string(&file).unwrap_or_default(), role);
        if now.is_some_and(|now| place(&now) >= place(wanted)) {
            break;
        }
        assert!(Instant::now() < end, "{wanted} is not reached\n{}", status_text(host));
        std::thread::sleep(Duration::from_millis(1));
    }
    host.cut().unwrap();
    let record = host.edit(&format!("cat ./{IDENTITY}")).unwrap();
    step(&record, role).unwrap_or_else(|| "nothing".to_owned())
}

#[test]
#[ignore = "takes minutes: run by `make campaign`"]
fn a_change_of_the_role_goes_on_from_every_step_at_which_the_power_went() {
    let room = server_and_agent("c-roles");
    let (first, host) = (&room.hosts[0], &room.hosts[1]);
    let (node, runs) = (host.sh("hostname").unwrap(), property(first, "k3s", "InvocationID"));
    let all = || WAYS.iter().flat_map(|(role, _, steps)| steps.iter().map(move |step| (*role, *step)));
    let mut met = BTreeSet::new();
    for round in 0..ROUNDS {
        let missing =
            |role: &str| all().find(|(of, step)| *of == role && !met.contains(&(*of, (*step).to_owned())));
        let way = WAYS[round as usize % WAYS.len()];
        if WAYS.iter().all(|(role, ..)| missing(role).is_none()) && way.0 == "server" {
            break;
        }
        let (role, unit, steps) = way;
        let wanted = missing(role).map_or(steps[0], |(_, step)| step);
        assign(&room, host, role);
        let found = cut_at(host, way, wanted);
        let began = Instant::now();
        host.boot_no_wait().unwrap();
        wait_role(host, role, unit);
        say(&format!(
            "{round}: to {role}, power gone at {found} (wanted {wanted}), steady {:.1} s later",
            began.elapsed().as_secs_f64()
        ));
        let (voters, roles) = if role == "server" { (2, "control-plane,etcd") } else { (1, "<none>") };
        edge_lab::wait_until(LONG, "the cluster says so too", || {
            Ok((members(&room) == voters && called(first, &node) == roles).then_some(()))
        })
        .unwrap();
        assert_eq!(property(first, "k3s", "InvocationID"), runs, "the other server was restarted");
        met.insert((role, found));
    }
    let unseen: Vec<_> = all().filter(|(role, step)| !met.contains(&(*role, (*step).to_owned()))).collect();
    assert!(unseen.is_empty(), "the power never went at {unseen:?}; it did at {met:?}");
}
