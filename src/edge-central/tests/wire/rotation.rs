//! A new server token of a site.

use serde_json::json;

use super::common::{Central, SITE};

/// The server token that a host is told, and the one before it.
type Tokens = (String, Option<String>);

async fn tokens(host: &super::common::Host, generation: u64) -> (u64, Tokens) {
    let (payload, _) = host.assignment(generation).await;
    let (now, before) = (payload.join.server_token.unwrap(), payload.join.previous_server_token);
    (payload.generation, (now.expose().to_owned(), before.map(|token| token.expose().to_owned())))
}

#[tokio::test]
async fn a_servers_assignment_names_the_token_before_and_no_change_follows_before_every_server_has_it() {
    let central = Central::start().await;
    let mut host = central.claimed(1, &central.server_token("1")).await;
    let (first, (old, before)) = tokens(&host, 0).await;
    assert_eq!(before, None);
    host.joined(first, "a").await;
    let (joined, _) = host.assignment(first).await;

    central.cli(&["site", "rotate-token", SITE]);
    let (changed, (new, before)) = tokens(&host, joined.generation).await;
    assert_ne!(new, old);
    assert_eq!(before, Some(old));

    let (done, _, words) = central.try_cli(&["site", "rotate-token", SITE]);
    assert!(!done && words.contains("has not said yet"), "{words}");
    let mut late = host.report_body(changed, &json!({"ca_hash": "a".repeat(64)}));
    late["findings"] = json!([{"id": "token", "status": "info", "code": "EB-token-rotate"}]);
    host.send_report(&late).await;
    assert!(!central.try_cli(&["site", "rotate-token", SITE]).0, "it holds the one before");
    host.joined(changed, "a").await;
    central.cli(&["site", "rotate-token", SITE]);
    assert_eq!(tokens(&host, changed).await.1.1, Some(new));
}
