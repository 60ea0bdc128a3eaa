//! A server leaves etcd, as one step of the line, before it stops being one.
//!
//! Owns the order: that the removal is asked for is pinned before it is asked for,
//! that etcd has removed the member before anything of this host's k3s is kept
//! down, and what the cluster says of the Node before its files go. Each step is
//! found again by what is seen, so that a cut at any moment leaves a host whose
//! next pass goes on. Everything is asked of another server: of this one nothing
//! is left once etcd has removed it. Whether it may leave is the plan's decision
//! ([`crate::plan::roles`], [`crate::plan::turn`]). Deletes nothing.

use std::time::Duration;

use futures_util::future::join_all;
use tracing::{debug, info};

use super::turn::{ask, seen, unreached};
use super::{Agent, Pass, Stop, StopKind};
use crate::facts::Fact;
use crate::facts::runtime::{Departing, Departure, PinnedIdentity};
use crate::identity;
use crate::kube::lease::RESTART;
use crate::kube::{Kube, KubeError, Lease, Node};
use crate::plan::turn::{self, Held, Wait};
use crate::plan::{self, CheckedPlan, PlannedDeparture, Refusal, roles};
use crate::role::Role;
use crate::sys::clock;

/// How long one pass waits for k3s to remove the member: it does so within a second.
const REMOVAL: Duration = Duration::from_secs(20);
/// Between looks.
const LOOK: Duration = Duration::from_secs(1);

/// Takes a server out of etcd, where the plan begins with that; the pass then ends here.
pub(super) async fn depart(agent: &mut Agent, checked: &CheckedPlan, pass: &mut Pass) -> Result<(), Stop> {
    let Some(pinned) = plan::pinned(&pass.facts).cloned() else { return Ok(()) };
    let Some(departure) = &checked.plan().departure else {
        return withdraw(agent, checked, &pinned, pass).await;
    };
    // A turn to restart that is over gives its Lease back first.
    super::turn::end(agent, checked, pass).await;
    let is_prepared = !pass.blocked || pinned.departing.is_some();
    let next = if is_prepared { go_on(agent, departure, &pinned, pass).await? } else { Err(unprepared()) };
    let wait = match next {
        Ok(reached) => {
            pass.again = true;
            format!("the member {} is {}", reached.member, word(reached.step))
        }
        Err(wait) => wait.reason,
    };
    let reason = format!("this server leaves etcd ({}): {wait}", departure.reason);
    let why = Refusal::new("EB-leaving-etcd", reason, "it goes on by itself");
    Err(Stop { why, kind: StopKind::Waiting })
}

fn unprepared() -> Wait {
    Wait::long("what the new role needs is not here yet")
}

fn word(step: Departure) -> &'static str {
    match step {
        Departure::Asked => "asked to leave",
        Departure::Left => "removed",
        Departure::Tidied => "forgotten by the cluster",
    }
}

/// One step further, and what was reached.
async fn go_on(
    agent: &mut Agent,
    departure: &PlannedDeparture,
    pinned: &PinnedIdentity,
    pass: &mut Pass,
) -> Result<Result<Departing, Wait>, Stop> {
    let Some(member) = roles::member(&pass.facts, pinned) else {
        return Ok(Err(Wait::long("the name of its member is not known; it is recorded when it is Ready")));
    };
    let has_left = roles::has_left(pinned);
    // etcd's own word, also when the room cannot be asked.
    if !has_left && pass.facts.runtime.k3s.tombstone.known() == Some(&true) {
        return reached(agent, pass, pinned, (Departure::Left, member)).map(Ok);
    }
    let base = match nearest(agent, departure).await {
        Ok(base) => base,
        Err(wait) => return Ok(Err(wait)),
    };
    let scene = Scene { departure, pinned, member: &member, base: &base };
    let done = if has_left { scene.tidy(agent).await } else { scene.leave(agent, pass).await? };
    match done {
        Err(wait) => Ok(Err(wait)),
        Ok(step) => reached(agent, pass, pinned, (step, member)).map(Ok),
    }
}

/// A server of the cluster that serves the API now, as `https://HOST:PORT`.
async fn nearest(agent: &Agent, departure: &PlannedDeparture) -> Result<String, Wait> {
    let kube = Kube::own_admin(&agent.root);
    let mut troubles = Vec::new();
    for address in &departure.servers {
        match kube.serves(address).await {
            Ok(()) => return Ok(format!("https://{address}")),
            Err(error) => troubles.push(error.words()),
        }
    }
    Err(Wait::long(format!("no other server serves the API: {}", troubles.join("; "))))
}

/// Pins a step, so that it is never gone back.
fn reached(
    agent: &Agent,
    pass: &mut Pass,
    pinned: &PinnedIdentity,
    (step, member): (Departure, String),
) -> Result<Departing, Stop> {
    let departing = Departing { step, member };
    record(agent, pass, pinned, Some(departing.clone()))?;
    info!(EDGE_STEP = "apply", EDGE_REASON = %format!("{} is {}", departing.member, word(step)), "leaving etcd");
    Ok(departing)
}

fn record(
    agent: &Agent,
    pass: &mut Pass,
    pinned: &PinnedIdentity,
    departing: Option<Departing>,
) -> Result<(), Stop> {
    let identity = PinnedIdentity { departing, ..pinned.clone() };
    identity::pin(&agent.root, &identity).map_err(|error| Stop::failed("EB-state-file", &error))?;
    pass.facts.runtime.identity = Fact::Known(Some(identity));
    Ok(())
}

/// One departure, and the server that is asked.
struct Scene<'a> {
    departure: &'a PlannedDeparture,
    pinned: &'a PinnedIdentity,
    member: &'a str,
    base: &'a str,
}

impl Scene<'_> {
    /// Until etcd has removed the member.
    async fn leave(&self, agent: &mut Agent, pass: &mut Pass) -> Result<Result<Departure, Wait>, Stop> {
        let node = match self.node(agent).await {
            Ok(node) => node,
            Err(wait) => return Ok(Err(wait)),
        };
        if node.removed_member() == Some(self.member) {
            return Ok(Ok(Departure::Left));
        }
        if !node.is_asked_to_leave()
            && let Err(wait) = self.ask(agent, &node, pass).await?
        {
            return Ok(Err(wait));
        }
        match self.removed(agent).await {
            Ok(true) => Ok(Ok(Departure::Left)),
            Ok(false) => Ok(Err(self.refused(agent).await)),
            Err(wait) => Ok(Err(wait)),
        }
    }

    /// It asks again in the next pass, and others may restart until then.
    async fn refused(&self, agent: &Agent) -> Wait {
        let kube = Kube::admin_at(&agent.root, self.base);
        let given = give_back(kube, &self.me(), &agent.clock.rfc3339()).await;
        let why = "etcd refused to remove it: too few members have started";
        given.map_or_else(|error| unreached(&error), |()| Wait::long(why))
    }

    async fn node(&self, agent: &Agent) -> Result<Node, Wait> {
        let node = Kube::admin_at(&agent.root, self.base).node(&self.pinned.node_name).await;
        let node = node.map_err(|error| Wait::long(error.words()))?;
        node.ok_or_else(|| Wait::long("its Node is not there; k3s makes it when it runs"))
    }

    /// Looks at the room, pins what is about to be done, and does it.
    async fn ask(&self, agent: &mut Agent, node: &Node, pass: &mut Pass) -> Result<Result<(), Wait>, Stop> {
        let lease = match self.look(agent, node).await {
            Ok(lease) => lease,
            Err(wait) => return Ok(Err(wait)),
        };
        reached(agent, pass, self.pinned, (Departure::Asked, self.member.to_owned()))?;
        let kube = Kube::admin_at(&agent.root, self.base);
        let given = match kube.give(&lease, &self.me(), &agent.clock.rfc3339()).await {
            Ok(()) => kube.ask_to_leave(&node.metadata.name, &node.metadata.uid).await,
            Err(error) => Err(error),
        };
        Ok(given.map_err(|error| unreached(&error)))
    }

    /// The room's Lease, when the room is such that this server may leave.
    async fn look(&self, agent: &mut Agent, node: &Node) -> Result<Lease, Wait> {
        roles::is_own(self.member, self.pinned.node_ip, (node.member_name(), node.member_address()))?;
        let kube = Kube::admin_at(&agent.root, self.base);
        let lease = kube.lease(RESTART).await.map_err(|error| unreached(&error))?;
        let watched = agent.turn.watched(lease.stamp(), clock::since_boot());
        let held = lease.holder().map(|by| Held { by: by.to_owned(), watched, term: lease.term() });
        turn::is_free(&self.me(), held.as_ref())?;
        let nodes: Vec<_> =
            kube.members().await.map_err(|error| unreached(&error))?.iter().map(seen).collect();
        let mut others = turn::others(&self.pinned.node_name, &self.departure.servers, &nodes);
        join_all(others.iter_mut().filter(|other| other.trouble.is_none()).map(|other| ask(kube, other)))
            .await;
        turn::may_leave(&self.me(), &others, held.as_ref())?;
        Ok(lease)
    }

    /// Whether etcd has removed it; `false` when it refused.
    async fn removed(&self, agent: &Agent) -> Result<bool, Wait> {
        let begun = clock::since_boot();
        loop {
            let node = self.node(agent).await?;
            if node.removed_member() == Some(self.member) {
                return Ok(true);
            }
            if !node.is_asked_to_leave() {
                return Ok(false);
            }
            if clock::since_boot().saturating_sub(begun) > REMOVAL {
                return Err(Wait::long("the cluster has not removed it yet"));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// After this nothing in the cluster calls the Node a server's.
    async fn tidy(&self, agent: &Agent) -> Result<Departure, Wait> {
        let kube = Kube::admin_at(&agent.root, self.base);
        kube.tidy(&self.pinned.node_name, self.member).await.map_err(|error| Wait::long(error.words()))?;
        let given = give_back(kube, &self.me(), &agent.clock.rfc3339()).await;
        given.map(|()| Departure::Tidied).map_err(|error| unreached(&error))
    }

    fn me(&self) -> String {
        me(self.pinned)
    }
}

fn me(pinned: &PinnedIdentity) -> String {
    turn::holder(&pinned.node_name, pinned.node_id.as_deref())
}

/// The room's Lease is nobody's any more, where it was `me`'s.
async fn give_back(kube: Kube<'_>, me: &str, now: &str) -> Result<(), KubeError> {
    let lease = kube.lease(RESTART).await?;
    if lease.holder() == Some(me) { kube.give(&lease, "", now).await } else { Ok(()) }
}

/// The assignment made this host a server again before etcd removed it: the
/// request is taken back. When that comes too late, it joins anew.
async fn withdraw(
    agent: &Agent,
    checked: &CheckedPlan,
    pinned: &PinnedIdentity,
    pass: &mut Pass,
) -> Result<(), Stop> {
    let is_server = checked.plan().identity.as_ref().is_some_and(|identity| identity.role == Role::Server);
    let asked = pinned.departing.as_ref().filter(|departing| departing.step == Departure::Asked);
    let Some(asked) = asked.filter(|_| is_server) else { return Ok(()) };
    let stayed = stay(agent, pinned, asked).await;
    match stayed {
        Ok(true) => record(agent, pass, pinned, None)?,
        Ok(false) => {
            reached(agent, pass, pinned, (Departure::Left, asked.member.clone()))?;
        }
        Err(reason) => {
            debug!(EDGE_STEP = "apply", EDGE_REASON = %reason, "the request to leave stands, retrying in the next pass");
            return Ok(());
        }
    }
    pass.again = true;
    let why = Refusal::new("EB-leaving-etcd", "this server is one again", "it goes on by itself");
    Err(Stop { why, kind: StopKind::Waiting })
}

/// Whether the member stays; `false` when etcd has removed it already.
async fn stay(agent: &Agent, pinned: &PinnedIdentity, asked: &Departing) -> Result<bool, String> {
    let kube = Kube::own_admin(&agent.root);
    let Some(node) = kube.node(&pinned.node_name).await.map_err(|error| error.words())? else {
        return Err("its Node is not there".to_owned());
    };
    if node.removed_member() == Some(asked.member.as_str()) {
        return Ok(false);
    }
    if node.is_asked_to_leave() {
        kube.stay(&node).await.map_err(|error| error.words())?;
    }
    give_back(kube, &me(pinned), &agent.clock.rfc3339()).await.map_err(|error| error.words())?;
    Ok(true)
}
