//! Whom a certificate of a node is for.
//!
//! Owns the common name and the addresses in a certificate (RFC 5280, 4.1.2.6
//! and 4.2.1.6): k3s has them made anew at each start, so that they tell as what
//! a node runs (k3s: pkg/agent/config/config.go). Checks no signature, trusts
//! nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::ca::{SEQUENCE, element, first_der, names};

/// `id-at-commonName` as an element.
const COMMON_NAME: [u8; 5] = [0x06, 0x03, 0x55, 0x04, 0x03];
/// `id-ce-subjectAltName` as an element.
const OTHER_NAMES: [u8; 5] = [0x06, 0x03, 0x55, 0x1d, 0x11];
const OCTETS: u8 = 0x04;
const TRUTH: u8 = 0x01;
/// `iPAddress` of a general name.
const ADDRESS: u8 = 0x87;

/// Common name of the first certificate in `pem`.
#[must_use]
pub fn common_name(pem: &[u8]) -> Option<String> {
    let der = first_der(pem)?;
    let (_, name, _) = element(after(names(&der)?.1, &COMMON_NAME)?)?;
    String::from_utf8(name.to_vec()).ok()
}

/// Addresses for which the first certificate in `pem` is, in its order; loopback
/// is none.
#[must_use]
pub fn addresses(pem: &[u8]) -> Vec<IpAddr> {
    let found = first_der(pem).and_then(|der| {
        let (tag, content, rest) = element(after(&der, &OTHER_NAMES)?)?;
        // A mark that it is critical may stand between.
        let (octets, content) = if tag == TRUTH {
            let (tag, content, _) = element(rest)?;
            (tag, content)
        } else {
            (tag, content)
        };
        let (tag, mut names, _) = element(content).filter(|_| octets == OCTETS)?;
        let mut found = Vec::new();
        while let Some((kind, name, rest)) = element(names).filter(|_| tag == SEQUENCE) {
            found.extend((kind == ADDRESS).then(|| address(name)).flatten());
            names = rest;
        }
        Some(found)
    });
    found.unwrap_or_default().into_iter().filter(|address| !address.is_loopback()).collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(four).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|all| Ipv6Addr::from(all).into())
}

/// What follows the first place of `mark`.
fn after<'a>(bytes: &'a [u8], mark: &[u8]) -> Option<&'a [u8]> {
    let at = bytes.windows(mark.len()).position(|window| window == mark)?;
    bytes.get(at + mark.len()..)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `openssl req -x509 -subj /O=system:nodes/CN=system:node:web-7 -addext
    /// subjectAltName=DNS:web-7,IP:127.0.0.1,IP:10.0.0.1,IP:fd00::7`
    const NODE: &[u8] = include_bytes!("testdata/node.pem");

    #[test]
    fn a_node_is_told_by_its_certificate() {
        assert_eq!(common_name(NODE).as_deref(), Some("system:node:web-7"));
        assert_eq!(
            addresses(NODE),
            ["10.0.0.1", "fd00::7"].map(|text| text.parse().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)))
        );
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let text = String::from_utf8_lossy(NODE);
        for end in (0..text.len()).step_by(7) {
            let cut = text.as_bytes().get(..end).unwrap_or_default();
            let _ = (common_name(cut), addresses(cut));
        }
        assert_eq!((common_name(b""), addresses(b"x").len()), (None, 0));
    }
}
