//! The step that makes files true.
//!
//! Owns the order: artifacts by digest, identity, files, links, then
//! `config.yaml`, whose rename is the one commit point, then removals. Takes a
//! checked plan and nothing else; chooses nothing. A kill or a power cut at any
//! moment leaves the old generation or the new one, never a mixture.

mod artifact;
pub mod aside;
mod generations;
mod mend;
mod program;
pub mod retire;
mod rollback;
mod store;

use thiserror::Error;

pub use artifact::{ArtifactError, Download, DownloadError, Progress, Wanted, bring, fullness};
pub use mend::{mend, mend_files};
pub use rollback::{is_a_way_back, rollback};
pub use store::set_store_aside;

use crate::error::ErrorKind;
use crate::identity;
use crate::ledger;
use crate::paths;
use crate::plan::{CheckedPlan, Plan, PlannedFile};
use crate::sys::root::FileError;
use crate::sys::statefile::{Loaded, StateError};
use crate::sys::{Change, Root, atomic, fault};

/// Why files could not be made true.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// A file by digest could not be had.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// A state file could not be stored.
    #[error(transparent)]
    State(#[from] StateError),
    /// The file system said no.
    #[error(transparent)]
    File(#[from] FileError),
    /// A test asked for a fault.
    #[error("fault point {0}")]
    Fault(&'static str, #[source] std::io::Error),
}

impl ApplyError {
    /// Category of the failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Artifact(error) => error.kind(),
            Self::State(_) | Self::File(_) => ErrorKind::Environment,
            Self::Fault(..) => ErrorKind::Bug,
        }
    }

    /// `EB-…`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Artifact(error) => error.code(),
            _ => "EB-apply",
        }
    }
}

/// What a pass touched on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Paths whose content, mode or target changed, in order.
    pub changed: Vec<String>,
    /// The generation in force.
    pub generation: Option<u64>,
}

impl Applied {
    /// Whether a unit file or drop-in changed, so that systemd must reload.
    #[must_use]
    pub fn touched_units(&self) -> bool {
        self.changed.iter().any(|path| path.starts_with("/etc/systemd/system/"))
    }

    fn note(&mut self, path: &str, change: Change) {
        if change.is_change() {
            self.changed.push(path.to_owned());
        }
    }
}

/// Fetches what the plan needs by digest. Writes below our own store only.
///
/// # Errors
/// When an artifact cannot be had or does not fit its digest.
pub async fn fetch(root: &Root, plan: &CheckedPlan, download: &impl Download) -> Result<(), ApplyError> {
    for artifact in &plan.plan().artifacts {
        artifact::ensure(root, artifact, download).await?;
    }
    point("artifacts-done")
}

/// Fetches the version that an upgrade goes to. Puts nothing in force.
///
/// # Errors
/// As [`fetch`].
pub async fn stage(root: &Root, plan: &CheckedPlan, download: &impl Download) -> Result<(), ArtifactError> {
    let upgrade = plan.plan().upgrade.as_ref();
    match upgrade.and_then(|upgrade| upgrade.artifact.as_ref()) {
        Some(artifact) => artifact::ensure(root, artifact, download).await,
        None => Ok(()),
    }
}

/// Makes all files of `plan` true. Nothing here waits for a network.
///
/// # Errors
/// When a step fails; what was written before it fits both generations.
pub fn apply(root: &Root, checked: &CheckedPlan) -> Result<Applied, ApplyError> {
    let plan = checked.plan();
    let mut applied = Applied {
        generation: plan.generation.as_ref().map(|generation| generation.number),
        ..Applied::default()
    };
    root.make_dir(paths::STATE_DIR, 0o700)?;
    generations::drop_unfinished(root, applied.generation)?;
    pin_identity(root, plan, &mut applied)?;
    let (commit, before) = split(plan);
    for file in before {
        write(root, file, &mut applied)?;
    }
    if let Some(commit) = commit {
        generations::keep_copies(root, plan)?;
        make_links(root, plan, &mut applied)?;
        point("before-commit")?;
        write(root, commit, &mut applied)?;
        point("after-commit")?;
        retire::end(root, plan)?;
    }
    remove(root, plan, &mut applied)?;
    // A ledger that cannot be read names no good generation.
    let last_good = ledger::load(root).ok().and_then(Loaded::value).and_then(|ledger| ledger.last_good);
    generations::clean(root, applied.generation, last_good)?;
    Ok(applied)
}

fn pin_identity(root: &Root, plan: &Plan, applied: &mut Applied) -> Result<(), ApplyError> {
    if let Some(identity) = retire::until_committed(plan) {
        let change = identity::pin(root, &identity)?;
        applied.note(paths::IDENTITY, change);
    }
    point("identity-pinned")
}

/// The commit point and everything before it.
fn split(plan: &Plan) -> (Option<&PlannedFile>, &[PlannedFile]) {
    match plan.files.split_last() {
        Some((last, before)) if last.path == paths::K3S_CONFIG => (Some(last), before),
        _ => (None, &plan.files),
    }
}

fn write(root: &Root, file: &PlannedFile, applied: &mut Applied) -> Result<(), ApplyError> {
    if let Some((directory, _)) = file.path.rsplit_once('/') {
        root.ensure_dir(directory)?;
    }
    let change = atomic::write(root, &file.path, &file.bytes, file.mode)?;
    applied.note(&file.path, change);
    point("file-written")
}

fn make_links(root: &Root, plan: &Plan, applied: &mut Applied) -> Result<(), ApplyError> {
    for link in &plan.links {
        if let Some((directory, _)) = link.path.rsplit_once('/') {
            root.ensure_dir(directory)?;
        }
        set_aside(root, &link.path)?;
        artifact::keep_previous(root, link)?;
        let change = atomic::link(root, &link.path, &link.target)?;
        applied.note(&link.path, change);
    }
    point("links-made")
}

/// A program that a person put where our link goes is kept beside it: nothing
/// is destroyed. Not in quarantine: that is on another file system for a
/// sandboxed unit.
fn set_aside(root: &Root, path: &str) -> Result<(), FileError> {
    let is_link = root.read_link(path)?.is_some();
    if is_link || !root.exists(path) {
        return Ok(());
    }
    root.rename(path, &format!("{path}.replaced"))
}

fn remove(root: &Root, plan: &Plan, applied: &mut Applied) -> Result<(), ApplyError> {
    for removal in &plan.removals {
        if root.remove_file(&removal.path)? {
            applied.changed.push(removal.path.clone());
        }
    }
    point("removed")
}

fn point(name: &'static str) -> Result<(), ApplyError> {
    fault::point(name).map_err(|error| ApplyError::Fault(name, error))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_a_person_is_kept_when_our_link_takes_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        root.make_dir("/usr/local/bin", 0o755).unwrap();
        atomic::write(&root, "/usr/local/bin/k3s", b"by hand", 0o755).unwrap();
        set_aside(&root, "/usr/local/bin/k3s").unwrap();
        atomic::link(&root, "/usr/local/bin/k3s", "/store/k3s").unwrap();
        set_aside(&root, "/usr/local/bin/k3s").unwrap();
        assert_eq!(root.read("/usr/local/bin/k3s.replaced").unwrap().unwrap(), b"by hand");
        assert_eq!(root.read_link("/usr/local/bin/k3s").unwrap().as_deref(), Some("/store/k3s"));
    }
}
