//! devmapper's pool: what it takes to choose it, and what a kept one needs.
//!
//! Owns which work on a pool is wanted. Nothing is made where anything lies, and
//! never in place of a pool that held data.

use super::case::Case;
use super::first::taken;
use super::{Taken, words};
use crate::facts::Fact;
use crate::facts::storage::{Choice, Pool};
use crate::plan::item::{PoolAct, PoolSpace, PoolWish};
use crate::plan::pool::{DATA_FULL, LEAST, METADATA_FULL, percent};
use crate::plan::refusal::Refusal;
use crate::role::Snapshotter;

/// How a pool is.
pub(super) enum State<'a> {
    /// Nobody could see it: why.
    Unknown(String),
    /// Neither device-mapper nor LVM knows it.
    Absent,
    /// LVM knows it; it is not up.
    Inactive,
    /// It is up.
    Up(&'a Pool),
}

/// The state of the pool with this name.
pub(super) fn state<'a>(case: &Case<'a>, name: &str) -> State<'a> {
    let Some(look) = case.look else {
        return State::Unknown(case.storage.look.reason().unwrap_or_default().to_owned());
    };
    match &look.pool {
        _ if look.named.pool.as_deref() != Some(name) => State::Unknown("nobody has looked at it".to_owned()),
        Fact::Unknown { unknown } => State::Unknown(unknown.clone()),
        Fact::Known(None) => State::Absent,
        Fact::Known(Some(pool)) if !pool.active => State::Inactive,
        Fact::Known(Some(pool)) => State::Up(pool),
    }
}

/// A first choice of devmapper, because of `why`.
pub(super) fn take(case: &Case<'_>, why: &str, next: &str) -> Result<Taken, Refusal> {
    let Some(local) = case.local else {
        let reason = format!("{why}, and [storage.devmapper] names no pool");
        return Err(Refusal::new("EB-snapshotter", reason, next));
    };
    let acts = prepared(case, local)?;
    Ok(named(case, local, acts, why))
}

/// A store with snapshots of devmapper, and no record of its pool.
pub(super) fn found(case: &Case<'_>, reason: String) -> Result<Taken, Refusal> {
    let Some(local) = case.local else {
        let reason = format!("{reason}, and [storage.devmapper] names no pool");
        let next = "name its pool: grep pool_name /etc/containerd/*.toml";
        return Err(Refusal::new("EB-snapshotter", reason, next));
    };
    let taken = named(case, local, Vec::new(), &reason);
    Ok(Taken { acts: acts(case, &taken.choice), ..taken })
}

fn named(case: &Case<'_>, local: &PoolWish, acts: Vec<PoolAct>, why: &str) -> Taken {
    // One failing snapshotter plugin takes all of containerd 2.x down.
    let two = case.containerd.filter(|version| version.0 == 2);
    let two = two.map_or("", |_| "; 2.x: overlayfs plugin disabled to keep metadata plugin alive");
    let taken = taken(case, Snapshotter::Devmapper, format!("devmapper on pool {}: {why}{two}", local.pool));
    Taken { choice: Choice { pool: Some(local.pool.to_string()), ..taken.choice }, acts, ..taken }
}

/// What must be done before a first use of the pool, or why it cannot be used.
fn prepared(case: &Case<'_>, local: &PoolWish) -> Result<Vec<PoolAct>, Refusal> {
    let pool = local.pool.clone();
    let refuse = |code: &str, reason: String, next: &str| Err(Refusal::new(code, reason, next));
    if let State::Unknown(why) = state(case, &pool) {
        let reason = format!("the state of thin pool {pool} is not known: {why}");
        return refuse(
            "EB-snapshotter",
            reason,
            "it is looked at again by itself; journalctl -u edge-bootstrap",
        );
    }
    kernel_and_programs(case)?;
    match state(case, &pool) {
        State::Unknown(_) | State::Absent => Ok(vec![create(case, local)?]),
        State::Inactive => Ok(vec![PoolAct::Activate { pool }]),
        State::Up(found) if found.mode == "rw" && found.data.0 > 0 => refuse(
            "EB-pool-space",
            format!("thin pool {pool} holds data, and containerd's store knows nothing of it"),
            "name another pool, or remove this one when nothing of it is needed: lvs -a",
        ),
        State::Up(found) => match needs(case, found) {
            acts if found.mode == "rw" || !acts.is_empty() => Ok(acts),
            _ => refuse(
                "EB-pool-failed",
                format!("thin pool {pool}: {}", words::pool(found)),
                "dmsetup status; dmesg",
            ),
        },
    }
}

fn kernel_and_programs(case: &Case<'_>) -> Result<(), Refusal> {
    let Some(look) = case.look else { return Ok(()) };
    if look.targets.known().is_some_and(|targets| !targets.iter().any(|target| target == "thin-pool")) {
        let reason = "the kernel has no device-mapper target thin-pool (module dm_thin_pool)";
        return Err(Refusal::new(
            "EB-snapshotter",
            reason,
            "install the kernel's modules: modprobe dm_thin_pool",
        ));
    }
    if look.missing_tools.is_empty() {
        return Ok(());
    }
    let reason =
        format!("devmapper takes programs that are not installed: {}", look.missing_tools.join(", "));
    Err(Refusal::new("EB-snapshotter", reason, words::PACKAGES))
}

fn create(case: &Case<'_>, local: &PoolWish) -> Result<PoolAct, Refusal> {
    let pool = local.pool.to_string();
    let refuse = |reason: String, next: &str| Err(Refusal::new("EB-pool-space", reason, next));
    let Some(space) = local.space.as_ref().filter(|_| local.create) else {
        let reason = format!("there is no thin pool {pool}, and it may not be created");
        return refuse(reason, "create it, or set [storage.devmapper] create = true with an empty device");
    };
    match space {
        PoolSpace::VolumeGroup(name) => group_has_room(case, name)?,
        PoolSpace::Device(path) => device_is_empty(case, path)?,
    }
    Ok(PoolAct::Create { pool, space: space.clone() })
}

fn group_has_room(case: &Case<'_>, name: &str) -> Result<(), Refusal> {
    let refuse = |reason: String, next: &str| Err(Refusal::new("EB-pool-space", reason, next));
    match case.look.map(|look| &look.group) {
        Some(Fact::Known(Some(group))) if group.is_partial => {
            refuse(format!("disks of volume group {name} are missing"), "put them back: vgs -o +devices")
        }
        Some(Fact::Known(Some(group))) if group.free < LEAST => refuse(
            format!(
                "volume group {name} has {} free, a thin pool takes {}",
                words::size(group.free),
                words::size(LEAST)
            ),
            "give it another disk: vgextend",
        ),
        Some(Fact::Known(Some(_))) => Ok(()),
        Some(Fact::Known(None)) => refuse(
            format!("there is no volume group {name}"),
            "correct `storage.devmapper.volume-group`: vgs",
        ),
        Some(Fact::Unknown { unknown }) => refuse(format!("volume group {name}: {unknown}"), "vgs"),
        None => refuse(format!("nobody has looked at volume group {name}"), "vgs"),
    }
}

fn device_is_empty(case: &Case<'_>, path: &str) -> Result<(), Refusal> {
    let refuse = |reason: String, next: &str| Err(Refusal::new("EB-pool-space", reason, next));
    match case.look.map(|look| &look.device) {
        Some(Fact::Known(Some(device))) if !device.in_use.is_empty() => refuse(
            format!("{path} is not empty: {}", device.in_use.join(", ")),
            "name an empty device, or clear this one by hand when nothing on it is needed: wipefs",
        ),
        Some(Fact::Known(Some(device))) if device.size < LEAST => refuse(
            format!("{path} has {}, a thin pool takes {}", words::size(device.size), words::size(LEAST)),
            "lsblk",
        ),
        Some(Fact::Known(Some(_))) => Ok(()),
        Some(Fact::Known(None)) => {
            refuse(format!("there is no device {path}"), "correct `storage.devmapper.device`: lsblk")
        }
        Some(Fact::Unknown { unknown }) => refuse(format!("{path}: {unknown}"), "lsblk"),
        None => refuse(format!("nobody has looked at {path}"), "lsblk"),
    }
}

/// What the pool of a kept choice needs before containerd starts.
pub(super) fn acts(case: &Case<'_>, choice: &Choice) -> Vec<PoolAct> {
    let Some(pool) = choice.pool.clone() else { return Vec::new() };
    let release = release(case, &pool).into_iter();
    match state(case, &pool) {
        State::Unknown(_) => Vec::new(),
        State::Absent => create_again(case, &pool).into_iter().collect(),
        State::Inactive => [PoolAct::Activate { pool }].into_iter().chain(release).collect(),
        State::Up(found) => release.chain(needs(case, found)).collect(),
    }
}

/// containerd keeps its databases to itself while it runs.
fn release(case: &Case<'_>, pool: &str) -> Option<PoolAct> {
    let ahead = case.storage.store.ahead.known().filter(|_| !case.is_running)?;
    let device = ahead.left_over().filter(|device| device.is_final)?.name.clone();
    Some(PoolAct::Release { pool: pool.to_owned(), device })
}

/// A pool that was never filled may be made once more; another one in place of
/// one that held data would not fit the store's databases.
fn create_again(case: &Case<'_>, pool: &str) -> Option<PoolAct> {
    let local = case.local.filter(|local| local.pool.as_str() == pool)?;
    (case.count(Snapshotter::Devmapper) == Some(0)).then(|| create(case, local).ok())?
}

/// What a pool that is up needs.
fn needs(case: &Case<'_>, found: &Pool) -> Vec<PoolAct> {
    let pool = found.name.clone();
    let is_full = is_data_full(found) || is_metadata_full(found);
    let stuck = found.mode == "ro" && !is_full;
    if found.needs_check || found.mode == "fail" || stuck {
        return vec![PoolAct::Repair { pool }];
    }
    if is_full && has_room(case) { vec![PoolAct::Extend { pool }] } else { Vec::new() }
}

pub(super) fn is_data_full(pool: &Pool) -> bool {
    pool.mode == "out_of_data_space" || percent(pool.data) >= DATA_FULL
}

pub(super) fn is_metadata_full(pool: &Pool) -> bool {
    percent(pool.metadata) >= METADATA_FULL
}

/// Whether the volume group of the pool has anything left.
pub(super) fn has_room(case: &Case<'_>) -> bool {
    let group = case.look.and_then(|look| look.group.known());
    group.and_then(Option::as_ref).is_some_and(|group| group.free > 0 && !group.is_partial)
}
