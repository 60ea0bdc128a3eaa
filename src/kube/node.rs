//! Nodes of the cluster as far as membership needs them. Pure, but for the call.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Kube, KubeError};

/// Label of a Node whose host is a member of etcd (k3s: pkg/etcd/etcd.go).
const ETCD_ROLE: &str = "node-role.kubernetes.io/etcd";
/// Label of a Node whose host runs the control plane.
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
/// Annotation with a server's full etcd member name.
pub(super) const MEMBER_NAME: &str = "etcd.k3s.cattle.io/node-name";
/// Annotation with the address that a server's etcd member has.
pub(super) const MEMBER_ADDRESS: &str = "etcd.k3s.cattle.io/node-address";

/// All Nodes of the cluster.
pub type Nodes = Vec<Node>;

/// One Node.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Node {
    /// Name, labels and annotations.
    pub metadata: Metadata,
    /// What the kubelet reported.
    #[serde(default)]
    pub status: Status,
}

/// The part of an object that names it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Its name.
    pub name: String,
    /// Differs between an object and a later one of the same name.
    #[serde(default)]
    pub uid: String,
    /// Another one after each change; empty where the API does not say it.
    #[serde(default)]
    pub resource_version: String,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// RFC 3339; present while it is being deleted.
    #[serde(default)]
    pub deletion_timestamp: Option<String>,
}

/// Addresses, conditions and versions of a Node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Addresses by kind.
    #[serde(default)]
    pub addresses: Vec<Address>,
    /// Conditions by kind.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// Versions.
    #[serde(default)]
    pub node_info: Info,
}

/// One address.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Address {
    /// `InternalIP` and others.
    #[serde(rename = "type")]
    pub kind: String,
    /// The address.
    pub address: String,
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Condition {
    /// `Ready`, `EtcdIsVoter` and others.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
}

/// Versions on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Info {
    /// The kubelet's, which is k3s's: `v1.36.2+k3s1`.
    #[serde(default)]
    pub kubelet_version: String,
}

#[derive(Deserialize)]
struct List {
    items: Nodes,
}

impl Node {
    /// Whether a condition of this kind is `True`.
    #[must_use]
    pub fn is(&self, condition: &str) -> bool {
        self.status.conditions.iter().any(|found| found.kind == condition && found.status == "True")
    }

    /// Whether its kubelet says that it can run Pods.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.is("Ready")
    }

    /// Whether its host runs the control plane.
    #[must_use]
    pub fn is_server(&self) -> bool {
        self.metadata.labels.contains_key(CONTROL_PLANE)
    }

    /// Whether its host is a member of etcd.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.metadata.labels.contains_key(ETCD_ROLE)
    }

    /// Its full etcd member name, `NODE-12345678`.
    #[must_use]
    pub fn member_name(&self) -> Option<&str> {
        self.metadata.annotations.get(MEMBER_NAME).map(String::as_str)
    }

    /// The address that etcd knows it by.
    #[must_use]
    pub fn member_address(&self) -> Option<&str> {
        self.metadata.annotations.get(MEMBER_ADDRESS).map(String::as_str)
    }

    /// Its addresses inside the room.
    pub fn internal_addresses(&self) -> impl Iterator<Item = &str> {
        let internal = self.status.addresses.iter().filter(|address| address.kind == "InternalIP");
        internal.map(|address| address.address.as_str())
    }
}

impl Kube<'_> {
    /// All Nodes of the cluster.
    ///
    /// # Errors
    /// When the API does not answer, or refuses: a kubelet may not list.
    pub async fn nodes(&self) -> Result<Nodes, KubeError> {
        self.list("/api/v1/nodes").await
    }

    /// Nodes whose hosts are members of etcd: a few, however large the cluster is.
    ///
    /// # Errors
    /// As [`Kube::nodes`].
    pub async fn members(&self) -> Result<Nodes, KubeError> {
        self.list("/api/v1/nodes?labelSelector=node-role.kubernetes.io%2Fetcd%3Dtrue").await
    }

    async fn list(&self, path: &str) -> Result<Nodes, KubeError> {
        let list = self.get(path).await?.unwrap_or_default();
        let list: Result<List, _> = serde_json::from_value(list);
        list.map(|list| list.items).map_err(|source| KubeError::Answer { path: path.to_owned(), source })
    }

    /// The Node of this name.
    ///
    /// # Errors
    /// When the API does not answer, or refuses.
    pub async fn node(&self, name: &str) -> Result<Option<Node>, KubeError> {
        let path = node_path(name);
        let Some(found) = self.get(&path).await? else { return Ok(None) };
        serde_json::from_value(found).map(Some).map_err(|source| KubeError::Answer { path, source })
    }
}

/// Where a Node lies in the API.
#[must_use]
pub fn node_path(name: &str) -> String {
    format!("/api/v1/nodes/{name}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_told_by_its_labels_and_annotations() {
        let node: Node = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "a", "uid": "1",
                "labels": {"node-role.kubernetes.io/etcd": "true", "node-role.kubernetes.io/control-plane": "true"},
                "annotations": {"etcd.k3s.cattle.io/node-name": "a-1234abcd", "etcd.k3s.cattle.io/node-address": "10.0.0.1"}},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "a"}],
                "conditions": [{"type": "Ready", "status": "True"}, {"type": "EtcdIsVoter", "status": "False"}],
                "nodeInfo": {"kubeletVersion": "v1.36.2+k3s1"}},
        }))
        .unwrap();
        assert!(node.is_server() && node.is_member() && node.is_ready() && !node.is("EtcdIsVoter"));
        assert_eq!((node.member_name(), node.member_address()), (Some("a-1234abcd"), Some("10.0.0.1")));
        assert_eq!(node.internal_addresses().collect::<Vec<_>>(), ["10.0.0.1"]);
    }
}
