//! Whether a device is provably empty.
//!
//! Owns the proof: what is written in `docs/thin-pool.md`, word for word. What
//! cannot be read counts as in use. Reads only.

use super::lvm::{self, PoolError};
use crate::error::Chain;
use crate::facts::Fact;
use crate::facts::storage::Device;
use crate::facts::thin::{self, Disk};
use crate::plan::pool as sizes;
use crate::sys::block::{self, BlockDevice};
use crate::sys::{FileError, Root};

/// Tag of what the agent made.
pub(super) const OURS: &str = "edge-bootstrap";
/// Tag of a volume group or volume that the agent has not finished: nothing of
/// it was ever handed to anybody.
pub(super) const UNFINISHED: &str = "edge-bootstrap-unfinished";
/// How the UUID of a physical volume begins that the agent made. It tells ours
/// from others before a volume group could carry a tag.
pub(super) const UUID: &str = "edgebo-otst-rap0-";

/// The block device at `path`, and everything that says that it is not empty;
/// `None`: there is no block device. One that holds only unfinished work of
/// ours is empty.
pub async fn device(path: &str) -> Fact<Option<Device>> {
    let found = match block::find(&Root::default(), path) {
        Ok(found) => found,
        Err(error) => return Fact::unknown(Chain(&error).to_string()),
    };
    let Some(found) = found else { return Fact::Known(None) };
    let size = block::size(&found).unwrap_or(0);
    let in_use = uses(&found).await;
    Fact::Known(Some(Device { path: path.to_owned(), size, in_use }))
}

/// Everything that stands on the device; empty: provably nothing.
pub(super) async fn uses(device: &BlockDevice) -> Vec<String> {
    let mut uses = Vec::new();
    let root = Root::default();
    uses.extend(or_unknown(kernel(&root, device)));
    match unfinished(device).await {
        Ok(true) => {
            // Its signature and its holders are those of our own work.
            uses.retain(|it| !it.starts_with("held by "));
            return uses;
        }
        Ok(false) => {}
        Err(error) => uses.push(unknown(&error)),
    }
    if !uses.is_empty() {
        // It is refused already, and what is in use stays unread.
        return uses;
    }
    uses.extend(signatures(device).await);
    uses.extend(or_unknown(content(device)));
    uses
}

/// Whether all that is on it is a physical volume of ours that is in no group,
/// or in one that was never finished.
pub(super) async fn unfinished(device: &BlockDevice) -> Result<bool, PoolError> {
    Ok(disk(device).await?.is_some_and(|disk| {
        let free = disk.group.is_none() || disk.tags.iter().any(|tag| tag == UNFINISHED);
        disk.uuid.starts_with(UUID) && free
    }))
}

/// The physical volume on the device.
pub(super) async fn disk(device: &BlockDevice) -> Result<Option<Disk>, PoolError> {
    let root = Root::default();
    let is_it = |disk: &Disk| {
        disk.path == device.path
            || block::find(&root, &disk.path).ok().flatten().is_some_and(|it| it.number == device.number)
    };
    Ok(lvm::disks().await?.into_iter().find(is_it))
}

/// What the kernel says: read-only, loop, no medium, partitions, holders,
/// mounts, swap, arrays.
fn kernel(root: &Root, device: &BlockDevice) -> Result<Vec<String>, FileError> {
    let mut uses = Vec::new();
    let name = device.name();
    let own = format!("/sys/dev/block/{}", device.number);
    if ["loop", "ram", "zram"].iter().any(|kind| name.starts_with(kind)) {
        uses.push("a device in memory or a file: gone after a reboot".to_owned());
    }
    if root.read_kernel(&format!("{own}/ro"))? != "0" {
        uses.push("read-only".to_owned());
    }
    if root.read_kernel(&format!("{own}/size"))? == "0" {
        uses.push("without a medium".to_owned());
    }
    let is_part = |it: &String| root.exists(&format!("{own}/{it}/partition"));
    uses.extend(root.list(&own)?.into_iter().filter(is_part).map(|it| format!("partition {it}")));
    let holders = root.list(&format!("{own}/holders"))?;
    uses.extend(holders.iter().map(|holder| format!("held by {}", holder_name(root, holder))));
    let mounts = thin::mounts(&root.read_kernel("/proc/self/mountinfo")?, &device.number);
    uses.extend(mounts.into_iter().map(|point| format!("mounted at {point}")));
    let swaps = root.read_text("/proc/swaps")?.unwrap_or_default();
    let is_it = |path: &String| {
        block::find(root, path).ok().flatten().is_some_and(|found| found.number == device.number)
    };
    uses.extend(thin::swaps(&swaps).iter().filter(|path| is_it(path)).map(|_| "swap that is on".to_owned()));
    let arrays = root.read_text("/proc/mdstat")?.unwrap_or_default();
    uses.extend(thin::arrays(&arrays, name).into_iter().map(|array| format!("member of the array {array}")));
    Ok(uses)
}

/// Device-mapper devices have a name for people.
fn holder_name(root: &Root, holder: &str) -> String {
    let name = root.read_kernel(&format!("/sys/class/block/{holder}/dm/name"));
    name.map_or_else(|_| holder.to_owned(), |name| format!("{holder} ({name})"))
}

/// What blkid and wipefs know; wipefs also names signatures with a wrong checksum.
async fn signatures(device: &BlockDevice) -> Vec<String> {
    let mut uses: Vec<String> = Vec::new();
    let asked = [
        probe(&["blkid", "-p", "-o", "export", &device.path], thin::probed).await,
        probe(&["wipefs", "--parsable", &device.path], thin::signatures).await,
    ];
    for answer in asked {
        match answer {
            Ok(found) => uses.extend(found.into_iter().map(|it| format!("signature of {it}"))),
            Err(error) => uses.push(unknown(&error)),
        }
    }
    uses.sort();
    uses.dedup();
    uses
}

/// blkid exits with 2 when it found nothing, and with 8 when it found several.
async fn probe(argv: &[&str], read: fn(&str) -> Vec<String>) -> Result<Vec<String>, PoolError> {
    let output = lvm::run(argv, std::time::Duration::from_secs(20)).await?;
    let found = read(&output.stdout);
    match output.code {
        Some(0) if found.is_empty() && !output.stdout.trim().is_empty() && argv[0] == "blkid" => {
            Ok(vec!["something that blkid gives no type".to_owned()])
        }
        Some(0) => Ok(found),
        Some(2) if argv[0] == "blkid" => Ok(found),
        Some(8) => Ok(vec!["more than one kind".to_owned()]),
        code => Err(PoolError::Failed {
            command: argv.join(" "),
            words: format!("exit code {code:?}; {}", output.stderr.trim()),
        }),
    }
}

/// What its ends hold, and last of all whether somebody has claimed it.
fn content(device: &BlockDevice) -> Result<Vec<String>, FileError> {
    let mut uses = Vec::new();
    let ends = block::ends(device, sizes::END)?;
    if !sizes::is_blank(&ends.first, true) {
        uses.push("data in its first MiB".to_owned());
    }
    if !sizes::is_blank(&ends.last, false) {
        uses.push("data in its last MiB".to_owned());
    }
    if !block::is_unclaimed(device)? {
        uses.push("claimed by the kernel".to_owned());
    }
    Ok(uses)
}

fn or_unknown(result: Result<Vec<String>, FileError>) -> Vec<String> {
    result.unwrap_or_else(|error| vec![unknown(&error)])
}

/// What is not known is not empty.
fn unknown(error: &(dyn std::error::Error + 'static)) -> String {
    format!("not known: {}", Chain(error))
}
