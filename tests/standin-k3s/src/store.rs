//! Owns the content of the datastore: members, CA set, nodes, node passwords,
//! and the rules of changing them. Pure; copies and disks are in `register`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::objects::Objects;
use crate::pki;

/// The whole datastore of one cluster.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Store {
    /// Random per cluster: two clusters never mix.
    pub cluster_id: String,
    /// Name of the record that the server token encrypts in k3s: the first 12
    /// hex of its SHA-256 (k3s: pkg/cluster/storage.go).
    pub token_id: String,
    /// CA set by path below `D/server`.
    pub bootstrap: BTreeMap<String, BootFile>,
    /// Settings that a joining server must share.
    pub critical: BTreeMap<String, String>,
    /// etcd members; empty on sqlite.
    pub members: Vec<Member>,
    /// Hash of the node password by node name.
    pub passwords: BTreeMap<String, String>,
    /// Node objects by name.
    pub nodes: BTreeMap<String, Node>,
    /// All other objects.
    #[serde(default)]
    pub objects: Objects,
}

/// One file of the CA set.
#[derive(Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct BootFile {
    /// Content.
    pub content: String,
    /// Seconds since 1970 when it was stored.
    pub stamp: u64,
}

impl std::fmt::Debug for BootFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BootFile").field("stamp", &self.stamp).finish_non_exhaustive()
    }
}

/// One etcd member.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Member {
    /// 16 hex.
    pub id: String,
    /// Empty until the member has started once.
    pub name: String,
    /// `https://IP:2380`.
    pub peer_url: String,
    /// Has no vote yet.
    pub learner: bool,
    /// Seconds since 1970 when it was added.
    pub since: u64,
}

/// One Node object.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Node {
    /// UUID.
    pub uid: String,
    /// RFC 3339.
    pub created: String,
    /// InternalIP addresses.
    pub ips: Vec<IpAddr>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Taints as given, `key=value:Effect`; only from the first registration.
    pub taints: Vec<String>,
    /// `kubelet` version.
    pub version: String,
    /// What the kubelet said last about its runtime.
    pub ready: bool,
    /// Why not, when not.
    pub message: String,
}

impl Node {
    /// Whether two objects differ in something the kubelet writes.
    pub fn same_status(&self, ready: bool, message: &str) -> bool {
        self.ready == ready && self.message == message
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |age| age.as_secs())
}

/// The record name that belongs to a server token's password.
pub fn token_id(password: &str) -> String {
    pki::hex(&Sha256::digest(password.as_bytes())).chars().take(12).collect()
}

fn password_hash(node: &str, password: &str) -> String {
    pki::hex(&Sha256::digest(format!("{node}\n{password}").as_bytes()))
}

/// k3s logs this on the agent, for ever.
pub const DUPLICATE_HOST: &str = "Node password rejected, duplicate hostname or contents of \
    '/etc/rancher/node/password' may not match server node-passwd entry, try enabling a unique \
    node name with the --with-node-id flag";

const ETCD: &str = "node-role.kubernetes.io/etcd";
const MEMBER: &str = "etcd.k3s.cattle.io/node-name";
const REMOVE: &str = "etcd.k3s.cattle.io/remove";
const REMOVED: &str = "etcd.k3s.cattle.io/removed-node-name";

/// k3s: pkg/etcd/etcd.go (join).
pub const DUPLICATE_NAME: &str = "duplicate node name found, please use a unique name for this node";

/// etcd's refusal of a second learner.
pub const TOO_MANY_LEARNERS: &str = "etcdserver: too many learner members in cluster";

impl Store {
    /// Members with a vote.
    pub fn voters(&self) -> Vec<Member> {
        self.members.iter().filter(|member| !member.learner).cloned().collect()
    }

    /// The member of this name, if the peer URL fits too.
    pub fn member(&self, name: &str, peer_url: &str) -> Option<&Member> {
        self.members.iter().find(|m| m.name == name && m.peer_url == peer_url)
    }

    /// `name=url` of all members, as k3s logs them.
    pub fn member_words(&self) -> String {
        let words: Vec<String> = self.members.iter().map(|m| format!("{}={}", m.name, m.peer_url)).collect();
        words.join(" ")
    }

    /// Adds a learner without a name, unless this host is a member already.
    pub fn add_member(&mut self, node: &str, name: &str, peer_url: &str) -> Result<()> {
        for member in &self.members {
            if member.name != name && node_part(&member.name) == node {
                bail!(DUPLICATE_NAME);
            }
        }
        let known = |m: &Member| m.name == name || (m.name.is_empty() && m.peer_url == peer_url);
        if self.members.iter().any(known) {
            return Ok(());
        }
        if self.members.iter().any(|m| m.peer_url == peer_url) {
            bail!("etcdserver: Peer URLs already exists");
        }
        if self.members.iter().any(|m| m.learner) {
            bail!(TOO_MANY_LEARNERS);
        }
        self.members.push(Member {
            id: pki::random_hex(8)?,
            name: String::new(),
            peer_url: peer_url.into(),
            learner: true,
            since: now(),
        });
        Ok(())
    }

    /// Gives a started member its name.
    pub fn publish(&mut self, name: &str, peer_url: &str) -> Result<()> {
        let member = self.members.iter_mut().find(|m| m.peer_url == peer_url);
        member.context("etcdserver: member not found")?.name = name.into();
        Ok(())
    }

    /// Gives a learner its vote.
    pub fn promote(&mut self, id: &str) -> Result<()> {
        let member = self.members.iter_mut().find(|m| m.id == id);
        member.context("etcdserver: member not found")?.learner = false;
        Ok(())
    }

    /// Takes out a learner that stalls; one that got its vote meanwhile stays.
    pub fn drop_learner(&mut self, id: &str) -> Result<()> {
        self.members.retain(|m| m.id != id || !m.learner);
        Ok(())
    }

    /// Removes a member; the last voter stays (k3s commit 8705a88bf).
    pub fn remove_member(&mut self, name: &str) -> Result<()> {
        let voters = self.voters();
        if voters.len() == 1 && voters.iter().any(|m| m.name == name) {
            bail!("refusing to remove the last etcd voter {name}");
        }
        self.members.retain(|m| m.name != name);
        Ok(())
    }

    /// First use stores the hash, later uses compare.
    pub fn check_password(&mut self, node: &str, password: &str) -> Result<()> {
        let hash = password_hash(node, password);
        match self.passwords.get(node) {
            Some(known) if *known != hash => bail!(DUPLICATE_HOST),
            Some(_) => Ok(()),
            None => {
                self.passwords.insert(node.into(), hash);
                Ok(())
            }
        }
    }

    /// Identity of the secret `<node>.node-password.k3s`.
    pub fn password_uid(&self, node: &str) -> Option<String> {
        Some(self.passwords.get(node)?.chars().take(32).collect())
    }

    /// Creates or updates a Node at kubelet start: labels and annotations are
    /// merged, taints count only the first time. A host that is another member
    /// than the one that was taken out is no removed one any more.
    pub fn register(&mut self, name: &str, wanted: Node) -> Result<()> {
        if let Some(node) = self.nodes.get_mut(name) {
            let member = wanted.annotations.get(MEMBER);
            if member.is_some()
                && node.annotations.get(REMOVED).is_some_and(|removed| Some(removed) != member)
            {
                node.annotations.remove(REMOVED);
                node.annotations.insert(REMOVE.into(), "false".into());
            }
            node.ips = wanted.ips;
            node.labels.extend(wanted.labels);
            node.annotations.extend(wanted.annotations);
            node.version = wanted.version;
            return Ok(());
        }
        let hex = pki::random_hex(16)?;
        let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
        let uid = [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-");
        let created = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        self.nodes.insert(name.into(), Node { uid, created, ..wanted });
        Ok(())
    }

    /// Deletes a Node, and the etcd member that its annotations name: also the
    /// member of a live host whose old Node object this is (k3s:
    /// pkg/etcd/member_controller.go onRemove). The secret with its password goes
    /// with it where it is the Node's (`owns_password`).
    pub fn delete_node(&mut self, name: &str, owns_password: bool) -> Result<()> {
        let Some(node) = self.nodes.get(name).cloned() else { return Ok(()) };
        let etcd = node.labels.get(ETCD).is_some_and(|v| v == "true");
        let gone = node.annotations.get(REMOVE).is_some_and(|v| v == "true")
            && node.annotations.contains_key(REMOVED);
        if let Some(member) = node.annotations.get(MEMBER)
            && etcd
            && !gone
        {
            self.remove_member(member)?;
        }
        self.nodes.remove(name);
        if owns_password {
            self.passwords.remove(name);
        }
        Ok(())
    }

    /// Merges annotations and labels; `etcd.k3s.cattle.io/remove=true` takes
    /// the member out and marks the Node (k3s: pkg/etcd/member_controller.go).
    pub fn patch_node(&mut self, name: &str, patch: &Value) -> Result<bool> {
        let Some(node) = self.nodes.get_mut(name) else { return Ok(false) };
        merge(&mut node.annotations, &patch["metadata"]["annotations"]);
        merge(&mut node.labels, &patch["metadata"]["labels"]);
        let remove = node.annotations.get(REMOVE).is_some_and(|v| v == "true")
            && node.labels.get(ETCD).is_some_and(|v| v == "true")
            && !node.annotations.contains_key(REMOVED);
        if let Some(member) = node.annotations.get(MEMBER).cloned().filter(|_| remove) {
            node.annotations.insert(REMOVED.into(), member.clone());
            node.annotations.remove(MEMBER);
            node.annotations.remove("etcd.k3s.cattle.io/node-address");
            self.remove_member(&member)?;
        }
        Ok(true)
    }

    /// `/db/info`: the member list; empty fields are left out, as v1.36.2 does.
    pub fn db_info(&self) -> Value {
        let members: Vec<Value> = self
            .members
            .iter()
            .map(|m| {
                let client = m.peer_url.replace(":2380", ":2379");
                let id = u64::from_str_radix(&m.id, 16).unwrap_or_default();
                let mut value = json!({"ID": id, "peerURLs": [m.peer_url]});
                let extra = [
                    ("name", json!(m.name), !m.name.is_empty()),
                    ("clientURLs", json!([client]), !m.name.is_empty()),
                    ("isLearner", json!(true), m.learner),
                ];
                for (key, word, _) in extra.into_iter().filter(|(_, _, shown)| *shown) {
                    value[key] = word;
                }
                value
            })
            .collect();
        json!({ "members": members })
    }
}

fn merge(into: &mut BTreeMap<String, String>, patch: &Value) {
    for (key, value) in patch.as_object().into_iter().flatten() {
        match value.as_str() {
            Some(text) => into.insert(key.clone(), text.into()),
            None => into.remove(key),
        };
    }
}

/// The node name that a member name was made from.
fn node_part(member: &str) -> &str {
    member.rsplit_once('-').map_or(member, |(node, _)| node)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn three() -> Store {
        let mut store = Store::default();
        for n in 1..=3 {
            let (name, url) = (format!("m{n}-0000000{n}"), format!("https://10.0.0.{n}:2380"));
            store.add_member(&format!("m{n}"), &name, &url).unwrap();
            store.publish(&name, &url).unwrap();
            let id = store.members.last().unwrap().id.clone();
            store.promote(&id).unwrap();
        }
        store
    }

    #[test]
    fn one_learner_at_a_time() {
        let mut store = three();
        store.add_member("m4", "m4-00000004", "https://10.0.0.4:2380").unwrap();
        let again = store.add_member("m4", "m4-00000004", "https://10.0.0.4:2380");
        assert!(again.is_ok(), "an interrupted join goes on");
        assert_eq!(store.members.len(), 4);
        let other = store.add_member("m5", "m5-00000005", "https://10.0.0.5:2380");
        assert_eq!(other.unwrap_err().to_string(), TOO_MANY_LEARNERS);
    }

    #[test]
    fn a_duplicate_node_name_is_refused() {
        let error = three().add_member("m2", "m2-ffffffff", "https://10.0.0.9:2380").unwrap_err();
        assert_eq!(error.to_string(), DUPLICATE_NAME);
    }

    #[test]
    fn the_first_password_of_a_name_wins() {
        let mut store = three();
        store.check_password("a", "one").unwrap();
        store.check_password("a", "one").unwrap();
        assert_eq!(store.check_password("a", "two").unwrap_err().to_string(), DUPLICATE_HOST);
    }

    #[test]
    fn deleting_a_stale_node_removes_the_live_member() {
        let mut store = three();
        let mut node = Node::default();
        node.labels.insert("node-role.kubernetes.io/etcd".into(), "true".into());
        node.annotations.insert("etcd.k3s.cattle.io/node-name".into(), "m2-00000002".into());
        store.register("old-name", node).unwrap();
        store.delete_node("old-name", true).unwrap();
        assert_eq!(store.voters().len(), 2);
    }

    #[test]
    fn a_member_that_was_taken_out_by_a_wish_does_not_go_twice() {
        let mut store = three();
        let mut node = Node::default();
        node.labels.insert(ETCD.into(), "true".into());
        node.annotations.insert(MEMBER.into(), "m2-00000002".into());
        store.register("m2", node.clone()).unwrap();
        let wish = json!({"metadata": {"annotations": {REMOVE: "true"}}});
        store.patch_node("m2", &wish).unwrap();
        assert_eq!(store.voters().len(), 2);
        assert_eq!(store.nodes["m2"].annotations[REMOVED], "m2-00000002");
        assert!(!store.nodes["m2"].annotations.contains_key(MEMBER));
        // It comes back as another member: the wish is over.
        node.annotations.insert(MEMBER.into(), "m2-ffffffff".into());
        store.register("m2", node).unwrap();
        assert_eq!(store.nodes["m2"].annotations[REMOVE], "false");
        assert!(!store.nodes["m2"].annotations.contains_key(REMOVED));
    }

    #[test]
    fn a_password_stays_behind_its_node_where_the_node_does_not_own_it() {
        let mut store = three();
        for (owns, then) in [(false, true), (true, false)] {
            store.register("a", Node::default()).unwrap();
            store.check_password("a", "one").unwrap();
            assert!(store.password_uid("a").is_some());
            store.delete_node("a", owns).unwrap();
            assert_eq!(store.check_password("a", "two").is_err(), then);
            store.passwords.remove("a");
        }
    }

    #[test]
    fn the_last_voter_stays() {
        let mut store = three();
        store.remove_member("m1-00000001").unwrap();
        store.remove_member("m2-00000002").unwrap();
        assert!(store.remove_member("m3-00000003").is_err());
    }
}
