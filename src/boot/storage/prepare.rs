//! The work on a thin pool within a pass, before anything is written or started.
//!
//! Owns when each act runs, how long it may take, what a failure becomes, and
//! that containerd is started anew when its pool came up after it: it never
//! tries again by itself (containerd: plugins/snapshots/devmapper). Stops no
//! pass: the gate keeps containerd from a pool that is not up.

use std::time::Duration;

use tracing::{info, warn};

use super::super::act::{self, ActError};
use super::super::{Agent, Order, Pass, Severity, Until};
use super::pool::record::{self, Ended};
use super::turn;
use crate::error::Chain;
use crate::facts::{Fact, HostFacts};
use crate::plan::{CheckedPlan, PoolAct, PoolSpace, Refusal, units};
use crate::sys::{Root, clock};

/// How long a pool may take to come up before READY.
const BEFORE_READY: Duration = Duration::from_secs(15);
/// How long each act may take afterwards; a check of large metadata takes minutes.
const AFTER_READY: Duration = Duration::from_mins(10);
/// After which a failed activation is tried again, in seconds: a disk may be late.
const SOON: u64 = 30;
/// The same for the other acts: what made them fail is a person's to change.
const LATER: u64 = 300;
/// Acts after which a pool is up that was not.
const RAISING: [&str; 3] = [CREATE, ACTIVATE, REPAIR];
const CREATE: &str = "create-pool";
const ACTIVATE: &str = "activate-pool";
const REPAIR: &str = "repair-pool";
const EXTEND: &str = "extend-pool";

/// Does what the plan says about the pool, in its order, to the first failure.
/// Before READY a pool is brought up only; the rest has time until then.
pub(in crate::boot) async fn prepare(
    agent: &mut Agent,
    order: Order,
    checked: &CheckedPlan,
    pass: &mut Pass,
) {
    let Some(storage) = &checked.plan().storage else { return };
    if order.observe_only || !agent.root.is_host() {
        return;
    }
    let mut is_outdated = false;
    for planned in &storage.acts {
        let is_late = order.until == Until::Verified;
        if !is_late && !matches!(planned, PoolAct::Activate { .. }) {
            break;
        }
        let limit = if is_late { AFTER_READY } else { BEFORE_READY };
        match run(agent, planned, limit).await {
            // Also when it found the work done: the plan did not know.
            Ok(()) => is_outdated = true,
            Err(refusal) => {
                pass.find(severity(planned, &pass.facts), refusal);
                break;
            }
        }
    }
    if is_outdated {
        turn::look_again(agent, pass).await;
    }
}

/// Runs one act, unless it failed a moment ago.
async fn run(agent: &Agent, planned: &PoolAct, limit: Duration) -> Result<(), Refusal> {
    let (name, words) = command(planned);
    if let Some(refusal) = failed_lately(record::read(&agent.root, name), name, clock::since_boot().as_secs())
    {
        return Err(refusal);
    }
    let ran = act::run_act((&agent.root, &agent.systemd), name, &words, limit).await;
    let ended = record::read(&agent.root, name);
    match (ran, ended) {
        (Ok(()), Some(ended)) => {
            if ended.changed {
                info!(EDGE_STEP = "pool", EDGE_REASON = %ended.done, "thin pool: {name} done");
            }
            Ok(())
        }
        (Err(ActError::Failed { .. }), Some(Ended { refusal: Some(refusal), .. })) => {
            warn!(EDGE_STEP = "pool", EDGE_CODE = %refusal.code, EDGE_REASON = %refusal.reason, "thin pool: {name} not done, retrying later");
            Err(refusal)
        }
        (Ok(()), None) => Err(unseen(name, "it left no word of its end")),
        (Err(error), _) => {
            warn!(EDGE_STEP = "pool", EDGE_REASON = %Chain(&error), "thin pool: {name} not done, retrying in the next pass");
            Err(unseen(name, &Chain(&error).to_string()))
        }
    }
}

/// The words of an act on the command line.
fn command(planned: &PoolAct) -> (&'static str, Vec<String>) {
    let (name, pool) = match planned {
        PoolAct::Create { pool, .. } => (CREATE, pool),
        PoolAct::Activate { pool } => (ACTIVATE, pool),
        PoolAct::Repair { pool } => (REPAIR, pool),
        PoolAct::Extend { pool } => (EXTEND, pool),
    };
    let mut words = vec!["--pool".to_owned(), pool.clone()];
    match planned {
        PoolAct::Create { space: PoolSpace::Device(path), .. } => {
            words.extend(["--device".to_owned(), path.clone()]);
        }
        PoolAct::Create { space: PoolSpace::VolumeGroup(group), .. } => {
            words.extend(["--volume-group".to_owned(), group.clone()]);
        }
        _ => {}
    }
    (name, words)
}

/// What it was refused for, while it is too early to ask again.
fn failed_lately(ended: Option<Ended>, name: &str, now_s: u64) -> Option<Refusal> {
    let ended = ended?;
    let pause = if name == ACTIVATE { SOON } else { LATER };
    ended.refusal.filter(|_| now_s.saturating_sub(ended.at_s) < pause)
}

/// A pool that only waits for more room still works.
fn severity(planned: &PoolAct, facts: &HostFacts) -> Severity {
    let pool = facts.storage.look.known().and_then(|look| look.pool.known()).and_then(Option::as_ref);
    let works = pool.is_some_and(|pool| pool.mode == "rw");
    if works && matches!(planned, PoolAct::Extend { .. }) { Severity::Warn } else { Severity::Fail }
}

fn unseen(name: &str, why: &str) -> Refusal {
    let next = format!("it is tried again by itself; journalctl -u {}", act::unit(name));
    Refusal::new("EB-pool-failed", format!("{name}: {why}"), next)
}

/// Why a containerd that runs must be started anew: its pool came up after it.
pub(in crate::boot) fn restart(root: &Root, checked: &CheckedPlan, facts: &HostFacts) -> Option<String> {
    let storage = checked.plan().storage.as_ref()?;
    let pool = storage.choice.pool.as_ref()?;
    let name = units::CONTAINERD.trim_end_matches(".service");
    let unit = facts.runtime.units.get(name).and_then(Fact::known).filter(|unit| unit.main_pid != 0)?;
    let ends = RAISING.into_iter().filter_map(|act| record::read(root, act));
    let up_at = ends.filter(|ended| ended.changed && ended.pool == *pool).map(|ended| ended.at_s).max()?;
    (unit.since_monotonic_s < up_at).then(|| format!("the thin pool {pool} came up after it"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn ended(at_s: u64, code: Option<&str>) -> Ended {
        Ended {
            boot_id: "one".into(),
            at_s,
            pool: "edge-thinpool".into(),
            changed: code.is_none(),
            done: String::new(),
            refusal: code.map(|code| Refusal::new(code, "why", "what")),
        }
    }

    #[test]
    fn the_words_of_an_act_name_its_pool_and_its_space() {
        let pool = "edge-thinpool".to_owned();
        let space = PoolSpace::Device("/dev/sdb".into());
        let (name, words) = command(&PoolAct::Create { pool: pool.clone(), space });
        assert_eq!((name, words.join(" ").as_str()), (CREATE, "--pool edge-thinpool --device /dev/sdb"));
        let (name, words) = command(&PoolAct::Extend { pool });
        assert_eq!((name, words.join(" ").as_str()), (EXTEND, "--pool edge-thinpool"));
    }

    #[test]
    fn what_failed_a_moment_ago_is_told_again_and_not_done_again() {
        assert_eq!(failed_lately(None, CREATE, 9), None);
        assert_eq!(failed_lately(Some(ended(5, None)), CREATE, 9), None);
        let failed = || Some(ended(5, Some("EB-pool-space")));
        assert_eq!(failed_lately(failed(), CREATE, 304).unwrap().code, "EB-pool-space");
        assert_eq!(failed_lately(failed(), CREATE, 305), None);
        assert_eq!(failed_lately(failed(), ACTIVATE, 35), None);
    }
}
