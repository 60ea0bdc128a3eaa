//! What is recorded of the k3s binaries in the store, beside each of them.
//!
//! Owns reading and writing the record, and how a file looks now. What a
//! difference means is `plan::binary`'s. Survives a power cut.

use crate::paths;
use crate::plan::binary::{Look, Record, Seen, look};
use crate::role::version::K3sVersion;
use crate::sys::root::FileError;
use crate::sys::{Change, Root, atomic};

/// How a file looks now; `None` when there is no regular file.
///
/// # Errors
/// When it cannot be looked at.
pub fn seen(root: &Root, path: &str) -> Result<Option<Seen>, FileError> {
    let stat = root.stat(path)?.filter(|stat| stat.is_file);
    Ok(stat.map(|it| Seen { dev: it.dev, inode: it.inode, size: it.size, mtime: it.mtime, ctime: it.ctime }))
}

/// The record of the binary at `path`; `None` when there is none that can be read.
#[must_use]
pub fn record(root: &Root, path: &str) -> Option<Record> {
    Record::parse(&root.read_text(&record_path(path)).ok()??)
}

/// Writes what is known of the binary at `path`.
///
/// # Errors
/// When it cannot be written.
pub fn store(root: &Root, path: &str, record: &Record) -> Result<Change, FileError> {
    root.remove_file(&condemned_path(path))?;
    atomic::write(root, &record_path(path), record.to_string().as_bytes(), 0o644)
}

/// From here on the binary at `path` counts as absent.
///
/// # Errors
/// When the record cannot be removed.
pub fn forget(root: &Root, path: &str) -> Result<(), FileError> {
    root.remove_file(&record_path(path)).map(|_| ())
}

/// As [`forget`], and as long as that very file lies there nobody starts it: its
/// digest was another one.
///
/// # Errors
/// When it cannot be written down.
pub fn condemn(root: &Root, path: &str, record: &Record) -> Result<(), FileError> {
    let record = Record { seen: seen(root, path)?, ..record.clone() };
    atomic::write(root, &condemned_path(path), record.to_string().as_bytes(), 0o644)?;
    forget(root, path)
}

/// Whether the binary of this version is the one that was condemned. A file that
/// somebody put in its place is not, nor one to which only a name was added.
#[must_use]
pub fn is_condemned(root: &Root, version: &str) -> bool {
    let path = paths::k3s_binary(version);
    let text = root.read_text(&condemned_path(&path)).ok().flatten().unwrap_or_default();
    let then = Record::parse(&text).and_then(|record| record.seen);
    let now = seen(root, &path).ok().flatten();
    let parts = |it: Seen| (it.inode, it.size, it.mtime);
    now.is_some() && then.map(parts) == now.map(parts)
}

fn record_path(path: &str) -> String {
    format!("{path}.sha256")
}

fn condemned_path(path: &str) -> String {
    format!("{path}.damaged")
}

/// Versions that have a place in the store, whether whole or not.
#[must_use]
pub fn versions(root: &Root) -> Vec<String> {
    let names = root.list(paths::K3S_STORE).unwrap_or_default();
    names.into_iter().filter(|name| name.parse::<K3sVersion>().is_ok()).collect()
}

/// The record of a version's binary, and what a look at it says. `None` without a
/// record, or when it cannot be looked at: that is no evidence.
#[must_use]
pub fn look_at(root: &Root, version: &str) -> Option<(Record, Look)> {
    let path = paths::k3s_binary(version);
    let record = record(root, &path)?;
    let found = seen(root, &path).ok()?;
    let look = look(&record, found);
    Some((record, look))
}
