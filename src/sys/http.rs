//! One HTTPS exchange: who must answer, how long it may take, how much may come.
//!
//! Owns TLS with pinned keys or an own authority, the client certificate,
//! timeouts, limits, the proxy and how names become addresses. Redirects are
//! never followed, the environment is never asked. Knows nothing of what is
//! exchanged and never tries again: its caller knows what may be repeated.

mod dns;
mod names;
mod tls;

use std::error::Error as StdError;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{
    ACCEPT, ACCEPT_RANGES, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_RANGE, RANGE, RETRY_AFTER,
};
use reqwest::{NoProxy, Proxy, Response, Url, redirect, tls::TlsInfo};
use rustls::pki_types::pem::PemObject as _;
use thiserror::Error;

/// Longest time for a name, in seconds.
const NAME_SECONDS: u64 = 4;
/// Longest time for TCP and TLS, in seconds.
const CONNECT_SECONDS: u64 = 5;
/// How long an unused connection is kept.
const IDLE: Duration = Duration::from_secs(90);

/// SHA-256 of a SubjectPublicKeyInfo.
pub type KeyDigest = [u8; 32];

/// Who the other side must be.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proof {
    /// Its public key is one of these: right also while the clock is wrong.
    pub pins: Vec<KeyDigest>,
    /// Or its certificate chains to an authority of this PEM text.
    pub authorities: Option<String>,
    /// Anybody may answer: the caller checks the content by its digest.
    pub anybody: bool,
}

/// How a [`Client`] reaches others, and as whom.
#[derive(Clone, Default)]
pub struct Settings {
    /// Who must answer.
    pub proof: Proof,
    /// Certificate and PKCS #8 key, both PEM, that this side shows.
    pub identity: Option<Identity>,
    /// DNS servers that are asked before the system's own resolver.
    pub resolvers: Vec<SocketAddr>,
    /// Addresses for a name that nobody resolves.
    pub addresses: Vec<IpAddr>,
    /// Proxy URL, credentials included; never used for loopback.
    pub proxy: Option<String>,
    /// Seconds since 1970 between which the machine's clock is believed when an
    /// authority's dates are looked at; outside of them the first counts too.
    /// `None` believes it always.
    pub believable: Option<(u64, u64)>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Settings")
            .field("pins", &self.proof.pins.len())
            .field("resolvers", &self.resolvers)
            .field("addresses", &self.addresses)
            .field("proxy", &self.proxy.is_some())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Proof({} pins, authorities: {})", self.pins.len(), self.authorities.is_some())
    }
}

/// What this side shows to the other.
#[derive(Clone)]
pub struct Identity {
    /// Certificate, PEM.
    pub certificate: String,
    /// Private key, PKCS #8 PEM.
    pub key: zeroize::Zeroizing<String>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Identity(secret)")
    }
}

/// Why there is no whole answer.
#[derive(Debug, Error)]
pub enum HttpError {
    /// The settings cannot be used.
    #[error("{0}")]
    Settings(String),
    /// Plain http to another machine.
    #[error("plain http is refused except to loopback")]
    Plain,
    /// The other side is not the one that must answer.
    #[error("its certificate is not the one that was agreed on")]
    Untrusted(#[source] rustls::Error),
    /// Nobody resolves the name.
    #[error("the name {0} does not resolve")]
    Name(String),
    /// No connection, or it broke.
    #[error("no whole answer came")]
    Broken(#[source] reqwest::Error),
    /// The deadline passed.
    #[error("no whole answer within {0} s")]
    Deadline(u64),
    /// More came than may come.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
}

/// One request.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Absolute URL.
    pub url: &'a str,
    /// JSON to post; `None` gets.
    pub json: Option<&'a [u8]>,
    /// For the whole exchange, from the name to the last byte.
    pub deadline: Duration,
    /// Largest body in bytes.
    pub limit: usize,
}

/// One whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Content type, in lower case.
    pub content_type: String,
    /// `Retry-After`, when it is a number of seconds.
    pub retry_after: Option<Duration>,
    /// Body.
    pub body: Vec<u8>,
    /// Public key of who answered; `None` over plain http.
    pub peer: Option<KeyDigest>,
    /// Where it came from; a proxy's address when there is one.
    pub address: Option<IpAddr>,
}

/// Keeps one connection per host open between exchanges.
#[derive(Debug, Clone)]
pub struct Client {
    inner: reqwest::Client,
}

impl Client {
    /// Prepares a client; connects to nobody.
    ///
    /// # Errors
    /// [`HttpError::Settings`] when a certificate, key or proxy cannot be used.
    pub fn new(settings: &Settings) -> Result<Self, HttpError> {
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::config(settings)?)
            .tls_info(true)
            .user_agent(concat!("edge-bootstrap/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .referer(false)
            .connect_timeout(Duration::from_secs(NAME_SECONDS + CONNECT_SECONDS))
            .pool_max_idle_per_host(1)
            .pool_idle_timeout(IDLE)
            .tcp_keepalive(Duration::from_secs(30))
            .dns_resolver(Arc::new(names::Names::new(settings)))
            .no_proxy();
        if let Some(proxy) = &settings.proxy {
            builder = builder.proxy(proxy_for(proxy)?);
        }
        let inner = builder.build().map_err(|error| HttpError::Settings(innermost(&error)))?;
        Ok(Self { inner })
    }

    /// Does one exchange.
    ///
    /// # Errors
    /// [`HttpError`] when no whole answer came; any status is an answer.
    pub async fn send(&self, request: Request<'_>) -> Result<Answer, HttpError> {
        let url = allowed(request.url)?;
        let exchange = async {
            let mut response = self.start(url, request.json).await?;
            let body = read(&mut response, request.limit).await?;
            Ok(answer(&response, body))
        };
        match tokio::time::timeout(request.deadline, exchange).await {
            Ok(result) => result,
            Err(_) => Err(HttpError::Deadline(request.deadline.as_secs())),
        }
    }

    /// Begins to get `url` from byte `offset` on; the caller takes the chunks.
    ///
    /// # Errors
    /// [`HttpError`] when no answer begins within `deadline`.
    pub async fn download(&self, url: &str, offset: u64, deadline: Duration) -> Result<Download, HttpError> {
        self.download_rest(url, (offset, None), deadline).await
    }

    /// The same; with the entity tag of what came before, another version is
    /// sent whole (`If-Range`, RFC 9110).
    ///
    /// # Errors
    /// As [`Client::download`].
    pub async fn download_rest(
        &self,
        url: &str,
        (offset, tag): (u64, Option<&str>),
        deadline: Duration,
    ) -> Result<Download, HttpError> {
        let mut request = self.inner.get(allowed(url)?).header(ACCEPT, "*/*");
        if offset > 0 {
            request = request.header(RANGE, format!("bytes={offset}-"));
        }
        if let Some(tag) = tag.filter(|_| offset > 0) {
            request = request.header(IF_RANGE, tag);
        }
        match tokio::time::timeout(deadline, request.send()).await {
            Ok(response) => Ok(Download { response: response.map_err(broken)?, deadline }),
            Err(_) => Err(HttpError::Deadline(deadline.as_secs())),
        }
    }

    async fn start(&self, url: Url, json: Option<&[u8]>) -> Result<Response, HttpError> {
        let request = match json {
            Some(json) => self.inner.post(url).header(CONTENT_TYPE, "application/json").body(json.to_vec()),
            None => self.inner.get(url),
        };
        request.header(ACCEPT, "application/json, */*;q=0.1").send().await.map_err(broken)
    }
}

/// A body that comes in pieces.
#[derive(Debug)]
pub struct Download {
    response: Response,
    deadline: Duration,
}

impl Download {
    /// HTTP status: 206 when the offset was honoured, 200 when the body begins at 0.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// Strong entity tag of what comes, when the other side gives one.
    #[must_use]
    pub fn tag(&self) -> Option<String> {
        let tag = self.response.headers().get(ETAG)?.to_str().ok()?;
        tag.starts_with('"').then(|| tag.to_owned())
    }

    /// Whether the other side says that it can give a file from any byte on, or
    /// does so now.
    #[must_use]
    pub fn can_go_on(&self) -> bool {
        let ranges = self.response.headers().get(ACCEPT_RANGES);
        self.status() == 206 || ranges.is_some_and(|ranges| ranges == "bytes")
    }

    /// Where the body begins in the whole, by `Content-Range`; 0 without one.
    #[must_use]
    pub fn begins_at(&self) -> u64 {
        let range = self.response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
        let first = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
        first.unwrap_or(0)
    }

    /// Bytes still to come, when the other side told.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.response.content_length()
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// When the body breaks off, or no piece comes within the deadline.
    pub async fn chunk(&mut self) -> Result<Option<Vec<u8>>, HttpError> {
        match tokio::time::timeout(self.deadline, self.response.chunk()).await {
            Ok(chunk) => Ok(chunk.map_err(broken)?.map(|bytes| bytes.to_vec())),
            Err(_) => Err(HttpError::Deadline(self.deadline.as_secs())),
        }
    }
}

/// Digest of the public key of a certificate in PEM; `None` when it is none.
#[must_use]
pub fn pem_key_digest(pem: &str) -> Option<KeyDigest> {
    let certificate = rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    tls::key_digest(&certificate).ok()
}

/// Plain http may only reach this machine.
fn allowed(text: &str) -> Result<Url, HttpError> {
    let url =
        Url::parse(text).map_err(|error| HttpError::Settings(format!("{text:?} is no URL: {error}")))?;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    match url.scheme() {
        "https" => Ok(url),
        "http" if loopback => Ok(url),
        _ => Err(HttpError::Plain),
    }
}

fn proxy_for(url: &str) -> Result<Proxy, HttpError> {
    // The text of the error could repeat the URL, and with it a password.
    let proxy =
        Proxy::all(url).map_err(|_| HttpError::Settings("the proxy URL cannot be used".to_owned()))?;
    Ok(proxy.no_proxy(NoProxy::from_string("localhost,127.0.0.0/8,::1")))
}

async fn read(response: &mut Response, limit: usize) -> Result<Vec<u8>, HttpError> {
    if response.content_length().is_some_and(|length| length > limit as u64) {
        return Err(HttpError::TooLarge(limit));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if body.len() + chunk.len() > limit {
            return Err(HttpError::TooLarge(limit));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn answer(response: &Response, body: Vec<u8>) -> Answer {
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let peer = response.extensions().get::<TlsInfo>().and_then(TlsInfo::peer_certificate);
    Answer {
        status: response.status().as_u16(),
        content_type: header(CONTENT_TYPE).unwrap_or_default().to_ascii_lowercase(),
        retry_after: header(RETRY_AFTER).and_then(|text| text.trim().parse().ok()).map(Duration::from_secs),
        body,
        peer: peer.and_then(|der| tls::key_digest(&der.into()).ok()),
        address: response.remote_addr().map(|address| address.ip().to_canonical()),
    }
}

/// Finds the layer that said no: causes that need other answers from a person
/// are told apart, the rest is a broken connection.
fn broken(error: reqwest::Error) -> HttpError {
    let error = error.without_url();
    let mut cause: Option<&(dyn StdError + 'static)> = Some(&error);
    while let Some(now) = cause {
        if let Some(rustls @ rustls::Error::InvalidCertificate(_)) = now.downcast_ref() {
            return HttpError::Untrusted(rustls.clone());
        }
        if let Some(names::Unresolved(name)) = now.downcast_ref() {
            return HttpError::Name(name.clone());
        }
        // io::Error passes over what it wraps when it is asked for its source.
        cause = match now.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => now.source(),
        };
    }
    HttpError::Broken(error)
}

pub(super) fn innermost(error: &dyn StdError) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn plain_http_reaches_only_this_machine() {
        for url in
            ["http://127.0.0.1:1/", "http://localhost/", "http://[::1]:1/", "https://central.example.net/"]
        {
            assert!(allowed(url).is_ok(), "{url}");
        }
        for url in
            ["http://central.example.net/", "http://10.0.0.1/", "ftp://127.0.0.1/", "file:///etc/passwd"]
        {
            assert!(matches!(allowed(url), Err(HttpError::Plain)), "{url}");
        }
        assert!(matches!(allowed("central"), Err(HttpError::Settings(_))));
    }

    #[test]
    fn a_proxy_password_is_never_shown() {
        let settings =
            Settings { proxy: Some("http://user:canary@10.0.0.1:3128".to_owned()), ..Settings::default() };
        assert!(!format!("{settings:?}").contains("canary"));
        let error = proxy_for("http://user:canary@[/").unwrap_err();
        assert!(!error.to_string().contains("canary"));
    }
}
