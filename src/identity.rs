//! Who this host is for good, on disk.
//!
//! Owns loading and storing of `identity.json` and its second step, `joined`.
//! Which identity to pin is the plan's decision.

use crate::facts::HostFacts;
use crate::facts::runtime::{Joined, PinnedIdentity, PinnedNic};
use crate::paths;
use crate::plan::fingerprint;
use crate::role::Role;
use crate::sys::statefile::{self, Loaded, StateError};
use crate::sys::{Change, Root};

/// Loads the pinned identity.
///
/// # Errors
/// When neither copy can be read.
pub fn load(root: &Root) -> Result<Loaded<PinnedIdentity>, StateError> {
    statefile::load(root, paths::IDENTITY)
}

/// Pins `identity`; a record of which no copy is whole is kept in quarantine.
///
/// # Errors
/// When it cannot be stored.
pub fn pin(root: &Root, identity: &PinnedIdentity) -> Result<Change, StateError> {
    if let Err(StateError::Damaged { .. }) = load(root) {
        return statefile::store_anew(root, paths::IDENTITY, paths::QUARANTINE, identity);
    }
    statefile::store(root, paths::IDENTITY, identity)
}

/// The identity after a READY: what the host now knows of its cluster. Another
/// CA than the recorded one is never taken over here.
#[must_use]
pub fn after_ready(identity: &PinnedIdentity, facts: &HostFacts) -> PinnedIdentity {
    let k3s = &facts.runtime.k3s;
    let seen = k3s.ca_hash.known().cloned().flatten();
    let recorded = identity.joined.as_ref().and_then(|joined| joined.ca_hash.clone());
    let member = k3s.etcd_member.known().cloned().flatten().filter(|_| identity.role == Role::Server);
    if recorded.is_some() && seen.is_some() && recorded != seen {
        return identity.clone();
    }
    let before = identity.joined.as_ref().and_then(|joined| joined.etcd_member.clone());
    PinnedIdentity {
        joined: Some(Joined { ca_hash: seen.or(recorded), etcd_member: member.or(before) }),
        nic: nic(identity, facts).or_else(|| identity.nic.clone()),
        fingerprint: fingerprint::recorded_anew(&identity.fingerprint, &fingerprint::of(facts)),
        ..identity.clone()
    }
}

/// The identity after a person said that this is the machine: its hardware, and
/// on a joined node its cluster and member, are what they are now. What is not
/// known now stays as it was.
#[must_use]
pub fn accepted(identity: &PinnedIdentity, facts: &HostFacts) -> PinnedIdentity {
    let k3s = &facts.runtime.k3s;
    let joined = identity.joined.as_ref().map(|joined| Joined {
        ca_hash: k3s.ca_hash.known().cloned().flatten().or_else(|| joined.ca_hash.clone()),
        etcd_member: k3s.etcd_member.known().cloned().flatten().or_else(|| joined.etcd_member.clone()),
    });
    let fingerprint = fingerprint::recorded_anew(&identity.fingerprint, &fingerprint::of(facts));
    PinnedIdentity { joined, fingerprint, ..identity.clone() }
}

/// What is recorded differently in `after`, one line each; empty when nothing is.
#[must_use]
pub fn changes(before: &PinnedIdentity, after: &PinnedIdentity) -> Vec<String> {
    let joined = |identity: &PinnedIdentity| {
        identity.joined.clone().unwrap_or(Joined { ca_hash: None, etcd_member: None })
    };
    let (old, new) = (joined(before), joined(after));
    let word = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
    let mut lines = fingerprint::changes(&before.fingerprint, &after.fingerprint);
    if old.ca_hash != new.ca_hash {
        lines.push(format!("cluster CA {} then, {} now", word(&old.ca_hash), word(&new.ca_hash)));
    }
    if old.etcd_member != new.etcd_member {
        lines.push(format!("etcd member {} then, {} now", word(&old.etcd_member), word(&new.etcd_member)));
    }
    lines
}

/// The interface that carries the node IP now.
fn nic(identity: &PinnedIdentity, facts: &HostFacts) -> Option<PinnedNic> {
    let nic = facts.network.holder(identity.node_ip)?;
    let prefix = nic.addresses.iter().find(|cidr| cidr.address == identity.node_ip)?.prefix;
    let mac = nic.permanent_mac.known().or_else(|| nic.mac.known()).cloned();
    Some(PinnedNic { name: nic.name.clone(), mac, prefix })
}
