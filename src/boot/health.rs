//! What looks at a node that is well leave behind: the inventory of containerd, a
//! word about an upgrade of it that is not in force yet, and the snapshots of etcd.
//!
//! Owns when they are written down. Asks containerd nothing itself.

use tracing::warn;

use super::{Agent, Pass, Severity};
use crate::error::Chain;
use crate::plan::{CheckedPlan, Refusal};
use crate::role::{Role, Snapshotter};
use crate::verify::{self, Expected, Seen};
use crate::{inventory, rotation, snapshots};

/// What containerd shall be by this plan.
pub(super) fn expected(checked: &CheckedPlan) -> Expected {
    let planned = checked.plan().storage.as_ref().map(|storage| storage.choice.snapshotter);
    Expected { snapshotter: planned.unwrap_or(Snapshotter::Overlayfs) }
}

/// The binary was replaced, and the one that runs is another.
pub(super) fn tell_upgrade(agent: &Agent, pass: &mut Pass) {
    let Some(running) = agent.containerd.version() else { return };
    let installed = pass.facts.runtime.containerd.version.known();
    let Some((installed, number)) = installed.zip(verify::number(running)) else { return };
    if *installed != number {
        let (major, minor, patch) = installed;
        let reason = format!("containerd {running} runs, and {major}.{minor}.{patch} is installed");
        pass.find(
            Severity::Info,
            Refusal::new("EB-containerd-upgraded", reason, "its next start takes the installed one"),
        );
    }
}

/// Writes down what a good look saw, for the gate of later boots. Not while a
/// person has paused the agent, and not more often than images change.
pub(super) fn remember(agent: &mut Agent) {
    let Some(seen) = agent.containerd.news() else { return };
    let noted = inventory::update(&agent.root, |inventory| note(inventory, seen));
    if let Err(error) = noted {
        warn!(EDGE_STEP = "verify", EDGE_REASON = %Chain(&error), "inventory cannot be written, ignoring");
    }
}

/// Reads snapshots that are new on a server that is well, for reports.
pub(super) async fn read_snapshots(agent: &Agent, checked: &CheckedPlan, pass: &Pass) {
    let is_server = checked.plan().identity.as_ref().is_some_and(|identity| identity.role == Role::Server);
    // While the token is being changed, nobody can tell which one opens a file.
    if !is_server || !pass.is_steady() || rotation::load(&agent.root).is_some() {
        return;
    }
    let effective = pass.facts.runtime.k3s.effective.known();
    let directory = effective.and_then(|effective| effective.first("etcd-snapshot-dir"));
    if let Err(error) = snapshots::learn(&agent.root, directory).await {
        warn!(EDGE_STEP = "verify", EDGE_REASON = %Chain(&error), "record of snapshots cannot be written, ignoring");
    }
}

/// An empty store says nothing over what was there: it is what a lost store
/// looks like, and the record says what to bring back. The number of snapshots
/// changes with every container, so it alone is no reason to write.
fn note(inventory: &mut inventory::Inventory, seen: Seen) {
    let is_empty = seen.images.is_empty() && seen.snapshots == 0;
    if is_empty || (inventory.images == seen.images && inventory.snapshots != 0) {
        return;
    }
    inventory.images = seen.images;
    inventory.snapshots = seen.snapshots;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(images: &[&str], snapshots: u64) -> Seen {
        let images = images.iter().map(|name| ((*name).to_owned(), "sha256:aa".to_owned())).collect();
        Seen { images, snapshots }
    }

    #[test]
    fn an_empty_store_is_not_written_over_a_full_one() {
        let mut inventory = inventory::Inventory::default();
        note(&mut inventory, seen(&["a", "b"], 7));
        assert_eq!((inventory.images.len(), inventory.snapshots), (2, 7));
        let before = inventory.clone();
        note(&mut inventory, seen(&[], 0));
        note(&mut inventory, seen(&["a", "b"], 9));
        assert_eq!(inventory, before);
        note(&mut inventory, seen(&["a"], 3));
        assert_eq!((inventory.images.len(), inventory.snapshots), (1, 3));
    }
}
