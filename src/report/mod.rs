//! Tell: the last step of the boot line.
//!
//! Owns what everybody may read about this host (status file, metrics, one line
//! for systemd), the body of a report, and the outbox. Never sends: that is
//! enrol's client. Never blocks a boot: every failure here is one to note and
//! go on.

pub mod metrics;
pub mod outbox;
pub mod status;
pub mod words;

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

pub use outbox::{Outbox, OutboxError, Pending};
pub use status::{PendingClaim, Status, console_line};
pub use words::{FindingStatus, Outcome, Phase, Verdict};

use crate::facts::HostFacts;
use crate::facts::runtime::PinnedIdentity;
use crate::paths::{CLAIM, METRICS, RUN_DIR, STATUS};
use crate::plan::keys;
use crate::role::Role;
use crate::sys::root::FileError;
use crate::sys::{Change, Root, atomic, clock, notify};
use crate::wire::json;
use crate::wire::report::{
    Report, ReportedClock, ReportedCluster, ReportedFinding, ReportedNode, ReportedSnapshot,
};

/// The status could not be told or read.
#[derive(Debug, Error)]
pub enum ReportError {
    /// The file system said no.
    #[error("publish the status")]
    Publish(#[source] FileError),
    /// The file system said no.
    #[error("read the status")]
    Read(#[source] FileError),
    /// No JSON form, or not the JSON that it should be.
    #[error("{path} is not what it should be; the daemon writes it anew at its next start")]
    Shape {
        /// The file.
        path: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// Makes status file and metrics say `status`, and tells systemd in one line.
/// What says it already is left alone.
///
/// # Errors
/// The first failure; the other file is written all the same.
pub fn publish(root: &Root, status: &Status) -> Result<Change, ReportError> {
    root.make_dir(RUN_DIR, 0o755).map_err(ReportError::Publish)?;
    let told = write(root, STATUS, &json(STATUS, status)?, 0o644);
    let measured = write(root, METRICS, metrics::metrics(status).as_bytes(), 0o644);
    if !matches!(told, Ok(Change::Unchanged)) {
        notify::status(&status.line());
    }
    let change = told?;
    measured?;
    Ok(change)
}

/// Makes the claim's code readable for root; with `None` it goes.
///
/// # Errors
/// When the file cannot be written or removed.
pub fn publish_claim(root: &Root, claim: Option<&PendingClaim>) -> Result<Change, ReportError> {
    let Some(claim) = claim else {
        let was_there = root.remove_file(CLAIM).map_err(ReportError::Publish)?;
        return Ok(if was_there { Change::Replaced } else { Change::Unchanged });
    };
    root.make_dir(RUN_DIR, 0o755).map_err(ReportError::Publish)?;
    write(root, CLAIM, &json(CLAIM, claim)?, 0o600)
}

/// What the daemon last said; `None` when it said nothing in this boot.
///
/// # Errors
/// When the file cannot be read.
pub fn read_status(root: &Root) -> Result<Option<Status>, ReportError> {
    read(root, STATUS)
}

/// The claim that waits for a person; `None` when none does. Only root may read it.
///
/// # Errors
/// When the file cannot be read.
pub fn read_claim(root: &Root) -> Result<Option<PendingClaim>, ReportError> {
    read(root, CLAIM)
}

fn read<T: DeserializeOwned>(root: &Root, path: &'static str) -> Result<Option<T>, ReportError> {
    let Some(bytes) = root.read(path).map_err(ReportError::Read)? else { return Ok(None) };
    json::read(&bytes).map(Some).map_err(|source| ReportError::Shape { path, source })
}

fn json(path: &'static str, value: &impl Serialize) -> Result<Vec<u8>, ReportError> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|source| ReportError::Shape { path, source })?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn write(root: &Root, path: &str, bytes: &[u8], mode: u32) -> Result<Change, ReportError> {
    atomic::write_volatile(root, path, bytes, mode).map_err(ReportError::Publish)
}

/// What a report says beside the status.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// The host as observed last.
    pub facts: &'a HostFacts,
    /// The identity as pinned now: newer than in `facts` right after a first READY.
    pub identity: Option<&'a PinnedIdentity>,
    /// Snapshots on this host.
    pub snapshots: &'a [ReportedSnapshot],
}

/// The body of report `sequence`.
#[must_use]
pub fn report(status: &Status, evidence: Evidence<'_>, sequence: u64) -> Report {
    let facts = evidence.facts;
    Report {
        sequence,
        boot_id: facts.identity.boot_id.known().cloned().unwrap_or_default(),
        generation: status.generation,
        epoch: status.epoch,
        phase: status.phase.to_string(),
        verdict: status.verdict().to_string(),
        findings: findings(status),
        node: evidence.identity.map(node),
        cluster: cluster(evidence),
        versions: status.versions.clone(),
        facts_digest: facts.digest(),
        clock: ReportedClock {
            time: facts.system.time.now.known().map(|unix| clock::rfc3339(*unix)),
            synchronized: facts.system.time.synchronized.known().copied(),
        },
    }
}

fn findings(status: &Status) -> Vec<ReportedFinding> {
    let found = status.findings.iter();
    found
        .filter(|finding| !matches!(finding.status, FindingStatus::Ok | FindingStatus::Skipped))
        .map(|finding| ReportedFinding {
            id: finding.id.clone(),
            status: finding.status.to_string(),
            code: finding.code.clone(),
        })
        .collect()
}

fn node(identity: &PinnedIdentity) -> ReportedNode {
    let PinnedIdentity { node_name, node_ip, site, cluster, .. } = identity.clone();
    ReportedNode { name: node_name, ip: node_ip, site, cluster }
}

/// Only what was pinned after a READY: a CA that merely lies on disk may be
/// that of a start which never came up.
fn cluster(evidence: Evidence<'_>) -> ReportedCluster {
    // A life that is being left says nothing any more.
    let evidence = Evidence { identity: evidence.identity.filter(|it| it.retiring.is_none()), ..evidence };
    let joined = evidence.identity.and_then(|identity| identity.joined.as_ref());
    ReportedCluster {
        ca_hash: joined.and_then(|joined| joined.ca_hash.clone()),
        etcd_member: joined.and_then(|joined| joined.etcd_member.clone()),
        init_started: evidence.identity.and_then(|identity| identity.init_started),
        init_unknown: cannot_tell_its_start(evidence),
        snapshots: evidence.snapshots.to_vec(),
        critical: critical(evidence),
        retired: Vec::new(),
    }
}

/// By the record of its start: what lies in the file may wait for the next one.
fn critical(evidence: Evidence<'_>) -> BTreeMap<String, String> {
    let is_server = evidence.identity.is_some_and(|identity| identity.role == Role::Server);
    let started = evidence.facts.runtime.k3s.started_with.known().and_then(Option::as_ref);
    started.filter(|_| is_server).map(keys::critical_values).unwrap_or_default()
}

/// Whether "nothing was started" would be a guess: a lease that is given back on
/// a guess forks the cluster.
fn cannot_tell_its_start(evidence: Evidence<'_>) -> bool {
    let runtime = &evidence.facts.runtime;
    let may_have_datastore = runtime.k3s.has_datastore.known() != Some(&false);
    match evidence.identity {
        Some(identity) => may_have_datastore && identity.init_started.is_none() && identity.joined.is_none(),
        None => may_have_datastore || runtime.identity.known().is_none(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests;
