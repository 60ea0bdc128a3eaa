//! From an assignment's payload to a validated [`Assignment`].
//!
//! Owns the rules that words alone cannot express: which parts a role needs,
//! what an agent may never receive, which networks are well formed. Collects
//! every error before it says no. No I/O.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use thiserror::Error;

use super::networks;
use super::schedule::is_schedule;
use super::words::{Sha256Hex, TokenText, WordError};
use super::{
    Artifact, Assignment, Cluster, Duty, Join, K3s, Manifest, Mirror, Node, Retired, Role, RoomHost, Runtime,
    S3, Snapshots, Snapshotter,
};
use crate::wire::Secret;
use crate::wire::assignment as wire;
use crate::wire::fields;
use crate::wire::secret::{sha256_hex, without_credentials};

/// The schema of payloads that this version understands.
pub const SCHEMA: u32 = 1;

/// Everything that is wrong with a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignmentErrors(pub Vec<AssignmentError>);

impl fmt::Display for AssignmentErrors {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        write!(out, "assignment is not usable: {}", lines.join("; "))
    }
}

impl std::error::Error for AssignmentErrors {}

/// One thing that is wrong with a payload.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AssignmentError {
    /// Not JSON of the right shape.
    #[error("not an assignment: line {line}, column {column} is not what belongs there")]
    Shape {
        /// Line, from 1. serde's own words would quote the text, which may be a token.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// Another schema: the last good assignment stays in force.
    #[error("schema {0} is unknown to this version; upgrade edge-bootstrap")]
    Schema(u32),
    /// A role that this version does not know.
    #[error("role {0:?} is unknown to this version; upgrade edge-bootstrap")]
    Role(String),
    /// A field holds a word that breaks its rule.
    #[error("{field}: {error}")]
    Word {
        /// Path of the field.
        field: String,
        /// What is wrong.
        error: WordError,
    },
    /// A field breaks a rule of its own.
    #[error("{field}: {problem}")]
    Field {
        /// Path of the field.
        field: String,
        /// What is wrong and what would be right.
        problem: String,
    },
}

/// Parses signed payload bytes (JSON) and validates them.
///
/// # Errors
/// All errors of the payload at once.
pub fn parse_payload(bytes: &[u8]) -> Result<Assignment, AssignmentErrors> {
    let payload = fields::payload(bytes).map_err(|error| {
        AssignmentErrors(vec![AssignmentError::Shape { line: error.line(), column: error.column() }])
    })?;
    validate(&payload, sha256_hex(bytes))
}

/// Validates a payload; `digest` names its bytes.
///
/// # Errors
/// All errors of the payload at once.
pub fn validate(payload: &wire::Payload, digest: String) -> Result<Assignment, AssignmentErrors> {
    let mut check = Check::default();
    if payload.schema != SCHEMA {
        check.push(AssignmentError::Schema(payload.schema));
    }
    let role = check.role("role", &payload.role);
    let duty = match role {
        Some(Role::None) | None => None,
        Some(role) => check.duty(payload, role),
    };
    let node_id = payload.node_id.as_deref().and_then(|id| check.word("node_id", id));
    let site = check.word("site", &payload.site);
    let issued_at = check.time(payload.issued_at.as_deref());
    let room = payload.room.iter().enumerate().filter_map(|(i, host)| check.room_host(i, host)).collect();
    check.trust(&payload.trust);
    check.policy(&payload.policy);
    check.finish(site.map(|site| Assignment {
        node_id,
        generation: payload.generation,
        digest,
        issued_at,
        site,
        duty,
        room,
        trust: payload.trust.clone(),
        policy: payload.policy.clone(),
        ignored: payload.unknown.keys().cloned().collect(),
    }))
}

/// Collects errors while values are taken over.
#[derive(Default)]
struct Check {
    errors: Vec<AssignmentError>,
}

impl Check {
    fn push(&mut self, error: AssignmentError) {
        self.errors.push(error);
    }

    fn field(&mut self, field: &str, problem: impl Into<String>) {
        self.push(AssignmentError::Field { field: field.to_owned(), problem: problem.into() });
    }

    fn finish<T>(self, value: Option<T>) -> Result<T, AssignmentErrors> {
        match value {
            Some(value) if self.errors.is_empty() => Ok(value),
            _ => Err(AssignmentErrors(self.errors)),
        }
    }

    fn word<T: FromStr<Err = WordError>>(&mut self, field: &str, text: &str) -> Option<T> {
        match text.parse() {
            Ok(word) => Some(word),
            Err(error) => {
                self.push(AssignmentError::Word { field: field.to_owned(), error });
                None
            }
        }
    }

    fn words<T: FromStr<Err = WordError>>(&mut self, field: &str, texts: &[String]) -> Vec<T> {
        texts.iter().filter_map(|text| self.word(field, text)).collect()
    }

    fn role(&mut self, field: &str, text: &str) -> Option<Role> {
        match text {
            "server" => Some(Role::Server),
            "agent" => Some(Role::Agent),
            "none" => Some(Role::None),
            other => {
                let _ = field;
                self.push(AssignmentError::Role(other.chars().take(80).collect()));
                None
            }
        }
    }

    fn time(&mut self, text: Option<&str>) -> Option<u64> {
        let text = text?;
        let Ok(time) = humantime::parse_rfc3339_weak(text) else {
            self.field("issued_at", format!("{text:?} is not an RFC 3339 time"));
            return None;
        };
        time.duration_since(std::time::UNIX_EPOCH).ok().map(|since| since.as_secs())
    }

    fn part<'a, T>(&mut self, field: &str, role: Role, part: Option<&'a T>) -> Option<&'a T> {
        if part.is_none() {
            self.field(field, format!("is missing, and role {role} needs it"));
        }
        part
    }

    fn duty(&mut self, payload: &wire::Payload, role: Role) -> Option<Duty> {
        let node = self.part("node", role, payload.node.as_ref());
        let cluster = self.part("cluster", role, payload.cluster.as_ref());
        let k3s = self.part("k3s", role, payload.k3s.as_ref());
        let node = node.and_then(|node| self.node(node));
        let cluster = cluster.and_then(|cluster| self.cluster(cluster, role));
        let k3s = k3s.and_then(|k3s| self.k3s(k3s));
        if let (Role::Server, Some(node), Some(cluster)) = (role, &node, &cluster) {
            self.families(node.ip, cluster);
            for (field, problem) in k3s.iter().flat_map(|k3s| networks::problems(cluster, k3s)) {
                self.field(field, problem);
            }
        }
        let join = self.join(&payload.join, role);
        let runtime = self.runtime(&payload.runtime);
        let snapshots = payload.etcd.snapshots.as_ref().and_then(|snapshots| self.snapshots(snapshots));
        let manifests = self.manifests(&payload.manifests);
        Some(Duty { role, node: node?, cluster: cluster?, join, k3s: k3s?, runtime, snapshots, manifests })
    }

    fn node(&mut self, node: &wire::Node) -> Option<Node> {
        let name = self.word("node.name", &node.name);
        self.unicast("node.ip", node.ip);
        let mut labels = BTreeMap::new();
        for (key, value) in &node.labels {
            let field = format!("node.labels.{key}");
            if let (Some(key), Some(value)) = (self.word(&field, key), self.word(&field, value)) {
                labels.insert(key, value);
            }
        }
        let taints = self.words("node.taints", &node.taints);
        Some(Node { name: name?, ip: node.ip, labels, taints })
    }

    fn unicast(&mut self, field: &str, ip: IpAddr) {
        if ip.is_loopback() || ip.is_multicast() || ip.is_unspecified() {
            self.field(field, format!("{ip} cannot be the address of a node"));
        }
    }

    fn cluster(&mut self, cluster: &wire::Cluster, role: Role) -> Option<Cluster> {
        let name = self.word("cluster.name", &cluster.name);
        self.network("cluster.cluster_cidr", &cluster.cluster_cidr);
        self.network("cluster.service_cidr", &cluster.service_cidr);
        if cluster.epoch == 0 {
            self.field("cluster.epoch", "epochs begin at 1");
        }
        if role == Role::Agent && cluster.init {
            self.field("cluster.init", "an agent cannot hold the init lease");
        }
        let ca_hash: Option<Sha256Hex> =
            cluster.ca_hash.as_deref().and_then(|hash| self.word("cluster.ca_hash", hash));
        Some(Cluster {
            name: name?,
            epoch: cluster.epoch,
            cluster_cidr: cluster.cluster_cidr.clone(),
            service_cidr: cluster.service_cidr.clone(),
            init: cluster.init,
            ca_hash,
            servers: self.words("cluster.servers", &cluster.servers),
            tls_san: self.words("cluster.tls_san", &cluster.tls_san),
            retired: cluster.retired.iter().enumerate().filter_map(|(i, it)| self.retired(i, it)).collect(),
            rejoin: cluster.rejoin,
        })
    }

    fn retired(&mut self, index: usize, leaver: &wire::Retired) -> Option<Retired> {
        let field = |name: &str| format!("cluster.retired[{index}].{name}");
        let name = self.word(&field("name"), &leaver.name);
        let node_id = self.word(&field("node_id"), &leaver.node_id);
        let text = Some(leaver.etcd_member.as_str()).filter(|text| !text.is_empty());
        let member = text.map(|text| self.word(&field("etcd_member"), text));
        Some(Retired { name: name?, node_id: node_id?, member: member.unwrap_or_default() })
    }

    fn network(&mut self, field: &str, text: &str) {
        if crate::facts::network::Cidr::from_str(text).is_err() {
            self.field(field, format!("{text:?} is not a network like 10.253.0.0/16"));
        }
    }

    /// k3s exits where the networks and the node's address are not of one family
    /// (k3s: pkg/agent/run.go). An agent is told the networks by its server.
    fn families(&mut self, ip: IpAddr, cluster: &Cluster) {
        let networks = [
            ("cluster.cluster_cidr", &cluster.cluster_cidr),
            ("cluster.service_cidr", &cluster.service_cidr),
        ];
        for (field, text) in networks {
            let network = crate::facts::network::Cidr::from_str(text);
            if network.is_ok_and(|network| network.address.is_ipv4() != ip.is_ipv4()) {
                self.field(field, format!("{text} and node.ip {ip} must both be IPv4 or both be IPv6"));
            }
        }
    }

    fn join(&mut self, join: &wire::Join, role: Role) -> Join {
        if role == Role::Agent && join.server_token.is_some() {
            self.field("join.server_token", "an agent must never receive the server token");
        }
        let previous_server = self.token("join.previous_server_token", join.previous_server_token.as_ref());
        let server = self.token("join.server_token", join.server_token.as_ref());
        let agent = self.token("join.agent_token", join.agent_token.as_ref());
        match role {
            Role::Server if server.is_none() => self.field("join.server_token", "a server needs it"),
            Role::Agent if agent.is_none() => self.field("join.agent_token", "an agent needs it"),
            _ => {}
        }
        Join { server, agent, previous_server }
    }

    fn token(&mut self, field: &str, token: Option<&Secret>) -> Option<TokenText> {
        let token = token?;
        let word = token.expose().parse().ok();
        if word.is_none() {
            // The value is a secret: the rule is told, never the text.
            self.field(field, "is not a bare password: 1 to 512 printable characters without spaces or ':', in no form of k3s's own (K10..., or 6 and 16 characters around a dot)");
        }
        word
    }

    fn k3s(&mut self, k3s: &wire::K3s) -> Option<K3s> {
        let version = self.word::<super::K3sVersion>("k3s.version", &k3s.version);
        let mut artifacts = BTreeMap::new();
        for (arch, artifact) in &k3s.artifacts {
            let field = format!("k3s.artifacts.{arch}");
            if let Some(artifact) = self.artifact(&field, &artifact.urls, &artifact.sha256) {
                artifacts.insert(arch.clone(), artifact);
            }
        }
        let mut config = BTreeMap::new();
        for (key, value) in &k3s.config {
            if let Some(key) = self.word("k3s.config", key) {
                config.insert(key, value.clone());
            }
        }
        Some(K3s { version: version?, artifacts, config })
    }

    fn artifact(&mut self, field: &str, urls: &[String], sha256: &str) -> Option<Artifact> {
        let urls = self.words(field, urls);
        let sha256 = self.word(field, sha256);
        if urls.is_empty() {
            self.field(field, "names no usable URL");
        }
        Some(Artifact { urls, sha256: sha256? })
    }

    fn runtime(&mut self, runtime: &wire::Runtime) -> Runtime {
        let sandbox_image =
            runtime.sandbox_image.as_deref().and_then(|image| self.word("runtime.sandbox_image", image));
        let mirrors = runtime
            .mirrors
            .iter()
            .filter_map(|mirror| {
                let registry = self.word("runtime.mirrors.registry", &mirror.registry)?;
                Some(Mirror {
                    registry,
                    endpoints: self.words("runtime.mirrors.endpoints", &mirror.endpoints),
                })
            })
            .collect();
        let images = runtime
            .images
            .iter()
            .filter_map(|image| {
                self.artifact("runtime.images", std::slice::from_ref(&image.url), &image.sha256)
            })
            .collect();
        Runtime {
            snapshotter: self.snapshotter(runtime.snapshotter.as_deref()),
            sandbox_image,
            mirrors,
            images,
        }
    }

    fn snapshotter(&mut self, text: Option<&str>) -> Option<Snapshotter> {
        match text {
            None | Some("auto") => None,
            Some("overlayfs") => Some(Snapshotter::Overlayfs),
            Some("devmapper") => Some(Snapshotter::Devmapper),
            Some(other) => {
                self.field("runtime.snapshotter", format!("{other:?} is not auto, overlayfs or devmapper"));
                None
            }
        }
    }

    fn snapshots(&mut self, snapshots: &wire::Snapshots) -> Option<Snapshots> {
        let schedule = self.word("etcd.snapshots.schedule", &snapshots.schedule);
        if !is_schedule(&snapshots.schedule) {
            let problem = "is no schedule like \"0 */6 * * *\": k3s would take no snapshot, and not say so";
            self.field("etcd.snapshots.schedule", problem);
        }
        // k3s: pkg/etcd/snapshot.go, snapshotRetention.
        if snapshots.retention == 0 {
            let problem = "must be 1 or more: with 0 k3s keeps every snapshot, until the disk is full";
            self.field("etcd.snapshots.retention", problem);
        }
        let s3 = snapshots.s3.as_ref().and_then(|s3| self.s3(s3));
        Some(Snapshots { schedule: schedule?, retention: snapshots.retention, s3 })
    }

    fn s3(&mut self, s3: &wire::S3) -> Option<S3> {
        let optional = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let endpoint = self.word("etcd.snapshots.s3.endpoint", &s3.endpoint);
        let bucket = self.word("etcd.snapshots.s3.bucket", &s3.bucket);
        let folder = optional(&s3.folder).and_then(|text| self.word("etcd.snapshots.s3.folder", &text));
        let region = optional(&s3.region).and_then(|text| self.word("etcd.snapshots.s3.region", &text));
        let access_key = self.secret_line("etcd.snapshots.s3.access_key", &s3.access_key);
        let secret_key = self.secret_line("etcd.snapshots.s3.secret_key", &s3.secret_key);
        Some(S3 {
            endpoint: endpoint?,
            bucket: bucket?,
            folder,
            region,
            access_key: access_key?,
            secret_key: secret_key?,
        })
    }

    fn secret_line(&mut self, field: &str, secret: &Secret) -> Option<super::words::Line> {
        let line = secret.expose().parse().ok();
        if line.is_none() {
            self.field(field, "is not 1 to 1024 printable characters on one line");
        }
        line
    }

    fn manifests(&mut self, manifests: &[wire::Manifest]) -> Vec<Manifest> {
        let mut taken: Vec<Manifest> = Vec::new();
        for manifest in manifests {
            let Some(name) = self.word("manifests.name", &manifest.name) else { continue };
            if taken.iter().any(|one| one.name == name) {
                self.field("manifests.name", manifest.name.clone() + " is there twice");
            }
            taken.push(Manifest { name, content: manifest.content.clone() });
        }
        taken
    }

    fn room_host(&mut self, index: usize, host: &wire::RoomHost) -> Option<RoomHost> {
        let field = format!("room[{index}]");
        let name = self.word(&field, &host.name);
        let role = self.role(&field, &host.role);
        let node_id = self.word(&field, &host.node_id);
        Some(RoomHost { name: name?, ip: host.ip, role: role?, node_id: node_id? })
    }

    fn trust(&mut self, trust: &wire::Trust) {
        for endpoint in &trust.endpoints {
            if !endpoint.starts_with("https://") || endpoint.parse::<super::words::WebUrl>().is_err() {
                self.field(
                    "trust.endpoints",
                    format!("{:?} is not an https URL", without_credentials(endpoint)),
                );
            }
        }
        for key in &trust.signing_keys {
            if crate::wire::envelope::SigningKey::try_from(key.clone()).is_err() {
                self.field("trust.signing_keys", "is not 32 bytes in base64");
            }
        }
    }

    fn policy(&mut self, policy: &wire::Policy) {
        if let Some(repair) = &policy.repair
            && !["observe", "safe", "disruptive"].contains(&repair.as_str())
        {
            self.field("policy.repair", format!("{repair:?} is not observe, safe or disruptive"));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn payload() -> serde_json::Value {
        serde_json::json!({
            "schema": 1, "generation": 3, "site": "hz-017", "role": "agent",
            "node": {"name": "172-16-36-3", "ip": "172.16.36.3"},
            "cluster": {"name": "hz-017", "servers": ["https://172.16.36.1:6443"]},
            "join": {"agent_token": "agent-password"},
            "k3s": {"version": "v1.36.2+k3s1"},
        })
    }

    fn errors(payload: &serde_json::Value) -> String {
        parse_payload(payload.to_string().as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_small_assignment_is_accepted_with_defaults() {
        let assignment = parse_payload(payload().to_string().as_bytes()).unwrap();
        let duty = assignment.duty.unwrap();
        assert_eq!(duty.cluster.epoch, 1);
        assert_eq!(duty.cluster.cluster_cidr, "10.253.0.0/16");
    }

    #[test]
    fn all_errors_come_at_once() {
        let mut bad = payload();
        bad["site"] = "../etc".into();
        bad["node"]["name"] = "localhost".into();
        bad["join"]["agent_token"] = "".into();
        bad["k3s"]["version"] = "latest".into();
        bad["etcd"] = serde_json::json!({"snapshots": {"schedule": "every 6 hours", "retention": 0}});
        bad["node"]["labels"] = serde_json::json!({"node-role.kubernetes.io/worker": "true"});
        let text = errors(&bad);
        for field in [
            "site:",
            "node.name:",
            "node.labels.node-role.kubernetes.io/worker:",
            "join.agent_token:",
            "k3s.version:",
            "etcd.snapshots.schedule:",
            "etcd.snapshots.retention:",
        ] {
            assert!(text.contains(field), "{field} in {text}");
        }
    }

    #[test]
    fn the_networks_of_a_server_are_of_the_family_of_its_address() {
        let mut server = payload();
        server["role"] = "server".into();
        server["join"]["server_token"] = "server-password".into();
        server["node"]["ip"] = "fd00::7".into();
        server["cluster"]["service_cidr"] = "fd00:1::/112".into();
        let text = errors(&server);
        assert!(text.contains("cluster.cluster_cidr: 10.253.0.0/16 and node.ip fd00::7"), "{text}");
        assert!(!text.contains("service_cidr"), "{text}");
        server["cluster"]["cluster_cidr"] = "fd00:2::/48".into();
        parse_payload(server.to_string().as_bytes()).unwrap();
        let mut agent = payload();
        agent["node"]["ip"] = "fd00::7".into();
        parse_payload(agent.to_string().as_bytes()).unwrap();
    }

    #[test]
    fn an_agent_with_the_server_token_is_refused_without_telling_it() {
        let mut bad = payload();
        bad["join"]["server_token"] = "canary-password".into();
        let text = errors(&bad);
        assert!(text.contains("join.server_token"), "{text}");
        assert!(!text.contains("canary"), "{text}");
    }

    #[test]
    fn two_manifests_of_one_name_are_refused() {
        let mut bad = payload();
        let manifest = |name: &str| serde_json::json!({"name": name, "content": "a: b"});
        bad["manifests"] = [manifest("eb-a.yaml"), manifest("eb-b.yaml"), manifest("eb-a.yaml")].into();
        bad["site"] = "../etc".into();
        let text = errors(&bad);
        assert!(
            text.contains("manifests.name: eb-a.yaml is there twice") && text.contains("site:"),
            "{text}"
        );
        assert!(!text.contains("eb-b.yaml"), "{text}");
    }

    #[test]
    fn unknown_schema_and_role_are_refused() {
        let mut bad = payload();
        bad["schema"] = 2.into();
        bad["role"] = "witness".into();
        let text = errors(&bad);
        assert!(text.contains("schema 2") && text.contains("witness"), "{text}");
    }

    #[test]
    fn unknown_fields_are_noted_and_ignored() {
        let mut newer = payload();
        newer["sidecar"] = serde_json::json!({"x": 1});
        newer["node"]["lables"] = serde_json::json!({});
        let assignment = parse_payload(newer.to_string().as_bytes()).unwrap();
        assert_eq!(assignment.ignored, ["node.lables", "sidecar"]);
    }
}
