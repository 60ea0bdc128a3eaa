//! Links of the kernel: which there are, and how one is taken away.
//!
//! Owns two messages of rtnetlink(7). Decides nothing about which link is whose.

use nix::libc;
use nix::sys::socket::{SockFlag, SockProtocol};

use super::links::{Errno, ask};
use super::netlink::{self, DUMP, REQUEST, attributes, message, number};

/// `ifinfomsg`.
const HEADER: usize = 16;
/// `NLM_F_ACK`.
const ACK: u16 = 0x4;

/// One link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Number of the bridge or bond that it is a member of.
    pub master: Option<u32>,
}

/// All links of this network name space.
///
/// # Errors
/// When the kernel does not tell.
pub fn all() -> Result<Vec<Link>, Errno> {
    let request = message(libc::RTM_GETLINK, REQUEST | DUMP, &[0; HEADER]);
    netlink::dump(SockProtocol::NetlinkRoute, &request, |kind, body| {
        (kind == libc::RTM_NEWLINK).then(|| link(body)).flatten()
    })
}

/// Takes a link away; one that is gone already is fine. What is plugged into
/// its other end goes with a cable.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN`, `EOPNOTSUPP` for one that is hardware.
pub fn remove(index: u32) -> Result<(), Errno> {
    let socket = netlink::open(SockProtocol::NetlinkRoute, 0, SockFlag::empty())?;
    let body = [[0; 4], index.to_ne_bytes(), [0; 4], [0; 4]].concat();
    match ask(&socket, &message(libc::RTM_DELLINK, REQUEST | ACK, &body)) {
        Err(Errno::ENODEV) => Ok(()),
        other => other,
    }
}

fn link(body: &[u8]) -> Option<Link> {
    let index = number(body, 4)?;
    let rest = body.get(HEADER..)?;
    let find = |wanted: u16| attributes(rest).find(|(kind, _)| *kind == wanted).map(|(_, content)| content);
    let name = find(libc::IFLA_IFNAME)?.split(|byte| *byte == 0).next()?;
    let master = find(libc::IFLA_MASTER).and_then(|content| number(content, 0));
    Some(Link { index, name: String::from_utf8_lossy(name).into_owned(), master })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_its_loopback_and_a_link_that_is_gone_is_fine() {
        assert!(all().unwrap().iter().any(|link| link.name == "lo" && link.index == 1));
        // No host has this many.
        assert!(matches!(remove(i32::MAX.unsigned_abs()), Ok(()) | Err(Errno::EPERM)));
    }
}
