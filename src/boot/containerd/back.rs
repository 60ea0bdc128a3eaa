//! Whether containerd does not come up with its new file.
//!
//! Owns the evidence for the way back and against it, and containerd's last
//! words. The way back itself is that of every generation
//! ([`crate::boot::record`]).

use std::time::Duration;

use super::checked::{self, Verdict};
use super::{NEXT, words};
use crate::facts::HostFacts;
use crate::facts::runtime::Unit;
use crate::gate;
use crate::paths;
use crate::plan::units::CONTAINERD;
use crate::plan::{self, Refusal};
use crate::sys::{Root, exec};
use crate::wire::secret::sha256_hex;

/// A containerd that was restarted this often does not come up by itself.
const TOO_MANY_RESTARTS: u32 = 3;
/// A journal of years on a slow disk is not worth more.
const DEADLINE: Duration = Duration::from_secs(3);
/// How many lines of the journal are looked through.
const LINES: &str = "40";

/// containerd does not come up, and its file is another one than when it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::boot) struct GaveUp {
    /// SHA-256 of the file that it does not come up with.
    pub file: String,
    /// What systemd says.
    pub words: String,
}

/// Whether containerd was started again and again with another file than that of
/// generation `last_good`, or systemd gave up. With the same file the cause is
/// elsewhere, and nothing to go back from.
pub(in crate::boot) fn gave_up(root: &Root, facts: &HostFacts, last_good: u64) -> Option<GaveUp> {
    let unit = unit(facts).filter(|unit| gives_up(unit))?;
    let now = root.read(paths::CONTAINERD_CONFIG).ok()??;
    // What systemd counted may be of the file before, or of starts that the gate refused.
    let started = facts.runtime.containerd.started_with.known().and_then(Option::as_ref);
    if started != Some(&sha256_hex(&now)) || gate::refused(root, "containerd").is_some() {
        return None;
    }
    let good = root.read(&paths::generation_file(last_good, "containerd.toml")).ok()??;
    (now != good).then(|| GaveUp {
        file: sha256_hex(&now),
        words: format!(
            "containerd does not come up with its new file: {}/{} after {} restarts",
            unit.active,
            unit.sub,
            unit.restarts.known().map_or_else(|| "some".to_owned(), u32::to_string)
        ),
    })
}

/// Why the generation in force stays, although it failed: with the file of
/// `last_good` containerd would not come up either. `Some(None)`: its store is
/// damaged, which has a finding of its own.
pub(in crate::boot) async fn keeps_here(
    root: &Root,
    facts: &HostFacts,
    last_good: u64,
) -> Option<Option<Refusal>> {
    if plan::store::decide(facts).is_some() {
        return Some(None);
    }
    let binary = facts.runtime.containerd.binary.known()?;
    let good = root.read(&paths::generation_file(last_good, "containerd.toml")).ok()??;
    if root.read(paths::CONTAINERD_CONFIG).ok().flatten().as_ref() == Some(&good) {
        return None;
    }
    match checked::ask(root, binary, &good).await {
        Verdict::Accepted | Verdict::Unknown(_) => None,
        Verdict::Refused(why) => Some(Some(Refusal::new(
            "EB-containerd-refused",
            format!(
                "{}; this is the file of the last good generation {last_good}: nothing is rolled back",
                words(&why)
            ),
            NEXT,
        ))),
    }
}

fn unit(facts: &HostFacts) -> Option<&Unit> {
    facts.runtime.units.get("containerd")?.known()
}

/// Whether containerd does not come up by itself any more, whatever the cause.
pub(in crate::boot) fn is_over(facts: &HostFacts) -> bool {
    unit(facts).is_some_and(gives_up)
}

/// systemd before 235 does not count: there the wait for a further start counts.
fn gives_up(unit: &Unit) -> bool {
    let waits = unit.sub == "auto-restart";
    let often = unit.restarts.known().map_or(waits, |restarts| *restarts >= TOO_MANY_RESTARTS);
    unit.active == "failed" || (unit.active != "active" && often)
}

/// What containerd said last of its own end; empty when that is not to be had.
pub(in crate::boot) async fn last_words(root: &Root) -> String {
    if !root.is_host() {
        return String::new();
    }
    let words = ["-u", CONTAINERD, "-b", "-n", LINES, "-o", "cat", "--no-pager", "-q"];
    match exec::run("journalctl", &words, DEADLINE).await {
        Ok(output) => cause(&output.stdout).unwrap_or_default(),
        Err(_) => String::new(),
    }
}

/// The last line with which the program itself ended, or an error of its log.
fn cause(journal: &str) -> Option<String> {
    let is_end = |line: &&str| line.starts_with("containerd: ") || line.contains("level=fatal");
    let is_error = |line: &&str| line.contains("level=error") || line.starts_with("panic: ");
    let lines = || journal.lines().rev();
    let line = lines().find(is_end).or_else(|| lines().find(is_error))?;
    Some(format!(": {}", line.chars().take(300).collect::<String>()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::facts::Fact;
    use crate::sys::atomic;

    fn unit(active: &str, sub: &str, restarts: Option<u32>) -> Unit {
        let restarts = restarts.map_or_else(Fact::default, Fact::Known);
        Unit { active: active.into(), sub: sub.into(), restarts, ..Unit::default() }
    }

    #[test]
    fn one_crash_is_no_reason_and_a_loop_is() {
        for (unit, over) in [
            (unit("active", "running", Some(9)), false),
            (unit("activating", "auto-restart", Some(1)), false),
            (unit("activating", "auto-restart", Some(3)), true),
            (unit("activating", "start", Some(4)), true),
            (unit("failed", "failed", Some(0)), true),
            (unit("inactive", "dead", Some(0)), false),
            // systemd 219 does not count.
            (unit("activating", "auto-restart", None), true),
            (unit("activating", "start", None), false),
        ] {
            assert_eq!(gives_up(&unit), over, "{unit:?}");
        }
    }

    #[test]
    fn with_the_same_file_there_is_nothing_to_go_back_from() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let mut facts = HostFacts::default();
        facts.runtime.units.insert("containerd".into(), Fact::Known(unit("failed", "failed", None)));
        let started = |facts: &mut HostFacts, text: &[u8]| {
            facts.runtime.containerd.started_with = Fact::Known(Some(sha256_hex(text)));
        };
        let copy = paths::generation_file(4, "containerd.toml");
        for path in [paths::CONTAINERD_CONFIG, &copy] {
            root.ensure_dir(path.rsplit_once('/').unwrap().0).unwrap();
            atomic::write(&root, path, b"a", 0o644).unwrap();
        }
        started(&mut facts, b"a");
        assert_eq!(gave_up(&root, &facts, 4), None);
        atomic::write(&root, paths::CONTAINERD_CONFIG, b"b", 0o644).unwrap();
        assert_eq!(gave_up(&root, &facts, 4), None, "it was not started with the new file yet");
        started(&mut facts, b"b");
        assert_eq!(gave_up(&root, &facts, 4).unwrap().file, sha256_hex(b"b"));
        // Without its copy nothing is known of the good one.
        assert_eq!(gave_up(&root, &facts, 3), None);
        facts.runtime.units.insert("containerd".into(), Fact::Known(unit("active", "running", None)));
        assert_eq!(gave_up(&root, &facts, 4), None);
    }

    /// A host whose generation 4 had the file `a`, and which now has `b`.
    fn changed() -> (tempfile::TempDir, Root, HostFacts) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let copy = paths::generation_file(4, "containerd.toml");
        for (path, text) in [(paths::CONTAINERD_CONFIG, "b"), (&copy, "a"), ("/usr/bin/containerd", "")] {
            root.ensure_dir(path.rsplit_once('/').unwrap().0).unwrap();
            atomic::write(&root, path, text.as_bytes(), 0o755).unwrap();
        }
        let mut facts = HostFacts::default();
        facts.runtime.containerd.binary = Fact::Known("/usr/bin/containerd".to_owned());
        (dir, root, facts)
    }

    #[tokio::test]
    async fn a_file_that_the_installed_containerd_refuses_is_nothing_to_go_back_to() {
        let (_dir, root, facts) = changed();
        assert_eq!(keeps_here(&root, &facts, 4).await, None, "nobody could be asked");
        checked::refused_before(&root, "/usr/bin/containerd", b"b");
        assert_eq!(keeps_here(&root, &facts, 4).await, None, "the new file was refused");
        checked::refused_before(&root, "/usr/bin/containerd", b"a");
        let finding = keeps_here(&root, &facts, 4).await.unwrap().unwrap();
        assert_eq!(finding.code, "EB-containerd-refused");
        assert!(finding.reason.contains("last good generation 4"), "{}", finding.reason);
        // A generation with the same file goes back for the sake of its other files.
        atomic::write(&root, paths::CONTAINERD_CONFIG, b"a", 0o644).unwrap();
        assert_eq!(keeps_here(&root, &facts, 4).await, None);
    }

    #[tokio::test]
    async fn a_damaged_store_is_no_fault_of_a_file() {
        let (_dir, root, mut facts) = changed();
        facts.storage.store.half_aside = true;
        assert_eq!(keeps_here(&root, &facts, 4).await, Some(None));
    }

    #[test]
    fn the_last_words_are_containerds_own() {
        let journal = "time=x level=error msg=\"first\"\ncontainerd: load required plugin x: y\ntime=x level=info msg=z\n";
        assert_eq!(cause(journal).unwrap(), ": containerd: load required plugin x: y");
        assert_eq!(cause("level=error msg=a\nStarted.\n").unwrap(), ": level=error msg=a");
        assert_eq!(cause("Started.\n"), None);
    }
}
