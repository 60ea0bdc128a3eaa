//! A copied disk has its original's key: what its reports change.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::common::{Central, Host, SITE};

/// A report of a machine that runs on a copy of the host's disk.
async fn copy_reports(host: &mut Host, boot: &str, sequence: u64) -> Value {
    let mut body = host.report_body(99, &json!({"ca_hash": "b".repeat(64), "etcd_member": "copied"}));
    body["phase"] = json!("quarantined");
    body["boot_id"] = json!(boot);
    body["sequence"] = json!(sequence);
    let (status, answer) = host.send_report(&body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

fn seen_in_audit(central: &Central) -> Vec<Value> {
    let audit = central.cli_json(&["audit", "--limit", "100"]);
    let entries = audit["entries"].as_array().unwrap().iter();
    entries.filter(|entry| entry["action"] == "copy-seen").cloned().collect()
}

/// What the service says about the node, without the note about the copy.
fn without_copy(central: &Central, id: &str) -> Value {
    let mut node = central.node(id);
    node.as_object_mut().unwrap().remove("copy");
    node
}

#[tokio::test]
async fn a_copy_is_noted_once_per_boot_and_changes_nothing_of_its_original() {
    let central = Central::start().await;
    let mut host = central.claimed(1, &central.server_token("1")).await;
    let generation = host.assignment(0).await.0.generation;
    let newest = host.joined(generation, "a").await;
    host.joined(newest, "a").await;
    assert_eq!(central.node(&host.id)["copy"], json!(null));
    let (node, site) = (without_copy(&central, &host.id), central.cli_json(&["site", "show", SITE]));
    for boot in ["boot-of-a-copy", "boot-of-a-copy", "its-next-boot", "boot-of-a-copy"] {
        let answer = copy_reports(&mut host, boot, 1 << 40).await;
        assert!(answer["generation"].as_u64().unwrap() < 99, "the copy's generation counts: {answer}");
    }
    assert_eq!(without_copy(&central, &host.id), node);
    assert_eq!(central.cli_json(&["site", "show", SITE])["ca_hash"], site["ca_hash"]);
    let report = central.cli_json(&["node", "show", &host.id])["report"].clone();
    assert_eq!((&report["boot_id"], &report["phase"]), (&json!("boot-1"), &json!("steady")));
    assert_eq!(central.node(&host.id)["copy"]["boot_id"], "boot-of-a-copy");
    let told: Vec<Value> = seen_in_audit(&central).iter().map(|entry| entry["detail"].clone()).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].as_str().unwrap().contains("boot-of-a-copy"), "{told:?}");
    assert!(central.cli(&["node", "list"]).contains("a copy of its disk was seen"));
}

#[tokio::test]
async fn the_originals_reports_count_after_those_of_a_copy() {
    let central = Central::start().await;
    let mut host = central.claimed(1, &central.server_token("1")).await;
    let generation = host.assignment(0).await.0.generation;
    copy_reports(&mut host, "copy", 1 << 40).await;
    assert_eq!(central.node(&host.id)["reported"]["phase"], json!(null));
    host.joined(generation, "a").await;
    assert_eq!(central.cli_json(&["site", "show", SITE])["ca_hash"], "a".repeat(64));
    let node = central.node(&host.id);
    assert_eq!((&node["reported"]["etcd_member"], &node["boot_id"]), (&json!("m"), &json!("boot-1")));
}

#[tokio::test]
async fn a_copy_does_not_give_its_originals_lease_back() {
    let central = Central::start().await;
    let mut host = central.claimed(1, &central.server_token("1")).await;
    let old = host.assignment(0).await.0.generation;
    central.cli(&["assign", &host.id, "--role", "agent"]);
    copy_reports(&mut host, "copy", 1 << 40).await;
    let mut body = host.report_body(old + 1, &json!({"init_started": null}));
    body["phase"] = json!("quarantined");
    host.send_report(&body).await;
    assert_eq!(central.cli_json(&["site", "show", SITE])["lease"], host.id);
}

#[tokio::test]
async fn the_way_back_after_a_replaced_board_is_approve() {
    let central = Central::start().await;
    let token = central.server_token("1");
    let host = central.host(1);
    let facts = |uuid: &str, mac: &str| json!({"identity": {"board": {"uuid": uuid}}, "network": {"interfaces": [{"permanent_mac": mac}]}});
    let claim = async |facts: Value| {
        let mut body = host.claim_body(Some(&token));
        body["facts"] = facts;
        let answer = host.client.post(format!("{}/v1/claims", host.url)).json(&body).send().await.unwrap();
        (answer.status(), answer.json::<Value>().await.unwrap())
    };
    assert_eq!(claim(facts("u1", "m1")).await.0, StatusCode::OK);
    // The board with its ports was replaced, a person accepted it there; its requests are answered.
    assert_eq!(host.ask(0, 15).await.status(), StatusCode::OK);
    let (status, body) = claim(facts("u2", "m2")).await;
    assert_eq!((status, body["error"]["code"].as_str()), (StatusCode::CONFLICT, Some("moved_disk")));
    central.cli(&["approve", &host.id]);
    assert_eq!(claim(facts("u2", "m2")).await.0, StatusCode::OK);
}
