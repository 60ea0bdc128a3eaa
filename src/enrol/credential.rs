//! The key pair that makes this host the host that central knows.
//!
//! Owns the node key (ECDSA P-256, made once), its self-signed certificate and
//! the node id. Never overwrites a key: a damaged one is for a person to look at.

use std::fmt;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _,
};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::EnrolError;
use crate::paths::{NODE_CERT, NODE_KEY, STATE_DIR};
use crate::role::words::NodeId;
use crate::sys::http::Identity;
use crate::sys::{Root, atomic};

/// Characters of a node id.
const ID_LENGTH: usize = 26;

/// Key, certificate and node id of this host.
#[derive(Clone)]
pub struct Credential {
    /// The node id.
    pub node_id: NodeId,
    identity: Identity,
}

impl fmt::Debug for Credential {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Credential({}, key secret)", self.node_id)
    }
}

impl Credential {
    /// What TLS shows to central.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity.clone()
    }
}

/// The node id when there is a usable key; makes none.
///
/// # Errors
/// When the key file is there and cannot be used.
pub fn node_id(root: &Root) -> Result<Option<NodeId>, EnrolError> {
    read_key(root)?.map(|(key, _)| id_of(&key)).transpose()
}

/// Loads the credential; makes what is missing, durably: the key first, then
/// the certificate, which any later call can make again from the key.
///
/// # Errors
/// [`EnrolError::Key`] when a key is damaged, or gone while its certificate is
/// still there; file errors.
pub fn ensure(root: &Root) -> Result<Credential, EnrolError> {
    let (key, pem) = match read_key(root)? {
        Some(found) => found,
        None => make_key(root)?,
    };
    let certificate = match root.read_text(NODE_CERT)? {
        Some(certificate) if belongs(&certificate, &key) => certificate,
        _ => make_certificate(root, &key)?,
    };
    Ok(Credential { node_id: id_of(&key)?, identity: Identity { certificate, key: pem } })
}

fn read_key(root: &Root) -> Result<Option<(KeyPair, Zeroizing<String>)>, EnrolError> {
    let Some(pem) = root.read_text(NODE_KEY)?.map(Zeroizing::new) else { return Ok(None) };
    // The parser's own text could repeat what is in the file.
    let key = KeyPair::from_pkcs8_pem_and_sign_algo(&pem, &PKCS_ECDSA_P256_SHA256).map_err(|_| {
        damaged("is not a P-256 key in PKCS #8 PEM; put it back from a backup, or move it and node.crt away to enrol as a new host".to_owned())
    })?;
    Ok(Some((key, pem)))
}

fn make_key(root: &Root) -> Result<(KeyPair, Zeroizing<String>), EnrolError> {
    // The certificate is only ever written after its key: a key that is gone was taken away.
    if root.exists(NODE_CERT) {
        return Err(damaged("is gone while node.crt is there; put it back from a backup, or move node.crt away to enrol as a new host".to_owned()));
    }
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
        .map_err(|error| damaged(format!("cannot be made: {error}")))?;
    let pem = Zeroizing::new(key.serialize_pem());
    root.make_dir(STATE_DIR, 0o700)?;
    atomic::write(root, NODE_KEY, pem.as_bytes(), 0o600)?;
    Ok((key, pem))
}

/// Valid from 1970 to 9999: nothing about a host expires while it lies in the dark.
fn make_certificate(root: &Root, key: &KeyPair) -> Result<String, EnrolError> {
    let failed = |error: rcgen::Error| EnrolError::Key {
        path: NODE_CERT,
        problem: format!("cannot be made: {error}"),
    };
    let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
    params.not_before = rcgen::date_time_ymd(1970, 1, 1);
    params.not_after = rcgen::date_time_ymd(9999, 12, 31);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, id_of(key)?.to_string());
    let pem = params.self_signed(key).map_err(failed)?.pem();
    atomic::write(root, NODE_CERT, pem.as_bytes(), 0o644)?;
    Ok(pem)
}

/// A certificate of another key, or a torn one, is made again.
fn belongs(certificate: &str, key: &KeyPair) -> bool {
    crate::sys::http::pem_key_digest(certificate)
        == Some(Sha256::digest(key.subject_public_key_info()).into())
}

fn id_of(key: &KeyPair) -> Result<NodeId, EnrolError> {
    let id = id_of_public_key(&key.subject_public_key_info());
    id.parse().map_err(|_| damaged("gives no node id".to_owned()))
}

/// First 26 characters of lower-case base32 of SHA-256 of a SubjectPublicKeyInfo (DER).
#[must_use]
pub fn id_of_public_key(spki: &[u8]) -> String {
    let mut text = base32(&Sha256::digest(spki));
    text.truncate(ID_LENGTH);
    text
}

/// RFC 4648 base32 in lower case, without padding.
fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let bit = |index: usize| bytes.get(index / 8).map_or(0, |byte| usize::from(byte >> (7 - index % 8) & 1));
    (0..(bytes.len() * 8).div_ceil(5))
        .map(|group| (0..5).fold(0, |value, place| value << 1 | bit(group * 5 + place)))
        .map(|value: usize| char::from(ALPHABET[value & 31]))
        .collect()
}

fn damaged(problem: String) -> EnrolError {
    EnrolError::Key { path: NODE_KEY, problem }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may stop at the first surprise, and breaks files by hand"
)]
mod tests {
    use super::*;

    #[test]
    fn base32_gives_the_vectors_of_rfc_4648() {
        for (text, encoded) in [
            ("", ""),
            ("f", "my"),
            ("fo", "mzxq"),
            ("foo", "mzxw6"),
            ("foob", "mzxw6yq"),
            ("fooba", "mzxw6ytb"),
        ] {
            assert_eq!(base32(text.as_bytes()), encoded);
        }
    }

    #[test]
    fn the_credential_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert_eq!(node_id(&root).unwrap(), None);
        let first = ensure(&root).unwrap();
        let stat = |path| root.stat(path).unwrap().unwrap();
        let (key, certificate) = (stat(NODE_KEY), stat(NODE_CERT));
        assert_eq!(key.mode, 0o600);
        assert_eq!(stat(STATE_DIR).mode, 0o700);
        assert_eq!(ensure(&root).unwrap().node_id, first.node_id);
        assert_eq!((stat(NODE_KEY), stat(NODE_CERT)), (key, certificate), "a second call writes nothing");
        assert_eq!(node_id(&root).unwrap().as_ref(), Some(&first.node_id));
        let pem = root.read_text(NODE_KEY).unwrap().unwrap();
        assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----"));
        assert!(!format!("{first:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_cut_between_key_and_certificate_costs_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let first = ensure(&root).unwrap();
        root.remove_file(NODE_CERT).unwrap();
        assert_eq!(ensure(&root).unwrap().node_id, first.node_id);
        std::fs::write(root.path(NODE_CERT), "torn").unwrap();
        assert_eq!(ensure(&root).unwrap().node_id, first.node_id);
        assert!(root.read_text(NODE_CERT).unwrap().unwrap().contains("BEGIN CERTIFICATE"));
    }

    #[test]
    fn a_damaged_key_is_named_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        ensure(&root).unwrap();
        for damage in ["", "-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----\n"] {
            std::fs::write(root.path(NODE_KEY), damage).unwrap();
            let error = ensure(&root).unwrap_err();
            assert_eq!(error.code(), "EB-node-key");
            assert!(error.to_string().contains(NODE_KEY) && !error.to_string().contains("canary"), "{error}");
            assert_eq!(root.read_text(NODE_KEY).unwrap().unwrap(), damage);
        }
    }

    #[test]
    fn a_key_that_was_taken_away_is_not_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        ensure(&root).unwrap();
        root.remove_file(NODE_KEY).unwrap();
        assert!(ensure(&root).unwrap_err().to_string().contains("node.crt"));
        assert!(!root.exists(NODE_KEY));
    }
}
