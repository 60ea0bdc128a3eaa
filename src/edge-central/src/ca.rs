//! The service's own certificate authority and its serving certificate.
//!
//! Owns their keys and dates. The leaf's key is made once and stays, so that
//! pins hold; the leaf itself is made anew at every start with the names of
//! today. Dates are wide: a host with a wrong clock must still get in.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::files::{self, FileError};

/// File of the authority's certificate, for `ca-file` of hosts.
pub const CA_FILE: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const LEAF_KEY: &str = "tls.key";

/// Why there is no serving certificate.
#[derive(Debug, Error)]
pub enum CaError {
    /// A key or certificate file cannot be read or written.
    #[error("keep the TLS keys")]
    File(#[from] FileError),
    /// A key file holds something else, or a name cannot be in a certificate.
    #[error("make the TLS certificate from `{0}`")]
    Certificate(String, #[source] rcgen::Error),
    /// The authority's certificate file holds something else.
    #[error("`{CA_FILE}` is no certificate; put it back from a backup")]
    Damaged(#[source] rustls::pki_types::pem::Error),
}

/// What a TLS server needs.
#[derive(Debug)]
pub struct Identity {
    /// The leaf and its authority.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's private key.
    pub key: PrivateKeyDer<'static>,
    /// `sha256/BASE64` of the leaf's SubjectPublicKeyInfo.
    pub pin: String,
}

/// Loads the keys in `dir`, making them at the first start, and issues a leaf
/// for `names` (DNS names and IP addresses).
///
/// # Errors
/// [`CaError`]; a damaged key is never replaced by a new one.
pub fn identity(dir: &Path, names: &[String]) -> Result<Identity, CaError> {
    let ca_key = key(&dir.join(CA_KEY))?;
    let leaf_key = key(&dir.join(LEAF_KEY))?;
    let ca = authority(&dir.join(CA_FILE), &ca_key)?;
    let naming = |error| CaError::Certificate(names.join(","), error);
    let issuer = Issuer::new(ca_params(), ca_key);
    let leaf = leaf_params(names).and_then(|params| params.signed_by(&leaf_key, &issuer)).map_err(naming)?;
    Ok(Identity {
        chain: vec![leaf.into(), ca],
        pin: pin(&leaf_key.subject_public_key_info()),
        key: PrivateKeyDer::Pkcs8(leaf_key.serialize_der().into()),
    })
}

/// `sha256/BASE64` of a SubjectPublicKeyInfo in DER.
#[must_use]
pub fn pin(spki: &[u8]) -> String {
    format!("sha256/{}", STANDARD.encode(Sha256::digest(spki)))
}

fn key(path: &Path) -> Result<KeyPair, CaError> {
    let naming = |error| CaError::Certificate(path.display().to_string(), error);
    let text = match files::read_text(path)? {
        Some(text) => text,
        None => files::keep_first(path, KeyPair::generate().map_err(naming)?.serialize_pem(), 0o600)?,
    };
    KeyPair::from_pem(&text).map_err(naming)
}

fn authority(path: &Path, key: &KeyPair) -> Result<CertificateDer<'static>, CaError> {
    let naming = |error| CaError::Certificate(path.display().to_string(), error);
    let text = match files::read_text(path)? {
        Some(text) => text,
        None => files::keep_first(path, ca_params().self_signed(key).map_err(naming)?.pem(), 0o644)?,
    };
    CertificateDer::from_pem_slice(text.as_bytes()).map_err(CaError::Damaged)
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(2100, 1, 1));
    params.distinguished_name.push(DnType::CommonName, "edge-central CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf_params(names: &[String]) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(2100, 1, 1));
    params.distinguished_name.push(DnType::CommonName, "edge-central");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn the_pin_stays_when_the_names_change() {
        let dir = tempfile::tempdir().unwrap();
        let first = identity(dir.path(), &["127.0.0.1".to_owned()]).unwrap();
        let second = identity(dir.path(), &["central.example.net".to_owned()]).unwrap();
        assert_eq!(first.pin, second.pin);
        assert_eq!(first.chain[1], second.chain[1]);
        assert_ne!(first.chain[0], second.chain[0]);
    }

    #[test]
    fn a_damaged_key_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        files::keep_first(&dir.path().join(LEAF_KEY), String::new(), 0o600).unwrap();
        assert!(matches!(identity(dir.path(), &[]), Err(CaError::Certificate(..))));
    }
}
