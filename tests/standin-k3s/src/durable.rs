//! Owns every write of a file that must survive a power cut: temporary file,
//! fsync, rename, fsync of the directory. It never appends or edits in place.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Writes `bytes` with `mode` so that a cut leaves the old or the new file.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let parent = parent(path)?;
    make_dir(&parent)?;
    let temporary = sibling(path);
    let write = || -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))?;
    sync_dir(&parent)
}

/// Writes only when the content differs, so that the modification time of an
/// unchanged file stays.
pub fn write_if_changed(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    match fs::read(path) {
        Ok(old) if old == bytes => Ok(()),
        _ => write(path, bytes, mode),
    }
}

/// Creates a directory with its parents, each entry made durable.
pub fn make_dir(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let up = parent(path)?;
    make_dir(&up)?;
    match fs::create_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("cannot create {}", path.display()))
        }
        _ => sync_dir(&up),
    }
}

/// Renames and makes the rename durable.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))?;
    sync_dir(&parent(to)?)
}

/// Makes `path` a symbolic link to `target`, replacing what is there.
pub fn link(target: &Path, path: &Path) -> Result<()> {
    if fs::read_link(path).is_ok_and(|now| now == target) {
        return Ok(());
    }
    let temporary = sibling(path);
    let _ = fs::remove_file(&temporary);
    symlink(target, &temporary).with_context(|| format!("cannot link {}", path.display()))?;
    rename(&temporary, path)
}

fn sync_dir(path: &Path) -> Result<()> {
    let sync = || File::open(path)?.sync_all();
    sync().with_context(|| format!("cannot sync {}", path.display()))
}

fn parent(path: &Path) -> Result<PathBuf> {
    let parent = path.parent().with_context(|| format!("{} has no parent", path.display()))?;
    Ok(parent.to_path_buf())
}

/// One writer per process and file at a time, so the process id is enough.
fn sibling(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".tmp{}", std::process::id()));
    PathBuf::from(name)
}
