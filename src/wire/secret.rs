//! Text that must not be seen: tokens and keys.
//!
//! Owns redaction. A [`Secret`] prints as `(secret)` and is wiped from memory
//! when dropped. It does serialise to its value, because the wire and the
//! state files of mode 0600 carry it; nothing that is shown to people may
//! hold one.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

/// A join token, access key or the like.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The value itself, for the one file or request that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names the value without telling it: `sha256:` and 12 hex digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(self.0.as_bytes())
    }
}

/// What stands in a printed URL instead of what may be secret.
const REDACTED: &str = "REDACTED";

/// A URL without its user name, password and query; another text as it is.
#[must_use]
pub fn without_credentials(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let (user, rest) = rest.rsplit_once('@').map_or(("", rest), |(user, rest)| (user, rest));
    // A password may hold a question mark, and a query an `@`: nobody can tell which.
    if user.contains('?') {
        return format!("{scheme}://{REDACTED}");
    }
    let user = if user.is_empty() { "" } else { "REDACTED@" };
    match rest.split_once('?') {
        Some((place, _)) => format!("{scheme}://{user}{place}?{REDACTED}"),
        None => format!("{scheme}://{user}{rest}"),
    }
}

/// Names bytes without telling them: `sha256:` and 12 hex digits.
#[must_use]
pub fn fingerprint(bytes: &[u8]) -> String {
    format!("sha256:{}", &sha256_hex(bytes)[..12])
}

/// SHA-256 as 64 lower-case hex digits.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("(secret)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("(secret)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_as_its_place_holder() {
        let secret = Secret::new("K10canary");
        assert_eq!(format!("{secret:?} {secret}"), "(secret) (secret)");
        assert!(!secret.fingerprint().contains("canary"));
    }

    #[test]
    fn a_url_is_shown_without_user_password_and_query() {
        for (text, shown) in [
            ("https://h:1/k3s", "https://h:1/k3s"),
            ("https://u:canary@h/k3s", "https://REDACTED@h/k3s"),
            ("https://u:c@nary@h/k3s?token=canary", "https://REDACTED@h/k3s?REDACTED"),
            ("https://h/k3s?token=c@nary", "https://REDACTED"),
            ("https://u:c?nary@h", "https://REDACTED"),
            ("a@sha256:00?", "a@sha256:00?"),
        ] {
            assert_eq!(without_credentials(text), shown, "{text}");
        }
    }
}
