//! Whether containerd may start.
//!
//! Owns the refusals for containerd, and only where our drop-in made it ours: its
//! own configuration damaged, its store not where it was, or a start that would
//! erase it. Never for identity or clock, and never because something could not
//! be read.

use super::{Check, Look, REWRITE};
use crate::facts::storage::StoreRoot;
use crate::inventory::Inventory;
use crate::observe::{mounts, storage, store};
use crate::paths;
use crate::plan::store::META;
use crate::plan::{Refusal, snapshotter};
use crate::role::Snapshotter;
use crate::sys::Root;
use crate::sys::statefile::{self, Loaded};

pub(super) const CHECKS: &[Check] = &[config_is_whole, root_is_there, pool_is_active, store_is_whole];

/// Without our drop-in containerd runs on the configuration of its package, for
/// whoever else uses it.
fn is_ours(root: &Root) -> bool {
    root.exists(paths::CONTAINERD_DROP_IN)
}

fn config_is_whole(look: &mut Look<'_>) -> Option<Refusal> {
    if !is_ours(look.root) {
        return None;
    }
    let damage = match look.root.read_text(paths::CONTAINERD_CONFIG) {
        Ok(Some(text)) if text.trim().is_empty() => Some("is empty".to_owned()),
        Ok(Some(text)) => {
            text.parse::<toml::Table>().err().map(|error| format!("is damaged: {}", error.message()))
        }
        Ok(None) => Some("is missing".to_owned()),
        Err(_) => None,
    };
    damage.map(|damage| {
        Refusal::new("EB-containerd-config", format!("{} {damage}", paths::CONTAINERD_CONFIG), REWRITE)
    })
}

/// What is recorded about a store that is ours; none when that cannot be read.
fn inventory(look: &mut Look<'_>) -> Option<Inventory> {
    if !is_ours(look.root) {
        return None;
    }
    match statefile::load(look.root, paths::INVENTORY) {
        Ok(loaded) => Loaded::value(loaded),
        Err(error) => {
            let note = format!("{error}; containerd's store was not compared with it");
            // Every check asks; once is enough.
            if !look.notes.contains(&note) {
                look.notes.push(note);
            }
            None
        }
    }
}

/// A data disk that did not come up in time would be replaced by an empty store
/// on the file system below its mount point.
fn root_is_there(look: &mut Look<'_>) -> Option<Refusal> {
    let choice = inventory(look)?.choice?;
    let table = mounts::read(look.root);
    let Some(mounts) = table.known() else {
        look.notes.extend(table.reason().map(|reason| format!("mounts were not checked: {reason}")));
        return None;
    };
    let now = mounts::below(mounts, paths::CONTAINERD_ROOT)?;
    // Mounted when somebody looks into it, and no evidence before.
    if now.fs_type == "autofs" {
        return None;
    }
    let root = StoreRoot {
        mount_point: now.mount_point.clone(),
        holds_records: mounts::holds_both(mounts, paths::CONTAINERD_ROOT, paths::STATE_DIR),
        fs_type: now.fs_type.clone(),
        source: now.source.clone(),
        uuid: storage::uuid(look.root, now),
        ..StoreRoot::default()
    };
    snapshotter::elsewhere(&choice, &root)
}

/// containerd looks for its pool once, at its start (containerd:
/// plugins/snapshots/devmapper/pool_device.go), and never again.
fn pool_is_active(look: &mut Look<'_>) -> Option<Refusal> {
    let choice = inventory(look)?.choice.filter(|choice| choice.snapshotter == Snapshotter::Devmapper)?;
    let pool = choice.pool?;
    let blocks = look.root.list("/sys/block").ok().filter(|blocks| !blocks.is_empty())?;
    let mut mapped = blocks.iter().filter(|name| name.starts_with("dm-"));
    let is_it = |name: &String| {
        let named = look.root.read_kernel(&format!("/sys/block/{name}/dm/name"));
        // One that cannot be read may be it.
        named.map_or(true, |named| named == pool)
    };
    (!mapped.any(is_it)).then(|| {
        Refusal::new(
            "EB-pool-inactive",
            format!("thin pool {pool} is not active, and containerd's images lie in it"),
            "edge-bootstrap activates it, and containerd then starts by itself; see `edge-bootstrap status`",
        )
    })
}

/// On an empty database containerd starts without a word, and deletes every blob
/// at the first change (containerd: core/metadata/gc.go).
fn store_is_whole(look: &mut Look<'_>) -> Option<Refusal> {
    if !is_ours(look.root) {
        return None;
    }
    let next = "edge-bootstrap sets the store aside before containerd starts, and brings its images again: `edge-bootstrap apply`";
    let refuse = |reason: String| Some(Refusal::new("EB-store-empty", reason, next));
    if look.root.exists(paths::STORE_HALF_ASIDE) {
        return refuse(format!("half of containerd's store is set aside in {}", paths::STORE_HALF_ASIDE));
    }
    let path = format!("{}/{META}", paths::CONTAINERD_ROOT);
    let size = look.root.stat(&path).ok()?.map(|stat| stat.size);
    if size.is_some_and(|size| size > 0) {
        return None;
    }
    let images = inventory(look)?.images.len();
    let is_gone = size.is_none();
    // Without blobs there is nothing to erase.
    if images == 0 || (is_gone && store::has_blobs(look.root).known() != Some(&true)) {
        return None;
    }
    let what = if is_gone { "gone" } else { "empty" };
    refuse(format!("{path} is {what}, and it named {images} images: containerd would delete them"))
}
