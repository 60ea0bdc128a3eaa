//! Who may see which secret.

use edge_bootstrap::wire::envelope::Envelope;
use edge_central::store::{Store, sites};

use crate::common::{Central, SITE};

async fn server_token(central: &Central) -> String {
    let store = Store::open(central.dir.path()).await.unwrap();
    let mut tx = store.read().await.unwrap();
    let site = sites::get(&mut tx, SITE).await.unwrap().unwrap();
    site.server_token.expose().to_owned()
}

/// All bytes that the service sends to `host` for its assignment.
async fn everything(host: &crate::common::Host) -> String {
    let raw = host.ask(0, 15).await.text().await.unwrap();
    let envelope: Envelope = serde_json::from_str(&raw).unwrap();
    let (payload, _) = host.open(&envelope).await;
    raw + &serde_json::to_string(&payload).unwrap()
}

#[tokio::test]
async fn an_agent_never_receives_the_server_token() {
    let central = Central::start().await;
    let server = central.claimed(1, &central.server_token("1")).await;
    let agent = central.claimed(2, &central.agent_token()).await;
    let secret = server_token(&central).await;
    assert!(everything(&server).await.contains(&secret));
    assert!(!everything(&agent).await.contains(&secret));
    // Nor does a host that was a server and shall run nothing now.
    central.cli(&["assign", &server.id, "--role", "none"]);
    let (payload, _) = server.assignment(1).await;
    assert!(!serde_json::to_string(&payload).unwrap().contains(&secret));
}

#[tokio::test]
async fn nothing_that_people_read_shows_a_secret() {
    let central = Central::start().await;
    let token = central.server_token("1");
    let host = central.claimed(1, &token).await;
    let secret = server_token(&central).await;
    for command in [&["site", "show", SITE][..], &["node", "show", &host.id], &["token", "list"], &["audit"]]
    {
        let shown = central.cli(command) + &central.cli(&[command, &["--json"]].concat());
        assert!(!shown.contains(&secret) && !shown.contains(&token), "{command:?}");
    }
}

#[tokio::test]
async fn an_enrolment_token_is_not_stored() {
    let central = Central::start().await;
    let token = central.server_token("1");
    central.claimed(1, &token).await;
    for entry in std::fs::read_dir(central.dir.path()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = if path.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
        assert!(!bytes.windows(token.len()).any(|window| window == token.as_bytes()), "{}", path.display());
    }
}

#[tokio::test]
async fn keys_and_database_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let central = Central::start().await;
    for name in ["central.db", "central.db-wal", "signing.key", "ca.key", "tls.key"] {
        let mode = std::fs::metadata(central.dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name}");
    }
}
