//! The one writer of file content.
//!
//! Owns the sequence: temporary file in the same directory, mode and owner
//! set, fsync, rename, fsync of the directory (all four are needed: without
//! them a power cut gives back the old content, an empty file or none). Equal
//! content is left alone, so that a second pass touches nothing. Extended
//! attributes and SELinux labels of a replaced file are not carried over.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use super::root::{FileError, Root, sync_path};
use super::{fault, random};

/// What a write changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Content and mode were right already; nothing was touched.
    Unchanged,
    /// There was nothing before.
    Created,
    /// Content or mode was different.
    Replaced,
}

impl Change {
    /// Whether anything was touched.
    #[must_use]
    pub fn is_change(self) -> bool {
        self != Self::Unchanged
    }
}

/// Makes `path` hold exactly `bytes` with `mode`, owned by who runs this.
///
/// After a power cut at any moment the file has its old or its new content.
///
/// # Errors
/// When a step fails; the old file is then still in place.
pub fn write(root: &Root, path: &str, bytes: &[u8], mode: u32) -> Result<Change, FileError> {
    let real = root.path(path);
    let existed = match compare(&real, bytes, mode) {
        Existing::Equal => return Ok(Change::Unchanged),
        Existing::Different => true,
        Existing::Absent => false,
    };
    let failed = |error| FileError::new("write", path, error);
    let directory = parent(&real).map_err(failed)?;
    let temporary = temporary_name(&real).map_err(failed)?;
    let written = stage(&temporary, bytes, mode)
        .and_then(|()| fault::point("atomic-staged"))
        .and_then(|()| fs::rename(&temporary, &real))
        .and_then(|()| fault::point("atomic-renamed"))
        .and_then(|()| sync_path(directory));
    if let Err(error) = written {
        // The temporary file may be gone already; the cause is what matters.
        let _ = fs::remove_file(&temporary);
        return Err(failed(error));
    }
    Ok(if existed { Change::Replaced } else { Change::Created })
}

/// Makes `path` a symbolic link to `target`.
///
/// # Errors
/// When a step fails; the old link is then still in place.
pub fn link(root: &Root, path: &str, target: &str) -> Result<Change, FileError> {
    let real = root.path(path);
    let failed = |error| FileError::new("link", path, error);
    let existed = match fs::read_link(&real) {
        Ok(now) if now == Path::new(target) => return Ok(Change::Unchanged),
        _ => fs::symlink_metadata(&real).is_ok(),
    };
    let directory = parent(&real).map_err(failed)?;
    let temporary = temporary_name(&real).map_err(failed)?;
    symlink(target, &temporary).map_err(failed)?;
    fs::rename(&temporary, &real).and_then(|()| sync_path(directory)).map_err(|error| {
        let _ = fs::remove_file(&temporary);
        failed(error)
    })?;
    Ok(if existed { Change::Replaced } else { Change::Created })
}

/// Makes `path` hold `bytes` in a volatile file system: renamed, not synced.
///
/// # Errors
/// When a step fails.
pub fn write_volatile(root: &Root, path: &str, bytes: &[u8], mode: u32) -> Result<Change, FileError> {
    let real = root.path(path);
    let existed = match compare(&real, bytes, mode) {
        Existing::Equal => return Ok(Change::Unchanged),
        Existing::Different => true,
        Existing::Absent => false,
    };
    let failed = |error| FileError::new("write", path, error);
    let temporary = temporary_name(&real).map_err(failed)?;
    create(&temporary, bytes, mode).and_then(|_| fs::rename(&temporary, &real)).map_err(|error| {
        let _ = fs::remove_file(&temporary);
        failed(error)
    })?;
    Ok(if existed { Change::Replaced } else { Change::Created })
}

/// As [`write_volatile`]; a file that cannot be written anew goes, because what it
/// held before would be believed of now. Whether it holds `bytes`.
pub fn write_volatile_or_drop(root: &Root, path: &str, bytes: &[u8], mode: u32) -> bool {
    let written = write_volatile(root, path, bytes, mode).is_ok();
    if !written {
        let _ = root.remove_file(path);
    }
    written
}

/// Moves a finished file, downloaded beside its final place, to where it belongs.
///
/// # Errors
/// When a step fails; `from` is then still in place.
pub fn publish(root: &Root, from: &str, to: &str, mode: u32) -> Result<(), FileError> {
    let (real_from, real_to) = (root.path(from), root.path(to));
    let failed = |error| FileError::new("publish", to, error);
    fs::set_permissions(&real_from, fs::Permissions::from_mode(mode)).map_err(failed)?;
    sync_path(&real_from).map_err(failed)?;
    fs::rename(&real_from, &real_to).map_err(failed)?;
    sync_path(parent(&real_to).map_err(failed)?).map_err(failed)
}

/// Removes what writes that never ended left in `directory`; gives how many.
/// For a moment in which nothing of ours writes there.
///
/// # Errors
/// When the directory cannot be listed or a file cannot be removed.
pub fn sweep(root: &Root, directory: &str) -> Result<usize, FileError> {
    let names = root.list(directory)?;
    let left: Vec<&String> = names.iter().filter(|name| is_temporary(name)).collect();
    for name in &left {
        root.remove_file(&format!("{directory}/{name}"))?;
    }
    Ok(left.len())
}

/// Whether [`temporary_name`] gives such a name: no other program's file is taken for ours.
fn is_temporary(name: &str) -> bool {
    let middle = name.strip_prefix('.').and_then(|name| name.strip_suffix(".tmp"));
    let number = middle.and_then(|middle| middle.rsplit_once('.')).map_or("", |(_, number)| number);
    number.len() == 16 && number.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

enum Existing {
    Absent,
    Equal,
    Different,
}

fn compare(real: &Path, bytes: &[u8], mode: u32) -> Existing {
    let Ok(meta) = fs::symlink_metadata(real) else { return Existing::Absent };
    let same_shape =
        meta.is_file() && meta.len() == bytes.len() as u64 && meta.permissions().mode() & 0o7777 == mode;
    if same_shape && fs::read(real).is_ok_and(|now| now == bytes) {
        Existing::Equal
    } else {
        Existing::Different
    }
}

fn parent(real: &Path) -> io::Result<&Path> {
    real.parent().ok_or_else(|| io::Error::other("path has no parent directory"))
}

fn temporary_name(real: &Path) -> io::Result<PathBuf> {
    let name = real.file_name().ok_or_else(|| io::Error::other("path has no file name"))?;
    let name = format!(".{}.{:016x}.tmp", name.to_string_lossy(), random::number());
    Ok(parent(real)?.join(name))
}

fn stage(temporary: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    create(temporary, bytes, mode)?.sync_all()
}

fn create(temporary: &Path, bytes: &[u8], mode: u32) -> io::Result<fs::File> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary)?;
    file.write_all(bytes)?;
    // After the umask has had its say; a secret is never wider than 0600 on the way.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    Ok(file)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn equal_content_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert_eq!(write(&root, "/f", b"one", 0o600).unwrap(), Change::Created);
        let before = root.stat("/f").unwrap().unwrap();
        assert_eq!(write(&root, "/f", b"one", 0o600).unwrap(), Change::Unchanged);
        assert_eq!(root.stat("/f").unwrap().unwrap().inode, before.inode);
        assert_eq!(write(&root, "/f", b"one", 0o644).unwrap(), Change::Replaced);
        assert_eq!(write(&root, "/f", b"two", 0o644).unwrap(), Change::Replaced);
        assert_eq!(root.list("/").unwrap(), ["f"], "no temporary file stays");
    }

    #[test]
    fn a_record_that_cannot_be_written_anew_does_not_stay_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert!(write_volatile_or_drop(&root, "/f", b"one", 0o600));
        assert!(write_volatile_or_drop(&root, "/f", b"two", 0o600));
        assert_eq!(root.read("/f").unwrap().unwrap(), b"two");
        // No temporary file beside it can have so long a name.
        let long = format!("/{}", "x".repeat(240));
        fs::write(root.path(&long), b"one").unwrap();
        assert!(!write_volatile_or_drop(&root, &long, b"two", 0o600));
        assert_eq!(root.list("/").unwrap(), ["f"]);
    }

    #[test]
    fn a_link_is_replaced_by_a_file_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        write(&root, "/target", b"keep", 0o600).unwrap();
        link(&root, "/f", "target").unwrap();
        assert_eq!(link(&root, "/f", "target").unwrap(), Change::Unchanged);
        write(&root, "/f", b"new", 0o600).unwrap();
        assert_eq!(root.read("/target").unwrap().unwrap(), b"keep");
    }

    #[test]
    fn a_sweep_takes_our_own_temporary_files_alone() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let ours = temporary_name(&root.path("/f.json")).unwrap();
        std::fs::write(ours, b"half").unwrap();
        for other in [
            ".f.tmp",
            "f.0123456789abcdef.tmp",
            ".f.0123456789abcdeg.tmp",
            ".f.0123456789abcdef.swp",
            "f.json",
        ] {
            std::fs::write(root.path(other), b"x").unwrap();
        }
        assert_eq!(sweep(&root, "/").unwrap(), 1);
        assert_eq!(root.list("/").unwrap().len(), 5);
        assert_eq!(sweep(&root, "/").unwrap(), 0);
        assert_eq!(sweep(&root, "/none").unwrap(), 0);
    }

    #[test]
    fn a_missing_directory_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let error = write(&Root::new(dir.path()), "/none/f", b"x", 0o600).unwrap_err();
        assert_eq!(error.to_string(), "write /none/f");
    }
}
