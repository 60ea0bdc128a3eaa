//! Whom this host believes: signing keys, pins and endpoints.
//!
//! Owns the rules by which they change. The first signing key comes with the
//! answer to the claim, over the authenticated channel; later ones only in an
//! assignment signed by a key that is trusted already. What was trusted before
//! stays until the new one was met: a slip of the service must not lock a host
//! out. Pure: `cache` stores it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::sys::http::KeyDigest;
use crate::wire::assignment;
use crate::wire::envelope::SigningKey;

/// What this host has learned to believe, beyond its settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// Keys that may sign assignments.
    #[serde(default)]
    pub signing_keys: Vec<SigningKey>,
    /// Pins of signed assignments, `sha256/BASE64`.
    #[serde(default)]
    pub pins: Vec<String>,
    /// Pins of the settings that count no more, because a newer one was met.
    #[serde(default)]
    pub superseded: Vec<String>,
    /// Endpoints of signed assignments.
    #[serde(default)]
    pub endpoints: Vec<String>,
}

impl Trust {
    /// Whether a claim was answered and its signing key is known.
    #[must_use]
    pub fn is_claimed(&self) -> bool {
        !self.signing_keys.is_empty()
    }

    /// Takes the signing key of a claim's answer, when there is none yet. A
    /// later claim changes nothing: whoever holds only the service's TLS key
    /// must not become a signer that way.
    pub fn claim(&mut self, key: SigningKey) {
        if self.signing_keys.is_empty() {
            self.signing_keys.push(key);
        }
    }

    /// Takes over `given`, out of an assignment whose signature by the key with
    /// id `signer` is good. An empty list says nothing.
    pub fn take_over(&mut self, given: &assignment::Trust, signer: &str) {
        let keys: Vec<SigningKey> =
            given.signing_keys.iter().filter_map(|key| SigningKey::try_from(key.clone()).ok()).collect();
        if keys.iter().any(|key| key.id() == signer) {
            self.signing_keys = keys;
        } else {
            keys.into_iter().for_each(|key| push_new(&mut self.signing_keys, key));
        }
        let pins = given.pins.iter().filter(|pin| parse_pin(pin).is_some()).cloned().collect();
        replace_unless_empty(&mut self.pins, pins);
        replace_unless_empty(&mut self.endpoints, given.endpoints.clone());
    }

    /// Notes that a service with public key `peer` answered. When it is one of
    /// the newer pins, those of the settings that are not repeated there end.
    /// Pins that a person adds to the settings later count again.
    pub fn meet(&mut self, peer: KeyDigest, settings: &[KeyDigest]) {
        if !self.pins.contains(&format_pin(&peer)) {
            return;
        }
        for old in settings.iter().map(format_pin) {
            if !self.pins.contains(&old) {
                push_new(&mut self.superseded, old);
            }
        }
    }

    /// All pins that count, given those of the settings.
    #[must_use]
    pub fn pins(&self, settings: &[KeyDigest]) -> Vec<KeyDigest> {
        let mut pins: Vec<KeyDigest> = self.pins.iter().filter_map(|pin| parse_pin(pin)).collect();
        for pin in settings {
            if !self.superseded.contains(&format_pin(pin)) {
                push_new(&mut pins, *pin);
            }
        }
        pins
    }

    /// All endpoints in the order of trying: the service's own word first, the
    /// settings after it, so that neither a move nor a slip ends the contact.
    #[must_use]
    pub fn endpoints(&self, settings: &[String]) -> Vec<String> {
        let mut endpoints = Vec::new();
        for endpoint in self.endpoints.iter().chain(settings) {
            push_new(&mut endpoints, endpoint.trim_end_matches('/').to_owned());
        }
        endpoints
    }
}

fn push_new<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

fn replace_unless_empty(list: &mut Vec<String>, given: Vec<String>) {
    if !given.is_empty() {
        *list = given;
    }
}

fn parse_pin(text: &str) -> Option<KeyDigest> {
    STANDARD.decode(text.strip_prefix("sha256/")?).ok()?.try_into().ok()
}

fn format_pin(pin: &KeyDigest) -> String {
    format!("sha256/{}", STANDARD.encode(pin))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SigningKey {
        SigningKey::from_bytes([byte; 32])
    }

    fn keys(bytes: &[u8]) -> assignment::Trust {
        assignment::Trust {
            signing_keys: bytes.iter().map(|byte| String::from(key(*byte))).collect(),
            ..assignment::Trust::default()
        }
    }

    fn pins(bytes: &[u8]) -> assignment::Trust {
        assignment::Trust {
            pins: bytes.iter().map(|byte| format_pin(&[*byte; 32])).collect(),
            ..assignment::Trust::default()
        }
    }

    #[test]
    fn only_the_first_claim_gives_a_signing_key() {
        let mut trust = Trust::default();
        trust.claim(key(1));
        trust.claim(key(2));
        assert_eq!(trust.signing_keys, [key(1)]);
    }

    #[test]
    fn an_old_signing_key_ends_when_the_new_one_signs() {
        let mut trust = Trust { signing_keys: vec![key(1)], ..Trust::default() };
        trust.take_over(&keys(&[2]), &key(1).id());
        assert_eq!(trust.signing_keys, [key(1), key(2)]);
        trust.take_over(&keys(&[]), &key(1).id());
        assert_eq!(trust.signing_keys, [key(1), key(2)], "an empty list says nothing");
        trust.take_over(&keys(&[2]), &key(2).id());
        assert_eq!(trust.signing_keys, [key(2)]);
    }

    #[test]
    fn an_old_pin_ends_when_the_new_one_is_met_and_a_person_can_bring_it_back() {
        let mut trust = Trust::default();
        let settings = [[1; 32]];
        trust.take_over(&pins(&[2]), "any");
        assert_eq!(trust.pins(&settings), [[2; 32], [1; 32]]);
        trust.meet([1; 32], &settings);
        assert_eq!(trust.pins(&settings), [[2; 32], [1; 32]], "the old one answered");
        trust.meet([2; 32], &settings);
        assert_eq!(trust.pins(&settings), [[2; 32]]);
        assert_eq!(trust.pins(&[[3; 32]]), [[2; 32], [3; 32]]);
    }

    #[test]
    fn a_pin_that_is_none_is_not_taken_over() {
        let mut trust = Trust::default();
        trust.take_over(&pins(&[2]), "any");
        let nonsense =
            assignment::Trust { pins: vec!["sha256/short".to_owned()], ..assignment::Trust::default() };
        trust.take_over(&nonsense, "any");
        assert_eq!(trust.pins(&[]), [[2; 32]]);
    }

    #[test]
    fn new_endpoints_come_first_and_old_ones_stay() {
        let trust = Trust { endpoints: vec!["https://b:1/".to_owned()], ..Trust::default() };
        let settings = ["https://a:1".to_owned(), "https://b:1".to_owned()];
        assert_eq!(trust.endpoints(&settings), ["https://b:1", "https://a:1"]);
    }
}
