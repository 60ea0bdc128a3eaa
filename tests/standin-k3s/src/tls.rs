//! Owns TLS on both sides: the listener that asks every client for a
//! certificate but refuses none (identity is judged later), and the client
//! that trusts one CA, or none for the first look. It knows no path.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    ServerConfig, SignatureScheme, StreamOwned,
};

use crate::http::{Reply, Request, exchange};
use crate::pki::{self, Pair};

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(pem: &str) -> Result<Arc<RootCertStore>> {
    let mut store = RootCertStore::empty();
    for cert in pki::certs(pem)? {
        store.add(cert)?;
    }
    Ok(Arc::new(store))
}

/// Checks a client's chain against the client CA, at the moment of the request.
#[derive(Debug, Clone)]
pub struct ClientCheck(Arc<dyn ClientCertVerifier>);

impl ClientCheck {
    /// `ca` is PEM.
    pub fn new(ca: &str) -> Result<Self> {
        let inner = WebPkiClientVerifier::builder_with_provider(roots(ca)?, provider())
            .build()
            .context("cannot use the client CA")?;
        Ok(Self(inner))
    }

    /// Common name and group of a certificate that this CA signed.
    pub fn identify(&self, chain: &[CertificateDer<'_>]) -> Option<(String, String)> {
        let (leaf, rest) = chain.split_first()?;
        self.0.verify_client_cert(leaf, rest, UnixTime::now()).ok()?;
        pki::subject(leaf).ok()
    }
}

/// Lets the handshake pass with any certificate, as Go's `RequestClientCert`.
#[derive(Debug)]
struct AskOnly(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AskOnly {
    fn client_auth_mandatory(&self) -> bool {
        false
    }
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _rest: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// The listener's configuration.
pub fn server(identity: &Pair, check: &ClientCheck) -> Result<Arc<ServerConfig>> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(AskOnly(check.0.clone())))
        .with_single_cert(pki::certs(&identity.cert)?, pki::key(&identity.key)?)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Believes every server: only for the look at `/cacerts` that a token's pin
/// is compared with.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _rest: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let all = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, all)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let all = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, all)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A client for one server.
#[derive(Debug, Clone)]
pub struct Client {
    /// `host:port`.
    address: String,
    config: Arc<ClientConfig>,
    authorization: Option<String>,
    timeout: Duration,
}

impl Client {
    /// Trusts anyone; for `/cacerts`.
    pub fn blind(address: &str) -> Result<Self> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider())))
            .with_no_client_auth();
        Ok(Self::with(address, config))
    }

    /// Trusts `ca` (PEM) and shows `identity` if there is one.
    pub fn new(address: &str, ca: &str, identity: Option<&Pair>) -> Result<Self> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots(ca)?);
        let config = match identity {
            Some(pair) => builder.with_client_auth_cert(pki::certs(&pair.cert)?, pki::key(&pair.key)?)?,
            None => builder.with_no_client_auth(),
        };
        Ok(Self::with(address, config))
    }

    fn with(address: &str, config: ClientConfig) -> Self {
        Self {
            address: address.into(),
            config: Arc::new(config),
            authorization: None,
            timeout: Duration::from_secs(10),
        }
    }

    /// The same client with basic authentication.
    #[must_use]
    pub fn basic(mut self, user: &str, password: &str) -> Self {
        use base64::Engine;
        let text = format!("{user}:{password}");
        let value = base64::engine::general_purpose::STANDARD.encode(text);
        self.authorization = Some(format!("Basic {value}"));
        self
    }

    /// The same client with another limit for connect and for each read or write.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// GET.
    pub fn get(&self, path: &str) -> Result<Reply> {
        self.send("GET", path, &[], Vec::new())
    }

    /// POST with a JSON body.
    pub fn post(&self, path: &str, body: &impl serde::Serialize) -> Result<Reply> {
        self.send("POST", path, &[], serde_json::to_vec(body)?)
    }

    /// Any request; the error reads like Go's, because callers log it.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Result<Reply> {
        let mut request = Request { method: method.into(), path: path.into(), body, ..Request::default() };
        let headers = headers.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        request.headers.extend(headers);
        if let Some(value) = &self.authorization {
            request.headers.push(("Authorization".into(), value.clone()));
        }
        let verb = match method {
            "GET" => "Get",
            "POST" => "Post",
            other => other,
        };
        self.run(&request).map_err(|error| anyhow!("{verb} \"https://{}{path}\": {error:#}", self.address))
    }

    fn run(&self, request: &Request) -> Result<Reply> {
        let socket = connect(&self.address, self.timeout)?;
        socket.set_read_timeout(Some(self.timeout))?;
        socket.set_write_timeout(Some(self.timeout))?;
        socket.set_nodelay(true)?;
        let host = host(&self.address);
        let name = ServerName::try_from(certified_name(host))?;
        let session = ClientConnection::new(self.config.clone(), name)?;
        let mut stream = StreamOwned::new(session, socket);
        exchange(&mut stream, &self.address, request)
    }
}

fn host(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']'])
}

/// A moved loopback (tests) still stands for the address that certificates name.
fn certified_name(host: &str) -> String {
    let moved = host == crate::paths::loopback().to_string();
    if moved { "127.0.0.1".into() } else { host.into() }
}

/// Tries each address of a name until one answers or the time is over.
pub fn connect(address: &str, timeout: Duration) -> Result<TcpStream> {
    let deadline = Instant::now() + timeout;
    let resolved: Vec<SocketAddr> =
        address.to_socket_addrs().with_context(|| format!("dial tcp: lookup {}", host(address)))?.collect();
    let mut last = anyhow!("dial tcp: lookup {}: no such host", host(address));
    for one in resolved {
        let left = deadline.saturating_duration_since(Instant::now());
        match TcpStream::connect_timeout(&one, left.max(Duration::from_millis(1))) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = anyhow!("dial tcp {one}: connect: {}", words(&error)),
        }
    }
    Err(last)
}

fn words(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".into(),
        std::io::ErrorKind::TimedOut => "i/o timeout".into(),
        _ => error.to_string().to_lowercase(),
    }
}
