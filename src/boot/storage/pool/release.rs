//! Letting go of a thin device that a power cut left without its snapshot.
//!
//! Owns the order: containerd is kept out, the device is taken down, and then it
//! is marked as one whose making was cut off, which is what it is. containerd
//! does the rest when it starts (containerd: snapshots/devmapper/pool_device.go
//! `ensureDeviceStates`): it gives the name to the next snapshot, and never uses
//! the device's own number again.

use super::lvm::{self, PoolError};
use super::record::Done;
use crate::facts::devices;
use crate::observe;
use crate::plan::Refusal;
use crate::sys::Root;
use crate::sys::patch::Patch;

/// Lets go of the one device of this pool that is numbered after the last
/// snapshot; without one, or with several, nothing is changed.
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
    let [device] = ahead.as_slice() else {
        let words = format!("{pool}: {} devices are without their snapshot", ahead.len());
        return Ok(Done { changed: false, words });
    };
    if lvm::is_active(&root, &device.name)? {
        lvm::work(&["dmsetup", "remove", "--retry", &device.name]).await?;
    }
    let mark = devices::mark_of(&bucket, &device.name);
    let is_done = mark.map(|mark| patch.put(mark.at, mark.from, mark.to)).transpose()?;
    if is_done != Some(true) {
        return Err(unread(&database).into());
    }
    Ok(Done { changed: true, words: format!("{} has no snapshot and was let go", device.name) })
}

fn held(database: &str) -> Refusal {
    let next = "it is done before containerd's next start: reboot, or systemctl stop k3s k3s-agent containerd; edge-bootstrap apply";
    Refusal::new("EB-pool-device", format!("containerd has {database} open"), next)
}

fn unread(database: &str) -> Refusal {
    let next = "it is tried again by itself; when it stays: reboot";
    Refusal::new("EB-pool-device", format!("{database} is not as it was a moment ago"), next)
}
