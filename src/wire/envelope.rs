//! The signed envelope of an assignment.
//!
//! Owns signing-key ids and the check of a signature. A payload is only ever
//! parsed after [`Envelope::open`] accepted it, on arrival and at every load.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::secret::sha256_hex;

/// Signed bytes as they travel and as they lie on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Base64 of the payload's JSON.
    pub payload: String,
    /// Base64 of the Ed25519 signature over the payload bytes.
    pub signature: String,
    /// First 8 hex digits of SHA-256 of the signing key.
    pub key_id: String,
}

/// An Ed25519 public key that may sign assignments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SigningKey([u8; 32]);

/// Why an envelope was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EnvelopeError {
    /// Not base64 where base64 must be.
    #[error("assignment {0} is not base64")]
    Encoding(&'static str),
    /// Signed by a key that this host does not trust.
    #[error(
        "assignment is signed by key {0}, which this host does not trust; `enrol --replace-trust` accepts a new service"
    )]
    UnknownKey(String),
    /// The bytes were changed, or signed by somebody else.
    #[error("signature of the assignment by key {0} does not fit its payload")]
    Signature(String),
    /// A signing key is not 32 bytes of base64.
    #[error("signing key is not 32 bytes in base64")]
    Key,
}

impl SigningKey {
    /// Takes 32 raw bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// First 8 hex digits of SHA-256 of the raw key.
    #[must_use]
    pub fn id(&self) -> String {
        sha256_hex(&self.0)[..8].to_owned()
    }
}

impl TryFrom<String> for SigningKey {
    type Error = EnvelopeError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = STANDARD.decode(text).map_err(|_| EnvelopeError::Key)?;
        bytes.try_into().map(Self).map_err(|_| EnvelopeError::Key)
    }
}

impl From<SigningKey> for String {
    fn from(key: SigningKey) -> Self {
        STANDARD.encode(key.0)
    }
}

impl Envelope {
    /// Checks the signature against the trusted `keys` and gives the payload's bytes.
    ///
    /// # Errors
    /// [`EnvelopeError`] when a part is not base64, the key is not trusted or
    /// the signature does not fit.
    pub fn open(&self, keys: &[SigningKey]) -> Result<Vec<u8>, EnvelopeError> {
        let payload = decode("payload", &self.payload)?;
        let signature = decode("signature", &self.signature)?;
        let key = keys
            .iter()
            .find(|key| key.id() == self.key_id)
            .ok_or_else(|| EnvelopeError::UnknownKey(self.key_id.clone()))?;
        UnparsedPublicKey::new(&ED25519, &key.0)
            .verify(&payload, &signature)
            .map_err(|_| EnvelopeError::Signature(self.key_id.clone()))?;
        Ok(payload)
    }

    /// Packs bytes that were signed elsewhere.
    #[must_use]
    pub fn new(payload: &[u8], signature: &[u8], key: &SigningKey) -> Self {
        Self { payload: STANDARD.encode(payload), signature: STANDARD.encode(signature), key_id: key.id() }
    }
}

fn decode(part: &'static str, text: &str) -> Result<Vec<u8>, EnvelopeError> {
    STANDARD.decode(text).map_err(|_| EnvelopeError::Encoding(part))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
pub(crate) mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;

    /// Signs with a key of its own.
    pub(crate) fn signed(payload: &[u8]) -> (Envelope, SigningKey) {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
        let key = SigningKey::from_bytes(pair.public_key().as_ref().try_into().unwrap());
        (Envelope::new(payload, pair.sign(payload).as_ref(), &key), key)
    }

    #[test]
    fn a_trusted_signature_opens() {
        let (envelope, key) = signed(b"{}");
        assert_eq!(envelope.open(&[key]).unwrap(), b"{}");
    }

    #[test]
    fn a_changed_payload_does_not_open() {
        let (mut envelope, key) = signed(b"{}");
        envelope.payload = STANDARD.encode(b"{ }");
        assert!(matches!(envelope.open(&[key]), Err(EnvelopeError::Signature(_))));
    }

    #[test]
    fn an_unknown_key_does_not_open() {
        let (envelope, _) = signed(b"{}");
        let (_, other) = signed(b"{}");
        assert!(matches!(envelope.open(&[other]), Err(EnvelopeError::UnknownKey(_))));
    }
}
