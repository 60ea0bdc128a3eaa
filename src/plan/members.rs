//! What k3s finds of its own when it starts: a datastore that it must not find,
//! names and passwords that it must.
//!
//! Owns which of k3s's files a plan moves aside and which it puts back. Never
//! plans to delete or to replace one that holds something.

use super::config::others;
use super::item::{PlannedQuarantine, PlannedRestore, RestoreFrom};
use super::refusal::{Refusal, WaitingOn};
use super::{Inputs, config, pinned, store, units};
use crate::facts::runtime::{Joined, PinnedIdentity};
use crate::paths;
use crate::role::{Duty, Role};

/// Whether etcd has removed the member whose datastore is here.
pub(super) fn is_removed(inputs: Inputs<'_>, duty: &Duty) -> bool {
    let k3s = &inputs.facts.runtime.k3s;
    duty.role == Role::Server
        && k3s.has_datastore.known() == Some(&true)
        && k3s.tombstone.known() == Some(&true)
}

/// How a removed member comes back: as a new one of a cluster that can be
/// joined strictly, or not at all.
pub(super) fn rejoin(duty: &Duty) -> Result<config::Start, WaitingOn> {
    if duty.cluster.ca_hash.is_some() && others(duty).next().is_some() {
        return Ok(config::Start::Join);
    }
    Err(Refusal::new(
        "EB-tombstone",
        "etcd has removed this member, and the assignment names no other server that it could join",
        "bring another server of the site up, or restore a snapshot under a new epoch; nothing is deleted",
    )
    .into())
}

/// containerd's store, where it is damaged ([`store`]), and a tombstoned
/// datastore, which goes before k3s sees it: with a token that was lost
/// k3s would move it itself and form a new cluster (k3s: pkg/cluster/bootstrap.go).
pub(super) fn quarantines(inputs: Inputs<'_>, duty: &Duty) -> Vec<PlannedQuarantine> {
    let datastore = PlannedQuarantine {
        path: paths::K3S_ETCD.to_owned(),
        needs_stopped: units::K3S.to_owned(),
        reason: "etcd has removed this member; it joins anew".to_owned(),
    };
    let removed = is_removed(inputs, duty).then_some(datastore);
    removed.into_iter().chain(store::quarantine(inputs.facts)).collect()
}

/// Files that a power cut empties or a reinstalled `/etc` loses.
pub(super) fn restores(inputs: Inputs<'_>, duty: &Duty) -> Vec<PlannedRestore> {
    let same_life = pinned(inputs.facts).filter(|pinned| {
        pinned.epoch == duty.cluster.epoch && pinned.node_name == duty.node.name.to_string()
    });
    let Some(joined) = same_life.and_then(|pinned| pinned.joined.as_ref()) else { return Vec::new() };
    let name = (duty.role == Role::Server).then(|| member_name(inputs, joined));
    name.flatten().into_iter().chain(node_password(inputs)).collect()
}

/// The same for a server that leaves etcd, and is a member until that is done.
pub(super) fn restores_while_leaving(inputs: Inputs<'_>, pinned: &PinnedIdentity) -> Vec<PlannedRestore> {
    let name = pinned.joined.as_ref().and_then(|joined| member_name(inputs, joined));
    name.into_iter().chain(node_password(inputs)).collect()
}

/// Without its name etcd calls a member `default`, and k3s waits for ever.
fn member_name(inputs: Inputs<'_>, joined: &Joined) -> Option<PlannedRestore> {
    let k3s = &inputs.facts.runtime.k3s;
    let is_member = k3s.has_datastore.known() == Some(&true) && k3s.tombstone.known() != Some(&true);
    let is_gone = matches!(
        (k3s.etcd_name_empty.known(), k3s.etcd_member.known()),
        (Some(true), _) | (Some(false), Some(None))
    );
    let name = joined.etcd_member.clone().filter(|_| is_member && is_gone)?;
    Some(PlannedRestore {
        path: paths::K3S_ETCD_NAME.to_owned(),
        from: RestoreFrom::Text(name),
        needs_stopped: Some(units::K3S.to_owned()),
        reason: "the name that the cluster knows this member by was lost".to_owned(),
    })
}

/// Without its password the cluster takes the node for an impostor (403 for ever).
fn node_password(inputs: Inputs<'_>) -> Option<PlannedRestore> {
    let password = inputs.facts.runtime.k3s.node_password.known()?;
    (!password.is_whole && password.has_copy).then(|| PlannedRestore {
        path: paths::NODE_PASSWORD.to_owned(),
        from: RestoreFrom::Copy(paths::NODE_PASSWORD_COPY.to_owned()),
        needs_stopped: None,
        reason: "the password that the cluster knows this node by was lost".to_owned(),
    })
}
