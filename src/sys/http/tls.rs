//! Who is at the other end of a TLS connection, and who we are.
//!
//! Owns the check of a server by its public key or by an own authority. With a
//! pin no date is looked at, so that it is right also while the clock is wrong;
//! that the server holds the key is proven by the handshake all the same.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme, version,
};
use sha2::{Digest as _, Sha256};

use super::{HttpError, Identity, KeyDigest, Proof, Settings};
use crate::sys::clock;

/// TLS 1.3 and 1.2, with the checks of `settings`.
pub(super) fn config(settings: &Settings) -> Result<ClientConfig, HttpError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let dates = settings.believable.map(|(first, last)| Dates { first, last, since: clock::since_boot() });
    let verifier = Verifier { dates, ..Verifier::new(&settings.proof, &provider)? };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(|error| HttpError::Settings(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let Some(identity) = &settings.identity else { return Ok(builder.with_no_client_auth()) };
    let (chain, key) = client_auth(identity)?;
    builder.with_client_auth_cert(chain, key).map_err(|error| HttpError::Settings(error.to_string()))
}

/// SHA-256 of the certificate's SubjectPublicKeyInfo.
pub(super) fn key_digest(certificate: &CertificateDer<'_>) -> Result<KeyDigest, Error> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    Ok(Sha256::digest(parsed.subject_public_key_info()).into())
}

fn client_auth(
    identity: &Identity,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), HttpError> {
    let unusable = |what: &str| HttpError::Settings(format!("the client {what} is not usable PEM"));
    let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes())
        .map_err(|_| unusable("certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(|_| unusable("key"))?;
    Ok((vec![certificate], key))
}

#[derive(Debug)]
struct Verifier {
    pins: Vec<KeyDigest>,
    authority: Option<Arc<WebPkiServerVerifier>>,
    anybody: bool,
    dates: Option<Dates>,
    provider: Arc<CryptoProvider>,
}

/// Between which times the machine's clock is believed, as known `since` a time
/// since boot: a wrong clock must not make a good certificate look out of date.
#[derive(Debug, Clone, Copy)]
struct Dates {
    first: u64,
    last: u64,
    since: Duration,
}

impl Dates {
    /// Whether a certificate is good at the clock's time, or, when that is not
    /// believed, at the earliest that it can be. A clock that stands far ahead
    /// may be right all the same, so that it counts too.
    fn any(self, now: UnixTime, good: impl Fn(UnixTime) -> Result<(), Error>) -> Result<(), Error> {
        let passed = clock::since_boot().saturating_sub(self.since).as_secs();
        let first = self.first.saturating_add(passed);
        if (first..=self.last.saturating_add(passed)).contains(&now.as_secs()) {
            return good(now);
        }
        good(UnixTime::since_unix_epoch(Duration::from_secs(first))).or_else(|_| good(now))
    }
}

impl Verifier {
    fn new(proof: &Proof, provider: &Arc<CryptoProvider>) -> Result<Self, HttpError> {
        let authority = proof.authorities.as_deref().map(|pem| authority(pem, provider)).transpose()?;
        let (pins, anybody) = (proof.pins.clone(), proof.anybody);
        Ok(Self { pins, authority, anybody, dates: None, provider: provider.clone() })
    }
}

fn authority(pem: &str, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, HttpError> {
    let unusable =
        |why: String| HttpError::Settings(format!("the authority's PEM text is not usable: {why}"));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| unusable(error.to_string()))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.anybody || self.pins.contains(&key_digest(end_entity)?) {
            return Ok(ServerCertVerified::assertion());
        }
        match &self.authority {
            Some(authority) => {
                let good = |at| {
                    let checked = authority.verify_server_cert(
                        end_entity,
                        intermediates,
                        server_name,
                        ocsp_response,
                        at,
                    );
                    checked.map(|_| ())
                };
                self.dates.map_or_else(|| good(now), |dates| dates.any(now, good))?;
                Ok(ServerCertVerified::assertion())
            }
            None => Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};

    use super::*;

    fn verifier(proof: &Proof) -> Verifier {
        Verifier::new(proof, &Arc::new(rustls::crypto::ring::default_provider())).unwrap()
    }

    fn check(verifier: &Verifier, certificate: &CertificateDer<'_>, name: &str) -> Result<(), Error> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        verifier.verify_server_cert(certificate, &[], &name, &[], UnixTime::now()).map(|_| ())
    }

    /// A certificate that ended in 1971, for any name: what a host with a wrong clock may see.
    fn expired(key: &KeyPair) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["other.example.net".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(1970, 1, 1);
        params.not_after = rcgen::date_time_ymd(1971, 1, 1);
        params.self_signed(key).unwrap().der().clone()
    }

    #[test]
    fn a_pin_looks_at_the_key_and_at_nothing_else() {
        let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let pin = Sha256::digest(key.subject_public_key_info()).into();
        let verifier = verifier(&Proof { pins: vec![[7; 32], pin], ..Proof::default() });
        assert!(check(&verifier, &expired(&key), "central.example.net").is_ok());
        assert!(check(&verifier, &expired(&other), "central.example.net").is_err());
    }

    #[test]
    fn without_any_proof_nobody_is_trusted() {
        let key = KeyPair::generate().unwrap();
        assert!(check(&verifier(&Proof::default()), &expired(&key), "other.example.net").is_err());
    }

    #[test]
    fn an_authority_looks_at_dates_too() {
        let key = KeyPair::generate().unwrap();
        let pem = CertificateParams::new(vec![]).unwrap().self_signed(&key).unwrap().pem();
        let verifier = verifier(&Proof { authorities: Some(pem), ..Proof::default() });
        assert!(check(&verifier, &expired(&key), "other.example.net").is_err());
    }

    /// An authority and a certificate of its for `central.example.net`, good in 2027 and 2028.
    fn dated() -> (String, CertificateDer<'static>) {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = rcgen::CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let mut params = CertificateParams::new(vec!["central.example.net".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2027, 1, 1);
        params.not_after = rcgen::date_time_ymd(2028, 12, 31);
        let certificate = params.signed_by(&KeyPair::generate().unwrap(), &ca).unwrap();
        (ca.pem(), certificate.der().clone())
    }

    #[test]
    fn a_wrong_clock_does_not_make_a_good_certificate_look_out_of_date() {
        const IN_2027: u64 = 1_800_000_000;
        let (pem, certificate) = dated();
        let plain = verifier(&Proof { authorities: Some(pem), ..Proof::default() });
        let dates = Dates { first: IN_2027, last: IN_2027 + 400 * 86_400, since: clock::since_boot() };
        let name = ServerName::try_from("central.example.net").unwrap();
        let good = |verifier: &Verifier, now| {
            let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
            verifier.verify_server_cert(&certificate, &[], &name, &[], now).is_ok()
        };
        for wrong in [0, IN_2027 - 86_400 * 365, 4_070_908_800] {
            assert!(!good(&plain, wrong), "{wrong}: believed, it is out of date");
        }
        let bounded = Verifier { dates: Some(dates), ..plain };
        for now in [0, IN_2027 - 86_400 * 365, IN_2027, IN_2027 + 86_400 * 365, 4_070_908_800] {
            assert!(good(&bounded, now), "{now}");
        }
        let old = Dates { first: IN_2027 - 86_400 * 700, last: IN_2027 - 86_400 * 300, ..dates };
        let stored = Verifier { dates: Some(old), ..bounded };
        assert!(good(&stored, IN_2027), "a host that lay in a store, and whose clock is right");
        assert!(!good(&stored, 0), "a date is looked at all the same");
    }

    #[test]
    fn text_without_a_certificate_is_no_authority() {
        let proof = Proof { authorities: Some("not PEM".to_owned()), ..Proof::default() };
        assert!(Verifier::new(&proof, &Arc::new(rustls::crypto::ring::default_provider())).is_err());
    }
}
