//! The central service and the rest of the room, as far as this host meets them.
//!
//! Owns what they say now: role, epoch, lease, servers, tokens.

use std::sync::{Arc, OnceLock};

use edge_bootstrap::enrol::cache::{self, Stored};
use edge_bootstrap::enrol::credential;
use edge_bootstrap::sys::Root;
use edge_bootstrap::wire::secret::sha256_hex;
use serde_json::{Value, json};

use super::service::Signer;

/// CAs of the lives of the cluster, then that of another room.
pub fn ca_pem(epoch: u64) -> &'static str {
    static ALL: OnceLock<Vec<String>> = OnceLock::new();
    let all = ALL.get_or_init(|| (0..12).map(|_| one_ca()).collect());
    &all[usize::try_from(epoch).unwrap()]
}

pub const FOREIGN: u64 = 11;

fn one_ca() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap().pem()
}

pub fn ca_hash(epoch: u64) -> String {
    sha256_hex(ca_pem(epoch).as_bytes())
}

fn signer() -> Arc<Signer> {
    static SIGNER: OnceLock<Arc<Signer>> = OnceLock::new();
    Arc::clone(SIGNER.get_or_init(Signer::new))
}

/// What the service would say if it were asked.
#[derive(Debug, Clone)]
pub struct Central {
    pub generation: u64,
    pub role: &'static str,
    pub epoch: u64,
    /// The init lease is this host's.
    pub init: bool,
    pub is_formed: bool,
    /// Last parts of the addresses of the other servers.
    pub servers: Vec<u8>,
    pub token: u32,
}

pub const NAME: &str = "172-16-36-2";
pub const IP: &str = "172.16.36.2";

impl Central {
    fn payload(&self, node_id: &str) -> Value {
        let urls: Vec<String> =
            self.servers.iter().map(|last| format!("https://172.16.36.{last}:6443")).collect();
        let tokens = match self.role {
            "server" => {
                json!({"server_token": format!("server-{}", self.token), "agent_token": "agent-token-1"})
            }
            _ => json!({"agent_token": "agent-token-1"}),
        };
        let ca_hash = self.is_formed.then(|| ca_hash(self.epoch));
        let room: Vec<Value> = [1, 2, 3]
            .map(|last| json!({"name": format!("172-16-36-{last}"), "ip": format!("172.16.36.{last}"), "role": "server", "node_id": "a".repeat(26)}))
            .into();
        json!({
            "schema": 1, "node_id": node_id, "generation": self.generation, "issued_at": "2026-11-21T10:00:00Z",
            "site": "hz-017", "role": self.role, "join": tokens, "room": room,
            "node": {"name": NAME, "ip": IP, "labels": {}, "taints": []},
            "cluster": {"name": "hz-017", "epoch": self.epoch, "cluster_cidr": "10.253.0.0/16",
                "service_cidr": "10.254.0.0/16", "init": self.init && self.role == "server", "ca_hash": ca_hash,
                "servers": urls, "tls_san": []},
            "k3s": {"version": "v1.36.2+k3s1", "config": {}},
        })
    }

    /// Tells the host, as an answer of the service would; gives the digest of the
    /// assignment that is then confirmed.
    pub fn tell(&self, root: &Root) -> String {
        let node_id = credential::ensure(root).unwrap().node_id;
        let mut stored = cache::load(root, &node_id).unwrap().stored;
        stored.trust.claim(signer().key());
        stored.envelope = Some(signer().sign(&self.payload(&node_id.to_string())));
        cache::store(root, &Stored { statement: None, ..stored }).unwrap();
        cache::load(root, &node_id).unwrap().assignment.unwrap().digest
    }

    /// Whether the server at `url` is one of the room; its cluster is the newest.
    pub fn is_of_the_room(url: &str) -> bool {
        ["https://172.16.36.1:6443", "https://172.16.36.3:6443"].contains(&url)
    }
}
