//! Leaving an old life: when, and which files of k3s belong to it.
//!
//! Owns the reasons, an assignment that lets a node change who it is
//! (`rejoin`, invariant 12), one of a later epoch and another role ([`roles`]),
//! and what then goes to quarantine. What belongs to the host and not to a cluster stays: binaries,
//! images, containers, the node's password. What the new life looks like is
//! planned as on a host that has none of the old files.

use serde::Serialize;

use super::{Inputs, pinned, roles, rules, units};
use crate::facts::runtime::{PinnedIdentity, Retiring};
use crate::facts::{Fact, HostFacts};
use crate::paths;
use crate::role::Duty;

/// Marks what a leave moved aside; the number of the leave stands behind it.
const MARK: &str = ".quarantine-";

/// A leave: units of k3s stop, these files go to quarantine, and only then is
/// the new identity pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedRetirement {
    /// Number of this leave: what is moved is called `NAME.quarantine-NUMBER`.
    pub number: u64,
    /// Why, for people.
    pub reason: String,
    /// Files and directories that go, in order. What is gone was moved before a cut.
    pub paths: Vec<String>,
}

/// The leave that is due, or that has begun.
pub(super) fn decide(inputs: Inputs<'_>, duty: &Duty) -> Option<PlannedRetirement> {
    let pinned = pinned(inputs.facts)?;
    if let Some(begun) = &pinned.retiring {
        return Some(self::begun(inputs.facts, begun));
    }
    let has_lived = pinned.joined.is_some() || !old_life(inputs.facts).is_empty();
    let reason = reason(inputs, duty, pinned).filter(|_| has_lived)?;
    Some(numbered(inputs.facts, &reason))
}

/// A leave that goes on.
pub(super) fn begun(facts: &HostFacts, begun: &Retiring) -> PlannedRetirement {
    PlannedRetirement { number: begun.number, reason: begun.reason.clone(), paths: old_life(facts) }
}

/// A leave that has not begun.
pub(super) fn numbered(facts: &HostFacts, reason: &str) -> PlannedRetirement {
    PlannedRetirement { number: next_number(facts), reason: reason.to_owned(), paths: old_life(facts) }
}

fn reason(inputs: Inputs<'_>, duty: &Duty, pinned: &PinnedIdentity) -> Option<String> {
    let changes = rules::identity_changes(inputs, duty, pinned);
    let epoch = duty.cluster.epoch;
    let is_elsewhere = is_elsewhere(inputs, duty, pinned);
    // What a host does in the cluster's next life is decided anew.
    let stays = changes.iter().all(|(what, _)| *what == "role") || pinned.joined.is_none() && !is_elsewhere;
    if !changes.is_empty() && duty.cluster.rejoin && (is_elsewhere || epoch >= pinned.epoch) {
        return Some(format!("the assignment moves this node: {}", rules::phrase(changes)));
    }
    if stays && epoch > pinned.epoch {
        return Some(format!("the cluster began a new life: epoch {} to {epoch}", pinned.epoch));
    }
    roles::change(inputs, duty, pinned)
}

/// Another cluster counts its epochs by itself.
fn is_elsewhere(inputs: Inputs<'_>, duty: &Duty, pinned: &PinnedIdentity) -> bool {
    pinned.site != inputs.assignment.site.to_string() || pinned.cluster != duty.cluster.name.as_str()
}

/// Whether this host has left a life before: an assignment placed it, so what
/// its own settings say about its address is out of date.
pub(super) fn has_left(facts: &HostFacts) -> bool {
    remains(facts).any(|path| path.contains(MARK))
}

fn remains(facts: &HostFacts) -> impl Iterator<Item = &String> {
    facts.runtime.k3s.remains.known().into_iter().flatten()
}

/// What is there of the present life. Where that cannot be read the datastore
/// must go all the same; when it cannot, the leave fails and is tried again.
fn old_life(facts: &HostFacts) -> Vec<String> {
    if facts.runtime.k3s.remains.known().is_none() {
        return vec![format!("{}/server", paths::K3S_DATA)];
    }
    remains(facts).filter(|path| belongs_to_a_cluster(path)).cloned().collect()
}

/// The whole server directory: datastore, CA, tokens and snapshots fit only
/// each other. Of an agent what its cluster gave it: certificates, the CAs, and
/// in `etc` the servers that it learnt (k3s: pkg/agent/config/config.go).
pub(super) fn belongs_to_a_cluster(path: &str) -> bool {
    let Some(name) = path.strip_prefix(paths::K3S_DATA).and_then(|rest| rest.strip_prefix('/')) else {
        return false;
    };
    let Some(name) = name.strip_prefix("agent/") else { return name == "server" };
    let is_certificate = [".crt", ".key", ".kubeconfig"].iter().any(|end| name.ends_with(end));
    !name.contains('/') && (is_certificate || name == "etc")
}

/// One more than any leave before.
fn next_number(facts: &HostFacts) -> u64 {
    let numbers = remains(facts).filter_map(|path| path.rsplit_once(MARK)?.1.parse::<u64>().ok());
    numbers.max().unwrap_or(0) + 1
}

/// The host as it will be when the leave is done.
pub(super) fn facts_after(inputs: Inputs<'_>, duty: &Duty) -> HostFacts {
    let mut facts = inputs.facts.clone();
    let runtime = &mut facts.runtime;
    let k3s = &mut runtime.k3s;
    // What could not be read does not become known by a move.
    k3s.has_datastore = std::mem::take(&mut k3s.has_datastore).map(|_| false);
    (k3s.etcd_member, k3s.ca_hash) = (Fact::Known(None), Fact::Known(None));
    (k3s.tombstone, k3s.etcd_name_empty) = (Fact::Known(false), Fact::Known(false));
    k3s.empty_files.clear();
    for name in [units::K3S, units::K3S_AGENT] {
        if let Some(Fact::Known(unit)) = runtime.units.get_mut(name.trim_end_matches(".service")) {
            (unit.active, unit.main_pid) = ("inactive".to_owned(), 0);
        }
    }
    let before = pinned(inputs.facts).map(|pinned| left(inputs, duty, pinned));
    runtime.identity = Fact::Known(before);
    facts
}

/// What of an identity outlives a leave. Epoch 0 is no cluster's.
fn left(inputs: Inputs<'_>, duty: &Duty, pinned: &PinnedIdentity) -> PinnedIdentity {
    let moves = is_elsewhere(inputs, duty, pinned);
    PinnedIdentity {
        epoch: 0,
        init_started: None,
        joined: None,
        retiring: None,
        departing: None,
        highest_epoch: if moves { 0 } else { pinned.highest_epoch },
        nic: pinned.nic.clone().filter(|_| pinned.node_ip == duty.node.ip),
        ..pinned.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_the_host_stays() {
        for name in
            ["server", "agent/client-kubelet.crt", "agent/server-ca.crt", "agent/etc", "agent/x.kubeconfig"]
        {
            assert!(belongs_to_a_cluster(&format!("{}/{name}", paths::K3S_DATA)), "{name}");
        }
        for name in [
            "data",
            "agent",
            "agent/images",
            "agent/containerd",
            "agent/pod-manifests",
            "server.quarantine-1",
            "agent/etc.quarantine-1",
            "agent/client-ca.crt.quarantine-2",
            "agent/images/a.crt",
        ] {
            assert!(!belongs_to_a_cluster(&format!("{}/{name}", paths::K3S_DATA)), "{name}");
        }
        assert!(!belongs_to_a_cluster("/etc/rancher/node/password"));
    }
}
