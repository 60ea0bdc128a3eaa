//! A restart of a server beside others, as one step of the line.
//!
//! Owns the order: record, the room's Lease, restart; and the Lease goes back when
//! this host is a healthy voter again. The record is written first and survives a
//! power cut: whoever finds it goes on, by what is seen. May it restart is the
//! plan's decision ([`crate::plan::turn`]). A unit that is down, a first start and
//! a way back from a generation that failed do not come here.

use std::time::Duration;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tracing::{debug, info};

use super::{Agent, Pass, Stop, started, trial};
use crate::error::Chain;
use crate::facts::upgrade::Progress;
use crate::kube::lease::RESTART;
use crate::kube::{Kube, KubeError, Node, Silence};
use crate::plan::turn::{self, Held, Other, Seen, Wait};
use crate::plan::upgrade::Step;
use crate::plan::{CheckedPlan, PlannedUnit};
use crate::role::Role;
use crate::sys::statefile::{self, Loaded, StateError};
use crate::sys::{Root, clock, host};
use crate::verify::Health;
use crate::{activate, paths, upgrade};

/// From the look at the room to the restart. A process that slept longer may have
/// lost its turn meanwhile.
const FRESH: Duration = Duration::from_secs(60);
/// How long the API of a host that is told of no other server may be silent before
/// the central service's newest word is enough: a way back may need that restart.
const SILENT: Duration = Duration::from_mins(5);
/// Condition of a server's Node; k3s before 1.25.16, 1.26.11, 1.27.8 and 1.28.4
/// has none (k3s-io/k3s#8033).
const VOTES: &str = "EtcdIsVoter";

/// A turn that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Turn {
    /// Digest of the plan that it brings into force.
    digest: String,
    /// Boot in which it was begun.
    boot_id: String,
    /// Seconds since boot (monotonic) before the restart.
    at_s: u64,
    /// The Lease is, or may be, this host's.
    open: bool,
}

/// What passes remember of the room's Lease.
#[derive(Debug, Default)]
pub struct Memory {
    stamp: String,
    since: Duration,
    silence: Silence,
    /// Of k3s that was asked for a new server token.
    pub(super) rotation: Silence,
}

impl Memory {
    /// How long what `stamp` stands for has not changed, `now` being a time since boot.
    pub(super) fn watched(&mut self, stamp: String, now: Duration) -> Duration {
        if self.stamp != stamp {
            (self.stamp, self.since) = (stamp, now);
        }
        now.saturating_sub(self.since)
    }
}

/// Restarts k3s where that is due and it is this host's turn; else the pass says
/// what it waits for. What an upgrade that is due does anyhow is not done twice.
pub(super) async fn take(agent: &mut Agent, checked: &CheckedPlan, pass: &mut Pass) -> Result<(), Stop> {
    let is_due = checked.plan().upgrade.as_ref().is_some_and(|upgrade| upgrade.step == Step::Due);
    if is_due { Ok(()) } else { restart(agent, checked, pass).await }
}

/// Restarts k3s where that is due: a server beside others in its turn, any other
/// host at once.
pub(super) async fn restart(agent: &mut Agent, checked: &CheckedPlan, pass: &mut Pass) -> Result<(), Stop> {
    let Some((unit, reason)) = due(checked, pass) else {
        agent.turn.silence.ends();
        return Ok(());
    };
    let begun = match is_alone(agent, pass).await {
        Ok(true) => Ok(()),
        Ok(false) => begin(agent, checked, pass).await?,
        Err(wait) => Err(wait),
    };
    if let Err(wait) = begun {
        debug!(EDGE_STEP = "activate", EDGE_REASON = %wait.reason, "restart waits for its turn");
        pass.turn = Some(wait);
        return Ok(());
    }
    info!(EDGE_STEP = "activate", EDGE_UNIT = %unit.name, EDGE_REASON = %reason, "it is this host's turn to restart");
    let wish = PlannedUnit { restart: Some(reason), restart_pending: None, ..unit };
    let host = activate::Host { root: &agent.root, systemd: &agent.systemd, clock: agent.clock };
    let before = started::before(&agent.root, &pass.facts);
    let started = activate::start(host, &[wish]).await.map_err(|error| Stop::failed("EB-systemd", &error))?;
    started::note(&agent.root, before, &started.jobs);
    let all = pass.activated.get_or_insert_default();
    all.jobs.extend(started.jobs);
    all.troubles.extend(started.troubles);
    pass.again = true;
    Ok(())
}

/// Whether nobody counts on this host's vote. An assignment that names no other
/// server may be older than the room, or be that of an adopted first server: the
/// cluster itself says then who else is a member of etcd.
///
/// # Errors
/// What must be before that is known.
pub(super) async fn is_alone(agent: &mut Agent, pass: &Pass) -> Result<bool, Wait> {
    let duty = pass.assignment.as_ref().and_then(|assignment| assignment.duty.as_ref());
    let Some(duty) = duty.filter(|duty| duty.role == Role::Server) else { return Ok(true) };
    if !duty.cluster.servers.is_empty() {
        return Ok(false);
    }
    if pass.facts.runtime.k3s.has_datastore.known() == Some(&false) {
        return Ok(true);
    }
    match Kube::own_admin(&agent.root).members().await {
        Ok(members) => {
            agent.turn.silence.ends();
            Ok(members.iter().all(|node| node.metadata.name == duty.node.name.as_str()))
        }
        Err(error) => {
            let is_silent = agent.turn.silence.lasts(clock::since_boot()) >= SILENT;
            let digest = pass.assignment.as_ref().map(|assignment| &assignment.digest);
            let is_newest = digest.is_some() && agent.confirmed.as_ref() == digest;
            if is_newest && is_silent { Ok(true) } else { Err(unreached(&error)) }
        }
    }
}

/// The unit whose restart waits, and why it is due.
fn due(checked: &CheckedPlan, pass: &Pass) -> Option<(PlannedUnit, String)> {
    let unit = checked.plan().units.iter().find(|unit| unit.restart_pending.is_some())?;
    let left_alone = pass.activated.iter().flat_map(|activated| &activated.left_alone);
    let is_ours = !pass.blocked && left_alone.into_iter().all(|left| left.unit != unit.name);
    is_ours.then(|| unit.restart_pending.clone().map(|reason| (unit.clone(), reason)))?
}

/// Takes the Lease for a restart, or finds that it is in our hand already.
pub(super) async fn begin(
    agent: &mut Agent,
    checked: &CheckedPlan,
    pass: &Pass,
) -> Result<Result<(), Wait>, Stop> {
    begin_by(agent, checked, pass, turn::may_restart).await
}

/// Whether the room is such that this host may have the Lease.
type Rule = fn(&str, &[Other], Option<&Held>) -> Result<(), Wait>;

/// As [`begin`], by the rule of what is done in that turn.
pub(super) async fn begin_by(
    agent: &mut Agent,
    checked: &CheckedPlan,
    pass: &Pass,
    may: Rule,
) -> Result<Result<(), Wait>, Stop> {
    let Some(me) = me(checked) else { return Ok(Err(Wait::long("this host has no identity yet"))) };
    let turn = Turn {
        digest: digest(checked),
        boot_id: host::boot_id(&agent.root).unwrap_or_default(),
        at_s: clock::monotonic().as_secs(),
        open: true,
    };
    if load(&agent.root).is_some_and(|before| is_in_vain(&before, &turn, pass)) {
        let reason = "k3s was restarted for this already and still runs with other values; \
             compare `edge-bootstrap plan` with what it was started with";
        return Ok(Err(Wait::long(reason)));
    }
    let begun = clock::since_boot();
    let lease = match look(agent, checked, pass, (&me, may)).await {
        Ok(lease) => lease,
        Err(wait) => return Ok(Err(wait)),
    };
    store(&agent.root, &turn).map_err(|error| Stop::failed("EB-state-file", &error))?;
    let now = agent.clock.rfc3339();
    if let Err(error) = Kube::own_admin(&agent.root).give(&lease, &me, &now).await {
        return Ok(Err(unreached(&error)));
    }
    let is_fresh = clock::since_boot().saturating_sub(begun) < FRESH;
    Ok(if is_fresh { Ok(()) } else { Err(Wait::soon("the look at the room took too long")) })
}

/// Names what a restart brings into force: values and, where it is ours, the binary.
fn digest(checked: &CheckedPlan) -> String {
    let plan = checked.plan();
    let values = plan.generation.as_ref().map_or("", |generation| generation.digest.as_str());
    let binary = plan.links.iter().find(|link| link.path == paths::K3S_LINK);
    format!("{values} {}", binary.map_or("", |link| link.target.as_str()))
}

/// k3s has started since and is to be restarted for the same again.
fn is_in_vain(before: &Turn, now: &Turn, pass: &Pass) -> bool {
    let unit = pass.facts.runtime.units.get("k3s").and_then(|unit| unit.known());
    let started = unit.is_some_and(|unit| unit.since_monotonic_s > before.at_s);
    before.digest == now.digest && before.boot_id == now.boot_id && started
}

/// The Lease, when the room is such that this host may have it.
async fn look(
    agent: &mut Agent,
    checked: &CheckedPlan,
    pass: &Pass,
    (me, may): (&str, Rule),
) -> Result<crate::kube::Lease, Wait> {
    let kube = Kube::own_admin(&agent.root);
    let lease = kube.lease(RESTART).await.map_err(|error| unreached(&error))?;
    let watched = agent.turn.watched(lease.stamp(), clock::since_boot());
    let held = lease.holder().map(|by| Held { by: by.to_owned(), watched, term: lease.term() });
    turn::is_free(me, held.as_ref())?;
    let others = others(kube, checked, pass).await.map_err(|error| unreached(&error))?;
    may(me, &others, held.as_ref())?;
    Ok(lease)
}

pub(super) fn unreached(error: &KubeError) -> Wait {
    match error {
        KubeError::Conflict { .. } => Wait::soon("another server took the room's Lease just now"),
        error => Wait::long(format!("the API of this host must answer first: {}", error.words())),
    }
}

/// The other recorded voters, and each by its own word.
async fn others(kube: Kube<'_>, checked: &CheckedPlan, pass: &Pass) -> Result<Vec<Other>, KubeError> {
    let nodes: Vec<Seen> = kube.members().await?.iter().map(seen).collect();
    let duty = pass.assignment.as_ref().and_then(|assignment| assignment.duty.as_ref());
    let servers = duty.iter().flat_map(|duty| &duty.cluster.servers);
    let servers: Vec<String> =
        servers.map(|url| url.as_str().trim_start_matches("https://").to_owned()).collect();
    let own = checked.plan().identity.as_ref().map_or("", |identity| identity.node_name.as_str());
    let mut others = turn::others(own, &servers, &nodes);
    let asked = others.iter_mut().filter(|other| other.trouble.is_none());
    join_all(asked.map(|other| ask(kube, other))).await;
    Ok(others)
}

/// Notes why this voter may not be counted on, by its own word.
pub(super) async fn ask(kube: Kube<'_>, other: &mut Other) {
    other.trouble = kube.serves(&other.address).await.err().map(|error| error.words());
}

/// A Node as the rules of turns see it.
pub(super) fn seen(node: &Node) -> Seen {
    let has_condition = node.status.conditions.iter().any(|condition| condition.kind == VOTES);
    Seen {
        name: node.metadata.name.clone(),
        addresses: node.internal_addresses().map(str::to_owned).collect(),
        is_member: node.is_member(),
        is_ready: node.is_ready(),
        votes: node.is(VOTES) || !has_condition,
    }
}

/// Gives the Lease back once this host is a healthy voter again.
pub(super) async fn end(agent: &Agent, checked: &CheckedPlan, pass: &mut Pass) {
    let Some(turn) = load(&agent.root).filter(|turn| turn.open) else { return };
    let in_vain = due(checked, pass).map(|_| is_in_vain(&turn, &turn, pass));
    let is_healthy = pass.verdict.as_ref().is_some_and(|verdict| verdict.health == Health::Healthy);
    // One that ends some seconds after READY is not back yet.
    let is_young = is_healthy && !trial::holds(checked, pass);
    pass.on_trial |= is_young;
    let ended = match me(checked) {
        Some(_) if is_young || goes_on(is_healthy, in_vain, pass.turn.is_some()) => return,
        Some(me) => give_back(agent, &me).await,
        // Whoever is no server any more waits for no READY; the term ends.
        None => Ok(()),
    };
    // What was in vain is remembered, so that it is not tried for ever.
    let digest = if in_vain == Some(true) { turn.digest.clone() } else { String::new() };
    let over = Turn { open: false, digest, ..turn };
    let noted = ended.and_then(|()| store(&agent.root, &over).map_err(|error| Chain(&error).to_string()));
    match noted {
        Ok(()) => info!(EDGE_STEP = "verify", "this host's turn is over"),
        Err(reason) => {
            debug!(EDGE_STEP = "verify", EDGE_REASON = %reason, "the turn goes on, retrying in the next pass");
        }
    }
}

/// Whether the turn is kept. `in_vain`: of a restart that is still due; that it
/// `waits`, because it may not be done now, is no reason to keep others from theirs.
fn goes_on(is_healthy: bool, in_vain: Option<bool>, waits: bool) -> bool {
    !is_healthy || in_vain == Some(false) && !waits
}

async fn give_back(agent: &Agent, me: &str) -> Result<(), String> {
    let kube = Kube::own_admin(&agent.root);
    let lease = kube.lease(RESTART).await.map_err(|error| error.words())?;
    if lease.holder() != Some(me) {
        return Ok(());
    }
    let node = kube.node(turn::node_of(me)).await.map_err(|error| error.words())?;
    let node = node.as_ref().map(seen).filter(|node| node.is_ready && node.votes);
    node.ok_or("the own Node is not Ready, or has no vote in etcd")?;
    let tried = upgrade::load(&agent.root).filter(|attempt| attempt.state == Progress::Failed);
    let wish = tried.as_ref().map(|attempt| attempt.wish.as_str());
    let lease = lease.telling(turn::node_of(me), wish);
    kube.give(&lease, "", &agent.clock.rfc3339()).await.map_err(|error| error.words())
}

/// Who this host is in the Lease.
fn me(checked: &CheckedPlan) -> Option<String> {
    let identity = checked.plan().identity.as_ref().filter(|identity| identity.role == Role::Server)?;
    Some(turn::holder(&identity.node_name, identity.node_id.as_deref()))
}

/// The record; one that is damaged in both copies counts as none, and the Lease
/// then ends with its term.
fn load(root: &Root) -> Option<Turn> {
    statefile::load(root, paths::TURN).ok().and_then(Loaded::value)
}

fn store(root: &Root, turn: &Turn) -> Result<(), StateError> {
    statefile::store(root, paths::TURN, turn).map(|_| ())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::facts::Fact;
    use crate::facts::runtime::Unit;
    use crate::role::parse_payload;

    fn turn(digest: &str, boot_id: &str) -> Turn {
        Turn { digest: digest.to_owned(), boot_id: boot_id.to_owned(), at_s: 100, open: true }
    }

    fn running_since(since_monotonic_s: u64) -> Pass {
        let mut pass = Pass::default();
        let unit = Unit { active: "active".to_owned(), since_monotonic_s, ..Unit::default() };
        pass.facts.runtime.units.insert("k3s".to_owned(), Fact::Known(unit));
        pass
    }

    #[tokio::test]
    async fn a_server_that_is_told_of_no_other_asks_its_cluster_before_it_counts_as_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut agent = Agent::new(Root::new(dir.path()), None).unwrap();
        let told = |text: &str| Some(parse_payload(text.as_bytes()).unwrap());
        let single = include_str!("../../tests/plan/04-single-server-next-boot/assignment.json");
        let mut pass = Pass { assignment: told(single), ..Pass::default() };
        assert!(pass.assignment.as_ref().unwrap().duty.as_ref().unwrap().cluster.servers.is_empty());
        for has_datastore in [Fact::Known(true), Fact::unknown("it cannot be read")] {
            pass.facts.runtime.k3s.has_datastore = has_datastore;
            assert!(!is_alone(&mut agent, &pass).await.unwrap_err().soon, "nobody could be asked");
        }
        // Silent for long: the newest word of the central service, not an old one.
        let long_ago = clock::since_boot().checked_sub(SILENT).unwrap_or_default();
        agent.turn.silence = Silence::since(long_ago);
        assert!(is_alone(&mut agent, &pass).await.is_err());
        agent.confirmed = pass.assignment.as_ref().map(|assignment| assignment.digest.clone());
        assert_eq!(is_alone(&mut agent, &pass).await, Ok(true));
        agent.turn.silence.ends();
        assert!(is_alone(&mut agent, &pass).await.is_err(), "it may only be slow");
        pass.facts.runtime.k3s.has_datastore = Fact::Known(false);
        assert_eq!(is_alone(&mut agent, &pass).await, Ok(true), "without etcd nobody shares anything");
        pass.assignment = told(include_str!("../../tests/plan/07-agent/assignment.json"));
        assert_eq!(is_alone(&mut agent, &pass).await, Ok(true));
        pass.assignment = told(include_str!("../../tests/plan/05-second-server-has-joined/assignment.json"));
        assert_eq!(is_alone(&mut agent, &pass).await, Ok(false));
    }

    #[test]
    fn a_restart_in_vain_is_not_tried_again_for_the_same_plan_in_the_same_boot() {
        let before = turn("d", "one");
        assert!(is_in_vain(&before, &turn("d", "one"), &running_since(130)));
        // Killed before the restart: k3s still runs since before the record.
        assert!(!is_in_vain(&before, &turn("d", "one"), &running_since(60)));
        assert!(!is_in_vain(&before, &turn("e", "one"), &running_since(130)));
        assert!(!is_in_vain(&before, &turn("d", "two"), &running_since(130)));
        assert!(!is_in_vain(&before, &turn("d", "one"), &Pass::default()));
    }

    #[test]
    fn a_turn_goes_on_until_the_restart_was_done_or_may_not_be_done_now() {
        assert!(goes_on(false, None, false), "it is not healthy again");
        assert!(goes_on(true, Some(false), false), "the restart is still to come");
        assert!(!goes_on(true, None, false), "nothing is due any more");
        assert!(!goes_on(true, Some(true), true), "it was in vain");
        assert!(!goes_on(true, Some(false), true), "a server of two restarts by a person's hand");
    }

    #[test]
    fn a_lease_is_watched_from_the_first_look_on_and_anew_after_each_change() {
        let mut memory = Memory::default();
        let s = Duration::from_secs;
        assert_eq!(memory.watched("a".to_owned(), s(5000)), s(0));
        assert_eq!(memory.watched("a".to_owned(), s(5600)), s(600));
        assert_eq!(memory.watched("b".to_owned(), s(5700)), s(0));
        assert_eq!(memory.watched("a".to_owned(), s(5800)), s(0));
    }

    #[test]
    fn a_record_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        root.make_dir(paths::STATE_DIR, 0o700).unwrap();
        assert_eq!(load(&root), None);
        store(&root, &turn("d", "one")).unwrap();
        assert_eq!(load(&root), Some(turn("d", "one")));
        for copy in [paths::TURN.to_owned(), format!("{}.prev", paths::TURN)] {
            root.remove_file(&copy).unwrap();
        }
        assert_eq!(load(&root), None);
    }
}
