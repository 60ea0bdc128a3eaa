//! Checking a thin pool's metadata, and repairing them into new ones.
//!
//! Owns the order: down, LVM's check, one repair that keeps the old metadata as
//! a volume `NAME_metaN`, up. While such a volume lies there, no second repair
//! is made: a person looks first. Refuses while anything on the pool is in use.

use super::lvm::{self, PoolError};
use super::record::Done;
use super::{activate, extend};
use crate::facts::thin::{self, Volume};
use crate::plan::Refusal;
use crate::sys::{Root, block};

/// Checks the thin pool with this device-mapper name, and repairs it when the
/// check fails.
///
/// # Errors
/// When something on it is in use, when it was repaired before, and when it does
/// not come up afterwards.
pub async fn repair(pool: &str) -> Result<Done, PoolError> {
    let volume = volume(pool).await?;
    if let Some(found) = lvm::status(pool).await? {
        if found.mode == "rw" && !found.needs_check {
            return Ok(Done { changed: false, words: format!("{pool} needs no repair") });
        }
        down(pool, &volume).await?;
    }
    // LVM runs thin_check first, which is all that a mere `needs_check` takes.
    let words = match activate::activate(pool).await {
        Ok(_) => format!("{pool} was checked and is up"),
        Err(first) => {
            down(pool, &volume).await?;
            once(&volume, &first).await?;
            let path = format!("{}/{}", volume.group, volume.name);
            lvm::work(&["lvconvert", "--yes", "--repair", &path])
                .await
                .map_err(|error| failed(pool, &error))?;
            activate::activate(pool).await.map_err(|error| failed(pool, &error))?;
            format!("{pool} was repaired and is up; its old metadata are kept as {path}_meta0")
        }
    };
    Ok(Done { changed: true, words: format!("{words}{}", grown(pool).await) })
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

/// Takes the pool down, with the thin devices on it that nobody has open.
async fn down(pool: &str, volume: &Volume) -> Result<(), PoolError> {
    if lvm::status(pool).await?.is_none() {
        return Ok(());
    }
    for thin in on(pool)? {
        let open = lvm::told(&["dmsetup", "info", "-c", "--noheadings", "-o", "open", &thin]).await?;
        if open.trim() != "0" {
            let reason = format!("the thin device {thin} on {pool} is in use");
            let next = "systemctl stop k3s k3s-agent containerd, end its containers, or reboot";
            return Err(Refusal::new("EB-pool-check", reason, next).into());
        }
        lvm::work(&["dmsetup", "remove", "--retry", &thin]).await?;
    }
    lvm::work(&["lvchange", "--activate", "n", &format!("{}/{}", volume.group, volume.name)]).await
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
