//! The enrol step against a service that does everything wrong, over real TLS.
#![cfg(feature = "agent")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may stop at the first surprise, and prepares files by hand"
)]

#[path = "common/central.rs"]
#[allow(missing_docs, missing_debug_implementations, dead_code, reason = "a test's own helper")]
mod central;
#[path = "line_enrol/room.rs"]
mod room;
#[path = "line_enrol/stands_reset.rs"]
mod stands_reset;
#[path = "line_enrol/ways.rs"]
mod ways;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use central::{Central, Claims, Fault, Signer, payload};
use edge_bootstrap::enrol::{
    CentralSettings, EnrolError, Enrolled, Enrolment, Freshness, Introduction, Outcome, Source, Waiting,
    cache, credential,
};
use edge_bootstrap::error::Chain;
use edge_bootstrap::paths::{ASSIGNMENT, CENTRAL, NODE_KEY, QUARANTINE};
use edge_bootstrap::sys::Root;
use edge_bootstrap::sys::http;
use edge_bootstrap::wire::claim::ProposedNode;
use edge_bootstrap::wire::report::Report;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

const TOKEN_FILE: &str = "/etc/edge-bootstrap/enrol-token";
const TOKEN: &str = "canary-enrol-token";
const PATIENCE: Duration = Duration::from_secs(20);

/// A host on a temporary root.
struct Host {
    dir: tempfile::TempDir,
    settings: CentralSettings,
}

impl Host {
    fn new(central: &Central) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = CentralSettings {
            endpoints: vec![central.endpoint()],
            pins: vec![central.proof.pin],
            token_file: Some(TOKEN_FILE.to_owned()),
            ..CentralSettings::default()
        };
        let host = Self { dir, settings };
        host.root().ensure_dir("/etc/edge-bootstrap").unwrap();
        host.put_token();
        host
    }

    fn root(&self) -> Root {
        Root::new(self.dir.path())
    }

    fn put_token(&self) {
        let path = self.root().path(TOKEN_FILE);
        std::fs::write(&path, format!("{TOKEN}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// A daemon that has just started.
    fn enrolment(&self) -> Enrolment {
        let introduction = Introduction {
            site: "hz-017".to_owned(),
            boot_id: "boot".to_owned(),
            node: Some(ProposedNode { name: "172-16-36-3".to_owned(), ip: [172, 16, 36, 3].into() }),
            facts: json!({"identity": {}}),
        };
        Enrolment::new(&self.root(), Source::Central(Box::new(self.settings.clone())), introduction, 1)
    }

    async fn enrol(&self) -> Enrolled {
        enrolled(self.enrolment().assignment(PATIENCE).await.unwrap())
    }

    /// One attempt, whatever is in force.
    async fn once(&self) -> Result<Option<Enrolled>, EnrolError> {
        self.enrolment().poll(Duration::ZERO).await
    }

    fn stored(&self) -> Vec<u8> {
        self.root().read(ASSIGNMENT).unwrap().unwrap()
    }
}

fn enrolled(outcome: Outcome) -> Enrolled {
    match outcome {
        Outcome::Enrolled(enrolled) => *enrolled,
        Outcome::Waiting(waiting) => panic!("still waiting: {waiting}"),
    }
}

fn waiting(outcome: Outcome) -> Waiting {
    match outcome {
        Outcome::Waiting(waiting) => waiting,
        Outcome::Enrolled(_) => panic!("not waiting"),
    }
}

// === the straight line ===

#[tokio::test]
async fn a_bare_host_claims_once_and_then_only_asks() {
    let central = Central::start(Signer::new()).await;
    let host = Host::new(&central);
    let first = host.enrol().await;
    assert_eq!((first.freshness, first.is_new, first.assignment.generation), (Freshness::Fresh, true, 7));
    assert_eq!(first.time, Some(1_795_262_400), "the clock of the claim's answer");
    assert!(first.trouble.is_none() && first.damage.is_none());
    assert!(!host.root().exists(TOKEN_FILE), "the token has served");
    let claim = central.state().seen[0].clone();
    assert_eq!(claim.body["enrol_token"], TOKEN);
    let node_id = credential::node_id(&host.root()).unwrap().unwrap();
    assert_eq!(claim.node_id, node_id.as_str(), "the service computes the same id from the key");

    let before = host.root().stat(ASSIGNMENT).unwrap();
    let second = host.enrol().await;
    assert_eq!((second.freshness, second.is_new), (Freshness::Fresh, false));
    assert_eq!(host.root().stat(ASSIGNMENT).unwrap(), before, "a second pass writes nothing");
    assert_eq!(central.count("/v1/claims"), 1);
    assert!(central.lines().last().unwrap().contains("generation=7&"), "{:?}", central.lines());
}

#[tokio::test]
async fn without_patience_nobody_is_asked() {
    let central = Central::start(Signer::new()).await;
    let host = Host::new(&central);
    let outcome = host.enrolment().assignment(Duration::ZERO).await.unwrap();
    assert_eq!(waiting(outcome), Waiting::NotAsked);
    host.enrol().await;
    let asked = central.lines().len();
    let offline = enrolled(host.enrolment().assignment(Duration::ZERO).await.unwrap());
    assert_eq!((offline.freshness, offline.assignment.generation), (Freshness::Cached, 7));
    assert_eq!(central.lines().len(), asked);
}

#[tokio::test]
async fn a_host_waits_for_its_approval_with_its_code() {
    let central = Central::start(Signer::new()).await;
    let host = Host::new(&central);
    central.state().claims = Claims::Pending;
    let error = host.once().await.unwrap_err();
    assert_eq!((error.code(), error.retry_after()), ("EB-claim-pending", Some(Duration::from_secs(30))));
    assert!(error.to_string().contains("7KQ2MX"), "{error}");
    assert!(host.root().exists(TOKEN_FILE), "the token is kept until the claim is answered");
    central.state().claims = Claims::Accept;
    assert_eq!(host.enrol().await.assignment.generation, 7);
}

#[tokio::test]
async fn undecided_is_waiting_and_ends_by_itself() {
    let central = Central::start(Signer::new()).await;
    let host = Host::new(&central);
    central.state().payload = None;
    assert_eq!(host.once().await.unwrap_err().code(), "EB-assignment-pending");
    assert!(!host.root().exists(TOKEN_FILE));
    central.assign(payload(1));
    assert_eq!(host.enrol().await.assignment.generation, 1);
}

#[tokio::test]
async fn every_refusal_of_a_claim_has_its_code() {
    let central = Central::start(Signer::new()).await;
    let host = Host::new(&central);
    for (status, reason, code) in [
        (403, "token_invalid", "EB-token-invalid"),
        (403, "site_unknown", "EB-site-unknown"),
        (403, "denied", "EB-claim-denied"),
        (401, "something_newer", "EB-claim-denied"),
        (409, "address_taken", "EB-address-taken"),
        (409, "moved_disk", "EB-moved-disk"),
    ] {
        central.state().claims = Claims::Refuse(status, reason);
        let error = host.once().await.unwrap_err();
        assert_eq!(error.code(), code);
        assert!(!error.kind().can_retry() && host.root().exists(TOKEN_FILE));
    }
}

#[tokio::test]
async fn a_long_poll_returns_with_the_change() {
    let central = Central::start(Signer::new()).await;
    let host = Host::new(&central);
    host.enrol().await;
    let mut enrolment = host.enrolment();
    assert!(enrolment.poll(Duration::from_secs(1)).await.unwrap().is_none(), "nothing newer in a second");
    let asked = central.lines().len();
    let change = async {
        while central.lines().len() == asked {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        central.assign(payload(8));
    };
    let (polled, ()) = tokio::join!(enrolment.poll(Duration::from_secs(60)), change);
    let polled = polled.unwrap().unwrap();
    assert_eq!((polled.assignment.generation, polled.is_new), (8, true));
}

#[tokio::test]
async fn reports_arrive_while_a_poll_waits() {
    let central = Central::start(Signer::new()).await;
    let host = Host::new(&central);
    host.enrol().await;
    let mut enrolment = host.enrolment();
    let client = enrolment.client().unwrap();
    let report: Report = serde_json::from_value(json!({
        "sequence": 1, "boot_id": "boot", "generation": 7, "epoch": 1, "phase": "steady",
        "verdict": "healthy", "facts_digest": "0"
    }))
    .unwrap();
    let reported = async {
        let answer = client.report(&report).await.unwrap();
        central.assign(payload(8));
        answer
    };
    let (polled, answer) = tokio::join!(enrolment.poll(Duration::from_secs(60)), reported);
    assert!(polled.unwrap().is_some());
    assert_eq!(answer.next_report_s, 60);
    central.fault(Fault::Raw { status: 410, headers: String::new(), body: Vec::new() });
    assert_eq!(client.report(&report).await.unwrap_err().code(), "EB-node-revoked");
}

// === faults ===

#[tokio::test]
async fn no_fault_changes_what_is_in_force() {
    let central = Central::start(Signer::new()).await;
    let host = Host::new(&central);
    host.enrol().await;
    let (stored, key) = (host.stored(), host.root().read(NODE_KEY).unwrap());
    let html = b"<!DOCTYPE html><html>Please log in</html>".to_vec();
    let page =
        |status: u16, headers: &str| Fault::Raw { status, headers: headers.to_owned(), body: html.clone() };
    let on_assignment =
        |status, headers: &str| Fault::OnAssignment { status, headers: headers.to_owned(), body: Vec::new() };
    for (fault, code) in [
        (Fault::LostReply, "EB-central-unreachable"),
        (Fault::Reset, "EB-central-unreachable"),
        (Fault::Half, "EB-central-unreachable"),
        (page(200, "content-type: text/html\r\n"), "EB-captive-portal"),
        (page(200, ""), "EB-captive-portal"),
        (page(404, "content-type: text/html; charset=utf-8\r\n"), "EB-captive-portal"),
        (page(302, "location: /elsewhere\r\n"), "EB-captive-portal"),
        (on_assignment(307, "location: /elsewhere\r\n"), "EB-captive-portal"),
        (Fault::body("{\"payload\": \"canary\""), "EB-central-answer"),
        (Fault::body("[]"), "EB-central-answer"),
        (
            Fault::body("{\"payload\":\"!\",\"signature\":\"!\",\"key_id\":\"00000000\"}"),
            "EB-assignment-signature",
        ),
        (Fault::body(" ".repeat(2 * 1024 * 1024)), "EB-central-answer"),
        (Fault::Endless, "EB-central-answer"),
        (Fault::status(500), "EB-central-unavailable"),
        (Fault::status(502), "EB-central-unavailable"),
        (Fault::status(503), "EB-central-unavailable"),
        (Fault::status(429), "EB-central-unavailable"),
        (Fault::status(401), "EB-node-refused"),
        (Fault::status(403), "EB-node-refused"),
        (Fault::status(404), "EB-node-unknown"),
        (Fault::status(410), "EB-node-revoked"),
        (Fault::status(418), "EB-central-answer"),
    ] {
        central.fault(fault.clone());
        let kept = host.enrol().await;
        let trouble = kept.trouble.unwrap_or_else(|| panic!("{fault:?} went unnoticed"));
        assert_eq!(trouble.code(), code, "{fault:?}: {}", Chain(&trouble));
        assert!(!Chain(&trouble).to_string().contains("canary"), "{}", Chain(&trouble));
        assert_eq!((kept.freshness, kept.assignment.generation), (Freshness::Cached, 7), "{fault:?}");
        assert_eq!(
            (host.stored(), host.root().read(NODE_KEY).unwrap()),
            (stored.clone(), key.clone()),
            "{fault:?}"
        );
    }
    assert_eq!(central.count("/elsewhere"), 0, "a redirect is never followed");
    central.fault(None);
    assert_eq!(host.enrol().await.freshness, Freshness::Fresh);
}

#[tokio::test]
async fn no_fault_of_a_claim_loses_the_token_or_makes_a_second_key() {
    let central = Central::start(Signer::new()).await;
    let host = Host::new(&central);
    for fault in [
        Fault::LostReply,
        Fault::Reset,
        Fault::Half,
        Fault::body("{\"state\":\"claimed\"}"),
        Fault::body("<html>"),
        Fault::Raw { status: 302, headers: "location: /elsewhere\r\n".to_owned(), body: Vec::new() },
        Fault::Raw { status: 503, headers: String::new(), body: Vec::new() },
    ] {
        central.fault(fault.clone());
        let error = host.once().await.unwrap_err();
        assert!(error.kind().can_retry(), "{fault:?}: {error}");
        assert!(host.root().exists(TOKEN_FILE), "{fault:?}");
    }
    central.fault(None);
    assert_eq!(host.enrol().await.freshness, Freshness::Fresh);
    let ids: std::collections::BTreeSet<String> =
        central.state().seen.iter().map(|seen| seen.node_id.clone()).collect();
    assert_eq!(ids.len(), 1, "one host, one key");
    assert_eq!(central.count("/elsewhere"), 0);
}

#[tokio::test]
async fn a_slow_loris_is_left_at_the_deadline() {
    let central = Central::start(Signer::new()).await;
    let host = Host::new(&central);
    host.enrol().await;
    central.fault(Fault::SlowLoris);
    let kept = enrolled(host.enrolment().assignment(Duration::from_millis(700)).await.unwrap());
    assert_eq!(kept.trouble.unwrap().code(), "EB-central-unreachable");

    let settings = http::Settings {
        proof: http::Proof { pins: vec![central.proof.pin], ..http::Proof::default() },
        identity: Some(credential::ensure(&host.root()).unwrap().identity()),
        ..http::Settings::default()
    };
    let url = format!("{}/v1/claims", central.endpoint());
    let request =
        http::Request { url: &url, json: None, deadline: Duration::from_millis(700), limit: 1 << 20 };
    let start = tokio::time::Instant::now();
    let error = http::Client::new(&settings).unwrap().send(request).await.unwrap_err();
    assert!(matches!(error, http::HttpError::Deadline(_)), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5), "bytes that trickle in do not move the deadline");
}

#[tokio::test]
async fn what_a_busy_service_asks_for_is_told() {
    let central = Central::start(Signer::new()).await;
    let host = Host::new(&central);
    for status in [429, 503] {
        central.fault(Fault::Raw { status, headers: "retry-after: 70\r\n".to_owned(), body: Vec::new() });
        let mut enrolment = host.enrolment();
        let error = enrolment.poll(Duration::ZERO).await.unwrap_err();
        assert_eq!(error.retry_after(), Some(Duration::from_secs(70)));
        let delay = enrolment.delay(&error);
        assert!((70..=88).contains(&delay.as_secs()), "{delay:?}");
    }
}

#[tokio::test]
async fn a_first_boot_tries_again_by_itself() {
    let central = Central::start(Signer::new()).await;
    let host = Host::new(&central);
    central.fault(Fault::Raw { status: 503, headers: String::new(), body: Vec::new() });
    let heal = async {
        while central.lines().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        central.fault(None);
    };
    let (enrolled, ()) = tokio::join!(host.enrol(), heal);
    assert_eq!(enrolled.freshness, Freshness::Fresh);
}

#[tokio::test]
async fn somebody_else_hears_nothing() {
    let (central, other) = (Central::start(Signer::new()).await, Central::start(Signer::new()).await);
    let mut host = Host::new(&central);
    host.settings.endpoints = vec![other.endpoint()];
    let error = host.once().await.unwrap_err();
    assert_eq!(error.code(), "EB-central-untrusted", "{}", Chain(&error));
    assert!(other.lines().is_empty(), "no token reaches a stranger");
}

#[tokio::test]
async fn a_dropped_call_costs_nothing_wherever_it_was() {
    let central = Central::start(Signer::new()).await;
    for polls in 0.. {
        let host = Host::new(&central);
        if drop_after(polls, host.enrolment().assignment(PATIENCE)).await {
            assert!(polls > 5, "a claim and a question take some steps, not {polls}");
            return;
        }
        let node_id = credential::node_id(&host.root()).unwrap();
        let after = host.enrol().await;
        assert_eq!(after.assignment.generation, 7, "dropped after {polls} polls");
        assert!(after.damage.is_none() && !host.root().exists(TOKEN_FILE));
        assert!(node_id.is_none_or(|id| Some(id) == credential::node_id(&host.root()).unwrap()));
    }
}

/// Polls `call` so often and drops it then; whether it had ended.
async fn drop_after<T>(polls: usize, call: impl Future<Output = T>) -> bool {
    let mut call = std::pin::pin!(call);
    let mut left = polls;
    std::future::poll_fn(|context| {
        if left == 0 {
            return std::task::Poll::Ready(false);
        }
        left -= 1;
        call.as_mut().poll(context).map(|_| true)
    })
    .await
}

// === signatures, generations, trust ===

#[tokio::test]
async fn what_is_not_for_this_host_is_not_taken_over() {
    let central = Central::start(Signer::new()).await;
    let host = Host::new(&central);
    host.enrol().await;
    let stored = host.stored();
    let changed = |key: &str, value: serde_json::Value| {
        let mut payload = payload(8);
        payload[key] = value;
        payload
    };
    let mut same_generation = payload(7);
    same_generation["node"]["ip"] = "172.16.36.4".into();
    for (payload, code) in [
        (changed("node_id", "a".repeat(26).into()), "EB-assignment-foreign"),
        (changed("site", "hz-018".into()), "EB-assignment-foreign"),
        (changed("schema", 2.into()), "EB-assignment-invalid"),
        (changed("role", "witness".into()), "EB-assignment-invalid"),
        (payload(6), "EB-generation-lower"),
    ] {
        central.assign(payload);
        let kept = host.enrol().await;
        let trouble = kept.trouble.unwrap();
        assert_eq!(trouble.code(), code, "{}", Chain(&trouble));
        assert_eq!((kept.assignment.generation, host.stored()), (7, stored.clone()));
    }
    let node_id = credential::node_id(&host.root()).unwrap().unwrap();
    same_generation["node_id"] = node_id.as_str().into();
    let envelope = central.state().signer.sign(&same_generation);
    central.state().envelope = Some(envelope);
    let kept = host.enrol().await;
    assert_eq!(kept.trouble.unwrap().code(), "EB-generation-conflict");
    assert_eq!(host.stored(), stored);
}

#[tokio::test]
async fn a_service_restored_from_a_backup_hears_the_newer_generation() {
    let central = Central::start(Signer::new()).await;
    let host = Host::new(&central);
    central.assign(payload(9));
    host.enrol().await;
    central.assign(payload(4));
    assert_eq!(host.enrol().await.trouble.unwrap().code(), "EB-generation-lower");
    assert!(central.lines().last().unwrap().contains("generation=9&"), "so that it can go on above it");
    central.assign(payload(10));
    assert_eq!(host.enrol().await.assignment.generation, 10);
}

#[tokio::test]
async fn a_service_that_forgot_the_host_is_claimed_again_with_the_same_key() {
    let central = Central::start(Signer::new()).await;
    let host = Host::new(&central);
    host.enrol().await;
    central.state().known = false;
    host.put_token();
    let again = host.enrol().await;
    assert!(again.trouble.is_none() && again.freshness == Freshness::Fresh);
    let claims: Vec<_> =
        central.state().seen.iter().filter(|seen| seen.line.contains("claims")).cloned().collect();
    assert_eq!(claims.len(), 2);
    assert_eq!(claims[0].node_id, claims[1].node_id);
    assert!(!host.root().exists(TOKEN_FILE));

    central.state().known = false;
    central.state().claims = Claims::Pending;
    let kept = host.enrol().await;
    assert_eq!((kept.assignment.generation, kept.trouble.unwrap().code()), (7, "EB-claim-pending"));
}

#[tokio::test]
async fn a_second_claim_does_not_bring_another_signer() {
    let central = Central::start(Signer::new()).await;
    let host = Host::new(&central);
    host.enrol().await;
    central.state().known = false;
    central.state().signer = Signer::new();
    central.assign(payload(8));
    let kept = host.enrol().await;
    assert_eq!(kept.trouble.unwrap().code(), "EB-assignment-signature");
    assert_eq!(kept.assignment.generation, 7);

    let mut enrolment = host.enrolment();
    enrolment.replace_trust();
    let replaced = enrolled(enrolment.assignment(PATIENCE).await.unwrap());
    assert_eq!((replaced.freshness, replaced.assignment.generation), (Freshness::Fresh, 8));
}

#[tokio::test]
async fn a_new_signing_key_takes_over_from_the_old_one() {
    let (old, new) = (Signer::new(), Signer::new());
    let central = Central::start(old.clone()).await;
    let host = Host::new(&central);
    host.enrol().await;
    let named = |generation| {
        let mut payload = payload(generation);
        payload["trust"] = json!({"signing_keys": [new.key_text()]});
        payload
    };
    central.assign(named(8));
    assert_eq!(host.enrol().await.assignment.generation, 8);
    central.state().signer = new.clone();
    central.assign(named(9));
    assert_eq!(host.enrol().await.assignment.generation, 9);
    central.state().signer = old;
    central.assign(named(10));
    let kept = host.enrol().await;
    assert_eq!((kept.assignment.generation, kept.trouble.unwrap().code()), (9, "EB-assignment-signature"));
}

#[tokio::test]
async fn a_service_moves_and_its_old_key_ends() {
    let signer = Signer::new();
    let (old, new) = (Central::start(signer.clone()).await, Central::start(signer).await);
    let host = Host::new(&old);
    host.enrol().await;
    let pin = {
        use base64::Engine as _;
        format!("sha256/{}", base64::engine::general_purpose::STANDARD.encode(new.proof.pin))
    };
    let mut moved = payload(8);
    moved["trust"] = json!({"pins": [pin], "endpoints": [new.endpoint()]});
    old.assign(moved.clone());
    new.state().known = true;
    new.assign(moved);
    assert_eq!(host.enrol().await.assignment.generation, 8);
    new.fault(Fault::status(503));
    assert_eq!(host.enrol().await.freshness, Freshness::Fresh, "the old one stays until the new one was met");
    new.fault(None);
    assert_eq!(host.enrol().await.freshness, Freshness::Fresh);
    let heard = old.lines().len();
    new.fault(Fault::status(503));
    assert_eq!(host.enrol().await.trouble.unwrap().code(), "EB-central-unavailable");
    assert_eq!(old.lines().len(), heard, "the old key is trusted no more");
}

#[tokio::test]
async fn a_damaged_assignment_comes_back_with_the_next_claim() {
    let central = Central::start(Signer::new()).await;
    let host = Host::new(&central);
    host.enrol().await;
    for file in [ASSIGNMENT.to_owned(), format!("{ASSIGNMENT}.prev")] {
        std::fs::write(host.root().path(&file), b"").unwrap();
    }
    let back = host.enrol().await;
    assert_eq!((back.freshness, back.assignment.generation), (Freshness::Fresh, 7));
    assert!(back.damage.unwrap().contains("damaged"));
    assert_eq!(host.root().list(QUARANTINE).unwrap().len(), 2, "nothing is deleted");
    assert!(host.enrol().await.damage.is_none());
}

#[tokio::test]
async fn a_stored_assignment_is_checked_at_every_load() {
    let central = Central::start(Signer::new()).await;
    let host = Host::new(&central);
    host.enrol().await;
    let node_id = credential::node_id(&host.root()).unwrap().unwrap();
    let mut stored = cache::load(&host.root(), &node_id).unwrap().stored;
    let mut forged = payload(99);
    forged["node_id"] = node_id.as_str().into();
    stored.envelope = Some(Signer::new().sign(&forged));
    cache::store(&host.root(), &stored).unwrap();
    let cached = cache::load(&host.root(), &node_id).unwrap();
    assert!(cached.assignment.is_none());
    assert!(cached.damage.unwrap().contains("does not trust"));
    assert_eq!(host.enrol().await.assignment.generation, 7, "the service gives the right one again");
}
