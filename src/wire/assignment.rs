//! The payload of an assignment, as it is signed (DESIGN 7).
//!
//! Owns the shape only. Strings are unchecked here; [`crate::role`] turns a
//! payload into an `Assignment` whose words are safe to use in paths, units
//! and files.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Secret;

/// What a host shall be. The same document as TOML is the local assignment file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Payload {
    /// 1; another value is refused.
    pub schema: u32,
    /// Absent in a local file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// Rises with every change; absent in a local file, whose digest serves.
    #[serde(default)]
    pub generation: u64,
    /// RFC 3339 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_at: Option<String>,
    /// The machine room.
    pub site: String,
    /// `server`, `agent` or `none`; another value is refused.
    pub role: String,
    /// Name and address of the node; absent only with role `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Node>,
    /// The cluster; absent only with role `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Cluster>,
    /// Join tokens, bare passwords.
    #[serde(default)]
    pub join: Join,
    /// Version, artifacts and free-form configuration; absent only with role `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k3s: Option<K3s>,
    /// Container runtime.
    #[serde(default)]
    pub runtime: Runtime,
    /// etcd snapshots.
    #[serde(default)]
    pub etcd: Etcd,
    /// Files for the room's one manifest writer.
    #[serde(default)]
    pub manifests: Vec<Manifest>,
    /// The other hosts of the room.
    #[serde(default)]
    pub room: Vec<RoomHost>,
    /// Who may sign and serve from now on.
    #[serde(default)]
    pub trust: Trust,
    /// What the agent may do by itself.
    #[serde(default)]
    pub policy: Policy,
    /// Fields of a newer schema revision: ignored, with a note.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, Value>,
}

/// `node`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Node {
    /// Node name.
    pub name: String,
    /// Node IP.
    pub ip: IpAddr,
    /// Node labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Node taints, `key=value:Effect`.
    #[serde(default)]
    pub taints: Vec<String>,
}

/// `cluster`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cluster {
    /// Cluster name.
    pub name: String,
    /// Number of the datastore's life.
    #[serde(default = "first_epoch")]
    pub epoch: u64,
    /// Pod network.
    #[serde(default = "default_cluster_cidr")]
    pub cluster_cidr: String,
    /// Service network.
    #[serde(default = "default_service_cidr")]
    pub service_cidr: String,
    /// This host holds the init lease.
    #[serde(default)]
    pub init: bool,
    /// Hash of the cluster's CA, 64 hex digits, once it is known.
    #[serde(default)]
    pub ca_hash: Option<String>,
    /// URLs of the *other* servers.
    #[serde(default)]
    pub servers: Vec<String>,
    /// Further names and addresses for the serving certificate.
    #[serde(default)]
    pub tls_san: Vec<String>,
    /// Restore this snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Restore>,
    /// Members that shall leave.
    #[serde(default)]
    pub retired: Vec<Retired>,
    /// A joined identity may change in this assignment.
    #[serde(default)]
    pub rejoin: bool,
}

fn first_epoch() -> u64 {
    1
}

fn default_cluster_cidr() -> String {
    "10.253.0.0/16".to_owned()
}

fn default_service_cidr() -> String {
    "10.254.0.0/16".to_owned()
}

/// `cluster.restore`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Restore {
    /// File name of the snapshot.
    pub snapshot: String,
    /// SHA-256 of the snapshot.
    pub sha256: String,
    /// The server token of that day.
    pub token: Secret,
}

/// One entry of `cluster.retired`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Retired {
    /// Node name.
    pub name: String,
    /// Node id.
    pub node_id: String,
    /// etcd member name; empty for an agent.
    #[serde(default)]
    pub etcd_member: String,
}

/// `join`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Join {
    /// Password of the server token. An agent never receives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_token: Option<Secret>,
    /// Password of the agent token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_token: Option<Secret>,
    /// The server token before the last rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_server_token: Option<Secret>,
}

/// `k3s`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct K3s {
    /// For example `v1.36.2+k3s1`.
    pub version: String,
    /// By architecture: `amd64`, `arm64`.
    #[serde(default)]
    pub artifacts: BTreeMap<String, Artifact>,
    /// Further k3s keys, checked against the allow list.
    #[serde(default)]
    pub config: BTreeMap<String, Value>,
}

/// A file by digest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Artifact {
    /// Tried in order; `file:` is allowed.
    pub urls: Vec<String>,
    /// SHA-256, 64 hex digits.
    pub sha256: String,
}

/// `runtime`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Runtime {
    /// `auto`, `overlayfs` or `devmapper`; absent means `auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshotter: Option<String>,
    /// Pause image; absent means containerd's own default.
    #[serde(default)]
    pub sandbox_image: Option<String>,
    /// Registry mirrors.
    #[serde(default)]
    pub mirrors: Vec<Mirror>,
    /// Archives to import.
    #[serde(default)]
    pub images: Vec<Image>,
}

/// One entry of `runtime.mirrors`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mirror {
    /// Registry host, with its port when it has one.
    pub registry: String,
    /// Mirror URLs, tried in order before the registry itself.
    pub endpoints: Vec<String>,
}

/// One entry of `runtime.images`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Image {
    /// Where the archive is.
    pub url: String,
    /// SHA-256 of the archive.
    pub sha256: String,
}

/// `etcd`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Etcd {
    /// Scheduled snapshots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<Snapshots>,
}

/// `etcd.snapshots`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Snapshots {
    /// Cron expression.
    pub schedule: String,
    /// How many are kept.
    pub retention: u32,
    /// Where copies go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3>,
}

/// `etcd.snapshots.s3`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct S3 {
    /// Host and port.
    pub endpoint: String,
    /// Bucket.
    pub bucket: String,
    /// Folder in the bucket.
    #[serde(default)]
    pub folder: String,
    /// Region.
    #[serde(default)]
    pub region: String,
    /// Access key.
    pub access_key: Secret,
    /// Secret key.
    pub secret_key: Secret,
}

/// One entry of `manifests`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// `eb-….yaml`.
    pub name: String,
    /// YAML.
    pub content: String,
}

/// One entry of `room`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RoomHost {
    /// Node name.
    pub name: String,
    /// Node IP.
    pub ip: IpAddr,
    /// `server`, `agent` or `none`.
    pub role: String,
    /// Node id.
    pub node_id: String,
}

/// `trust`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// Further pins, `sha256/BASE64`.
    #[serde(default)]
    pub pins: Vec<String>,
    /// Further signing keys, base64.
    #[serde(default)]
    pub signing_keys: Vec<String>,
    /// Further endpoints.
    #[serde(default)]
    pub endpoints: Vec<String>,
}

/// `policy`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// `observe`, `safe` or `disruptive`; absent means the local setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<String>,
}
