//! k3s as installed, configured and last started.
//!
//! Owns which files of k3s tell what. Secret values become fingerprints while
//! they are parsed; no token is kept.

use std::collections::BTreeMap;

use super::{text, versions};
use crate::error::Chain;
use crate::facts::Fact;
use crate::facts::ca::ca_hash_of_pem;
use crate::facts::k3s_config::{Effective, Layer, parse_layer};
use crate::facts::runtime::{K3s, StartRecord};
use crate::paths::{K3S_CONFIG, K3S_CONFIG_DIR, K3S_DATA, K3S_LINK, K3S_STORE, k3s_binary, started_with};
use crate::role::version::K3sVersion;
use crate::sys::Root;

/// k3s as installed and as it last started.
pub async fn observe(root: &Root) -> K3s {
    let started = started(root, &["k3s", "k3s-agent"]);
    K3s {
        version: version(root).await,
        store: store(root),
        effective: effective(root),
        drop_ins: drop_ins(root),
        started_with: started.clone().map(|record| record.and_then(|record| record.effective)),
        started_binary: started.map(|record| record.and_then(|record| record.binary)),
        has_datastore: has_datastore(root),
        etcd_member: etcd_member(root),
        ca_hash: ca_hash(root),
    }
}

/// Effective values of `config.yaml` with all drop-ins, as k3s would read them now.
#[must_use]
pub fn effective(root: &Root) -> Fact<Effective> {
    match (main_config(root), drop_ins(root)) {
        (Fact::Known(mut effective), Fact::Known(layers)) => {
            layers.iter().for_each(|layer| effective.apply(layer));
            Fact::Known(effective)
        }
        (Fact::Unknown { unknown }, _) | (_, Fact::Unknown { unknown }) => Fact::Unknown { unknown },
    }
}

/// Effective values of `config.yaml` alone.
#[must_use]
pub fn main_config(root: &Root) -> Fact<Effective> {
    layer(root, K3S_CONFIG).map(|layer| {
        let mut effective = Effective::default();
        effective.apply(&layer);
        effective
    })
}

/// The operator's drop-ins, in k3s's order.
fn drop_ins(root: &Root) -> Fact<Vec<Layer>> {
    let paths = match drop_in_paths(root) {
        Fact::Known(paths) => paths,
        Fact::Unknown { unknown } => return Fact::Unknown { unknown },
    };
    let mut layers = Vec::new();
    for path in &paths {
        match layer(root, path) {
            Fact::Known(layer) => layers.push(layer),
            Fact::Unknown { unknown } => return Fact::Unknown { unknown },
        }
    }
    Fact::Known(layers)
}

/// A file that is not there is no setting for k3s, not an error.
fn layer(root: &Root, path: &str) -> Fact<Layer> {
    let content = match root.read_text(path) {
        Ok(content) => content.unwrap_or_default(),
        Err(error) => return text::because(&error),
    };
    parse_layer(&content).map_err(|error| format!("{path}: {error}")).into()
}

/// Drop-ins that k3s reads, in its order (k3s: pkg/configfilearg/parser.go).
fn drop_in_paths(root: &Root) -> Fact<Vec<String>> {
    let names = match root.list(K3S_CONFIG_DIR) {
        Ok(names) => names,
        Err(error) => return text::because(&error),
    };
    let is_read = |name: &String| {
        let name = name.to_ascii_lowercase();
        name.ends_with(".yaml") || name.ends_with(".yml")
    };
    let paths = names.into_iter().filter(is_read).map(|name| format!("{K3S_CONFIG_DIR}/{name}"));
    Fact::Known(paths.filter(|path| !text::is_dir(root, path)).collect())
}

async fn version(root: &Root) -> Fact<Option<String>> {
    // An absolute link would lead out of a foreign root: our own is told by its text.
    let target = root.read_link(K3S_LINK).ok().flatten();
    if let Some((target, version)) =
        target.and_then(|target| Some((target.clone(), version_of_store(&target)?)))
    {
        return Fact::Known(root.exists(&target).then_some(version));
    }
    match root.stat(K3S_LINK) {
        Ok(Some(_)) => {}
        Ok(None) => return Fact::Known(None),
        Err(error) => return text::because(&error),
    }
    let printed = versions::printed(root, K3S_LINK).await;
    text::parsed(printed, "what k3s prints as its version", parse_version).map(Some)
}

fn version_of_store(target: &str) -> Option<String> {
    let version = target.strip_prefix(K3S_STORE)?.strip_prefix('/')?.strip_suffix("/k3s")?;
    version.parse::<K3sVersion>().ok().map(String::from)
}

/// `k3s version v1.36.2+k3s1 (0123abcd)` and a line about Go.
fn parse_version(printed: &str) -> Option<String> {
    let version = printed.strip_prefix("k3s version ")?.split_whitespace().next()?;
    version.parse::<K3sVersion>().ok().map(String::from)
}

/// Versions whose binary and verified digest are both there.
fn store(root: &Root) -> BTreeMap<String, String> {
    let names = root.list(K3S_STORE).unwrap_or_default();
    names
        .into_iter()
        .filter(|version| root.exists(&k3s_binary(version)))
        .filter_map(|version| Some((version.clone(), digest(root, &version)?)))
        .collect()
}

fn digest(root: &Root, version: &str) -> Option<String> {
    let content = root.read_text(&format!("{K3S_STORE}/{version}/k3s.sha256")).ok()??;
    let digest = content.split_whitespace().next()?;
    let is_digest = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_digest.then(|| digest.to_ascii_lowercase())
}

/// The newest record of the gate for one of `units`; none when none of them
/// was started in this boot.
#[must_use]
pub fn started(root: &Root, units: &[&str]) -> Fact<Option<StartRecord>> {
    let record = |unit: &&str| {
        let path = started_with(unit);
        let stat = root.stat(&path).ok()??;
        Some((stat.mtime, path))
    };
    let Some((_, path)) = units.iter().filter_map(record).max() else { return Fact::Known(None) };
    let content = match root.read(&path) {
        Ok(content) => content.unwrap_or_default(),
        Err(error) => return text::because(&error),
    };
    match serde_json::from_slice(&content) {
        Ok(record) => Fact::Known(Some(record)),
        Err(error) => Fact::unknown(format!("{path}: {}", Chain(&error))),
    }
}

fn has_datastore(root: &Root) -> Fact<bool> {
    match root.list(&format!("{K3S_DATA}/server/db/etcd/member/wal")) {
        Ok(names) => Fact::Known(!names.is_empty()),
        Err(error) => text::because(&error),
    }
}

fn etcd_member(root: &Root) -> Fact<Option<String>> {
    let path = format!("{K3S_DATA}/server/db/etcd/name");
    match root.read_text(&path) {
        Ok(None) => Fact::Known(None),
        Ok(Some(content)) => match content.lines().next().map(str::trim) {
            Some(name) if !name.is_empty() => Fact::Known(Some(name.to_owned())),
            _ => Fact::unknown(format!("{path} is empty")),
        },
        Err(error) => text::because(&error),
    }
}

fn ca_hash(root: &Root) -> Fact<Option<String>> {
    let path = format!("{K3S_DATA}/server/tls/server-ca.crt");
    match root.read(&path) {
        Ok(None) => Fact::Known(None),
        Ok(Some(pem)) => ca_hash_of_pem(&pem).map_or_else(
            || Fact::unknown(format!("{path} holds no certificate")),
            |hash| Fact::Known(Some(hash)),
        ),
        Err(error) => text::because(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_taken_only_from_our_store() {
        let of = |target: &str| version_of_store(target);
        assert_eq!(of("/var/lib/edge-bootstrap/k3s/v1.36.2+k3s1/k3s").as_deref(), Some("v1.36.2+k3s1"));
        for target in
            ["/opt/k3s", "/var/lib/edge-bootstrap/k3s/../k3s", "/var/lib/edge-bootstrap/k3s//k3s", "k3s"]
        {
            assert_eq!(of(target), None, "{target}");
        }
    }

    #[test]
    fn what_k3s_prints_is_read() {
        let printed = "k3s version v1.31.4+k3s1 (a562d090)\ngo version go1.22.9";
        assert_eq!(parse_version(printed).as_deref(), Some("v1.31.4+k3s1"));
        assert_eq!(parse_version("k3s version dev (HEAD)"), None);
    }
}
