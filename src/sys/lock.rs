//! One pass at a time on one host.
//!
//! Owns an advisory lock on a file; the kernel drops it when its holder dies,
//! so a crash never leaves it behind.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use super::root::{FileError, Root};

/// Held until dropped.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "held for its drop")] Flock<File>);

/// Takes the lock at `path`, waiting up to `patience`; `None` when somebody
/// else still holds it then.
///
/// # Errors
/// When the lock file cannot be opened or locked.
pub async fn acquire(root: &Root, path: &str, patience: Duration) -> Result<Option<Lock>, FileError> {
    let deadline = tokio::time::Instant::now() + patience;
    loop {
        if let Some(lock) = try_acquire(root, path)? {
            return Ok(Some(lock));
        }
        if tokio::time::Instant::now() >= deadline {
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Takes the lock at `path`, however long that takes: for work of milliseconds.
///
/// # Errors
/// When the lock file cannot be opened or locked.
pub fn hold(root: &Root, path: &str) -> Result<Lock, FileError> {
    let file = open(root, path)?;
    match Flock::lock(file, FlockArg::LockExclusive) {
        Ok(lock) => Ok(Lock(lock)),
        Err((_, errno)) => Err(FileError::new("lock", path, errno.into())),
    }
}

fn open(root: &Root, path: &str) -> Result<File, FileError> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    file.open(root.path(path)).map_err(|error| FileError::new("lock", path, error))
}

fn try_acquire(root: &Root, path: &str) -> Result<Option<Lock>, FileError> {
    Ok(try_lock(open(root, path)?, path)?.map(Lock))
}

/// Locks a file that is open, unless somebody else has done so.
pub(super) fn try_lock(file: File, path: &str) -> Result<Option<Flock<File>>, FileError> {
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(FileError::new("lock", path, errno.into())),
    }
}
