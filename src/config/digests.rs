//! Public keys and their digests as the configuration writes them: base64 of 32
//! bytes. Decodes only; what a key may sign is decided elsewhere.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::reader::Reason;

/// What stands before the digest of a pin.
const PIN_PREFIX: &str = "sha256/";

/// SHA-256 of a server's SubjectPublicKeyInfo; written `sha256/BASE64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pin([u8; 32]);

impl Pin {
    /// The digest.
    #[must_use]
    pub fn digest(&self) -> &[u8; 32] {
        &self.0
    }

    pub(super) fn parse(text: &str) -> Result<Self, Reason> {
        let digest = text.strip_prefix(PIN_PREFIX).ok_or("it does not start with `sha256/`")?;
        decode(digest).map(Self)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{PIN_PREFIX}{}", STANDARD.encode(self.0))
    }
}

impl Serialize for Pin {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A raw Ed25519 public key that signs release lists; written as base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReleaseKey([u8; 32]);

impl ReleaseKey {
    /// The key.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(super) fn parse(text: &str) -> Result<Self, Reason> {
        decode(text).map(Self)
    }
}

impl fmt::Display for ReleaseKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&STANDARD.encode(self.0))
    }
}

impl Serialize for ReleaseKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn decode(text: &str) -> Result<[u8; 32], Reason> {
    let bytes = STANDARD.decode(text).map_err(|_| "it is not standard base64 with its padding")?;
    let length = bytes.len();
    bytes.try_into().map_err(|_| format!("it holds {length} bytes, not 32").into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    const ZEROS: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

    #[test]
    fn pins_and_keys_read_back() {
        let pin = format!("sha256/{ZEROS}");
        assert_eq!(Pin::parse(&pin).unwrap().digest(), &[0; 32]);
        assert_eq!(Pin::parse(&pin).unwrap().to_string(), pin);
        assert_eq!(ReleaseKey::parse(ZEROS).unwrap().to_string(), ZEROS);
    }

    #[test]
    fn other_forms_are_refused() {
        for text in ["", "sha256/", ZEROS, "sha1/AAAA", "SHA256/AAAA", "sha256/AAAA", "sha256/%%%%"] {
            assert!(Pin::parse(text).is_err(), "{text}");
        }
        let short = ReleaseKey::parse("AAAA").unwrap_err();
        assert_eq!(short.why, "it holds 3 bytes, not 32");
        let unpadded = ReleaseKey::parse(ZEROS.trim_end_matches('=')).unwrap_err();
        assert_eq!(unpadded.why, "it is not standard base64 with its padding");
    }
}
