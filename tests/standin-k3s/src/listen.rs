//! Owns the accept loops: HTTPS with the peer's certificate, and plain HTTP on
//! loopback. One thread per connection; it knows no path.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::pki_types::CertificateDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::http::{self, Reply, Request};

/// Who asks.
#[derive(Debug)]
pub struct Caller {
    /// Address of the other side.
    pub ip: IpAddr,
    /// Certificates that it showed, not yet judged.
    pub certs: Vec<CertificateDer<'static>>,
}

const LIMIT: Duration = Duration::from_secs(10);

/// Binds with the words that k3s and etcd print on failure.
pub fn bind(address: &str) -> Result<TcpListener> {
    TcpListener::bind(address).map_err(|error| {
        let words = match error.kind() {
            std::io::ErrorKind::AddrNotAvailable => "cannot assign requested address".into(),
            std::io::ErrorKind::AddrInUse => "address already in use".into(),
            _ => error.to_string().to_lowercase(),
        };
        anyhow::anyhow!("listen tcp {address}: bind: {words}")
    })
}

/// Serves HTTPS on a bound listener, on its own thread.
pub fn https(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    handler: impl Fn(&Caller, &Request) -> Reply + Send + Sync + 'static,
) {
    let handler = Arc::new(handler);
    each(listener, move |socket, from| {
        let (tls, handler) = (tls.clone(), handler.clone());
        let mut stream = StreamOwned::new(ServerConnection::new(tls)?, socket);
        let request = http::read_request(&mut stream)?;
        let certs = stream.conn.peer_certificates().unwrap_or_default();
        let certs = certs.iter().map(|cert| cert.clone().into_owned()).collect();
        let reply = handler(&Caller { ip: from.ip(), certs }, &request);
        http::write_reply(&mut stream, &reply)?;
        stream.conn.send_close_notify();
        stream.conn.write_tls(&mut stream.sock)?;
        Ok(())
    });
}

/// Serves plain HTTP on a bound listener, on its own thread.
pub fn plain(listener: TcpListener, handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) {
    let handler = Arc::new(handler);
    each(listener, move |mut socket, _| {
        let request = http::read_request(&mut socket)?;
        http::write_reply(&mut socket, &handler(&request))
    });
}

/// A broken connection concerns only its own thread.
fn each(listener: TcpListener, serve: impl Fn(TcpStream, SocketAddr) -> Result<()> + Send + Sync + 'static) {
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        loop {
            let Ok((socket, from)) = listener.accept() else {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            };
            let serve = serve.clone();
            std::thread::spawn(move || {
                let limits = || -> Result<()> {
                    socket.set_read_timeout(Some(LIMIT))?;
                    socket.set_write_timeout(Some(LIMIT))?;
                    socket.set_nodelay(true).context("nodelay")
                };
                if limits().is_ok() {
                    let _ = serve(socket, from);
                }
            });
        }
    });
}
