//! Making a thin pool.
//!
//! Owns the order of the steps, so that each may be cut off anywhere and the
//! next run goes on: the physical volume carries our UUID before there is a
//! group, the group or volume a tag until the pool was seen to work. Nothing
//! without that UUID or tag is ever removed.

use super::lvm::{self, PoolError};
use super::space::{self, OURS, UNFINISHED, UUID};
use super::{activate, record::Done};
use crate::facts::thin::{self, Group, Volume};
use crate::plan::item::PoolSpace;
use crate::plan::{Refusal, pool as sizes};
use crate::sys::block::{self, BlockDevice};
use crate::sys::{Root, random};

/// Makes the thin pool with this device-mapper name on `space`, or goes on where
/// an earlier run was cut off. One that is there is brought up only.
///
/// # Errors
/// When the space is not provably empty or too small, and when LVM fails.
pub async fn create(pool: &str, space: &PoolSpace) -> Result<Done, PoolError> {
    let Some((group, volume)) = thin::volume_of(pool) else { return Err(no_volume_name(pool).into()) };
    let found = match space {
        PoolSpace::Device(path) => group_on_device(path, (&group, &volume)).await?,
        PoolSpace::VolumeGroup(name) if *name == group => existing_group(name).await?,
        PoolSpace::VolumeGroup(name) => return Err(other_group(pool, &group, name).into()),
    };
    let there = lvm::volume(&group, &volume).await?;
    let made = match &there {
        Some(there) if there.is_thin_pool() => None,
        _ => Some(make(&found, &volume, there.as_ref()).await?),
    };
    let done = activate::activate(pool).await?;
    Ok(match made {
        Some(words) => Done { changed: true, words: format!("{words}; {}", done.words) },
        None => done,
    })
}

/// The group that is ours on this device: made now, or left unfinished.
async fn group_on_device(path: &str, (name, volume): (&str, &str)) -> Result<Group, PoolError> {
    let refuse = |reason: String, next: &str| PoolError::from(Refusal::new("EB-pool-space", reason, next));
    let Some(device) = block::find(&Root::default(), path)? else {
        return Err(refuse(format!("{path} is no block device"), "correct `storage.devmapper.device`"));
    };
    let disk = space::disk(&device).await?;
    let ours = disk.filter(|disk| disk.uuid.starts_with(UUID) && disk.group.as_deref() == Some(name));
    match (lvm::group(name).await?, ours) {
        (Some(group), Some(disk)) if is_unfinished(&disk.tags) => {
            return fresh(group, volume, &device).await;
        }
        // Finished earlier: the pool is in it, or was removed by a person.
        (Some(group), Some(_)) => return Ok(group),
        (Some(_), None) => {
            let reason = format!("there is a volume group {name} that is not on {path}");
            return Err(refuse(reason, "give the pool another name, or name that group as its space"));
        }
        (None, _) => {}
    }
    prove_empty(&device).await?;
    if space::disk(&device).await?.is_none() {
        // Without `--yes`: whatever signature LVM sees after all ends it.
        let uuid = new_uuid();
        lvm::work(&["pvcreate", "--norestorefile", "--uuid", &uuid, &device.path]).await?;
    }
    make_group(name, &device).await
}

/// An unfinished group that holds no thin pool is made anew. A volume that a
/// person put into it meanwhile keeps it.
async fn fresh(group: Group, volume: &str, device: &BlockDevice) -> Result<Group, PoolError> {
    let volumes = lvm::volumes(&group.name).await?;
    if volumes.is_empty() || volumes.iter().any(Volume::is_thin_pool) {
        return Ok(group);
    }
    let others: Vec<&str> =
        volumes.iter().filter(|it| !is_leftover(it, volume)).map(|it| it.name.as_str()).collect();
    if !others.is_empty() {
        let reason = format!("volume group {} holds volumes of others: {}", group.name, others.join(", "));
        let next = format!("remove them, or keep the group: vgchange --deltag {UNFINISHED} {}", group.name);
        return Err(Refusal::new("EB-pool-space", reason, next).into());
    }
    lvm::work(&["vgremove", "--force", "--yes", &group.name]).await?;
    make_group(&group.name, device).await
}

/// What lvcreate leaves when it is killed: the parts of the pool, and volumes that
/// have no name yet.
fn is_leftover(volume: &Volume, pool: &str) -> bool {
    let name = volume.name.as_str();
    let is_part = name.strip_prefix(pool).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'));
    is_unfinished(&volume.tags) || is_part || name.starts_with("lvol")
}

async fn make_group(name: &str, device: &BlockDevice) -> Result<Group, PoolError> {
    lvm::work(&["vgcreate", "--addtag", OURS, "--addtag", UNFINISHED, name, &device.path]).await?;
    existing_group(name).await
}

async fn prove_empty(device: &BlockDevice) -> Result<(), PoolError> {
    let uses = space::uses(device).await;
    if uses.is_empty() {
        return Ok(());
    }
    let reason = format!("{} is not provably empty: {}", device.path, uses.join(", "));
    let next = format!(
        "name another device; if nothing on it is needed: wipefs -a {0} and blank both ends (docs/thin-pool.md)",
        device.path
    );
    Err(Refusal::new("EB-pool-space", reason, next).into())
}

async fn existing_group(name: &str) -> Result<Group, PoolError> {
    match lvm::group(name).await? {
        Some(group) if !group.is_partial => Ok(group),
        Some(_) => {
            let reason = format!("a disk of the volume group {name} is missing");
            Err(Refusal::new("EB-pool-space", reason, "put it back: vgs -o +devices").into())
        }
        None => {
            let reason = format!("there is no volume group {name}");
            Err(Refusal::new("EB-pool-space", reason, "correct `storage.devmapper.volume-group`").into())
        }
    }
}

/// Makes the pool in the group's free room; says what it made.
async fn make(group: &Group, volume: &str, there: Option<&Volume>) -> Result<String, PoolError> {
    let path = format!("{}/{volume}", group.name);
    if let Some(there) = there {
        if !is_unfinished(&there.tags) {
            let reason = format!("{path} is a volume and no thin pool");
            return Err(Refusal::new("EB-pool-space", reason, "give the pool another name").into());
        }
        lvm::work(&["lvremove", "--force", "--yes", &path]).await?;
    }
    let group = existing_group(&group.name).await?;
    let Some(size) = sizes::sizes(group.free, group.extent) else {
        let reason =
            format!("volume group {} has {} MiB free, too little for a pool", group.name, group.free >> 20);
        let next = format!("give it {} MiB or more", sizes::LEAST >> 20);
        return Err(Refusal::new("EB-pool-space", reason, next).into());
    };
    let (data, metadata) = (format!("{}b", size.data), format!("{}b", size.metadata));
    let what = ["lvcreate", "--yes", "--type", "thin-pool", "--name", volume, "--size", &data];
    let how = ["--poolmetadatasize", &metadata, "--poolmetadataspare", "y", "--chunksize", "128k"];
    // As containerd's own `skip_block_zeroing`.
    let tags = ["--zero", "n", "--addtag", OURS, "--addtag", UNFINISHED, group.name.as_str()];
    lvm::work(&[what.as_slice(), &how, &tags].concat()).await?;
    Ok(format!("{path} made: data {} MiB, metadata {} MiB", size.data >> 20, size.metadata >> 20))
}

/// The pool was seen to work: from now on it is nobody's leftover.
pub(super) async fn finish(group: &str, volume: &Volume) -> Result<(), PoolError> {
    if is_unfinished(&volume.tags) {
        let path = format!("{group}/{}", volume.name);
        // A full pool fails writes instead of hanging them. Not lvcreate's to
        // set, and lvchange fails where it is set already.
        let when_full = lvm::told(&["lvs", "--noheadings", "-o", "lv_when_full", &path]).await?;
        if when_full.trim() != "error" {
            lvm::work(&["lvchange", "--errorwhenfull", "y", &path]).await?;
        }
        lvm::work(&["lvchange", "--deltag", UNFINISHED, &path]).await?;
    }
    match lvm::group(group).await? {
        Some(group) if is_unfinished(&group.tags) => {
            lvm::work(&["vgchange", "--deltag", UNFINISHED, &group.name]).await
        }
        _ => Ok(()),
    }
}

pub(super) fn is_unfinished(tags: &[String]) -> bool {
    tags.iter().any(|tag| tag == UNFINISHED)
}

/// 32 letters and digits in LVM's groups, the first 14 of them ours.
fn new_uuid() -> String {
    let random = format!("{:016x}{:016x}", random::number(), random::number());
    let part = |from: usize, to: usize| random.get(from..to).unwrap_or_default().to_owned();
    format!("{UUID}{}-{}-{}-{}", part(0, 4), part(4, 8), part(8, 12), part(12, 18))
}

fn no_volume_name(pool: &str) -> Refusal {
    Refusal::new(
        "EB-pool-space",
        format!("{pool} is no name of an LVM volume in device-mapper"),
        "name it GROUP-VOLUME, for example edge-thinpool; a dash inside a name is doubled",
    )
}

fn other_group(pool: &str, group: &str, named: &str) -> Refusal {
    let (_, volume) = thin::volume_of(pool).unwrap_or_default();
    Refusal::new(
        "EB-pool-space",
        format!("the name {pool} says volume group {group}, the settings say {named}"),
        format!("name the pool {}", thin::name_of(named, &volume)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_of_ours_has_lvms_form_and_is_new_each_time() {
        let uuid = new_uuid();
        let lengths: Vec<usize> = uuid.split('-').map(str::len).collect();
        assert_eq!(lengths, [6, 4, 4, 4, 4, 4, 6]);
        assert!(uuid.starts_with(UUID) && uuid != new_uuid());
    }

    #[test]
    fn a_volume_of_a_person_is_no_leftover() {
        for (name, tag, expected) in [
            ("thinpool", None, true),
            ("thinpool_tmeta", None, true),
            ("lvol0_pmspare", None, true),
            ("lvol0", None, true),
            ("data", Some(UNFINISHED), true),
            ("data", None, false),
            ("thinpool2", None, false),
        ] {
            let tags = tag.map(str::to_owned).into_iter().collect();
            let volume = Volume { name: name.to_owned(), tags, ..Volume::default() };
            assert_eq!(is_leftover(&volume, "thinpool"), expected, "{name}");
        }
    }
}
