//! The init lease and the CA hash over the wire.

use serde_json::json;

use crate::common::Central;

#[tokio::test]
async fn the_lease_moves_only_after_its_holder_took_over_that_it_shall_not_start() {
    let central = Central::start().await;
    let token = central.server_token("2");
    let (mut first, second) = (central.claimed(1, &token).await, central.claimed(2, &token).await);
    let old = first.assignment(0).await.0.generation;
    central.cli(&["assign", &first.id, "--role", "none"]);
    // It may still start by the old assignment, and so it keeps the lease.
    let newest = first.report(old, json!({"init_started": null})).await;
    assert!(newest > old);
    assert_eq!(second.ask_status(0).await, 204);
    first.report(newest, json!({"init_started": null})).await;
    let (payload, _) = second.assignment(0).await;
    assert!(payload.cluster.unwrap().init);
}

#[tokio::test]
async fn the_lease_stays_with_a_holder_that_started() {
    let central = Central::start().await;
    let token = central.server_token("2");
    let (mut first, second) = (central.claimed(1, &token).await, central.claimed(2, &token).await);
    let old = first.assignment(0).await.0.generation;
    first.report(old, json!({"init_started": 1})).await;
    central.cli(&["assign", &first.id, "--role", "none"]);
    let newest = first.report(old, json!({})).await;
    first.report(newest, json!({})).await;
    assert_eq!(second.ask_status(0).await, 204);
    assert_eq!(central.cli_json(&["site", "show", "hz-017"])["lease"], first.id);
}

#[tokio::test]
async fn another_cluster_is_recorded_and_changes_nothing() {
    let central = Central::start().await;
    let token = central.server_token("2");
    let (mut first, mut second) = (central.claimed(1, &token).await, central.claimed(2, &token).await);
    // Not the holder of the lease: it cannot say which cluster is the site's.
    second.joined(0, "b").await;
    assert_eq!(central.cli_json(&["site", "show", "hz-017"])["ca_hash"], json!(null));
    first.joined(1, "a").await;
    second.joined(0, "b").await;
    first.joined(1, "c").await;
    assert_eq!(central.cli_json(&["site", "show", "hz-017"])["ca_hash"], "a".repeat(64));
    assert_eq!(central.node(&second.id)["reported"]["ca_mismatch"], "b".repeat(64));
    assert_eq!(central.node(&first.id)["reported"]["ca_mismatch"], "c".repeat(64));
    first.joined(1, "a").await;
    assert_eq!(central.node(&first.id)["reported"]["ca_mismatch"], json!(null));
}

#[tokio::test]
async fn an_old_report_that_comes_late_changes_nothing() {
    let central = Central::start().await;
    let mut host = central.claimed(1, &central.server_token("1")).await;
    let late = host.report_body(1, &json!({"ca_hash": "b".repeat(64), "init_started": 1}));
    host.joined(1, "a").await;
    assert_eq!(host.send_report(&late).await.0, reqwest::StatusCode::OK);
    assert_eq!(central.cli_json(&["site", "show", "hz-017"])["ca_hash"], "a".repeat(64));
    assert_eq!(central.node(&host.id)["reported"]["ca_mismatch"], json!(null));
}

#[tokio::test]
async fn a_reinit_raises_the_epoch_and_old_reports_are_about_the_old_datastore() {
    let central = Central::start().await;
    let mut host = central.claimed(1, &central.server_token("1")).await;
    let (payload, _) = host.assignment(0).await;
    host.joined(payload.generation, "a").await;
    let (payload, _) = host.assignment(payload.generation).await;
    assert!(!payload.cluster.unwrap().init);
    let (succeeded, ..) = central.try_cli(&["site", "reinit"]);
    assert!(!succeeded);
    central.cli(&["site", "reinit", "--confirm", "hz-017"]);
    let (payload, _) = host.assignment(payload.generation).await;
    let cluster = payload.cluster.unwrap();
    assert_eq!((cluster.epoch, cluster.init, cluster.ca_hash), (2, true, None));
    host.joined(payload.generation, "a").await;
    assert_eq!(central.cli_json(&["site", "show", "hz-017"])["ca_hash"], json!(null));
}
