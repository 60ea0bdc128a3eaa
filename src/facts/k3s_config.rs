//! k3s's configuration as effective values.
//!
//! Owns parsing and merging of `config.yaml` and its drop-ins the way k3s does
//! it (k3s: pkg/configfilearg/parser.go), and the rule whose values are secret. A
//! secret value is replaced by its fingerprint while parsing, so that effective
//! values can be shown, compared and stored. No I/O.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::k3s_yaml;
use crate::wire::secret::fingerprint;

/// Keys whose values must not be shown.
pub const SECRET_KEYS: [&str; 9] = [
    "token",
    "agent-token",
    "datastore-endpoint",
    "etcd-s3-access-key",
    "etcd-s3-secret-key",
    "etcd-s3-session-token",
    // A URL, with its user's password where the proxy asks for one.
    "etcd-s3-proxy",
    "vpn-auth",
    "cluster-secret",
];
/// What names a secret, also in a key that k3s does not know: it may be misspelt.
const SECRET_WORDS: [&str; 4] = ["token", "secret", "passw", "credential"];
/// Names with such a word whose values are no secrets.
const OPEN: [&str; 3] = ["secrets-encryption", "etcd-s3-config-secret", "image-credential-provider"];

/// Whether a value of this name must not be shown: that of a key, or of an
/// option in an `-arg` list. A file's name tells nothing of what is in it.
#[must_use]
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let is_open = name.ends_with("file") || OPEN.iter().any(|open| name.starts_with(open));
    let looks_secret = name.ends_with("key") || SECRET_WORDS.iter().any(|word| name.contains(word));
    SECRET_KEYS.contains(&name.as_str()) || looks_secret && !is_open
}

/// A value of `key` with its fingerprint in place of the secret that it is, or
/// that stands in it behind `NAME=`.
#[must_use]
pub fn hidden(key: &str, value: &str) -> String {
    let key = key.trim_end_matches('+');
    let (open, secret) = match value.split_once('=') {
        Some((name, secret)) if key.ends_with("-arg") && is_secret(name) => (&value[..=name.len()], secret),
        _ if is_secret(key) => ("", value),
        _ => return value.to_owned(),
    };
    // An empty value is no secret, and k3s takes it for none.
    if secret.is_empty() { value.to_owned() } else { open.to_owned() + &fingerprint(secret.as_bytes()) }
}

/// Effective values by key; every value is a list of texts, as k3s makes
/// `--key=text` arguments of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Effective(pub BTreeMap<String, Vec<String>>);

/// One configuration file as it is written: key (with its `+`, when it appends)
/// to values. Secrets are fingerprints already.
pub type Layer = BTreeMap<String, Vec<String>>;

/// One drop-in: the words for its file, and what stands in it.
pub type DropIn<'a> = (&'a str, &'a Layer);

/// The words for a file of which only what stands in it is known.
pub const SOME_FILE: &str = "a file in /etc/rancher/k3s/config.yaml.d";

/// Each drop-in with its file, both in k3s's order. Of other files than theirs none is named.
#[must_use]
pub fn with_files<'a>(layers: &'a [Layer], mut files: Vec<&'a str>) -> Vec<DropIn<'a>> {
    if files.len() != layers.len() {
        files = vec![SOME_FILE; layers.len()];
    }
    files.into_iter().zip(layers).collect()
}

/// Whether k3s reads a file of this name as a drop-in (k3s: pkg/configfilearg/parser.go).
#[must_use]
pub fn is_drop_in(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.ends_with(".yaml") || name.ends_with(".yml")
}

/// A configuration file that k3s would not read either.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigParseError {
    /// Not YAML. Only the place is told: the parser's own words quote the line,
    /// and the line may hold a token.
    #[error("not valid YAML{0}")]
    Yaml(String),
    /// Not a mapping of keys to values.
    #[error("not a mapping of keys to values")]
    NotAMapping,
}

/// Reads one file. An empty file is an empty layer, as with k3s.
///
/// # Errors
/// [`ConfigParseError`] when k3s would refuse the file.
pub fn parse_layer(text: &str) -> Result<Layer, ConfigParseError> {
    let mut layer = parse_in_clear(text)?;
    for (key, values) in &mut layer {
        values.iter_mut().for_each(|value| *value = hidden(key, value));
    }
    Ok(layer)
}

/// Reads one file with its secrets in clear: for who moves them, never for facts.
///
/// # Errors
/// [`ConfigParseError`] when k3s would refuse the file.
pub fn parse_in_clear(text: &str) -> Result<Layer, ConfigParseError> {
    let mut layer = Layer::new();
    for (key, values) in k3s_yaml::read(text)? {
        put(&mut layer, long_name(key), values);
    }
    Ok(layer)
}

/// A key of one file over what stands above it there: repeated, it replaces it,
/// and with its `+` it adds to it.
fn put(layer: &mut Layer, key: String, values: Vec<String>) {
    match key.strip_suffix('+').map(|name| layer.get_mut(name)) {
        Some(Some(above)) => append(above, &values),
        Some(None) => append(layer.entry(key).or_default(), &values),
        None => {
            layer.remove(&format!("{key}+"));
            layer.insert(key, values);
        }
    }
}

/// What is not set adds nothing (k3s: pkg/configfilearg/parser.go `toSlice`).
fn append(above: &mut Vec<String>, values: &[String]) {
    above.retain(|value| !value.is_empty());
    above.extend(values.iter().filter(|value| !value.is_empty()).cloned());
}

impl Effective {
    /// Reads one file and merges it over what is there already.
    ///
    /// # Errors
    /// [`ConfigParseError`] when k3s would refuse the file.
    pub fn merge(&mut self, text: &str) -> Result<(), ConfigParseError> {
        self.apply(&parse_layer(text)?);
        Ok(())
    }

    /// Merges one file: a key replaces the earlier value, `key+` appends to it.
    pub fn apply(&mut self, layer: &Layer) {
        for (key, values) in layer {
            match key.strip_suffix('+') {
                Some(name) => append(self.0.entry(name.to_owned()).or_default(), values),
                None => drop(self.0.insert(key.clone(), values.clone())),
            }
        }
    }

    /// The values of `key`.
    #[must_use]
    pub fn all(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// The only or first value of `key`.
    #[must_use]
    pub fn first(&self, key: &str) -> Option<&str> {
        self.all(key).first().map(String::as_str)
    }

    /// Whether `key` is set to true.
    #[must_use]
    pub fn is_true(&self, key: &str) -> bool {
        self.first(key) == Some("true")
    }

    /// Lines `key: value`, for people; secrets are fingerprints.
    #[must_use]
    pub fn shown(&self) -> String {
        self.0.iter().map(|(key, values)| shown_entry(key, values)).collect()
    }
}

fn shown_entry(key: &str, values: &[String]) -> String {
    match values {
        [one] => format!("{key}: {one}\n"),
        many => {
            let lines: String = many.iter().map(|value| format!("  - {value}\n")).collect();
            format!("{key}:\n{lines}")
        }
    }
}

/// k3s takes one-letter names as well (k3s: pkg/cli/cmds/server.go, agent.go).
pub(super) fn long_name(key: String) -> String {
    let (name, append) = key.strip_suffix('+').map_or((key.as_str(), ""), |name| (name, "+"));
    let long = match name {
        "c" => "config",
        "d" => "data-dir",
        "i" => "node-ip",
        "l" => "log",
        "o" => "write-kubeconfig",
        "s" => "server",
        "t" => "token",
        _ => return key,
    };
    format!("{long}{append}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn a_drop_in_is_named_only_where_files_and_settings_are_of_the_same_look() {
        let layers = [Layer::new(), Layer::new()];
        assert_eq!(with_files(&layers, vec!["/d/a.yaml", "/d/b.yml"])[1].0, "/d/b.yml");
        for files in [vec![], vec!["/d/a.yaml"], vec!["/d/a.yaml", "/d/b.yaml", "/d/c.yaml"]] {
            assert_eq!(
                with_files(&layers, files).iter().map(|(file, _)| *file).collect::<Vec<_>>(),
                [SOME_FILE; 2]
            );
        }
        assert!(is_drop_in("/d/A.YAML") && is_drop_in("b.yml") && !is_drop_in("c.yaml.off"));
        assert!(SOME_FILE.ends_with(crate::paths::K3S_CONFIG_DIR));
    }

    #[test]
    fn later_files_replace_and_plus_appends() {
        let mut config = Effective::default();
        config.merge("disable:\n- a\n- b\nnode-name: x\n").unwrap();
        config.merge("disable+: c\nnode-name: later\n").unwrap();
        assert_eq!(config.all("disable"), ["a", "b", "c"]);
        assert_eq!(config.first("node-name"), Some("later"));
    }

    #[test]
    fn a_key_that_stands_twice_in_one_file_is_read_as_k3s_reads_it() {
        for (text, wanted) in [
            ("disable: a\ndisable: b\n", "b"),
            ("disable: a\ndisable+: [b, c]\ndisable+: d\n", "a,b,c,d"),
            ("disable+: a\ndisable: b\n", "b"),
            ("disable: a\ndisable+:\n", "a"),
            ("disable:\ndisable+: 012\n", "10"),
        ] {
            let mut config = Effective::default();
            config.merge(text).unwrap();
            assert_eq!(config.all("disable").join(","), wanted, "{text:?}");
        }
    }

    #[test]
    fn secrets_never_stay_in_effective_values() {
        let mut config = Effective::default();
        config
            .merge("etcd-s3-secret-key: canary\ntoken+: canary\netcd-s3-proxy: http://a:canary@b\n")
            .unwrap();
        assert!(!format!("{config:?}{}", config.shown()).contains("canary"));
    }

    #[test]
    fn a_secret_is_hidden_by_its_name_also_where_k3s_has_no_such_key() {
        let mut config = Effective::default();
        let text = "foo-password: canary\ntokenn: canary\nMy_KEY+: canary\nsecret-arg: canary\n\
                    kube-apiserver-arg: [oidc-client-secret=canary, --api-key=canary, v=2, token-auth-file=/x]\n";
        config.merge(text).unwrap();
        let shown = config.shown();
        assert!(!format!("{config:?}{shown}").contains("canary"), "{shown}");
        assert!(shown.contains("  - oidc-client-secret=sha256:"), "{shown}");
        assert_eq!(config.all("kube-apiserver-arg")[2..], ["v=2", "token-auth-file=/x"]);
        for (key, value) in
            [("token-file", "/x"), ("token", ""), ("node-label", "token=x"), ("a-arg", "token=")]
        {
            assert_eq!(hidden(key, value), value, "{key}");
        }
    }

    #[test]
    fn one_letter_names_are_the_long_ones() {
        let mut config = Effective::default();
        config.merge("t: canary\ni+: 10.0.0.4\nv: 2\n").unwrap();
        assert!(config.first("token").unwrap().starts_with("sha256:"));
        assert_eq!((config.first("node-ip"), config.first("v")), (Some("10.0.0.4"), Some("2")));
    }

    #[test]
    fn an_error_tells_the_place_and_never_the_line() {
        let error = parse_layer("a: b\ntoken: [canary\n").unwrap_err();
        assert_eq!(error.to_string(), "not valid YAML at line 2, column 8");
    }

    #[test]
    fn an_empty_file_changes_nothing_and_a_list_is_refused() {
        let mut config = Effective::default();
        config.merge("").unwrap();
        config.merge("# only words\n\n").unwrap();
        assert_eq!(config, Effective::default());
        assert_eq!(config.merge("- a\n"), Err(ConfigParseError::NotAMapping));
    }
}
