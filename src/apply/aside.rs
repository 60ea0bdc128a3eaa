//! Moves a file or directory of k3s out of its way.
//!
//! Owns the name of what was moved, `NAME.quarantine-N` beside the old place,
//! and the rule that nothing is deleted or overwritten. Beside it, because
//! `/var/lib/edge-bootstrap/quarantine` may be another file system, and a
//! datastore is moved by one rename or not at all.

use crate::sys::root::FileError;
use crate::sys::{Root, fault};

/// Where the `number`th thing that was moved away from `path` lies.
#[must_use]
pub fn aside_name(path: &str, number: u64) -> String {
    format!("{path}.quarantine-{number}")
}

/// Moves what is at `path` to the first free [`aside_name`] and makes that
/// durable; `None` when there is nothing at `path`.
///
/// # Errors
/// When it cannot be moved: it is then still in its place.
pub fn move_aside(root: &Root, path: &str) -> Result<Option<String>, FileError> {
    let free = (1..).find(|number| !root.exists(&aside_name(path, *number)));
    move_aside_as(root, path, free.unwrap_or(u64::MAX))
}

/// As [`move_aside`], to the place with this number. What lies there already is
/// from the same move before a power cut: then the next free number is taken.
///
/// # Errors
/// When it cannot be moved: it is then still in its place.
pub fn move_aside_as(root: &Root, path: &str, number: u64) -> Result<Option<String>, FileError> {
    if !root.exists(path) {
        return Ok(None);
    }
    let target = aside_name(path, number);
    if root.exists(&target) {
        return move_aside(root, path);
    }
    point("aside-before", path)?;
    root.rename(path, &target)?;
    point("aside-after", path)?;
    Ok(Some(target))
}

fn point(name: &'static str, path: &str) -> Result<(), FileError> {
    fault::point(name).map_err(|error| FileError::new("move away", path, error))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::sys::atomic;

    fn root() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        (dir, root)
    }

    fn put(root: &Root, text: &str) {
        root.make_dir("/db/etcd", 0o700).unwrap();
        atomic::write(root, "/db/etcd/name", text.as_bytes(), 0o600).unwrap();
    }

    fn content(root: &Root, path: &str) -> String {
        root.read_text(&format!("{path}/name")).unwrap().unwrap()
    }

    #[test]
    fn nothing_is_overwritten_and_nothing_is_lost() {
        let (_dir, root) = root();
        for life in 1..=3 {
            put(&root, &format!("life {life}"));
            let moved = move_aside(&root, "/db/etcd").unwrap();
            assert_eq!(moved, Some(format!("/db/etcd.quarantine-{life}")));
            assert!(!root.exists("/db/etcd"));
        }
        for life in 1..=3 {
            assert_eq!(content(&root, &aside_name("/db/etcd", life)), format!("life {life}"));
        }
    }

    #[test]
    fn what_is_not_there_needs_no_move() {
        let (_dir, root) = root();
        assert_eq!(move_aside(&root, "/db/etcd").unwrap(), None);
    }

    #[test]
    fn a_place_that_is_taken_stays_as_it_is() {
        let (_dir, root) = root();
        put(&root, "before the cut");
        assert_eq!(move_aside_as(&root, "/db/etcd", 7).unwrap().as_deref(), Some("/db/etcd.quarantine-7"));
        put(&root, "after the cut");
        assert_eq!(move_aside_as(&root, "/db/etcd", 7).unwrap().as_deref(), Some("/db/etcd.quarantine-1"));
        assert_eq!(content(&root, "/db/etcd.quarantine-7"), "before the cut");
    }
}
