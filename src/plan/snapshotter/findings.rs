//! What is wrong with the storage of a host that has its snapshotter.
//!
//! Owns the findings, each a row of one list. None stops anything: a running
//! node goes on, and what must not start is the gate's to refuse.

use super::case::{Asked, Case, elsewhere};
use super::pool::{self, State};
use super::{FLOOR_BYTES, FLOOR_INODES, words};
use crate::facts::storage::{Choice, OverlayTest};
use crate::plan::Inputs;
use crate::plan::pool::percent;
use crate::plan::refusal::Refusal;
use crate::role::{Duty, Snapshotter};

/// Data of a pool in percent from which it fails soon.
pub const POOL_FAILS: u64 = 95;
/// Free space in percent below which a running host is warned.
const LOW_PERCENT: u64 = 5;

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Code, what was seen, what to do.
    pub refusal: Refusal,
    /// Wrong now; otherwise it will need attention.
    pub is_failure: bool,
}

/// What is wrong with the store of `choice`, as it is now.
#[must_use]
pub fn findings(inputs: Inputs<'_>, duty: &Duty, choice: &Choice) -> Vec<Finding> {
    of(&Case::of(inputs, duty), choice)
}

type Look = fn(&Case<'_>, &Choice) -> Option<Finding>;

pub(super) fn of(case: &Case<'_>, choice: &Choice) -> Vec<Finding> {
    const ALL: [Look; 12] = [
        is_elsewhere,
        is_read_only,
        is_short,
        is_volatile,
        has_no_types,
        overlay_fails,
        other_is_asked,
        pool_is_down,
        pool_is_full,
        pool_is_damaged,
        pool_of_others,
        device_is_ahead,
    ];
    ALL.iter().filter_map(|look| look(case, choice)).collect()
}

fn failure(refusal: Refusal) -> Finding {
    Finding { refusal, is_failure: true }
}

fn warning(refusal: Refusal) -> Finding {
    Finding { refusal, is_failure: false }
}

fn is_elsewhere(case: &Case<'_>, _: &Choice) -> Option<Finding> {
    let (recorded, root) = case.recorded.zip(case.root)?;
    elsewhere(recorded, root).map(failure)
}

fn is_read_only(case: &Case<'_>, _: &Choice) -> Option<Finding> {
    case.root.filter(|root| root.read_only).map(|_| failure(words::read_only(case)))
}

/// Lower than for a first choice: a store that filled its disk is no news each day.
fn is_short(case: &Case<'_>, _: &Choice) -> Option<Finding> {
    let reason = words::shortage(case, (FLOOR_BYTES / 2, LOW_PERCENT, FLOOR_INODES / 2))?;
    let next = "remove what is not needed: crictl rmi --prune; du -xsh /var/*";
    Some(warning(Refusal::new("EB-storage-space", reason, next)))
}

fn is_volatile(case: &Case<'_>, _: &Choice) -> Option<Finding> {
    case.is_volatile().then(|| {
        let reason = "containerd's root is volatile: images are lost at every reboot";
        warning(Refusal::new("EB-snapshotter", reason, "mount a disk at /var/lib/containerd"))
    })
}

fn has_no_types(case: &Case<'_>, choice: &Choice) -> Option<Finding> {
    let lacks = case.lacks_ftype() || case.lacks_d_type();
    (choice.snapshotter == Snapshotter::Overlayfs && lacks).then(|| {
        let reason = "overlayfs is in use on a file system without d_type: files that were removed come back";
        warning(Refusal::new("EB-snapshotter", reason, words::DRAIN))
    })
}

fn overlay_fails(case: &Case<'_>, choice: &Choice) -> Option<Finding> {
    let fails = matches!(case.overlay(), Some(OverlayTest::Fails { .. }));
    (choice.snapshotter == Snapshotter::Overlayfs && fails).then(|| failure(words::has_data_but_fails(case)))
}

fn other_is_asked(case: &Case<'_>, choice: &Choice) -> Option<Finding> {
    let Asked::For(asked) = case.asked() else { return None };
    (asked != choice.snapshotter).then(|| {
        let now = words::keeping(case, choice.snapshotter);
        let reason = format!("{asked} is asked for; {now}");
        warning(Refusal::new("EB-snapshotter-switch", reason, words::DRAIN))
    })
}

fn pool_is_down(case: &Case<'_>, choice: &Choice) -> Option<Finding> {
    let name = choice.pool.as_deref()?;
    let what = match pool::state(case, name) {
        State::Absent => "is not there",
        State::Inactive => "is inactive",
        State::Up(_) | State::Unknown(_) => return None,
    };
    let data = if case.count(Snapshotter::Devmapper) == Some(0) {
        ""
    } else {
        ": refusing to switch to overlayfs over existing data"
    };
    let reason = format!("thin pool {name} {what}{data}");
    Some(failure(Refusal::new("EB-pool-inactive", reason, "look for its disk: lsblk, lvs -a, dmesg")))
}

fn pool_is_full(case: &Case<'_>, choice: &Choice) -> Option<Finding> {
    let State::Up(found) = pool::state(case, choice.pool.as_deref()?) else { return None };
    let (code, what, used) = if pool::is_metadata_full(found) {
        ("EB-pool-metadata", "metadata", found.metadata)
    } else if pool::is_data_full(found) {
        ("EB-pool-full", "data", found.data)
    } else {
        return None;
    };
    let fails = found.mode != "rw" || percent(used) >= POOL_FAILS;
    let reason = format!("thin pool {}: {what} {} % full, {}", found.name, percent(used), words::pool(found));
    let next = if pool::has_room(case) {
        "it is extended by itself as far as its volume group has room"
    } else {
        "remove images (crictl rmi --prune), or give its volume group another disk: vgextend"
    };
    let finding = Refusal::new(code, reason, next);
    Some(Finding { refusal: finding, is_failure: fails })
}

fn pool_is_damaged(case: &Case<'_>, choice: &Choice) -> Option<Finding> {
    let State::Up(found) = pool::state(case, choice.pool.as_deref()?) else { return None };
    let reason = format!("thin pool {}: {}", found.name, words::pool(found));
    let next = "its metadata are checked and repaired while nothing uses it; the old ones are kept";
    if found.needs_check {
        return Some(failure(Refusal::new("EB-pool-check", reason, next)));
    }
    let stuck = found.mode == "ro" && !pool::is_metadata_full(found) && !pool::is_data_full(found);
    (found.mode == "fail" || stuck).then(|| failure(Refusal::new("EB-pool-failed", reason, next)))
}

/// What is done about it where containerd does not run is [`pool::acts`]'s.
fn device_is_ahead(case: &Case<'_>, choice: &Choice) -> Option<Finding> {
    let pool = choice.pool.as_deref()?;
    let device = case.storage.store.ahead.known()?.left_over()?;
    let reason = format!(
        "thin pool {pool}: {} was made for a snapshot that does not exist: no container and no image gets a new one",
        device.name
    );
    let next = match (case.is_running, device.is_final) {
        (false, _) => "nothing: it is let go before containerd starts",
        (true, false) => "systemctl restart containerd: it lets go of it when it starts",
        (true, true) => {
            "reboot the host, or: systemctl stop k3s k3s-agent containerd; edge-bootstrap apply; start them again"
        }
    };
    Some(failure(Refusal::new("EB-pool-device", reason, next)))
}

/// Numbers of volumes that a new store gives away are taken in such a pool.
fn pool_of_others(case: &Case<'_>, choice: &Choice) -> Option<Finding> {
    let State::Up(found) = pool::state(case, choice.pool.as_deref()?) else { return None };
    let empty = case.count(Snapshotter::Devmapper) == Some(0) && !case.is_elsewhere();
    (empty && found.data.0 > 0).then(|| {
        let reason =
            format!("thin pool {} holds data, and containerd's store knows nothing of it", found.name);
        let next = "remove its volumes when nothing of them is needed: dmsetup ls, docs/snapshotter.md";
        failure(Refusal::new("EB-pool-space", reason, next))
    })
}
