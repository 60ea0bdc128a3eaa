//! One byte of a database that belongs to somebody else.
//!
//! Owns the lock that keeps its owner out meanwhile (flock(2), as bbolt takes it)
//! and the write in place: a new file would not be the one that an owner who
//! waits for the lock has open. Never makes a file, never changes a length.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

use nix::fcntl::{Flock, OFlag};

use super::lock;
use super::root::{FileError, Root};

/// A file that nobody else has open under the same lock.
#[derive(Debug)]
pub struct Patch {
    file: Flock<File>,
    path: String,
}

impl Patch {
    /// Takes it; `None`: its owner has it.
    ///
    /// # Errors
    /// When there is none, or it cannot be opened or locked.
    pub fn take(root: &Root, path: &str) -> Result<Option<Self>, FileError> {
        let failed = |error: io::Error| FileError::new("open", path, error);
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).custom_flags(OFlag::O_NOFOLLOW.bits());
        let file = options.open(root.path(path)).map_err(failed)?;
        Ok(lock::try_lock(file, path)?.map(|file| Self { file, path: path.to_owned() }))
    }

    /// Puts `to` where `from` is, and syncs. `false`, and nothing is written,
    /// where something else is.
    ///
    /// # Errors
    /// When it cannot be read, written or synced.
    pub fn put(&self, at: u64, from: u8, to: u8) -> Result<bool, FileError> {
        let failed = |error: io::Error| FileError::new("write", &self.path, error);
        let mut found = [0];
        if self.file.read_at(&mut found, at).map_err(failed)? != 1 || found != [from] {
            return Ok(false);
        }
        self.file.write_all_at(&[to], at).and_then(|()| self.file.sync_all()).map_err(failed)?;
        Ok(true)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::sys::atomic;

    #[test]
    fn one_byte_is_changed_where_the_old_one_is_and_nobody_has_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert!(Patch::take(&root, "/db").is_err());
        atomic::write(&root, "/db", b"abc", 0o600).unwrap();
        let patch = Patch::take(&root, "/db").unwrap().unwrap();
        assert!(Patch::take(&root, "/db").unwrap().is_none());
        assert!(!patch.put(1, b'x', b'y').unwrap());
        assert!(!patch.put(3, b'c', b'y').unwrap());
        assert!(patch.put(1, b'b', b'y').unwrap());
        drop(patch);
        assert_eq!(root.read("/db").unwrap().unwrap(), b"ayc");
        assert!(Patch::take(&root, "/db").unwrap().is_some());
    }
}
