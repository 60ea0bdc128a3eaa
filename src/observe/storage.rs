//! containerd's root, its databases, and the last look with privileges.
//!
//! Owns reading; mounts nothing and opens no device. What needs more than the
//! daemon may do was left by the act `look-at-storage` in this boot.

use super::mounts::{self, Mount};
use super::text;
use crate::facts::Fact;
use crate::facts::storage::{Choice, Look, Storage, StoreRoot};
use crate::inventory::Inventory;
use crate::paths;
use crate::sys::{Root, host};

/// What decides about the snapshotter.
#[must_use]
pub fn observe(root: &Root, mounts: &Fact<Vec<Mount>>) -> Storage {
    Storage { root: store_root(mounts), look: look(root), choice: choice(root), ..Storage::default() }
}

/// What was decided on this host before.
fn choice(root: &Root) -> Fact<Option<Choice>> {
    Fact::Known(Inventory::load(root).choice)
}

/// Only a look of this boot counts: modules, disks and mounts may be others now.
fn look(root: &Root) -> Fact<Look> {
    let bytes = match root.read(paths::STORAGE_LOOK) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Fact::unknown("nobody has looked in this boot"),
        Err(error) => return text::because(&error),
    };
    match serde_json::from_slice::<Look>(&bytes) {
        Ok(look) if !root.is_host() || Some(&look.boot_id) == host::boot_id(root).ok().as_ref() => {
            Fact::Known(look)
        }
        Ok(_) => Fact::unknown("nobody has looked in this boot"),
        Err(error) => Fact::unknown(format!("{}: {error}", paths::STORAGE_LOOK)),
    }
}

fn store_root(mounts: &Fact<Vec<Mount>>) -> Fact<StoreRoot> {
    match mounts {
        Fact::Known(mounts) => mounts::below(mounts, paths::CONTAINERD_ROOT).map_or_else(
            || Fact::unknown("nothing is mounted at /"),
            |mount| {
                Fact::Known(StoreRoot {
                    mount_point: mount.mount_point.clone(),
                    fs_type: mount.fs_type.clone(),
                    source: mount.source.clone(),
                    ..StoreRoot::default()
                })
            },
        ),
        Fact::Unknown { unknown } => Fact::unknown(unknown.clone()),
    }
}
