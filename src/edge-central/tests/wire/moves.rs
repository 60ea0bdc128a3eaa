//! `node move` over the wire: a host goes to another site with the same key.

use edge_bootstrap::wire::assignment::Payload;
use edge_bootstrap::wire::envelope::{Envelope, SigningKey};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::common::{Central, Host, SITE, code};

const ELSEWHERE: &str = "hz-018";

async fn two_sites() -> Central {
    let central = Central::start().await;
    central.cli(&["site", "add", ELSEWHERE, "--k3s-version", "v1.36.2+k3s1"]);
    central
}

/// What the host shall be, whatever its site; checked as a host does.
async fn newest(host: &Host, generation: u64) -> Payload {
    let response = host.ask(generation, 15).await;
    assert_eq!(response.status(), StatusCode::OK);
    let envelope: Envelope = response.json().await.unwrap();
    let (_, claim) = host.claim(None).await;
    let key = SigningKey::try_from(claim["signing_key"].as_str().unwrap().to_owned()).unwrap();
    let bytes = envelope.open(&[key]).unwrap();
    edge_bootstrap::role::parse_payload(&bytes).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// The body of a report of a host that is pinned as `name` in `site`.
fn pinned(host: &mut Host, generation: u64, (site, name): (&str, &str), cluster: &Value) -> Value {
    let mut body = host.report_body(generation, cluster);
    let ip = name.replace('-', ".");
    body["node"] = json!({"name": name, "ip": ip, "site": site, "cluster": site});
    body
}

async fn send(host: &Host, body: &Value) {
    let (status, answer) = host.send_report(body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}

fn site(central: &Central, name: &str) -> Value {
    central.cli_json(&["site", "show", name])
}

fn ca(digit: &str) -> Value {
    json!({"ca_hash": digit.repeat(64), "init_started": 1})
}

#[tokio::test]
async fn a_moved_host_gets_its_place_and_role_in_the_new_site_and_may_change_until_it_arrived() {
    let central = two_sites().await;
    let mut host = central.claimed(1, &central.server_token("1")).await;
    let old = newest(&host, 0).await;
    host.joined(old.generation, "a").await;
    let old = newest(&host, old.generation).await.generation;
    central.cli(&["node", "move", &host.id, "--site", ELSEWHERE, "--ip", "172.16.37.9", "--force"]);
    let new = newest(&host, old).await;
    let (node, cluster) = (new.node.unwrap(), new.cluster.unwrap());
    assert!(new.generation > old && new.site == ELSEWHERE && node.name == "172-16-37-9");
    // The room is empty: it forms the new cluster.
    assert!(cluster.rejoin && cluster.init && cluster.ca_hash.is_none() && new.role == "server");
    // It has the assignment and has not left yet: what it says is about the old cluster.
    let late = pinned(&mut host, new.generation, (SITE, "172-16-36-1"), &ca("a"));
    send(&host, &late).await;
    assert_eq!(site(&central, ELSEWHERE)["ca_hash"], Value::Null);
    assert_eq!(central.node(&host.id)["reported"]["init_started"], Value::Null);
    assert_eq!(central.node(&host.id)["rejoin"], true);
    // The same assignment again, and the same move again: nothing new.
    central.cli(&["node", "move", &host.id, "--site", ELSEWHERE, "--ip", "172.16.37.9"]);
    assert_eq!(host.ask_status(new.generation).await, 304);
    let arrived = pinned(&mut host, new.generation, (ELSEWHERE, "172-16-37-9"), &ca("b"));
    for _ in 0..2 {
        // The answer was lost: it comes twice.
        send(&host, &arrived).await;
    }
    assert_eq!(site(&central, ELSEWHERE)["ca_hash"], "b".repeat(64));
    assert_eq!(site(&central, SITE)["ca_hash"], "a".repeat(64));
    let last = newest(&host, new.generation).await;
    assert!(!last.cluster.unwrap().rejoin && last.generation == new.generation + 1);
    let log = central.cli(&["audit"]);
    assert!(log.contains("node-move") && log.contains("node-arrived"), "{log}");
}

#[tokio::test]
async fn the_old_room_forgets_a_moved_host() {
    let central = two_sites().await;
    let token = central.server_token("2");
    let (mut first, second) = (central.claimed(1, &token).await, central.claimed(2, &token).await);
    let old = newest(&first, 0).await.generation;
    first.joined(old, "a").await;
    newest(&second, 0).await;
    let before = newest(&first, old).await;
    assert_eq!(before.room.len(), 1);
    central.cli(&["node", "move", &second.id, "--site", ELSEWHERE]);
    assert!(newest(&first, before.generation).await.room.is_empty());
}

#[tokio::test]
async fn a_moved_host_that_lost_its_state_is_known_by_its_key_under_its_old_site() {
    let central = two_sites().await;
    let mut host = central.claimed(1, &central.server_token("1")).await;
    let old = newest(&host, 0).await.generation;
    central.cli(&["node", "move", &host.id, "--site", ELSEWHERE, "--ip", "172.16.37.9", "--force"]);
    let new = newest(&host, old).await.generation;
    let arrived = pinned(&mut host, new, (ELSEWHERE, "172-16-37-9"), &ca("b"));
    send(&host, &arrived).await;
    assert_eq!(central.node(&host.id)["rejoin"], false);
    // Its own settings say the old site and address still.
    let (status, _) = host.claim(None).await;
    assert_eq!(status, StatusCode::OK);
    let again = newest(&host, 0).await;
    assert!(again.site == ELSEWHERE && again.cluster.unwrap().rejoin);
    assert_eq!(again.node.unwrap().name, "172-16-37-9");
}

#[tokio::test]
async fn a_move_that_would_break_something_is_refused() {
    let central = two_sites().await;
    let token = central.server_token("2");
    let (mut first, second) = (central.claimed(1, &token).await, central.claimed(2, &token).await);
    let refused = |words: &[&str], why: &str| {
        let (done, _, error) = central.try_cli(&[&["node", "move"], words].concat());
        assert!(!done && error.contains(why), "{words:?}: {error}");
    };
    let generation = newest(&first, 0).await.generation;
    refused(&[&first.id, "--site", ELSEWHERE], "init lease");
    first.joined(generation, "a").await;
    refused(&[&first.id, "--site", ELSEWHERE], "no majority");
    refused(&[&first.id, "--site", SITE, "--ip", "172.16.36.2"], "is taken");
    refused(&[&first.id, "--site", SITE, "--name", "../x"], "--name");
    refused(&[&first.id, "--site", "nowhere"], "no site");
    refused(&[&second.id, "--site", ELSEWHERE, "--ip", "127.0.0.1"], "cannot be the address");
    central.cli(&["node", "revoke", &second.id]);
    refused(&[&second.id, "--site", ELSEWHERE], "only a host that has its place");
}

#[tokio::test]
async fn a_key_whose_host_was_never_in_a_site_has_no_place_there() {
    let central = two_sites().await;
    let host = central.claimed(1, &central.server_token("1")).await;
    let mut body = host.claim_body(None);
    body["site"] = json!(ELSEWHERE);
    let answer = host.client.post(format!("{}/v1/claims", host.url)).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(code(&answer.json().await.unwrap()), "denied");
}
