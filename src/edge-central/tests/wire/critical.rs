//! What all servers of a room must have alike, from their reports to people.

use serde_json::json;

use crate::common::Central;

#[tokio::test]
async fn a_server_that_runs_with_another_value_than_the_others_is_named_until_it_does_not() {
    let central = Central::start().await;
    let token = central.server_token("3");
    let mut hosts = Vec::new();
    for number in 1..=3 {
        hosts.push(central.claimed(number, &token).await);
    }
    let generation = hosts[0].assignment(0).await.0.generation;
    hosts[0].joined(generation, "a").await;
    for host in &hosts {
        host.assignment(0).await;
    }
    let differ = || central.cli_json(&["site", "show", "hz-017"])["servers_differ_in"].clone();
    assert_eq!(differ(), json!({}));

    // One was given a key by hand and restarted, which k3s never looks at again.
    let domains = ["room.example", "room.example", ""];
    for (host, domain) in hosts.iter_mut().zip(domains) {
        let mut critical = json!({"cluster-cidr": "10.253.0.0/16"});
        if !domain.is_empty() {
            critical["cluster-domain"] = json!(domain);
        }
        host.report(1, json!({"ca_hash": "a".repeat(64), "init_started": 1, "critical": critical})).await;
    }
    let wanted =
        json!({"cluster-domain": {"": ["172-16-36-3"], "room.example": ["172-16-36-1", "172-16-36-2"]}});
    assert_eq!(differ(), wanted);
    let shown = central.cli(&["site", "show", "hz-017"]);
    assert!(
        shown.contains(
            "servers differ in cluster-domain: not set on 172-16-36-3; room.example on 172-16-36-1, 172-16-36-2"
        ),
        "{shown}"
    );

    let critical = json!({"cluster-cidr": "10.253.0.0/16", "cluster-domain": "room.example"});
    hosts[2].report(1, json!({"ca_hash": "a".repeat(64), "init_started": 1, "critical": critical})).await;
    assert_eq!(differ(), json!({}));
}
