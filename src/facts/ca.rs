//! Hash of a cluster's CA by k3s's rule.
//!
//! Owns the rule that makes the `K10…` part of a token (k3s: pkg/clientaccess):
//! one certificate is hashed as the PEM bytes of its file, a bundle as the DER
//! bytes of the root that its first certificate leads to. Names issuers by
//! their encoded names only; never checks a signature, never trusts anything.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::wire::secret::sha256_hex;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// SHA-256, 64 hex digits, of the CA in the bytes of `server-ca.crt` or of an
/// answer to `/cacerts`; `None` when they hold no certificate.
#[must_use]
pub fn ca_hash_of_pem(pem: &[u8]) -> Option<String> {
    let certificates = certificates(pem)?;
    match certificates.as_slice() {
        [] => None,
        [_] => Some(sha256_hex(pem)),
        [first, others @ ..] => Some(match root_of(first, others) {
            Some(root) => sha256_hex(&root.der),
            // k3s hashes the file when the bundle leads to no root.
            None => sha256_hex(pem),
        }),
    }
}

struct Certificate {
    der: Vec<u8>,
    issuer: Vec<u8>,
    subject: Vec<u8>,
}

impl Certificate {
    fn is_root(&self) -> bool {
        self.issuer == self.subject
    }
}

/// `None` when one of the blocks is no certificate: k3s refuses such a file.
fn certificates(pem: &[u8]) -> Option<Vec<Certificate>> {
    let text = String::from_utf8_lossy(pem);
    text.split(BEGIN).skip(1).map(|block| certificate(block.split_once(END)?.0)).collect()
}

fn certificate(base64: &str) -> Option<Certificate> {
    let der = decoded(base64)?;
    let (issuer, subject) = names(&der)?;
    Some(Certificate { issuer: issuer.to_vec(), subject: subject.to_vec(), der })
}

fn decoded(base64: &str) -> Option<Vec<u8>> {
    STANDARD.decode(base64.split_whitespace().collect::<String>()).ok()
}

/// The first certificate of a file.
pub(super) fn first_der(pem: &[u8]) -> Option<Vec<u8>> {
    let text = String::from_utf8_lossy(pem);
    decoded(text.split_once(BEGIN)?.1.split_once(END)?.0)
}

fn root_of<'a>(first: &'a Certificate, others: &'a [Certificate]) -> Option<&'a Certificate> {
    let mut current = first;
    for _ in 0..=others.len() {
        let parents = || others.iter().filter(|other| other.subject == current.issuer);
        // Roots come before cross-signed certificates of the same name, as in Go's x509.
        if let Some(root) = parents().find(|parent| parent.is_root()) {
            return Some(root);
        }
        current = parents().next()?;
    }
    None
}

pub(super) const SEQUENCE: u8 = 0x30;
const EXPLICIT_VERSION: u8 = 0xa0;

/// Encoded issuer and subject of a certificate (RFC 5280, 4.1).
pub(super) fn names(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, certificate, _) = element(der)?;
    let (_, mut rest, _) = element(certificate)?;
    if rest.first() == Some(&EXPLICIT_VERSION) {
        rest = element(rest)?.2;
    }
    let (_, _, rest) = element(rest)?;
    let (_, _, rest) = element(rest)?;
    let (issuer_tag, issuer, rest) = element(rest)?;
    let (_, _, rest) = element(rest)?;
    let (subject_tag, subject, _) = element(rest)?;
    (issuer_tag == SEQUENCE && subject_tag == SEQUENCE).then_some((issuer, subject))
}

/// Tag, content and what follows of the first DER element.
pub(super) fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&short, rest) = rest.split_first()?;
    let (length, rest) = match short {
        0..=0x7f => (usize::from(short), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOT: &str = include_str!("testdata/ca-root.pem");
    const INTERMEDIATE: &str = include_str!("testdata/ca-intermediate.pem");
    const SERVER: &str = include_str!("testdata/ca-server.pem");
    /// `openssl x509 -in ca-root.pem -outform DER | sha256sum`
    const ROOT_DER: &str = include_str!("testdata/ca-root.der.sha256");

    #[test]
    fn one_certificate_is_hashed_as_the_file() {
        assert_eq!(ca_hash_of_pem(ROOT.as_bytes()), Some(sha256_hex(ROOT.as_bytes())));
    }

    #[test]
    fn a_bundle_is_hashed_as_the_der_of_its_root_in_any_order() {
        for bundle in [[SERVER, INTERMEDIATE, ROOT].concat(), [SERVER, ROOT, INTERMEDIATE].concat()] {
            assert_eq!(ca_hash_of_pem(bundle.as_bytes()).unwrap(), ROOT_DER.trim());
        }
    }

    #[test]
    fn a_bundle_without_its_root_is_hashed_as_the_file() {
        let bundle = [SERVER, INTERMEDIATE].concat();
        assert_eq!(ca_hash_of_pem(bundle.as_bytes()), Some(sha256_hex(bundle.as_bytes())));
    }

    #[test]
    fn what_holds_no_certificate_has_no_hash() {
        let torn = &ROOT.as_bytes()[..ROOT.len() / 2];
        for pem in [b"".as_slice(), b"\xff\x00garbage", torn, b"-----BEGIN CERTIFICATE-----"] {
            assert_eq!(ca_hash_of_pem(pem), None);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(der in proptest::collection::vec(any::<u8>(), 0..200)) {
            let block = format!("{BEGIN}\n{}\n{END}\n", STANDARD.encode(&der));
            let _ = ca_hash_of_pem(block.repeat(2).as_bytes());
            let _ = ca_hash_of_pem(&der);
        }
    }
}
