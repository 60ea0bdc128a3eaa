//! Files of the data directory: keys, and the artifact store.
//!
//! Owns every touch of the file system outside the database. Never decides
//! what a file holds.
#![allow(clippy::disallowed_methods, reason = "the one place that touches files")]

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use thiserror::Error;

/// A file that could not be read or written.
#[derive(Debug, Error)]
#[error("{verb} `{path}`")]
pub struct FileError {
    /// What was tried.
    pub verb: &'static str,
    /// The file.
    pub path: PathBuf,
    /// Why not.
    #[source]
    pub source: io::Error,
}

fn naming<T>(verb: &'static str, path: &Path, result: io::Result<T>) -> Result<T, FileError> {
    result.map_err(|source| FileError { verb, path: path.to_owned(), source })
}

/// Makes a directory that only its owner may enter, and its parents.
///
/// # Errors
/// [`FileError`] when it cannot be made.
pub fn private_directory(path: &Path) -> Result<(), FileError> {
    naming("create directory", path, fs::create_dir_all(path))?;
    naming("set the mode of", path, fs::set_permissions(path, Permissions::from_mode(0o700)))
}

/// Makes an empty file of mode 0600 unless there is one: SQLite gives its WAL
/// the mode of the database.
///
/// # Errors
/// [`FileError`] when it cannot be made.
pub fn private_file(path: &Path) -> Result<(), FileError> {
    let made = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    naming("create", path, made.map(drop))
}

/// Reads a text file; `None` when there is none.
///
/// # Errors
/// [`FileError`] when it is there and cannot be read.
pub fn read_text(path: &Path) -> Result<Option<String>, FileError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => naming("read", path, Err(error)),
    }
}

/// Reads a text file, or standard input when `path` is `-`.
///
/// # Errors
/// [`FileError`] when it cannot be read.
pub fn read_argument(path: &Path) -> Result<String, FileError> {
    if path == Path::new("-") {
        let mut text = String::new();
        return naming("read", path, io::stdin().read_to_string(&mut text).map(|_| text));
    }
    naming("read", path, fs::read_to_string(path))
}

/// Puts `text` at `path` unless there is a file already; gives what is there
/// then. Two programs that start at once end with the same key.
///
/// # Errors
/// [`FileError`] when a step fails.
pub fn keep_first(path: &Path, text: String, mode: u32) -> Result<String, FileError> {
    let temporary = temporary_beside(path);
    naming("write", &temporary, write_new(&temporary, text.as_bytes(), mode))?;
    let linked = fs::hard_link(&temporary, path);
    naming("remove", &temporary, fs::remove_file(&temporary))?;
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            naming("read", path, fs::read_to_string(path))
        }
        linked => {
            naming("create", path, linked)?;
            sync_directory_of(path)?;
            Ok(text)
        }
    }
}

fn temporary_beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", nix::unistd::getpid()));
    path.with_file_name(name)
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Renames and makes the rename durable.
fn put(from: &Path, to: &Path) -> Result<(), FileError> {
    naming("rename to", to, fs::rename(from, to))?;
    sync_directory_of(to)
}

fn sync_directory_of(path: &Path) -> Result<(), FileError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    naming("sync", directory, File::open(directory).and_then(|dir| dir.sync_all()))
}

/// A file of the artifact store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// SHA-256, 64 hex digits.
    pub sha256: String,
    /// Length in bytes.
    pub size: u64,
}

/// Copies `source` into `store` under its digest.
///
/// # Errors
/// [`FileError`] when reading or writing fails; the store holds no half file.
pub fn store_artifact(source: &Path, store: &Path) -> Result<Stored, FileError> {
    let temporary = temporary_beside(&store.join("incoming"));
    let mut input = naming("open", source, File::open(source))?;
    let stored = naming("copy to", &temporary, copy_and_hash(&mut input, &temporary))?;
    put(&temporary, &store.join(&stored.sha256))?;
    Ok(stored)
}

fn copy_and_hash(input: &mut File, target: &Path) -> io::Result<Stored> {
    let mut output = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(target)?;
    let mut hash = Sha256::new();
    let mut size = 0;
    let mut buffer = vec![0; 1024 * 1024];
    loop {
        let count = input.read(&mut buffer)?;
        let Some(chunk) = buffer.get(..count).filter(|chunk| !chunk.is_empty()) else { break };
        hash.update(chunk);
        output.write_all(chunk)?;
        size += u64::try_from(count).unwrap_or(0);
    }
    output.sync_all()?;
    Ok(Stored { sha256: hex(&hash.finalize()), size })
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// Opens a stored artifact for reading and tells its length in bytes.
///
/// # Errors
/// The error of the system; not found when there is no such artifact.
pub async fn open_artifact(path: &Path) -> io::Result<(tokio::fs::File, u64)> {
    let file = tokio::fs::File::open(path).await?;
    let size = file.metadata().await?.len();
    Ok((file, size))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn an_artifact_lies_under_its_digest() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("k3s");
        fs::write(&source, b"abc").unwrap();
        let stored = store_artifact(&source, dir.path()).unwrap();
        assert_eq!(stored.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(fs::read(dir.path().join(&stored.sha256)).unwrap(), b"abc");
    }

    #[test]
    fn the_first_key_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        assert_eq!(keep_first(&path, "first".to_owned(), 0o600).unwrap(), "first");
        assert_eq!(keep_first(&path, "second".to_owned(), 0o600).unwrap(), "first");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_private_file_is_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        keep_first(&path, "secret".to_owned(), 0o600).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
