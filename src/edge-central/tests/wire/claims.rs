//! Claims: tokens, approval, lost replies, refusals.

use reqwest::StatusCode;
use serde_json::json;

use crate::common::{Central, code};

#[tokio::test]
async fn a_repeated_claim_gets_the_same_place_and_uses_the_token_once() {
    let central = Central::start().await;
    let (token, host) = (central.server_token("1"), central.host(1));
    let (status, first) = host.claim(Some(&token)).await;
    assert_eq!((status, first["state"].as_str()), (StatusCode::OK, Some("claimed")));
    assert_eq!(first["node_id"], host.id);
    // The reply was lost; the token is used up, and later the host has deleted it.
    for token in [Some(token.as_str()), None] {
        let (status, again) = host.claim(token).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(again["signing_key"], first["signing_key"]);
    }
    let (status, other) = central.host(2).claim(Some(&token)).await;
    assert_eq!((status, code(&other)), (StatusCode::FORBIDDEN, "token_invalid"));
    assert_eq!(central.cli_json(&["token", "list"])["tokens"][0]["used"], 1);
}

#[tokio::test]
async fn two_claims_at_once_use_a_token_for_one_host_only() {
    let central = Central::start().await;
    let token = central.server_token("1");
    let (one, two) = (central.host(1), central.host(2));
    let (one, two) = tokio::join!(one.claim(Some(&token)), two.claim(Some(&token)));
    let mut statuses = [one.0.as_u16(), two.0.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 403]);
}

#[tokio::test]
async fn wrong_tokens_sites_and_revoked_tokens_are_refused() {
    let central = Central::start().await;
    let host = central.host(1);
    let (status, body) = host.claim(Some("wrong")).await;
    assert_eq!((status, code(&body)), (StatusCode::FORBIDDEN, "token_invalid"));
    let token = central.cli_json(&["token", "create", "--site", "hz-017"]);
    central.cli(&["token", "revoke", token["id"].as_str().unwrap()]);
    let (_, body) = host.claim(token["token"].as_str()).await;
    assert_eq!(code(&body), "token_invalid");
    let mut elsewhere = host.claim_body(None);
    elsewhere["site"] = json!("nowhere");
    let answer = host.client.post(format!("{}/v1/claims", host.url)).json(&elsewhere).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(code(&answer.json().await.unwrap()), "site_unknown");
}

#[tokio::test]
async fn a_host_without_a_token_waits_for_a_person() {
    let central = Central::start().await;
    let host = central.host(1);
    let (status, first) = host.claim(None).await;
    assert_eq!((status, first["state"].as_str()), (StatusCode::ACCEPTED, Some("pending")));
    assert_eq!((first["reason"].as_str(), first["retry_after"].as_u64()), (Some("approval"), Some(30)));
    let code = first["code"].as_str().unwrap();
    assert_eq!(host.claim(None).await.1["code"], code);
    assert_eq!(host.ask_status(0).await, 204);
    central.cli(&["approve", &code.to_lowercase()]);
    assert_eq!(host.claim(None).await.0, StatusCode::OK);
    assert_eq!(host.assignment(0).await.0.role, "server");
}

#[tokio::test]
async fn a_waiting_host_that_gets_a_token_needs_no_person() {
    let central = Central::start().await;
    let host = central.host(1);
    assert_eq!(host.claim(None).await.0, StatusCode::ACCEPTED);
    assert_eq!(host.claim(Some(&central.agent_token())).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_taken_address_is_refused_until_its_holder_is_revoked() {
    let central = Central::start().await;
    let token = central.server_token("2");
    let first = central.claimed(1, &token).await;
    let second = central.host(1);
    let (status, body) = second.claim(Some(&token)).await;
    assert_eq!((status, code(&body)), (StatusCode::CONFLICT, "address_taken"));
    central.cli(&["node", "revoke", &first.id]);
    assert_eq!(second.claim(Some(&token)).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_revoked_host_is_gone_until_approved_again() {
    let central = Central::start().await;
    let mut host = central.claimed(1, &central.server_token("1")).await;
    central.cli(&["node", "revoke", &host.id]);
    let gone = host.ask(0, 0).await;
    assert_eq!(gone.status(), StatusCode::GONE);
    assert_eq!(code(&gone.json().await.unwrap()), "node_revoked");
    let report = host.report_body(0, &json!({}));
    assert_eq!(host.send_report(&report).await.0, StatusCode::GONE);
    let (status, body) = host.claim(None).await;
    assert_eq!((status, code(&body)), (StatusCode::FORBIDDEN, "denied"));
    central.cli(&["approve", &host.id]);
    assert_eq!(host.claim(None).await.0, StatusCode::OK);
}

#[tokio::test]
async fn an_unknown_host_is_told_to_claim() {
    let central = Central::start().await;
    let mut host = central.host(1);
    let unknown = host.ask(7, 5).await;
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
    assert_eq!(code(&unknown.json().await.unwrap()), "node_unknown");
    let report = host.report_body(7, &json!({}));
    assert_eq!(host.send_report(&report).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_host_needs_its_own_certificate() {
    let central = Central::start().await;
    let token = central.server_token("2");
    let (one, two) = (central.claimed(1, &token).await, central.claimed(2, &token).await);
    let url = format!("{}/v1/nodes/{}/assignment", central.url, one.id);
    let foreign = two.client.get(&url).send().await.unwrap();
    assert_eq!(foreign.status(), StatusCode::FORBIDDEN);
    let nobody = central.client().build().unwrap();
    let without = nobody.get(&url).send().await.unwrap();
    assert_eq!(without.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(code(&without.json().await.unwrap()), "certificate_required");
    let claim =
        nobody.post(format!("{}/v1/claims", central.url)).json(&one.claim_body(None)).send().await.unwrap();
    assert_eq!(claim.status(), StatusCode::UNAUTHORIZED);
}
