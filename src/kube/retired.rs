//! What a member leaves behind in its cluster, and the notes about who left.
//!
//! Owns the form of the notes (a ConfigMap of `kube-system`, one entry for each
//! node id, changed only from the version that was read), the removal of a Node,
//! and of k3s's secret with a node's password. Whether anything may go is the
//! plan's decision; every removal names the object's uid.

use serde_json::{Value, json};

use super::node::node_path;
use super::{Kube, KubeError, Node};
use crate::plan::retired::Record;

/// Where the notes lie.
const NOTES: &str = "edge-bootstrap-retired";
const MAPS: &str = "/api/v1/namespaces/kube-system/configmaps";

/// Notes as they were read; they may be ones that nobody has made yet.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Notes {
    object: Option<Value>,
}

impl Notes {
    /// What is noted about the host that had this node id.
    ///
    /// # Errors
    /// When somebody wrote something else there.
    pub fn record(&self, node_id: &str) -> Result<Option<Record>, KubeError> {
        let text = self.object.as_ref().and_then(|object| object["data"][node_id].as_str());
        let read = |text: &str| {
            let path = format!("{MAPS}/{NOTES}");
            serde_json::from_str(text).map_err(|source| KubeError::Answer { path, source })
        };
        text.map(read).transpose()
    }

    fn with(&self, node_id: &str, record: &Record) -> Value {
        let mut object = self.object.clone().unwrap_or_else(|| {
            json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": NOTES, "namespace": "kube-system"}})
        });
        object["data"][node_id] = json!(serde_json::to_string(record).unwrap_or_default());
        object
    }
}

impl Node {
    /// The member that k3s took out because it was asked to, and that did not come back.
    #[must_use]
    pub fn taken_out(&self) -> Option<&str> {
        self.removed_member().filter(|_| self.is_asked_to_leave())
    }
}

impl Kube<'_> {
    /// Reads the notes about who left.
    ///
    /// # Errors
    /// When the API does not answer, or refuses.
    pub async fn notes(&self) -> Result<Notes, KubeError> {
        Ok(Notes { object: self.get(&format!("{MAPS}/{NOTES}")).await? })
    }

    /// Writes `record` into the notes that were read.
    ///
    /// # Errors
    /// `Conflict` when another server was faster; else as [`Kube::notes`].
    pub async fn note(&self, notes: &Notes, node_id: &str, record: &Record) -> Result<(), KubeError> {
        let object = notes.with(node_id, record);
        match &notes.object {
            None => self.create(MAPS, &object).await.map(drop),
            Some(_) => self.replace(&format!("{MAPS}/{NOTES}"), &object).await.map(drop),
        }
    }

    /// Identity of the secret with the password of a node's name; `None`: there is none.
    ///
    /// # Errors
    /// As [`Kube::notes`].
    pub async fn node_password(&self, node: &str) -> Result<Option<String>, KubeError> {
        let secret = self.get(&password_path(node)).await?;
        Ok(secret.and_then(|secret| secret["metadata"]["uid"].as_str().map(str::to_owned)))
    }

    /// Removes that secret, if it is the one with this `uid`.
    ///
    /// # Errors
    /// As [`Kube::delete`].
    pub async fn remove_node_password(&self, node: &str, uid: &str) -> Result<(), KubeError> {
        self.delete(&password_path(node), uid).await
    }

    /// Removes a Node, if it is the one with this `uid`.
    ///
    /// # Errors
    /// As [`Kube::delete`].
    pub async fn remove_node(&self, node: &str, uid: &str) -> Result<(), KubeError> {
        self.delete(&node_path(node), uid).await
    }
}

/// k3s: pkg/nodepassword/nodepassword.go, getSecretName.
fn password_path(node: &str) -> String {
    format!("/api/v1/namespaces/kube-system/secrets/{node}.node-password.k3s")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    const ID: &str = "bcdefghijklmnopqrstuvwxy2a";

    #[test]
    fn a_note_is_read_back_and_leaves_the_others_alone() {
        let record = Record { node: Some("u".to_owned()), saved: true, ..Record::default() };
        let first = Notes::default().with("other", &Record::default());
        let notes = Notes { object: Some(first) };
        assert_eq!(notes.record(ID).unwrap(), None);
        let notes = Notes { object: Some(notes.with(ID, &record)) };
        assert_eq!(notes.record(ID).unwrap(), Some(record));
        assert_eq!(notes.record("other").unwrap(), Some(Record::default()));
        let damaged = Notes { object: Some(json!({"data": {ID: "x"}})) };
        assert!(damaged.record(ID).is_err(), "what a person wrote is not taken for nothing");
    }

    #[test]
    fn only_a_member_that_went_by_our_wish_counts_as_taken_out() {
        use super::super::leave::{REMOVE, REMOVED};
        let node = |annotations: Value| -> Node {
            serde_json::from_value(json!({"metadata": {"name": "a", "annotations": annotations}})).unwrap()
        };
        let out = node(json!({REMOVE: "true", REMOVED: "a-00000001"}));
        assert_eq!((out.is_asked_to_leave(), out.taken_out()), (true, Some("a-00000001")));
        // k3s says "false" once the host is a member again.
        assert_eq!(node(json!({REMOVE: "false", REMOVED: "a-00000001"})).taken_out(), None);
        assert_eq!(node(json!({REMOVE: "true"})).taken_out(), None);
    }
}
