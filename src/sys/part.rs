//! Parts of a file that may be large and that somebody else may be writing.
//!
//! Owns reading at a place, bounded by the caller. Never writes, never maps.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::root::{FileError, Root};

/// One file that is open for reading.
#[derive(Debug)]
pub struct Part {
    file: File,
    path: String,
}

impl Part {
    /// Opens it; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be opened, or is no regular file.
    pub fn open(root: &Root, path: &str) -> Result<Option<Self>, FileError> {
        let failed = |error| FileError::new("read", path, error);
        match root.stat(path)? {
            None => return Ok(None),
            Some(stat) if !stat.is_file => return Err(failed(io::Error::other("not a regular file"))),
            Some(_) => {}
        }
        match File::open(root.path(path)) {
            Ok(file) => Ok(Some(Self { file, path: path.to_owned() })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Its length now, in bytes.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn length(&self) -> Result<u64, FileError> {
        self.file.metadata().map(|meta| meta.len()).map_err(|error| self.failed(error))
    }

    /// Up to `length` bytes from `offset` on; fewer at its end.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn at(&self, offset: u64, length: usize) -> Result<Vec<u8>, FileError> {
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while filled < length {
            let rest = bytes.get_mut(filled..).unwrap_or_default();
            match self.file.read_at(rest, offset.saturating_add(filled as u64)) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    fn failed(&self, error: io::Error) -> FileError {
        FileError::new("read", &self.path, error)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::sys::atomic;

    #[test]
    fn a_part_ends_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert!(Part::open(&root, "/none").unwrap().is_none());
        assert!(Part::open(&root, "/").is_err());
        atomic::write(&root, "/f", b"0123456789", 0o600).unwrap();
        let part = Part::open(&root, "/f").unwrap().unwrap();
        assert_eq!(part.length().unwrap(), 10);
        assert_eq!(part.at(2, 3).unwrap(), b"234");
        assert_eq!(part.at(8, 9).unwrap(), b"89");
        assert!(part.at(u64::from(u32::MAX), 9).unwrap().is_empty());
    }
}
