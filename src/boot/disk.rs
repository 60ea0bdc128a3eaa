//! The disk of the datastore: how fast it is, measured once in a boot.
//!
//! Owns when it is measured, on a server and never before READY, and the record
//! of it. What follows for etcd is `plan::etcd`'s.

use std::time::Duration;

use tokio::sync::Mutex;
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
/// Longest time of a pass for it: the bounds are looked at between two writes, and
/// a disk may hold one of them for ever.
const LIMIT: Duration = Duration::from_secs(10);
/// Held by the thread that measures.
static MEASURING: Mutex<()> = Mutex::const_new(());
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
    let work = move || fsync::times(&owned, place, BOUNDS);
    let told = |reason: &str| {
        warn!(EDGE_STEP = "observe", EDGE_REASON = %reason, "disk of the datastore cannot be measured, ignoring");
    };
    match in_time(&MEASURING, LIMIT, work).await {
        Ok(Ok(times)) => return percentile(&times),
        Ok(Err(error)) => told(&error.to_string()),
        Err(reason) => told(reason),
    }
    None
}

/// Does `work` on another thread and waits for `limit`. A thread that a disk holds
/// cannot be ended: while it is `busy`, no other one goes the same way.
async fn in_time<T: Send + 'static>(
    busy: &'static Mutex<()>,
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, &'static str> {
    let turn = busy.try_lock().map_err(|_| "a write that an earlier pass began has not ended")?;
    let work = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        work()
    });
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done.map_err(|_| "the measurement broke off"),
        Err(_) => Err("one write took longer than all may take"),
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
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_disk_that_holds_a_write_holds_no_pass_and_no_second_thread() {
        static BUSY: Mutex<()> = Mutex::const_new(());
        let (release, held) = mpsc::channel::<()>();
        let first = in_time(&BUSY, Duration::from_millis(20), move || held.recv()).await;
        assert!(first.unwrap_err().contains("one write took longer"));
        let long = Duration::from_secs(60);
        let second = in_time(&BUSY, long, || 2).await;
        assert!(second.unwrap_err().contains("has not ended"), "another thread went the same way");
        release.send(()).unwrap();
        drop(BUSY.lock().await);
        assert_eq!(in_time(&BUSY, long, || 3).await, Ok(3));
    }

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
