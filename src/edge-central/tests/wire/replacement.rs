//! Hosts that are gone for good or lost their disk: who waits for whom.

use edge_bootstrap::wire::assignment::Payload;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::common::{Central, Host, code};

/// A claim from the machine with this number.
async fn claim_from(host: &Host, machine: u8, token: Option<&str>) -> (StatusCode, Value) {
    let mut body = host.claim_body(token);
    body["facts"] = json!({
        "identity": {"board": {"uuid": format!("uuid-{machine}")}},
        "network": {"interfaces": [{"permanent_mac": format!("52:54:00:00:00:{machine:02x}")}]},
    });
    let answer = host.client.post(format!("{}/v1/claims", host.url)).json(&body).send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

/// What a server says once it runs in the site's cluster; its newest assignment.
async fn runs(host: &mut Host, generation: u64, more: &Value) -> Payload {
    let mut cluster = json!({"ca_hash": "a".repeat(64), "etcd_member": "m-0000000a"});
    cluster.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    host.report(generation, cluster).await;
    host.assignment(0).await.0
}

/// Servers 1 to 3 and agent 4, each on the machine of its number, all in the cluster.
async fn room(central: &Central) -> Vec<Host> {
    let mut hosts: Vec<Host> = (1..=4).map(|number| central.host(number)).collect();
    let token = central.server_token("4");
    for (host, machine) in hosts.iter_mut().zip(1..) {
        assert_eq!(claim_from(host, machine, Some(&token)).await.0, StatusCode::OK);
        let role = if machine == 4 { "agent" } else { "server" };
        central.cli(&["assign", &host.id, "--role", role]);
        let generation = host.assignment(0).await.0.generation;
        runs(host, generation, &json!({})).await;
        // The helpers above claim without facts.
        assert_eq!(claim_from(host, machine, None).await.0, StatusCode::OK);
    }
    hosts
}

fn leaving(central: &Central) -> Vec<String> {
    let site = central.cli_json(&["site", "show", "hz-017"]);
    let names = site["leaving"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap().to_owned());
    names.collect()
}

#[tokio::test]
async fn a_reimaged_host_gets_its_identity_back_by_one_approval_and_waits_until_its_old_life_left() {
    let central = Central::start().await;
    let mut hosts = room(&central).await;
    for (index, role) in [(3, "agent"), (2, "server")] {
        let number = u8::try_from(index).unwrap() + 1;
        let new = central.host(number);
        let (status, claim) = claim_from(&new, number, None).await;
        assert_eq!((status, claim["reason"].as_str()), (StatusCode::ACCEPTED, Some("replaces")));
        assert_eq!(claim["of"], format!("172-16-36-{number}"));
        central.cli(&["approve", claim["code"].as_str().unwrap()]);
        // Its place is sure, and its old member is still in the cluster.
        assert_eq!(claim_from(&new, number, None).await.0, StatusCode::OK);
        assert_eq!(new.ask_status(0).await, 204);
        assert_eq!(hosts[index].ask_status(0).await, 410);
        let seen = hosts[0].assignment(0).await.0;
        let cluster = seen.cluster.unwrap();
        let told = &cluster.retired;
        assert_eq!((told.len(), told[0].node_id.as_str()), (1, hosts[index].id.as_str()));
        assert_eq!(told[0].etcd_member, "m-0000000a");
        assert!(!cluster.servers.iter().any(|url| url.contains(&format!(".{number}:"))), "it serves not yet");
        // Somebody else cannot say that it is done, and not of another cluster.
        let done = json!({"retired": [hosts[index].id]});
        let foreign = json!({"retired": [hosts[index].id], "ca_hash": "b".repeat(64)});
        runs(&mut hosts[1], seen.generation, &foreign).await;
        assert_eq!(new.ask_status(0).await, 204);
        let after = runs(&mut hosts[0], seen.generation, &done).await;
        assert!(after.cluster.unwrap().retired.is_empty());
        let back = new.assignment(0).await.0;
        assert_eq!((back.role.as_str(), back.node.unwrap().name), (role, format!("172-16-36-{number}")));
        hosts[index] = new;
    }
    assert!(leaving(&central).is_empty());
    let log = central.cli(&["audit"]);
    assert!(log.contains("node-retired") && log.contains("gets its identity back"), "{log}");
}

#[tokio::test]
async fn a_key_that_claims_the_machine_of_a_host_that_goes_on_reporting_is_not_approved() {
    let central = Central::start().await;
    let mut hosts = room(&central).await;
    let new = central.host(4);
    let (_, claim) = claim_from(&new, 4, None).await;
    // Seconds are what the service counts in.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    runs(&mut hosts[3], 1, &json!({})).await;
    let code = claim["code"].as_str().unwrap();
    let (done, _, error) = central.try_cli(&["approve", code]);
    assert!(!done && error.contains("it reported at"), "{error}");
    assert_eq!(hosts[3].ask_status(0).await, 200);
    central.cli(&["approve", code, "--force"]);
    assert_eq!(leaving(&central), ["172-16-36-4"]);
}

#[tokio::test]
async fn the_second_approval_for_one_place_does_not_take_it_from_whom_the_first_gave_it() {
    let central = Central::start().await;
    let _hosts = room(&central).await;
    // The same machine, imaged twice: two keys wait.
    let mut codes = Vec::new();
    let keys = [central.host(4), central.host(4)];
    for key in &keys {
        let (_, claim) = claim_from(key, 4, None).await;
        codes.push(claim["code"].as_str().unwrap().to_owned());
    }
    // Seconds are what the service counts in.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    central.cli(&["approve", &codes[0]]);
    let (done, _, error) = central.try_cli(&["approve", &codes[1]]);
    assert!(!done && error.contains("is another host by now") && error.contains(&keys[0].id), "{error}");
    assert_eq!(claim_from(&keys[0], 4, None).await.0, StatusCode::OK);
    central.cli(&["approve", &codes[1], "--force"]);
    assert_eq!(claim_from(&keys[1], 4, None).await.0, StatusCode::OK);
    assert_eq!(claim_from(&keys[0], 4, None).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn nobody_becomes_a_server_in_the_place_of_a_dead_one_before_that_left() {
    let central = Central::start().await;
    let mut hosts = room(&central).await;
    let dead = hosts[2].id.clone();
    let (done, _, error) = central.try_cli(&["node", "retire", &dead]);
    assert!(!done && error.contains("--force"), "it reported just now: {error}");
    central.cli(&["node", "retire", &dead, "--force"]);
    // A new machine at a new address, by token alone.
    let new = central.host(9);
    assert_eq!(claim_from(&new, 9, Some(&central.server_token("1"))).await.0, StatusCode::OK);
    assert_eq!(new.ask_status(0).await, 204);
    // Another one at the dead one's address.
    let same = central.host(3);
    assert_eq!(claim_from(&same, 8, Some(&central.agent_token())).await.0, StatusCode::OK);
    assert_eq!(same.ask_status(0).await, 204);
    let seen = hosts[0].assignment(0).await.0;
    runs(&mut hosts[0], seen.generation, &json!({"retired": [dead]})).await;
    assert_eq!(new.assignment(0).await.0.role, "server");
    assert_eq!(same.assignment(0).await.0.role, "agent");
    // Its key has no way back: the cluster noted that its life is over.
    let (done, _, error) = central.try_cli(&["approve", &dead]);
    assert!(!done && error.contains("was retired"), "{error}");
}

#[tokio::test]
async fn the_only_server_is_not_retired_and_a_new_life_of_the_cluster_ends_what_was_ordered() {
    let central = Central::start().await;
    let token = central.server_token("2");
    let (mut first, mut second) = (central.claimed(1, &token).await, central.claimed(2, &token).await);
    central.cli(&["assign", &second.id, "--role", "agent"]);
    let generation = first.assignment(0).await.0.generation;
    runs(&mut first, generation, &json!({})).await;
    let generation = second.assignment(0).await.0.generation;
    runs(&mut second, generation, &json!({})).await;
    let (done, _, error) = central.try_cli(&["node", "retire", &first.id, "--force"]);
    assert!(!done && error.contains("site reinit"), "{error}");
    central.cli(&["node", "retire", &second.id, "--force"]);
    let new = central.host(2);
    let (status, body) = new.claim(Some(&token)).await;
    assert_eq!((status, code(&body)), (StatusCode::FORBIDDEN, "token_invalid"));
    assert_eq!(new.claim(Some(&central.agent_token())).await.0, StatusCode::OK);
    assert_eq!(new.ask_status(0).await, 204);
    central.cli(&["site", "reinit", "--confirm", "hz-017"]);
    assert!(leaving(&central).is_empty());
    let seen = first.assignment(0).await.0;
    assert!(seen.cluster.unwrap().retired.is_empty());
}
