//! How a server leaves etcd in the words of the cluster (k3s: pkg/etcd/member_controller.go).
//!
//! Owns the annotations and labels that say so, for a server that leaves by itself
//! and for one that is gone ([`super::retired`]). Never deletes a Node: k3s removes
//! the member that a deleted Node names, which may be a live one (invariant 7).

use serde_json::json;

use super::node::{MEMBER_ADDRESS, MEMBER_NAME, node_path};
use super::{Kube, KubeError, Node};

/// Asks k3s to remove the member that the Node names.
pub(super) const REMOVE: &str = "etcd.k3s.cattle.io/remove";
/// The member that k3s has removed for it.
pub(super) const REMOVED: &str = "etcd.k3s.cattle.io/removed-node-name";
/// Labels by which the cluster takes a Node for a server's; no kubelet may change
/// them (Kubernetes: NodeRestriction). The last one is older k3s's.
const ROLES: [&str; 3] = [
    "node-role.kubernetes.io/etcd",
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/master",
];

/// How often a Node is read and changed before the next pass goes on.
const TRIES: usize = 3;

impl Node {
    /// Whether the removal of its member was asked for.
    #[must_use]
    pub fn is_asked_to_leave(&self) -> bool {
        self.metadata.annotations.get(REMOVE).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// The member that k3s has removed for this Node.
    #[must_use]
    pub fn removed_member(&self) -> Option<&str> {
        self.metadata.annotations.get(REMOVED).map(String::as_str).filter(|name| !name.is_empty())
    }
}

impl Kube<'_> {
    /// Asks for the removal of the member that the Node `name` names, if it is the
    /// one with this `uid`. k3s takes the request back where no voter would stay.
    ///
    /// # Errors
    /// As [`Kube::get`]; also when another Node has its name by now.
    pub async fn ask_to_leave(&self, name: &str, uid: &str) -> Result<(), KubeError> {
        let fields = json!({"metadata": {"uid": uid, "annotations": {REMOVE: "true"}}});
        self.patch(&node_path(name), &fields).await.map(drop)
    }

    /// Takes the request back.
    ///
    /// # Errors
    /// As [`Kube::ask_to_leave`].
    pub async fn stay(&self, node: &Node) -> Result<(), KubeError> {
        let fields = json!({"metadata": {"uid": node.metadata.uid, "annotations": {REMOVE: null}}});
        self.patch(&node_path(&node.metadata.name), &fields).await.map(|_| ())
    }

    /// Takes all from the Node `name` that calls it a server, in one change: k3s
    /// would else remove a later member of the same host at once, or one with it
    /// when the Node is deleted. A Node that is gone needs nothing, and one that has
    /// another member than `member` is another host's that took the name: where the
    /// Node was changed since it was read, it is read again.
    ///
    /// # Errors
    /// `Conflict` when it is changed each time; else as [`Kube::get`].
    pub async fn tidy(&self, name: &str, member: &str) -> Result<(), KubeError> {
        for _ in 1..TRIES {
            match self.tidy_once(name, member).await {
                Err(KubeError::Conflict { .. }) => {}
                other => return other,
            }
        }
        self.tidy_once(name, member).await
    }

    async fn tidy_once(&self, name: &str, member: &str) -> Result<(), KubeError> {
        let Some(node) = self.node(name).await? else { return Ok(()) };
        if node.member_name().is_some_and(|own| own != member) {
            return Ok(());
        }
        let (uid, version) = (&node.metadata.uid, &node.metadata.resource_version);
        let gone = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), json!(null))).collect();
        let (labels, notes): (serde_json::Map<_, _>, serde_json::Map<_, _>) =
            (gone(&ROLES), gone(&[REMOVE, REMOVED, MEMBER_NAME, MEMBER_ADDRESS]));
        let fields = json!({"metadata": {
            "uid": uid, "resourceVersion": version, "labels": labels, "annotations": notes,
        }});
        match self.patch(&node_path(name), &fields).await {
            Err(KubeError::Refused { status: 404, .. }) => Ok(()),
            other => other.map(|_| ()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn node(annotations: &serde_json::Value) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "a", "annotations": annotations}})).unwrap()
    }

    #[test]
    fn a_removal_is_told_by_the_member_that_k3s_names() {
        assert!(!node(&json!({})).is_asked_to_leave());
        let asked = node(&json!({REMOVE: "True", REMOVED: ""}));
        assert!(asked.is_asked_to_leave() && asked.removed_member().is_none());
        assert_eq!(node(&json!({REMOVED: "a-12345678"})).removed_member(), Some("a-12345678"));
    }
}
