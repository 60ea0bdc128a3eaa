//! Datagrams to and from other hosts (UDP).
//!
//! Owns one bound socket. Knows neither who is asked nor what is said.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::net::UdpSocket;

/// A socket bound to one local address.
#[derive(Debug)]
pub struct Datagrams(UdpSocket);

impl Datagrams {
    /// Binds to `ip` and `port`; port 0 takes a free one.
    ///
    /// # Errors
    /// The address is on no interface, the port is taken, or the sandbox says no.
    pub async fn bind(ip: IpAddr, port: u16) -> io::Result<Self> {
        UdpSocket::bind((ip, port)).await.map(Self)
    }

    /// Sends one datagram to `to`.
    ///
    /// # Errors
    /// When the kernel refuses it; a lost one is no error.
    pub async fn send(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        self.0.send_to(bytes, to).await.map(|_| ())
    }

    /// The next datagram: its size and sender; what is longer than `buffer` is
    /// cut. Cancel-safe.
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.0.recv_from(buffer).await
    }
}
