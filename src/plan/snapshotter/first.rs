//! The rows for a host that has no recorded choice.
//!
//! Owns what each of them refuses with, and what it takes.

use super::case::{Asked, Case};
use super::{BASE_IMAGE_SIZE, FLOOR_BYTES, FLOOR_INODES, FLOOR_PERCENT, Taken, pool, words};
use crate::facts::storage::{Choice, OverlayTest};
use crate::paths::{CONTAINERD_CONFIG, CONTAINERD_DROP_IN};
use crate::plan::refusal::Refusal;
use crate::role::Snapshotter::{self, Devmapper, Overlayfs};

type Result = std::result::Result<Taken, Refusal>;

const CODE: &str = "EB-snapshotter";
/// What helps wherever the file system below containerd's root is the trouble.
const NEW_DISK: &str = "mount an ext4 or xfs (ftype=1) file system at /var/lib/containerd, or name a thin pool in [storage.devmapper]";

// === what nobody could read ===

/// The record is lost, and the disk tells nothing: only our own file still says
/// what the store was filled by.
pub(super) fn is_unread(case: &Case<'_>) -> bool {
    case.storage.content.known().is_none() && in_force(case).is_some()
}

pub(super) fn keep_in_force(case: &Case<'_>) -> Result {
    let Some((snapshotter, pool, base_image_size)) = in_force(case) else { return untested(case) };
    let why = case.storage.content.reason().unwrap_or_default();
    let reason = format!("{} ({why}), and {CONTAINERD_CONFIG} names it", words::keeping(case, snapshotter));
    let Taken { choice, reason, .. } = taken(case, snapshotter, reason);
    let choice = Choice { pool, base_image_size: base_image_size.or(choice.base_image_size), ..choice };
    Ok(Taken { acts: pool::acts(case, &choice), choice, reason })
}

/// Snapshotter, pool and size of our own file that containerd runs on. By lines,
/// as they were written: what it may hold of secrets is not shown.
fn in_force(case: &Case<'_>) -> Option<(Snapshotter, Option<String>, Option<String>)> {
    case.files.get(CONTAINERD_DROP_IN)?;
    let text = case.files.get(CONTAINERD_CONFIG)?.text.as_deref()?;
    let value = |key: &str| {
        let of =
            |line: &str| Some(line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"')?.to_owned());
        text.lines().find_map(of)
    };
    match value("snapshotter")?.as_str() {
        "overlayfs" => Some((Overlayfs, None, None)),
        "devmapper" => Some((Devmapper, Some(value("pool_name")?), value("base_image_size"))),
        _ => None,
    }
}

// === what is in the store already ===

pub(super) fn has_both(case: &Case<'_>) -> bool {
    case.holds(Overlayfs) && case.holds(Devmapper)
}

pub(super) fn which_of_both(case: &Case<'_>) -> Result {
    match case.asked() {
        Asked::For(snapshotter) => keep(case, snapshotter),
        Asked::Auto => Err(Refusal::new(
            CODE,
            "containerd's store holds snapshots of overlayfs and of devmapper, and nothing says which are in use",
            "set [storage] snapshotter to the one in use (grep snapshotter /etc/containerd/*.toml)",
        )),
    }
}

fn only(case: &Case<'_>) -> Option<Snapshotter> {
    [Overlayfs, Devmapper].into_iter().find(|snapshotter| case.holds(*snapshotter))
}

pub(super) fn has_other(case: &Case<'_>) -> bool {
    let Some(present) = only(case) else { return false };
    matches!(case.asked(), Asked::For(asked) if asked != present)
}

pub(super) fn has_third(case: &Case<'_>) -> bool {
    case.storage.content.known().is_some_and(|content| content.values().any(|count| *count > 0))
}

pub(super) fn no_silent_switch(case: &Case<'_>) -> Result {
    let content = words::content(case);
    let wanted = match case.asked() {
        Asked::For(asked) => format!("{asked} is asked for"),
        Asked::Auto => "this program configures overlayfs and devmapper only".to_owned(),
    };
    let reason = format!("containerd's store holds snapshots ({content}), and {wanted}");
    Err(Refusal::new("EB-snapshotter-switch", reason, words::DRAIN))
}

pub(super) fn is_unusable(case: &Case<'_>) -> bool {
    only(case) == Some(Overlayfs) && matches!(case.overlay(), Some(OverlayTest::Fails { .. }))
}

pub(super) fn content_without_overlay(case: &Case<'_>) -> Result {
    Err(words::has_data_but_fails(case))
}

pub(super) fn has_content(case: &Case<'_>) -> bool {
    only(case).is_some()
}

pub(super) fn keep_content(case: &Case<'_>) -> Result {
    only(case).map_or_else(|| untested(case), |snapshotter| keep(case, snapshotter))
}

fn keep(case: &Case<'_>, snapshotter: Snapshotter) -> Result {
    let reason = words::keeping(case, snapshotter);
    match snapshotter {
        Overlayfs => Ok(taken(case, Overlayfs, reason)),
        Devmapper => pool::found(case, reason),
    }
}

// === what nobody can follow ===

pub(super) fn is_torn(case: &Case<'_>) -> bool {
    case.by_assignment.zip(case.by_settings).is_some_and(|(assignment, settings)| assignment != settings)
}

pub(super) fn who_is_right(case: &Case<'_>) -> Result {
    let name = |asked: Option<Snapshotter>| asked.map_or_else(|| "auto".to_owned(), |it| it.to_string());
    let reason = format!(
        "the assignment asks for {}, this host's settings for {}",
        name(case.by_assignment),
        name(case.by_settings)
    );
    Err(Refusal::new(CODE, reason, "set one of them to \"auto\", or both to the same"))
}

pub(super) fn is_read_only(case: &Case<'_>) -> bool {
    case.root.is_some_and(|root| root.read_only)
}

pub(super) fn cannot_be_written(case: &Case<'_>) -> Result {
    Err(words::read_only(case))
}

pub(super) fn is_full(case: &Case<'_>) -> bool {
    words::shortage(case, (FLOOR_BYTES, FLOOR_PERCENT, FLOOR_INODES)).is_some()
}

pub(super) fn below_floor(case: &Case<'_>) -> Result {
    let reason = words::shortage(case, (FLOOR_BYTES, FLOOR_PERCENT, FLOOR_INODES)).unwrap_or_default();
    Err(Refusal::new(
        "EB-storage-space",
        reason,
        "free some, or mount a larger file system at /var/lib/containerd",
    ))
}

// === memory ===

pub(super) fn is_volatile_on_purpose(case: &Case<'_>) -> bool {
    case.is_volatile() && case.asked() == Asked::For(Overlayfs)
}

pub(super) fn overlayfs_in_memory(case: &Case<'_>) -> Result {
    let reason = "overlayfs, as asked for; the root is volatile: images are lost at reboot";
    Ok(taken(case, Overlayfs, reason.to_owned()))
}

/// Not devmapper either: its pool would outlive the databases that name its volumes.
pub(super) fn lost_at_reboot(case: &Case<'_>) -> Result {
    let reason = format!(
        "containerd's root is volatile ({}): images would be lost at every reboot",
        case.fs_type().unwrap_or_default()
    );
    let next = "mount a disk at /var/lib/containerd, or accept it with [storage] snapshotter = \"overlayfs\"";
    Err(Refusal::new(CODE, reason, next))
}

// === devmapper ===

pub(super) fn wants_devmapper(case: &Case<'_>) -> bool {
    case.asked() == Asked::For(Devmapper)
}

pub(super) fn devmapper_as_asked(case: &Case<'_>) -> Result {
    pool::take(case, "devmapper is asked for", "name a thin pool in [storage.devmapper]")
}

/// Overlayfs does not work here: a thin pool does, where one is named and
/// nobody asks for overlayfs.
fn otherwise(case: &Case<'_>, why: &str, next: &str) -> Result {
    if case.asked() == Asked::For(Overlayfs) || case.local.is_none() {
        return Err(Refusal::new(CODE, why, next));
    }
    pool::take(case, why, next)
}

pub(super) fn cannot_be_upper(case: &Case<'_>) -> Result {
    let fs_type = case.fs_type().unwrap_or_default();
    otherwise(case, &format!("{fs_type} cannot be an overlay upper directory"), NEW_DISK)
}

pub(super) fn no_ftype(case: &Case<'_>) -> Result {
    let why = "xfs ftype=0: overlayfs does not work on it, and it can only be made anew";
    otherwise(case, why, NEW_DISK)
}

pub(super) fn no_d_type(case: &Case<'_>) -> Result {
    let fs_type = case.fs_type().unwrap_or("the file system");
    let why =
        format!("{fs_type} tells no types of directory entries (d_type): overlayfs does not work on it");
    otherwise(case, &why, NEW_DISK)
}

fn failure<'a>(case: &Case<'a>) -> Option<(&'a str, &'a str)> {
    match case.overlay()? {
        OverlayTest::Fails { step, errno } => Some((step, errno)),
        OverlayTest::Works => None,
    }
}

pub(super) fn is_denied(case: &Case<'_>) -> bool {
    failure(case).is_some_and(|(_, errno)| matches!(errno, "EPERM" | "EACCES"))
}

/// No fallback: what denies this would deny containers too.
pub(super) fn denied(case: &Case<'_>) -> Result {
    let (step, errno) = failure(case).unwrap_or_default();
    let reason = format!("overlay mount denied: {errno} ({step})");
    Err(Refusal::new(
        CODE,
        reason,
        "look for SELinux, lockdown or a container around this host: ausearch -m avc, dmesg",
    ))
}

pub(super) fn is_missing(case: &Case<'_>) -> bool {
    failure(case).is_some_and(|(_, errno)| errno == "ENODEV")
}

pub(super) fn missing(case: &Case<'_>) -> Result {
    let kernel = case.kernel.unwrap_or("this kernel");
    let why = format!("kernel has no overlay support (module missing for {kernel}; reboot pending?)");
    otherwise(case, &why, "reboot into the newest kernel, or name a thin pool in [storage.devmapper]")
}

pub(super) fn fails(case: &Case<'_>) -> bool {
    failure(case).is_some()
}

pub(super) fn failed(case: &Case<'_>) -> Result {
    let (step, errno) = failure(case).unwrap_or_default();
    let fs_type = case.fs_type().unwrap_or("this file system");
    if case.is_old_kernel() {
        return old_kernel(case);
    }
    otherwise(case, &format!("overlay does not work on {fs_type}: {errno} ({step})"), NEW_DISK)
}

pub(super) fn old_kernel(case: &Case<'_>) -> Result {
    let kernel = case.kernel.unwrap_or_default();
    let why = format!("kernel {kernel} lacks multi-lower overlay (3.10.0-693 or 4.0 has it)");
    otherwise(case, &why, "upgrade the kernel, or name a thin pool in [storage.devmapper]")
}

// === overlayfs ===

pub(super) fn works(case: &Case<'_>) -> bool {
    case.overlay() == Some(&OverlayTest::Works)
}

pub(super) fn overlayfs(case: &Case<'_>) -> Result {
    let fs_type = case.fs_type().unwrap_or("the file system");
    let d_type = case.root.and_then(|root| root.d_type.known()).map_or("", |_| " d_type=1");
    let kernel = case.kernel.unwrap_or("this kernel");
    Ok(taken(case, Overlayfs, format!("overlayfs: {fs_type}{d_type}, overlay mount test passed on {kernel}")))
}

/// Nothing speaks against overlayfs, and nobody tried it. What is not known is no
/// reason for devmapper.
pub(super) fn untested(case: &Case<'_>) -> Result {
    let why = words::untested(case);
    match case.fs_type() {
        Some(fs_type) if !case.is_good() => {
            let reason = format!("whether overlay works on {fs_type} is not known: {why}");
            Err(Refusal::new(CODE, reason, NEW_DISK))
        }
        Some(fs_type) => Ok(taken(case, Overlayfs, format!("overlayfs: {fs_type}; not tested: {why}"))),
        None => Ok(taken(case, Overlayfs, format!("overlayfs: not tested: {why}"))),
    }
}

/// A first choice, on the file system as it is.
pub(super) fn taken(case: &Case<'_>, snapshotter: Snapshotter, reason: String) -> Taken {
    let plain = Choice {
        snapshotter,
        pool: None,
        base_image_size: (snapshotter == Devmapper).then(|| BASE_IMAGE_SIZE.to_owned()),
        mount_point: String::new(),
        fs_type: String::new(),
        uuid: None,
        reason: reason.clone(),
    };
    Taken { choice: case.here(plain), reason, acts: Vec::new() }
}
