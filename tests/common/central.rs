//! A central service that can do everything wrong, over real TLS.
//!
//! Owns the faults. It signs, claims and answers as the contract says until a
//! test tells it to lose, cut, delay, forge or refuse.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use edge_bootstrap::enrol::credential::id_of_public_key;
use edge_bootstrap::wire::envelope::{Envelope, SigningKey};
use edge_bootstrap::wire::statement::Granted;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PublicKeyData as _};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// What goes wrong with every request while it is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The request takes effect, its answer is lost.
    LostReply,
    /// The connection is reset instead of an answer.
    Reset,
    /// Half of the answer, then the end.
    Half,
    /// A byte now and then, for ever.
    SlowLoris,
    /// This instead of an answer.
    Raw { status: u16, headers: String, body: Vec<u8> },
    /// The same, only where an assignment is asked for.
    OnAssignment { status: u16, headers: String, body: Vec<u8> },
    /// A body without end.
    Endless,
}

impl Fault {
    pub fn status(status: u16) -> Self {
        Self::OnAssignment { status, headers: String::new(), body: Vec::new() }
    }

    pub fn body(body: impl Into<Vec<u8>>) -> Self {
        Self::Raw { status: 200, headers: "content-type: application/json\r\n".to_owned(), body: body.into() }
    }
}

/// How claims are answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claims {
    Accept,
    Pending,
    Refuse(u16, &'static str),
}

/// One request as it came in.
#[derive(Debug, Clone)]
pub struct Seen {
    pub line: String,
    pub node_id: String,
    pub body: Value,
}

pub struct State {
    pub fault: Option<Fault>,
    pub claims: Claims,
    /// What hosts are told to be, before `node_id` is filled in; `None`: not decided.
    pub payload: Option<Value>,
    /// Stands beside the assignment.
    pub statement: Option<Envelope>,
    /// Forces an envelope as it is.
    pub envelope: Option<Envelope>,
    pub known: bool,
    pub signer: Arc<Signer>,
    pub seen: Vec<Seen>,
}

/// Signs assignments.
pub struct Signer(Ed25519KeyPair);

impl Signer {
    pub fn new() -> Arc<Self> {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Arc::new(Self(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap()))
    }

    pub fn key(&self) -> SigningKey {
        SigningKey::from_bytes(self.0.public_key().as_ref().try_into().unwrap())
    }

    pub fn key_text(&self) -> String {
        self.key().into()
    }

    pub fn sign(&self, payload: &Value) -> Envelope {
        let bytes = payload.to_string();
        Envelope::new(bytes.as_bytes(), self.0.sign(bytes.as_bytes()).as_ref(), &self.key())
    }
}

/// How the service proves itself.
pub struct Proof {
    pub pin: [u8; 32],
    pub ca_pem: String,
}

pub struct Central {
    pub address: SocketAddr,
    pub proof: Proof,
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

/// A payload that every host can use; `node_id` is filled in when it is signed.
pub fn payload(generation: u64) -> Value {
    json!({
        "schema": 1, "generation": generation, "issued_at": "2026-11-21T10:00:00Z",
        "site": "hz-017", "role": "agent",
        "node": {"name": "172-16-36-3", "ip": "172.16.36.3"},
        "cluster": {"name": "hz-017", "servers": ["https://172.16.36.1:6443"]},
        "join": {"agent_token": "canary-agent-token"},
        "k3s": {"version": "v1.36.2+k3s1"},
    })
}

impl Central {
    /// Listens on loopback with a certificate that ended in 1971: a pin does not look at dates.
    pub async fn start(signer: Arc<Signer>) -> Self {
        Self::with_dates(signer, 1971).await
    }

    /// The same with a certificate that is valid until `year`.
    pub async fn with_dates(signer: Arc<Signer>, year: i32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (proof, acceptor) = tls(year);
        let state = State {
            fault: None,
            claims: Claims::Accept,
            payload: Some(payload(7)),
            statement: None,
            envelope: None,
            known: false,
            signer,
            seen: Vec::new(),
        };
        let (state, changed) = (Arc::new(Mutex::new(state)), Arc::new(Notify::new()));
        tokio::spawn(accept(listener, acceptor, state.clone(), changed.clone()));
        Self { address, proof, state, changed }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn endpoint(&self) -> String {
        format!("https://{}", self.address)
    }

    pub fn fault(&self, fault: impl Into<Option<Fault>>) {
        self.state().fault = fault.into();
    }

    /// Gives all hosts another payload and wakes long polls.
    pub fn assign(&self, payload: Value) {
        self.state().payload = Some(payload);
        self.changed.notify_waiters();
    }

    pub fn lines(&self) -> Vec<String> {
        self.state().seen.iter().map(|seen| seen.line.clone()).collect()
    }

    pub fn count(&self, path: &str) -> usize {
        self.lines().iter().filter(|line| line.contains(path)).count()
    }
}

fn tls(year: i32) -> (Proof, TlsAcceptor) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let names = ["localhost", "central.invalid", "127.0.0.1"].map(str::to_owned);
    let mut leaf = CertificateParams::new(names.to_vec()).unwrap();
    leaf.not_before = rcgen::date_time_ymd(1970, 1, 1);
    leaf.not_after = rcgen::date_time_ymd(year, 1, 1);
    let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    let pin = Sha256::digest(key.subject_public_key_info()).into();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(Arc::new(AnyClient))
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    (Proof { pin, ca_pem }, TlsAcceptor::from(Arc::new(config)))
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, state, changed) = (acceptor.clone(), state.clone(), changed.clone());
        tokio::spawn(async move {
            // A client that does not like the certificate goes away here.
            if let Ok(stream) = acceptor.accept(stream).await {
                serve(stream, &state, &changed).await;
            }
        });
    }
}

async fn serve(mut stream: TlsStream<TcpStream>, state: &Mutex<State>, changed: &Notify) {
    let node_id = node_id(&stream);
    while let Some((line, body)) = read_request(&mut stream).await {
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let seen = Seen { line: line.clone(), node_id: node_id.clone(), body };
        state.lock().unwrap().seen.push(seen);
        let fault = state.lock().unwrap().fault.clone();
        let normal = answer(&line, &node_id, state, changed).await;
        if !send(&mut stream, &line, fault, normal).await {
            return;
        }
    }
}

/// Whether the connection goes on.
async fn send(stream: &mut TlsStream<TcpStream>, line: &str, fault: Option<Fault>, normal: Vec<u8>) -> bool {
    match fault {
        None => stream.write_all(&normal).await.is_ok() && stream.flush().await.is_ok(),
        Some(Fault::OnAssignment { .. }) if !line.contains("/assignment") => {
            stream.write_all(&normal).await.is_ok()
        }
        Some(Fault::Raw { status, headers, body } | Fault::OnAssignment { status, headers, body }) => {
            stream.write_all(&http(status, &headers, &body)).await.is_ok()
        }
        Some(Fault::LostReply) => {
            let _ = stream.shutdown().await;
            false
        }
        Some(Fault::Reset) => {
            let _ = stream.get_ref().0.set_zero_linger();
            false
        }
        Some(Fault::Half) => {
            let _ = stream.write_all(&normal[..normal.len() - normal.len() / 3]).await;
            let _ = stream.shutdown().await;
            false
        }
        Some(Fault::SlowLoris) => drip(stream, &normal).await,
        Some(Fault::Endless) => {
            let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            let _ = stream.write_all(head).await;
            let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
            while stream.write_all(chunk.as_bytes()).await.is_ok() {}
            false
        }
    }
}

async fn drip(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> bool {
    for byte in bytes.iter().cycle() {
        if stream.write_all(&[*byte]).await.is_err() || stream.flush().await.is_err() {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

async fn answer(line: &str, node_id: &str, state: &Mutex<State>, changed: &Notify) -> Vec<u8> {
    let time = "2026-11-21T12:00:00Z";
    if line.starts_with("POST /v1/claims ") {
        let mut state = state.lock().unwrap();
        let key = state.signer.key_text();
        return match state.claims.clone() {
            Claims::Accept => {
                state.known = true;
                json_answer(
                    200,
                    &json!({"node_id": node_id, "state": "claimed", "signing_key": key, "time": time}),
                )
            }
            Claims::Pending => json_answer(
                202,
                &json!({"node_id": node_id, "state": "pending", "code": "7KQ2MX", "reason": "approval",
                        "of": null, "retry_after": 30, "time": time}),
            ),
            Claims::Refuse(status, code) => {
                json_answer(status, &json!({"error": {"code": code, "message": "no"}}))
            }
        };
    }
    if line.starts_with(&format!("POST /v1/nodes/{node_id}/reports ")) {
        return json_answer(200, &json!({"generation": 7, "next_report_s": 60, "time": time}));
    }
    if line.starts_with(&format!("GET /v1/nodes/{node_id}/assignment?")) {
        return assignment(line, node_id, state, changed).await;
    }
    json_answer(404, &json!({"error": {"code": "not_found", "message": "no such thing"}}))
}

async fn assignment(line: &str, node_id: &str, state: &Mutex<State>, changed: &Notify) -> Vec<u8> {
    let (theirs, wait) = (number(line, "generation="), number(line, "wait="));
    let end = tokio::time::Instant::now() + Duration::from_secs(wait);
    loop {
        let notified = changed.notified();
        if let Some(answer) = decided(theirs, node_id, &state.lock().unwrap()) {
            return answer;
        }
        if tokio::time::timeout_at(end, notified).await.is_err() {
            return http(304, "", b"");
        }
    }
}

/// `None`: nothing newer.
fn decided(theirs: u64, node_id: &str, state: &State) -> Option<Vec<u8>> {
    if !state.known {
        return Some(json_answer(404, &json!({"error": {"code": "node_unknown", "message": "claim first"}})));
    }
    if let Some(envelope) = &state.envelope {
        return Some(json_answer(200, &serde_json::to_value(envelope).unwrap()));
    }
    let Some(mut payload) = state.payload.clone() else { return Some(http(204, "", b"")) };
    if payload["generation"].as_u64() == Some(theirs) {
        return None;
    }
    if payload.get("node_id").is_none() {
        payload["node_id"] = node_id.into();
    }
    let granted = Granted { envelope: state.signer.sign(&payload), statement: state.statement.clone() };
    Some(json_answer(200, &serde_json::to_value(granted).unwrap()))
}

fn number(line: &str, key: &str) -> u64 {
    let digits = line.split(key).nth(1).unwrap_or_default();
    digits.split(|char: char| !char.is_ascii_digit()).next().unwrap_or_default().parse().unwrap_or_default()
}

fn json_answer(status: u16, body: &Value) -> Vec<u8> {
    http(status, "content-type: application/json\r\n", body.to_string().as_bytes())
}

fn http(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = if status == 304 || status == 204 {
        String::new()
    } else {
        format!("content-length: {}\r\n", body.len())
    };
    let mut answer = format!("HTTP/1.1 {status} X\r\n{headers}{length}\r\n").into_bytes();
    answer.extend_from_slice(body);
    answer
}

/// Request line and body; `None` at the end of the connection.
pub async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<(String, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await.ok()?;
    Some((head.lines().next().unwrap_or_default().to_owned(), body))
}

fn node_id(stream: &TlsStream<TcpStream>) -> String {
    let certificates = stream.get_ref().1.peer_certificates().unwrap();
    let parsed = ParsedCertificate::try_from(&certificates[0]).unwrap();
    id_of_public_key(&parsed.subject_public_key_info())
}

/// Every key is welcome, as in the contract; that the client holds it is proven.
#[derive(Debug)]
struct AnyClient;

impl ClientCertVerifier for AnyClient {
    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: rustls::pki_types::UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let provider = rustls::crypto::ring::default_provider();
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signed,
            &provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let provider = rustls::crypto::ring::default_provider();
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signed,
            &provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
