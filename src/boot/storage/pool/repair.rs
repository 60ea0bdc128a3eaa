//! Checking a thin pool's metadata, and repairing them into new ones.
//!
//! Owns the order: down, LVM's check, one repair that keeps the old metadata as
//! a volume `NAME_metaN`, up. While such a volume lies there, no second repair
//! is made: a person looks first. Refuses while anything on the pool is in use,
//! and repairs only what a check found damaged.

use super::lvm::{self, PoolError};
use super::record::Done;
use super::{activate, extend};
use crate::facts::storage::Pool;
use crate::facts::thin::{self, Volume};
use crate::floor;
use crate::inventory::{self, Inventory, Repair};
use crate::plan::{Refusal, pool as sizes};
use crate::sys::clock::Clock;
use crate::sys::{Root, block, host};

/// Has LVM clear `needs_check` when the check has passed.
const CLEARING: &str = r#"global/thin_check_options=["-q","--clear-needs-check-flag"]"#;

/// Checks the thin pool with this device-mapper name, and repairs it when the
/// check fails.
///
/// # Errors
/// When something on it is in use, when it was repaired before, when it does not
/// come up afterwards, and when it does not come up for any other reason than
/// its metadata: then these stay as they are.
pub async fn repair(pool: &str) -> Result<Done, PoolError> {
    let volume = volume(pool).await?;
    if let Some(found) = lvm::status(pool).await? {
        if is_well(&found) {
            forget(&Root::default(), pool)?;
            return Ok(Done { changed: false, words: format!("{pool} needs no repair") });
        }
        down(pool, &volume).await?;
    }
    // LVM runs thin_check first.
    let words = match activate::activate(pool).await {
        Ok(_) => format!("{pool} was checked and is up"),
        Err(damage) if is_damage(&damage) => {
            down(pool, &volume).await?;
            anew(pool, &volume, &damage).await?
        }
        Err(error) => return Err(error),
    };
    cleared(pool, &volume).await?;
    let words = format!("{words}{}", grown(pool).await);
    writable(pool).await?;
    Ok(Done { changed: true, words })
}

/// Whether LVM's check or the kernel says that the metadata are damaged. A disk
/// that is missing, a program that did not end and the like are no reason to
/// write them anew.
fn is_damage(error: &PoolError) -> bool {
    let codes = ["EB-pool-check", "EB-pool-failed"];
    matches!(error, PoolError::Refused(refusal) if codes.contains(&refusal.code.as_str()))
}

/// Takes `needs_check` from a pool that passed its check and still has it: LVM
/// clears it only where its settings say so, Debian 12's do not, and thin_repair
/// copies it.
async fn cleared(pool: &str, volume: &Volume) -> Result<(), PoolError> {
    if lvm::status(pool).await?.is_none_or(|found| !found.needs_check) {
        return Ok(());
    }
    down(pool, volume).await?;
    let path = format!("{}/{}", volume.group, volume.name);
    lvm::work_on(volume, &["lvchange", "--config", CLEARING, "--activate", "y", &path]).await?;
    activate::activate(pool).await.map(|_| ())
}

/// Repairs that were begun are over when the pool works, whoever brought it up.
pub(super) fn forget(root: &Root, pool: &str) -> Result<(), PoolError> {
    inventory::update(root, |inventory| inventory.repairs.retain(|repair| repair.pool != pool))?;
    Ok(())
}

/// Whether nothing is wrong with it.
pub(super) fn is_well(found: &Pool) -> bool {
    found.mode == "rw" && !found.needs_check
}

/// Has LVM write new metadata, and brings the pool up on them.
async fn anew(pool: &str, volume: &Volume, damage: &PoolError) -> Result<String, PoolError> {
    let root = Root::default();
    once(volume, damage).await?;
    begin(&root, pool, damage)?;
    let path = format!("{}/{}", volume.group, volume.name);
    let repaired = lvm::work_on(volume, &["lvconvert", "--yes", "--repair", &path]).await;
    repaired.map_err(|error| failed(pool, &error))?;
    activate::activate(pool).await.map_err(|error| failed(pool, &error))?;
    forget(&root, pool)?;
    Ok(format!("{pool} was repaired and is up; its old metadata are kept as {path}_meta0"))
}

/// Records that a repair begins, before it does: one that is killed or cut off
/// is not begun again and again.
fn begin(root: &Root, pool: &str, damage: &PoolError) -> Result<(), PoolError> {
    let boot_id = host::boot_id(root)?;
    let before = Inventory::load(root).repairs;
    let same = before.iter().filter(|repair| repair.pool == pool);
    let begun: Vec<_> = same.map(|repair| (repair.boot_id.as_str(), repair.at)).collect();
    let past = floor::known(root).at;
    if let Some(when) = sizes::repaired_enough(&begun, &boot_id, past) {
        let reason = format!("a repair of {pool} was begun {when} and did not bring it up: {damage}");
        let next = "the disk: dmesg, smartctl -a; then a reboot for one more within the day, or by hand: lvconvert --repair (docs/thin-pool.md)";
        return Err(Refusal::new("EB-pool-failed", reason, next).into());
    }
    let repair = Repair { pool: pool.to_owned(), boot_id, at: Clock::System.unix().max(past) };
    inventory::update(root, |inventory| inventory.begin_repair(repair))?;
    Ok(())
}

/// A pool that takes no writes after its check would be checked again and again.
async fn writable(pool: &str) -> Result<(), PoolError> {
    match lvm::status(pool).await? {
        Some(found) if found.mode == "ro" || found.needs_check => {
            let reason = format!("{pool} was checked and is up, and takes no writes all the same");
            Err(Refusal::new("EB-pool-failed", reason, "the disk: dmesg, smartctl -a; lvs -a").into())
        }
        _ => Ok(()),
    }
}

/// Metadata that are full again at once would fail again at once.
async fn grown(pool: &str) -> String {
    match extend(pool).await {
        Ok(done) if done.changed => format!("; {}", done.words),
        Ok(_) => String::new(),
        Err(error) => format!("; {error}"),
    }
}

async fn volume(pool: &str) -> Result<Volume, PoolError> {
    if let Some((group, volume)) = thin::volume_of(pool)
        && let Some(found) = lvm::volume(&group, &volume).await?.filter(Volume::is_thin_pool)
    {
        return Ok(found);
    }
    let reason = format!("{pool} is no thin pool of LVM's");
    let next = "a pool made by dmsetup is repaired by hand: thin_check, thin_repair into new metadata";
    Err(Refusal::new("EB-pool-failed", reason, next).into())
}

/// Takes the pool down, with the thin devices on it that nobody has open: all of
/// them, or none. One that is opened between the look and its removal is left,
/// because the kernel removes none that is open; those before it are gone then,
/// without any data, and containerd brings its own up again when it starts.
async fn down(pool: &str, volume: &Volume) -> Result<(), PoolError> {
    if lvm::status(pool).await?.is_none() {
        return Ok(());
    }
    let devices = on(pool)?;
    for thin in &devices {
        let open = lvm::told(&["dmsetup", "info", "-c", "--noheadings", "-o", "open", thin]).await?;
        if open.trim() != "0" {
            let reason = format!("the thin device {thin} on {pool} is in use");
            let next = "systemctl stop k3s k3s-agent containerd, end its containers, or reboot";
            return Err(Refusal::new("EB-pool-check", reason, next).into());
        }
    }
    for thin in &devices {
        lvm::work(&["dmsetup", "remove", "--retry", thin]).await?;
    }
    let path = format!("{}/{}", volume.group, volume.name);
    match lvm::work_on(volume, &["lvchange", "--activate", "n", &path]).await {
        // LVM checks the metadata here too, when the pool is down already.
        Err(PoolError::Failed { .. }) if lvm::status(pool).await?.is_none() => Ok(()),
        other => other,
    }
}

/// Names of the devices on the pool.
fn on(pool: &str) -> Result<Vec<String>, PoolError> {
    let root = Root::default();
    let Some(device) = block::find(&root, &format!("/dev/mapper/{pool}"))? else { return Ok(Vec::new()) };
    let holders = root.list(&format!("/sys/dev/block/{}/holders", device.number))?;
    let name = |holder: &String| root.read_kernel(&format!("/sys/class/block/{holder}/dm/name"));
    Ok(holders.iter().map(name).collect::<Result<Vec<_>, _>>()?)
}

/// One repair, until a person has looked at the old metadata.
async fn once(volume: &Volume, first: &PoolError) -> Result<(), PoolError> {
    let kept = format!("{}_meta", volume.name);
    let volumes = lvm::volumes(&volume.group).await?;
    let is_kept = |name: &str| {
        name.strip_prefix(&kept)
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|it| it.is_ascii_digit()))
    };
    let Some(old) = volumes.iter().find(|other| is_kept(&other.name)) else { return Ok(()) };
    let path = format!("{}/{}", volume.group, old.name);
    let reason =
        format!("{}/{} was repaired before ({path}) and fails again: {first}", volume.group, volume.name);
    let next = format!("is a disk dying? smartctl -a; for one more repair: lvremove {path}, then reboot");
    Err(Refusal::new("EB-pool-failed", reason, next).into())
}

fn failed(pool: &str, error: &PoolError) -> PoolError {
    let reason = format!("the repair of {pool} failed: {error}");
    let next = "its content can be made again: remove the pool and containerd's root, then reboot";
    Refusal::new("EB-pool-failed", reason, next).into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sys::atomic;
    use crate::sys::exec::ExecError;

    fn refused(code: &str) -> PoolError {
        Refusal::new(code, "why", "what").into()
    }

    #[test]
    fn only_damaged_metadata_are_written_anew() {
        assert!(is_damage(&refused("EB-pool-check")) && is_damage(&refused("EB-pool-failed")));
        assert!(!is_damage(&refused("EB-pool-inactive")));
        let seconds = Duration::from_mins(20).as_secs();
        assert!(!is_damage(&ExecError::Deadline { program: "lvchange".into(), seconds }.into()));
        let words = "Volume group \"edge\" not found".to_owned();
        assert!(!is_damage(&PoolError::Failed { command: "lvchange".into(), words }));
    }

    #[test]
    fn a_repair_that_was_begun_is_recorded_and_not_begun_again_in_its_boot() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let boot = |id: &str| {
            root.make_dir("/proc/sys/kernel/random", 0o755).unwrap();
            atomic::write(&root, "/proc/sys/kernel/random/boot_id", id.as_bytes(), 0o644).unwrap();
        };
        let begin = || begin(&root, "edge-thinpool", &refused("EB-pool-check"));
        boot("one");
        begin().unwrap();
        let again = begin().unwrap_err().to_string();
        assert!(
            again.starts_with("EB-pool-failed: a repair of edge-thinpool was begun in this boot"),
            "{again}"
        );
        boot("two");
        begin().unwrap();
        boot("three");
        assert!(begin().unwrap_err().to_string().contains("twice within a day"));
        assert_eq!(Inventory::load(&root).repairs.len(), 2);
        forget(&root, "edge-other").unwrap();
        assert_eq!(Inventory::load(&root).repairs.len(), 2);
        forget(&root, "edge-thinpool").unwrap();
        begin().unwrap();
    }
}
