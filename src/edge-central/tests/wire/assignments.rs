//! Assignments: long polls, numbering, the way of a room of three.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::json;
use tokio::time::Instant;

use crate::common::{Central, LONG};

#[tokio::test]
async fn three_hosts_become_three_servers() {
    let central = Central::start().await;
    let token = central.server_token("3");
    let mut first = central.claimed(1, &token).await;
    let (second, third) = (central.claimed(2, &token).await, central.claimed(3, &token).await);

    let (payload, _) = first.assignment(0).await;
    let cluster = payload.cluster.unwrap();
    assert!(cluster.init && cluster.servers.is_empty() && cluster.ca_hash.is_none());
    assert_eq!(second.ask_status(0).await, 204);

    let waiting = tokio::spawn(async move { (second.assignment(0).await, second) });
    first.joined(payload.generation, "a").await;
    let ((payload, _), second) = tokio::time::timeout(LONG, waiting).await.unwrap().unwrap();
    let cluster = payload.cluster.unwrap();
    assert_eq!((payload.role.as_str(), cluster.init), ("server", false));
    assert_eq!(cluster.ca_hash, Some("a".repeat(64)));
    assert_eq!(cluster.servers, ["https://172.16.36.1:6443", "https://172.16.36.3:6443"]);
    assert!(payload.join.server_token.is_some());

    let (payload, _) = third.assignment(0).await;
    assert_eq!(payload.cluster.unwrap().servers, ["https://172.16.36.1:6443", "https://172.16.36.2:6443"]);
    let (payload, _) = first.assignment(1).await;
    let cluster = payload.cluster.unwrap();
    assert!(!cluster.init && payload.generation > 1);
    assert_eq!(cluster.servers, ["https://172.16.36.2:6443", "https://172.16.36.3:6443"]);
    assert_eq!(
        payload.room.iter().map(|host| host.node_id.clone()).collect::<Vec<_>>(),
        [second.id, third.id]
    );
}

#[tokio::test]
async fn a_long_poll_wakes_when_a_person_changes_the_site() {
    let central = Central::start().await;
    let host = central.claimed(1, &central.server_token("1")).await;
    assert_eq!(host.assignment(0).await.0.generation, 1);
    let began = Instant::now();
    let waiting = tokio::spawn(async move { (host.ask(1, 15).await.status(), host) });
    central.cli(&["site", "set", "hz-017", "--sandbox-image", "pause:3.10"]);
    let (status, host) = waiting.await.unwrap();
    assert_eq!(status, StatusCode::OK);
    assert!(began.elapsed() < Duration::from_secs(10));
    let (payload, _) = host.assignment(1).await;
    assert_eq!((payload.generation, payload.runtime.sandbox_image.as_deref()), (2, Some("pause:3.10")));
}

#[tokio::test]
async fn archives_of_images_are_set_for_a_site_and_taken_away_again() {
    let central = Central::start().await;
    let host = central.claimed(1, &central.server_token("1")).await;
    let (one, other) = ("a".repeat(64), "b".repeat(64));
    // What stands behind the first `=` is the URL, whatever it holds.
    let images = [
        format!("{one}=https://files.example/airgap.tar?v=1"),
        format!("{other}=file:///srv/images/pause.tar"),
    ];
    central.cli(&["site", "set", "hz-017", "--image", &images[0], "--image", &images[1]]);
    let (payload, _) = host.assignment(0).await;
    let sent: Vec<_> = payload.runtime.images.into_iter().map(|it| (it.sha256, it.url)).collect();
    let url = |text: &str| text.to_owned();
    assert_eq!(
        sent,
        [
            (one.clone(), url("https://files.example/airgap.tar?v=1")),
            (other, url("file:///srv/images/pause.tar"))
        ]
    );
    let shown = central.cli_json(&["site", "show", "hz-017"]);
    assert_eq!(shown["images"][0]["sha256"], one);
    for (wrong, says) in [
        ("https://files.example/airgap.tar", "is not sha256=url"),
        ("abc=https://files.example/airgap.tar", "sha256"),
        (&format!("{one}=ftp://files.example/airgap.tar"), "ftp"),
    ] {
        let (succeeded, _, stderr) = central.try_cli(&["site", "set", "hz-017", "--image", wrong]);
        assert!(!succeeded && stderr.to_lowercase().contains(says), "{wrong}: {stderr}");
    }
    central.cli(&["site", "set", "hz-017", "--image", ""]);
    assert!(host.assignment(payload.generation).await.0.runtime.images.is_empty());
}

#[tokio::test]
async fn a_long_poll_without_news_ends_in_time() {
    let central = Central::start().await;
    let host = central.claimed(1, &central.server_token("1")).await;
    let generation = host.assignment(0).await.0.generation;
    let began = Instant::now();
    assert_eq!(host.ask(generation, 2).await.status(), StatusCode::NOT_MODIFIED);
    assert!((Duration::from_secs(2)..Duration::from_secs(8)).contains(&began.elapsed()));
}

#[tokio::test]
async fn the_number_rises_only_when_the_content_changed() {
    let mut central = Central::start().await;
    let mut host = central.claimed(1, &central.server_token("1")).await;
    let before = host.ask(0, 5).await.bytes().await.unwrap();
    // The same value again, another site, a restart: nothing of it is news.
    central.cli(&["site", "set", "hz-017", "--cluster-cidr", "10.253.0.0/16"]);
    central.cli(&["site", "add", "hz-018", "--k3s-version", "v1.36.2+k3s1"]);
    central.restart().await;
    host.url.clone_from(&central.url);
    assert_eq!(host.ask_status(1).await, 304);
    assert_eq!(host.ask(0, 0).await.bytes().await.unwrap(), before);
}

#[tokio::test]
async fn a_service_that_was_restored_continues_above_the_hosts_number() {
    let central = Central::start().await;
    let mut host = central.claimed(1, &central.server_token("1")).await;
    assert_eq!(host.assignment(0).await.0.generation, 1);
    assert_eq!(host.assignment(41).await.0.generation, 42);
    assert_eq!(host.ask_status(42).await, 304);
    assert_eq!(host.report(50, json!({})).await, 51);
    assert_eq!(host.assignment(50).await.0.generation, 51);
}

#[tokio::test]
async fn a_number_without_room_above_it_is_refused() {
    let central = Central::start().await;
    let host = central.claimed(1, &central.server_token("1")).await;
    assert_eq!(host.ask_status(u64::MAX).await, 400);
    assert_eq!(host.assignment(0).await.0.generation, 1);
}

#[tokio::test]
async fn a_persons_word_about_a_role_reaches_the_host() {
    let central = Central::start().await;
    let token = central.server_token("2");
    let (first, second) = (central.claimed(1, &token).await, central.claimed(2, &token).await);
    assert_eq!(first.assignment(0).await.0.role, "server");
    central.cli(&["assign", "172-16-36-2", "--role", "agent"]);
    let (payload, _) = second.assignment(0).await;
    assert_eq!(payload.role, "agent");
    central.cli(&["assign", &second.id, "--role", "none"]);
    let (payload, _) = second.assignment(payload.generation).await;
    assert_eq!((payload.role.as_str(), payload.k3s.is_none()), ("none", true));
}

#[tokio::test]
async fn settings_that_hosts_would_refuse_are_not_taken() {
    let central = Central::start().await;
    let (succeeded, _, stderr) = central.try_cli(&["site", "set", "hz-017", "--cluster-cidr", "10.253.0.0"]);
    assert!(!succeeded && stderr.contains("cluster_cidr"), "{stderr}");
}

#[tokio::test]
async fn a_room_of_forty_that_comes_at_once_gets_five_servers() {
    let central = Central::start().await;
    let token = central.server_token("40");
    let mut first = central.claimed(1, &token).await;
    let others: Vec<_> = (2..=40).map(|number| central.host(number)).collect();
    let mut waiting = tokio::task::JoinSet::new();
    for host in others {
        let token = token.clone();
        waiting.spawn(async move {
            assert_eq!(host.claim(Some(&token)).await.0, StatusCode::OK);
            host.assignment(0).await.0.role
        });
    }
    let claimed = || central.cli_json(&["token", "list"])["tokens"][0]["used"] == 40;
    let began = Instant::now();
    while !claimed() {
        assert!(began.elapsed() < LONG, "not all claims were answered");
        tokio::task::yield_now().await;
    }
    first.joined(1, "a").await;
    let roles = tokio::time::timeout(LONG, waiting.join_all()).await.unwrap();
    let count = |wanted: &str| roles.iter().filter(|role| *role == wanted).count();
    assert_eq!((count("server"), count("agent")), (4, 35));
}
