//! k3s's own files, moved aside and put back as the plan says.
//!
//! Owns the effects before anything of ours is written: a datastore is moved by
//! one rename, a file is put back only where it is missing or empty, and only
//! what is empty is removed. Whether a unit is down is the caller's to know.

use std::collections::BTreeSet;

use super::aside::move_aside;
use super::{Applied, ApplyError, point, store};
use crate::plan::{CheckedPlan, PlannedQuarantine, PlannedRestore, RestoreFrom, empty};
use crate::sys::root::FileError;
use crate::sys::{Root, atomic, trees};

/// Carries out what needs no unit down, or one for which `is_down` says so; all
/// but containerd's store, which is `store`'s.
///
/// # Errors
/// When a step fails; what was moved lies whole in its new place.
pub fn mend(
    root: &Root,
    checked: &CheckedPlan,
    is_down: &dyn Fn(&str) -> bool,
) -> Result<Applied, ApplyError> {
    let mut applied = Applied::default();
    let is_due = |item: &&PlannedQuarantine| !store::is_it(item) && is_down(&item.needs_stopped);
    for item in checked.plan().quarantines.iter().filter(is_due) {
        applied.changed.extend(move_aside(root, &item.path)?);
    }
    applied.changed.extend(mend_files(root, checked, is_down)?.changed);
    Ok(applied)
}

/// The part of it that any generation needs in order to run: files that are
/// missing are put back, and those that a power cut emptied go.
///
/// # Errors
/// When a step fails.
pub fn mend_files(
    root: &Root,
    checked: &CheckedPlan,
    is_down: &dyn Fn(&str) -> bool,
) -> Result<Applied, ApplyError> {
    let plan = checked.plan();
    let mut applied = Applied::default();
    for item in &plan.restores {
        let may = item.needs_stopped.as_deref().is_none_or(is_down);
        if may && put_back(root, item)? {
            applied.changed.push(item.path.clone());
        }
    }
    if let Some(empty) = plan.empty.as_ref().filter(|empty| is_down(&empty.needs_stopped)) {
        remove_empty(root, &empty.paths, &mut applied)?;
    }
    if !applied.changed.is_empty() {
        point("mended")?;
    }
    Ok(applied)
}

/// A cut between two of them leaves the rest for the next boot, and the removal
/// of each is durable before k3s makes it anew.
fn remove_empty(root: &Root, paths: &[String], applied: &mut Applied) -> Result<(), ApplyError> {
    let mut directories = BTreeSet::new();
    for path in paths {
        // Looked at again: somebody may have written it since.
        let is_empty = root.plain_size(path)? == Some(0);
        if let Some(build) = empty::unpacked_with(path) {
            if root.exists(build) && (is_empty || !root.exists(path)) {
                give_back(root, build)?;
                applied.changed.push(path.clone());
            }
            continue;
        }
        if !is_empty {
            continue;
        }
        for gone in empty::issued_with(path).iter().chain([path]) {
            root.remove_file(gone)?;
            directories.extend(gone.rsplit_once('/').map(|(directory, _)| directory.to_owned()));
            point("emptied")?;
        }
        applied.changed.push(path.clone());
    }
    directories.iter().try_for_each(|directory| root.sync_dir(directory))?;
    Ok(())
}

/// What k3s has unpacked gets the name under which k3s unpacks, and which it removes
/// with all that is in it before it does (k3s: cmd/k3s/main.go `extract`): one rename,
/// and no cut leaves a part of it under the name that counts.
fn give_back(root: &Root, build: &str) -> Result<(), ApplyError> {
    let temporary = format!("{build}-tmp");
    trees::remove(root, &temporary)?;
    root.rename(build, &temporary)?;
    point("emptied")
}

fn put_back(root: &Root, item: &PlannedRestore) -> Result<bool, FileError> {
    // Looked at again: k3s or a person may have written it since.
    let now = root.read(&item.path)?.unwrap_or_default();
    let bytes = match &item.from {
        RestoreFrom::Copy(path) => root.read(path)?.unwrap_or_default(),
        RestoreFrom::Text(text) => text.clone().into_bytes(),
    };
    if !now.trim_ascii().is_empty() || bytes.is_empty() {
        return Ok(false);
    }
    if let Some((directory, _)) = item.path.rsplit_once('/') {
        root.ensure_dir(directory)?;
    }
    Ok(atomic::write(root, &item.path, &bytes, 0o600)?.is_change())
}
