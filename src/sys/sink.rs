//! A file that is hashed while it is written.
//!
//! Owns how a large file comes in piece by piece under a temporary name, and
//! what it leaves free on its disk. It is given its final name by
//! [`super::atomic::publish`] only. Opening and reading a source, looking for
//! room and making durable are done beside the event loop, each with a deadline:
//! a source may lie on a server that is gone. Opening the sink itself, what is
//! written to it between two syncs, [`Sink::begin`] and [`digest_of`] wait for
//! their disk on the caller's thread.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use thiserror::Error;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::root::{FileError, Root};
use super::{machine, space};

/// How much is read at once.
const PIECE: u64 = 1 << 20;
/// A power cut loses at most this many bytes of what came, and the disk is
/// looked at this often.
const SYNCED: u64 = 32 << 20;
/// Longest wait for one opening, one reading of [`PIECE`] bytes, one look for room.
const READING: Duration = Duration::from_secs(30);
/// Longest wait for one sync: of [`SYNCED`] bytes, or of what an earlier try left.
const SYNCING: Duration = Duration::from_secs(120);

/// With what comes, less would stay free than must ([`space`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{needed} bytes more are needed, {free} of {total} are free, and {stays} of them must stay free")]
pub struct NoRoom {
    /// Bytes that would come.
    pub needed: u64,
    /// Bytes that are free for everybody.
    pub free: u64,
    /// Size of the file system.
    pub total: u64,
    /// Bytes that stay free whatever comes.
    pub stays: u64,
}

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
    /// Bytes that stay free on a file system of so many bytes; [`space::floor`]
    /// unless something else is said.
    pub floor: fn(u64) -> u64,
}

impl Sink {
    fn of(file: File) -> Self {
        Self { file, hash: Sha256::new(), size: 0, tag: None, unsynced: 0, floor: space::floor }
    }

    /// Starts an empty file of mode 0600, over what an earlier try left.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(root: &Root, path: &str) -> Result<Self, FileError> {
        let file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(root.path(path));
        let file = file.map_err(|error| FileError::new("write", path, error))?;
        Ok(Self::of(file))
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
        Ok(Self::of(file))
    }

    /// Reads what was there, so that it counts.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn catch_up(&mut self) -> io::Result<()> {
        loop {
            let bytes = piece(&self.file, READING).await?;
            if bytes.is_empty() {
                return Ok(());
            }
            self.count(&bytes);
        }
    }

    fn count(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        self.unsynced += bytes.len() as u64;
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

    /// Makes what came so far durable.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub async fn sync(&mut self) -> io::Result<()> {
        if self.unsynced == 0 {
            return Ok(());
        }
        self.unsynced = 0;
        let file = self.file.try_clone()?;
        beside(SYNCING, move || file.sync_data()).await
    }

    /// Looks whether `rest` more bytes find room; when nobody said how many are
    /// still to come, as many as come until the next look.
    ///
    /// # Errors
    /// [`NoRoom`] as an error of the kind `StorageFull`, or when the kernel does
    /// not tell.
    pub async fn room(&self, rest: Option<u64>) -> io::Result<()> {
        let file = self.file.try_clone()?;
        let told = beside(READING, move || machine::space_of(&file).map_err(io::Error::from)).await?;
        let needed = rest.unwrap_or(SYNCED);
        let (free, total) = (told.available_bytes, told.total_bytes);
        let stays = (self.floor)(total);
        if space::leaves(needed, free, stays) {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::StorageFull, NoRoom { needed, free, total, stays }))
    }

    /// Takes the next bytes, of which `rest` are still to come after them. Every
    /// 32 MiB they are made durable, and room is looked for.
    ///
    /// # Errors
    /// As [`Sink::room`] and [`Sink::sync`], or when the disk is full.
    pub async fn take(&mut self, bytes: &[u8], rest: Option<u64>) -> io::Result<()> {
        self.write_all(bytes)?;
        if self.unsynced <= SYNCED {
            return Ok(());
        }
        self.sync().await?;
        self.room(rest).await
    }

    /// Takes all of another file below `root`.
    ///
    /// # Errors
    /// When it cannot be read, does not answer for 30 s, or finds no room.
    pub async fn copy(&mut self, root: &Root, from: &str) -> Result<(), FileError> {
        self.copy_file(root.path(from), READING).await.map_err(|error| FileError::new("copy", from, error))
    }

    async fn copy_file(&mut self, from: PathBuf, limit: Duration) -> io::Result<()> {
        let open = move || File::open(from).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (size, from) = beside(limit, open).await?;
        self.room(Some(size)).await?;
        loop {
            let bytes = piece(&from, limit).await?;
            if bytes.is_empty() {
                return Ok(());
            }
            let rest = size.saturating_sub(self.size + bytes.len() as u64);
            self.take(&bytes, Some(rest)).await?;
        }
    }

    /// SHA-256 of everything that went in, 64 hex digits.
    #[must_use]
    pub fn digest(self) -> String {
        hex(self.hash)
    }
}

/// The next bytes of a file; none at its end.
async fn piece(file: &File, limit: Duration) -> io::Result<Vec<u8>> {
    let file = file.try_clone()?;
    let read = move || {
        let mut bytes = Vec::new();
        file.take(PIECE).read_to_end(&mut bytes).map(|_| bytes)
    };
    beside(limit, read).await
}

/// Does `work` on another thread, and waits `limit` for it. A thread that a
/// kernel holds for longer cannot be ended: it is left alone, with its file.
async fn beside<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match timeout(limit, spawn_blocking(work)).await {
        Ok(done) => done.map_err(io::Error::other)?,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
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

/// SHA-256 of the file at `path`, 64 hex digits, taken beside the event loop.
///
/// # Errors
/// When it cannot be read.
pub async fn digest_beside(root: &Root, path: &str) -> Result<String, FileError> {
    let (root, owned) = (root.clone(), path.to_owned());
    let ended = spawn_blocking(move || digest_of(&root, &owned)).await;
    ended.map_err(|error| FileError::new("read", path, io::Error::other(error)))?
}

/// As [`digest_beside`], after whoever holds `turn`. The thread holds it until it
/// has read the file, also when nobody waits for that any more.
///
/// # Errors
/// When it cannot be read.
pub async fn digest_in_turn(
    root: &Root,
    path: &str,
    turn: &'static tokio::sync::Mutex<()>,
) -> Result<String, FileError> {
    let (root, owned, turn) = (root.clone(), path.to_owned(), turn.lock().await);
    let ended = spawn_blocking(move || {
        let _turn = turn;
        digest_of(&root, &owned)
    });
    ended.await.map_err(|error| FileError::new("read", path, io::Error::other(error)))?
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
        self.count(&bytes[..taken]);
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

    #[tokio::test]
    async fn what_an_earlier_try_left_counts() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        Sink::create(&root, "/f").unwrap().write_all(b"ab").unwrap();
        let mut sink = Sink::resume(&root, "/f").unwrap();
        sink.catch_up().await.unwrap();
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

    #[tokio::test]
    async fn a_file_that_finds_no_room_is_not_begun() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        // Empty blocks only: larger than any disk that runs this.
        File::create(root.path("/large")).unwrap().set_len(8 << 40).unwrap();
        let mut sink = Sink::create(&root, "/f").unwrap();
        let error = sink.copy(&root, "/large").await.unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().downcast_ref::<io::Error>().unwrap();
        assert_eq!(cause.kind(), io::ErrorKind::StorageFull);
        let no_room = cause.get_ref().unwrap().downcast_ref::<NoRoom>().unwrap();
        assert_eq!((no_room.needed, sink.size), (8 << 40, 0));
        assert!(no_room.free > 0 && no_room.to_string().contains("8796093022208 bytes more are needed"));
        // While it comes, too.
        sink.unsynced = SYNCED;
        let error = sink.take(b"abc", Some(8 << 40)).await.unwrap_err();
        assert_eq!((error.kind(), sink.unsynced), (io::ErrorKind::StorageFull, 0));
    }

    #[tokio::test]
    async fn what_stays_free_is_the_callers_rule() {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = Sink::create(&Root::new(dir.path()), "/f").unwrap();
        sink.floor = |total| total;
        assert_eq!(sink.room(Some(0)).await.unwrap_err().kind(), io::ErrorKind::StorageFull);
        sink.floor = |_| 0;
        sink.room(Some(0)).await.unwrap();
    }

    #[tokio::test]
    async fn a_source_that_never_answers_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let pipe = root.path("/pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut sink = Sink::create(&root, "/f").unwrap();
        let error = sink.copy_file(pipe.clone(), Duration::from_millis(50)).await.unwrap_err();
        assert_eq!((error.kind(), sink.size), (io::ErrorKind::TimedOut, 0));
        // The runtime waits for the thread that hangs.
        drop(OpenOptions::new().read(true).write(true).open(pipe).unwrap());
    }

    #[tokio::test]
    async fn who_waits_for_a_turn_starts_no_thread() {
        static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        nix::unistd::mkfifo(&root.path("/pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::write(root.path("/f"), "abc").unwrap();
        let soon = Duration::from_millis(20);
        timeout(soon, digest_in_turn(&root, "/pipe", &TURN)).await.unwrap_err();
        timeout(soon, digest_in_turn(&root, "/f", &TURN)).await.unwrap_err();
        // The thread that hangs ends.
        drop(OpenOptions::new().read(true).write(true).open(root.path("/pipe")).unwrap());
        assert_eq!(digest_in_turn(&root, "/f", &TURN).await.unwrap(), ABC);
    }

    #[test]
    fn the_event_loop_lives_while_a_source_hangs() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let pipe = root.path("/pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (done, copied) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let mut sink = Sink::create(&root, "/f").unwrap();
            // Only a loop that goes on lets the pipe have its other end.
            let writer =
                async { spawn_blocking(move || std::fs::write(pipe, "abc")).await.unwrap().unwrap() };
            let (copied, ()) = runtime.block_on(async { tokio::join!(sink.copy(&root, "/pipe"), writer) });
            copied.unwrap();
            done.send(sink.digest()).unwrap();
        });
        assert_eq!(copied.recv_timeout(std::time::Duration::from_secs(20)).unwrap(), ABC);
    }
}
