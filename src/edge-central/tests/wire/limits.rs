//! Limits of size and time, shapes, TLS versions.

use std::sync::Arc;
use std::time::Duration;

use edge_central::service::Deadlines;
use reqwest::{StatusCode, tls};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::common::{Central, LONG, code};

const SHORT: Deadlines = Deadlines {
    handshake: Duration::from_millis(300),
    head: Duration::from_millis(300),
    body: Duration::from_millis(300),
};

async fn connect(central: &Central) -> TcpStream {
    TcpStream::connect(central.url.strip_prefix("https://").unwrap()).await.unwrap()
}

async fn tls(central: &Central) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(central.dir.path().join("ca.pem")).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, connect(central).await).await.unwrap()
}

/// Everything until the service closes.
async fn until_closed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    // However it ends, it must end.
    let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut bytes)).await.unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn a_body_above_64_kib_is_refused() {
    let central = Central::start().await;
    let host = central.host(1);
    let mut body = host.claim_body(None);
    body["facts"] = json!("x".repeat(64 * 1024));
    let answer = host.client.post(format!("{}/v1/claims", host.url)).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(code(&answer.json().await.unwrap()), "body_too_large");
}

#[tokio::test]
async fn who_never_shakes_hands_is_closed() {
    let central = Central::start_with(SHORT).await;
    assert_eq!(until_closed(&mut connect(&central).await).await, "");
}

#[tokio::test]
async fn who_drips_a_head_is_closed() {
    let central = Central::start_with(SHORT).await;
    let mut stream = tls(&central).await;
    stream.write_all(b"GET /v1/artifacts/").await.unwrap();
    let answer = until_closed(&mut stream).await;
    assert!(!answer.contains("200 OK"), "{answer}");
}

#[tokio::test]
async fn who_drips_a_body_is_refused() {
    let central = Central::start_with(SHORT).await;
    let host = central.host(1);
    let body = reqwest::Body::wrap_stream(futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let answer = host.client.post(format!("{}/v1/claims", host.url)).body(body).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT);
    assert_eq!(code(&answer.json().await.unwrap()), "too_slow");
}

#[tokio::test]
async fn what_is_not_of_the_contract_is_refused_with_a_code() {
    let central = Central::start().await;
    let host = central.host(1);
    let claims = format!("{}/v1/claims", central.url);
    let mut newer = host.claim_body(None);
    newer["protocol"] = json!(2);
    let mut escaping = host.claim_body(None);
    escaping["node"]["name"] = json!("../x");
    let cases = [
        (host.client.post(&claims).body("<html>"), 400, "bad_request"),
        (host.client.post(&claims).json(&newer), 400, "protocol_unknown"),
        (host.client.post(&claims).json(&escaping), 400, "bad_request"),
        (host.client.get(&claims), 405, "method_not_allowed"),
        (host.client.get(format!("{}/v2/x", central.url)), 404, "not_found"),
        (
            host.client.get(format!("{}/v1/nodes/{}/assignment?generation=x", central.url, host.id)),
            400,
            "bad_request",
        ),
    ];
    for (request, status, expected) in cases {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status);
        assert_eq!(code(&answer.json().await.unwrap()), expected);
    }
}

#[tokio::test]
async fn both_tls_versions_know_the_host_by_its_key() {
    let central = Central::start().await;
    for version in [tls::Version::TLS_1_2, tls::Version::TLS_1_3] {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let pem = key.serialize_pem() + &certificate.pem();
        let identity = reqwest::Identity::from_pem(pem.as_bytes()).unwrap();
        let client = central.client().identity(identity).tls_version_min(version).tls_version_max(version);
        let body = central.host(9).claim_body(None);
        let claim = client.build().unwrap().post(format!("{}/v1/claims", central.url)).json(&body).send();
        let answer: serde_json::Value = claim.await.unwrap().json().await.unwrap();
        let expected = edge_central::ids::node_id(&rcgen::PublicKeyData::subject_public_key_info(&key));
        assert_eq!(answer["node_id"], expected);
    }
}

#[tokio::test]
async fn the_pin_holds_over_restarts() {
    let mut central = Central::start().await;
    let before = central.pin.clone();
    central.restart().await;
    assert_eq!(central.pin, before);
    assert_eq!(central.cli_json(&["info"])["pin"], before);
}
