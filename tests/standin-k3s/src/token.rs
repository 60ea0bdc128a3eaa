//! Owns the forms of join tokens (k3s: pkg/clientaccess/token.go).
//! It contacts nobody and never prints a password.

use anyhow::{Result, bail};

/// A join token, taken apart.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// SHA-256 of the cluster CA in hex, if the token pins one.
    pub ca_hash: Option<String>,
    /// `server` or `node`; empty in the short form.
    pub user: String,
    /// The secret.
    pub password: String,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("ca_hash", &self.ca_hash).finish_non_exhaustive()
    }
}

impl Token {
    /// Parses either form.
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            bail!("token must not be empty");
        }
        let Some(rest) = text.strip_prefix("K10") else {
            return Ok(Self { ca_hash: None, user: String::new(), password: text.into() });
        };
        let Some((hash, credentials)) = rest.split_once("::") else {
            bail!("invalid token format");
        };
        if hash.len() != 64 {
            bail!("invalid token CA hash length");
        }
        match credentials.split_once(':') {
            Some((user, password)) if !user.is_empty() && !password.is_empty() => {
                Ok(Self { ca_hash: Some(hash.into()), user: user.into(), password: password.into() })
            }
            _ => bail!("invalid token format"),
        }
    }

    /// As `parse`, for a server's own token: bootstrap tokens are refused too.
    pub fn parse_for_server(text: &str) -> Result<Self> {
        let normal = Self::parse(text).ok().filter(|token| !is_bootstrap(&token.password));
        match normal {
            Some(token) => Ok(token),
            None => bail!(
                "failed to normalize server token; must be in format \
                 K10<CA-HASH>::<USERNAME>:<PASSWORD> or <PASSWORD>"
            ),
        }
    }

    /// The full form.
    pub fn full(ca_hash: &str, user: &str, password: &str) -> String {
        format!("K10{ca_hash}::{user}:{password}")
    }

    /// Compares the pin with a cluster's CA hash.
    pub fn check_pin(&self, ca_hash: &str) -> Result<()> {
        match &self.ca_hash {
            Some(pin) if pin != ca_hash => {
                bail!("token CA hash does not match the Cluster CA certificate hash: {pin} != {ca_hash}")
            }
            _ => Ok(()),
        }
    }
}

/// `<6>.<16>` of `[a-z0-9]`: kubeadm's form, for agents only.
fn is_bootstrap(text: &str) -> bool {
    let plain = |part: &str| part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    text.split_once('.')
        .is_some_and(|(id, secret)| id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_k3s() {
        let hash = "a".repeat(64);
        let token = Token::parse(&format!("K10{hash}::server:pass:word")).unwrap();
        assert_eq!((token.user.as_str(), token.password.as_str()), ("server", "pass:word"));
        assert_eq!(Token::parse("short").unwrap().ca_hash, None);
        let error = |text: &str| Token::parse(text).unwrap_err().to_string();
        assert_eq!(error(""), "token must not be empty");
        assert_eq!(error("K10abc::server:x"), "invalid token CA hash length");
        assert_eq!(error(&format!("K10{hash}::server")), "invalid token format");
    }

    #[test]
    fn a_server_refuses_a_bootstrap_token() {
        assert!(Token::parse_for_server("abcdef.0123456789abcdef").is_err());
        assert!(Token::parse_for_server("").is_err());
        assert!(Token::parse_for_server("ordinary").is_ok());
    }

    #[test]
    fn a_pin_is_compared() {
        let hash = "b".repeat(64);
        let token = Token::parse(&Token::full(&hash, "server", "x")).unwrap();
        assert!(token.check_pin(&hash).is_ok());
        assert!(token.check_pin(&"c".repeat(64)).is_err());
    }
}
