//! The init lease and the CA hash over the wire.

use edge_bootstrap::wire::envelope::SigningKey;
use edge_bootstrap::wire::statement::{Granted, Statement};
use serde_json::{Value, json};

use crate::common::{Central, Host, SITE};

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

/// The lease's holder, the epoch and the CA hash.
fn lease(central: &Central) -> (Value, Value, Value) {
    let site = central.cli_json(&["site", "show", SITE]);
    (site["lease"].clone(), site["epoch"].clone(), site["ca_hash"].clone())
}

/// How the room was left when its first host got the lease.
async fn two_hosts() -> (Central, Host, Host) {
    let central = Central::start().await;
    let token = central.server_token("3");
    let (first, second) = (central.claimed(1, &token).await, central.claimed(2, &token).await);
    assert!(first.assignment(0).await.0.cluster.unwrap().init);
    (central, first, second)
}

#[tokio::test]
async fn a_holder_that_died_before_it_ever_reported_keeps_the_lease_until_a_person_says_otherwise() {
    let (mut central, first, mut second) = two_hosts().await;
    assert_eq!(second.ask_status(0).await, 204);
    // Neither a person's role, nor a revocation, nor a restart of the service says that it never started.
    central.cli(&["assign", &first.id, "--role", "agent"]);
    assert_eq!(second.ask_status(0).await, 204);
    central.cli(&["node", "revoke", &first.id]);
    assert_eq!(second.ask_status(0).await, 204);
    central.restart().await;
    second.url.clone_from(&central.url);
    assert_eq!(second.ask_status(0).await, 204);
    assert_eq!(lease(&central), (json!(first.id), json!(1), json!(null)));
    central.cli(&["site", "reinit", "--confirm", SITE]);
    let cluster = second.assignment(0).await.0.cluster.unwrap();
    assert_eq!((cluster.init, cluster.epoch), (true, 2));
    assert_eq!(lease(&central), (json!(second.id), json!(2), json!(null)));
}

#[tokio::test]
async fn a_holder_that_never_started_and_became_an_agent_frees_the_lease_for_another() {
    let (central, mut first, second) = two_hosts().await;
    central.cli(&["assign", &first.id, "--role", "agent"]);
    let newest = first.report(1, json!({"init_started": null})).await;
    assert_eq!(second.ask_status(0).await, 204, "it has not taken the other role over yet");
    first.report(newest, json!({"init_started": null})).await;
    assert!(second.assignment(0).await.0.cluster.unwrap().init);
    assert_eq!(lease(&central).0, second.id);
}

#[tokio::test]
async fn a_holder_that_cannot_tell_whether_it_started_keeps_the_lease() {
    let (central, mut first, second) = two_hosts().await;
    central.cli(&["assign", &first.id, "--role", "agent"]);
    let newest = first.report(1, json!({})).await;
    first.report(newest, json!({"init_started": null, "init_unknown": true})).await;
    assert_eq!(second.ask_status(0).await, 204);
    assert_eq!(lease(&central).0, first.id);
}

#[tokio::test]
async fn a_holder_that_went_dark_may_have_started_and_its_cluster_is_taken_when_it_comes_back() {
    let (central, mut first, second) = two_hosts().await;
    // It started, formed its cluster and went on alone; nothing of that came here.
    assert_eq!(second.ask_status(0).await, 204);
    central.cli(&["assign", &second.id, "--role", "server"]);
    let waiting = second.assignment(0).await.0.cluster.unwrap();
    assert_eq!((waiting.init, waiting.ca_hash), (false, None), "a forced server waits too");
    first.joined(1, "a").await;
    assert_eq!(lease(&central), (json!(first.id), json!(1), json!("a".repeat(64))));
    let joining = second.assignment(1).await.0.cluster.unwrap();
    assert_eq!((joining.init, joining.ca_hash), (false, Some("a".repeat(64))));
}

#[tokio::test]
async fn a_late_report_of_an_older_epoch_changes_nothing_of_the_new_one() {
    let (central, mut first, mut second) = two_hosts().await;
    central.cli(&["assign", &first.id, "--role", "none"]);
    central.cli(&["site", "reinit", "--confirm", SITE]);
    let (payload, _) = second.assignment(0).await;
    assert!(payload.cluster.unwrap().init);
    let before = lease(&central);
    let newest = first.joined(1, "a").await;
    first.report(newest, json!({"init_started": 1})).await;
    first.report(newest, json!({"init_started": null})).await;
    assert_eq!(lease(&central), before);
    assert_eq!(central.node(&first.id)["reported"]["ca_mismatch"], json!(null));
    let mut body =
        second.report_body(payload.generation, &json!({"ca_hash": "b".repeat(64), "init_started": 2}));
    body["epoch"] = json!(2);
    assert_eq!(second.send_report(&body).await.0, reqwest::StatusCode::OK);
    assert_eq!(lease(&central), (json!(second.id), json!(2), json!("b".repeat(64))));
    first.joined(newest, "a").await;
    assert_eq!(lease(&central).2, "b".repeat(64));
}

#[tokio::test]
async fn a_reinit_must_name_the_site() {
    let (central, first, _) = two_hosts().await;
    let before = lease(&central);
    for wrong in
        [&["site", "reinit"][..], &["site", "reinit", "--confirm", "hz-018"], &["site", "reinit", SITE]]
    {
        let (succeeded, _, stderr) = central.try_cli(wrong);
        assert!(!succeeded && !stderr.is_empty(), "{wrong:?}");
    }
    assert_eq!(lease(&central), before);
    assert_eq!(first.ask_status(1).await, 304);
}

#[tokio::test]
async fn every_assignment_comes_with_a_statement_that_holds_no_secret() {
    let (central, first, _) = two_hosts().await;
    let (_, claim) = first.claim(None).await;
    let keys = [SigningKey::try_from(claim["signing_key"].as_str().unwrap().to_owned()).unwrap()];
    let statement = async |generation| {
        let granted: Granted = first.ask(generation, 15).await.json().await.unwrap();
        let (payload, _) = first.open(&granted.envelope).await;
        let envelope = granted.statement.unwrap();
        let text = String::from_utf8(envelope.open(&keys).unwrap()).unwrap();
        for secret in [payload.join.server_token, payload.join.agent_token].into_iter().flatten() {
            assert!(!text.contains(secret.expose()), "{text}");
        }
        (Statement::open(&envelope, &keys, SITE).unwrap().epoch, payload.generation)
    };
    let (epoch, generation) = statement(0).await;
    assert_eq!(epoch, 1);
    central.cli(&["site", "reinit", "--confirm", SITE]);
    assert_eq!(statement(generation).await.0, 2);
}
