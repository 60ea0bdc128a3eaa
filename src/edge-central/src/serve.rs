//! The running service: listens, speaks TLS, hands requests to the router.
//!
//! Owns connections and their deadlines: one that does not get on is closed,
//! however slowly it drips.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service as _;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::sys::socket::{setsockopt, sockopt};
use rustls::ServerConfig;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::ca::{self, CaError, Identity};
use crate::files::{self, FileError};
use crate::http::{self, Peer};
use crate::service::{ARTIFACTS, Deadlines, Options, SIGNING_KEY, Service};
use crate::sign::{SignError, Signer};
use crate::store::{Store, StoreError, commit, sites};
use crate::tls;
use crate::watch::{self, Changes};

/// How long the other side may take nothing of what was sent, in milliseconds.
const STALLED_MS: u32 = 60_000;
/// Connections at once; more wait in the backlog.
const MOST_CONNECTIONS: usize = 20_000;
/// Pause after a failed accept, for example without free descriptors.
const AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(200);

/// Why the service does not run.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The data directory cannot be used.
    #[error("prepare the data directory")]
    File(#[from] FileError),
    /// The database cannot be used.
    #[error("open the database")]
    Store(#[from] StoreError),
    /// There is no signing key.
    #[error("load the signing key")]
    Sign(#[from] SignError),
    /// There is no serving certificate.
    #[error("make the serving certificate")]
    Ca(#[from] CaError),
    /// rustls refuses the certificate.
    #[error("use the serving certificate")]
    Tls(#[from] rustls::Error),
    /// The address is taken or not on this host.
    #[error("listen on {0}")]
    Listen(SocketAddr, #[source] io::Error),
}

/// A service that listens.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    service: Arc<Service>,
    pin: String,
}

impl Server {
    /// Opens data directory, database, keys and port.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn bind(
        listen: SocketAddr,
        names: &[String],
        mut options: Options,
    ) -> Result<Self, ServeError> {
        files::private_directory(&options.data)?;
        files::private_directory(&options.data.join(ARTIFACTS))?;
        let store = Store::open(&options.data).await?;
        let signer = Signer::load_or_make(&options.data.join(SIGNING_KEY))?;
        let identity = ca::identity(&options.data, names)?;
        let listener = TcpListener::bind(listen).await.map_err(|error| ServeError::Listen(listen, error))?;
        let port = listener.local_addr().map_or(listen.port(), |address| address.port());
        if options.public_url.is_empty() {
            options.public_url = default_url(names, port);
        }
        remember_url(&store, &options.public_url).await?;
        Self::assemble(listener, identity, Service { store, signer, options, changes: Changes::default() })
    }

    fn assemble(listener: TcpListener, identity: Identity, service: Service) -> Result<Self, ServeError> {
        let pin = identity.pin.clone();
        let tls = Arc::new(tls::server_config(identity)?);
        Ok(Self { listener, tls, service: Arc::new(service), pin })
    }

    /// `sha256/BASE64` of the serving key.
    #[must_use]
    pub fn pin(&self) -> &str {
        &self.pin
    }

    /// What the requests share.
    #[must_use]
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The error of the system.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves for ever.
    pub async fn run(self) {
        tokio::spawn(watch::run(Arc::clone(&self.service)));
        tokio::spawn(watch::tick(Arc::clone(&self.service)));
        let deadlines = self.service.options.deadlines;
        let router = http::router(Arc::clone(&self.service));
        let acceptor = TlsAcceptor::from(self.tls);
        let permits = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            let Some(stream) = accept(&self.listener).await else { continue };
            let (acceptor, router) = (acceptor.clone(), router.clone());
            tokio::spawn(async move {
                converse(stream, acceptor, router, deadlines).await;
                drop(permit);
            });
        }
    }
}

fn default_url(names: &[String], port: u16) -> String {
    let name = names.first().map_or("localhost", String::as_str);
    if name.contains(':') { format!("https://[{name}]:{port}") } else { format!("https://{name}:{port}") }
}

/// Assignments name artifacts by URL, so another URL is news for every host.
async fn remember_url(store: &Store, url: &str) -> Result<(), StoreError> {
    let mut tx = store.write().await?;
    if sites::remember(&mut tx, "public_url", url).await? {
        sites::touch_all(&mut tx).await?;
    }
    commit(tx).await
}

async fn accept(listener: &TcpListener) -> Option<TcpStream> {
    match listener.accept().await {
        Ok((stream, _)) => Some(stream),
        Err(error) => {
            warn!(%error, "a connection cannot be accepted, retrying");
            tokio::time::sleep(AFTER_FAILED_ACCEPT).await;
            None
        }
    }
}

/// One connection from handshake to end. Hosts come and go: its failures are
/// no news.
async fn converse(stream: TcpStream, acceptor: TlsAcceptor, router: Router, deadlines: Deadlines) {
    // Without these an answer only gets slow, or a dead peer is noticed late.
    let _ = stream.set_nodelay(true);
    let _ = setsockopt(&stream, sockopt::TcpUserTimeout, &STALLED_MS);
    let _ = setsockopt(&stream, sockopt::KeepAlive, &true);
    let Ok(Ok(stream)) = tokio::time::timeout(deadlines.handshake, acceptor.accept(stream)).await else {
        debug!("no TLS handshake");
        return;
    };
    let peer = Peer(tls::node_id(stream.get_ref().1));
    let router = TowerToHyperService::new(router);
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        router.call(request.map(Body::new))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(deadlines.head)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        debug!(%error, "connection ended");
    }
}
