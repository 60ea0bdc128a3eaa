//! `cluster.retired`, as a part of the line: members that are gone for good leave
//! the cluster.
//!
//! Owns when it is looked at and how the acts are carried out. Each is found again
//! by what the cluster shows, so that a cut costs nothing, and another server may
//! go on. What may be done, and by whom, is the plan's ([`crate::plan::retired`]).
//! Stops no pass.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use tracing::{debug, info};

use super::{Agent, Pass, Severity, manifests};
use crate::error::Chain;
use crate::kube::retired::Notes;
use crate::kube::{Kube, KubeError, Node, Silence};
use crate::paths;
use crate::plan::retired::{self, Act, Next, Record, Seen, SeenNode};
use crate::plan::{CheckedPlan, Refusal};
use crate::role::{Assignment, Retired};
use crate::sys::{clock, exec};

/// Port of the API on servers (k3s: pkg/cli/cmds/server.go, https-listen-port).
const API_PORT: u16 = 6443;
/// How long k3s may leave a wish alone before the Node is removed all the same.
const PATIENCE: Duration = Duration::from_secs(60);
/// Limit of a snapshot: a large datastore on a slow disk.
const SNAPSHOT: Duration = Duration::from_secs(180);
/// More acts than one member needs: whatever goes on longer waits for the next pass.
const MOST_ACTS: usize = 8;

/// What passes remember.
#[derive(Debug, Default)]
pub struct Memory {
    /// Whose member k3s was asked to take out, and since when.
    asked: Option<(String, Duration)>,
    /// Since when the API has not served.
    silence: Silence,
}

impl Memory {
    fn is_overdue(&mut self, uid: &str, now: Duration) -> bool {
        if self.asked.as_ref().is_none_or(|(asked, _)| asked != uid) {
            self.asked = Some((uid.to_owned(), now));
        }
        self.asked.as_ref().is_some_and(|(_, since)| now.saturating_sub(*since) > PATIENCE)
    }
}

/// Goes on with what the assignment says of members that shall leave, when it is
/// this host's turn, and notes in the pass whose retirement is done.
pub(super) async fn keep(agent: &mut Agent, checked: &CheckedPlan, pass: &mut Pass) {
    let Some(assignment) = pass.assignment.clone().filter(|_| manifests::serves(checked, pass)) else {
        agent.retired.silence.ends();
        return;
    };
    let Some(duty) = &assignment.duty else { return };
    let root = agent.root.clone();
    let mut hands = Hands {
        kube: Kube::own_admin(&root),
        port: API_PORT,
        k3s: root.path(paths::K3S_LINK).to_string_lossy().into_owned(),
        memory: &mut agent.retired,
    };
    for leaver in &duty.cluster.retired {
        let next = turn(&mut hands, &assignment, leaver).await;
        if next.is_ok() {
            hands.memory.silence.ends();
        }
        match next {
            Ok(Some(next)) => tell(leaver, next, pass),
            Ok(None) => {}
            Err(error @ KubeError::Conflict { .. }) => {
                pass.retires = true;
                debug!(EDGE_REASON = %error.words(), "another server goes on with a retirement");
            }
            Err(error) if hands.memory.silence.is_told(&error, clock::monotonic()) => {
                trouble(pass, &error.words());
            }
            Err(error) => {
                pass.retires = true;
                debug!(EDGE_REASON = %error.words(), "the API does not serve a retirement yet");
            }
        }
    }
}

fn tell(leaver: &Retired, next: Next, pass: &mut Pass) {
    match next {
        Next::Done => pass.retired.push(leaver.node_id.to_string()),
        Next::Act(_) => pass.retires = true,
        Next::Wait(why) => {
            pass.retires |= why.code == "EB-retired-waits";
            pass.find(Severity::Info, why);
        }
        Next::Refuse(why) => pass.find(Severity::Warn, why),
    }
}

fn trouble(pass: &mut Pass, reason: &str) {
    pass.find(Severity::Warn, Refusal::new("EB-retired", reason, "it is tried again by itself"));
}

/// What a turn works with.
#[derive(Debug)]
pub struct Hands<'a> {
    /// The cluster's API.
    pub kube: Kube<'a>,
    /// Port on which servers serve it.
    pub port: u16,
    /// k3s's binary, for snapshots.
    pub k3s: String,
    /// What turns remember.
    pub memory: &'a mut Memory,
}

/// Acts until there is nothing to do now; `None` when it is another server's turn.
///
/// # Errors
/// When the API does not answer, or refuses; what was done is found again.
pub async fn turn(
    hands: &mut Hands<'_>,
    assignment: &Assignment,
    leaver: &Retired,
) -> Result<Option<Next>, KubeError> {
    let Some(duty) = &assignment.duty else { return Ok(None) };
    let (kube, id) = (hands.kube, leaver.node_id.as_str());
    let mut serving = None;
    for acts in 0..=MOST_ACTS {
        let notes = kube.notes().await?;
        let record = notes.record(id)?;
        if record.as_ref().is_some_and(|record| record.done) {
            return Ok(Some(Next::Done));
        }
        let seen = look(hands, leaver, serving.take()).await?;
        if !retired::is_mine(assignment, &seen.nodes) {
            return Ok(None);
        }
        let own = duty.node.name.as_str();
        let next = retired::next(own, (leaver, &duty.cluster.retired), record.as_ref(), &seen);
        let Next::Act(act) = next else { return Ok(Some(next)) };
        if acts == MOST_ACTS {
            return Ok(Some(Next::Act(act)));
        }
        info!(EDGE_STEP = "activate", EDGE_NODE = %leaver.name, EDGE_REASON = ?act, "a retired host leaves the cluster");
        if act == Act::Save
            && let Err(why) = save(&hands.k3s, leaver).await
        {
            return Ok(Some(Next::Refuse(why)));
        }
        // A snapshot takes its time: a host may have come up meanwhile.
        serving = Some(seen.serving).filter(|_| act != Act::Save);
        carry_out(kube, leaver, act, (&notes, record.unwrap_or_default())).await?;
    }
    Ok(None)
}

async fn carry_out(
    kube: Kube<'_>,
    leaver: &Retired,
    act: Act,
    (notes, record): (&Notes, Record),
) -> Result<(), KubeError> {
    let (name, id) = (leaver.name.as_str(), leaver.node_id.as_str());
    match act {
        Act::Note(record) => kube.note(notes, id, &record).await,
        Act::Save => kube.note(notes, id, &Record { saved: true, ..record }).await,
        Act::TakeOut(uid) => kube.ask_to_leave(name, &uid).await,
        Act::RemoveNode(uid) => kube.remove_node(name, &uid).await,
        Act::RemoveSecret(uid) => kube.remove_node_password(name, &uid).await,
    }
}

/// Looks at the cluster. Who serves is not asked before each act: a host without
/// power costs the whole limit.
async fn look(
    hands: &mut Hands<'_>,
    leaver: &Retired,
    serving: Option<BTreeSet<String>>,
) -> Result<Seen, KubeError> {
    let (kube, port) = (hands.kube, hands.port);
    let nodes: Vec<SeenNode> = kube.nodes().await?.iter().map(seen).collect();
    let serving = match serving {
        Some(serving) => serving,
        None => {
            let members = nodes.iter().filter(|node| node.is_member && node.taken_out.is_none());
            join_all(members.map(|node| serves(kube, node, port))).await.into_iter().flatten().collect()
        }
    };
    let waits = nodes.iter().find(|node| node.name == leaver.name.as_str() && node.is_asked_out);
    let is_overdue = waits.is_some_and(|node| hands.memory.is_overdue(&node.uid, clock::monotonic()));
    Ok(Seen { secret: kube.node_password(leaver.name.as_str()).await?, nodes, serving, is_overdue })
}

async fn serves(kube: Kube<'_>, node: &SeenNode, port: u16) -> Option<String> {
    for address in &node.addresses {
        let host = if address.contains(':') { format!("[{address}]") } else { address.clone() };
        if kube.serves(&format!("{host}:{port}")).await.is_ok() {
            return Some(node.name.clone());
        }
    }
    None
}

fn seen(node: &Node) -> SeenNode {
    let addresses = node.internal_addresses().chain(node.member_address());
    SeenNode {
        name: node.metadata.name.clone(),
        uid: node.metadata.uid.clone(),
        is_ready: node.is_ready(),
        is_server: node.is_server(),
        is_member: node.is_member(),
        member: node.member_name().map(str::to_owned),
        addresses: addresses.map(str::to_owned).collect(),
        taken_out: node.taken_out().map(str::to_owned),
        is_asked_out: node.is_asked_to_leave(),
        is_going: node.metadata.deletion_timestamp.is_some(),
    }
}

/// Saves the datastore on this host; without the WAN, which may be down.
async fn save(k3s: &str, leaver: &Retired) -> Result<(), Refusal> {
    let name = format!("eb-before-{}-left", leaver.name);
    let words = ["etcd-snapshot", "save", "--name", &name, "--etcd-s3=false"];
    let reason = match exec::run(k3s, &words, SNAPSHOT).await {
        Ok(output) if output.code == Some(0) => return Ok(()),
        Ok(output) => output.stderr.lines().last().unwrap_or("k3s etcd-snapshot failed").to_owned(),
        Err(error) => Chain(&error).to_string(),
    };
    let next = "it is tried again by itself; `k3s etcd-snapshot save` shows what is wrong";
    Err(Refusal::new("EB-retired-snapshot", format!("before {} leaves etcd: {reason}", leaver.name), next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k3s_has_its_time_for_each_member() {
        let mut memory = Memory::default();
        let at = Duration::from_secs;
        assert!(!memory.is_overdue("one", at(5)));
        assert!(!memory.is_overdue("one", at(65)));
        assert!(memory.is_overdue("one", at(66)));
        assert!(!memory.is_overdue("two", at(66)));
    }
}
