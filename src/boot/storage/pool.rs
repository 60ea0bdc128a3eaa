//! Thin pools: how one is, what it could stand on, and the work on it.
//!
//! Owns the looks at a pool, a volume group and a device, by LVM's and
//! device-mapper's own programs, outside the daemon's sandbox. The work is
//! below: it is done by acts only. Never changes what it looks at.

mod activate;
mod create;
mod extend;
mod lvm;
pub mod record;
mod release;
mod repair;
mod space;

pub use activate::activate;
pub use create::create;
pub use extend::extend;
pub use lvm::PoolError;
pub use release::release;
pub use repair::repair;
pub use space::device;

use crate::error::Chain;
use crate::facts::storage::{Pool, VolumeGroup};
use crate::facts::{Fact, thin};
use crate::plan::pool as sizes;

/// The thin pool with this device-mapper name; `None`: neither device-mapper
/// nor LVM knows one. One that plain dmsetup made has no volume, and is known
/// only while it is active.
/// One whose making was cut off counts as not active, so that it is finished
/// before anybody uses it.
pub async fn pool(name: &str) -> Fact<Option<Pool>> {
    fact(look(name).await)
}

async fn look(name: &str) -> Result<Option<Pool>, PoolError> {
    let active = lvm::status(name).await?;
    let volume = match thin::volume_of(name) {
        Some((group, volume)) => lvm::volume(&group, &volume).await?,
        None => None,
    };
    let volume = volume.filter(thin::Volume::is_thin_pool);
    let is_unfinished = volume.as_ref().is_some_and(|volume| create::is_unfinished(&volume.tags));
    if active.is_none() && volume.is_none() {
        return Ok(None);
    }
    let found = active.filter(|_| !is_unfinished).unwrap_or_default();
    let volume = volume.map(|volume| (volume.group, volume.name));
    Ok(Some(Pool { name: name.to_owned(), volume, ..found }))
}

/// The volume group with this name; `None`: there is none. Room that only
/// unfinished work of ours takes counts as free: it is taken back first.
pub async fn group(name: &str) -> Fact<Option<VolumeGroup>> {
    fact(room(name).await)
}

async fn room(name: &str) -> Result<Option<VolumeGroup>, PoolError> {
    let Some(group) = lvm::group(name).await? else { return Ok(None) };
    let mut free = group.free;
    if free < sizes::LEAST {
        let volumes = lvm::volumes(name).await?;
        let leftovers = volumes.iter().filter(|it| create::is_unfinished(&it.tags) && !it.is_thin_pool());
        free += leftovers.map(|volume| volume.size).sum::<u64>();
    }
    Ok(Some(VolumeGroup { name: group.name, size: group.size, is_partial: group.is_partial, free }))
}

fn fact<T>(result: Result<T, PoolError>) -> Fact<T> {
    result.map_or_else(|error| Fact::unknown(Chain(&error).to_string()), Fact::Known)
}
