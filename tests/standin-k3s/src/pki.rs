//! Owns keys and certificates: CAs, leaves, the CA hash, and the file form
//! that k3s uses (P-256, SEC 1 keys as Go writes them). It touches no file.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A certificate with its key, both as PEM text.
#[derive(Clone)]
pub struct Pair {
    /// Certificate, PEM.
    pub cert: String,
    /// Key, PEM, `EC PRIVATE KEY`.
    pub key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").finish_non_exhaustive()
    }
}

/// What a leaf certificate says.
#[derive(Debug, Default)]
pub struct Leaf<'a> {
    /// Common name.
    pub name: &'a str,
    /// Organization: the groups of a client.
    pub group: Option<&'a str>,
    /// DNS names.
    pub dns: Vec<String>,
    /// Addresses.
    pub ips: Vec<IpAddr>,
    /// For a server; else for a client.
    pub serves: bool,
}

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// The DER frame of a P-256 key in SEC 1 form around scalar and point.
const SEC1_HEAD: &[u8] = &[0x30, 0x77, 0x02, 0x01, 0x01, 0x04, 0x20];
const SEC1_MIDDLE: &[u8] =
    &[0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0xa1, 0x44, 0x03, 0x42, 0x00];

/// A new CA that starts an hour ago and lives ten years, as k3s makes it: a
/// clock that is far ahead makes a CA that does not work yet.
pub fn new_ca(kind: &str) -> Result<Pair> {
    let key = KeyPair::generate()?;
    let now = SystemTime::now();
    let stamp = now.duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let mut params = CertificateParams::new(Vec::default())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = named(&format!("k3s-{kind}-ca@{stamp}"), None);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyCertSign,
    ];
    params.not_before = OffsetDateTime::from(now - HOUR);
    params.not_after = OffsetDateTime::from(now + 3650 * DAY);
    let cert = params.self_signed(&key)?;
    Ok(Pair { cert: cert.pem(), key: sec1_pem(&key)? })
}

/// A fresh key alone, PEM.
pub fn new_key() -> Result<String> {
    sec1_pem(&KeyPair::generate()?)
}

/// Issues a leaf for 365 days, starting an hour ago but not before the CA.
pub fn issue(ca: &Pair, leaf: &Leaf<'_>) -> Result<Pair> {
    let key = KeyPair::generate()?;
    let issuer = Issuer::from_ca_cert_pem(&ca.cert, load_key(&ca.key)?)?;
    let now = SystemTime::now();
    let mut params = CertificateParams::new(leaf.dns.clone())?;
    params.subject_alt_names.extend(leaf.ips.iter().map(|ip| SanType::IpAddress(*ip)));
    params.distinguished_name = named(leaf.name, leaf.group);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![if leaf.serves {
        ExtendedKeyUsagePurpose::ServerAuth
    } else {
        ExtendedKeyUsagePurpose::ClientAuth
    }];
    let hour_ago = OffsetDateTime::from(now - HOUR);
    params.not_before = hour_ago.max(not_before(&ca.cert)?);
    params.not_after = OffsetDateTime::from(now + 365 * DAY);
    let cert = params.signed_by(&key, &issuer)?;
    Ok(Pair { cert: cert.pem(), key: sec1_pem(&key)? })
}

fn named(name: &str, group: Option<&str>) -> rcgen::DistinguishedName {
    let mut subject = rcgen::DistinguishedName::new();
    if let Some(group) = group {
        subject.push(DnType::OrganizationName, group);
    }
    subject.push(DnType::CommonName, name);
    subject
}

/// SHA-256 over the bytes of a file with one certificate, in hex (k3s:
/// pkg/clientaccess/token.go hashCA).
pub fn ca_hash(pem: &[u8]) -> String {
    hex(&Sha256::digest(pem))
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Random bytes as lower-case hex, twice `count` characters.
pub fn random_hex(count: usize) -> Result<String> {
    let mut bytes = vec![0_u8; count];
    let source = ring::rand::SystemRandom::new();
    ring::rand::SecureRandom::fill(&source, &mut bytes).map_err(|_| anyhow!("no random numbers"))?;
    Ok(hex(&bytes))
}

/// All certificates of a PEM text.
pub fn certs(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    let all: Vec<_> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().unwrap_or_default();
    if all.is_empty() {
        bail!("tls: failed to find any PEM data in certificate input");
    }
    Ok(all)
}

/// The private key of a PEM text.
pub fn key(pem: &str) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| anyhow!("tls: failed to find any PEM data in key input"))
}

/// Common name and organization of a certificate.
pub fn subject(der: &[u8]) -> Result<(String, String)> {
    let (_, cert) = X509Certificate::from_der(der).map_err(|_| anyhow!("not a certificate"))?;
    let text = |value: Option<&x509_parser::x509::AttributeTypeAndValue<'_>>| {
        value.and_then(|v| v.as_str().ok()).unwrap_or_default().to_owned()
    };
    let name = text(cert.subject().iter_common_name().next());
    let group = text(cert.subject().iter_organization().next());
    Ok((name, group))
}

fn not_before(pem: &str) -> Result<OffsetDateTime> {
    let all = certs(pem)?;
    let der = all.first().context("no certificate")?;
    let (_, cert) = X509Certificate::from_der(der).map_err(|_| anyhow!("not a certificate"))?;
    Ok(cert.validity().not_before.to_datetime())
}

/// Scalar and point lie at fixed places of the PKCS #8 form that ring writes.
fn sec1_pem(key: &KeyPair) -> Result<String> {
    let der = key.serialized_der();
    let scalar = der.get(36..68).context("unexpected key form")?;
    let point = key.public_key_raw();
    let body = [SEC1_HEAD, scalar, SEC1_MIDDLE, point].concat();
    let text = STANDARD.encode(body);
    let lines: Vec<&str> =
        (0..text.len()).step_by(64).filter_map(|at| text.get(at..text.len().min(at + 64))).collect();
    Ok(format!("-----BEGIN EC PRIVATE KEY-----\n{}\n-----END EC PRIVATE KEY-----\n", lines.join("\n")))
}

fn load_key(pem: &str) -> Result<KeyPair> {
    const PKCS8_HEAD: &[u8] = &[
        0x30, 0x81, 0x87, 0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01,
        0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x04, 0x6d, 0x30, 0x6b, 0x02, 0x01, 0x01,
        0x04, 0x20,
    ];
    let sec1 = key(pem)?;
    let der = sec1.secret_der();
    let scalar = der.get(7..39).context("unexpected key form")?;
    let point = der.get(der.len().saturating_sub(65)..).context("unexpected key form")?;
    let tail = [0xa1, 0x44, 0x03, 0x42, 0x00];
    let pkcs8 = [PKCS8_HEAD, scalar, &tail, point].concat();
    KeyPair::try_from(pkcs8).map_err(|error| anyhow!("cannot load key: {error}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_both_forms_and_signs() {
        let ca = new_ca("server").unwrap();
        assert!(ca.key.starts_with("-----BEGIN EC PRIVATE KEY-----"));
        let leaf = Leaf { name: "n", group: Some("system:nodes"), ..Leaf::default() };
        let pair = issue(&ca, &leaf).unwrap();
        let der = certs(&pair.cert).unwrap();
        assert_eq!(subject(&der[0]).unwrap(), ("n".into(), "system:nodes".into()));
        rustls::crypto::ring::sign::any_supported_type(&key(&pair.key).unwrap()).unwrap();
    }

    #[test]
    fn an_empty_file_has_no_certificate() {
        assert!(certs("").is_err());
    }
}
