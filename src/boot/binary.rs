//! k3s's binaries in the store: whether they are whole, and which of them stay.
//!
//! Owns when they are hashed: after a boot without a good end, and when a file
//! is not as its record says. One that is damaged loses its record, so that the
//! plan brings it again; its file stays until then. Removes versions that nothing
//! needs any more.

use std::time::Duration;

use tokio::sync::Mutex;
use tracing::{info, warn};

use super::{Agent, Order, Pass, Severity, Until};
use crate::error::Chain;
use crate::inventory::Inventory;
use crate::plan::binary::{Look, Record, changed, damaged, mislabelled};
use crate::plan::{CheckedPlan, Refusal};
use crate::sys::root::FileError;
use crate::sys::{Root, exec, host, sink};
use crate::{binary, paths};

/// Longest time before READY, where k3s waits for it: a binary that a power cut
/// damaged must not start. What is not hashed by then is hashed after it.
const BEFORE_READY: Duration = Duration::from_secs(3);
/// Longest time of a later pass. A disk that is slower than this has other troubles.
const LATER: Duration = Duration::from_secs(60);

/// Held by the thread that hashes. One that outlives its pass cannot be ended: the
/// next pass waits for it, and adds none.
static HASHING: Mutex<()> = Mutex::const_new(());

/// How long one look at a label may take.
const LABEL: Duration = Duration::from_secs(5);

/// Looks at every binary of the store; what is damaged counts as absent in this
/// pass and becomes a finding.
pub(super) async fn look(agent: &Agent, order: Order, pass: &mut Pass) {
    let limit = if order.until == Until::Verified { LATER } else { BEFORE_READY };
    let mut found = Vec::new();
    let work = verify(&agent.root, order.observe_only, &mut found);
    if tokio::time::timeout(limit, work).await.is_err() {
        warn!(EDGE_STEP = "observe", "k3s's binary could not be read in time, ignoring");
    }
    // Also what was found before the time was over.
    for (version, finding) in found {
        pass.facts.runtime.k3s.store.remove(&version);
        pass.find(Severity::Fail, finding);
    }
    if order.until == Until::Verified
        && let Some(finding) = label(&agent.root).await
    {
        pass.find(Severity::Warn, finding);
    }
}

/// Asked only where SELinux enforces; what it would deny nobody else tells.
async fn label(root: &Root) -> Option<Refusal> {
    if root.read_kernel("/sys/fs/selinux/enforce").ok()?.trim() != "1" {
        return None;
    }
    let target = root.read_link(paths::K3S_LINK).ok()??;
    let path = root.path(&target);
    let printed = exec::run("stat", &["-c", "%C", path.to_str()?], LABEL).await.ok()?;
    mislabelled(&target, printed.stdout.trim())
}

/// Finds versions that are damaged, each with the words for that.
async fn verify(root: &Root, observe_only: bool, found: &mut Vec<(String, Refusal)>) {
    for version in what_starts_first(root) {
        let Some((record, look)) = binary::look_at(root, &version) else { continue };
        let path = paths::k3s_binary(&version);
        let finding = match look {
            Look::Short { size } => Some(damaged(&path, &record, size)),
            Look::Same if !is_suspect(root, &record) => None,
            Look::Same | Look::Other => hash(root, (&path, record, look), observe_only).await,
        };
        found.extend(finding.map(|finding| (version, finding)));
    }
}

/// Time may be over before all are read: the version in force goes first.
fn what_starts_first(root: &Root) -> Vec<String> {
    let linked = root.read_link(paths::K3S_LINK).ok().flatten();
    let (mut first, others): (Vec<_>, Vec<_>) = binary::versions(root)
        .into_iter()
        .partition(|version| linked.as_ref() == Some(&paths::k3s_binary(version)));
    first.extend(others);
    first
}

/// The boot before this one had no good end, and the file was not hashed since.
fn is_suspect(root: &Root, record: &Record) -> bool {
    let boot_id = host::boot_id(root).unwrap_or_default();
    record.boot_id != boot_id && Inventory::load(root).boot.suspect
}

/// A file that cannot be read is no evidence: the next pass looks again.
async fn hash(
    root: &Root,
    (path, record, look): (&str, Record, Look),
    observe_only: bool,
) -> Option<Refusal> {
    let digest = match sink::digest_in_turn(root, path, &HASHING).await {
        Ok(digest) => digest,
        Err(error) => {
            warn!(EDGE_STEP = "observe", EDGE_REASON = %Chain(&error), "k3s's binary could not be verified, ignoring");
            return None;
        }
    };
    let is_whole = digest == record.sha256;
    let remember = match look {
        _ if is_whole => remember,
        // Nobody has touched it: that is the disk's work, and no k3s of a person.
        Look::Same => binary::condemn,
        _ => |root: &Root, path: &str, _: &Record| binary::forget(root, path),
    };
    if !observe_only && let Err(error) = remember(root, path, &record) {
        warn!(EDGE_STEP = "observe", EDGE_REASON = %Chain(&error), "record of k3s's binary cannot be written, ignoring");
    }
    if is_whole {
        return None;
    }
    let finding = changed(path);
    warn!(EDGE_STEP = "observe", EDGE_CODE = "EB-k3s-damaged", EDGE_REASON = %finding.reason, "k3s's binary is damaged");
    Some(finding)
}

fn remember(root: &Root, path: &str, record: &Record) -> Result<(), FileError> {
    let boot_id = host::boot_id(root).unwrap_or_default();
    let record = Record { seen: binary::seen(root, path)?, boot_id, ..record.clone() };
    binary::store(root, path, &record).map(|_| ())
}

/// Removes what no link, no running k3s and no plan names: the version in force
/// and the one before it stay. Only on a host that is well.
pub(super) fn tidy(agent: &Agent, checked: &CheckedPlan, pass: &Pass) {
    if !pass.is_steady() {
        return;
    }
    let plan = checked.plan();
    let started = pass.facts.runtime.k3s.started_binary.known().cloned().flatten();
    let planned = plan.artifacts.iter().map(|artifact| artifact.path.clone());
    let targets = plan.links.iter().map(|link| link.target.clone());
    let tried = plan.upgrade.iter().flat_map(|upgrade| [&upgrade.from, &upgrade.to]);
    let tried = tried.map(|version| paths::k3s_binary(version.as_str()));
    remove_others(&agent.root, started.into_iter().chain(planned).chain(targets).chain(tried));
}

/// Nothing goes while nobody noted which version was before this one.
fn remove_others(root: &Root, named: impl Iterator<Item = String>) {
    let Some(previous) = root.read_link(paths::K3S_PREVIOUS).ok().flatten() else { return };
    let linked = root.read_link(paths::K3S_LINK).ok().flatten();
    let stays: Vec<String> = named.chain(linked).chain([paths::k3s_binary(&previous)]).collect();
    for version in binary::versions(root) {
        if stays.contains(&paths::k3s_binary(&version)) {
            continue;
        }
        match root.remove_own_dir(&format!("{}/{version}", paths::K3S_STORE)) {
            Ok(()) => {
                info!(EDGE_STEP = "apply", EDGE_VERSION = %version, "k3s version is not needed any more, removed");
            }
            Err(error) => {
                warn!(EDGE_STEP = "apply", EDGE_REASON = %Chain(&error), "old k3s version cannot be removed, ignoring");
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::sys::atomic;

    #[test]
    fn the_version_in_force_the_one_before_and_those_that_are_named_stay() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        for version in ["v1.33.1+k3s1", "v1.34.1+k3s1", "v1.35.1+k3s1", "v1.36.1+k3s1", "v1.36.2+k3s1"] {
            root.make_dir(&format!("{}/{version}", paths::K3S_STORE), 0o755).unwrap();
        }
        root.make_dir("/usr/local/bin", 0o755).unwrap();
        atomic::link(&root, paths::K3S_LINK, &paths::k3s_binary("v1.36.1+k3s1")).unwrap();
        assert_eq!(what_starts_first(&root)[..2], ["v1.36.1+k3s1", "v1.33.1+k3s1"]);
        let named = || [paths::k3s_binary("v1.36.2+k3s1"), "k3s".to_owned()].into_iter();
        remove_others(&root, named());
        assert_eq!(binary::versions(&root).len(), 5, "nobody knows which one was before");
        atomic::link(&root, paths::K3S_PREVIOUS, "v1.34.1+k3s1").unwrap();
        remove_others(&root, named());
        assert_eq!(binary::versions(&root), ["v1.34.1+k3s1", "v1.36.1+k3s1", "v1.36.2+k3s1"]);
    }

    #[tokio::test]
    async fn what_the_disk_has_changed_is_condemned_and_what_a_person_put_there_is_not() {
        for touched in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let root = Root::new(dir.path());
            let version = "v1.36.2+k3s1";
            let path = paths::k3s_binary(version);
            root.make_dir(&format!("{}/{version}", paths::K3S_STORE), 0o755).unwrap();
            atomic::write(&root, &path, b"not what was verified", 0o755).unwrap();
            let seen = binary::seen(&root, &path).unwrap();
            let record = Record { sha256: "ab".repeat(32), seen, boot_id: "the-boot-before".into() };
            binary::store(&root, &path, &record).unwrap();
            crate::inventory::update(&root, |inventory| inventory.boot.suspect = true).unwrap();
            if touched {
                atomic::write(&root, &path, b"of a person, and longer than that", 0o755).unwrap();
            }
            let mut found = Vec::new();
            let turn = HASHING.lock().await;
            let early = tokio::time::timeout(Duration::from_millis(20), verify(&root, false, &mut found));
            early.await.expect_err("another pass's thread still reads");
            drop(turn);
            verify(&root, false, &mut found).await;
            assert_eq!((found.len(), binary::record(&root, &path)), (1, None));
            assert_eq!(binary::is_condemned(&root, version), !touched);
        }
    }
}
