//! Puts an earlier generation back in force.
//!
//! Owns the way back: the copies that a generation keeps of its files are
//! written to their places, `config.yaml` last.

use super::generations::COPIES;
use super::{Applied, ApplyError};
use crate::paths;
use crate::sys::{FileError, Root, atomic};

/// Puts generation `number` back. A file that it has no copy of stays, but
/// without a copy of `config.yaml` there is nothing to go back to.
///
/// # Errors
/// When that copy is missing, or a file cannot be read or written.
pub fn rollback(root: &Root, number: u64) -> Result<Applied, ApplyError> {
    let mut applied = Applied { generation: Some(number), ..Applied::default() };
    let copy = paths::generation_file(number, "config.yaml");
    if root.read(&copy)?.is_none() {
        return Err(FileError::new("read", copy, std::io::ErrorKind::NotFound.into()).into());
    }
    // The commit point is the first of COPIES and must come last.
    for (path, name) in COPIES.iter().rev() {
        let Some(bytes) = root.read(&paths::generation_file(number, name))? else { continue };
        let mode = if *path == paths::K3S_CONFIG { 0o600 } else { 0o644 };
        let change = atomic::write(root, path, &bytes, mode)?;
        applied.note(path, change);
    }
    Ok(applied)
}
