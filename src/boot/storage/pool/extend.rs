//! Giving a full thin pool more of its volume group.
//!
//! Owns the two extensions. What a pool needs is `plan::pool`'s to say.

use super::lvm::{self, PoolError};
use super::record::Done;
use crate::facts::storage::Pool;
use crate::facts::thin::{self, Group, Volume};
use crate::plan::Refusal;
use crate::plan::pool::{self as sizes, Fill, Growth, Sizes};

/// Gives the thin pool with this device-mapper name more data or metadata, where
/// it is full enough for that, as far as its volume group has room.
///
/// # Errors
/// When there is no room, or LVM fails. A pool that must be checked first is
/// refused.
pub async fn extend(pool: &str) -> Result<Done, PoolError> {
    let Some((found, volume, group)) = find(pool).await? else {
        let reason = format!("{pool} is no active thin pool of LVM's");
        return Err(Refusal::new("EB-pool-inactive", reason, "lvs -a; dmsetup status").into());
    };
    if found.needs_check || found.mode == "fail" {
        let reason = format!("{pool} must be checked before it can grow (mode {})", found.mode);
        return Err(Refusal::new("EB-pool-check", reason, "it is repaired when nothing uses it").into());
    }
    let fill = fill(&found, &volume);
    if !fill.wants_data() && !fill.wants_metadata() {
        return Ok(Done { changed: false, words: format!("{pool} has room") });
    }
    let growth = sizes::growth(&fill, group.free, group.extent);
    if growth == Growth::default() {
        return Err(full(pool, &fill, &group).into());
    }
    let path = format!("{}/{}", volume.group, volume.name);
    // Metadata first: without them not even an extension of the data is recorded.
    if growth.metadata > 0 {
        lvm::work(&["lvextend", "--poolmetadatasize", &format!("+{}b", growth.metadata), &path]).await?;
    }
    if growth.data > 0 {
        lvm::work(&["lvextend", "--size", &format!("+{}b", growth.data), &path]).await?;
    }
    let (data, metadata) = (growth.data >> 20, growth.metadata >> 20);
    Ok(Done { changed: true, words: format!("{pool}: data +{data} MiB, metadata +{metadata} MiB") })
}

async fn find(pool: &str) -> Result<Option<(Pool, Volume, Group)>, PoolError> {
    let Some((group, volume)) = thin::volume_of(pool) else { return Ok(None) };
    let found = (lvm::status(pool).await?, lvm::volume(&group, &volume).await?, lvm::group(&group).await?);
    Ok(match found {
        (Some(found), Some(volume), Some(group)) if volume.is_thin_pool() => Some((found, volume, group)),
        _ => None,
    })
}

fn fill(found: &Pool, volume: &Volume) -> Fill {
    Fill {
        size: Sizes { data: volume.size, metadata: volume.metadata_size },
        data: found.data,
        metadata: found.metadata,
    }
}

fn full(pool: &str, fill: &Fill, group: &Group) -> Refusal {
    let (data, metadata) = (sizes::percent(fill.data), sizes::percent(fill.metadata));
    let code = if fill.wants_metadata() { "EB-pool-metadata" } else { "EB-pool-full" };
    Refusal::new(
        code,
        format!(
            "{pool}: data {data} % of {} MiB, metadata {metadata} % of {} MiB in use, and {} has {} MiB free",
            fill.size.data >> 20,
            fill.size.metadata >> 20,
            group.name,
            group.free >> 20
        ),
        format!("add a disk: vgextend {} DEVICE; or remove images and containers", group.name),
    )
}
