//! What k3s itself would do with what lies on this root.
//!
//! Owns a reading of k3s's files that shares no code with the program under test,
//! and the effect of a start. The decision of a server is the stand-in's
//! (k3s: pkg/cluster/managed.go).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::decide::{Found, Outcome, decide};

/// Where a start leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// k3s ends with an error and changes nothing.
    Fails(&'static str),
    /// As this node, in this cluster.
    Runs(Node),
}

/// A node that k3s would run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    pub ip: Option<String>,
    pub membership: Membership,
}

/// Which cluster it would be in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Membership {
    /// The member whose data is there.
    Member,
    /// Joins the server at this URL, with this CA hash in the token.
    Joins { url: String, ca_hash: Option<String> },
    /// A cluster that nobody had before.
    NewCluster,
    /// A private cluster, or one that lies elsewhere; says which.
    Private(&'static str),
    /// Loses what the member had; says how.
    Destroys(&'static str),
}

/// Last value of each key as k3s merges its files; `None` when it cannot parse them.
pub fn settings(root: &Path) -> Option<BTreeMap<String, String>> {
    let mut files = vec![root.join("etc/rancher/k3s/config.yaml")];
    let drop_ins = std::fs::read_dir(root.join("etc/rancher/k3s/config.yaml.d"));
    let mut more: Vec<PathBuf> = drop_ins.into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    more.retain(|path| path.extension().is_some_and(|end| end == "yaml"));
    more.sort();
    files.extend(more);
    let mut all = BTreeMap::new();
    for file in files {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
        for line in lines {
            if line.starts_with("  - ") {
                continue;
            }
            let (key, value) = line.split_once(':')?;
            let value = value.trim();
            let whole = value.starts_with('"') == (value.len() > 1 && value.ends_with('"'));
            if !whole || value.starts_with(['[', '{']) || key.contains(' ') {
                return None;
            }
            all.insert(key.to_owned(), value.trim_matches('"').to_owned());
        }
    }
    Some(all)
}

/// What `unit` would run.
pub fn start(root: &Path, unit: &str) -> Start {
    let Some(settings) = settings(root) else { return Start::Fails("its configuration cannot be parsed") };
    let get = |key: &str| settings.get(key).cloned().unwrap_or_default();
    let token = match get("token-file") {
        path if path.is_empty() => get("token"),
        path => match std::fs::read_to_string(root.join(path.trim_start_matches('/'))) {
            Ok(text) => text.trim().to_owned(),
            Err(_) => return Start::Fails("the token file cannot be read"),
        },
    };
    let membership =
        if unit == "k3s.service" { server(root, &get, &token) } else { agent(&settings, &get, &token) };
    let membership = match membership {
        Ok(membership) => membership,
        Err(why) => return Start::Fails(why),
    };
    let mut name = get("node-name");
    if name.is_empty() {
        name = std::fs::read_to_string(root.join("proc/sys/kernel/hostname")).unwrap().trim().to_owned();
    }
    if get("with-node-id") == "true" {
        name.push_str("-0a1b2c3d");
    }
    let ip = Some(get("node-ip")).filter(|ip| !ip.is_empty());
    Start::Runs(Node { name: name.to_lowercase(), ip, membership })
}

fn agent(
    settings: &BTreeMap<String, String>,
    get: &dyn Fn(&str) -> String,
    token: &str,
) -> Result<Membership, &'static str> {
    if ["cluster-init", "cluster-cidr", "datastore-endpoint"].iter().any(|key| settings.contains_key(*key)) {
        return Err("a key that only a server knows");
    }
    if get("server").is_empty() || token.is_empty() {
        return Err("an agent without server or token");
    }
    Ok(joins(get("server"), token))
}

fn joins(url: String, token: &str) -> Membership {
    let ca_hash = token.strip_prefix("K10").and_then(|rest| rest.split_once("::"));
    Membership::Joins { url, ca_hash: ca_hash.map(|(hash, _)| hash.to_owned()) }
}

fn server(root: &Path, get: &dyn Fn(&str) -> String, token: &str) -> Result<Membership, &'static str> {
    if get("cluster-reset") == "true" {
        return Ok(Membership::Destroys("resets the membership of the cluster"));
    }
    let data = Some(get("data-dir")).filter(|dir| !dir.is_empty());
    let data = root.join(data.as_deref().unwrap_or("/var/lib/rancher/k3s").trim_start_matches('/'));
    let found = Found {
        wal: data.join("server/db/etcd/member/wal").is_dir(),
        tombstone: data.join("server/db/etcd/tombstone").exists(),
        server: !get("server").is_empty(),
        token: !token.is_empty(),
        init: get("cluster-init") == "true",
        endpoint: !get("datastore-endpoint").is_empty(),
    };
    match decide(found) {
        Outcome::Existing { .. } => Ok(Membership::Member),
        Outcome::Join => Ok(joins(get("server"), token)),
        // Forks when the server is not reachable at this moment.
        Outcome::Rejoin => Ok(Membership::Destroys("moves the datastore aside and may fork")),
        Outcome::Fork => Ok(Membership::Private("forks after it moved the datastore aside")),
        Outcome::NewEtcd => Ok(Membership::NewCluster),
        Outcome::Sqlite => Ok(Membership::Private("a private cluster on sqlite")),
        Outcome::External => Ok(Membership::Private("a datastore elsewhere")),
        Outcome::Refuse(why) => Err(why),
    }
}
