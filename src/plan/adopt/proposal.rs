//! The local assignment of a host that nobody has assigned anything yet: what
//! runs, in the words of an assignment.
//!
//! Owns which setting becomes which field. Guesses nothing that it cannot see:
//! what is missing is asked for.

use std::fmt::Write as _;

use super::compare::{default_of, refused};
use super::seen::Seen;
use super::{Raw, redacted, table, values};
use crate::plan::config::DISABLED;
use crate::plan::keys::{self, May};
use crate::plan::refusal::Refusal;
use crate::role::Role;

/// A local assignment file and what it needs beside it. Holds secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Proposed {
    /// Text of the assignment file.
    pub text: String,
    /// Keys that name paths or programs, which this host ran with and may keep.
    pub allow_keys: Vec<String>,
}

impl std::fmt::Debug for Proposed {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Proposed({} bytes, secret)", self.text.len())
    }
}

/// S3 settings without which snapshots have no copy elsewhere, by field.
const S3: [(&str, &str); 4] = [
    ("endpoint", "etcd-s3-endpoint"),
    ("bucket", "etcd-s3-bucket"),
    ("access_key", "etcd-s3-access-key"),
    ("secret_key", "etcd-s3-secret-key"),
];
const S3_MORE: [(&str, &str); 2] = [("folder", "etcd-s3-folder"), ("region", "etcd-s3-region")];

/// Password part of a token: k3s takes `K10<hash>::<user>:<password>` and the
/// bare password (k3s: pkg/clientaccess/token.go).
#[must_use]
pub fn password(token: &str) -> Option<String> {
    let token = token.trim();
    let bare = match token.strip_prefix("K10").and_then(|rest| rest.split_once("::")) {
        Some((_, user)) => user.split_once(':').map_or(user, |(_, password)| password),
        None => token,
    };
    (!bare.is_empty()).then(|| bare.to_owned())
}

/// The assignment of what runs with `raw`, for `site`.
///
/// # Errors
/// Everything that only a person can say.
pub fn proposal(raw: &Raw, role: Role, seen: &Seen, site: &str) -> Result<Proposed, Vec<Refusal>> {
    let needed = needed(raw, role, seen)?;
    let mut text = format!(
        "# Written by `edge-bootstrap adopt` from what k3s was told before. Yours to change.\nschema = 1\nsite = {site}\nrole = \"{role}\"\n\n[node]\nname = {name}\nip = {ip}\n",
        site = quoted(site),
        name = quoted(&needed.name),
        ip = quoted(&needed.ip),
    );
    node(&mut text, raw);
    cluster(&mut text, raw, (role, seen), site);
    let _ = write!(text, "\n[join]\n{} = {}\n", needed.token.0, quoted(&needed.token.1));
    if let (Role::Server, Some(agent)) = (role, seen.agent_token.as_ref().or(seen.server_token.as_ref())) {
        let _ = writeln!(text, "agent_token = {}", quoted(agent));
    }
    if role == Role::Server {
        snapshots(&mut text, raw);
    }
    let _ = write!(text, "\n[k3s]\nversion = {}\n", quoted(&needed.version));
    let allow_keys = free_keys(&mut text, raw, role);
    Ok(Proposed { text, allow_keys })
}

struct Needed {
    name: String,
    ip: String,
    version: String,
    token: (&'static str, String),
}

fn needed(raw: &Raw, role: Role, seen: &Seen) -> Result<Needed, Vec<Refusal>> {
    let told = |key: &str| raw.get(key).and_then(|values| values.first()).filter(|value| !value.is_empty());
    let name = seen.name.clone().or_else(|| told("node-name").map(|name| name.to_lowercase()));
    let ip = told("node-ip").cloned().or_else(|| seen.running_ip(&redacted(raw)));
    let token = match role {
        Role::Agent => ("agent_token", seen.agent_token.clone()),
        Role::Server | Role::None => ("server_token", seen.server_token.clone()),
    };
    let mut missing = Vec::new();
    let mut ask = |what: &str, next: &str| missing.push(refused(what, next));
    if name.is_none() {
        ask(
            "the name of this node cannot be told from agent/client-kubelet.crt in /var/lib/rancher/k3s",
            "let k3s start once, or give it its node-name",
        );
    }
    if ip.is_none() {
        ask(
            "the address of this node cannot be told from agent/serving-kubelet.crt in /var/lib/rancher/k3s",
            "name it: [node] ip in /etc/edge-bootstrap/config.toml",
        );
    }
    if token.1.is_none() {
        ask(
            "the cluster's token cannot be read",
            "an agent needs the agents' token of its cluster, not one that ends after a day (k3s token create): give it as K3S_TOKEN, as it was given to the others",
        );
    }
    if seen.version.is_none() {
        ask("the version of k3s cannot be told", "look at /usr/local/bin/k3s --version");
    }
    if role == Role::Agent && seen.ca_hash.is_none() {
        ask("the cluster's CA cannot be told", "look at /var/lib/rancher/k3s/agent/server-ca.crt");
    }
    match (name, ip, token.1, seen.version.clone()) {
        (Some(name), Some(ip), Some(password), Some(version)) if missing.is_empty() => {
            Ok(Needed { name, ip, version, token: (token.0, password) })
        }
        _ => Err(missing),
    }
}

fn node(text: &mut String, raw: &Raw) {
    let taints = raw.get("node-taint").map(Vec::as_slice).unwrap_or_default();
    if !taints.is_empty() {
        let _ = writeln!(text, "taints = {}", list(taints));
    }
    let labels = raw.get("node-label").map(Vec::as_slice).unwrap_or_default();
    if !labels.is_empty() {
        text.push_str("\n[node.labels]\n");
    }
    for (key, value) in labels.iter().map(|label| label.split_once('=').unwrap_or((label, ""))) {
        let _ = writeln!(text, "{} = {}", quoted(key), quoted(value));
    }
}

fn cluster(text: &mut String, raw: &Raw, (role, seen): (Role, &Seen), site: &str) {
    let _ = write!(text, "\n[cluster]\nname = {}\n", quoted(site));
    for (field, key) in [("cluster_cidr", "cluster-cidr"), ("service_cidr", "service-cidr")] {
        let network = raw.get(key).and_then(|all| all.first()).map(String::as_str).or(default_of(key));
        if let (Role::Server, Some(network)) = (role, network) {
            let _ = writeln!(text, "{field} = {}", quoted(network));
        }
    }
    let server = last(raw, "server").map(|url| url.trim_end_matches('/').to_owned());
    if role == Role::Server && server.is_none() {
        text.push_str("init = true\n");
    }
    if let Some(hash) = &seen.ca_hash {
        let _ = writeln!(text, "ca_hash = {}", quoted(hash));
    }
    text.push_str("# The other servers; add those that are missing here.\n");
    let mut servers = Vec::from_iter(server);
    for other in &seen.servers {
        if !servers.contains(other) {
            servers.push(other.clone());
        }
    }
    let _ = writeln!(text, "servers = {}", list(&servers));
    let names = raw.get("tls-san").map(Vec::as_slice).unwrap_or_default();
    if !names.is_empty() {
        let _ = writeln!(text, "tls_san = {}", list(names));
    }
}

/// Whether all that an S3 copy needs is there; k3s then gets it as fields.
fn has_s3(raw: &Raw) -> bool {
    let on = last(raw, "etcd-s3").and_then(values::truth) == Some(true);
    on && S3.iter().all(|(_, key)| last(raw, key).or(default_of(key)).is_some())
}

fn snapshots(text: &mut String, raw: &Raw) {
    let keys = ["etcd-snapshot-schedule-cron", "etcd-snapshot-retention"];
    if !keys.iter().any(|key| raw.contains_key(*key)) && !has_s3(raw) {
        return;
    }
    let [schedule, retention] = keys.map(|key| {
        // Below 1 k3s keeps every snapshot, which no assignment may ask for.
        let keeps_all = |value: &&str| key == keys[1] && value.parse().is_ok_and(|count: i64| count < 1);
        last(raw, key).filter(|value| !keeps_all(value)).or(default_of(key)).unwrap_or_default()
    });
    let _ = write!(text, "\n[etcd.snapshots]\nschedule = {}\nretention = {retention}\n", quoted(schedule));
    if !has_s3(raw) {
        return;
    }
    text.push_str("\n[etcd.snapshots.s3]\n");
    let found = S3.iter().map(|(field, key)| (field, last(raw, key).or(default_of(key))));
    let more = S3_MORE.iter().map(|(field, key)| (field, last(raw, key)));
    for (field, value) in found.chain(more) {
        if let Some(value) = value {
            let _ = writeln!(text, "{field} = {}", quoted(value));
        }
    }
}

/// What no field has goes into `k3s.config`; gives the keys that need the host's
/// permission.
fn free_keys(text: &mut String, raw: &Raw, role: Role) -> Vec<String> {
    let mut allowed = Vec::new();
    let mut title = "\n[k3s.config]\n";
    for (key, values) in raw {
        let Some(may) = may(key, role) else { continue };
        let values: Vec<String> = values.iter().filter(|value| !is_profile(key, value)).cloned().collect();
        let Some(value) = written(key, &values) else { continue };
        let _ = writeln!(text, "{}{key} = {value}", std::mem::take(&mut title));
        if may == May::Host || values.iter().any(|value| keys::names_path(key, value)) {
            allowed.push(key.clone());
        }
    }
    allowed
}

fn may(key: &str, role: Role) -> Option<May> {
    let row = keys::rows().find(|row| row.name == key && row.serves(role))?;
    Some(row.may()).filter(|may| matches!(may, May::Free | May::Host))
}

/// What the plan writes by itself.
fn is_profile(key: &str, value: &str) -> bool {
    let runtime = ["cgroup-driver=", "fail-cgroupv1="];
    key == "disable" && DISABLED.contains(&value)
        || key == "kubelet-arg" && runtime.iter().any(|name| value.starts_with(name))
}

fn written(key: &str, values: &[String]) -> Option<String> {
    match values {
        [] => None,
        values if table::is_list(key) => Some(list(values)),
        [.., last] if table::is_switch(key) => values::truth(last).map(|on| on.to_string()),
        [.., last] if table::is_number(key) => Some(last.clone()),
        [.., last] => Some(quoted(last)),
    }
}

fn last<'a>(raw: &'a Raw, key: &str) -> Option<&'a str> {
    raw.get(key)?.last().map(String::as_str).filter(|value| !value.is_empty())
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn list(items: &[String]) -> String {
    format!("[{}]", items.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", "))
}
