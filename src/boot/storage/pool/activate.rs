//! Bringing a thin pool up.
//!
//! Owns the wait for its disk and its device, and the words when it does not
//! come. Changes no data: LVM's own check before it may clear a `needs_check`.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::record::Done;
use super::{create, lvm, lvm::PoolError};
use crate::facts::storage::Pool;
use crate::facts::thin::{self, Volume};
use crate::plan::Refusal;
use crate::sys::Root;

/// How long the disk below and the device above may take to come.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(300);

/// Brings the thin pool with this device-mapper name up, and waits until its
/// device is there.
///
/// # Errors
/// When LVM does not know it within 10 s, refuses to activate it, or it has
/// failed; `EB-pool-check` where its metadata did not pass LVM's check. Pools that are not LVM's are not touched.
pub async fn activate(pool: &str) -> Result<Done, PoolError> {
    if let Some(found) = lvm::status(pool).await? {
        judge(pool, &found)?;
        finish(pool).await?;
        return Ok(Done { changed: false, words: format!("{pool} is up") });
    }
    let volume = appear(pool).await?;
    // Built in, or loaded on demand: the failure that counts is LVM's.
    let _ = lvm::run(&["modprobe", "dm_thin_pool"], PATIENCE).await;
    parts_down(&volume).await?;
    let path = format!("{}/{}", volume.group, volume.name);
    if let Err(error) = lvm::work_on(&volume, &["lvchange", "--activate", "y", &path]).await {
        return Err(give_up(&volume, refused(pool, error)).await);
    }
    let found = come(pool).await?;
    judge(pool, &found)?;
    finish(pool).await?;
    Ok(Done { changed: true, words: format!("{pool} brought up") })
}

async fn finish(pool: &str) -> Result<(), PoolError> {
    let Some((group, volume)) = thin::volume_of(pool) else { return Ok(()) };
    match lvm::volume(&group, &volume).await? {
        Some(volume) if volume.is_thin_pool() => create::finish(&group, &volume).await,
        _ => Ok(()),
    }
}

/// A program of LVM that was killed leaves parts of a pool active by themselves,
/// and LVM activates no pool above them.
async fn parts_down(pool: &Volume) -> Result<(), PoolError> {
    let part = format!("{}_t", pool.name);
    for volume in lvm::volumes(&pool.group).await? {
        let is_part = volume.name.starts_with(&part) || volume.name.ends_with("_pmspare");
        if is_part && volume.is_active() {
            let path = format!("{}/{}", volume.group, volume.name);
            // LVM before 2.02.178 refuses this, and does not need it.
            let _ = lvm::work(&["lvchange", "--activate", "n", &path]).await;
        }
    }
    Ok(())
}

/// A pool whose making was cut off has never been used: one that does not come
/// up is removed, and made anew.
async fn give_up(volume: &Volume, why: PoolError) -> PoolError {
    let is_check = matches!(&why, PoolError::Refused(refusal) if refusal.code == "EB-pool-check");
    if !is_check || !create::is_unfinished(&volume.tags) {
        return why;
    }
    let path = format!("{}/{}", volume.group, volume.name);
    match lvm::work(&["lvremove", "--force", "--yes", &path]).await {
        Ok(()) => inactive(format!("{path} was left unfinished and is removed"), "it is made anew by itself"),
        Err(error) => error,
    }
}

/// Waits for the disks to be there, until LVM knows the pool.
async fn appear(pool: &str) -> Result<Volume, PoolError> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some((group, volume)) = thin::volume_of(pool)
            && let Some(found) = lvm::volume(&group, &volume).await?.filter(Volume::is_thin_pool)
        {
            return Ok(found);
        }
        if Instant::now() >= end {
            return Err(Refusal::new(
                "EB-pool-inactive",
                format!("neither LVM nor device-mapper knows a thin pool {pool}"),
                "is its disk there? pvs; a pool made by dmsetup alone is gone after a reboot: make it again",
            )
            .into());
        }
        sleep(LOOK).await;
    }
}

/// Waits for the device and for udev's link to it.
async fn come(pool: &str) -> Result<Pool, PoolError> {
    let end = Instant::now() + PATIENCE;
    let link = format!("/dev/mapper/{pool}");
    loop {
        let found = lvm::status(pool).await?;
        match found {
            Some(found) if Root::default().exists(&link) => return Ok(found),
            _ if Instant::now() < end => sleep(LOOK).await,
            Some(_) => {
                return Err(inactive(format!("{link} does not appear"), "is udev up? dmsetup mknodes"));
            }
            None => return Err(inactive(format!("{pool} is not active after its activation"), "lvs -a")),
        }
    }
}

fn inactive(reason: String, next: &str) -> PoolError {
    Refusal::new("EB-pool-inactive", reason, next).into()
}

/// A pool whose input and output is dead is not up.
fn judge(pool: &str, found: &Pool) -> Result<(), PoolError> {
    match found.mode.as_str() {
        "rw" | "ro" | "out_of_data_space" => Ok(()),
        "fail" => {
            let reason = format!("the thin pool {pool} has failed, all input and output ends with errors");
            Err(Refusal::new("EB-pool-failed", reason, "it is repaired when nothing uses it").into())
        }
        other => {
            let reason = format!("{pool} is a device with the target {other}, not a thin pool");
            Err(Refusal::new("EB-pool-inactive", reason, "correct `storage.devmapper.pool`").into())
        }
    }
}

/// LVM checks the metadata first, and activates nothing that does not pass. A
/// check that could not be made is no evidence: thin_check exits with 1 when it
/// found damage, and with 64 when it did not understand its call.
fn refused(pool: &str, error: PoolError) -> PoolError {
    let PoolError::Failed { words, .. } = &error else { return error };
    let is_checked = words.contains("Check of pool") && words.contains("(status:1)");
    let (code, next) = if is_checked {
        ("EB-pool-check", "its metadata are repaired by itself, once, and the old ones are kept")
    } else if words.contains("transaction_id") {
        ("EB-pool-inactive", "LVM's record is not of this pool's time: vgcfgrestore --list")
    } else {
        ("EB-pool-inactive", "it is tried again by itself")
    };
    Refusal::new(code, format!("{pool} cannot be activated: {words}"), next).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_check_that_found_damage_is_one() {
        let code = |words: &str| match refused(
            "edge-thinpool",
            PoolError::Failed { command: "lvchange".into(), words: words.into() },
        ) {
            PoolError::Refused(refusal) => refusal.code,
            other => other.to_string(),
        };
        let check = |status: &str| {
            format!("Check of pool edge/thinpool failed (status:{status}). Manual repair required!")
        };
        assert_eq!(code(&check("1")), "EB-pool-check");
        assert_eq!(code(&check("64")), "EB-pool-inactive");
        assert_eq!(code(&check("-1")), "EB-pool-inactive");
        let other = "Thin pool edge-thinpool (253:2) transaction_id is 5, while expected 7.";
        assert_eq!(code(other), "EB-pool-inactive");
        assert_eq!(code("Couldn't find device with uuid edgebo-otst."), "EB-pool-inactive");
    }
}
