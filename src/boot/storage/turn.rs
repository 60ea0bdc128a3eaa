//! The look at storage within a pass, its findings, and the record of the choice.
//!
//! Owns when the look is made: before READY only where the decision needs it.
//! A look that fails leaves facts unknown, which are no evidence.

use std::time::Duration;

use tracing::{info, warn};

use super::super::{Agent, Order, Pass, Severity, Until, act};
use crate::error::Chain;
use crate::facts::HostFacts;
use crate::facts::devices::Device;
use crate::facts::storage::{Choice, Look, Named};
use crate::plan::{self, CheckedPlan, Inputs, PoolAct, snapshotter};
use crate::role::Snapshotter;
use crate::sys::clock;
use crate::sys::statefile::StateError;
use crate::{allow, inventory, observe};

/// How long one look may take: LVM's programs are slow on a busy host with many
/// disks. READY does not wait for it.
const LOOK: Duration = Duration::from_secs(30);
/// Between two looks of a host that has no snapshotter yet.
const AGAIN: u64 = 30;
/// Between two looks at a pool that is in use.
const POOL: u64 = 300;
/// How long a containerd that runs may take to make a device and its snapshot, a
/// file system on a slow disk included.
const MAKING: Duration = Duration::from_mins(5);

/// What passes remember of looks.
#[derive(Debug, Default)]
pub struct Memory {
    asked_at: Option<Duration>,
    /// The device that was ahead of containerd's snapshots, and since when.
    ahead: Option<(Device, Duration)>,
}

/// Looks at storage where this pass needs it, and takes what was seen as facts.
pub(in crate::boot) async fn look(agent: &mut Agent, order: Order, pass: &mut Pass) {
    let has_duty = pass.assignment.as_ref().is_some_and(|assignment| assignment.duty.is_some());
    if order.observe_only || !has_duty || !agent.root.is_host() {
        return;
    }
    accept_move(agent, pass);
    let named = snapshotter::named(&pass.facts, &agent.local());
    let recorded =
        pass.facts.storage.choice.known().and_then(Option::as_ref).map(|choice| choice.snapshotter);
    let now = clock::since_boot();
    let recent = agent.storage.asked_at.is_some_and(|at| now.saturating_sub(at).as_secs() < AGAIN);
    if recent || !is_due((recorded, order.until), pass.facts.storage.look.known(), &named, now.as_secs()) {
        return;
    }
    see(agent, pass, &words(&named, recorded)).await;
}

/// Looks once more in this pass: what was seen before is not so any more.
pub(super) async fn look_again(agent: &mut Agent, pass: &mut Pass) {
    let named = snapshotter::named(&pass.facts, &agent.local());
    see(agent, pass, &words(&named, Some(Snapshotter::Devmapper))).await;
}

async fn see(agent: &mut Agent, pass: &mut Pass, words: &[String]) {
    agent.storage.asked_at = Some(clock::since_boot());
    match act::run_act((&agent.root, &agent.systemd), "look-at-storage", words, LOOK).await {
        Ok(()) => pass.facts.storage = observe::storage::again(&agent.root),
        Err(error) => {
            warn!(EDGE_STEP = "observe", EDGE_REASON = %Chain(&error), "storage was not looked at, going on without");
        }
    }
}

/// Whether the last look is too old, or was made for something else.
fn is_due(
    (recorded, until): (Option<Snapshotter>, Until),
    last: Option<&Look>,
    named: &Named,
    now_s: u64,
) -> bool {
    let older = |limit: u64| last.is_none_or(|look| now_s.saturating_sub(look.since_boot_s) >= limit);
    let other = last.is_none_or(|look| look.named != *named);
    let is_ready = until == Until::Verified;
    match recorded {
        None => other || older(AGAIN),
        Some(Snapshotter::Devmapper) => other || (is_ready && older(POOL)),
        // Whether a new kernel still can; nothing before READY depends on it.
        Some(Snapshotter::Overlayfs) => is_ready && other,
    }
}

fn words(named: &Named, recorded: Option<Snapshotter>) -> Vec<String> {
    let pairs = [("--pool", &named.pool), ("--volume-group", &named.group), ("--device", &named.device)];
    let named = pairs.into_iter().filter_map(|(word, value)| Some([word.to_owned(), value.clone()?]));
    let mut words: Vec<String> = named.flatten().collect();
    if recorded != Some(Snapshotter::Devmapper) {
        words.push("--overlay".to_owned());
    }
    words
}

/// A person says that the store was moved: the place of its new file system
/// counts from now on.
fn accept_move(agent: &Agent, pass: &mut Pass) {
    let storage = &pass.facts.storage;
    let both = storage.choice.known().and_then(Option::as_ref).zip(storage.root.known());
    let Some((choice, store)) = both else { return };
    let Some(refusal) = snapshotter::elsewhere(choice, store) else { return };
    if allow::lets_pass(&agent.root, agent.clock, &refusal.code).is_none() {
        return;
    }
    let moved = Choice {
        mount_point: store.mount_point.clone(),
        fs_type: store.fs_type.clone(),
        uuid: store.uuid.known().cloned(),
        ..choice.clone()
    };
    match inventory::update(&agent.root, |inventory| inventory.choice = Some(moved.clone())) {
        Ok(_) => {
            info!(EDGE_STEP = "observe", EDGE_REASON = %refusal.reason, "containerd's root was moved, as a person says");
            pass.facts.storage.choice = crate::facts::Fact::Known(Some(moved));
        }
        Err(error) => {
            warn!(EDGE_STEP = "observe", EDGE_REASON = %Chain(&error), "the move of containerd's root cannot be recorded, retrying in the next pass");
        }
    }
}

/// Records what was decided, once the files that follow from it are in force. A
/// tree that is no running host has no file system to record.
pub(in crate::boot) fn record(
    agent: &Agent,
    checked: &CheckedPlan,
    pass: &mut Pass,
) -> Result<(), StateError> {
    let Some(storage) = &checked.plan().storage else { return Ok(()) };
    if storage.choice.mount_point.is_empty() {
        return Ok(());
    }
    let change = inventory::update(&agent.root, |inventory| inventory.choice = Some(storage.choice.clone()))?;
    if change.is_change() {
        info!(EDGE_STEP = "apply", EDGE_REASON = %storage.reason, "snapshotter recorded");
        pass.facts.storage.choice = crate::facts::Fact::Known(Some(storage.choice.clone()));
    }
    Ok(())
}

/// Tells what is wrong with the storage as it is at the end of a pass.
pub(in crate::boot) fn tell(agent: &mut Agent, pass: &mut Pass) {
    let is_making = is_making(&mut agent.storage.ahead, &pass.facts);
    let Some(assignment) = &pass.assignment else { return };
    let storage = pass.plan.as_ref().and_then(|checked| checked.plan().storage.as_ref());
    let (Some(duty), Some(storage)) = (&assignment.duty, storage) else { return };
    let local = agent.local();
    let inputs = Inputs { facts: &pass.facts, assignment, local: &local, confirmed: false };
    // A pool that was never made is no pool that is gone.
    let is_new = storage.acts.iter().any(|act| matches!(act, PoolAct::Create { .. }));
    for finding in snapshotter::findings(inputs, duty, &storage.choice) {
        let told = (is_new && finding.refusal.code == "EB-pool-inactive")
            || (is_making && finding.refusal.code == "EB-pool-device")
            || pass.findings.iter().any(|(refusal, _)| refusal.code == finding.refusal.code);
        let severity = if finding.is_failure { Severity::Fail } else { Severity::Warn };
        if !told {
            pass.find(severity, finding.refusal);
        }
    }
}

/// Whether a device without a snapshot may be one that a running containerd makes.
/// What is not known in a pass is no news.
fn is_making(since: &mut Option<(Device, Duration)>, facts: &HostFacts) -> bool {
    let now = clock::since_boot();
    if let Some(ahead) = facts.storage.store.ahead.known() {
        let device = ahead.left_over();
        let seen = since.take().filter(|(seen, _)| Some(seen) == device).map_or(now, |(_, at)| at);
        *since = device.map(|device| (device.clone(), seen));
    }
    let is_new = since.as_ref().is_none_or(|(_, seen)| now.saturating_sub(*seen) < MAKING);
    is_new && plan::store::runs(facts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Fact;
    use crate::facts::devices::Ahead;
    use crate::facts::runtime::Unit;

    fn looked(at: u64, pool: Option<&str>) -> Look {
        let named = Named { pool: pool.map(str::to_owned), ..Named::default() };
        Look { since_boot_s: at, named, ..Look::default() }
    }

    #[test]
    fn a_host_that_has_overlayfs_is_looked_at_once_per_boot_and_not_before_ready() {
        let overlayfs = |until| (Some(Snapshotter::Overlayfs), until);
        let none = Named::default();
        assert!(!is_due(overlayfs(Until::Ready), None, &none, 9));
        assert!(is_due(overlayfs(Until::Verified), None, &none, 9));
        assert!(!is_due(overlayfs(Until::Verified), Some(&looked(9, None)), &none, 90_000));
    }

    #[test]
    fn a_device_counts_as_one_that_is_being_made_until_it_is_old() {
        let mut facts = HostFacts::default();
        let unit = Unit { active: "active".to_owned(), ..Unit::default() };
        facts.runtime.units.insert("containerd".to_owned(), Fact::Known(unit));
        let ahead = |number: u64| {
            let device = Device { name: format!("p-snap-{number}"), number, id: 3, is_final: true };
            Fact::Known(Ahead { last: number - 1, devices: vec![device] })
        };
        facts.storage.store.ahead = ahead(4);
        let mut since = None;
        assert!(is_making(&mut since, &facts));
        // As if it had been seen long ago.
        since = since.map(|(device, at)| (device, at.saturating_sub(MAKING)));
        let is_old = clock::since_boot() >= MAKING;
        assert_eq!(is_making(&mut since, &facts), !is_old);
        facts.storage.store.ahead = Fact::unknown("written all the time");
        assert_eq!(is_making(&mut since, &facts), !is_old);
        facts.storage.store.ahead = ahead(5);
        assert!(is_making(&mut since, &facts), "another one");
        facts.runtime.units.clear();
        assert!(!is_making(&mut since, &facts), "nobody makes anything");
        facts.storage.store.ahead = Fact::Known(Ahead::default());
        assert!(!is_making(&mut since, &facts) && since.is_none());
    }

    #[test]
    fn a_host_that_has_none_is_looked_at_before_ready_and_again_soon() {
        let none = Named::default();
        assert!(is_due((None, Until::Ready), None, &none, 9));
        assert!(!is_due((None, Until::Verified), Some(&looked(9, None)), &none, 38));
        assert!(is_due((None, Until::Verified), Some(&looked(9, None)), &none, 39));
    }

    #[test]
    fn a_pool_in_use_is_looked_at_before_ready_and_then_watched() {
        let devmapper = |until| (Some(Snapshotter::Devmapper), until);
        let named = Named { pool: Some("edge-thinpool".into()), ..Named::default() };
        assert!(is_due(devmapper(Until::Ready), None, &named, 9));
        assert!(!is_due(devmapper(Until::Ready), Some(&looked(9, Some("edge-thinpool"))), &named, 900));
        assert!(is_due(devmapper(Until::Verified), Some(&looked(9, Some("edge-thinpool"))), &named, 309));
        assert!(is_due(devmapper(Until::Ready), Some(&looked(9, Some("other"))), &named, 10));
        assert_eq!(words(&named, Some(Snapshotter::Devmapper)), ["--pool", "edge-thinpool"]);
        assert_eq!(words(&Named::default(), None), ["--overlay"]);
    }
}
