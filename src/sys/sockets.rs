//! Listening TCP sockets as the kernel's netlink tells them (sock_diag(7)).
//!
//! Owns one request: all sockets in the state LISTEN. `/proc/net/tcp` says the
//! same, but there the kernel walks all places of its table for each read, which
//! takes milliseconds on a host with much memory. Decides nothing about ports.

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::SockProtocol;

use super::netlink::{self, DUMP, REQUEST, message, number};

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `TCP_LISTEN` in the mask of states.
const LISTEN: u32 = 1 << 10;
/// `inet_diag_sockid`: nothing of it is asked for.
const SOCKET_ID: [u8; 48] = [0; 48];
/// Of the local port in `inet_diag_msg`.
const PORT_AT: usize = 4;
/// Of the inode in `inet_diag_msg`.
const INODE_AT: usize = 68;

/// One listening socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listening {
    /// Its port.
    pub port: u16,
    /// Its inode, as the links in `/proc/PID/fd` name it.
    pub inode: u32,
}

/// All listening TCP sockets of this network namespace, IPv4 and IPv6.
///
/// # Errors
/// When the kernel does not tell, for example one without `tcp_diag`.
pub fn listening() -> Result<Vec<Listening>, Errno> {
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let request = message(BY_FAMILY, REQUEST | DUMP, &request(family));
        found.extend(netlink::dump(SockProtocol::NetlinkSockDiag, &request, |kind, body| {
            (kind == BY_FAMILY).then(|| told(body)).flatten()
        })?);
    }
    Ok(found)
}

/// `inet_diag_req_v2`.
fn request(family: i32) -> Vec<u8> {
    let protocol = u8::try_from(libc::IPPROTO_TCP).unwrap_or_default();
    let mut body = vec![u8::try_from(family).unwrap_or_default(), protocol, 0, 0];
    body.extend(LISTEN.to_ne_bytes());
    body.extend(SOCKET_ID);
    body
}

/// What an `inet_diag_msg` says. Ports are in the network's order.
fn told(body: &[u8]) -> Option<Listening> {
    let port = body.get(PORT_AT..PORT_AT + 2)?.try_into().ok()?;
    Some(Listening { port: u16::from_be_bytes(port), inode: number(body, INODE_AT)? })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use std::net::TcpListener;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_socket_that_listens_is_told_and_goes_when_it_is_closed() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let socket = TcpListener::bind(address).unwrap();
            let port = socket.local_addr().unwrap().port();
            let is_told = || listening().unwrap().iter().any(|told| told.port == port && told.inode != 0);
            assert!(is_told(), "{address}");
            drop(socket);
            assert!(!is_told(), "{address}");
        }
    }

    proptest! {
        #[test]
        fn any_body_is_taken_or_left(body in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = told(&body);
        }
    }
}
