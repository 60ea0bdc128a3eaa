//! A hold: why k3s must not start yet.
//!
//! Owns the record in `/run` and the rule that it counts only while the process
//! that wrote it lives, so that a dead daemon never keeps k3s down.

use serde::{Deserialize, Serialize};

use crate::paths;
use crate::plan::Refusal;
use crate::sys::root::FileError;
use crate::sys::{Change, Root, atomic, host};
use crate::wire::json;

/// Written by the daemon, read by the gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// `EB-…`.
    pub code: String,
    /// What the daemon waits for.
    pub reason: String,
    /// Boot in which it was written.
    pub boot_id: String,
    /// The daemon.
    pub pid: u32,
    /// Its start time in clock ticks since boot: tells it from a later process
    /// with the same number.
    pub start_time: u64,
}

/// Holds k3s as long as this process lives.
///
/// # Errors
/// When the record cannot be written.
pub fn set(root: &Root, refusal: &Refusal) -> Result<Change, FileError> {
    let pid = host::pid();
    let hold = Hold {
        code: refusal.code.clone(),
        reason: refusal.reason.clone(),
        boot_id: host::boot_id(root).unwrap_or_default(),
        pid,
        start_time: host::process_start(root, pid).unwrap_or_default(),
    };
    let text = serde_json::to_vec(&hold).unwrap_or_default();
    atomic::write_volatile(root, paths::HOLD, &text, 0o644)
}

/// Ends the hold.
///
/// # Errors
/// When the record cannot be removed.
pub fn clear(root: &Root) -> Result<bool, FileError> {
    root.remove_file(paths::HOLD)
}

/// The hold in force: of this boot, and its writer lives. What cannot be read
/// is no hold.
#[must_use]
pub fn current(root: &Root) -> Option<Hold> {
    let bytes = root.read(paths::HOLD).ok()??;
    let hold: Hold = json::read(&bytes).ok()?;
    let same_boot = host::boot_id(root).is_ok_and(|boot_id| boot_id == hold.boot_id);
    let alive = host::process_start(root, hold.pid) == Some(hold.start_time);
    (same_boot && alive).then_some(hold)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        root.make_dir("/run/edge-bootstrap", 0o755).unwrap();
        root.make_dir("/proc/sys/kernel/random", 0o755).unwrap();
        atomic::write(&root, "/proc/sys/kernel/random/boot_id", b"boot-1\n", 0o444).unwrap();
        (dir, root)
    }

    fn process(root: &Root, start: u64) {
        let path = format!("/proc/{}", host::pid());
        root.make_dir(&path, 0o755).unwrap();
        let stat = format!("1 (odd ) name) S {} {start} 0\n", "0 ".repeat(18).trim_end());
        atomic::write(root, &format!("{path}/stat"), stat.as_bytes(), 0o444).unwrap();
    }

    #[test]
    fn a_hold_counts_only_while_its_writer_lives_in_this_boot() {
        let (_dir, root) = root();
        process(&root, 77);
        set(&root, &Refusal::new("EB-wait-init-lease", "no word from central", "wait")).unwrap();
        assert_eq!(current(&root).unwrap().code, "EB-wait-init-lease");
        process(&root, 78);
        assert_eq!(current(&root), None, "another process with the same number");
        process(&root, 77);
        atomic::write(&root, "/proc/sys/kernel/random/boot_id", b"boot-2\n", 0o444).unwrap();
        assert_eq!(current(&root), None, "another boot");
    }

    #[test]
    fn a_torn_hold_is_no_hold() {
        let (_dir, root) = root();
        atomic::write(&root, paths::HOLD, b"{\"code\":", 0o644).unwrap();
        assert_eq!(current(&root), None);
    }
}
