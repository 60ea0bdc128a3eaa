//! The work on a thin pool within a pass, before anything is written or started.
//!
//! Owns when each act runs, how long a pass waits for it, how often it is tried,
//! what a failure becomes, and that containerd is started anew when its pool came
//! up after it: it never tries again by itself (containerd:
//! plugins/snapshots/devmapper). Stops no pass: the gate keeps containerd from a
//! pool that is not up.

use std::time::Duration;

use tokio::time::timeout;
use tracing::{info, warn};

use super::super::act::{self, ActError};
use super::super::{Agent, Order, Pass, Severity, Until};
use super::pool::record::{self, Ended};
use super::turn;
use crate::error::Chain;
use crate::facts::{Fact, HostFacts};
use crate::observe;
use crate::plan::{CheckedPlan, PoolAct, PoolSpace, Refusal, pool, units};
use crate::sys::{Root, clock};

/// How long READY waits for a pool to come up. The act goes on after that, and is
/// found again: a check of large metadata takes minutes.
const BEFORE_READY: Duration = Duration::from_secs(15);
/// How long a later pass waits for an act.
const AFTER_READY: Duration = Duration::from_mins(10);
/// After which an activation is tried again for whose disk LVM waits, in seconds.
const SOON: u64 = 30;
/// The same for the other acts, and for any other failure of an activation: what
/// made them fail is a person's to change, and each try may be a whole check.
const LATER: u64 = 300;
/// How often an act is begun in a boot that ends without a result.
const TRIES: u32 = 2;
/// Acts after which a pool is up that was not.
const RAISING: [&str; 3] = [CREATE, ACTIVATE, REPAIR];
const CREATE: &str = "create-pool";
const ACTIVATE: &str = "activate-pool";
const REPAIR: &str = "repair-pool";
const EXTEND: &str = "extend-pool";
const RELEASE: &str = "release-device";

/// Does what the plan says about the pool, in its order, to the first failure; one
/// to let go of a device ends nothing. Before READY only what containerd could not start on is mended; the rest has
/// time until then.
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
    let is_late = order.until == Until::Verified;
    let is_due =
        |planned: &&PoolAct| is_late || matches!(planned, PoolAct::Activate { .. } | PoolAct::Release { .. });
    let mut is_outdated = false;
    for planned in storage.acts.iter().filter(is_due) {
        match (carry_out(agent, planned, is_late).await, planned) {
            (Ok(()), PoolAct::Release { .. }) => pass.facts.storage = observe::storage::again(&agent.root),
            // Also when it found the work done: the plan did not know.
            (Ok(()), _) => is_outdated = true,
            (Err(refusal), _) => {
                pass.find(severity(planned, &pass.facts), refusal);
                // A device in the way of new snapshots is none in the way of the pool.
                if !matches!(planned, PoolAct::Release { .. }) {
                    break;
                }
            }
        }
    }
    if is_outdated {
        turn::look_again(agent, pass).await;
    }
}

/// Runs one act, and where its failure asks for another one, that.
async fn carry_out(agent: &Agent, planned: &PoolAct, is_late: bool) -> Result<(), Refusal> {
    let wait = if is_late { AFTER_READY } else { BEFORE_READY };
    let Err(refusal) = run(agent, planned, wait).await else { return Ok(()) };
    match cure(planned, &refusal) {
        Some(cure) if is_late => run(agent, &cure, wait).await,
        _ => Err(refusal),
    }
}

/// Metadata that did not pass LVM's check are repaired. The plan cannot know: a
/// pool that is down tells nothing of them.
fn cure(planned: &PoolAct, refusal: &Refusal) -> Option<PoolAct> {
    match planned {
        PoolAct::Activate { pool } if refusal.code == "EB-pool-check" => {
            Some(PoolAct::Repair { pool: pool.clone() })
        }
        _ => None,
    }
}

/// Runs one act, unless it failed a moment ago or too often; waits for it where
/// it runs already. Never two at once: a pool that is being repaired is down, and
/// looks as if it had to be brought up.
async fn run(agent: &Agent, planned: &PoolAct, wait: Duration) -> Result<(), Refusal> {
    let (name, pool, words) = command(planned);
    match running(agent).await {
        Some(other) if other != name => return Err(goes_on(other)),
        Some(_) => {}
        None => {
            let [last, repair] = [name, REPAIR].map(|act| record::read(&agent.root, act));
            let repair = repair.filter(|_| matches!(planned, PoolAct::Activate { .. }));
            let now_s = clock::monotonic().as_secs();
            given_up(repair, pool).or_else(|| held_back(last, name, now_s)).map_or(Ok(()), Err)?;
        }
    }
    let act = act::run_act((&agent.root, &agent.systemd), name, &words, pool::patience_with_an_act());
    match timeout(wait, act).await {
        Ok(ran) => outcome(name, ran, record::read(&agent.root, name)),
        Err(_) => Err(goes_on(name)),
    }
}

/// The act that runs: an earlier pass, or an earlier daemon, has not seen its
/// end. One that systemd does not tell of counts as ended: then its budget decides.
async fn running(agent: &Agent) -> Option<&'static str> {
    for name in [CREATE, ACTIVATE, REPAIR, EXTEND, RELEASE] {
        let is_open = record::read(&agent.root, name).is_some_and(|last| last.is_open);
        if is_open && agent.systemd.unit(&act::unit(name)).await.is_ok_and(|unit| !unit.is_down()) {
            return Some(name);
        }
    }
    None
}

/// What an act that ended becomes.
fn outcome(name: &str, ran: Result<(), ActError>, ended: Option<Ended>) -> Result<(), Refusal> {
    match (ran, ended) {
        (Ok(()), Some(ended)) if ended.refusal.is_none() => {
            if ended.changed {
                info!(EDGE_STEP = "pool", EDGE_REASON = %ended.done, "thin pool: {name} done");
            }
            Ok(())
        }
        (Ok(()) | Err(ActError::Failed { .. }), Some(Ended { refusal: Some(refusal), .. })) => {
            warn!(EDGE_STEP = "pool", EDGE_CODE = %refusal.code, EDGE_REASON = %refusal.reason, "thin pool: {name} not done, retrying later");
            Err(refusal)
        }
        (Ok(()), _) => Err(unseen(name, "it left no word of its end")),
        (Err(error), _) => {
            warn!(EDGE_STEP = "pool", EDGE_REASON = %Chain(&error), "thin pool: {name} not done, retrying in the next pass");
            Err(unseen(name, &Chain(&error).to_string()))
        }
    }
}

/// The words of an act on the command line.
fn command(planned: &PoolAct) -> (&'static str, &str, Vec<String>) {
    let (name, pool) = match planned {
        PoolAct::Create { pool, .. } => (CREATE, pool),
        PoolAct::Activate { pool } => (ACTIVATE, pool),
        PoolAct::Repair { pool } => (REPAIR, pool),
        PoolAct::Extend { pool } => (EXTEND, pool),
        PoolAct::Release { pool, .. } => (RELEASE, pool),
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
    (name, pool, words)
}

/// What it was refused for, while it is too early to begin it again, or was
/// begun often enough in this boot.
fn held_back(last: Option<Ended>, name: &str, now_s: u64) -> Option<Refusal> {
    let last = last?;
    let refusal = last.refusal?;
    let tries = if name == REPAIR { 1 } else { TRIES };
    let is_final = name == REPAIR && refusal.code == "EB-pool-failed";
    let pause = match name {
        // Of milliseconds, and a person who stopped containerd for it waits.
        RELEASE => 0,
        ACTIVATE if last.is_late => SOON,
        _ => LATER,
    };
    let is_early = !last.is_open && now_s.saturating_sub(last.at_s) < pause;
    (last.tries >= tries || is_final || is_early).then_some(refusal)
}

/// A pool that a repair of this boot did not bring up is not brought up by
/// another check of the same metadata: what the repair was refused for.
fn given_up(repair: Option<Ended>, pool: &str) -> Option<Refusal> {
    repair.filter(|repair| repair.pool == pool)?.refusal.filter(|refusal| refusal.code == "EB-pool-failed")
}

/// A pool that only waits for more room still works.
fn severity(planned: &PoolAct, facts: &HostFacts) -> Severity {
    let pool = facts.storage.look.known().and_then(|look| look.pool.known()).and_then(Option::as_ref);
    let works = pool.is_some_and(|pool| pool.mode == "rw");
    if works && matches!(planned, PoolAct::Extend { .. }) { Severity::Warn } else { Severity::Fail }
}

fn unseen(name: &str, why: &str) -> Refusal {
    let next = format!("it is tried again by itself; journalctl -u {}", act::unit(name));
    Refusal::new("EB-pool-act", format!("{name}: {why}"), next)
}

fn goes_on(name: &str) -> Refusal {
    let next = format!("wait: large metadata take minutes; journalctl -fu {}", act::unit(name));
    Refusal::new("EB-pool-act", format!("{name} has not ended yet and goes on"), next)
}

/// Why a containerd that runs must be started anew: its pool came up after it.
pub(in crate::boot) fn restart(root: &Root, checked: &CheckedPlan, facts: &HostFacts) -> Option<String> {
    let storage = checked.plan().storage.as_ref()?;
    let pool = storage.choice.pool.as_ref()?;
    let name = units::CONTAINERD.trim_end_matches(".service");
    let unit = facts.runtime.units.get(name).and_then(Fact::known).filter(|unit| unit.main_pid != 0)?;
    let ends = RAISING.into_iter().filter_map(|act| record::read(root, act));
    let up_at = ends.filter(|ended| ended.changed && ended.pool == *pool).map(|ended| ended.at_s).max()?;
    // Both by CLOCK_MONOTONIC: one that counts suspends would be ahead for good.
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
            is_open: false,
            is_late: false,
            tries: 0,
        }
    }

    fn killed(tries: u32) -> Ended {
        Ended { is_open: true, tries, ..ended(5, Some("EB-pool-act")) }
    }

    #[test]
    fn the_words_of_an_act_name_its_pool_and_its_space() {
        let pool = "edge-thinpool".to_owned();
        let space = PoolSpace::Device("/dev/sdb".into());
        let planned = PoolAct::Create { pool: pool.clone(), space };
        let (name, of, words) = command(&planned);
        assert_eq!((name, of), (CREATE, "edge-thinpool"));
        assert_eq!(words.join(" "), "--pool edge-thinpool --device /dev/sdb");
        let planned = PoolAct::Extend { pool };
        let (name, _, words) = command(&planned);
        assert_eq!((name, words.join(" ").as_str()), (EXTEND, "--pool edge-thinpool"));
    }

    #[test]
    fn what_failed_a_moment_ago_is_told_again_and_not_done_again() {
        assert_eq!(held_back(None, CREATE, 9), None);
        assert_eq!(held_back(Some(ended(5, None)), CREATE, 9), None);
        let failed = |code| Some(ended(5, Some(code)));
        assert_eq!(held_back(failed("EB-pool-space"), CREATE, 304).unwrap().code, "EB-pool-space");
        assert_eq!(held_back(failed("EB-pool-space"), CREATE, 305), None);
        let late = Ended { is_late: true, ..ended(5, Some("EB-pool-inactive")) };
        assert!(held_back(Some(late.clone()), ACTIVATE, 34).is_some());
        assert_eq!(held_back(Some(late), ACTIVATE, 35), None);
        for code in ["EB-pool-inactive", "EB-pool-check", "EB-pool-act"] {
            assert!(held_back(failed(code), ACTIVATE, 304).is_some(), "each time may be a whole check");
            assert_eq!(held_back(failed(code), ACTIVATE, 305), None);
        }
        assert_eq!(held_back(failed("EB-pool-check"), REPAIR, 305), None);
        assert!(held_back(failed("EB-pool-failed"), REPAIR, 90_000).is_some(), "a person's, until a reboot");
    }

    #[test]
    fn a_pool_whose_repair_failed_is_not_checked_again_in_this_boot() {
        let repair = |code| Some(ended(5, code));
        let told = given_up(repair(Some("EB-pool-failed")), "edge-thinpool").unwrap();
        assert_eq!(told.code, "EB-pool-failed");
        assert_eq!(given_up(repair(Some("EB-pool-failed")), "edge-other"), None);
        assert_eq!(given_up(repair(Some("EB-pool-inactive")), "edge-thinpool"), None);
        assert_eq!(given_up(repair(None), "edge-thinpool"), None);
        assert_eq!(given_up(None, "edge-thinpool"), None);
    }

    #[test]
    fn an_act_without_a_result_is_begun_twice_in_a_boot_and_a_repair_once() {
        assert_eq!(held_back(Some(killed(1)), ACTIVATE, 6), None);
        assert_eq!(held_back(Some(killed(2)), ACTIVATE, 90_000).unwrap().code, "EB-pool-act");
        assert_eq!(held_back(Some(killed(1)), REPAIR, 90_000).unwrap().code, "EB-pool-act");
        let hung = Ended { tries: 2, ..ended(5, Some("EB-pool-act")) };
        assert_eq!(held_back(Some(hung), ACTIVATE, 90_000).unwrap().code, "EB-pool-act");
    }

    #[test]
    fn what_was_killed_is_no_success_and_tells_what_a_person_does() {
        let gone = |result: &str| {
            Err(ActError::Failed {
                name: REPAIR.into(),
                unit: act::unit(REPAIR),
                result: result.into(),
                status: None,
            })
        };
        for ran in [gone("timeout"), gone("signal"), Ok(())] {
            assert_eq!(outcome(REPAIR, ran, Some(killed(1))).unwrap_err().code, "EB-pool-act");
        }
        assert!(outcome(REPAIR, Ok(()), Some(ended(5, None))).is_ok());
        assert_eq!(outcome(REPAIR, Ok(()), None).unwrap_err().code, "EB-pool-act");
    }

    #[test]
    fn a_pool_that_did_not_pass_its_check_is_repaired_and_no_other() {
        let pool = || "edge-thinpool".to_owned();
        let refusal = |code| Refusal::new(code, "why", "what");
        let activate = PoolAct::Activate { pool: pool() };
        assert_eq!(cure(&activate, &refusal("EB-pool-check")), Some(PoolAct::Repair { pool: pool() }));
        assert_eq!(cure(&activate, &refusal("EB-pool-inactive")), None);
        assert_eq!(cure(&PoolAct::Repair { pool: pool() }, &refusal("EB-pool-check")), None);
    }
}
