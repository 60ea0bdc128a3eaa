//! Requests to services on this host: loopback only, own roots of trust.
//!
//! Owns the client and its limits. Uses no proxy, follows no redirect, trusts
//! no system store.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, header, redirect};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::root::{FileError, Root};

/// Largest answer that is read, in bytes. A Node with its image list has tens of KiB.
const MAX_BODY: usize = 4 * 1024 * 1024;

/// A local service that could not be asked.
#[derive(Debug, Error)]
pub enum LocalError {
    /// Certificates or keys are not usable.
    #[error("use the {what} for {url}")]
    Credentials {
        /// Which of them.
        what: &'static str,
        /// For what.
        url: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No whole answer came.
    #[error("ask {url}")]
    Request {
        /// What was asked.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The answer is larger than any that is expected.
    #[error("the answer of {url} is larger than 4 MiB")]
    TooLarge {
        /// What was asked.
        url: String,
    },
}

impl LocalError {
    /// Whether nothing listens there (yet).
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Request { source, .. } if source.is_connect())
    }
}

/// Whom to trust, and who we are: PEM texts.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// Certificates of the authority.
    pub ca: &'a [u8],
    /// Our certificate and its chain.
    pub certificate: &'a [u8],
    /// Its private key.
    pub key: &'a [u8],
}

impl std::fmt::Debug for Credentials<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Credentials")
    }
}

/// Status and text of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body, lossy.
    pub body: String,
}

/// What is done with the thing that a URL names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Read it.
    Get,
    /// Make one below it.
    Post,
    /// Put another in its place.
    Put,
    /// Change some of its fields.
    Patch,
    /// Remove it.
    Delete,
}

/// One request to a service on this host.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// What is done.
    pub method: Method,
    /// With what.
    pub url: &'a str,
    /// Media type and content of what is sent, where something is.
    pub body: Option<(&'static str, &'a str)>,
    /// User and password, for a service that takes no client certificate.
    pub basic: Option<(&'static str, &'a str)>,
}

/// Without what is sent: both may hold secrets.
impl std::fmt::Debug for Request<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Request")
            .field("method", &self.method)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl<'a> Request<'a> {
    /// Reads what `url` names.
    #[must_use]
    pub fn get(url: &'a str) -> Self {
        Self { method: Method::Get, url, body: None, basic: None }
    }
}

/// `GET` of a plain URL on this host.
///
/// # Errors
/// When no whole answer comes within `limit`.
pub async fn get(url: &str, limit: Duration) -> Result<Answer, LocalError> {
    // The client wants a TLS configuration even where none is used.
    let trust = trust(url, rustls::RootCertStore::empty())?;
    send(builder(limit).tls_backend_preconfigured(trust.with_no_client_auth()), Request::get(url)).await
}

/// One request over TLS with a client certificate.
///
/// # Errors
/// When the credentials are not usable or no whole answer comes within `limit`.
pub async fn ask_tls(
    request: Request<'_>,
    credentials: &Credentials<'_>,
    limit: Duration,
) -> Result<Answer, LocalError> {
    let config = tls(request.url, credentials)?;
    send(builder(limit).tls_backend_preconfigured(config), request).await
}

/// One request over TLS to whoever has a certificate of `ca` (PEM), without one of ours.
///
/// # Errors
/// When `ca` is not usable or no whole answer comes within `limit`.
pub async fn ask_by_password(request: Request<'_>, ca: &[u8], limit: Duration) -> Result<Answer, LocalError> {
    let config = trust(request.url, roots(request.url, ca)?)?.with_no_client_auth();
    send(builder(limit).tls_backend_preconfigured(config), request).await
}

/// Whether something accepts connections on the Unix socket at `path`.
///
/// # Errors
/// When it is not there, nobody listens, or nobody accepts within `limit`.
pub async fn accepts(root: &Root, path: &str, limit: Duration) -> Result<(), FileError> {
    let late = || std::io::Error::from(std::io::ErrorKind::TimedOut);
    let connect = timeout(limit, UnixStream::connect(root.path(path))).await;
    connect
        .unwrap_or_else(|_| Err(late()))
        .map(|_| ())
        .map_err(|source| FileError::new("connect to", path, source))
}

fn builder(limit: Duration) -> reqwest::ClientBuilder {
    Client::builder().no_proxy().redirect(redirect::Policy::none()).timeout(limit)
}

async fn send(builder: reqwest::ClientBuilder, request: Request<'_>) -> Result<Answer, LocalError> {
    let url = request.url;
    let failed = |source| LocalError::Request { url: url.to_owned(), source };
    let mut call = builder.build().map_err(failed)?.request(method(request.method), url);
    if let Some((media_type, body)) = request.body {
        call = call.header(header::CONTENT_TYPE, media_type).body(body.to_owned());
    }
    if let Some((user, password)) = request.basic {
        call = call.basic_auth(user, Some(password));
    }
    let mut answer = call.send().await.map_err(failed)?;
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(LocalError::TooLarge { url: url.to_owned() });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status: answer.status().as_u16(), body: String::from_utf8_lossy(&body).into_owned() })
}

fn method(method: Method) -> reqwest::Method {
    match method {
        Method::Get => reqwest::Method::GET,
        Method::Post => reqwest::Method::POST,
        Method::Put => reqwest::Method::PUT,
        Method::Patch => reqwest::Method::PATCH,
        Method::Delete => reqwest::Method::DELETE,
    }
}

fn tls(url: &str, credentials: &Credentials<'_>) -> Result<rustls::ClientConfig, LocalError> {
    let bad = |what| move |source| LocalError::Credentials { what, url: url.to_owned(), source };
    let roots = roots(url, credentials.ca)?;
    let chain = certificates(credentials.certificate).map_err(bad("client certificate"))?;
    let key =
        PrivateKeyDer::from_pem_slice(credentials.key).map_err(|error| bad("client key")(error.into()))?;
    trust(url, roots)?
        .with_client_auth_cert(chain, key)
        .map_err(|error| bad("client certificate")(error.into()))
}

fn roots(url: &str, ca: &[u8]) -> Result<rustls::RootCertStore, LocalError> {
    let bad =
        |source| LocalError::Credentials { what: "authority's certificate", url: url.to_owned(), source };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(ca).map_err(bad)? {
        roots.add(certificate).map_err(|error| bad(error.into()))?;
    }
    Ok(roots)
}

type Trust = rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert>;

fn trust(url: &str, roots: rustls::RootCertStore) -> Result<Trust, LocalError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| LocalError::Credentials {
        what: "TLS library",
        url: url.to_owned(),
        source: error.into(),
    })?;
    Ok(builder.with_root_certificates(roots))
}

type Certificates = Result<Vec<CertificateDer<'static>>, Box<dyn std::error::Error + Send + Sync>>;

fn certificates(pem: &[u8]) -> Certificates {
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>()?;
    if all.is_empty() {
        return Err("it holds no certificate".into());
    }
    Ok(all)
}
