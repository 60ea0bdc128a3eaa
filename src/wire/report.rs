//! `POST /v1/nodes/{id}/reports`: how a host is.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Phase of a host whose disk was copied from another machine. It has the
/// original's key, so nothing that it reports is about the original.
pub const QUARANTINED: &str = "quarantined";

/// What the host sends after a pass and from then on as told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Rises with every report of this host, also across boots.
    pub sequence: u64,
    /// The kernel's boot id.
    pub boot_id: String,
    /// Generation of the assignment in force; 0 when there is none.
    pub generation: u64,
    /// Epoch of the pinned identity; 0 when there is none.
    pub epoch: u64,
    /// Phase as in `status`.
    pub phase: String,
    /// `healthy`, `degraded`, `failed` or `unknown`.
    pub verdict: String,
    /// Findings that are not ok.
    #[serde(default)]
    pub findings: Vec<ReportedFinding>,
    /// Who this host is pinned as; absent before it is, and from versions that
    /// did not say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<ReportedNode>,
    /// What this host knows of its cluster.
    #[serde(default)]
    pub cluster: ReportedCluster,
    /// Program name to version, for example `k3s` to `v1.36.2+k3s1`.
    #[serde(default)]
    pub versions: BTreeMap<String, String>,
    /// Digest of the facts; the service asks for the whole when it changed.
    pub facts_digest: String,
    /// The host's clock.
    #[serde(default)]
    pub clock: ReportedClock,
}

/// One finding, without its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedFinding {
    /// Stable id of the check.
    pub id: String,
    /// `info`, `warn`, `fail` or `unknown`.
    pub status: String,
    /// `EB-…` code.
    pub code: String,
}

/// Who the host is pinned as. It may be behind its assignment: then what it says
/// of a cluster is about the one of this identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedNode {
    /// Node name.
    pub name: String,
    /// Node IP.
    pub ip: IpAddr,
    /// The machine room.
    pub site: String,
    /// Cluster name.
    pub cluster: String,
}

/// What the host knows of its cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedCluster {
    /// Hash of the cluster's CA, 64 hex digits, once the host joined.
    pub ca_hash: Option<String>,
    /// etcd member name, once the host joined as a server.
    pub etcd_member: Option<String>,
    /// Epoch for which this host started an initialisation.
    pub init_started: Option<u64>,
    /// The host cannot tell whether it started one: its record is damaged, or
    /// there is a datastore and no record. It then gives no init lease back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub init_unknown: bool,
    /// Snapshots on this host, each with the hash of its token.
    #[serde(default)]
    pub snapshots: Vec<ReportedSnapshot>,
    /// Of a server: what all servers must have alike, as its k3s was started
    /// with it, from key to value. No secret is among them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub critical: BTreeMap<String, String>,
    /// Of a server: node ids of its assignment's `cluster.retired` of which the
    /// cluster has nothing left, neither member nor Node nor password.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retired: Vec<String>,
}

/// One etcd snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedSnapshot {
    /// File name.
    pub name: String,
    /// SHA-256 of the file.
    pub sha256: String,
    /// SHA-256 of the server token that decrypts it.
    pub token_sha256: String,
}

/// The host's clock as the kernel sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedClock {
    /// RFC 3339 UTC.
    pub time: Option<String>,
    /// Whether the kernel says that the clock is synchronised.
    pub synchronized: Option<bool>,
}

/// Answer with status 200.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportAnswer {
    /// Newest generation that the service has for this host.
    pub generation: u64,
    /// Seconds until the next report.
    pub next_report_s: u64,
    /// The service's clock, RFC 3339 UTC.
    pub time: String,
}
