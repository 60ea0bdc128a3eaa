//! k3s's `config.yaml` and the token files that it names.
//!
//! Owns how a node starts (form, join, member, agent) and every key that the
//! plan writes. Secrets lie in side files of the generation, except S3 keys,
//! for which k3s has no file form (k3s: pkg/cli/cmds/etcd_snapshot.go).

use serde_json::json;

use super::containerd::Decision;
use super::item::{PlannedFile, PlannedGeneration, Sensitivity};
use super::keys;
use super::refusal::{Refusal, WaitingOn};
use super::yaml::{self, Value};
use super::{Inputs, etcd, forks, members, pinned, tokens};
use crate::facts::k3s_config::{DropIn, Effective, SOME_FILE, hidden};
use crate::paths;
use crate::role::words::{ServerUrl, Sha256Hex, TokenText};
use crate::role::{Duty, Role, Snapshots};
use crate::wire::secret::sha256_hex;

/// First lines of the file; the first one names its owner.
const HEADER: &str =
    "Written by edge-bootstrap; changes here are put back. Operators add files in config.yaml.d/.";
/// Packaged components that need a cluster network, which these nodes lack.
pub(super) const DISABLED: [&str; 5] = ["coredns", "servicelb", "traefik", "local-storage", "metrics-server"];
/// Name of the side file with a server's token.
const SERVER_TOKEN: &str = "server-token";
/// Name of the side file with the agents' token.
const AGENT_TOKEN: &str = "agent-token";

/// How k3s comes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Form the cluster: `cluster-init`, no `server`.
    Init,
    /// Join another server.
    Join,
    /// Start the member that is on disk.
    Member,
    /// Run as an agent.
    Agent,
}

impl Start {
    /// Decides from the datastore on disk and the assignment (k3s: pkg/cluster/managed.go).
    pub(super) fn decide(inputs: Inputs<'_>, duty: &Duty) -> Result<Self, WaitingOn> {
        if duty.role == Role::Agent {
            return agent_start(duty);
        }
        match inputs.facts.runtime.k3s.has_datastore.known() {
            Some(true) if members::is_removed(inputs, duty) => members::rejoin(duty),
            Some(true) => Ok(Self::Member),
            Some(false) => without_datastore(inputs, duty),
            None => Err(Refusal::new(
                "EB-datastore-unknown",
                format!("{}/server/db/etcd cannot be read", paths::K3S_DATA),
                "look at the disk that holds it; nothing starts before it is readable",
            )
            .into()),
        }
    }
}

fn agent_start(duty: &Duty) -> Result<Start, WaitingOn> {
    if duty.cluster.ca_hash.is_none() {
        return Err(WaitingOn::FirstServer);
    }
    if duty.cluster.servers.is_empty() {
        return Err(WaitingOn::Server);
    }
    Ok(Start::Agent)
}

fn without_datastore(inputs: Inputs<'_>, duty: &Duty) -> Result<Start, WaitingOn> {
    let cluster = &duty.cluster;
    let was_member = pinned(inputs.facts).is_some_and(|identity| {
        identity.epoch == cluster.epoch && identity.role == Role::Server && identity.joined.is_some()
    });
    match (&cluster.ca_hash, others(duty).next().is_none()) {
        (Some(_), false) => Ok(Start::Join),
        (Some(_), true) if cluster.init || was_member => Err(datastore_missing().into()),
        (Some(_), true) => Err(WaitingOn::Server),
        (None, _) if !cluster.init => Err(WaitingOn::FirstServer),
        (None, _) if was_member => Err(datastore_missing().into()),
        (None, _) if inputs.confirmed => Ok(Start::Init),
        (None, _) => Err(WaitingOn::InitLease),
    }
}

/// Servers other than this host: a member cannot join itself, and `server:` that
/// names it would look like a way to join (k3s: pkg/cluster/bootstrap.go).
pub(super) fn others(duty: &Duty) -> impl Iterator<Item = &ServerUrl> {
    let (name, ip) = (duty.node.name.to_string(), duty.node.ip);
    duty.cluster.servers.iter().filter(move |server| !forks::names_host(server.as_str(), &name, ip))
}

fn datastore_missing() -> Refusal {
    Refusal::new(
        "EB-datastore-missing",
        "this host was a member of etcd, and its datastore is gone; starting now would form a second, empty cluster",
        forks::RESTORE,
    )
}

/// A rendered configuration whose generation number is still open.
#[derive(Debug, Clone)]
pub(super) struct Rendered {
    entries: Vec<(String, Value)>,
    sides: Vec<Side>,
    /// Effective values with the operator's drop-ins; paths of side files left out.
    pub effective: Effective,
    /// What a reader should know of its keys.
    pub notes: Vec<String>,
}

/// One side file and the key that names it.
#[derive(Clone)]
struct Side {
    key: &'static str,
    name: &'static str,
    content: String,
    reason: &'static str,
}

impl std::fmt::Debug for Side {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Side({})", self.name)
    }
}

pub(super) fn render(
    inputs: Inputs<'_>,
    duty: &Duty,
    start: Start,
    runtime: &Decision,
) -> Result<Rendered, WaitingOn> {
    keys::supported(&duty.k3s.version)?;
    let mut entries = node_entries(duty, runtime, inputs);
    match duty.role {
        Role::Server => entries.extend(server_entries(duty, start)),
        _ => entries.push(("server".to_owned(), Value::text(agent_server(inputs, duty)))),
    }
    let mut notes = add_free_keys(&mut entries, inputs, duty)?;
    let drop_ins = inputs.facts.runtime.drop_ins();
    notes.extend(keys::drop_in_notes(&drop_ins, (&duty.k3s.version, duty.role)));
    let (now, disk) = (effective(&entries, inputs), inputs.facts.runtime.k3s.data_disk.as_ref());
    let tuned = etcd::tune(&mut entries, &now, disk, duty);
    let sides = sides(inputs, duty);
    let effective = effective(&entries, inputs);
    notes.extend(etcd::told(tuned, &effective));
    kubelet_args_hold(&effective, &runtime.kubelet_args(inputs, duty), &drop_ins)?;
    Ok(Rendered { entries, sides, effective, notes })
}

fn entry(key: &str, value: Value) -> (String, Value) {
    (key.to_owned(), value)
}

fn node_entries(duty: &Duty, runtime: &Decision, inputs: Inputs<'_>) -> Vec<(String, Value)> {
    let node = &duty.node;
    let mut entries = vec![
        entry("node-name", Value::text(node.name.as_str())),
        entry("node-ip", Value::text(node.ip.to_string())),
        entry("container-runtime-endpoint", Value::text("unix:///run/containerd/containerd.sock")),
    ];
    let labels: Vec<String> = node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let taints: Vec<String> = node.taints.iter().map(ToString::to_string).collect();
    for (key, list) in
        [("node-label", labels), ("node-taint", taints), ("kubelet-arg", runtime.kubelet_args(inputs, duty))]
    {
        if !list.is_empty() {
            entries.push(entry(key, Value::List(list)));
        }
    }
    entries
}

fn server_entries(duty: &Duty, start: Start) -> Vec<(String, Value)> {
    let cluster = &duty.cluster;
    let mut entries = vec![
        entry("cluster-cidr", Value::text(&cluster.cluster_cidr)),
        entry("service-cidr", Value::text(&cluster.service_cidr)),
        entry("flannel-backend", Value::text("none")),
        entry("disable-kube-proxy", Value::yes()),
        entry("disable-network-policy", Value::yes()),
        entry("disable", Value::List(DISABLED.map(str::to_owned).into())),
    ];
    if !cluster.tls_san.is_empty() {
        entries
            .push(entry("tls-san", Value::List(cluster.tls_san.iter().map(ToString::to_string).collect())));
    }
    if start == Start::Init {
        entries.push(entry("cluster-init", Value::yes()));
    } else if let Some(server) = others(duty).next() {
        entries.push(entry("server", Value::text(server.as_str())));
    }
    entries.extend(duty.snapshots.iter().flat_map(snapshot_entries));
    entries
}

fn snapshot_entries(snapshots: &Snapshots) -> Vec<(String, Value)> {
    let mut entries = vec![
        entry("etcd-snapshot-schedule-cron", Value::text(snapshots.schedule.as_str())),
        entry("etcd-snapshot-retention", Value::Bare(snapshots.retention.to_string())),
    ];
    let Some(s3) = &snapshots.s3 else { return entries };
    entries.push(entry("etcd-s3", Value::yes()));
    let texts = [
        ("etcd-s3-endpoint", Some(&s3.endpoint)),
        ("etcd-s3-bucket", Some(&s3.bucket)),
        ("etcd-s3-folder", s3.folder.as_ref()),
        ("etcd-s3-region", s3.region.as_ref()),
        ("etcd-s3-access-key", Some(&s3.access_key)),
        ("etcd-s3-secret-key", Some(&s3.secret_key)),
    ];
    entries.extend(texts.into_iter().filter_map(|(key, text)| Some(entry(key, Value::text(text?.as_str())))));
    entries
}

/// The server that an agent knows already stays, as long as it is named: a
/// changed text makes k3s forget the other addresses that it learnt
/// (k3s: pkg/agent/loadbalancer/config.go).
fn agent_server(inputs: Inputs<'_>, duty: &Duty) -> String {
    let servers = &duty.cluster.servers;
    let now = inputs.facts.runtime.k3s.effective.known().and_then(|effective| effective.first("server"));
    let kept = servers.iter().find(|server| Some(server.as_str()) == now);
    kept.or(servers.first()).map(ServerUrl::to_string).unwrap_or_default()
}

fn add_free_keys(
    entries: &mut Vec<(String, Value)>,
    inputs: Inputs<'_>,
    duty: &Duty,
) -> Result<Vec<String>, WaitingOn> {
    let kind = (&duty.k3s.version, duty.role);
    let free = keys::assigned(kind, &duty.k3s.config, &inputs.local.allow_keys)?;
    for (key, value) in free.entries {
        match (entries.iter_mut().find(|(known, _)| *known == key), value) {
            (Some((_, Value::List(list))), Value::List(more)) => list.extend(more),
            (Some(_), _) => return Err(owned_key(&key).into()),
            (None, value) => entries.push((key, value)),
        }
    }
    entries.extend(narrow_certificates(entries, duty));
    match entries.iter().find(|(_, value)| !value.reads_back()) {
        Some((key, _)) => Err(blank_edges(key).into()),
        None => Ok(free.notes),
    }
}

/// Without it anybody who asks a server by a new name gets that name into its
/// certificate (GHSA-m4hf-6vgr-75r2): the default since v1.28.1, written where
/// it came as a patch and is off by default.
fn narrow_certificates(entries: &[(String, Value)], duty: &Duty) -> Option<(String, Value)> {
    let (version, key) = (&duty.k3s.version, "tls-san-security");
    let is_off = !version.at_least(28) && keys::of(version).has(key, duty.role);
    (is_off && entries.iter().all(|(known, _)| known != key)).then(|| entry(key, Value::yes()))
}

fn owned_key(key: &str) -> Refusal {
    Refusal::new(
        "EB-k3s-key",
        format!("`k3s.config` sets {key}, which the plan itself decides"),
        format!("remove {key} from `k3s.config` in the assignment"),
    )
}

fn blank_edges(key: &str) -> Refusal {
    Refusal::new(
        "EB-k3s-key",
        format!("the assignment gives {key} a value that begins or ends with a blank, which k3s cuts off"),
        "correct it in the assignment",
    )
}

fn sides(inputs: Inputs<'_>, duty: &Duty) -> Vec<Side> {
    let ca_hash = duty.cluster.ca_hash.as_ref();
    let side = |key, name, reason, token: Option<&TokenText>, user| {
        token.map(|token| Side { key, name, reason, content: full_token(ca_hash, user, token) })
    };
    let sides = match duty.role {
        Role::Server => [
            side(
                "token-file",
                SERVER_TOKEN,
                "the servers' join token",
                tokens::of_server(inputs.facts, duty),
                Some("server"),
            ),
            side("agent-token-file", AGENT_TOKEN, "the agents' join token", duty.join.agent.as_ref(), None),
        ],
        _ => [
            side("token-file", AGENT_TOKEN, "the agents' join token", duty.join.agent.as_ref(), Some("node")),
            None,
        ],
    };
    sides.into_iter().flatten().collect()
}

/// `K10<ca_hash>::<user>:<password>`, which pins the CA; bare while the CA is
/// not known, as the first server needs it (k3s: pkg/clientaccess/token.go).
fn full_token(ca_hash: Option<&Sha256Hex>, user: Option<&str>, password: &TokenText) -> String {
    match (ca_hash, user) {
        (Some(hash), Some(user)) => format!("K10{hash}::{user}:{password}\n"),
        _ => format!("{password}\n"),
    }
}

fn effective(entries: &[(String, Value)], inputs: Inputs<'_>) -> Effective {
    let mut effective = Effective::default();
    // What was rendered a line ago reads back; a failure would leave the values
    // unknown, which the lint refuses.
    let _ = effective.merge(&yaml::render("", entries));
    for layer in inputs.facts.runtime.k3s.drop_ins.known().into_iter().flatten() {
        effective.apply(layer);
    }
    effective
}

/// What containerd and the kubelet must agree on is neither replaced nor contradicted.
fn kubelet_args_hold(
    effective: &Effective,
    needed: &[String],
    drop_ins: &[DropIn<'_>],
) -> Result<(), Refusal> {
    for arg in needed {
        let name = arg.split_once('=').map_or(arg.as_str(), |(name, _)| name);
        let is_named = |value: &&String| value.split('=').next() == Some(name);
        let found: Vec<&String> = effective.all("kubelet-arg").iter().filter(is_named).collect();
        if found != [arg] {
            return Err(kubelet_arg_refused(&found, name, arg, drop_ins));
        }
    }
    Ok(())
}

fn kubelet_arg_refused(found: &[&String], name: &str, needed: &str, drop_ins: &[DropIn<'_>]) -> Refusal {
    let is_guilty = |key: &str, values: &[String]| match found {
        [] => key == "kubelet-arg",
        _ => key.trim_end_matches('+') == "kubelet-arg" && values.iter().any(|value| found.contains(&value)),
    };
    let file = drop_ins.iter().rfind(|(_, layer)| layer.iter().any(|(key, values)| is_guilty(key, values)));
    let file = file.map_or(SOME_FILE, |(file, _)| file);
    if found.is_empty() {
        return Refusal::new(
            "EB-override",
            format!("{file} replaces the list kubelet-arg, in which containerd needs {needed}"),
            "write `kubelet-arg+` instead of `kubelet-arg` in that file: it adds to the list",
        );
    }
    Refusal::new(
        "EB-override",
        format!("kubelet-arg sets {found:?}, and containerd needs {needed} alone"),
        format!("remove {name} from `kubelet-arg` in {file} and in `k3s.config` of the assignment"),
    )
}

impl Rendered {
    /// Names the content, whatever the number of its generation.
    pub fn digest(&self) -> String {
        let sides: Vec<_> =
            self.sides.iter().map(|side| (side.name, sha256_hex(side.content.as_bytes()))).collect();
        sha256_hex(json!([yaml::render("", &self.entries), sides]).to_string().as_bytes())
    }

    /// Token files and the generation's own record.
    pub fn side_files(&self, generation: &PlannedGeneration) -> Vec<PlannedFile> {
        let path = |name: &str| paths::generation_file(generation.number, name);
        let mut files: Vec<PlannedFile> = self
            .sides
            .iter()
            .map(|side| PlannedFile::secret(path(side.name), side.content.clone(), side.reason))
            .collect();
        let manifest = json!({"schema": 1, "digest": generation.digest}).to_string() + "\n";
        files.push(PlannedFile::secret(path("manifest.json"), manifest, "names what this generation holds"));
        files
    }

    /// `config.yaml`, the commit point.
    pub fn commit_file(&self, generation: &PlannedGeneration) -> PlannedFile {
        let mut entries = self.entries.clone();
        for side in &self.sides {
            entries.push(entry(side.key, Value::text(paths::generation_file(generation.number, side.name))));
        }
        PlannedFile {
            path: paths::K3S_CONFIG.to_owned(),
            bytes: yaml::render(HEADER, &entries).into_bytes(),
            mode: 0o600,
            sensitivity: Sensitivity::Secret,
            shown: Some(yaml::render(HEADER, &hide_secrets(entries))),
            reason: "k3s's configuration; its rename commits the generation".to_owned(),
        }
    }
}

fn hide_secrets(mut entries: Vec<(String, Value)>) -> Vec<(String, Value)> {
    for (key, value) in &mut entries {
        let texts = match value {
            Value::Text(text) | Value::Bare(text) => std::slice::from_mut(text),
            Value::List(list) => list,
        };
        texts.iter_mut().for_each(|text| *text = hidden(key, text));
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::k3s_config::Layer;

    #[test]
    fn the_file_that_takes_an_argument_of_the_kubelet_away_or_contradicts_it_is_named() {
        let layer = |key: &str, value: &str| Layer::from([(key.to_owned(), vec![value.to_owned()])]);
        for (guilty, named) in [
            (layer("kubelet-arg", "v=2"), "/d/b replaces the list"),
            (
                layer("kubelet-arg+", "cgroup-driver=cgroupfs"),
                "remove cgroup-driver from `kubelet-arg` in /d/b and",
            ),
        ] {
            let (first, last) = (layer("debug", "true"), layer("kubelet-arg+", "v=3"));
            let mut effective = Effective::default();
            effective.apply(&layer("kubelet-arg", "cgroup-driver=systemd"));
            [&first, &guilty, &last].into_iter().for_each(|layer| effective.apply(layer));
            let drop_ins = [("/d/a", &first), ("/d/b", &guilty), ("/d/c", &last)];
            let held = kubelet_args_hold(&effective, &["cgroup-driver=systemd".to_owned()], &drop_ins);
            let told = held.map_or_else(|refusal| refusal.to_string(), |()| String::new());
            assert!(told.contains(named), "{told}");
        }
    }

    #[test]
    fn no_secret_is_shown_not_even_in_a_list_of_options() {
        let list = Value::List(vec!["oidc-client-secret=canary".to_owned(), "v=2".to_owned()]);
        let entries =
            vec![entry("kube-apiserver-arg", list), entry("etcd-s3-secret-key", Value::text("canary"))];
        let shown = yaml::render("", &hide_secrets(entries));
        assert!(!shown.contains("canary") && shown.contains("oidc-client-secret=sha256:"), "{shown}");
        assert!(shown.contains("v=2"), "{shown}");
    }
}
