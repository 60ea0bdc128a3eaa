//! Addresses and links as the kernel's netlink tells and takes them.
//!
//! Owns the four messages that are needed (rtnetlink(7)): all addresses with
//! their flags, a link switched on, an address added, and the word that one of
//! them changed. Decides nothing about which address belongs where.

use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};

pub use nix::errno::Errno;
use nix::libc;
use nix::net::if_::{if_indextoname, if_nametoindex};
use nix::sys::socket::{MsgFlags, SockFlag, SockProtocol, recv, send};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::netlink::{self, DUMP, ERROR, REQUEST, ROOM, attributes, error_of, message, messages, number};
use super::root::Root;

/// `RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR`.
const GROUPS: u32 = 0x1 | 0x10 | 0x100;
/// `ifaddrmsg`.
const ADDRESS_HEADER: usize = 8;
/// `ifinfomsg`.
const LINK_HEADER: usize = 16;
const ACK: u16 = 0x4;
const EXCLUSIVE_CREATE: u16 = 0x200 | 0x400;

/// One address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Interface name, without the label that an IPv4 address may have.
    pub interface: String,
    /// The address.
    pub address: IpAddr,
    /// Bits of the network part.
    pub prefix: u8,
    /// It ends by itself unless somebody renews it, as a lease does.
    pub ends: bool,
    /// The kernel found it in use elsewhere (IPv6 only).
    pub is_duplicate: bool,
}

/// Addresses of all interfaces, loopback included.
///
/// # Errors
/// When the kernel does not tell.
pub fn addresses() -> Result<Vec<Address>, Errno> {
    let request = message(libc::RTM_GETADDR, REQUEST | DUMP, &[0; ADDRESS_HEADER]);
    netlink::dump(SockProtocol::NetlinkRoute, &request, |kind, body| {
        (kind == libc::RTM_NEWADDR).then(|| address(body)).flatten()
    })
}

/// Switches `interface` on and adds `address` with `prefix` to it, until it is
/// taken away or the host goes down. One that is there already is fine.
///
/// # Errors
/// `ENODEV` without that interface, `EPERM` without `CAP_NET_ADMIN`.
pub fn add_address(interface: &str, address: IpAddr, prefix: u8) -> Result<(), Errno> {
    let index = if_nametoindex(interface)?;
    let socket = netlink::open(SockProtocol::NetlinkRoute, 0, SockFlag::empty())?;
    ask(&socket, &switch_on(index))?;
    match ask(&socket, &new_address(index, address, prefix)) {
        Err(Errno::EEXIST) => Ok(()),
        other => other,
    }
}

/// Sends one request and reads whether it was done.
pub(super) fn ask(socket: &OwnedFd, request: &[u8]) -> Result<(), Errno> {
    send(socket.as_raw_fd(), request, MsgFlags::empty())?;
    let mut room = vec![0; ROOM];
    let length = recv(socket.as_raw_fd(), &mut room, MsgFlags::empty())?;
    let answer = room.get(..length).unwrap_or_default();
    messages(answer).find(|(kind, ..)| *kind == ERROR).map_or(Err(Errno::EPROTO), |(.., body)| error_of(body))
}

/// `ifinfomsg` with `IFF_UP` set and in the mask.
fn switch_on(index: u32) -> Vec<u8> {
    let up = 1_u32.to_ne_bytes();
    let body = [[0; 4], index.to_ne_bytes(), up, up].concat();
    message(libc::RTM_NEWLINK, REQUEST | ACK, &body)
}

fn new_address(index: u32, address: IpAddr, prefix: u8) -> Vec<u8> {
    let (family, octets) = match address {
        IpAddr::V4(address) => (libc::AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6, address.octets().to_vec()),
    };
    let mut body = vec![u8::try_from(family).unwrap_or_default(), prefix, 0, 0];
    body.extend(index.to_ne_bytes());
    for kind in [libc::IFA_LOCAL, libc::IFA_ADDRESS] {
        body.extend(u16::try_from(4 + octets.len()).unwrap_or_default().to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(&octets);
    }
    message(libc::RTM_NEWADDR, REQUEST | ACK | EXCLUSIVE_CREATE, &body)
}

/// What an `RTM_NEWADDR` says, without the name of its interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    index: u32,
    address: IpAddr,
    prefix: u8,
    flags: u32,
}

fn told(body: &[u8]) -> Option<Told> {
    let (prefix, short_flags) = (*body.get(1)?, *body.get(2)?);
    let index = number(body, 4)?;
    let rest = body.get(ADDRESS_HEADER..)?;
    let find = |wanted: u16| attributes(rest).find(|(kind, _)| *kind == wanted).map(|(_, content)| content);
    // On a point-to-point link IFA_ADDRESS is the other side's.
    let octets = find(libc::IFA_LOCAL).or_else(|| find(libc::IFA_ADDRESS))?;
    let address = match octets.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(octets).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(octets).ok()?),
        _ => return None,
    };
    let long_flags = find(libc::IFA_FLAGS).and_then(|content| number(content, 0));
    Some(Told { index, address, prefix, flags: long_flags.unwrap_or_else(|| u32::from(short_flags)) })
}

fn address(body: &[u8]) -> Option<Address> {
    let told = told(body)?;
    // One that has gone since has no addresses either.
    let interface = if_indextoname(told.index).ok()?.to_string_lossy().into_owned();
    Some(Address {
        interface,
        address: told.address,
        prefix: told.prefix,
        ends: told.flags & libc::IFA_F_PERMANENT == 0,
        is_duplicate: told.flags & libc::IFA_F_DADFAILED != 0,
    })
}

#[expect(unsafe_code, reason = "tokio asks for the promise that the descriptor stays the same and open")]
fn register(socket: OwnedFd) -> Option<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` gives always the same descriptor and closes it only when dropped.
    unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE).ok() }
}

/// Tells when a link or an address of this host changed.
#[derive(Debug)]
pub struct LinkWatch {
    socket: Option<AsyncFd<OwnedFd>>,
}

impl LinkWatch {
    /// Watches the running host; below a foreign root it never tells anything.
    #[must_use]
    pub fn new(root: &Root) -> Self {
        let socket = root
            .is_host()
            .then(|| netlink::open(SockProtocol::NetlinkRoute, GROUPS, SockFlag::SOCK_NONBLOCK).ok())
            .flatten();
        Self { socket: socket.and_then(register) }
    }

    /// Something changed since the last call. May be dropped at any time.
    pub async fn changed(&mut self) {
        let Some(socket) = &self.socket else { return std::future::pending().await };
        loop {
            let Ok(mut ready) = socket.readable().await else { return std::future::pending().await };
            let news = drain(socket.get_ref());
            ready.clear_ready();
            if news {
                return;
            }
        }
    }
}

/// Reads all that waits; whether any of it matters. What changed is looked up
/// anew elsewhere. A message that was lost for want of room (ENOBUFS) may have.
fn drain(socket: &OwnedFd) -> bool {
    let mut room = vec![0; ROOM];
    let mut news = false;
    loop {
        match recv(socket.as_raw_fd(), &mut room, MsgFlags::MSG_DONTWAIT) {
            Ok(length @ 1..) => {
                let all = room.get(..length).unwrap_or_default();
                news |= messages(all).any(|(kind, _, body)| matters(kind, body));
            }
            Err(Errno::ENOBUFS) => news = true,
            Err(Errno::EINTR) => {}
            Ok(0) | Err(_) => return news,
        }
    }
}

/// Pods come and go all the time: their ends of cables are members of a bridge, or
/// called `veth…`, and have addresses for the link alone.
fn matters(kind: u16, body: &[u8]) -> bool {
    match kind {
        libc::RTM_NEWADDR | libc::RTM_DELADDR => {
            body.get(3).is_some_and(|scope| *scope < libc::RT_SCOPE_LINK)
        }
        libc::RTM_NEWLINK | libc::RTM_DELLINK => {
            let rest = body.get(LINK_HEADER..).unwrap_or_default();
            !attributes(rest).any(|(kind, content)| {
                kind == libc::IFLA_MASTER || (kind == libc::IFLA_IFNAME && content.starts_with(b"veth"))
            })
        }
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(message: &[u8]) -> Told {
        let (kind, _, body) = messages(message).next().unwrap();
        assert_eq!(kind, libc::RTM_NEWADDR);
        told(body).unwrap()
    }

    #[test]
    fn what_is_asked_for_is_what_the_kernel_would_tell() {
        for (text, prefix) in [("172.16.36.1", 24), ("fd00::1", 64)] {
            let address: IpAddr = text.parse().unwrap();
            let message = new_address(7, address, prefix);
            assert_eq!(message.len() % 4, 0);
            assert_eq!(parsed(&message), Told { index: 7, address, prefix, flags: 0 });
        }
        let (kind, _, body) = messages(&switch_on(7)).next().map(|(k, f, b)| (k, f, b.to_vec())).unwrap();
        assert_eq!((kind, body.len(), number(&body, 4), number(&body, 8)), (16, 16, Some(7), Some(1)));
    }

    #[test]
    fn the_kernel_tells_its_loopback_address() {
        let found = addresses().unwrap();
        assert!(found.iter().any(|found| found.address == IpAddr::from([127, 0, 0, 1])
            && found.interface == "lo"
            && found.prefix == 8
            && !found.ends));
    }

    #[test]
    fn cables_of_pods_are_no_news() {
        let link = |kind: u16, content: &[u8]| {
            let length = u16::try_from(4 + content.len()).unwrap();
            let mut body = vec![0; LINK_HEADER];
            body.extend([length.to_ne_bytes(), kind.to_ne_bytes()].concat());
            body.extend(content);
            matters(libc::RTM_NEWLINK, &body)
        };
        assert!(link(libc::IFLA_IFNAME, b"eth0\0"));
        assert!(!link(libc::IFLA_IFNAME, b"veth1234\0") && !link(libc::IFLA_MASTER, &[5, 0, 0, 0]));
        assert!(matters(libc::RTM_DELADDR, &[2, 24, 0, 0]) && !matters(libc::RTM_NEWADDR, &[10, 64, 0, 253]));
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            for (_, _, body) in messages(&bytes) {
                let _ = (told(body), matters(libc::RTM_NEWLINK, body));
            }
        }
    }
}
