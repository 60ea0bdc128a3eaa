//! How an act on a pool ended, from its own unit to the daemon.
//!
//! Owns one small file per act in the run directory. Gone at boot, written
//! whole, and read only in the boot that it names. Written before the work too:
//! an act that is killed has left the word that it was.

use serde::{Deserialize, Serialize};

use super::PoolError;
use crate::boot::act;
use crate::error::Chain;
use crate::paths;
use crate::plan::Refusal;
use crate::sys::exec::ExecError;
use crate::sys::{FileError, Root, atomic, clock, host};
use crate::wire::json;

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
    /// Seconds since the boot by systemd's clock, to be compared with its times.
    pub at_s: u64,
    /// The pool's device-mapper name.
    pub pool: String,
    /// Whether anything was changed.
    pub changed: bool,
    /// What it has done; empty after a failure.
    pub done: String,
    /// Why it has not.
    pub refusal: Option<Refusal>,
    /// It was begun, and its end is not written: it runs, or was ended from outside.
    #[serde(default)]
    pub is_open: bool,
    /// It failed for a disk that may come late.
    #[serde(default)]
    pub is_late: bool,
    /// How often in this boot it was begun without a result, this time included.
    #[serde(default)]
    pub tries: u32,
}

/// Writes that the act `name` begins.
///
/// # Errors
/// When it cannot be written: then it may not begin.
pub fn begin(root: &Root, (name, pool): (&str, &str)) -> Result<(), FileError> {
    let tries = tries(root, name) + 1;
    let reason = format!("{name} of {pool} was begun and has left no result (begun in this boot: {tries})");
    let next = format!(
        "journalctl -u {}; the disk: dmesg, smartctl -a; then reboot, or do it by hand: docs/thin-pool.md",
        act::unit(name)
    );
    let refusal = Some(Refusal::new("EB-pool-act", reason, next));
    put(root, name, &Ended { refusal, is_open: true, tries, ..plain(root, pool)? })
}

fn tries(root: &Root, name: &str) -> u32 {
    read(root, name).map_or(0, |ended| ended.tries)
}

fn plain(root: &Root, pool: &str) -> Result<Ended, FileError> {
    Ok(Ended {
        boot_id: host::boot_id(root)?,
        at_s: clock::monotonic().as_secs(),
        pool: pool.to_owned(),
        changed: false,
        done: String::new(),
        refusal: None,
        is_open: false,
        is_late: false,
        tries: 0,
    })
}

fn put(root: &Root, name: &str, ended: &Ended) -> Result<(), FileError> {
    let bytes = serde_json::to_vec(ended).unwrap_or_default();
    root.make_dir(paths::RUN_DIR, 0o755)?;
    atomic::write_volatile(root, &paths::act_end(name), &bytes, 0o644).map(|_| ())
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
    // A program that ran out of time has no result either.
    let hung = matches!(result, Err(PoolError::Exec(ExecError::Deadline { .. })));
    let ended = Ended {
        changed: done.is_some_and(|done| done.changed),
        done: done.map(|done| done.words.clone()).unwrap_or_default(),
        refusal: result.as_ref().err().map(|error| refusal(pool, error)),
        is_late: matches!(result, Err(PoolError::Late(_))),
        tries: if hung { tries(root, name) } else { 0 },
        ..plain(root, pool)?
    };
    put(root, name, &ended)
}

/// How the act `name` ended last in this boot.
#[must_use]
pub fn read(root: &Root, name: &str) -> Option<Ended> {
    let bytes = root.read(&paths::act_end(name)).ok().flatten()?;
    let ended: Ended = json::read(&bytes).ok()?;
    (host::boot_id(root).ok()? == ended.boot_id).then_some(ended)
}

/// An error in the words of a refusal.
fn refusal(pool: &str, error: &PoolError) -> Refusal {
    match error {
        PoolError::Refused(refusal) | PoolError::Late(refusal) => refusal.clone(),
        other => {
            let reason = format!("{pool}: {}", Chain(other));
            Refusal::new("EB-pool-act", reason, "it is tried again by itself; the disk: dmesg, smartctl -a")
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn an_act_that_has_no_result_has_left_that_and_how_often() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        root.make_dir("/proc/sys/kernel/random", 0o755).unwrap();
        atomic::write(&root, "/proc/sys/kernel/random/boot_id", b"one", 0o644).unwrap();
        let act = ("repair-pool", "edge-thinpool");
        begin(&root, act).unwrap();
        let killed = read(&root, act.0).unwrap();
        assert!(killed.is_open && killed.tries == 1 && !killed.changed);
        let words = killed.refusal.unwrap().to_string();
        assert!(
            words.starts_with("EB-pool-act: repair-pool of edge-thinpool was begun and has left no result"),
            "{words}"
        );
        assert!(words.contains("journalctl -u edge-bootstrap-act-repair-pool.service"), "{words}");
        begin(&root, act).unwrap();
        let hung = ExecError::Deadline { program: "lvchange".into(), seconds: 1200 };
        write(&root, act, &Err(hung.into())).unwrap();
        let ended = read(&root, act.0).unwrap();
        assert_eq!((ended.is_open, ended.tries), (false, 2), "no program ended: no result");
        assert!(ended.refusal.unwrap().reason.contains("did not end within 1200 s"));
        let late = Refusal::new("EB-pool-inactive", "no disk", "wait");
        write(&root, act, &Err(PoolError::Late(late.clone()))).unwrap();
        let ended = read(&root, act.0).unwrap();
        assert_eq!((ended.is_late, ended.refusal), (true, Some(late)));
        let done = Done { changed: true, words: "up".into() };
        write(&root, act, &Ok(done)).unwrap();
        let ended = read(&root, act.0).unwrap();
        assert_eq!((ended.is_open, ended.is_late, ended.tries, ended.refusal), (false, false, 0, None));
    }

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
