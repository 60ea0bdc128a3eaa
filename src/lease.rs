//! The init lease as this boot knows it: the central service, or a local file,
//! confirmed that this host forms the cluster.
//!
//! Owns the record in `/run`, which the gate asks before it lets k3s start with
//! `cluster-init`. It is gone at the next boot, as the confirmation is.

use serde::{Deserialize, Serialize};

use crate::facts::runtime::PinnedIdentity;
use crate::paths;
use crate::sys::root::FileError;
use crate::sys::{Change, Root, atomic, host};
use crate::wire::json;

/// Written by the pass that plans an initialisation, read by the gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Boot in which it was confirmed.
    pub boot_id: String,
    /// Epoch for which it was confirmed.
    pub epoch: u64,
    /// Who was confirmed; absent for a host with a local assignment file.
    pub node_id: Option<String>,
}

/// Records that the lease was confirmed for `identity` in this boot.
///
/// # Errors
/// When the record cannot be written.
pub fn confirm(root: &Root, identity: &PinnedIdentity) -> Result<Change, FileError> {
    let lease = Lease {
        boot_id: host::boot_id(root).unwrap_or_default(),
        epoch: identity.epoch,
        node_id: identity.node_id.clone(),
    };
    root.ensure_dir(paths::RUN_DIR)?;
    let text = serde_json::to_vec(&lease).unwrap_or_default();
    atomic::write_volatile(root, paths::LEASE, &text, 0o644)
}

/// Ends a confirmation for any other epoch than `held`, which is none when the
/// lease is not this host's, or the cluster is formed.
///
/// # Errors
/// When the record cannot be removed.
pub fn keep_only(root: &Root, held: Option<u64>) -> Result<(), FileError> {
    let bytes = root.read(paths::LEASE)?.unwrap_or_default();
    let recorded = json::read::<Lease>(&bytes).ok().map(|lease| lease.epoch);
    if held.is_none() || recorded != held {
        root.remove_file(paths::LEASE)?;
    }
    Ok(())
}

/// Whether the lease was confirmed in this boot: for this identity, or for
/// anybody when the identity cannot be read.
#[must_use]
pub fn is_confirmed(root: &Root, identity: Option<&PinnedIdentity>) -> bool {
    let lease = root.read(paths::LEASE).ok().flatten();
    let lease: Option<Lease> = lease.and_then(|bytes| json::read(&bytes).ok());
    lease.is_some_and(|lease| {
        lease.boot_id == host::boot_id(root).unwrap_or_default()
            && identity
                .is_none_or(|identity| identity.epoch == lease.epoch && identity.node_id == lease.node_id)
    })
}
