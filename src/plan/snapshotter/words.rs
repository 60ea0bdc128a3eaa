//! The words of the decision: reasons with their values, and what was looked at.
//!
//! Owns text only.

use super::case::Case;
use super::pool::{self, State};
use crate::facts::Fact;
use crate::facts::storage::{OverlayTest, Pool, StoreRoot};
use crate::paths::CONTAINERD_ROOT;
use crate::plan::pool::percent;
use crate::plan::refusal::Refusal;
use crate::role::Snapshotter;

/// How a store is emptied so that another snapshotter can be taken.
pub(super) const DRAIN: &str = "to switch: kubectl drain this node, systemctl stop k3s k3s-agent containerd, move /var/lib/containerd aside, start edge-bootstrap again (docs/snapshotter.md)";
/// Where the programs come from.
pub(super) const PACKAGES: &str =
    "install lvm2, e2fsprogs, and thin-provisioning-tools (Debian) or device-mapper-persistent-data (RHEL)";

/// Why the snapshotter stays.
pub(super) fn keeping(case: &Case<'_>, snapshotter: Snapshotter) -> String {
    let place = case.root.map_or_else(|| CONTAINERD_ROOT.to_owned(), identity);
    match case.count(snapshotter) {
        Some(0) => format!("keeping snapshotter {snapshotter}, as chosen before on {place}"),
        Some(count) => {
            format!("keeping snapshotter {snapshotter}: existing data ({count} snapshots) on {place}")
        }
        None => format!("keeping snapshotter {snapshotter}; what {place} holds is not known"),
    }
}

fn identity(root: &StoreRoot) -> String {
    root.uuid.known().cloned().unwrap_or_else(|| format!("{} ({})", root.source, root.fs_type))
}

/// The root cannot be written to.
pub(super) fn read_only(case: &Case<'_>) -> Refusal {
    let place = case.root.map(|root| format!("{} on {}", root.source, root.mount_point)).unwrap_or_default();
    let reason = format!("containerd's root is not writable: {place} is mounted read-only");
    Refusal::new("EB-storage-root", reason, "look at its disk, then remount it: dmesg, mount -o remount,rw")
}

/// Why overlayfs with data does not work any more.
pub(super) fn has_data_but_fails(case: &Case<'_>) -> Refusal {
    let how = overlay(case);
    let reason =
        format!("snapshotter overlayfs has data but fails its probe ({how}); operator action required");
    Refusal::new(
        "EB-snapshotter",
        reason,
        "boot the kernel that worked, or look for SELinux: dmesg, ausearch -m avc",
    )
}

/// What falls short of these bytes, percent and inodes; `None`: nothing does, as far as is known.
pub(super) fn shortage(case: &Case<'_>, (bytes, share, inodes): (u64, u64, u64)) -> Option<String> {
    let root = case.root?;
    if let (Some(free), Some(total)) = (root.free_bytes.known(), root.total_bytes.known()) {
        if *free < bytes {
            return Some(format!("free {} below floor {} on {}", size(*free), size(bytes), root.mount_point));
        }
        if *total > 0 && percent((*free, *total)) < share {
            let free = percent((*free, *total));
            return Some(format!("free {free} % below floor {share} % on {}", root.mount_point));
        }
    }
    let free = (*root.free_inodes.known()?)?;
    // Where none are counted, none run out.
    (free > 0 && free < inodes)
        .then(|| format!("free inodes {free} below floor {inodes} on {}", root.mount_point))
}

/// Why nobody has tried overlay.
pub(super) fn untested(case: &Case<'_>) -> String {
    let reason = match case.look {
        Some(look) => look.overlay.reason(),
        None => case.storage.look.reason(),
    };
    reason.unwrap_or_default().to_owned()
}

/// A pool in a few words.
pub(super) fn pool(pool: &Pool) -> String {
    let check = if pool.needs_check { ", needs check" } else { "" };
    let (data, metadata) = (percent(pool.data), percent(pool.metadata));
    format!("{}{check}, data {data} %, metadata {metadata} %", pool.mode)
}

/// What a store holds.
pub(super) fn content(case: &Case<'_>) -> String {
    let content = match &case.storage.content {
        Fact::Known(content) => content,
        Fact::Unknown { unknown } => return format!("unknown: {unknown}"),
    };
    let parts: Vec<String> = content.iter().map(|(name, count)| format!("{name} {count}")).collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

fn overlay(case: &Case<'_>) -> String {
    match case.overlay() {
        Some(OverlayTest::Works) => "works".to_owned(),
        Some(OverlayTest::Fails { step, errno }) => format!("{errno} at {step}"),
        None => format!("unknown: {}", untested(case)),
    }
}

/// Bytes for people.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let found = UNITS.iter().find(|(_, unit)| bytes >= *unit);
    found.map_or_else(
        || format!("{bytes} B"),
        |(name, unit)| format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
    )
}

fn shown<T>(fact: &Fact<T>, show: impl FnOnce(&T) -> String) -> String {
    match fact {
        Fact::Known(value) => show(value),
        Fact::Unknown { unknown } => format!("unknown: {unknown}"),
    }
}

/// What was looked at, one line each.
pub(super) fn inputs(case: &Case<'_>) -> Vec<String> {
    let asked = |asked: Option<Snapshotter>| asked.map_or_else(|| "auto".to_owned(), |it| it.to_string());
    let mut lines = vec![
        format!(
            "asked for: {} by the assignment, {} by the settings",
            asked(case.by_assignment),
            asked(case.by_settings)
        ),
        format!("chosen before: {}", chosen(case)),
        format!("snapshots in the store: {}", content(case)),
    ];
    lines.extend(root(case));
    lines.push(format!("kernel: {}", case.kernel.unwrap_or("unknown")));
    lines.push(format!("overlay test: {}", overlay(case)));
    lines.extend(devmapper(case));
    lines
}

fn chosen(case: &Case<'_>) -> String {
    let Some(choice) = case.recorded else { return "nothing".to_owned() };
    let pool = choice.pool.as_ref().map(|pool| format!(" on pool {pool}")).unwrap_or_default();
    let place = choice.uuid.as_deref().unwrap_or(&choice.fs_type);
    format!("{}{pool}, on {place} at {}", choice.snapshotter, choice.mount_point)
}

fn root(case: &Case<'_>) -> Vec<String> {
    let Some(root) = case.root else {
        return vec![format!("{CONTAINERD_ROOT}: {}", shown(&case.storage.root, |_| String::new()))];
    };
    let mode = if root.read_only { "read-only" } else { "writable" };
    let uuid = shown(&root.uuid, Clone::clone);
    let mut lines = vec![
        format!(
            "{CONTAINERD_ROOT} is on: {} {} at {}, {mode}, uuid {uuid}",
            root.fs_type, root.source, root.mount_point
        ),
        format!("d_type: {}", shown(&root.d_type, yes)),
    ];
    if root.fs_type == "xfs" {
        lines.push(format!(
            "xfs ftype: {}",
            shown(&root.xfs_ftype, |ftype| ftype.as_ref().map_or_else(|| "none".to_owned(), yes))
        ));
    }
    lines.push(free(root));
    lines
}

fn yes(value: &bool) -> String {
    if *value { "yes" } else { "no" }.to_owned()
}

fn free(root: &StoreRoot) -> String {
    let bytes = |fact: &Fact<u64>| shown(fact, |bytes| size(*bytes));
    let inodes =
        shown(&root.free_inodes, |free| free.map_or_else(|| "no limit".to_owned(), |free| free.to_string()));
    format!("free: {} of {}, inodes {inodes}", bytes(&root.free_bytes), bytes(&root.total_bytes))
}

/// Only where a pool is named or in use.
fn devmapper(case: &Case<'_>) -> Vec<String> {
    let recorded = case.recorded.and_then(|choice| choice.pool.clone());
    let Some(name) = recorded.or_else(|| case.local.map(|local| local.pool.to_string())) else {
        return Vec::new();
    };
    let state = match pool::state(case, &name) {
        State::Unknown(why) => format!("unknown: {why}"),
        State::Absent => "not there".to_owned(),
        State::Inactive => "inactive".to_owned(),
        State::Up(found) => pool(found),
    };
    let mut lines = vec![format!("thin pool {name}: {state}")];
    let Some(look) = case.look else { return lines };
    lines.push(format!("device-mapper targets: {}", shown(&look.targets, |targets| targets.join(" "))));
    if !look.missing_tools.is_empty() {
        lines.push(format!("programs that are missing: {}", look.missing_tools.join(" ")));
    }
    if let Some(group) = look.group.known().and_then(Option::as_ref) {
        lines.push(format!("volume group {}: {} free of {}", group.name, size(group.free), size(group.size)));
    }
    if let Some(device) = look.device.known().and_then(Option::as_ref) {
        let in_use = if device.in_use.is_empty() { "empty".to_owned() } else { device.in_use.join(", ") };
        lines.push(format!("device {}: {}, {in_use}", device.path, size(device.size)));
    }
    lines
}
