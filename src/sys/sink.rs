//! A file that is hashed while it is written.
//!
//! Owns how a large file comes in piece by piece under a temporary name. It is
//! given its final name by [`super::atomic::publish`] only.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;

use sha2::{Digest as _, Sha256};

use super::root::{FileError, Root};

/// Most bytes of an earlier try that one step reads again.
const STEP: u64 = 4 << 20;

/// An open file and the SHA-256 of what went into it.
#[derive(Debug)]
pub struct Sink {
    file: File,
    hash: Sha256,
    /// Bytes so far.
    pub size: u64,
    /// Which version of a file they are of, as its server names it (`ETag`).
    pub tag: Option<String>,
    /// Bytes that were written since the last [`Sink::sync`].
    unsynced: u64,
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
        Ok(Self { file, hash: Sha256::new(), size: 0, tag: None, unsynced: 0 })
    }

    /// Goes on with what an earlier try left, or starts an empty file. What is
    /// there must be taken up with [`Sink::catch_up`] before anything is written.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn resume(root: &Root, path: &str) -> Result<Self, FileError> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = file.open(root.path(path)).map_err(|error| FileError::new("write", path, error))?;
        Ok(Self { file, hash: Sha256::new(), size: 0, tag: None, unsynced: 0 })
    }

    /// Reads the next part of what was there; whether there is more.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn catch_up(&mut self) -> io::Result<bool> {
        let mut buffer = vec![0; 256 * 1024];
        let end = self.size + STEP;
        while self.size < end {
            let count = self.file.read(&mut buffer)?;
            if count == 0 {
                return Ok(false);
            }
            self.hash.update(&buffer[..count]);
            self.size += count as u64;
        }
        Ok(true)
    }

    /// Begins anew with an empty file.
    ///
    /// # Errors
    /// When it cannot be emptied.
    pub fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.hash = Sha256::new();
        self.size = 0;
        self.tag = None;
        Ok(())
    }

    /// Whether everything that went in has this digest, 64 hex digits.
    #[must_use]
    pub fn is(&self, sha256: &str) -> bool {
        hex(self.hash.clone()) == sha256
    }

    /// The first bytes of the file, at most `most`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn begin(&self, most: usize) -> io::Result<Vec<u8>> {
        use std::os::unix::fs::FileExt as _;
        let mut bytes = vec![0; most];
        let count = self.file.read_at(&mut bytes, 0)?;
        bytes.truncate(count);
        Ok(bytes)
    }

    /// Makes what came so far durable, when that is more than `most` bytes: a
    /// power cut then loses no more than that.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub async fn sync(&mut self, most: u64) -> io::Result<()> {
        if self.unsynced <= most {
            return Ok(());
        }
        self.unsynced = 0;
        let file = self.file.try_clone()?;
        tokio::task::spawn_blocking(move || file.sync_data()).await.map_err(io::Error::other)?
    }

    /// Opens another file below `root`, for [`Sink::copy_some`].
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open_source(&self, root: &Root, from: &str) -> Result<File, FileError> {
        File::open(root.path(from)).map_err(|error| FileError::new("copy", from, error))
    }

    /// Takes the next part of another file; whether there is more.
    ///
    /// # Errors
    /// When it cannot be read, or the disk is full.
    pub fn copy_some(&mut self, from: &mut File) -> io::Result<bool> {
        Ok(io::copy(&mut from.take(STEP), self)? == STEP)
    }

    /// SHA-256 of everything that went in, 64 hex digits.
    #[must_use]
    pub fn digest(self) -> String {
        hex(self.hash)
    }
}

/// SHA-256 of the file at `path`, 64 hex digits. Reads all of it at once.
///
/// # Errors
/// When it cannot be read.
pub fn digest_of(root: &Root, path: &str) -> Result<String, FileError> {
    let failed = |error| FileError::new("read", path, error);
    let mut file = File::open(root.path(path)).map_err(failed)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let count = file.read(&mut buffer).map_err(failed)?;
        if count == 0 {
            return Ok(hex(hash));
        }
        hash.update(&buffer[..count]);
    }
}

fn hex(hash: Sha256) -> String {
    use std::fmt::Write as _;
    hash.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.file.write(bytes)?;
        self.hash.update(&bytes[..taken]);
        self.size += taken as u64;
        self.unsynced += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    /// SHA-256 of `abc`.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn what_an_earlier_try_left_counts() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        Sink::create(&root, "/f").unwrap().write_all(b"ab").unwrap();
        let mut sink = Sink::resume(&root, "/f").unwrap();
        while sink.catch_up().unwrap() {}
        assert_eq!((sink.size, sink.is(ABC)), (2, false));
        sink.write_all(b"c").unwrap();
        assert!(sink.is(ABC));
        assert_eq!(sink.begin(2).unwrap(), b"ab");
        assert_eq!(std::fs::read(root.path("/f")).unwrap(), b"abc");
        sink.clear().unwrap();
        sink.write_all(b"abc").unwrap();
        assert_eq!(sink.digest(), ABC);
        assert_eq!(std::fs::read(root.path("/f")).unwrap(), b"abc");
    }
}
