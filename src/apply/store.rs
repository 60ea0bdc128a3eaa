//! containerd's store, set aside as a whole.
//!
//! Owns how: by one rename beside its old place, or, where the root is a mount
//! or a link and cannot be renamed, part by part into a directory inside it.
//! Databases, blobs and snapshots name each other, so that nothing of a store
//! is of use alone (containerd-facts 6). Deletes and overwrites nothing.

use super::ApplyError;
use super::aside::{aside_name, move_aside};
use crate::ordered::sort_by;
use crate::paths::{CONTAINERD_ROOT, STORE_HALF_ASIDE};
use crate::plan::{CheckedPlan, PlannedQuarantine};
use crate::sys::Root;
use crate::sys::root::FileError;

/// Goes first: without it containerd would start on what is left, and the gate
/// knows a store whose database is gone.
const FIRST: &str = "io.containerd.metadata.v1.bolt";
/// Belongs to the file system, not to the store.
const NOT_OURS: &str = "lost+found";
/// containerd's own mode for its root.
const MODE: u32 = 0o711;

/// Whether this is containerd's store.
pub(super) fn is_it(item: &PlannedQuarantine) -> bool {
    item.path == CONTAINERD_ROOT
}

/// Sets the store aside where the plan says so, and gives its place and why. That
/// nobody uses it is the caller's to know.
///
/// # Errors
/// When a part cannot be moved: the next call goes on.
pub fn set_store_aside(root: &Root, checked: &CheckedPlan) -> Result<Option<(String, String)>, ApplyError> {
    let Some(item) = checked.plan().quarantines.iter().find(|item| is_it(item)) else { return Ok(None) };
    Ok(set_aside(root)?.map(|to| (to, item.reason.clone())))
}

/// Sets the store aside and leaves an empty root; a move that a power cut
/// interrupted is ended. Gives the place, or `None` when there is no store.
///
/// # Errors
/// When a part cannot be moved: it is then still in its place, and the next
/// call goes on.
fn set_aside(root: &Root) -> Result<Option<String>, FileError> {
    let half = root.exists(STORE_HALF_ASIDE);
    let is_link = root.read_link(CONTAINERD_ROOT)?.is_some();
    if !half && !is_link {
        match move_aside(root, CONTAINERD_ROOT) {
            Ok(None) => return Ok(None),
            Ok(moved) => return root.make_dir(CONTAINERD_ROOT, MODE).map(|()| moved),
            Err(error) if !is_mount(&error) => return Err(error),
            Err(_) => {}
        }
    }
    by_parts(root).map(Some)
}

/// The root is a mount point, of the host (EBUSY) or of a sandbox (EXDEV).
fn is_mount(error: &FileError) -> bool {
    use std::io::ErrorKind::{CrossesDevices, ResourceBusy};
    matches!(error.source.kind(), ResourceBusy | CrossesDevices)
}

fn by_parts(root: &Root) -> Result<String, FileError> {
    root.make_dir(STORE_HALF_ASIDE, 0o700)?;
    for name in parts(root)? {
        let to = free(root, &format!("{STORE_HALF_ASIDE}/{name}"));
        root.rename(&format!("{CONTAINERD_ROOT}/{name}"), &to)?;
    }
    let mut whole = (1..).map(|number| aside_name(&format!("{CONTAINERD_ROOT}/"), number));
    let whole = whole.find(|path| !root.exists(path)).unwrap_or_default();
    root.rename(STORE_HALF_ASIDE, &whole)?;
    Ok(whole)
}

/// What lies in the root and is not aside already, the database first.
fn parts(root: &Root) -> Result<Vec<String>, FileError> {
    let stays = |name: &String| name.starts_with(".quarantine") || name == NOT_OURS;
    let mut names: Vec<String> =
        root.list(CONTAINERD_ROOT)?.into_iter().filter(|name| !stays(name)).collect();
    sort_by(&mut names, |one, other| (one != FIRST, one) < (other != FIRST, other));
    Ok(names)
}

/// containerd may have begun a new part between a power cut and now, where a
/// person let it.
fn free(root: &Root, path: &str) -> String {
    if !root.exists(path) {
        return path.to_owned();
    }
    (1..).map(|number| format!("{path}.{number}")).find(|path| !root.exists(path)).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::sys::atomic;

    fn put(root: &Root, path: &str, text: &str) {
        root.ensure_dir(path.rsplit_once('/').unwrap().0).unwrap();
        atomic::write(root, path, text.as_bytes(), 0o600).unwrap();
    }

    fn store(root: &Root, at: &str, text: &str) {
        for part in
            ["io.containerd.metadata.v1.bolt/meta.db", "io.containerd.content.v1.content/blobs/a", "opt/x"]
        {
            put(root, &format!("{at}/{part}"), text);
        }
        put(root, &format!("{at}/lost+found/inode"), text);
    }

    fn read(root: &Root, path: &str) -> Option<String> {
        root.read_text(path).unwrap()
    }

    const META: &str = "io.containerd.metadata.v1.bolt/meta.db";

    #[test]
    fn a_store_goes_by_one_rename_and_leaves_an_empty_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        store(&root, CONTAINERD_ROOT, "one");
        let to = set_aside(&root).unwrap().unwrap();
        assert_eq!(to, "/var/lib/containerd.quarantine-1");
        assert_eq!(read(&root, &format!("{to}/{META}")).as_deref(), Some("one"));
        assert!(root.list(CONTAINERD_ROOT).unwrap().is_empty());
        assert_eq!(root.stat(CONTAINERD_ROOT).unwrap().unwrap().mode, 0o711);
        store(&root, CONTAINERD_ROOT, "two");
        assert_eq!(set_aside(&root).unwrap().as_deref(), Some("/var/lib/containerd.quarantine-2"));
    }

    #[test]
    fn a_root_that_is_a_link_is_emptied_part_by_part_into_itself() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        store(&root, "/data/containerd", "one");
        root.ensure_dir("/var/lib").unwrap();
        atomic::link(&root, CONTAINERD_ROOT, "../../data/containerd").unwrap();
        let to = set_aside(&root).unwrap().unwrap();
        assert_eq!(to, "/var/lib/containerd/.quarantine-1");
        assert_eq!(read(&root, &format!("{to}/{META}")).as_deref(), Some("one"));
        assert_eq!(root.list(CONTAINERD_ROOT).unwrap(), [".quarantine-1", "lost+found"]);
        store(&root, "/data/containerd", "two");
        assert_eq!(set_aside(&root).unwrap().as_deref(), Some("/var/lib/containerd/.quarantine-2"));
        assert_eq!(read(&root, &format!("{to}/{META}")).as_deref(), Some("one"));
    }

    #[test]
    fn a_move_that_was_cut_anywhere_is_ended_and_the_database_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        store(&root, CONTAINERD_ROOT, "one");
        assert_eq!(parts(&root).unwrap()[0], FIRST);
        // As a cut after the first part leaves it, and a new start that a person allowed.
        root.make_dir(STORE_HALF_ASIDE, 0o700).unwrap();
        root.rename(&format!("{CONTAINERD_ROOT}/{FIRST}"), &format!("{STORE_HALF_ASIDE}/{FIRST}")).unwrap();
        put(&root, &format!("{CONTAINERD_ROOT}/{META}"), "new");
        let to = set_aside(&root).unwrap().unwrap();
        assert_eq!(to, "/var/lib/containerd/.quarantine-1");
        assert_eq!(read(&root, &format!("{to}/{META}")).as_deref(), Some("one"));
        assert_eq!(read(&root, &format!("{to}/{FIRST}.1/meta.db")).as_deref(), Some("new"));
        assert_eq!(root.list(CONTAINERD_ROOT).unwrap(), [".quarantine-1", "lost+found"]);
        assert!(!root.exists(STORE_HALF_ASIDE));
    }

    #[test]
    fn without_a_store_there_is_nothing_to_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(set_aside(&Root::new(dir.path())).unwrap(), None);
    }
}
