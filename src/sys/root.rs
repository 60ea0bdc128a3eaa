//! The root below which every path lies.
//!
//! Owns reading and the few plain changes of the file system (make, move,
//! remove). Content is written by `sys::atomic` only. A path is absolute as
//! the host sees it; with `--root DIR` it lands below DIR.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Largest file that is read whole, in bytes. Our files are far smaller; a
/// runaway file must not eat the memory of a 2 GiB host.
pub const MAX_FILE: u64 = 16 * 1024 * 1024;
/// What is said of a directory or device in the place of a file.
pub const NO_FILE: &str = "not a regular file";

/// An operation on one path that failed.
#[derive(Debug, Error)]
#[error("{verb} {path}")]
pub struct FileError {
    /// What was tried, for example `read`.
    pub verb: &'static str,
    /// On what.
    pub path: String,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

impl FileError {
    /// Wraps `source`.
    pub fn new(verb: &'static str, path: impl Into<String>, source: io::Error) -> Self {
        Self { verb, path: path.into(), source }
    }

    /// Whether there is no such file.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
    }
}

/// Mode, size and identity of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Permission bits.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// Owner.
    pub uid: u32,
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub inode: u64,
    /// Modification time, seconds since 1970.
    pub mtime: i64,
    /// Change time, seconds since 1970; no program can set it.
    pub ctime: i64,
    /// A directory.
    pub is_dir: bool,
    /// A regular file.
    pub is_file: bool,
}

/// Where `/` is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root(PathBuf);

impl Default for Root {
    fn default() -> Self {
        Self(PathBuf::from("/"))
    }
}

impl Root {
    /// Everything lies below `path`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Whether this is the running host itself.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// The real place of an absolute path.
    #[must_use]
    pub fn path(&self, absolute: &str) -> PathBuf {
        self.0.join(absolute.trim_start_matches('/'))
    }

    /// Reads a whole file; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is larger than [`MAX_FILE`].
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>, FileError> {
        let real = self.path(path);
        let size = match fs::metadata(&real) {
            Ok(meta) if meta.is_file() => meta.len(),
            // Of the kind that the kernel has for a directory: a device is in the way just so.
            Ok(_) => {
                let source = io::Error::new(io::ErrorKind::IsADirectory, NO_FILE);
                return Err(FileError::new("read", path, source));
            }
            Err(error) => return absent("read", path, error),
        };
        if size > MAX_FILE {
            return Err(FileError::new("read", path, io::Error::other("larger than 16 MiB")));
        }
        match fs::read(&real) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) => absent("read", path, error),
        }
    }

    /// Reads a whole text file; `None` when there is none.
    ///
    /// # Errors
    /// As [`Root::read`], and when it is not UTF-8.
    pub fn read_text(&self, path: &str) -> Result<Option<String>, FileError> {
        let Some(bytes) = self.read(path)? else { return Ok(None) };
        String::from_utf8(bytes)
            .map(Some)
            .map_err(|_| FileError::new("read", path, io::Error::other("not UTF-8 text")))
    }

    /// Reads a small text of the kernel (procfs, sysfs), without its last line break.
    ///
    /// # Errors
    /// When there is no such file or it cannot be read.
    pub fn read_kernel(&self, path: &str) -> Result<String, FileError> {
        let bytes = fs::read(self.path(path)).map_err(|error| FileError::new("read", path, error))?;
        Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
    }

    /// Mode, size and identity, following links; `None` when there is nothing.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn stat(&self, path: &str) -> Result<Option<Stat>, FileError> {
        match fs::metadata(self.path(path)) {
            Ok(meta) => Ok(Some(stat(&meta))),
            Err(error) => absent("look at", path, error),
        }
    }

    /// Whether anything is there.
    #[must_use]
    pub fn exists(&self, path: &str) -> bool {
        fs::symlink_metadata(self.path(path)).is_ok()
    }

    /// Target of a symbolic link; `None` when there is no link.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_link(&self, path: &str) -> Result<Option<String>, FileError> {
        match fs::read_link(self.path(path)) {
            Ok(target) => Ok(Some(target.to_string_lossy().into_owned())),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
            Err(error) => absent("read link", path, error),
        }
    }

    /// Names in a directory, sorted; empty when there is no directory.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub fn list(&self, path: &str) -> Result<Vec<String>, FileError> {
        let entries = match fs::read_dir(self.path(path)) {
            Ok(entries) => entries,
            Err(error) => return absent("list", path, error).map(|_: Option<()>| Vec::new()),
        };
        let mut names = entries
            .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<_>>>()
            .map_err(|error| FileError::new("list", path, error))?;
        names.sort();
        Ok(names)
    }

    /// Makes a directory and its parents with `mode`; sets the mode of the
    /// last one when it is there already.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make_dir(&self, path: &str, mode: u32) -> Result<(), FileError> {
        let real = self.path(path);
        let failed = |error| FileError::new("make directory", path, error);
        if real.is_dir() {
            let now = fs::metadata(&real).map_err(failed)?.permissions().mode() & 0o7777;
            if now != mode {
                fs::set_permissions(&real, fs::Permissions::from_mode(mode)).map_err(failed)?;
            }
            return Ok(());
        }
        // Each new entry is synced by itself: a cut must not leave a file without
        // the directory that leads to it.
        let missing: Vec<&Path> = real.ancestors().take_while(|path| !path.is_dir()).collect();
        for path in missing.into_iter().rev() {
            make_one(path, mode).map_err(failed)?;
        }
        Ok(())
    }

    /// Makes a directory and its parents with 0755 where they are missing;
    /// never touches one that is there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn ensure_dir(&self, path: &str) -> Result<(), FileError> {
        if self.path(path).is_dir() {
            return Ok(());
        }
        self.make_dir(path, 0o755)
    }

    /// Removes a file; whether one was there.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_file(&self, path: &str) -> Result<bool, FileError> {
        match fs::remove_file(self.path(path)) {
            Ok(()) => Ok(true),
            Err(error) => absent("remove", path, error).map(|_: Option<()>| false),
        }
    }

    /// Makes a file the oldest that there can be; nothing happens when there is none.
    ///
    /// # Errors
    /// When its time cannot be set.
    pub fn age(&self, path: &str) -> Result<(), FileError> {
        let file = fs::File::options().write(true).open(self.path(path));
        match file.and_then(|file| file.set_modified(std::time::UNIX_EPOCH)) {
            Ok(()) => Ok(()),
            Err(error) => absent("set the time of", path, error).map(|_: Option<()>| ()),
        }
    }

    /// Removes a directory of ours with all that is in it; nothing happens when
    /// there is none. Never follows links.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_own_dir(&self, path: &str) -> Result<(), FileError> {
        match fs::remove_dir_all(self.path(path)) {
            Ok(()) => Ok(()),
            Err(error) => absent("remove", path, error).map(|_: Option<()>| ()),
        }
    }

    /// Removes a directory in which nothing is; whether it is gone. Follows no links.
    #[must_use]
    pub fn remove_empty_dir(&self, path: &str) -> bool {
        fs::remove_dir(self.path(path)).is_ok()
    }

    /// Moves a file or directory on one file system and syncs both parents.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), FileError> {
        let (real_from, real_to) = (self.path(from), self.path(to));
        let failed = |error| FileError::new("move", format!("{from} to {to}"), error);
        fs::rename(&real_from, &real_to).map_err(failed)?;
        for parent in [real_from.parent(), real_to.parent()].into_iter().flatten() {
            sync_path(parent).map_err(failed)?;
        }
        Ok(())
    }

    /// Gives a file a second name on one file system, in the place of whatever
    /// has that name.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn hard_link(&self, from: &str, to: &str) -> Result<(), FileError> {
        self.remove_file(to)?;
        let failed = |error| FileError::new("link", format!("{from} as {to}"), error);
        fs::hard_link(self.path(from), self.path(to)).map_err(failed)
    }

    /// The first bytes of a file, at most `most`; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn begin(&self, path: &str, most: u64) -> Result<Option<Vec<u8>>, FileError> {
        use std::io::Read as _;
        let mut bytes = Vec::new();
        let read = fs::File::open(self.path(path)).and_then(|file| file.take(most).read_to_end(&mut bytes));
        match read {
            Ok(_) => Ok(Some(bytes)),
            Err(error) => absent("read", path, error),
        }
    }

    /// Size of a regular file, without following a link at its end; `None` when
    /// there is none, or something else.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn plain_size(&self, path: &str) -> Result<Option<u64>, FileError> {
        match fs::symlink_metadata(self.path(path)) {
            Ok(meta) => Ok(meta.is_file().then_some(meta.len())),
            Err(error) => absent("look at", path, error),
        }
    }

    /// Makes everything on the file system of `path` durable: syncfs(2).
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn sync_fs(&self, path: &str) -> Result<(), FileError> {
        let failed = |error| FileError::new("sync the file system of", path, error);
        let file = fs::File::open(self.path(path)).map_err(failed)?;
        nix::unistd::syncfs(&file).map_err(|errno| failed(errno.into()))
    }

    /// Makes a directory's entries durable.
    ///
    /// # Errors
    /// When it cannot be synced.
    pub fn sync_dir(&self, path: &str) -> Result<(), FileError> {
        sync_path(&self.path(path)).map_err(|error| FileError::new("sync", path, error))
    }

    /// Makes a file's content durable.
    ///
    /// # Errors
    /// When it cannot be synced.
    pub fn sync_file(&self, path: &str) -> Result<(), FileError> {
        sync_path(&self.path(path)).map_err(|error| FileError::new("sync", path, error))
    }
}

/// Makes one directory and its entry durable. The mode is set afterwards too:
/// the umask of a hardened unit would narrow it.
fn make_one(path: &Path, mode: u32) -> io::Result<()> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    path.parent().map_or(Ok(()), sync_path)
}

/// `fsync` of a file or directory.
pub(super) fn sync_path(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

fn stat(meta: &fs::Metadata) -> Stat {
    Stat {
        mode: meta.permissions().mode() & 0o7777,
        size: meta.len(),
        uid: meta.uid(),
        dev: meta.dev(),
        inode: meta.ino(),
        mtime: meta.mtime(),
        ctime: meta.ctime(),
        is_dir: meta.is_dir(),
        is_file: meta.is_file(),
    }
}

fn absent<T>(verb: &'static str, path: &str, error: io::Error) -> Result<Option<T>, FileError> {
    let error = FileError::new(verb, path, error);
    if error.is_absent() { Ok(None) } else { Err(error) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_is_none_and_what_is_broken_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert_eq!(root.read("/etc/none").unwrap(), None);
        root.make_dir("/etc", 0o755).unwrap();
        assert!(root.read("/etc").is_err());
        assert!(root.list("/none").unwrap().is_empty());
        assert!(!root.remove_file("/etc/none").unwrap());
    }

    #[test]
    fn make_dir_sets_the_mode_of_an_old_directory() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        root.make_dir("/var/lib/x", 0o755).unwrap();
        root.make_dir("/var/lib/x", 0o700).unwrap();
        assert_eq!(root.stat("/var/lib/x").unwrap().unwrap().mode, 0o700);
    }
}
