//! `POST /v1/claims`: a host asks for its place.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Secret;

/// What the host sends. Idempotent: the service knows the host by its key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClaimRequest {
    /// [`super::PROTOCOL`].
    pub protocol: u32,
    /// Version of this program.
    pub agent_version: String,
    /// The machine room.
    pub site: String,
    /// Absent once the token was deleted after a claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrol_token: Option<Secret>,
    /// The kernel's boot id.
    pub boot_id: String,
    /// What the host's own settings propose.
    pub node: ProposedNode,
    /// The host's facts, as `facts --json` prints them.
    pub facts: serde_json::Value,
}

/// Name and address that the local settings propose; the assignment decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProposedNode {
    /// Node name.
    pub name: String,
    /// Node IP.
    pub ip: IpAddr,
}

/// Answer with status 200 or 202.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum ClaimAnswer {
    /// 200: the host has its place.
    Claimed {
        /// Node id as the service computed it from the key.
        node_id: String,
        /// Ed25519 public key that signs assignments: 32 raw bytes, base64.
        signing_key: String,
        /// The service's clock, RFC 3339 UTC.
        time: String,
    },
    /// 202: a person must approve.
    Pending {
        /// Node id as the service computed it from the key.
        node_id: String,
        /// Shown on console and in `status`, told to the approver.
        code: String,
        /// `approval` or `replaces`.
        reason: String,
        /// The node that this host would replace.
        of: Option<String>,
        /// Seconds until the next try.
        retry_after: u64,
        /// The service's clock, RFC 3339 UTC.
        time: String,
    },
}
