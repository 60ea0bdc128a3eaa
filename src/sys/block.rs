//! Block devices: which one a path leads to, its size, its two ends, and
//! whether anybody has claimed it.
//!
//! Owns opening them, for reading only. Never writes to one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};

use nix::fcntl::OFlag;
use nix::sys::stat::{major, minor};

use super::root::{FileError, Root};

/// A block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockDevice {
    /// Its own path, without links: `/dev/sdb`.
    pub path: String,
    /// Its number as the kernel prints it: `8:16`.
    pub number: String,
}

impl BlockDevice {
    /// The kernel's name for it: `sdb`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

/// Content of the first and of the last bytes of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ends {
    /// From its begin.
    pub first: Vec<u8>,
    /// To its end.
    pub last: Vec<u8>,
}

/// The block device to which `path` leads; `None` when nothing is there, or
/// something else.
///
/// # Errors
/// When it cannot be looked at.
pub fn find(root: &Root, path: &str) -> Result<Option<BlockDevice>, FileError> {
    let failed = |error| FileError::new("look at", path, error);
    let own = match fs::canonicalize(root.path(path)) {
        Ok(own) => own,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let meta = fs::metadata(&own).map_err(failed)?;
    let number = meta.rdev();
    Ok(meta.file_type().is_block_device().then(|| BlockDevice {
        path: own.to_string_lossy().into_owned(),
        number: format!("{}:{}", major(number), minor(number)),
    }))
}

/// Its size in bytes.
///
/// # Errors
/// When it cannot be opened: no medium, no such device.
pub fn size(device: &BlockDevice) -> Result<u64, FileError> {
    let seek = || File::open(&device.path)?.seek(SeekFrom::End(0));
    seek().map_err(|error| FileError::new("find the size of", &device.path, error))
}

/// Reads `length` bytes at both ends; a smaller device is read wholly, twice.
///
/// # Errors
/// When one of them cannot be read.
pub fn ends(device: &BlockDevice, length: u64) -> Result<Ends, FileError> {
    let read = || {
        let mut file = File::open(&device.path)?;
        let all = file.seek(SeekFrom::End(0))?;
        let first = part(&mut file, 0, length.min(all))?;
        let last = part(&mut file, all.saturating_sub(length), length.min(all))?;
        Ok(Ends { first, last })
    };
    read().map_err(|error| FileError::new("read both ends of", &device.path, error))
}

fn part(file: &mut File, at: u64, length: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|read| read == length) {
        return Ok(bytes);
    }
    Err(io::Error::from(io::ErrorKind::UnexpectedEof))
}

/// Whether nobody in the kernel has claimed it: an exclusive open succeeds.
/// Mounts in any namespace, swap, arrays and device-mapper all claim.
///
/// # Errors
/// When it cannot be opened for another reason.
pub fn is_unclaimed(device: &BlockDevice) -> Result<bool, FileError> {
    let flags = (OFlag::O_EXCL | OFlag::O_CLOEXEC).bits();
    match OpenOptions::new().read(true).custom_flags(flags).open(&device.path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(false),
        Err(error) => Err(FileError::new("open", &device.path, error)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn standing_in(bytes: &[u8]) -> (tempfile::TempDir, BlockDevice) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        fs::write(&path, bytes).unwrap();
        let path = path.to_string_lossy().into_owned();
        (dir, BlockDevice { path, number: "0:0".into() })
    }

    #[test]
    fn both_ends_are_read_also_of_a_small_one() {
        let (_dir, device) = standing_in(b"abcdef");
        assert_eq!(size(&device).unwrap(), 6);
        let both = ends(&device, 2).unwrap();
        assert_eq!((both.first.as_slice(), both.last.as_slice()), (&b"ab"[..], &b"ef"[..]));
        assert_eq!(ends(&device, 9).unwrap().last, b"abcdef");
        assert_eq!(device.name(), "disk");
    }

    #[test]
    fn what_is_no_block_device_is_none() {
        let root = Root::default();
        assert_eq!(find(&root, "/dev/null").unwrap(), None);
        assert_eq!(find(&root, "/dev/no-such-device").unwrap(), None);
    }
}
