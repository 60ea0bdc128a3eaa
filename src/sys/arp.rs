//! ARP on one interface: asking who has an address, and saying that we have it.
//!
//! Owns the packets and their timing (RFC 826, RFC 5227). Says what was heard;
//! what that means is decided elsewhere. Needs `CAP_NET_RAW`.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike as _, bind, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use thiserror::Error;

use super::random;

/// `PROBE_NUM` of RFC 5227.
const PROBES: usize = 3;
/// `PROBE_WAIT`, `PROBE_MIN` to `PROBE_MAX` and `ANNOUNCE_WAIT` of RFC 5227 are 1 s, 1 to
/// 2 s and 2 s. Here they are shorter, because a host waits for its first start: a machine
/// room's switch answers within milliseconds, and the address is looked for again and again.
const FIRST_WAIT_MS: u64 = 200;
const BETWEEN_MS: (u64, u64) = (300, 600);
const LAST_WAIT: Duration = Duration::from_millis(1000);
/// `ANNOUNCE_NUM`; RFC 5227 has 2 s between them.
const ANNOUNCEMENTS: usize = 2;
const ANNOUNCE_BETWEEN: Duration = Duration::from_millis(200);
/// One wait for a packet, after which the clock is looked at.
const SLICE_MS: i64 = 50;

const ETHERNET: u16 = 1;
const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const REQUEST: u16 = 1;
const REPLY: u16 = 2;
const HEADER: usize = 14;
/// Shortest Ethernet frame, without its checksum.
const SHORTEST: usize = 60;
const EVERYBODY: Mac = [0xff; 6];

/// A hardware address.
pub type Mac = [u8; 6];

/// One ARP packet for IPv4 on Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Whether it asks; else it answers.
    pub is_request: bool,
    /// Hardware address of its sender.
    pub mac: Mac,
    /// Address that the sender has; 0.0.0.0 in a probe.
    pub sender: Ipv4Addr,
    /// Address that it is about.
    pub target: Ipv4Addr,
}

/// Why nothing could be asked or heard.
#[derive(Debug, Error)]
pub enum ArpError {
    /// There is no such interface, or it has no Ethernet address.
    #[error("{0} is no Ethernet interface")]
    NoEthernet(String),
    /// The kernel refused a call.
    #[error("{what} on {interface}")]
    Call {
        /// What was tried.
        what: &'static str,
        /// Where.
        interface: String,
        /// Why not.
        #[source]
        source: Errno,
    },
}

/// A socket that hears all ARP packets of one interface.
#[derive(Debug)]
pub struct Ear {
    interface: String,
    socket: OwnedFd,
    mac: Mac,
}

impl Ear {
    /// Listens from now on.
    ///
    /// # Errors
    /// Without such an interface, or without `CAP_NET_RAW`.
    pub fn open(interface: &str) -> Result<Self, ArpError> {
        let call = |what, source| ArpError::Call { what, interface: interface.to_owned(), source };
        let link = link(interface)
            .map_err(|errno| call("read the hardware address", errno))?
            .ok_or_else(|| ArpError::NoEthernet(interface.to_owned()))?;
        let mac = link.addr().ok_or_else(|| ArpError::NoEthernet(interface.to_owned()))?;
        // Protocol 0 hears nothing until it is bound to ARP on this interface.
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
            .map_err(|errno| call("open a packet socket", errno))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(SLICE_MS))
            .map_err(|errno| call("set a time limit", errno))?;
        let place = place(&link).ok_or_else(|| ArpError::NoEthernet(interface.to_owned()))?;
        bind(socket.as_raw_fd(), &place).map_err(|errno| call("listen for ARP", errno))?;
        Ok(Self { interface: interface.to_owned(), socket, mac })
    }

    /// Probes for each of `addresses` (sender 0.0.0.0, which changes no other
    /// host's table) three times and gives all that was heard; takes about 2 s.
    ///
    /// # Errors
    /// `ENETDOWN` while the interface is down.
    pub fn probe(&self, addresses: &[Ipv4Addr]) -> Result<Vec<Packet>, ArpError> {
        let mut heard = Vec::new();
        self.listen(Duration::from_millis(random::number() % FIRST_WAIT_MS), &mut heard)?;
        for round in 1..=PROBES {
            for address in addresses {
                self.say(REQUEST, Ipv4Addr::UNSPECIFIED, *address)?;
            }
            let (least, most) = BETWEEN_MS;
            let between = Duration::from_millis(least + random::number() % (most - least));
            self.listen(if round == PROBES { LAST_WAIT } else { between }, &mut heard)?;
        }
        Ok(heard)
    }

    /// Tells everybody that this interface has `address`, so that nobody's table
    /// holds another hardware address for it.
    ///
    /// # Errors
    /// `ENETDOWN` while the interface is down.
    pub fn announce(&self, address: Ipv4Addr) -> Result<(), ArpError> {
        for round in 1..=ANNOUNCEMENTS {
            self.say(REQUEST, address, address)?;
            if round < ANNOUNCEMENTS {
                self.listen(ANNOUNCE_BETWEEN, &mut Vec::new())?;
            }
        }
        Ok(())
    }

    fn say(&self, operation: u16, sender: Ipv4Addr, target: Ipv4Addr) -> Result<(), ArpError> {
        let frame = frame(operation, self.mac, sender, target);
        let sent = send(self.socket.as_raw_fd(), &frame, MsgFlags::empty());
        sent.map(|_| ()).map_err(|source| self.failed("send an ARP packet", source))
    }

    fn listen(&self, time: Duration, heard: &mut Vec<Packet>) -> Result<(), ArpError> {
        let end = Instant::now() + time;
        let mut room = [0; 256];
        while Instant::now() < end {
            match recv(self.socket.as_raw_fd(), &mut room, MsgFlags::empty()) {
                Ok(length) => heard.extend(parse(room.get(..length).unwrap_or_default())),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(source) => return Err(self.failed("hear ARP packets", source)),
            }
        }
        Ok(())
    }

    fn failed(&self, what: &'static str, source: Errno) -> ArpError {
        ArpError::Call { what, interface: self.interface.clone(), source }
    }
}

/// The interface's own link-layer address, when it is Ethernet.
fn link(interface: &str) -> Result<Option<LinkAddr>, Errno> {
    let mut all = nix::ifaddrs::getifaddrs()?.filter(|entry| entry.interface_name == interface);
    let link = all.find_map(|entry| entry.address.as_ref()?.as_link_addr().copied());
    Ok(link.filter(|link| link.hatype() == ETHERNET && link.halen() == 6))
}

/// Where the socket is bound: ARP on this interface.
#[expect(unsafe_code, reason = "nix makes no packet address from its parts")]
fn place(link: &LinkAddr) -> Option<LinkAddr> {
    let mut raw: libc::sockaddr_ll = *link.as_ref();
    raw.sll_protocol = ARP.to_be();
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).ok()?;
    // SAFETY: the pointer is to a whole `sockaddr_ll` that outlives the call, its family is
    // AF_PACKET as the kernel gave it, and the length is its own.
    unsafe { LinkAddr::from_raw((&raw const raw).cast(), Some(length)) }
}

/// A whole frame to everybody.
#[must_use]
pub fn frame(operation: u16, mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut bytes = [EVERYBODY, mac].concat();
    for number in [ARP, ETHERNET, IPV4] {
        bytes.extend(number.to_be_bytes());
    }
    bytes.extend([6, 4]);
    bytes.extend(operation.to_be_bytes());
    bytes.extend(mac);
    bytes.extend(sender.octets());
    bytes.extend([0; 6]);
    bytes.extend(target.octets());
    bytes.resize(SHORTEST, 0);
    bytes
}

/// The ARP packet of a frame, when it is one for IPv4 on Ethernet.
#[must_use]
pub fn parse(frame: &[u8]) -> Option<Packet> {
    let number = |at: usize| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?));
    let kinds = (number(HEADER - 2)?, number(HEADER)?, number(HEADER + 2)?);
    if kinds != (ARP, ETHERNET, IPV4) || frame.get(HEADER + 4..HEADER + 6)? != [6, 4] {
        return None;
    }
    let is_request = match number(HEADER + 6)? {
        REQUEST => true,
        REPLY => false,
        _ => return None,
    };
    let mac = frame.get(HEADER + 8..HEADER + 14)?.try_into().ok()?;
    Some(Packet { is_request, mac, sender: address(HEADER + 14)?, target: address(HEADER + 24)? })
}

/// A hardware address as people write it.
#[must_use]
pub fn shown(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 0x1f];

    #[test]
    fn a_probe_is_laid_out_as_the_standard_says() {
        let ip = Ipv4Addr::new(172, 16, 36, 1);
        let bytes = frame(REQUEST, MAC, Ipv4Addr::UNSPECIFIED, ip);
        let expected = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 0x1f, 8, 6, // Ethernet
            0, 1, 8, 0, 6, 4, 0, 1, // Ethernet, IPv4, a request
            2, 0, 0, 0, 0, 0x1f, 0, 0, 0, 0, // sender
            0, 0, 0, 0, 0, 0, 172, 16, 36, 1, // target
        ];
        assert_eq!((bytes.get(..42), bytes.len()), (Some(expected.as_slice()), 60));
        let packet = Packet { is_request: true, mac: MAC, sender: Ipv4Addr::UNSPECIFIED, target: ip };
        assert_eq!(parse(&bytes), Some(packet));
        assert_eq!(shown(MAC), "02:00:00:00:00:1f");
    }

    #[test]
    fn an_interface_that_is_not_there_is_told() {
        let error = Ear::open("nosuch0").unwrap_err();
        assert_eq!(error.to_string(), "nosuch0 is no Ethernet interface");
        assert!(matches!(Ear::open("lo"), Err(ArpError::NoEthernet(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_packet_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn a_frame_reads_back_and_a_torn_one_does_not(
            operation in 1_u16..=2, mac in any::<Mac>(), sender in any::<u32>(), target in any::<u32>(), cut in 0_usize..42,
        ) {
            let (sender, target) = (Ipv4Addr::from_bits(sender), Ipv4Addr::from_bits(target));
            let bytes = frame(operation, mac, sender, target);
            let packet = Packet { is_request: operation == REQUEST, mac, sender, target };
            prop_assert_eq!(parse(&bytes), Some(packet));
            prop_assert_eq!(parse(bytes.get(..cut).unwrap()), None);
        }
    }
}
