//! Names that the service makes: node ids, codes, tokens, passwords.
//!
//! Owns their alphabets and lengths. Randomness comes from the system through
//! `ring`; nothing here is stored or compared.

use data_encoding::BASE32_NOPAD;
use edge_bootstrap::wire::Secret;
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// The system gave no randomness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the system's random numbers are not available")]
pub struct RandomError;

/// Without letters and digits that are easily taken for each other on a phone.
const CODE_ALPHABET: &[u8; 32] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZ";
/// Length of a code.
const CODE_LENGTH: usize = 6;
/// Length of a node id (DESIGN 7).
const NODE_ID_LENGTH: usize = 26;

/// Node id of the key whose SubjectPublicKeyInfo (DER) is `spki`.
#[must_use]
pub fn node_id(spki: &[u8]) -> String {
    let mut id = BASE32_NOPAD.encode(&Sha256::digest(spki)).to_lowercase();
    id.truncate(NODE_ID_LENGTH);
    id
}

fn random<const N: usize>() -> Result<[u8; N], RandomError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| RandomError)?;
    Ok(bytes)
}

/// A code that a person reads from a console to the approver.
///
/// # Errors
/// [`RandomError`] when the system gives no randomness.
pub fn code() -> Result<String, RandomError> {
    let bytes = random::<CODE_LENGTH>()?;
    let letters = bytes.iter().filter_map(|byte| CODE_ALPHABET.get(usize::from(byte & 31)));
    Ok(letters.map(|&letter| char::from(letter)).collect())
}

/// A password of 200 random bits, safe in files and lines.
///
/// # Errors
/// [`RandomError`] when the system gives no randomness.
pub fn password() -> Result<Secret, RandomError> {
    Ok(Secret::new(BASE32_NOPAD.encode(&random::<25>()?).to_lowercase()))
}

/// A short public name, for example of a token.
///
/// # Errors
/// [`RandomError`] when the system gives no randomness.
pub fn short_id() -> Result<String, RandomError> {
    Ok(BASE32_NOPAD.encode(&random::<5>()?).to_lowercase())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use edge_bootstrap::role::words::{NodeId, TokenText};

    use super::*;

    #[test]
    fn a_node_id_is_the_cut_base32_of_the_hash() {
        // SHA-256("abc") begins with ba7816bf 8f01cfea 414140de 5dae2223 b0.
        assert_eq!(node_id(b"abc"), "xj4bnp4pahh6uqkbidpf3lrceo");
        assert!(node_id(b"abc").parse::<NodeId>().is_ok());
    }

    #[test]
    fn codes_and_passwords_fit_their_words() {
        assert!(code().unwrap().bytes().all(|byte| CODE_ALPHABET.contains(&byte)));
        assert_eq!(code().unwrap().len(), 6);
        assert!(password().unwrap().expose().parse::<TokenText>().is_ok());
        assert_ne!(password().unwrap(), password().unwrap());
    }
}
