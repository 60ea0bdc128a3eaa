//! A file that is hashed while it is written.
//!
//! Owns how a large file comes in piece by piece under a temporary name. It is
//! given its final name by [`super::atomic::publish`] only.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;

use sha2::{Digest as _, Sha256};

use super::root::{FileError, Root};

/// An open file and the SHA-256 of what went into it.
#[derive(Debug)]
pub struct Sink {
    file: File,
    hash: Sha256,
    /// Bytes so far.
    pub size: u64,
}

impl Sink {
    /// Starts an empty file of mode 0600, over what an earlier try left.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(root: &Root, path: &str) -> Result<Self, FileError> {
        let file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(root.path(path));
        let file = file.map_err(|error| FileError::new("write", path, error))?;
        Ok(Self { file, hash: Sha256::new(), size: 0 })
    }

    /// Takes the content of another file below `root`.
    ///
    /// # Errors
    /// When it cannot be read, or the disk is full.
    pub fn copy(&mut self, root: &Root, from: &str) -> Result<(), FileError> {
        let failed = |error| FileError::new("copy", from, error);
        let mut source = File::open(root.path(from)).map_err(failed)?;
        io::copy(&mut source, self).map(|_| ()).map_err(failed)
    }

    /// SHA-256 of everything that went in, 64 hex digits.
    #[must_use]
    pub fn digest(self) -> String {
        use std::fmt::Write as _;
        self.hash.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.file.write(bytes)?;
        self.hash.update(&bytes[..taken]);
        self.size += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
