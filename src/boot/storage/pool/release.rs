//! Letting go of a thin device that a power cut left without its snapshot.
//!
//! Owns the order: containerd is kept out, the device is taken down, then it is
//! marked as one on which work was cut off, then its room is given back. containerd
//! does the rest when it starts (containerd: snapshots/devmapper/pool_device.go
//! `ensureDeviceStates`): it gives the name to the next snapshot, and never uses
//! the device's own number again.

use super::lvm::{self, PoolError};
use super::record::Done;
use crate::error::Chain;
use crate::facts::devices::{self, Device};
use crate::observe;
use crate::plan::Refusal;
use crate::sys::Root;
use crate::sys::patch::Patch;

/// Lets go of the device of this pool that a cut left; without one nothing is
/// changed.
///
/// # Errors
/// When containerd runs, the device is in use, or a database cannot be read or
/// written.
pub async fn release(pool: &str) -> Result<Done, PoolError> {
    let root = Root::default();
    let database = devices::database(pool);
    let Some(patch) = Patch::take(&root, &database)? else { return Err(held(&database).into()) };
    let Some((ahead, bucket)) = observe::store::devices_ahead(&root, pool)? else {
        return Err(unread(&database).into());
    };
    let Some(device) = ahead.left_over().filter(|device| device.is_final) else {
        return Ok(Done { changed: false, words: format!("{pool}: no device is without its snapshot") });
    };
    take_down(&root, device).await?;
    let mark = devices::mark_of(&bucket, &device.name);
    let is_done = mark.map(|mark| patch.put(mark.at, mark.from, mark.to)).transpose()?;
    if is_done != Some(true) {
        return Err(unread(&database).into());
    }
    Ok(Done {
        changed: true,
        words: format!("{} has no snapshot and was let go{}", device.name, free(pool, device).await),
    })
}

/// It is up where containerd was killed and the host was not.
async fn take_down(root: &Root, device: &Device) -> Result<(), PoolError> {
    if !lvm::is_active(root, &device.name)? {
        return Ok(());
    }
    lvm::work(&["dmsetup", "remove", "--retry", &device.name]).await.map_err(|error| {
        let reason = format!("{} has no snapshot and cannot be taken down: {}", device.name, Chain(&error));
        let next = format!("reboot, or umount what has it: grep {} /proc/mounts", device.name);
        Refusal::new("EB-pool-device", reason, next).into()
    })
}

/// Gives its blocks back to the pool: it may share a whole image with others that
/// go. Only after the mark: a device that counts as active and is none would keep
/// the plugin from starting. What cannot be given back is lost room and no more.
async fn free(pool: &str, device: &Device) -> String {
    let pool = format!("/dev/mapper/{pool}");
    match lvm::work(&["dmsetup", "message", &pool, "0", &format!("delete {}", device.id)]).await {
        Ok(()) => String::new(),
        Err(error) => format!("; its room is not free: {}", Chain(&error)),
    }
}

fn held(database: &str) -> Refusal {
    let next = "reboot, or: systemctl stop k3s k3s-agent containerd; edge-bootstrap apply; start them again";
    Refusal::new("EB-pool-device", format!("containerd has {database} open"), next)
}

fn unread(database: &str) -> Refusal {
    let next = "it is tried again by itself; when it stays: reboot";
    Refusal::new("EB-pool-device", format!("{database} is not as it was a moment ago"), next)
}
