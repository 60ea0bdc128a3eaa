//! LVM's and device-mapper's programs.
//!
//! Owns how they are called, their limits, and what counts as their failure.
//! Decides nothing.

use std::time::Duration;

use thiserror::Error;

use crate::facts::storage::Pool;
use crate::facts::thin::{self, Disk, Group, Volume};
use crate::plan::{Refusal, pool as sizes};
use crate::sys::exec::{self, ExecError, Output};
use crate::sys::statefile::StateError;
use crate::sys::{FileError, Root};

/// Limit of a program that only looks.
const LOOK: Duration = Duration::from_secs(20);
/// Limit of a program that changes something and reads no metadata of a pool.
const WORK: Duration = Duration::from_mins(10);

/// Why work on a pool was not done.
#[derive(Debug, Error)]
pub enum PoolError {
    /// A rule says no, on what was seen.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The same, because a disk is not there that may come late.
    #[error(transparent)]
    Late(Refusal),
    /// A program could not be run to its end.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// A file or device could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The record of what was begun could not be written.
    #[error(transparent)]
    State(#[from] StateError),
    /// A program failed.
    #[error("{command} failed: {words}")]
    Failed {
        /// Its command line.
        command: String,
        /// What it said.
        words: String,
    },
}

/// Runs a program whatever its exit code says.
pub(super) async fn run(argv: &[&str], limit: Duration) -> Result<Output, PoolError> {
    let (program, arguments) = argv.split_first().unwrap_or((&"", &[]));
    Ok(exec::run(program, arguments, limit).await?)
}

/// Standard output of a program that must succeed and changes nothing.
pub(super) async fn told(argv: &[&str]) -> Result<String, PoolError> {
    succeeded(argv, run(argv, LOOK).await?)
}

/// Runs a program that changes something and must succeed.
pub(super) async fn work(argv: &[&str]) -> Result<(), PoolError> {
    tracing::info!(EDGE_STEP = "pool", EDGE_COMMAND = %argv.join(" "), "runs");
    succeeded(argv, run(argv, WORK).await?).map(|_| ())
}

/// The same for one in which LVM checks or repairs the metadata of this pool.
pub(super) async fn work_on(pool: &Volume, argv: &[&str]) -> Result<(), PoolError> {
    tracing::info!(EDGE_STEP = "pool", EDGE_COMMAND = %argv.join(" "), "runs");
    succeeded(argv, run(argv, sizes::patience(pool.metadata_size)).await?).map(|_| ())
}

fn succeeded(argv: &[&str], output: Output) -> Result<String, PoolError> {
    if output.code == Some(0) {
        return Ok(output.stdout);
    }
    let said = if output.stderr.trim().is_empty() { &output.stdout } else { &output.stderr };
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Err(PoolError::Failed { command: argv.join(" "), words: lines.join("; ") })
}

/// One of LVM's reports, without headings, in bytes.
async fn report(program: &str, columns: &str, more: &[&str]) -> Result<String, PoolError> {
    let separator = thin::SEPARATOR.to_string();
    let plain = ["--noheadings", "--nosuffix", "--units", "b", "--separator", &separator, "-o", columns];
    let argv = [&[program], plain.as_slice(), more].concat();
    let output = run(&argv, LOOK).await?;
    // LVM exits with 5 when any disk of any group is missing, and still tells the rest.
    match output.code {
        Some(0 | 5) => Ok(output.stdout),
        _ => succeeded(&argv, output),
    }
}

/// The volume group with this name.
pub(super) async fn group(name: &str) -> Result<Option<Group>, PoolError> {
    let groups = thin::groups(&report("vgs", thin::GROUP_COLUMNS, &[]).await?);
    Ok(groups.into_iter().find(|group| group.name == name))
}

/// All volumes of a group, the hidden ones too.
pub(super) async fn volumes(group: &str) -> Result<Vec<Volume>, PoolError> {
    let volumes = thin::volumes(&report("lvs", thin::VOLUME_COLUMNS, &["-a"]).await?);
    Ok(volumes.into_iter().filter(|volume| volume.group == group).collect())
}

/// One volume of a group.
pub(super) async fn volume(group: &str, name: &str) -> Result<Option<Volume>, PoolError> {
    Ok(volumes(group).await?.into_iter().find(|volume| volume.name == name))
}

/// All physical volumes.
pub(super) async fn disks() -> Result<Vec<Disk>, PoolError> {
    Ok(thin::disks(&report("pvs", thin::DISK_COLUMNS, &[]).await?))
}

/// The active device with this name; `None` when there is none. One that is no
/// thin pool has its target as its mode.
pub(super) async fn status(name: &str) -> Result<Option<Pool>, PoolError> {
    if !is_active(&Root::default(), name)? {
        return Ok(None);
    }
    let line = told(&["dmsetup", "status", name]).await?;
    let other = || {
        let target = line.split_whitespace().nth(2).unwrap_or("nothing").to_owned();
        Pool { active: true, mode: target, ..Pool::default() }
    };
    Ok(Some(thin::pool(&line).unwrap_or_else(other)))
}

/// Whether device-mapper has a device with this name, without a process.
pub(super) fn is_active(root: &Root, name: &str) -> Result<bool, PoolError> {
    let mut devices = root.list("/sys/class/block")?.into_iter().filter(|device| device.starts_with("dm-"));
    let named = |device: String| root.read_kernel(&format!("/sys/class/block/{device}/dm/name")).ok();
    Ok(devices.any(|device| named(device).as_deref() == Some(name)))
}
