//! Whether containerd's store must be set aside, and whether it may be.
//!
//! Owns what counts as damage: a database that cannot be opened, or one that is
//! empty or gone while what it names is there (containerd starts on an empty
//! `meta.db` without a word and deletes every blob; it never repairs a lost
//! database of a snapshotter), or one that does not know what its pool holds. Databases, blobs and snapshots go as one: each
//! alone is a mismatch for good. Plans no deletion, and no cure more often than
//! once per boot and twice a day: damage that comes again is the disk's.

use super::item::PlannedQuarantine;
use super::refusal::Refusal;
use super::units;
use crate::facts::runtime::Unit;
use crate::facts::storage::{DatabaseState, Storage};
use crate::facts::store::{Kept, Store};
use crate::facts::{Fact, HostFacts};
use crate::paths;
use crate::role::Snapshotter;

/// containerd's own database, below its root.
pub const META: &str = "io.containerd.metadata.v1.bolt/meta.db";
/// How often a store is set aside within [`TERM`].
const OFTEN: usize = 2;
/// In seconds.
const TERM: u64 = 86_400;
/// Free space in bytes below which earlier stores are in the way.
const SHORT: u64 = 5 << 30;

/// What becomes of a damaged store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cure {
    /// It is set aside, and its images are brought again.
    SetAside(PlannedQuarantine),
    /// It stays where it is, and why.
    Stays(Refusal),
}

/// What is to be done about the store; `None` when it is well, as far as is known.
#[must_use]
pub fn decide(facts: &HostFacts) -> Option<Cure> {
    let storage = &facts.storage;
    let damage = damage(storage)?;
    let stays = by_hand(storage, &damage)
        // Before who uses it: a reboot would not help then.
        .or_else(|| again(&storage.store, &damage).filter(|_| !storage.store.half_aside))
        .or_else(|| in_use(facts, &damage));
    Some(stays.map_or_else(
        || {
            Cure::SetAside(PlannedQuarantine {
                path: paths::CONTAINERD_ROOT.to_owned(),
                needs_stopped: units::CONTAINERD.to_owned(),
                reason: damage,
            })
        },
        Cure::Stays,
    ))
}

/// The quarantine, where there is to be one.
pub(super) fn quarantine(facts: &HostFacts) -> Option<PlannedQuarantine> {
    match decide(facts)? {
        Cure::SetAside(quarantine) => Some(quarantine),
        Cure::Stays(_) => None,
    }
}

// === damage ===

/// What is wrong with the store, in one sentence.
fn damage(storage: &Storage) -> Option<String> {
    if storage.store.half_aside {
        return Some("containerd's store was being set aside when the power went".to_owned());
    }
    // What cannot be read is no evidence.
    storage.databases.known()?;
    meta_damage(storage).or_else(|| names(storage).iter().find_map(|name| snapshotter_damage(storage, name)))
}

fn meta_damage(storage: &Storage) -> Option<String> {
    let store = &storage.store;
    let blobs = store.has_blobs.known() == Some(&true);
    let unpacked = store.unpacked.known().is_some_and(|names| !names.is_empty());
    let path = format!("{}/{META}", paths::CONTAINERD_ROOT);
    match state(storage, META) {
        Some(DatabaseState::Whole) => None,
        Some(DatabaseState::Damaged(reason)) => Some(broken(&path, reason)),
        Some(DatabaseState::Empty) if blobs || unpacked || store.images > 0 => {
            Some(format!("{path} is empty, and {}", had(store)))
        }
        // Without blobs there is nothing that containerd would delete.
        None if blobs => Some(format!("{path} is gone, and {}", had(store))),
        Some(DatabaseState::Empty) | None => None,
    }
}

fn had(store: &Store) -> String {
    match store.images {
        0 => "what it named is there".to_owned(),
        images => format!("it named {images} images"),
    }
}

/// Snapshotters whose databases count: the chosen one, or, before there is a
/// choice, those that hold something.
fn names(storage: &Storage) -> Vec<String> {
    match storage.choice.known().and_then(Option::as_ref) {
        Some(choice) => vec![choice.snapshotter.to_string()],
        None => storage.store.unpacked.known().cloned().unwrap_or_default(),
    }
}

fn snapshotter_damage(storage: &Storage, name: &str) -> Option<String> {
    let directory = format!("io.containerd.snapshotter.v1.{name}");
    let database = format!("{directory}/metadata.db");
    let path = format!("{}/{database}", paths::CONTAINERD_ROOT);
    let unpacked = storage.store.unpacked.known();
    // Thin devices leave no directory: what they hold is known by the record alone.
    let thin = name == Snapshotter::Devmapper.to_string()
        && storage.store.has_blobs.known() == Some(&true)
        && storage.store.snapshots > 0;
    let is_used = thin || unpacked.is_some_and(|names| names.iter().any(|one| one == name));
    match state(storage, &database) {
        Some(DatabaseState::Damaged(reason)) => Some(broken(&path, reason)),
        Some(DatabaseState::Empty) if is_used => Some(format!("{path} is empty, and snapshots were there")),
        None if is_used => Some(format!("{path} is gone, and snapshots were there")),
        _ => pool_damage(storage, &directory).or_else(|| older(storage, &path)),
    }
}

/// One device without its snapshot is what a power cut leaves; others are a
/// database that lost what it had.
fn older(storage: &Storage, path: &str) -> Option<String> {
    let ahead = storage.store.ahead.known()?;
    let last = ahead.devices.last().filter(|_| ahead.left_over().is_none())?;
    Some(format!(
        "{path} is older than the pool's own database: it ends with snapshot {}, and there is {}",
        ahead.last, last.name
    ))
}

/// devmapper keeps one more database, named by its pool.
fn pool_damage(storage: &Storage, directory: &str) -> Option<String> {
    let inside = format!("{}/{directory}/", paths::CONTAINERD_ROOT);
    let others = storage
        .databases
        .known()?
        .iter()
        .filter(|database| database.path.strip_prefix(&inside).is_some_and(|name| name != "metadata.db"));
    let mut broken = others.filter_map(|database| match &database.state {
        DatabaseState::Damaged(reason) => Some(broken(&database.path, reason)),
        DatabaseState::Whole | DatabaseState::Empty => None,
    });
    broken.next()
}

fn state<'a>(storage: &'a Storage, name: &str) -> Option<&'a DatabaseState> {
    let path = format!("{}/{name}", paths::CONTAINERD_ROOT);
    let found = storage.databases.known()?.iter().find(|database| database.path == path);
    found.map(|database| &database.state)
}

fn broken(path: &str, reason: &str) -> String {
    format!("{path} is damaged: {reason}")
}

// === what keeps it in its place ===

fn damaged(reason: String, next: impl Into<String>) -> Refusal {
    Refusal::new("EB-store-damaged", reason, next)
}

/// The thin devices of a pool are numbered in its database: a new database
/// numbers from 1 again and collides with them for good (containerd#4790). The
/// pool would have to go with the store, and nothing here destroys a pool.
fn by_hand(storage: &Storage, damage: &str) -> Option<Refusal> {
    let choice = storage.choice.known()?.as_ref()?;
    if choice.snapshotter != Snapshotter::Devmapper {
        return None;
    }
    let pool = choice.pool.as_deref().unwrap_or("POOL");
    Some(damaged(
        format!("{damage}; store and thin pool {pool} are one, and a pool is never deleted by itself"),
        format!(
            "move the workloads, then: systemctl disable --now k3s k3s-agent containerd; reboot; mv {root} {root}.by-hand; lvremove {pool} as VG/LV; edge-bootstrap apply (docs/store.md)",
            root = paths::CONTAINERD_ROOT
        ),
    ))
}

/// Only a store that nobody uses is moved. k3s by itself is no user: without
/// containerd it reaches nothing of it, and what containerd started for it shows
/// as a shim or a mount.
fn in_use(facts: &HostFacts, damage: &str) -> Option<Refusal> {
    let store = &facts.storage.store;
    let user = match (runs(facts), &store.shims, &store.mounts) {
        (true, ..) => "containerd runs".to_owned(),
        (false, Fact::Known(shims), _) if !shims.is_empty() => {
            format!("{} containers run on (process {})", shims.len(), shims.first().copied().unwrap_or(0))
        }
        (false, _, Fact::Known(mounts)) if !mounts.is_empty() => {
            format!("{} is mounted", mounts.first().map_or("", String::as_str))
        }
        (false, Fact::Unknown { unknown }, _) | (false, _, Fact::Unknown { unknown }) => {
            format!("who uses it is not known ({unknown})")
        }
        _ => return None,
    };
    Some(damaged(
        format!("{damage}; it stays in its place because {user}"),
        "reboot the host: it is set aside before containerd starts, and images are brought again",
    ))
}

/// Whether containerd runs, as far as systemd tells.
#[must_use]
pub fn runs(facts: &HostFacts) -> bool {
    facts.runtime.units.get("containerd").and_then(Fact::known).is_some_and(is_up)
}

/// A unit between two tries does not run.
fn is_up(unit: &Unit) -> bool {
    let waits = unit.active == "activating" && unit.sub.starts_with("auto-restart");
    unit.main_pid != 0 || !(waits || ["inactive", "failed", ""].contains(&unit.active.as_str()))
}

/// Damage that comes again is not cured by starting anew.
fn again(store: &Store, damage: &str) -> Option<Refusal> {
    let in_this_boot =
        store.boot_id.known().is_some_and(|boot| store.aside.iter().any(|aside| aside.boot_id == *boot));
    let unrecorded = unrecorded(store).map(|kept| kept.moved_at);
    let times = store.aside.iter().map(|aside| aside.at).chain(unrecorded);
    // By a time that is surely past: a clock that jumped ends no term.
    let recent = times.filter(|at| store.past < at.saturating_add(TERM)).count();
    let when = match (in_this_boot, recent) {
        (true, _) => "already set aside in this boot",
        (false, OFTEN..) => "set aside twice within a day",
        _ => return None,
    };
    Some(Refusal::new(
        "EB-store-again",
        format!("{damage}; it was {when}, so that the disk or a person is to blame"),
        format!(
            "look at the disk (dmesg, smartctl -a); when it is well: systemctl stop k3s k3s-agent containerd, mv {root}/io.containerd.* to a directory beside {root}, systemctl start containerd",
            root = paths::CONTAINERD_ROOT
        ),
    ))
}

/// Stores that were set aside and not recorded, because the power went.
pub fn unrecorded(store: &Store) -> impl Iterator<Item = &Kept> {
    store.kept.iter().filter(|kept| !store.aside.iter().any(|aside| aside.to == kept.path))
}

// === what people are told afterwards ===

/// The store was set aside in this boot.
#[must_use]
pub fn was_set_aside(store: &Store) -> Option<Refusal> {
    let boot = store.boot_id.known()?;
    let aside = store.aside.iter().rev().find(|aside| aside.boot_id == *boot)?;
    Some(damaged(
        format!("{}; it was set aside as {}", aside.reason, aside.to),
        "nothing: images are brought again by themselves; what only lay in it is in that directory",
    ))
}

/// Earlier stores lie on the disk; and whether they are in the way.
#[must_use]
pub fn kept(storage: &Storage) -> Option<(Refusal, bool)> {
    let kept = &storage.store.kept;
    let bytes: u64 = kept.iter().map(|one| one.blob_bytes).sum();
    let paths: Vec<&str> = kept.iter().map(|one| one.path.as_str()).collect();
    let free = storage.root.known().and_then(|root| root.free_bytes.known());
    let is_short = free.is_some_and(|free| *free < SHORT);
    let words = if is_short { "; the disk is nearly full" } else { "" };
    let refusal = Refusal::new(
        "EB-store-kept",
        format!(
            "damaged stores of containerd are kept: {} MiB of layers, and what was unpacked from them{words}",
            bytes >> 20
        ),
        format!("when nobody needs them any more: rm -rf {}", paths.join(" ")),
    );
    (!kept.is_empty()).then_some((refusal, is_short))
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
