//! Whether k3s would do with the new configuration what it does with the old.
//!
//! Owns the form in which two configurations are equal in effect: k3s's own
//! defaults, switches that are off, the order of sets, old names; and what no
//! take-over may change. Pure; values are redacted already.

use super::seen::{Seen, contradictions};
use super::table;
use super::values::truth;
use crate::facts::k3s_config::Effective;
use crate::ordered::Ordered as _;
use crate::paths;
use crate::plan::keys;
use crate::plan::refusal::Refusal;
use crate::role::{Assignment, Duty, Role};

/// One key that k3s would read otherwise at its next start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The key.
    pub key: String,
    /// Its values as k3s runs.
    pub old: Vec<String>,
    /// Its values after the next start.
    pub new: Vec<String>,
    /// What that means, where it is not plain.
    pub words: Option<&'static str>,
}

/// What k3s takes when a key is not set (k3s: pkg/cli/cmds/server.go, agent.go).
const DEFAULTS: [(&str, &str); 17] = [
    ("cluster-cidr", "10.42.0.0/16"),
    ("cluster-domain", "cluster.local"),
    ("data-dir", paths::K3S_DATA),
    ("egress-selector-mode", "agent"),
    ("etcd-s3-endpoint", "s3.amazonaws.com"),
    ("etcd-s3-region", "us-east-1"),
    ("etcd-snapshot-name", "etcd-snapshot"),
    ("etcd-snapshot-retention", "5"),
    ("etcd-snapshot-schedule-cron", "0 */12 * * *"),
    ("flannel-backend", "vxlan"),
    ("https-listen-port", "6443"),
    ("lb-server-port", "6444"),
    ("service-cidr", "10.43.0.0/16"),
    ("service-node-port-range", "30000-32767"),
    ("snapshotter", "overlayfs"),
    ("v", "0"),
    ("write-kubeconfig", "/etc/rancher/k3s/k3s.yaml"),
];
/// Lists whose order means nothing.
const SETS: [&str; 4] = ["disable", "kubelet-arg", "node-label", "tls-san"];
/// What would be another node or another cluster.
const FIXED: [&str; 6] =
    ["cluster-cidr", "cluster-domain", "https-listen-port", "node-ip", "node-name", "service-cidr"];
/// Forms of k3s that this program does not run, by a key that is set.
const FOREIGN: [(&str, &str); 9] = [
    ("cluster-reset", "take it away and let k3s start without it first"),
    ("datastore-endpoint", "its datastore would have to be etcd of its own"),
    ("disable-agent", "a server without a node cannot be taken over"),
    ("disable-apiserver", "a server is the whole of a server here"),
    ("disable-controller-manager", "a server is the whole of a server here"),
    ("disable-etcd", "a server has etcd of its own here"),
    ("docker", "containerd is the only runtime here"),
    ("rootless", "k3s runs as root here"),
    ("with-node-id", "the name of its Node would change; give node-name instead, after deleting the Node"),
];

/// Whether no take-over may change `key`.
#[must_use]
pub fn is_fixed(key: &str) -> bool {
    FIXED.contains(&key)
}

/// The value that k3s takes for `key` when nobody sets it.
pub(super) fn default_of(key: &str) -> Option<&'static str> {
    DEFAULTS.iter().find(|(name, _)| *name == key).map(|(_, value)| *value)
}

/// The form in which configurations are compared. Keys that matter only at a
/// start or a join are left out: tokens and servers are judged by themselves.
#[must_use]
pub fn normal(effective: &Effective, role: Role, seen: &Seen) -> Effective {
    let mut normal = Effective::default();
    for (key, values) in &effective.0 {
        let left_out = keys::waits_for_start(key)
            || ["cluster-secret", "config", "disable-selinux", "no-flannel"].contains(&key.as_str());
        let values = if left_out { Vec::new() } else { values_of(key, values) };
        if !values.is_empty() && !is_default(key, &values) {
            normal.0.insert(key.clone(), values);
        }
    }
    for (key, running) in [("node-name", seen.name.clone()), ("node-ip", seen.running_ip(effective))] {
        if let Some(running) = running {
            normal.0.entry(key.to_owned()).or_insert_with(|| vec![running]);
        }
    }
    if role == Role::Server && dns_follows(&normal) {
        normal.0.remove("cluster-dns");
    }
    normal
}

fn values_of(key: &str, values: &[String]) -> Vec<String> {
    let mut values: Vec<String> = values.iter().filter(|value| !value.is_empty()).cloned().collect();
    if table::splits(key) {
        values = super::split(&values);
    }
    if !table::is_list(key) {
        values = values.pop().into_iter().collect();
    }
    if table::is_switch(key) {
        values.retain(|value| truth(value) != Some(false));
        values.iter_mut().for_each(|value| "true".clone_into(value));
    }
    for value in &mut values {
        *value = match key {
            "container-runtime-endpoint" => value.trim_start_matches("unix://").to_owned(),
            "node-label" if !value.contains('=') => value.clone() + "=",
            "node-name" => value.to_lowercase(),
            "data-dir" => value.trim_end_matches('/').to_owned(),
            _ => continue,
        };
    }
    if SETS.contains(&key) {
        values.sort();
        values.dedup();
    }
    values
}

fn is_default(key: &str, values: &[String]) -> bool {
    matches!(values, [one] if default_of(key) == Some(one))
}

/// k3s serves DNS at the tenth address of the service network when nothing else is said.
fn dns_follows(normal: &Effective) -> bool {
    let network = normal.first("service-cidr").or(default_of("service-cidr")).unwrap_or_default();
    let base = network.split('/').next().and_then(|base| base.parse::<std::net::Ipv4Addr>().ok());
    let tenth = base.and_then(|base| u32::from(base).checked_add(10)).map(std::net::Ipv4Addr::from);
    tenth.is_some_and(|tenth| normal.all("cluster-dns") == [tenth.to_string()])
}

/// Keys whose values differ between two configurations in their normal form.
#[must_use]
pub fn differences(old: &Effective, new: &Effective) -> Vec<Difference> {
    let keys: std::collections::BTreeSet<&String> = old.0.keys().chain(new.0.keys()).into_set();
    let differs = keys.into_iter().filter(|key| old.all(key) != new.all(key));
    differs
        .map(|key| Difference {
            key: key.clone(),
            old: with_default(key, old.all(key)),
            new: with_default(key, new.all(key)),
            words: meaning(key),
        })
        .collect()
}

fn with_default(key: &str, values: &[String]) -> Vec<String> {
    let default = || default_of(key).map(|value| format!("{value} (k3s's default)")).into_iter().collect();
    if values.is_empty() { default() } else { values.to_vec() }
}

fn meaning(key: &str) -> Option<&'static str> {
    match key {
        "flannel-backend" => Some(
            "k3s compares this between servers when one joins, and `no-flannel` counts as vxlan there: take over and restart all servers one after another before any server joins or comes back without its datastore, and the agents after the servers",
        ),
        "container-runtime-endpoint" => Some(
            "at its next start k3s leaves its own containerd for the host's: its pods are started anew and images are fetched again",
        ),
        "kubelet-arg" => {
            Some("the kubelet and containerd must agree on the cgroup driver: both change at the next start")
        }
        "disable" => Some("at its next start k3s removes what is disabled and brings back what is not"),
        "disable-kube-proxy" => {
            Some("services of this cluster get no rules on this host after the next start")
        }
        _ => None,
    }
}

/// Why this k3s cannot be taken over as it is.
#[must_use]
pub fn blockers(
    old: &Effective,
    changed: &[Difference],
    assignment: &Assignment,
    seen: &Seen,
) -> Vec<Refusal> {
    let Some(duty) = &assignment.duty else {
        return vec![refused("the assignment gives this host no role", "give it its role first")];
    };
    let mut found: Vec<Refusal> = FOREIGN
        .iter()
        .filter(|(key, _)| {
            old.first(key).is_some_and(|value| truth(value) != Some(false) && !value.is_empty())
        })
        .map(|(key, next)| refused(format!("k3s runs with {key}"), *next))
        .collect();
    let data =
        old.first("data-dir").map(|path| path.trim_end_matches('/')).filter(|path| *path != paths::K3S_DATA);
    found.extend(data.map(|path| {
        refused(
            format!("its data lies in {path}"),
            format!("stop k3s, move it to {}, and bind-mount it where it was", paths::K3S_DATA),
        )
    }));
    let fixed = changed.iter().filter(|one| is_fixed(&one.key));
    found.extend(fixed.map(|one| {
        refused(
            format!(
                "{} is {} as k3s runs, and {} in the assignment",
                one.key,
                one.old.join(","),
                one.new.join(",")
            ),
            "correct the assignment: taking over changes neither node nor cluster",
        )
    }));
    found.extend(contradictions(old, seen));
    found.extend(cluster(duty, seen));
    found
}

fn cluster(duty: &Duty, seen: &Seen) -> Vec<Refusal> {
    let mut found = Vec::new();
    if duty.role == Role::Server && seen.has_datastore == Some(false) {
        found.push(refused(
            "this server has no datastore of etcd (k3s keeps one server's data in sqlite by default)",
            "restart k3s once with --cluster-init, which moves the data to etcd, then take it over",
        ));
    }
    let assigned = duty.cluster.ca_hash.as_ref().map(ToString::to_string);
    if let (Some(assigned), Some(found_hash)) = (&assigned, &seen.ca_hash)
        && assigned != found_hash
    {
        found.push(refused(
            "the assignment is for a cluster with another CA",
            "correct cluster.ca_hash, or look whose host this is",
        ));
    }
    let token = duty.join.server.as_ref().map(ToString::to_string);
    if let (Some(token), Some(own)) = (&token, &seen.server_token)
        && token != own
    {
        found.push(refused(
            "the assignment's server token is not the cluster's, with which its datastore is encrypted",
            format!("give the assignment the password of {}/server/token", paths::K3S_DATA),
        ));
    }
    found.extend(agent_token(duty, seen));
    let version = duty.k3s.version.as_str();
    if let Some(runs) = seen.version.as_deref().filter(|runs| *runs != version) {
        found.push(refused(
            format!("k3s is {runs}, and {version} in the assignment"),
            "take it over with the version that runs, and upgrade afterwards",
        ));
    }
    found
}

/// Agents join with the server token where k3s was told no other (k3s:
/// pkg/server/server.go).
fn agent_token(duty: &Duty, seen: &Seen) -> Option<Refusal> {
    let own = seen.agent_token.as_ref().or(seen.server_token.as_ref())?;
    let assigned = duty.join.agent.as_ref().map(ToString::to_string);
    let keeps = match &assigned {
        Some(assigned) => assigned == own,
        None => seen.agent_token.is_none(),
    };
    (!keeps).then(|| {
        refused(
            "the assignment's agent token is not the one with which agents of this cluster join: they, or this one, could not come back",
            "give the assignment the token that the agents have",
        )
    })
}

pub(super) fn refused(reason: impl Into<String>, next: impl Into<String>) -> Refusal {
    Refusal::new("EB-adopt-refused", reason, next)
}
