//! Chains of nf_tables as the kernel itself tells them.
//!
//! Owns one message of nfnetlink (linux/netfilter/nf_tables.h): the list of all
//! chains, which needs no program on the host. Changes nothing.

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::netlink::{self, DUMP, REQUEST, attributes, message};

/// `NFNL_SUBSYS_NFTABLES` in the upper byte, `NFT_MSG_GETCHAIN` in the lower.
const GET: u16 = 10 << 8 | 4;
/// As `GET`, for `NFT_MSG_NEWCHAIN`.
const NEW: u16 = 10 << 8 | 3;
/// `nfgenmsg`: family (0: all), version, number.
const HEADER: usize = 4;
/// `NFTA_CHAIN_TABLE`.
const TABLE: u16 = 1;
/// `NFTA_CHAIN_NAME`.
const NAME: u16 = 3;

/// Table and name of every chain of this network name space; none where the
/// kernel has no nf_tables.
///
/// # Errors
/// When the kernel does not tell: `EPERM` without `CAP_NET_ADMIN`.
pub fn chains() -> Result<Vec<(String, String)>, Errno> {
    let request = message(GET, REQUEST | DUMP, &[0; HEADER]);
    let found = netlink::dump(SockProtocol::NetlinkNetFilter, &request, |kind, body| {
        (kind == NEW).then(|| chain(body)).flatten()
    });
    match found {
        // No netlink family of filters, or no nf_tables in it.
        Err(Errno::EPROTONOSUPPORT | Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOENT) => Ok(Vec::new()),
        other => other,
    }
}

fn chain(body: &[u8]) -> Option<(String, String)> {
    let text = |wanted: u16| {
        let (_, content) = attributes(body.get(HEADER..)?).find(|(kind, _)| *kind == wanted)?;
        Some(String::from_utf8_lossy(content).trim_end_matches('\0').to_owned())
    };
    Some((text(TABLE)?, text(NAME)?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_told_with_its_table() {
        let attribute = |kind: u16, text: &[u8]| {
            let length = u16::try_from(4 + text.len()).unwrap();
            let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
            bytes.extend(text);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let body = [&[2, 0, 0, 0][..], &attribute(TABLE, b"nat\0"), &attribute(NAME, b"KUBE-SERVICES\0")];
        assert_eq!(chain(&body.concat()), Some(("nat".to_owned(), "KUBE-SERVICES".to_owned())));
        assert_eq!(chain(&[0; HEADER]), None);
    }

    #[test]
    fn the_kernel_tells_or_says_why_not() {
        assert!(matches!(chains(), Ok(_) | Err(Errno::EPERM)));
    }
}
