//! k3s versions: `v<kubernetes>+k3s<N>`.
//!
//! Owns parsing and ordering. Semver libraries ignore what follows `+`, so that
//! `+k3s1` and `+k3s2` would look equal (k3s: scripts/git_version.sh).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::words::WordError;

/// A k3s version, ordered by Kubernetes version, then pre-release, then k3s revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct K3sVersion {
    text: String,
    /// Kubernetes major, minor, patch.
    pub kubernetes: (u32, u32, u32),
    /// `rc1` and the like; absent for a release.
    pub pre: Option<String>,
    /// Number after `+k3s`; absent for a development build.
    pub revision: Option<u32>,
}

impl K3sVersion {
    /// As written, for example `v1.36.2+k3s1`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Kubernetes minor version, for example 36.
    #[must_use]
    pub fn minor(&self) -> u32 {
        self.kubernetes.1
    }

    /// Whether this is Kubernetes 1.`minor` or newer.
    #[must_use]
    pub fn at_least(&self, minor: u32) -> bool {
        (self.kubernetes.0, self.kubernetes.1) >= (1, minor)
    }
}

impl FromStr for K3sVersion {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        parse(text).ok_or_else(|| WordError {
            word: "k3s version",
            value: text.chars().take(80).collect(),
            rule: "vMAJOR.MINOR.PATCH[-PRE]+k3sN, for example v1.36.2+k3s1",
        })
    }
}

fn parse(text: &str) -> Option<K3sVersion> {
    let (kubernetes, build) = text.strip_prefix('v')?.split_once("+k3s")?;
    let (numbers, pre) = match kubernetes.split_once('-') {
        Some((numbers, pre)) => (numbers, Some(pre)),
        None => (kubernetes, None),
    };
    let mut parts = numbers.split('.').map(number);
    let kubernetes = (parts.next()??, parts.next()??, parts.next()??);
    if parts.next().is_some() || pre.is_some_and(|pre| !is_word(pre)) {
        return None;
    }
    let revision = match build.strip_prefix('-') {
        Some(commit) => is_word(commit).then_some(None)?,
        None => Some(number(build)?),
    };
    Some(K3sVersion { text: text.to_owned(), kubernetes, pre: pre.map(str::to_owned), revision })
}

fn number(text: &str) -> Option<u32> {
    (!text.is_empty() && text.len() <= 6 && text.bytes().all(|b| b.is_ascii_digit()))
        .then(|| text.parse().ok())?
}

fn is_word(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !text.starts_with('-')
}

impl PartialOrd for K3sVersion {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for K3sVersion {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // A release is above its own pre-releases; the text only breaks ties.
        let key = |v: &Self| (v.kubernetes, v.pre.is_none(), v.pre.clone(), v.revision);
        key(self).cmp(&key(other)).then_with(|| self.text.cmp(&other.text))
    }
}

impl TryFrom<String> for K3sVersion {
    type Error = WordError;

    fn try_from(text: String) -> Result<Self, WordError> {
        text.parse()
    }
}

impl From<K3sVersion> for String {
    fn from(version: K3sVersion) -> Self {
        version.text
    }
}

impl fmt::Display for K3sVersion {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn version(text: &str) -> K3sVersion {
        text.parse().unwrap()
    }

    #[test]
    fn revisions_order_within_one_kubernetes_version() {
        assert!(version("v1.31.4+k3s1") < version("v1.31.4+k3s2"));
        assert!(version("v1.31.4+k3s2") < version("v1.31.10+k3s1"));
        assert!(version("v1.31.4-rc1+k3s1") < version("v1.31.4+k3s1"));
    }

    #[test]
    fn development_builds_parse() {
        assert_eq!(version("v1.36.2+k3s-af977adf").revision, None);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in
            ["1.31.4+k3s1", "v1.31+k3s1", "v1.31.4", "v1.31.4+k3s", "v1.31.4+k3s1/../x", "v1.31.4+k3s1\n"]
        {
            assert!(text.parse::<K3sVersion>().is_err(), "{text:?}");
        }
    }
}
