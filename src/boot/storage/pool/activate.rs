//! Bringing a thin pool up.
//!
//! Owns the wait for its disk and its device, and the words when it does not
//! come. Changes no data: LVM's own check before it may clear a `needs_check`.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::record::Done;
use super::{create, lvm, lvm::PoolError, repair};
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
/// failed; `EB-pool-check` where its metadata did not pass LVM's check. Pools
/// that are not LVM's are not touched. [`PoolError::Late`] where a disk may come.
pub async fn activate(pool: &str) -> Result<Done, PoolError> {
    if let Some(found) = lvm::status(pool).await? {
        judge(pool, &found)?;
        finish(pool, &found).await?;
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
    finish(pool, &found).await?;
    Ok(Done { changed: true, words: format!("{pool} brought up") })
}

async fn finish(pool: &str, found: &Pool) -> Result<(), PoolError> {
    if repair::is_well(found) {
        // The pool is up all the same: what stays recorded only delays a repair.
        let _ = repair::forget(&Root::default(), pool);
    }
    let Some((group, volume)) = thin::volume_of(pool) else { return Ok(()) };
    match lvm::volume(&group, &volume).await? {
        Some(volume) if volume.is_thin_pool() => create::finish(&group, &volume).await,
        _ => Ok(()),
    }
}

/// A program of LVM that was killed leaves parts of a pool active by themselves,
/// and LVM activates no pool above them.
async fn parts_down(pool: &Volume) -> Result<(), PoolError> {
    for volume in lvm::volumes(&pool.group).await? {
        if volume.is_part_of(&pool.name) && volume.is_active() {
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
            return Err(PoolError::Late(Refusal::new(
                "EB-pool-inactive",
                format!("neither LVM nor device-mapper knows a thin pool {pool}"),
                "is its disk there? pvs; a pool made by dmsetup alone is gone after a reboot: make it again",
            )));
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

/// LVM checks the metadata first, and activates nothing that does not pass.
/// thin_check exits with 1 when it found damage. Up to 0.9 it does so too when it
/// did not understand its call or could not read the device (later ones, in Rust,
/// have 64 for a call): such an end is taken for damage, and the repair, whose
/// own program then fails as well, keeps the old metadata. Any other end is no
/// evidence.
fn refused(pool: &str, error: PoolError) -> PoolError {
    let PoolError::Failed { words, .. } = &error else { return error };
    let has_run = words.contains("Check of pool");
    let is_checked = has_run && words.contains("(status:1)");
    let is_missing = words.contains("find device with uuid") || words.contains("partial LV");
    let (code, next) = if is_checked {
        ("EB-pool-check", "its metadata are repaired by itself, once, and the old ones are kept")
    } else if words.contains("transaction_id") {
        ("EB-pool-inactive", "LVM's record is not of this pool's time: vgcfgrestore --list")
    } else {
        ("EB-pool-inactive", "it is tried again by itself")
    };
    let refusal = Refusal::new(code, format!("{pool} cannot be activated: {words}"), next);
    // Where it has run, each further try is a whole check. LVM looks at its own
    // number of the last transaction after that.
    if is_missing && !has_run && !words.contains("transaction_id") {
        PoolError::Late(refusal)
    } else {
        refusal.into()
    }
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
            PoolError::Late(refusal) => format!("{}, late", refusal.code),
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
        let missing = "WARNING: Couldn't find device with uuid edgebo-otst.";
        assert_eq!(code(missing), "EB-pool-inactive, late");
        assert_eq!(
            code(&format!("{missing}; {}", check("64"))),
            "EB-pool-inactive",
            "a whole check each time"
        );
        let partial =
            "Refusing activation of partial LV edge/thinpool.  Use '--activationmode partial' to override.";
        assert_eq!(code(partial), "EB-pool-inactive, late");
    }
}
