//! Members that shall leave (`cluster.retired`): what is done about one of them next.
//!
//! Owns the order, and every reason not to: the host lives, its Node shares the
//! member's name or an address with another one (invariant 7), no majority would
//! be left, or what is there belongs to a later life of that name. Pure; what the
//! own host leaves is [`super::retire`]'s.
//!
//! The removal of a Node takes the etcd member that its annotations name, whoever
//! that is by now (k3s: pkg/etcd/member_controller.go, onRemove).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Refusal;
use crate::role::{Assignment, Retired, Role};

/// One Node of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeenNode {
    /// Its name.
    pub name: String,
    /// Differs between an object and a later one of the same name.
    pub uid: String,
    /// Its kubelet says that it is ready, and was heard in the last 40 s.
    pub is_ready: bool,
    /// Its host runs the control plane.
    pub is_server: bool,
    /// Its host is, or was, a member of etcd.
    pub is_member: bool,
    /// Full name of the member that k3s notes at it.
    pub member: Option<String>,
    /// Its addresses inside the room, and that of its member.
    pub addresses: BTreeSet<String>,
    /// Name of the member that k3s took out by our wish.
    pub taken_out: Option<String>,
    /// Our wish stands at it.
    pub is_asked_out: bool,
    /// It is being removed.
    pub is_going: bool,
}

/// What the cluster shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// All its Nodes.
    pub nodes: Vec<SeenNode>,
    /// Names of the members' Nodes whose hosts serve the API by their own word.
    pub serving: BTreeSet<String>,
    /// Identity of the secret with the password of the retired Node's name.
    pub secret: Option<String>,
    /// k3s had its time to take the member out, and did not.
    pub is_overdue: bool,
}

/// What was found at the begin of a retirement, and how far it came. It lies in
/// the cluster, so that every server goes on from it, and no later life of the
/// same name is taken for the one that leaves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Identity of the Node; absent: there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Identity of the secret with its password; absent: there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// The datastore was saved since.
    #[serde(default)]
    pub saved: bool,
    /// Nothing of it is left.
    #[serde(default)]
    pub done: bool,
}

/// One piece of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Note this record, before anything else is done.
    Note(Record),
    /// Save the datastore, then note that.
    Save,
    /// Ask k3s to take the member of the Node with this identity out of etcd.
    TakeOut(String),
    /// Remove the Node with this identity.
    RemoveNode(String),
    /// Remove the secret with this identity.
    RemoveSecret(String),
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing of it is left.
    Done,
    /// Work.
    Act(Act),
    /// It goes on by itself.
    Wait(Refusal),
    /// It does not, before somebody changes something.
    Refuse(Refusal),
}

/// Whether this host carries retirements out: of the assignment's servers whose
/// Node is Ready it has the lowest name.
#[must_use]
pub fn is_mine(assignment: &Assignment, nodes: &[SeenNode]) -> bool {
    let Some(duty) = assignment.duty.as_ref().filter(|duty| duty.role == Role::Server) else { return false };
    let me = duty.node.name.as_str();
    let servers = assignment.room.iter().filter(|host| host.role == Role::Server).map(|it| it.name.as_str());
    let is_ready =
        |name: &&str| nodes.iter().any(|node| node.name == *name && node.is_ready && node.is_server);
    servers.chain([me]).filter(is_ready).min() == Some(me)
}

/// What is done about `leaver`, one of `all`, by the server whose Node is `own`.
#[must_use]
pub fn next(own: &str, (leaver, all): (&Retired, &[Retired]), record: Option<&Record>, seen: &Seen) -> Next {
    if record.is_some_and(|record| record.done) {
        return Next::Done;
    }
    let case = Case { own, leaver, all, seen };
    let node = seen.nodes.iter().find(|node| node.name == leaver.name.as_str());
    match record {
        None => case.begin(node),
        Some(record) => case.go_on(record, node.filter(|node| record.node.as_ref() == Some(&node.uid))),
    }
}

struct Case<'a> {
    own: &'a str,
    leaver: &'a Retired,
    all: &'a [Retired],
    seen: &'a Seen,
}

impl Case<'_> {
    fn begin(&self, node: Option<&SeenNode>) -> Next {
        if let Some(reason) = node.and_then(|node| self.objection(node)) {
            return reason;
        }
        let record = Record {
            node: node.map(|node| node.uid.clone()),
            secret: self.seen.secret.clone(),
            ..Record::default()
        };
        Next::Act(Act::Note(record))
    }

    fn go_on(&self, record: &Record, node: Option<&SeenNode>) -> Next {
        let Some(node) = node else { return self.clear_up(record) };
        if let Some(reason) = self.objection(node) {
            return reason;
        }
        let is_out = !node.is_member || node.taken_out.is_some();
        if !is_out && !record.saved {
            return Next::Act(Act::Save);
        }
        if !is_out && !node.is_asked_out {
            return Next::Act(Act::TakeOut(node.uid.clone()));
        }
        // A k3s that does not know the wish takes the member out with its Node.
        if !is_out && !self.seen.is_overdue {
            return self.wait("k3s takes its member out of etcd");
        }
        if node.is_going {
            return self.wait("its Node is being removed");
        }
        Next::Act(Act::RemoveNode(node.uid.clone()))
    }

    fn clear_up(&self, record: &Record) -> Next {
        match &record.secret {
            Some(secret) if self.seen.secret.as_ref() == Some(secret) => {
                Next::Act(Act::RemoveSecret(secret.clone()))
            }
            _ => Next::Act(Act::Note(Record { done: true, ..record.clone() })),
        }
    }

    /// Why nothing may be done to its Node. Whoever shares its address answers for it,
    /// so that comes before the question who serves the API there.
    fn objection(&self, node: &SeenNode) -> Option<Next> {
        if node.name == self.own || node.is_ready {
            return Some(self.is_up());
        }
        let serves = || self.seen.serving.contains(&node.name).then(|| self.is_up());
        self.shared(node)
            .or_else(serves)
            .or_else(|| self.of_another_life(node))
            .or_else(|| self.too_few(node))
    }

    fn is_up(&self) -> Next {
        let next = "switch that host off, and it goes on by itself; a host that is to stay needs a new key: \
                    `edge-bootstrap reset --forget --yes` there";
        Next::Wait(self.refusal("EB-retired-live", "it is up", next))
    }

    fn of_another_life(&self, node: &SeenNode) -> Option<Next> {
        let (meant, found) = (self.leaver.member.as_ref()?.as_str(), node.member.as_deref()?);
        (meant != found).then(|| {
            let reason = format!("its Node stands for the etcd member {found}, and {meant} was retired");
            let next = format!(
                "look at `k3s kubectl describe node {}`; delete that Node by hand only when no live server is {found}",
                node.name
            );
            Next::Refuse(self.refusal("EB-retired-other", &reason, &next))
        })
    }

    fn shared(&self, node: &SeenNode) -> Option<Next> {
        let other = self.seen.nodes.iter().find(|other| self.counts(other) && shares(node, other))?;
        let reason = format!(
            "its Node has the same etcd member or address as Node {}, and k3s could remove the live member with it",
            other.name
        );
        let next = "compare both with `k3s kubectl get nodes -o wide`, and give the live host its recorded name back; \
                    until then nothing is removed";
        Some(Next::Refuse(self.refusal("EB-retired-shared", &reason, next)))
    }

    /// Whether somebody may live behind this Node. One that is down now may only
    /// be booting; of those that are retired too nobody comes back.
    fn counts(&self, other: &SeenNode) -> bool {
        let is_retired = self.all.iter().any(|it| it.name.as_str() == other.name);
        let is_up = other.is_ready || other.name == self.own || self.seen.serving.contains(&other.name);
        other.name != self.leaver.name.as_str() && (is_up || !is_retired)
    }

    /// Of the voters that stay more than half must be healthy.
    fn too_few(&self, node: &SeenNode) -> Option<Next> {
        if !node.is_member || node.taken_out.is_some() {
            return None;
        }
        let is_voter = |it: &&SeenNode| it.is_member && it.taken_out.is_none() && it.name != node.name;
        let voters: Vec<&SeenNode> = self.seen.nodes.iter().filter(is_voter).collect();
        let healthy = voters.iter().filter(|it| self.seen.serving.contains(&it.name)).count();
        (healthy * 2 <= voters.len()).then(|| {
            let reason = format!(
                "only {healthy} of the {} other members of etcd are healthy, and more than half must be",
                voters.len()
            );
            let next = "bring the other servers up, and it goes on by itself";
            Next::Refuse(self.refusal("EB-retired-quorum", &reason, next))
        })
    }

    fn wait(&self, what: &str) -> Next {
        Next::Wait(self.refusal("EB-retired-waits", what, "it goes on by itself"))
    }

    fn refusal(&self, code: &str, reason: &str, next: &str) -> Refusal {
        let Retired { name, node_id, .. } = self.leaver;
        Refusal::new(code, format!("{name} ({node_id}) shall leave the cluster: {reason}"), next)
    }
}

/// Whether two Nodes are of one member, or of one address.
fn shares(one: &SeenNode, other: &SeenNode) -> bool {
    (one.member.is_some() && one.member == other.member) || !one.addresses.is_disjoint(&other.addresses)
}

#[cfg(test)]
#[path = "retired_tests.rs"]
mod tests;
