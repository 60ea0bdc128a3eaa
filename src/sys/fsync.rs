//! How long a disk takes to make a small write durable.
//!
//! Owns the measurement: writes of the size of etcd's, one after another, each
//! made durable before the next (etcd: its FAQ measures with fio in the same
//! way). What a time means is not known here.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

use super::clock;
use super::root::Root;

/// Bytes of one write.
const SIZE: usize = 2300;
/// The same name each time: what a kill leaves is taken up by the next.
const NAME: &str = ".edge-bootstrap-fsync";

/// Writes below `directory` up to `most` times and for as long as `limit`; the
/// time that each write took. The file is removed.
///
/// # Errors
/// When the directory takes no file.
pub fn times(root: &Root, directory: &str, (most, limit): (usize, Duration)) -> io::Result<Vec<Duration>> {
    let path = root.path(directory).join(NAME);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    let (begin, bytes, mut times) = (clock::monotonic(), [0x65; SIZE], Vec::new());
    let mut result = Ok(());
    while result.is_ok() && times.len() < most && clock::monotonic().saturating_sub(begin) < limit {
        let before = clock::monotonic();
        result = file.write_all(&bytes).and_then(|()| file.sync_data());
        times.push(clock::monotonic().saturating_sub(before));
    }
    fs::remove_file(&path).and(result).map(|()| times)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn writes_are_timed_within_both_bounds_and_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let long = Duration::from_secs(60);
        let taken = times(&root, "/", (5, long)).unwrap();
        assert!(taken.len() == 5 && taken.iter().all(|time| *time > Duration::ZERO), "{taken:?}");
        assert_eq!(times(&root, "/", (usize::MAX, Duration::ZERO)).unwrap().len(), 0);
        assert_eq!(root.list("/").unwrap(), [] as [String; 0]);
        assert!(times(&root, "/none", (5, long)).is_err());
    }
}
