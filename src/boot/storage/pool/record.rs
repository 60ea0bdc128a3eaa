//! How an act on a pool ended, from its own unit to the daemon.
//!
//! Owns one small file per act in the run directory. Gone at boot, written
//! whole, and read only in the boot that it names.

use serde::{Deserialize, Serialize};

use super::PoolError;
use crate::error::Chain;
use crate::paths;
use crate::plan::Refusal;
use crate::sys::{FileError, Root, atomic, clock, host};

/// What an act has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// Whether anything is other than before.
    pub changed: bool,
    /// For people.
    pub words: String,
}

/// How an act ended last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Boot in which it did.
    pub boot_id: String,
    /// Seconds since the boot.
    pub at_s: u64,
    /// The pool's device-mapper name.
    pub pool: String,
    /// Whether anything was changed.
    pub changed: bool,
    /// What it has done; empty after a failure.
    pub done: String,
    /// Why it has not.
    pub refusal: Option<Refusal>,
}

/// Writes how the act `name` ended.
///
/// # Errors
/// When it cannot be written.
pub fn write(
    root: &Root,
    (name, pool): (&str, &str),
    result: &Result<Done, PoolError>,
) -> Result<(), FileError> {
    let done = result.as_ref().ok();
    let ended = Ended {
        boot_id: host::boot_id(root)?,
        at_s: clock::since_boot().as_secs(),
        pool: pool.to_owned(),
        changed: done.is_some_and(|done| done.changed),
        done: done.map(|done| done.words.clone()).unwrap_or_default(),
        refusal: result.as_ref().err().map(|error| refusal(pool, error)),
    };
    let bytes = serde_json::to_vec(&ended).unwrap_or_default();
    root.make_dir(paths::RUN_DIR, 0o755)?;
    atomic::write_volatile(root, &paths::act_end(name), &bytes, 0o644).map(|_| ())
}

/// How the act `name` ended last in this boot.
#[must_use]
pub fn read(root: &Root, name: &str) -> Option<Ended> {
    let bytes = root.read(&paths::act_end(name)).ok().flatten()?;
    let ended: Ended = serde_json::from_slice(&bytes).ok()?;
    (host::boot_id(root).ok()? == ended.boot_id).then_some(ended)
}

/// An error in the words of a refusal.
fn refusal(pool: &str, error: &PoolError) -> Refusal {
    match error {
        PoolError::Refused(refusal) => refusal.clone(),
        other => {
            let reason = format!("{pool}: {}", Chain(other));
            Refusal::new("EB-pool-failed", reason, "it is tried again by itself")
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_read_in_its_own_boot_only() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let boot_id = |id: &str| {
            root.make_dir("/proc/sys/kernel/random", 0o755).unwrap();
            atomic::write(&root, "/proc/sys/kernel/random/boot_id", id.as_bytes(), 0o644).unwrap();
        };
        boot_id("one");
        let refused = Err(PoolError::from(Refusal::new("EB-pool-space", "in use", "name another")));
        write(&root, ("create-pool", "edge-thinpool"), &refused).unwrap();
        let ended = read(&root, "create-pool").unwrap();
        assert_eq!(ended.refusal.unwrap().code, "EB-pool-space");
        assert_eq!(read(&root, "extend-pool"), None);
        boot_id("two");
        assert_eq!(read(&root, "create-pool"), None);
    }
}
