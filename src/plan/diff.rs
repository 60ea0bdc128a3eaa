//! What a plan would change on a host.
//!
//! Owns the comparison of plan and facts, for people (unified diffs) and as
//! JSON. Shows no content of a secret file.

use diffy::DiffOptions;
use serde::Serialize;

use super::item::{PlannedFile, PlannedUnit, Wanted};
use super::upgrade::PlannedUpgrade;
use super::{Plan, PlannedRetirement, pinned};
use crate::facts::HostFacts;
use crate::facts::runtime::FileFact;
use crate::wire::secret::without_credentials;

/// Everything that a pass would touch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// The identity would be pinned anew.
    pub identity: bool,
    /// The hostname would be set, from what it is now.
    pub hostname: Option<String>,
    /// The node IP would be put on an interface: `eth0 172.16.36.1/24`.
    pub address: Option<String>,
    /// Another version of k3s that is on its way, and where it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<String>,
    /// Files to fetch.
    pub artifacts: Vec<String>,
    /// Files to write.
    pub files: Vec<FileChange>,
    /// Links to set.
    pub links: Vec<String>,
    /// Files to remove.
    pub removals: Vec<String>,
    /// What an old life leaves: etcd, and files that go to quarantine, each with its new place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub leaves: Vec<String>,
    /// Datastores to move aside.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub quarantines: Vec<String>,
    /// Files of k3s to put back.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub restores: Vec<String>,
    /// Empty files of k3s that go before it starts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub empty: Vec<String>,
    /// The snapshotter to record, and work on its pool.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub storage: Vec<String>,
    /// Archives of images to bring after the units are up, by their URLs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
    /// Units to act on.
    pub units: Vec<UnitChange>,
    /// Restarts that are due and wait for the room's Lease.
    pub pending: Vec<UnitChange>,
}

/// One file to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileChange {
    /// Path.
    pub path: String,
    /// `create`, `replace` or `mode`.
    pub action: &'static str,
    /// Unified diff, where the content may be shown.
    pub diff: Option<String>,
    /// Why it must be so.
    pub reason: String,
}

/// One unit to act on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnitChange {
    /// Unit name.
    pub name: String,
    /// `start`, `stop`, `restart`, `rerun`, `enable` or `disable`.
    pub action: &'static str,
    /// Why.
    pub reason: String,
}

impl Changes {
    /// Whether a pass would touch nothing. A pending restart is no change, and
    /// neither is an upgrade that is due: it is not this pass that will do it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self {
            identity,
            hostname,
            address,
            artifacts,
            files,
            links,
            removals,
            leaves,
            quarantines,
            restores,
            empty,
            storage,
            images,
            units,
            upgrade: _,
            pending: _,
        } = self;
        !identity
            && hostname.is_none()
            && address.is_none()
            && artifacts.is_empty()
            && files.is_empty()
            && links.is_empty()
            && removals.is_empty()
            && leaves.is_empty()
            && quarantines.is_empty()
            && restores.is_empty()
            && empty.is_empty()
            && storage.is_empty()
            && images.is_empty()
            && units.is_empty()
    }
}

/// Compares `plan` with the host as it is.
#[must_use]
pub fn changes(plan: &Plan, facts: &HostFacts) -> Changes {
    let runtime = &facts.runtime;
    Changes {
        identity: plan.identity.is_some() && plan.identity.as_ref() != pinned(facts),
        hostname: hostname_change(plan, facts),
        address: address_change(plan, facts),
        upgrade: plan.upgrade.as_ref().map(PlannedUpgrade::line),
        artifacts: artifacts(plan),
        files: plan
            .files
            .iter()
            .filter_map(|file| file_change(file, runtime.files.get(&file.path)))
            .collect(),
        storage: storage_change(plan, facts),
        images: plan
            .images
            .iter()
            .filter_map(|it| it.urls.first())
            .map(|url| without_credentials(url.as_str()))
            .collect(),
        links: plan
            .links
            .iter()
            .filter(|link| runtime.links.get(&link.path) != Some(&link.target))
            .map(|link| format!("{} -> {}", link.path, link.target))
            .collect(),
        removals: plan.removals.iter().map(|removal| removal.path.clone()).collect(),
        leaves: leaves(plan),
        quarantines: plan.quarantines.iter().map(|item| item.path.clone()).collect(),
        restores: plan.restores.iter().map(|item| item.path.clone()).collect(),
        empty: plan.empty.iter().flat_map(|empty| empty.paths.iter().cloned()).collect(),
        units: plan.units.iter().flat_map(|unit| unit_changes(unit, facts)).collect(),
        pending: plan.units.iter().filter_map(pending).collect(),
    }
}

fn artifacts(plan: &Plan) -> Vec<String> {
    let upgrade = plan.upgrade.iter().flat_map(|upgrade| &upgrade.artifact);
    plan.artifacts.iter().chain(upgrade).map(|artifact| artifact.title.clone()).collect()
}

fn leaves(plan: &Plan) -> Vec<String> {
    let etcd = plan.departure.iter().map(|it| format!("etcd, by one of {}", it.servers.join(", ")));
    let moved = plan.retirement.iter().flat_map(|PlannedRetirement { number, paths, .. }| {
        paths.iter().map(move |path| format!("{path} -> {path}.quarantine-{number}"))
    });
    etcd.chain(moved).collect()
}

fn hostname_change(plan: &Plan, facts: &HostFacts) -> Option<String> {
    let wanted = &plan.hostname.as_ref()?.name;
    let names = &facts.identity.hostname;
    let kernel = names.kernel.known()?;
    let fixed = names.static_name.known().and_then(Option::as_ref);
    let right = kernel == wanted && fixed == Some(wanted);
    (!right).then(|| format!("{kernel} -> {wanted}"))
}

fn address_change(plan: &Plan, facts: &HostFacts) -> Option<String> {
    let planned = plan.address.as_ref()?;
    let absent = facts.network.holder(planned.cidr.address).is_none();
    absent.then(|| format!("{} {}", planned.interface, planned.cidr))
}

/// A choice whose place is not known is not recorded either.
fn storage_change(plan: &Plan, facts: &HostFacts) -> Vec<String> {
    let Some(storage) = &plan.storage else { return Vec::new() };
    let choice = &storage.choice;
    let recorded = facts.storage.choice.known().and_then(Option::as_ref);
    let is_new = recorded != Some(choice) && !choice.mount_point.is_empty();
    let pool = choice.pool.as_ref().map(|pool| format!(" on thin pool {pool}")).unwrap_or_default();
    let take =
        is_new.then(|| format!("take snapshotter {}{pool} at {}", choice.snapshotter, choice.mount_point));
    take.into_iter().chain(storage.acts.iter().map(ToString::to_string)).collect()
}

fn file_change(planned: &PlannedFile, now: Option<&FileFact>) -> Option<FileChange> {
    let action = match now {
        None => "create",
        Some(now) if now.sha256 != planned.sha256() => "replace",
        Some(now) if now.mode != planned.mode => "mode",
        Some(_) => return None,
    };
    let old = now.and_then(|now| now.text.clone()).unwrap_or_default();
    let diff =
        planned.shown.as_ref().filter(|_| action != "mode").map(|new| unified(&planned.path, &old, new));
    Some(FileChange { path: planned.path.clone(), action, diff, reason: planned.reason.clone() })
}

fn unified(path: &str, old: &str, new: &str) -> String {
    let mut options = DiffOptions::new();
    options.set_context_len(2).set_original_filename(path.to_owned()).set_modified_filename(path.to_owned());
    options.create_patch(old, new).to_string()
}

fn unit_changes(unit: &PlannedUnit, facts: &HostFacts) -> Vec<UnitChange> {
    let Some(now) =
        facts.runtime.units.get(unit.name.trim_end_matches(".service")).and_then(|fact| fact.known())
    else {
        return absent_unit(unit);
    };
    let up = matches!(now.active.as_str(), "active" | "activating" | "reloading");
    let change =
        |action, reason: &str| UnitChange { name: unit.name.clone(), action, reason: reason.to_owned() };
    let mut changes = Vec::new();
    match unit.wanted {
        Wanted::Rerun => changes.push(change("rerun", &unit.reason)),
        Wanted::Running if !up => changes.push(change("start", &unit.reason)),
        Wanted::Running => changes.extend(unit.restart.as_ref().map(|reason| change("restart", reason))),
        Wanted::Stopped if up => changes.push(change("stop", &unit.reason)),
        Wanted::Stopped => {}
    }
    let enabled = now.file_state == "enabled";
    if unit.manage_boot && unit.wanted == Wanted::Running && !enabled {
        changes.push(change("enable", "it must come back at every boot"));
    }
    if unit.manage_boot && unit.wanted == Wanted::Stopped && enabled {
        changes.push(change("disable", &unit.reason));
    }
    changes
}

/// A unit that systemd does not know yet.
fn absent_unit(unit: &PlannedUnit) -> Vec<UnitChange> {
    let actions: &[&'static str] = match unit.wanted {
        Wanted::Running => &["start", "enable"],
        Wanted::Rerun => &["rerun"],
        Wanted::Stopped => &[],
    };
    actions
        .iter()
        .map(|action| UnitChange { name: unit.name.clone(), action, reason: unit.reason.clone() })
        .collect()
}

fn pending(unit: &PlannedUnit) -> Option<UnitChange> {
    let reason = unit.restart_pending.clone()?;
    Some(UnitChange { name: unit.name.clone(), action: "restart", reason })
}
