//! k3s as installed, configured and last started.
//!
//! Owns which files of k3s tell what. Secret values become fingerprints while
//! they are parsed; no token is kept.

use std::collections::BTreeMap;

use super::{overrides, strangers, text, versions};
use crate::error::Chain;
use crate::facts::Fact;
use crate::facts::ca::ca_hash_of_pem;
use crate::facts::k3s_config::{Effective, Layer, is_drop_in, parse_layer};
use crate::facts::overrides::Override;
use crate::facts::runtime::{DataDisk, K3s, NodePassword, StartRecord, Unit};
use crate::ordered::Ordered as _;
use crate::paths::{
    DATA_DISK, IDENTITY, K3S_CONFIG, K3S_CONFIG_DIR, K3S_DATA, K3S_ETCD, K3S_ETCD_NAME, K3S_LINK,
    K3S_STARTED_BY_AGENT, K3S_STORE, NODE_PASSWORD, NODE_PASSWORD_COPY, started_with,
};
use crate::plan::binary::{Look, printed_version};
use crate::plan::{empty, units};
use crate::role::version::K3sVersion;
use crate::sys::Root;
use crate::wire::json;
use crate::wire::secret::{fingerprint, sha256_hex};
use crate::{binary, rotation, upgrade};

/// Units of which at most one runs.
const UNITS: [&str; 2] = ["k3s", "k3s-agent"];

/// k3s as installed and as it last started; `main_pid` is its process, 0 for none.
pub async fn observe(root: &Root, main_pid: u32) -> K3s {
    let started = started_now(root, main_pid);
    K3s {
        version: version(root).await,
        store: store(root),
        effective: effective(root),
        drop_ins: drop_ins(root),
        started_with: started.clone().map(|record| record.and_then(|record| record.effective)),
        accepted: started.known().cloned().flatten().and_then(|record| record.accepted),
        started_token: started.known().cloned().flatten().and_then(|record| record.server_token),
        starts: started.known().cloned().flatten().and_then(|record| record.starts),
        started_binary: started.map(|record| record.and_then(|record| record.binary)),
        has_datastore: has_datastore(root),
        etcd_member: etcd_member(root),
        ca_hash: ca_hash(root),
        remains: remains(root),
        tombstone: tombstone(root),
        etcd_name_empty: etcd_name_empty(root),
        empty_files: empty_files(root),
        // Beside a node of ours the gate names it, by the ports that both want.
        strangers: if root.exists(IDENTITY) { Vec::new() } else { strangers::strangers(root) },
        node_password: node_password(root),
        overrides: all_overrides(root),
        server_token: server_token(root),
        upgrade: upgrade::load(root),
        data_disk: root.read_text(DATA_DISK).ok().flatten().and_then(|text| DataDisk::parse(&text)),
    }
}

fn empty_files(root: &Root) -> Vec<String> {
    let is_empty = |path: &String| matches!(root.plain_size(path), Ok(Some(0)));
    let builds = root.list(empty::UNPACKED).unwrap_or_default();
    let builds = builds.into_iter().filter(|name| empty::is_unpacked(name));
    let programs = builds.filter_map(|name| {
        let build = format!("{}/{name}", empty::UNPACKED);
        let k3s = format!("{build}/bin/k3s");
        // One is enough to know what the whole is worth.
        let all = empty::PROGRAMS.iter().flat_map(|place| {
            let place = format!("{build}/{place}");
            let names = root.list(&place).unwrap_or_default().into_iter();
            names.map(move |name| format!("{place}/{name}"))
        });
        if root.exists(&k3s) { all.into_iter().find(is_empty) } else { Some(k3s) }
    });
    empty::known().filter(is_empty).chain(programs).collect()
}

/// Of a change that was cut, the token before it: that is what the record in the
/// datastore may still be under.
fn server_token(root: &Root) -> Option<String> {
    rotation::load(root).map(|begun| begun.former).or_else(|| token_file(root))
}

/// Names the password with which agents join, as k3s on this server holds it: its
/// servers have to agree on it, and k3s compares it with nobody's.
#[must_use]
pub fn agent_token(root: &Root) -> Option<String> {
    let text = root.read_text(&format!("{K3S_DATA}/server/agent-token")).ok().flatten()?;
    let (_, user) = text.trim_end().strip_prefix("K10")?.split_once("::")?;
    let (_, password) = user.split_once(':')?;
    (!password.is_empty()).then(|| fingerprint(password.as_bytes()))
}

/// Names the password in `server/token`: `K10HASH::server:PASSWORD`, as k3s writes
/// it (k3s: pkg/server/server.go).
#[must_use]
pub fn token_file(root: &Root) -> Option<String> {
    let text = root.read_text(&format!("{K3S_DATA}/server/token")).ok().flatten()?;
    let (_, password) = text.trim_end().strip_prefix("K10")?.split_once("::server:")?;
    (!password.is_empty()).then(|| fingerprint(password.as_bytes()))
}

/// Names the server token with which a k3s of these values starts; none where they
/// are an agent's, or name no file that can be read. A file may hold the password
/// alone (k3s: pkg/clientaccess/token.go).
#[must_use]
pub fn token_of_start(root: &Root, unit: &str, effective: Option<&Effective>) -> Option<String> {
    let path = effective?.first("token-file").filter(|_| unit == units::K3S)?;
    let text = root.read_text(path).ok().flatten()?;
    let text = text.trim();
    let password = match text.strip_prefix("K10") {
        Some(full) => full.split_once("::server:")?.1,
        None => text,
    };
    (!password.is_empty()).then(|| fingerprint(password.as_bytes()))
}

fn all_overrides(root: &Root) -> Fact<Vec<Override>> {
    let server = overrides::of_unit(root, "k3s.service");
    match (server, overrides::of_unit(root, "k3s-agent.service")) {
        (Fact::Known(mut server), Fact::Known(agent)) => {
            server.extend(agent);
            Fact::Known(server)
        }
        (Fact::Unknown { unknown }, _) | (_, Fact::Unknown { unknown }) => Fact::Unknown { unknown },
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
#[must_use]
pub fn drop_ins(root: &Root) -> Fact<Vec<Layer>> {
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

/// Drop-ins that k3s reads, in its order.
#[must_use]
pub fn drop_in_paths(root: &Root) -> Fact<Vec<String>> {
    let names = match root.list(K3S_CONFIG_DIR) {
        Ok(names) => names,
        Err(error) => return text::because(&error),
    };
    let names = names.into_iter().filter(|name| is_drop_in(name));
    let paths = names.map(|name| format!("{K3S_CONFIG_DIR}/{name}"));
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
    text::parsed(printed, "what k3s prints as its version", printed_version).map(Some)
}

fn version_of_store(target: &str) -> Option<String> {
    let version = target.strip_prefix(K3S_STORE)?.strip_prefix('/')?.strip_suffix("/k3s")?;
    version.parse::<K3sVersion>().ok().map(String::from)
}

/// Versions with a verified digest whose binary may be whole.
fn store(root: &Root) -> BTreeMap<String, String> {
    let whole = |version: String| match binary::look_at(root, &version)? {
        (_, Look::Short { .. }) => None,
        (record, _) => Some((version, record.sha256)),
    };
    binary::versions(root).into_iter().filter_map(whole).into_map()
}

/// The process of k3s, 0 for none, by the states of units.
#[must_use]
pub fn main_pid(units: &BTreeMap<String, Fact<Unit>>) -> u32 {
    let of = |name: &&str| units.get(*name)?.known().map(|unit| unit.main_pid).filter(|pid| *pid != 0);
    UNITS.iter().find_map(of).unwrap_or(0)
}

/// Names what the gate has recorded of k3s's starts; it replaces its record each time.
#[must_use]
pub fn gate_stamp(root: &Root) -> Option<String> {
    let seen = UNITS.map(|unit| binary::seen(root, &started_with(unit)).ok().flatten());
    seen.iter().any(Option::is_some).then(|| format!("{seen:?}"))
}

/// What the running k3s was started with. Where a job of ours began another process
/// and the gate has recorded nothing since, the agent's own record counts.
fn started_now(root: &Root, main_pid: u32) -> Fact<Option<StartRecord>> {
    let by_agent = root.read(K3S_STARTED_BY_AGENT).ok().flatten();
    let by_agent = by_agent.and_then(|bytes| json::read::<StartRecord>(&bytes).ok());
    let is_of_it = |record: &StartRecord| {
        main_pid != 0 && record.main_pid != Some(main_pid) && record.gate == gate_stamp(root)
    };
    match by_agent.filter(is_of_it) {
        Some(record) => Fact::Known(Some(record)),
        None => started(root, &UNITS),
    }
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
    match json::read(&content) {
        Ok(record) => Fact::Known(Some(record)),
        Err(error) => Fact::unknown(format!("{path}: {}", Chain(&error))),
    }
}

/// Whether `server/db/etcd/member/wal` holds something.
#[must_use]
pub fn has_datastore(root: &Root) -> Fact<bool> {
    match root.list(&format!("{K3S_DATA}/server/db/etcd/member/wal")) {
        Ok(names) => Fact::Known(!names.is_empty()),
        Err(error) => text::because(&error),
    }
}

/// Names the datastore as it lies there: whoever opens it changes its log at once
/// (etcd: server/storage/wal/wal.go `ReadAll` cuts its end). `None` when that
/// cannot be told.
#[must_use]
pub fn datastore_stamp(root: &Root) -> Option<String> {
    let mut lines = String::new();
    for directory in ["wal", "snap"] {
        for name in root.list(&format!("{K3S_ETCD}/member/{directory}")).ok()? {
            let seen = binary::seen(root, &format!("{K3S_ETCD}/member/{directory}/{name}")).ok()?;
            lines += &format!("{directory} {name} {seen:?}\n");
        }
    }
    (!lines.is_empty()).then(|| sha256_hex(lines.as_bytes()))
}

/// Whether etcd has removed this member (k3s: pkg/etcd/etcd.go).
#[must_use]
pub fn tombstone(root: &Root) -> Fact<bool> {
    match root.stat(&format!("{K3S_ETCD}/tombstone")) {
        Ok(stat) => Fact::Known(stat.is_some()),
        Err(error) => text::because(&error),
    }
}

/// Whether the member's name is there and empty: etcd then calls the member
/// `default`, and k3s waits for ever.
#[must_use]
pub fn etcd_name_empty(root: &Root) -> Fact<bool> {
    match root.read(K3S_ETCD_NAME) {
        Ok(name) => Fact::Known(name.is_some_and(|name| name.trim_ascii().is_empty())),
        Err(error) => text::because(&error),
    }
}

/// What the present and earlier lives of a cluster left in k3s's directories.
fn remains(root: &Root) -> Fact<Vec<String>> {
    let agent = format!("{K3S_DATA}/agent");
    match (root.list(K3S_DATA), root.list(&agent)) {
        (Ok(top), Ok(inside)) => {
            let servers = top.into_iter().filter(|name| name.split('.').next() == Some("server"));
            let servers = servers.map(|name| format!("{K3S_DATA}/{name}"));
            Fact::Known(servers.chain(inside.into_iter().map(|name| format!("{agent}/{name}"))).collect())
        }
        (Err(error), _) | (_, Err(error)) => text::because(&error),
    }
}

fn node_password(root: &Root) -> Fact<NodePassword> {
    match (root.read(NODE_PASSWORD), root.read(NODE_PASSWORD_COPY)) {
        (Ok(file), Ok(copy)) => {
            let [file, copy] = [file, copy].map(|bytes| bytes.unwrap_or_default().trim_ascii().to_vec());
            Fact::Known(NodePassword {
                is_whole: !file.is_empty(),
                has_copy: !copy.is_empty(),
                agree: file == copy,
            })
        }
        (Err(error), _) | (_, Err(error)) => text::because(&error),
    }
}

/// First line of the member's name.
#[must_use]
pub fn etcd_member(root: &Root) -> Fact<Option<String>> {
    let path = K3S_ETCD_NAME;
    match root.read_text(path) {
        Ok(None) => Fact::Known(None),
        Ok(Some(content)) => match content.lines().next().map(str::trim) {
            Some(name) if !name.is_empty() => Fact::Known(Some(name.to_owned())),
            _ => Fact::unknown(format!("{path} is empty")),
        },
        Err(error) => text::because(&error),
    }
}

/// Hash of the cluster's CA by k3s's rule.
#[must_use]
pub fn ca_hash(root: &Root) -> Fact<Option<String>> {
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
}
