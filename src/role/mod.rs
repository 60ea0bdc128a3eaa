//! What a host shall be: the validated form of an assignment.
//!
//! Owns [`Role`] and [`Assignment`]. Everything in an `Assignment` is safe to
//! write into paths, unit files and configuration; all errors of a payload are
//! reported at once. No I/O.

mod networks;
pub mod schedule;
pub mod validate;
pub mod version;
pub mod words;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use validate::{AssignmentErrors, parse_payload, validate};
pub use version::K3sVersion;
use words::{
    AltName, ArtifactUrl, ConfigKey, ImageRef, LabelKey, LabelValue, Line, ManifestName, MemberName, NodeId,
    NodeName, Registry, ServerUrl, Sha256Hex, SiteName, Taint, TokenText, WebUrl,
};

use crate::wire::assignment::{Policy, Trust};

/// What a host does in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Control plane, etcd and node.
    Server,
    /// Node only.
    Agent,
    /// Claimed, but runs nothing.
    None,
}

impl fmt::Display for Role {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Server => "server",
            Self::Agent => "agent",
            Self::None => "none",
        })
    }
}

/// A validated assignment.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// Whom it is for; absent in a local file.
    pub node_id: Option<NodeId>,
    /// Rises with every change; 0 in a local file.
    pub generation: u64,
    /// SHA-256 of the payload bytes: tells two assignments apart.
    pub digest: String,
    /// Seconds since 1970 when it was signed; absent in a local file.
    pub issued_at: Option<u64>,
    /// The machine room.
    pub site: SiteName,
    /// What to run; absent for role `none`.
    pub duty: Option<Duty>,
    /// The other hosts of the room.
    pub room: Vec<RoomHost>,
    /// Who may sign and serve from now on.
    pub trust: Trust,
    /// What the agent may do by itself.
    pub policy: Policy,
    /// Fields that this version does not know: ignored, with a note.
    pub ignored: Vec<String>,
}

impl Assignment {
    /// The role.
    #[must_use]
    pub fn role(&self) -> Role {
        self.duty.as_ref().map_or(Role::None, |duty| duty.role)
    }
}

/// Everything that a node with a role needs.
#[derive(Debug, Clone)]
pub struct Duty {
    /// `Server` or `Agent`, never `None`.
    pub role: Role,
    /// Name and address.
    pub node: Node,
    /// The cluster to be in.
    pub cluster: Cluster,
    /// Join passwords.
    pub join: Join,
    /// k3s's version, files and free-form keys.
    pub k3s: K3s,
    /// Container runtime.
    pub runtime: Runtime,
    /// Scheduled etcd snapshots.
    pub snapshots: Option<Snapshots>,
    /// Files for the room's one manifest writer.
    pub manifests: Vec<Manifest>,
}

/// Name, address, labels and taints of the Node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Node name and hostname.
    pub name: NodeName,
    /// Node IP.
    pub ip: IpAddr,
    /// Labels.
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// Taints.
    pub taints: Vec<Taint>,
}

/// The cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its name.
    pub name: SiteName,
    /// Number of the datastore's life, from 1.
    pub epoch: u64,
    /// Pod network in CIDR form.
    pub cluster_cidr: String,
    /// Service network in CIDR form.
    pub service_cidr: String,
    /// This host holds the init lease.
    pub init: bool,
    /// Hash of the cluster's CA, once known.
    pub ca_hash: Option<Sha256Hex>,
    /// The other servers.
    pub servers: Vec<ServerUrl>,
    /// Further names for the serving certificate.
    pub tls_san: Vec<AltName>,
    /// Members that shall leave.
    pub retired: Vec<Retired>,
    /// A joined identity may change.
    pub rejoin: bool,
}

/// A host whose Node and member shall leave the cluster: it is gone for good, or
/// has lost its disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retired {
    /// Node name.
    pub name: NodeName,
    /// Node id: of the key that it had.
    pub node_id: NodeId,
    /// Full etcd member name as it reported it; absent for an agent.
    pub member: Option<MemberName>,
}

/// Join passwords, bare.
#[derive(Clone)]
pub struct Join {
    /// Server password; never given to an agent.
    pub server: Option<TokenText>,
    /// Agent password.
    pub agent: Option<TokenText>,
    /// Server password before the last rotation.
    pub previous_server: Option<TokenText>,
}

impl fmt::Debug for Join {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Join(secret)")
    }
}

/// k3s's version, files and free-form keys.
#[derive(Debug, Clone)]
pub struct K3s {
    /// Version to run.
    pub version: K3sVersion,
    /// Binary by architecture (`amd64`, `arm64`).
    pub artifacts: BTreeMap<String, Artifact>,
    /// Further keys; the plan checks them against its allow list.
    pub config: BTreeMap<ConfigKey, Value>,
}

/// A file by digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Tried in order.
    pub urls: Vec<ArtifactUrl>,
    /// SHA-256.
    pub sha256: Sha256Hex,
}

/// Container runtime.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// Wanted snapshotter; absent means that the agent decides.
    pub snapshotter: Option<Snapshotter>,
    /// Pause image.
    pub sandbox_image: Option<ImageRef>,
    /// Registry mirrors.
    pub mirrors: Vec<Mirror>,
    /// Archives to import.
    pub images: Vec<Artifact>,
}

/// containerd's snapshotter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Snapshotter {
    /// Overlay mounts.
    Overlayfs,
    /// Device-mapper thin pool.
    Devmapper,
}

impl fmt::Display for Snapshotter {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Overlayfs => "overlayfs",
            Self::Devmapper => "devmapper",
        })
    }
}

/// One registry's mirrors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The registry.
    pub registry: Registry,
    /// Tried in order before the registry itself.
    pub endpoints: Vec<WebUrl>,
}

/// Scheduled etcd snapshots.
#[derive(Clone)]
pub struct Snapshots {
    /// Cron expression.
    pub schedule: Line,
    /// How many are kept.
    pub retention: u32,
    /// Where copies go.
    pub s3: Option<S3>,
}

impl fmt::Debug for Snapshots {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Snapshots({}, keep {})", self.schedule, self.retention)
    }
}

/// Object storage for snapshots. The keys are secret.
#[derive(Clone)]
pub struct S3 {
    /// Host and port.
    pub endpoint: Line,
    /// Bucket.
    pub bucket: Line,
    /// Folder, when there is one.
    pub folder: Option<Line>,
    /// Region, when there is one.
    pub region: Option<Line>,
    /// Access key.
    pub access_key: Line,
    /// Secret key.
    pub secret_key: Line,
}

impl fmt::Debug for S3 {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "S3({}/{}, keys secret)", self.endpoint, self.bucket)
    }
}

/// A manifest file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// File name.
    pub name: ManifestName,
    /// YAML text.
    pub content: String,
}

/// Another host of the room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomHost {
    /// Node name.
    pub name: NodeName,
    /// Node IP.
    pub ip: IpAddr,
    /// Role.
    pub role: Role,
    /// Node id.
    pub node_id: NodeId,
}
