//! Words that are safe to put into paths, unit files, lines and URLs.
//!
//! Owns one validated type for every string of an assignment or a
//! configuration that ends in a path, a unit word or a line. No type here can
//! hold `/` (unless it is a URL or a path by nature), `..`, a newline, NUL or a
//! leading `-`. Never reads or writes anything.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::wire::secret::without_credentials;

/// A string that does not fit the rule of its word.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{word} {value:?} is not valid: {rule}")]
pub struct WordError {
    /// What the word is, for example `node name`.
    pub word: &'static str,
    /// The offending text, cut at 80 characters.
    pub value: String,
    /// The rule, in plain words.
    pub rule: &'static str,
}

fn offending(text: &str) -> String {
    without_credentials(text).chars().take(80).collect()
}

macro_rules! word {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:path, $rule:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = WordError;

            fn from_str(text: &str) -> Result<Self, WordError> {
                if $check(text) {
                    return Ok(Self(text.to_owned()));
                }
                Err(WordError { word: $what, value: offending(text), rule: $rule })
            }
        }

        impl TryFrom<String> for $name {
            type Error = WordError;

            fn try_from(text: String) -> Result<Self, WordError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(word: $name) -> Self {
                word.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&self.0)
            }
        }
    };
}

word!(
    /// Name of a Node: one RFC 1123 label, so that it is also a hostname.
    NodeName, "node name", is_node_name,
    "1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit, and not localhost"
);
word!(
    /// Name of a site or cluster.
    SiteName, "site name", is_label,
    "1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit"
);
word!(
    /// First 26 characters of the base32 of a key's hash.
    NodeId, "node id", is_node_id,
    "26 of a-z and 2-7"
);
word!(
    /// Name of an etcd member: the node's, a '-' and 8 hex digits.
    MemberName, "etcd member", is_member_name,
    "a node name, '-' and 8 of 0-9 and a-f"
);
word!(
    /// SHA-256 as text.
    Sha256Hex, "sha256", is_sha256,
    "64 of 0-9 and a-f"
);
word!(
    /// A registry host, with its port when it has one.
    Registry, "registry", is_registry,
    "a host name with an optional port, for example docker.io or 172.16.36.5:5000"
);
word!(
    /// An http or https URL without user information.
    WebUrl, "URL", is_web_url,
    "http:// or https://, a host, no user name, no spaces"
);
word!(
    /// Where an artifact is: http, https or an absolute `file:` path.
    ArtifactUrl, "artifact URL", is_artifact_url,
    "https://, http:// or file:/// without '..', user name or spaces"
);
word!(
    /// URL of a k3s server.
    ServerUrl, "server URL", is_server_url,
    "https://, a host and a port, nothing after it"
);
word!(
    /// Reference of a container image.
    ImageRef, "image", is_image_ref,
    "letters, digits and . _ - / : @, beginning with a letter or digit"
);
word!(
    /// Name of a manifest file of ours.
    ManifestName, "manifest name", is_manifest_name,
    "eb-NAME.yaml with NAME of a-z, 0-9 and '-'"
);
word!(
    /// Key of a label that a kubelet may put on its own Node: optional DNS prefix, `/`, name.
    LabelKey, "label key", is_own_label_key,
    "[prefix/]name with letters, digits, '-', '_' and '.', each beginning and ending with a letter or digit; \
     of kubernetes.io and k8s.io only what a kubelet may set itself, which `node-role.kubernetes.io/...` is not"
);
word!(
    /// Value of a node label; may be empty.
    LabelValue, "label value", is_label_value,
    "at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit"
);
word!(
    /// Node taint, `key[=value]:Effect`.
    Taint, "taint", is_taint,
    "key[=value]:NoSchedule, :PreferNoSchedule or :NoExecute"
);
word!(
    /// Key of k3s's configuration file.
    ConfigKey, "k3s key", is_config_key,
    "1 to 64 of a-z, 0-9 and '-', beginning with a letter"
);
word!(
    /// One line of printable text, for values that only ever become quoted YAML.
    Line, "value", is_line,
    "1 to 1024 printable characters on one line"
);
word!(
    /// A join password: never empty, no line break, and nothing that k3s takes for another kind of token.
    TokenText, "token", is_token,
    "1 to 512 printable characters without spaces or ':', not beginning with K10 or '-', \
     and not in the form of a bootstrap token, like abcdef.0123456789abcdef"
);
word!(
    /// A name for a serving certificate: DNS name or address.
    AltName, "tls_san", is_alt_name,
    "a DNS name or an IP address"
);

fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && edges_are_alphanumeric(text)
}

fn edges_are_alphanumeric(text: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    edge(text.bytes().next()) && edge(text.bytes().last())
}

fn is_node_name(text: &str) -> bool {
    is_label(text) && !text.starts_with("localhost")
}

fn is_node_id(text: &str) -> bool {
    text.len() == 26 && text.bytes().all(|b| b.is_ascii_lowercase() || (b'2'..=b'7').contains(&b))
}

fn is_member_name(text: &str) -> bool {
    let is_hex = |text: &str| {
        text.len() == 8 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    text.rsplit_once('-').is_some_and(|(node, mark)| is_dns_name(node) && is_hex(mark))
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn is_dns_name(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && edges_are_alphanumeric(label)
        })
}

fn is_port(text: &str) -> bool {
    text.len() <= 5 && text.parse::<u16>().is_ok_and(|port| port > 0)
}

/// `host`, `host:port`, `1.2.3.4:port` or `[v6]:port`.
fn is_host_port(text: &str, port_needed: bool) -> bool {
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        let port_fits = match port.strip_prefix(':') {
            Some(port) => is_port(port),
            None => port.is_empty() && !port_needed,
        };
        return address.parse::<std::net::Ipv6Addr>().is_ok() && port_fits;
    }
    match text.split_once(':') {
        Some((host, port)) => is_dns_name(host) && is_port(port),
        None => !port_needed && is_dns_name(text),
    }
}

fn is_registry(text: &str) -> bool {
    !text.starts_with('[') && is_host_port(text, false)
}

fn is_url_text(text: &str) -> bool {
    text.len() <= 2048
        && text.bytes().all(|b| b.is_ascii_graphic() && !br#""'`\<>{}|^"#.contains(&b))
        && !text.split('/').any(|part| part == "..")
}

fn is_web_url(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else {
        return false;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    is_url_text(text) && is_host_port(authority, false)
}

fn is_artifact_url(text: &str) -> bool {
    is_web_url(text) || (text.starts_with("file:///") && is_url_text(text))
}

fn is_server_url(text: &str) -> bool {
    text.strip_prefix("https://").is_some_and(|rest| is_host_port(rest, true))
}

fn is_image_ref(text: &str) -> bool {
    (1..=512).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b))
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && !text.split('/').any(|part| part == ".." || part.is_empty())
}

fn is_manifest_name(text: &str) -> bool {
    text.strip_prefix("eb-").and_then(|rest| rest.strip_suffix(".yaml")).is_some_and(is_label)
}

fn is_qualified(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && edges_are_alphanumeric(text)
}

fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => {
            let is_lower = !prefix.bytes().any(|b| b.is_ascii_uppercase());
            is_lower && is_dns_name(prefix) && is_qualified(name)
        }
        None => is_qualified(text),
    }
}

/// Keys of Kubernetes' own domains that a kubelet may set beside those below
/// `node.` and `kubelet.kubernetes.io`. At any other it exits, and k3s with it
/// (kubernetes: cmd/kubelet/app/options/options.go, ValidateKubeletFlags).
const KUBELETS_LABELS: [&str; 10] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

fn is_own_label_key(text: &str) -> bool {
    let prefix = text.split_once('/').map_or("", |(prefix, _)| prefix);
    let is_in = |domain: &&str| {
        prefix.strip_suffix(*domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    let is_reserved = ["kubernetes.io", "k8s.io"].iter().any(is_in);
    let is_kubelets = ["node.kubernetes.io", "kubelet.kubernetes.io"].iter().any(is_in);
    is_label_key(text) && (!is_reserved || is_kubelets || KUBELETS_LABELS.contains(&text))
}

fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_qualified(text)
}

fn is_taint(text: &str) -> bool {
    let Some((left, effect)) = text.rsplit_once(':') else { return false };
    let (key, value) = left.split_once('=').unwrap_or((left, ""));
    ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect)
        && is_label_key(key)
        && is_label_value(value)
}

fn is_config_key(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && text.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
}

fn is_line(text: &str) -> bool {
    (1..=1024).contains(&text.len()) && !text.chars().any(char::is_control)
}

fn is_token(text: &str) -> bool {
    (1..=512).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_graphic() && b != b':')
        && !text.starts_with("K10")
        && !text.starts_with('-')
        && !is_bootstrap_token(text)
}

/// k3s takes such a text for a token of `k3s token create`, and refuses it as a
/// server's own (k3s: pkg/clientaccess/token.go).
pub(crate) fn is_bootstrap_token(text: &str) -> bool {
    let is_part = |part: &str, length| {
        part.len() == length && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    text.split_once('.').is_some_and(|(id, secret)| is_part(id, 6) && is_part(secret, 16))
}

fn is_alt_name(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok() || is_dns_name(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn harmless(text: &str) -> bool {
        !text.contains(['/', '\n', '\0']) && !text.contains("..") && !text.starts_with('-')
    }

    proptest! {
        #[test]
        fn no_word_that_becomes_a_path_can_escape(text in "[a-z0-9./\\n\\x00-]{0,70}") {
            for accepted in [
                text.parse::<NodeName>().map(String::from),
                text.parse::<SiteName>().map(String::from),
                text.parse::<NodeId>().map(String::from),
                text.parse::<Registry>().map(String::from),
                text.parse::<ManifestName>().map(String::from),
                text.parse::<Sha256Hex>().map(String::from),
                text.parse::<ConfigKey>().map(String::from),
            ].into_iter().flatten() {
                prop_assert!(harmless(&accepted), "{accepted:?}");
            }
        }

        #[test]
        fn no_word_holds_a_line_break(text in "\\PC*[\\n\\r\\x00]\\PC*") {
            prop_assert!(text.parse::<WebUrl>().is_err());
            prop_assert!(text.parse::<ImageRef>().is_err());
            prop_assert!(text.parse::<LabelValue>().is_err());
            prop_assert!(text.parse::<Line>().is_err());
            prop_assert!(text.parse::<TokenText>().is_err());
        }
    }

    #[test]
    fn words_accept_what_the_field_uses() {
        "172-16-36-1".parse::<NodeName>().unwrap();
        "172.16.36.5:5000".parse::<Registry>().unwrap();
        "https://172.16.36.2:6443".parse::<ServerUrl>().unwrap();
        "https://[fd00::1]:6443".parse::<ServerUrl>().unwrap();
        "registry.k8s.io/pause:3.10".parse::<ImageRef>().unwrap();
        "node-role.example.net/gpu".parse::<LabelKey>().unwrap();
        "dedicated=gpu:NoSchedule".parse::<Taint>().unwrap();
        "eb-base.yaml".parse::<ManifestName>().unwrap();
        "file:///srv/k3s".parse::<ArtifactUrl>().unwrap();
    }

    #[test]
    fn words_refuse_what_would_hurt() {
        assert!("localhost".parse::<NodeName>().is_err());
        assert!("Host".parse::<NodeName>().is_err());
        assert!("https://user:pw@host/".parse::<WebUrl>().is_err());
        assert!("https://172.16.36.2".parse::<ServerUrl>().is_err());
        assert!("file:///srv/../etc/shadow".parse::<ArtifactUrl>().is_err());
        assert!("K10aa::server:x".parse::<TokenText>().is_err());
        assert!(
            "abcdef.0123456789abcdef".parse::<TokenText>().is_err(),
            "k3s takes it for a bootstrap token"
        );
        assert!("Abcdef.0123456789abcdef".parse::<TokenText>().is_ok());
    }

    #[test]
    fn a_url_that_is_refused_is_told_without_its_password() {
        let long = format!("https://{}:canary@h/k3s", "u".repeat(70));
        for text in ["https://u:canary@h/k3s", "ftp://h/k3s?token=canary", &long] {
            let errors = [
                text.parse::<ArtifactUrl>().unwrap_err(),
                text.parse::<ServerUrl>().unwrap_err(),
                text.parse::<WebUrl>().unwrap_err(),
            ];
            assert!(errors.iter().all(|error| !error.to_string().contains("can")), "{errors:?}");
        }
    }

    #[test]
    fn a_label_is_one_that_a_kubelet_may_put_on_its_own_node() {
        for key in [
            "gpu",
            "example.net/gpu",
            "node.kubernetes.io/rack",
            "eu.kubelet.kubernetes.io/rack",
            "topology.kubernetes.io/zone",
            "notkubernetes.io/x",
        ] {
            assert!(key.parse::<LabelKey>().is_ok(), "{key}");
        }
        for key in [
            "node-role.kubernetes.io/worker",
            "node-restriction.kubernetes.io/room",
            "kubernetes.io/role",
            "k8s.io/x",
            "a.k8s.io/x",
            "Example.net/gpu",
        ] {
            assert!(key.parse::<LabelKey>().is_err(), "{key}");
        }
        "node-role.kubernetes.io/control-plane:NoSchedule".parse::<Taint>().unwrap();
    }
}
