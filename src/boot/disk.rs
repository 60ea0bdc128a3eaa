//! The disk of the datastore: how fast it is, measured once in a boot.
//!
//! Owns when it is measured, on a server and never before READY, and the record
//! of it. What follows for etcd is `plan::etcd`'s.

use std::time::Duration;

use tracing::{info, warn};

use super::{Agent, Order, Pass, Severity, Until};
use crate::error::Chain;
use crate::facts::runtime::DataDisk;
use crate::observe::{mounts, storage};
use crate::paths::{self, K3S_DATA};
use crate::plan::etcd;
use crate::role::Role;
use crate::sys::{Root, atomic, fsync, host};

/// As many writes, or for as long.
const BOUNDS: (usize, Duration) = (150, Duration::from_secs(3));
/// The best of so many rounds counts: a host has much to do at its boot, and a
/// slow disk is slow in each.
const ROUNDS: usize = 3;

/// Measures the disk of a server's datastore where this boot has not, before the
/// plan that heeds it; tells of one that is slow.
pub(super) async fn measure(agent: &Agent, order: Order, pass: &mut Pass) {
    let duty = pass.assignment.as_ref().and_then(|assignment| assignment.duty.as_ref());
    if duty.is_none_or(|duty| duty.role != Role::Server) {
        return;
    }
    if order.until == Until::Verified
        && !order.observe_only
        && let Some(disk) = measured(&agent.root, pass.facts.runtime.k3s.data_disk.as_ref()).await
    {
        pass.facts.runtime.k3s.data_disk = Some(disk);
    }
    if let Some(finding) = pass.facts.runtime.k3s.data_disk.as_ref().and_then(etcd::slow) {
        pass.find(Severity::Warn, finding);
    }
}

async fn measured(root: &Root, before: Option<&DataDisk>) -> Option<DataDisk> {
    let (boot_id, disk) = (host::boot_id(root).ok()?, disk(root)?);
    let before = before.filter(|before| before.disk == disk);
    if before.is_some_and(|before| before.boot_id == boot_id) {
        return None;
    }
    let p99_us = p99(root).await?;
    let measured = DataDisk { level: etcd::level(before, p99_us), p99_us, boot_id, disk };
    info!(
        EDGE_STEP = "observe",
        EDGE_P99_US = p99_us,
        EDGE_LEVEL = measured.level,
        "disk of the datastore was measured"
    );
    if let Err(error) = atomic::write(root, paths::DATA_DISK, measured.to_string().as_bytes(), 0o600) {
        warn!(EDGE_STEP = "observe", EDGE_REASON = %Chain(&error), "measurement of the disk is not recorded, ignoring");
    }
    Some(measured)
}

/// The file system of k3s's data, by its UUID where it has one.
fn disk(root: &Root) -> Option<String> {
    let table = mounts::read(root);
    let mount = mounts::below(table.known()?, K3S_DATA)?;
    let uuid = storage::uuid(root, mount);
    let name = uuid.known().unwrap_or(&mount.source);
    Some(name.split_whitespace().collect())
}

/// 99th percentile in microseconds of writes beside k3s's data, or where they
/// will be.
async fn p99(root: &Root) -> Option<u64> {
    let places = [K3S_DATA, "/var/lib/rancher", "/var/lib"];
    let place = places.into_iter().find(|place| root.exists(place))?;
    let owned = root.clone();
    let work = tokio::task::spawn_blocking(move || fsync::times(&owned, place, BOUNDS));
    match work.await.ok()? {
        Ok(times) => percentile(&times),
        Err(error) => {
            warn!(EDGE_STEP = "observe", EDGE_REASON = %error, "disk of the datastore cannot be measured, ignoring");
            None
        }
    }
}

fn percentile(times: &[Duration]) -> Option<u64> {
    let rounds = times.chunks(times.len().div_ceil(ROUNDS).max(1));
    let best = rounds.filter_map(|round| {
        let mut round = round.to_vec();
        round.sort_unstable();
        round.get((round.len() * 99).div_ceil(100).saturating_sub(1)).copied()
    });
    best.min().map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_three_rounds_counts() {
        let with = |slow: &[usize]| {
            let time = |at| Duration::from_millis(if slow.contains(&at) { 300 } else { 5 });
            percentile(&(0..150).map(time).collect::<Vec<_>>())
        };
        assert_eq!(with(&[]), Some(5000));
        assert_eq!(with(&[3, 4, 60]), Some(5000), "the last round was good");
        assert_eq!(with(&[3, 60, 120]), Some(300_000));
        assert_eq!(
            percentile(&[Duration::from_secs(2)]),
            Some(2_000_000),
            "where one write takes all the time"
        );
        assert_eq!(percentile(&[]), None);
    }
}
