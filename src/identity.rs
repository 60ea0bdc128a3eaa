//! Who this host is for good, on disk.
//!
//! Owns loading and storing of `identity.json` and its second step, `joined`.
//! Which identity to pin is the plan's decision.

use crate::facts::HostFacts;
use crate::facts::runtime::{Joined, PinnedIdentity};
use crate::paths;
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

/// Pins `identity`.
///
/// # Errors
/// When it cannot be stored.
pub fn pin(root: &Root, identity: &PinnedIdentity) -> Result<Change, StateError> {
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
        ..identity.clone()
    }
}
