//! What an assignment says: from the state of a room to the payload.
//!
//! Owns the content, without number and date, so that equal content is equal
//! bytes. Pure. Every payload passes the host's own rules before it is signed.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use edge_bootstrap::plan::Refusal;
use edge_bootstrap::plan::keys::{self, Presence};
use edge_bootstrap::role::{self, AssignmentErrors, Role};
use edge_bootstrap::wire::MAX_ASSIGNMENT;
use edge_bootstrap::wire::assignment::{
    Artifact as WireArtifact, Cluster, Etcd, Join, K3s, Node as WireNode, Payload, RoomHost, Runtime,
};
use edge_bootstrap::wire::secret::sha256_hex;
use edge_bootstrap::wire::statement::Statement;
use serde_json::Value;
use thiserror::Error;

use crate::clock::{self, Seconds};
use crate::retire;
use crate::store::artifacts::Artifact;
use crate::store::nodes::{Node, NodeState};
use crate::store::retired::Retirement;
use crate::store::sites::Site;

/// Port of k3s's API on a server (k3s: pkg/cli/cmds/server.go, https-listen-port).
const API_PORT: u16 = 6443;

/// Why there is no assignment that could be signed.
#[derive(Debug, Error)]
pub enum AssignError {
    /// The site has no k3s version.
    #[error("site has no k3s version; `edge-central site set SITE --k3s-version VERSION` gives it one")]
    NoVersion,
    /// Hosts would refuse it.
    #[error("hosts would refuse the assignment; correct the site with `edge-central site set`")]
    Refused(#[from] AssignmentErrors),
    /// k3s of this version would not take `k3s.config`.
    #[error(transparent)]
    Keys(#[from] Refusal),
    /// Too large for the wire.
    #[error("assignment has {0} bytes, more than the 1 MiB that hosts take")]
    TooLarge(usize),
    /// It cannot be printed as JSON.
    #[error("print the assignment")]
    Print(#[from] serde_json::Error),
}

/// Everything of a room that its assignments are made of.
#[derive(Debug)]
pub struct Room<'a> {
    /// The site.
    pub site: &'a Site,
    /// All its nodes.
    pub nodes: &'a [Node],
    /// Hosts that have not left the cluster yet.
    pub leavers: &'a [Retirement],
    /// All artifacts of the service.
    pub artifacts: &'a [Artifact],
    /// URL under which hosts reach the service, without a slash at the end.
    pub public_url: &'a str,
}

impl Room<'_> {
    /// The content of the assignment of `node`, which has `role`.
    ///
    /// # Errors
    /// [`AssignError::NoVersion`].
    pub fn payload(&self, node: &Node, role: Role) -> Result<Payload, AssignError> {
        let settings = &self.site.settings;
        let k3s = if role == Role::None { None } else { Some(self.k3s(role)?) };
        Ok(Payload {
            schema: role::validate::SCHEMA,
            node_id: Some(node.id.clone()),
            generation: 0,
            issued_at: None,
            site: self.site.name.clone(),
            role: role.to_string(),
            node: Some(identity(node)),
            cluster: Some(self.cluster(node, role)),
            join: self.join(role),
            k3s,
            runtime: self.runtime(),
            etcd: Etcd { snapshots: if role == Role::Server { settings.snapshots.clone() } else { None } },
            manifests: if role == Role::Server { settings.manifests.clone() } else { Vec::new() },
            room: self.others(node).filter_map(room_host).collect(),
            trust: settings.trust.clone(),
            policy: settings.policy.clone(),
            unknown: BTreeMap::new(),
        })
    }

    /// The bytes of the site's statement: what its hosts may tell each other.
    ///
    /// # Errors
    /// [`AssignError::Print`].
    pub fn statement(&self, now: Seconds) -> Result<Vec<u8>, AssignError> {
        let Site { name, settings, epoch, .. } = self.site;
        let statement = Statement::new(name, &settings.cluster_name, *epoch, clock::rfc3339(now));
        Ok(serde_json::to_vec(&statement)?)
    }

    /// Other claimed nodes, in the order in which they got their roles.
    fn others(&self, node: &Node) -> impl Iterator<Item = &Node> {
        let id = node.id.clone();
        let mut others: Vec<&Node> =
            self.nodes.iter().filter(|other| other.state == NodeState::Claimed && other.id != id).collect();
        others.sort_by_key(|other| (other.role_order, other.ordinal));
        others.into_iter()
    }

    fn cluster(&self, node: &Node, role: Role) -> Cluster {
        let (site, settings) = (self.site, &self.site.settings);
        // One that waits for its predecessor to leave is no server yet.
        let serves =
            |other: &&Node| other.role == Some(Role::Server) && !retire::is_held(self.leavers, other);
        let servers = self.others(node).filter(serves);
        Cluster {
            name: settings.cluster_name.clone(),
            epoch: site.epoch,
            cluster_cidr: settings.cluster_cidr.clone(),
            service_cidr: settings.service_cidr.clone(),
            init: role == Role::Server && site.ca_hash.is_none() && site.lease.as_ref() == Some(&node.id),
            ca_hash: site.ca_hash.clone(),
            servers: servers.map(|other| server_url(other.ip)).collect(),
            tls_san: settings.tls_san.clone(),
            restore: None,
            retired: if role == Role::Server { retire::listed(self.leavers) } else { Vec::new() },
            rejoin: node.rejoin,
        }
    }

    /// An agent never receives the server token.
    fn join(&self, role: Role) -> Join {
        let server_token = (role == Role::Server).then(|| self.site.server_token.clone());
        let agent_token = (role != Role::None).then(|| self.site.agent_token.clone());
        let previous = self.site.previous_server_token.clone();
        Join { server_token, agent_token, previous_server_token: previous.filter(|_| role == Role::Server) }
    }

    fn k3s(&self, role: Role) -> Result<K3s, AssignError> {
        let settings = &self.site.settings;
        let version = settings.k3s_version.clone().ok_or(AssignError::NoVersion)?;
        let files = self.artifacts.iter().filter(|file| file.name == "k3s" && file.version == version);
        let artifacts = files.map(|file| (file.arch.clone(), self.artifact(file))).collect();
        let config = config_for(&settings.k3s_config, &version, role);
        Ok(K3s { version, artifacts, config })
    }

    fn artifact(&self, file: &Artifact) -> WireArtifact {
        let url = format!("{}/v1/artifacts/{}/{}", self.public_url, file.sha256, file.name);
        WireArtifact { urls: vec![url], sha256: file.sha256.clone() }
    }

    fn runtime(&self) -> Runtime {
        let settings = &self.site.settings;
        Runtime {
            snapshotter: settings.snapshotter.clone(),
            sandbox_image: settings.sandbox_image.clone(),
            mirrors: settings.mirrors.clone(),
            images: settings.images.clone(),
        }
    }
}

/// A site has one `k3s.config`: what only the other role knows stays with it,
/// because an agent would end at a server's key.
fn config_for(config: &BTreeMap<String, Value>, version: &str, role: Role) -> BTreeMap<String, Value> {
    let Ok(version) = version.parse() else { return config.clone() };
    let keys = keys::of(&version);
    let is_for = |key: &str| !matches!(keys.find(key, role), Presence::OtherRole(_));
    let kept = config.iter().filter(|(key, _)| is_for(key));
    kept.map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn identity(node: &Node) -> WireNode {
    WireNode { name: node.name.clone(), ip: node.ip, labels: BTreeMap::new(), taints: Vec::new() }
}

fn room_host(node: &Node) -> Option<RoomHost> {
    let role = node.role?.to_string();
    Some(RoomHost { name: node.name.clone(), ip: node.ip, role, node_id: node.id.clone() })
}

fn server_url(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => format!("https://{ip}:{API_PORT}"),
        IpAddr::V6(ip) => format!("https://[{ip}]:{API_PORT}"),
    }
}

/// Names the content of a payload whose number and date are not set.
///
/// # Errors
/// [`AssignError::Print`].
pub fn digest(payload: &Payload) -> Result<String, AssignError> {
    Ok(sha256_hex(&serde_json::to_vec(payload)?))
}

/// The bytes to sign: the payload with number and date, as hosts will accept it.
///
/// # Errors
/// [`AssignError`] when hosts would refuse it.
pub fn bytes(mut payload: Payload, generation: u64, now: Seconds) -> Result<Vec<u8>, AssignError> {
    payload.generation = generation;
    payload.issued_at = Some(clock::rfc3339(now));
    let bytes = serde_json::to_vec(&payload)?;
    role::parse_payload(&bytes)?;
    // The envelope is base64: four bytes for three. The statement stands beside it.
    let size = bytes.len().div_ceil(3) * 4 + 1024;
    if size > MAX_ASSIGNMENT {
        return Err(AssignError::TooLarge(size));
    }
    Ok(bytes)
}

/// Checks that hosts would accept what the settings of `site` lead to.
///
/// # Errors
/// [`AssignError`] with everything that is wrong.
pub fn check(site: &Site, artifacts: &[Artifact], public_url: &str) -> Result<(), AssignError> {
    // Some host of the site; its address is of the family of its networks (RFC 5737, RFC 3849).
    let ip = if site.settings.cluster_cidr.contains(':') {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))
    } else {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))
    };
    let node = Node::new(&"a".repeat(26), &site.name, ("192-0-2-1", ip), 0);
    let room = Room { site, nodes: &[], leavers: &[], artifacts, public_url };
    for role in [Role::Server, Role::Agent] {
        let bytes = bytes(room.payload(&node, role)?, 1, 0)?;
        let Some(duty) = role::parse_payload(&bytes)?.duty else { continue };
        keys_fit(&duty.k3s, role)?;
    }
    Ok(())
}

/// What needs a host's permission is that host's to say, and passes here.
fn keys_fit(k3s: &role::K3s, role: Role) -> Result<(), Refusal> {
    keys::supported(&k3s.version)?;
    let allowed: Vec<String> = k3s.config.keys().map(ToString::to_string).collect();
    keys::assigned((&k3s.version, role), &k3s.config, &allowed).map(drop)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::testing::{node, site};

    fn server(number: u8) -> Node {
        Node { role: Some(Role::Server), role_order: i64::from(number), ..node(number) }
    }

    fn payload(site: &Site, nodes: &[Node], role: Role) -> Payload {
        let room = Room { site, nodes, leavers: &[], artifacts: &[], public_url: "https://central:8443" };
        room.payload(&nodes[0], role).unwrap()
    }

    #[test]
    fn an_agent_never_receives_the_server_token() {
        for role in [Role::Agent, Role::None] {
            let bytes = bytes(payload(&site(), &[node(1), server(2)], role), 1, 0).unwrap();
            assert!(!String::from_utf8(bytes).unwrap().contains("server-canary"));
        }
    }

    #[test]
    fn servers_are_the_others_in_the_order_of_their_roles() {
        let payload = payload(&site(), &[server(3), server(2), server(1)], Role::Server);
        assert_eq!(
            payload.cluster.unwrap().servers,
            ["https://172.16.36.1:6443", "https://172.16.36.2:6443"]
        );
    }

    #[test]
    fn servers_are_told_who_leaves_and_not_of_whom_comes_in_its_place() {
        let (site, nodes) = (site(), [server(1), server(2), server(3)]);
        let formed = Site { ca_hash: Some("a".repeat(64)), ..site.clone() };
        let mut gone = Node { generation: 1, ..server(4) };
        gone.reported.etcd_member = Some("172-16-36-4-0000000a".to_owned());
        let leavers = [retire::order(&formed, &gone, Some(&nodes[1]), 0).unwrap()];
        let room = Room {
            site: &formed,
            nodes: &nodes,
            leavers: &leavers,
            artifacts: &[],
            public_url: "https://c:1",
        };
        let cluster = room.payload(&nodes[0], Role::Server).unwrap().cluster.unwrap();
        assert_eq!(cluster.servers, ["https://172.16.36.3:6443"]);
        let told: Vec<_> =
            cluster.retired.iter().map(|it| (it.name.as_str(), it.etcd_member.as_str())).collect();
        assert_eq!(told, [("172-16-36-4", "172-16-36-4-0000000a")]);
        assert!(room.payload(&nodes[0], Role::Agent).unwrap().cluster.unwrap().retired.is_empty());
        let bytes = bytes(room.payload(&nodes[0], Role::Server).unwrap(), 1, 0).unwrap();
        assert_eq!(role::parse_payload(&bytes).unwrap().duty.unwrap().cluster.retired.len(), 1);
    }

    #[test]
    fn only_the_holder_of_the_lease_initialises_and_only_until_it_joined() {
        let leased = Site { lease: Some(node(1).id), ..site() };
        let joined = Site { ca_hash: Some("a".repeat(64)), ..leased.clone() };
        let init = |site: &Site, nodes: &[Node]| payload(site, nodes, Role::Server).cluster.unwrap().init;
        assert!(init(&leased, &[server(1)]));
        assert!(!init(&leased, &[server(2), server(1)]));
        assert!(!init(&joined, &[server(1)]));
    }

    #[test]
    fn artifacts_of_the_version_come_from_this_service() {
        let file = |version: &str| Artifact {
            sha256: "b".repeat(64),
            name: "k3s".to_owned(),
            version: version.to_owned(),
            arch: "amd64".to_owned(),
            size: 1,
            added_at: 0,
        };
        let (site, nodes, artifacts) = (site(), [server(1)], [file("v1.36.2+k3s1"), file("v1.35.0+k3s1")]);
        let room = Room {
            site: &site,
            nodes: &nodes,
            leavers: &[],
            artifacts: &artifacts,
            public_url: "https://central:8443",
        };
        let k3s = room.payload(&nodes[0], Role::Server).unwrap().k3s.unwrap();
        let expected = format!("https://central:8443/v1/artifacts/{}/k3s", "b".repeat(64));
        assert_eq!(k3s.artifacts["amd64"].urls, [expected]);
    }

    #[test]
    fn keys_of_servers_reach_servers_only_and_a_mistyped_one_nobody() {
        let mut site = site();
        let set = |site: &mut Site, key: &str| {
            site.settings.k3s_config.insert(key.to_owned(), Value::from("cluster.local"));
        };
        set(&mut site, "cluster-domain");
        let config = |role| payload(&site, &[server(1)], role).k3s.unwrap().config;
        assert_eq!(config(Role::Server).len(), 1);
        assert!(config(Role::Agent).is_empty());
        assert!(check(&site, &[], "https://central:8443").is_ok());
        set(&mut site, "cluster-domian");
        let told = check(&site, &[], "https://central:8443").unwrap_err().to_string();
        assert!(told.contains("did you mean cluster-domain"), "{told}");
    }

    #[test]
    fn networks_that_servers_cannot_start_with_are_refused_when_they_are_set() {
        let with = |cluster: &str, service: &str| {
            let mut site = site();
            site.settings.cluster_cidr = cluster.to_owned();
            site.settings.service_cidr = service.to_owned();
            check(&site, &[], "https://central:8443").map_err(|error| format!("{error:?}"))
        };
        let told = with("10.253.0.0/25", "10.254.0.0/29").unwrap_err();
        assert!(told.contains("cluster.cluster_cidr") && told.contains("cluster.service_cidr"), "{told}");
        with("fd00:2::/48", "fd00:1::/112").unwrap();
        with("fd00:2::/48", "10.254.0.0/16").unwrap_err();
    }

    #[test]
    fn a_statement_holds_no_token() {
        let (site, nodes) = (Site { epoch: 7, ..site() }, [server(1)]);
        let room = Room {
            site: &site,
            nodes: &nodes,
            leavers: &[],
            artifacts: &[],
            public_url: "https://central:8443",
        };
        let text = String::from_utf8(room.statement(0).unwrap()).unwrap();
        assert!(text.contains("\"epoch\":7") && !text.contains("canary"), "{text}");
    }

    #[test]
    fn what_hosts_would_refuse_is_not_signed() {
        let mut site = site();
        site.settings.cluster_cidr = "10.253.0.0".to_owned();
        let payload = payload(&site, &[server(1)], Role::Server);
        assert!(matches!(bytes(payload, 1, 0), Err(AssignError::Refused(_))));
    }
}
