//! The key that signs assignments.
//!
//! Owns making, loading and using it. Whoever holds it is root in every room:
//! it lies in one file of mode 0600 and never leaves this module.

use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edge_bootstrap::wire::envelope::{Envelope, SigningKey};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use thiserror::Error;

use crate::files::{self, FileError};

/// Why there is no signing key.
#[derive(Debug, Error)]
pub enum SignError {
    /// The key file cannot be read or written.
    #[error("keep the signing key")]
    File(#[from] FileError),
    /// The key file holds something else.
    #[error("`{0}` holds no Ed25519 key; put it back from a backup: hosts refuse any other")]
    Damaged(String),
    /// The system gave no randomness.
    #[error("make a signing key")]
    Make,
}

/// Signs assignments.
pub struct Signer {
    pair: Ed25519KeyPair,
    public: SigningKey,
}

impl fmt::Debug for Signer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Signer({})", self.public.id())
    }
}

impl Signer {
    /// Loads the key at `path`, or makes one at the first start.
    ///
    /// # Errors
    /// [`SignError`]; a damaged key is never replaced by a new one.
    pub fn load_or_make(path: &Path) -> Result<Self, SignError> {
        let text = match files::read_text(path)? {
            Some(text) => text,
            None => make(path)?,
        };
        let damaged = || SignError::Damaged(path.display().to_string());
        let der = STANDARD.decode(text.trim()).map_err(|_| damaged())?;
        let pair = Ed25519KeyPair::from_pkcs8(&der).map_err(|_| damaged())?;
        let raw = pair.public_key().as_ref().try_into().map_err(|_| damaged())?;
        Ok(Self { pair, public: SigningKey::from_bytes(raw) })
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> &SigningKey {
        &self.public
    }

    /// Signs the payload's bytes.
    #[must_use]
    pub fn sign(&self, payload: &[u8]) -> Envelope {
        Envelope::new(payload, self.pair.sign(payload).as_ref(), &self.public)
    }
}

fn make(path: &Path) -> Result<String, SignError> {
    let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| SignError::Make)?;
    Ok(files::keep_first(path, STANDARD.encode(key.as_ref()), 0o600)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_first_start_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("signing.key");
        let first = Signer::load_or_make(&path).unwrap();
        let second = Signer::load_or_make(&path).unwrap();
        assert_eq!(first.public(), second.public());
        assert_eq!(second.sign(b"{}").open(std::slice::from_ref(first.public())).unwrap(), b"{}");
    }

    #[test]
    fn a_damaged_key_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("signing.key");
        files::keep_first(&path, String::new(), 0o600).unwrap();
        assert!(matches!(Signer::load_or_make(&path), Err(SignError::Damaged(_))));
        assert_eq!(files::read_text(&path).unwrap().unwrap(), "");
    }
}
