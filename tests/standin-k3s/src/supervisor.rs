//! Owns what a server answers on 6443: the supervisor's paths (k3s:
//! pkg/server/handlers/router.go) and the stand-in's own paths below `/standin/` for joins and kubelets.
//! Kubernetes objects are in `api`.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::api;
use crate::cluster::{Cluster, Message, guard};
use crate::files;
use crate::http::{Reply, Request};
use crate::listen::Caller;
use crate::paths::DataDir;
use crate::pki::{self, Leaf, Pair};
use crate::server::OTHER_TOKEN;
use crate::store::{self, Node};
use crate::tls::ClientCheck;

/// How far a server has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Listener only.
    Starting = 0,
    /// etcd has a majority and this host a vote.
    Datastore = 1,
    /// The API answers.
    Ready = 2,
}

/// What handlers share.
pub struct Supervisor {
    /// The datastore.
    pub cluster: Arc<Cluster>,
    /// Signs serving certificates; its file is what tokens pin.
    pub server_ca: Pair,
    /// Signs client certificates.
    pub client_ca: Pair,
    /// Judges client certificates.
    pub check: ClientCheck,
    /// Password of the server token at the start: who asks shows this one until the
    /// next start (k3s: pkg/authenticator).
    pub server_password: String,
    /// The one that it holds now.
    pub held_password: Mutex<String>,
    /// Password of the agent token, or the server's.
    pub node_password: String,
    /// Where its tokens are written.
    pub data: DataDir,
    /// `cluster-cidr` and the other shared settings of this server.
    pub critical: std::collections::BTreeMap<String, String>,
    /// Name of this server's node.
    pub node_name: String,
    /// See `Phase`.
    pub phase: AtomicU8,
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervisor").finish_non_exhaustive()
    }
}

/// A server asks to become a member.
#[derive(Debug, Serialize, Deserialize)]
pub struct MemberRequest {
    /// Node name.
    pub node: String,
    /// Member name, `<node>-<8 hex>`.
    pub name: String,
    /// `https://IP:2380`.
    pub peer_url: String,
}

/// What a kubelet needs to start.
#[derive(Serialize, Deserialize)]
pub struct NodeCerts {
    /// Client certificate and key, PEM.
    pub client: (String, String),
    /// Serving certificate and key, PEM.
    pub serving: (String, String),
    /// CA of clients, PEM.
    pub client_ca: String,
    /// CA of servers, PEM.
    pub server_ca: String,
}

/// A kubelet's word about its runtime.
#[derive(Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Runtime answers.
    pub ready: bool,
    /// Why not.
    pub message: String,
}

/// Who a request comes from, after its proof was checked.
enum Proof {
    Server,
    Node,
    Kubelet(String),
}

impl Supervisor {
    /// The phase now.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::SeqCst) {
            0 => Phase::Starting,
            1 => Phase::Datastore,
            _ => Phase::Ready,
        }
    }

    /// Enters a phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::SeqCst);
    }

    /// Everything on 6443.
    pub fn handle(&self, caller: &Caller, request: &Request) -> Reply {
        let path = request.path.as_str();
        match (request.method.as_str(), path) {
            ("GET", "/ping") => Reply::text(200, "pong"),
            ("GET", "/cacerts") => Reply::text(200, &self.server_ca.cert),
            ("GET", "/db/info") => self.db_info(caller, request),
            _ if path.starts_with("/v1-k3s/") => self.supervise(caller, request),
            _ if path.starts_with("/standin/") => self.own(caller, request),
            _ => api::handle(self, caller, request),
        }
    }

    /// Everything on 2380: only members with a certificate of our CA.
    pub fn handle_peer(&self, caller: &Caller, request: &Request) -> Reply {
        let peer = self.check.identify(&caller.certs).is_some_and(|(name, _)| name == "etcd-peer");
        match serde_json::from_slice::<Message>(&request.body) {
            _ if !peer => Reply::text(401, "tls: bad certificate"),
            Ok(message) => Reply::json(200, &self.cluster.receive(message)),
            Err(error) => Reply::text(400, &error.to_string()),
        }
    }

    /// Basic authentication is tried before the certificate (k3s:
    /// pkg/server/auth).
    fn proof(&self, caller: &Caller, request: &Request) -> Option<Proof> {
        if let Some((user, password)) = request.basic() {
            let server = password == self.server_password;
            return match user.as_str() {
                "server" if server => Some(Proof::Server),
                "node" if server || password == self.node_password => Some(Proof::Node),
                _ => None,
            };
        }
        let (name, _) = self.check.identify(&caller.certs)?;
        Some(Proof::Kubelet(name.strip_prefix("system:node:")?.to_owned()))
    }

    fn supervise(&self, caller: &Caller, request: &Request) -> Reply {
        let Some(proof) = self.proof(caller, request) else { return refused(request) };
        let path = request.path.as_str();
        if path == "/v1-k3s/server-bootstrap" {
            return self.bootstrap(&proof);
        }
        if self.phase() < Phase::Ready {
            return Reply::text(503, "runtime core not ready");
        }
        match path {
            "/v1-k3s/readyz" => Reply::text(200, "ok"),
            "/v1-k3s/config" => Reply::json(200, &self.critical),
            "/v1-k3s/apiservers" => Reply::json(200, &api::server_addresses(&self.cluster)),
            "/v1-k3s/client-ca.crt" => Reply::text(200, &self.client_ca.cert),
            "/v1-k3s/token" => self.change_token(&proof, request),
            "/v1-k3s/server-ca.crt" => Reply::text(200, &self.server_ca.cert),
            _ => Reply::text(404, "404 page not found"),
        }
    }

    /// The server takes the new token itself first, and the record in the
    /// datastore after that (k3s: pkg/server/handlers/token.go).
    fn change_token(&self, proof: &Proof, request: &Request) -> Reply {
        let Proof::Server = proof else { return Reply::text(403, "forbidden") };
        let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let Some(new) = body["newToken"].as_str() else { return Reply::text(400, "no newToken") };
        if request.method != "PUT" {
            return Reply::text(405, "method not allowed");
        }
        match self.take_token(new) {
            Ok(()) => Reply::text(200, ""),
            Err(error) => Reply::text(500, &format!("{error:#}")),
        }
    }

    fn take_token(&self, new: &str) -> Result<()> {
        let old = std::mem::replace(&mut *guard(&self.held_password), new.to_owned());
        files::write_server_token(&self.data, new, &self.server_ca, &self.node_password)?;
        let (old, new) = (store::token_id(&old), store::token_id(new));
        self.cluster.update(|store| {
            if store.token_id == old {
                store.token_id.clone_from(&new);
            }
            ensure!(store.token_id == new, "{OTHER_TOKEN}");
            Ok(())
        })
    }

    fn bootstrap(&self, proof: &Proof) -> Reply {
        match proof {
            Proof::Server if self.cluster.me.single => Reply::text(400, "etcd disabled"),
            Proof::Server if self.phase() < Phase::Datastore => Reply::text(503, "runtime core not ready"),
            Proof::Server => Reply::json(200, &self.cluster.with(|s| s.bootstrap.clone())),
            _ => unauthorized(),
        }
    }

    fn db_info(&self, caller: &Caller, request: &Request) -> Reply {
        let local = caller.ip.is_loopback();
        let server = matches!(self.proof(caller, request), Some(Proof::Server));
        if !local && !server {
            return refused(request);
        }
        if self.phase() < Phase::Datastore || !self.cluster.quorum() {
            return Reply::text(500, "etcdserver: no leader");
        }
        Reply::json(200, &self.cluster.with(store::Store::db_info))
    }

    /// The stand-in's own paths.
    fn own(&self, caller: &Caller, request: &Request) -> Reply {
        let Some(proof) = self.proof(caller, request) else { return unauthorized() };
        if self.phase() < Phase::Datastore {
            return Reply::text(503, "runtime core not ready");
        }
        let parts: Vec<&str> = request.path.trim_start_matches("/standin/").split('/').collect();
        match (request.method.as_str(), parts.as_slice(), &proof) {
            ("POST", ["members"], Proof::Server) => self.add_member(request),
            ("POST", ["certs", node], _) => self.certs(request, node, &proof),
            ("POST", ["nodes", node], Proof::Kubelet(name)) if name == node => self.register(request, node),
            ("POST", ["nodes", node, "status"], Proof::Kubelet(name)) if name == node => {
                self.status(request, node)
            }
            _ => unauthorized(),
        }
    }

    fn add_member(&self, request: &Request) -> Reply {
        if self.cluster.me.single {
            return Reply::text(400, "etcd disabled");
        }
        answer(|| {
            let wanted: MemberRequest = serde_json::from_slice(&request.body)?;
            self.cluster.update(|s| s.add_member(&wanted.node, &wanted.name, &wanted.peer_url))?;
            Ok(Reply::json(200, &self.cluster.snapshot()))
        })
    }

    /// Certificates for a kubelet, after the check of its node password. The
    /// own node of a server passes with a warning (k3s: pkg/nodepassword).
    fn certs(&self, request: &Request, node: &str, proof: &Proof) -> Reply {
        if matches!(proof, Proof::Kubelet(name) if name != node) {
            return Reply::text(400, "header node name does not match auth node name");
        }
        let password = request.header("k3s-node-password").unwrap_or_default();
        if password.is_empty() {
            return Reply::text(400, "node password not set");
        }
        let exists = self.cluster.with(|s| s.nodes.contains_key(node));
        if matches!(proof, Proof::Kubelet(_)) && !exists {
            return unauthorized();
        }
        match self.cluster.update(|s| s.check_password(node, password)) {
            Err(error) if error.to_string() == store::DUPLICATE_HOST && node == self.node_name => {
                crate::log::warn(&format!("NodePasswordValidationFailed: {error}"));
            }
            Err(error) if error.to_string() == store::DUPLICATE_HOST => {
                return Reply::text(403, store::DUPLICATE_HOST);
            }
            Err(error) => return Reply::text(503, &format!("{error:#}")),
            Ok(()) => {}
        }
        let addresses = request.header("k3s-node-ip").unwrap_or_default();
        answer(|| Ok(Reply::json(200, &self.issue(node, addresses)?)))
    }

    fn issue(&self, node: &str, addresses: &str) -> Result<NodeCerts> {
        let name = format!("system:node:{node}");
        let client = Leaf { name: &name, group: Some("system:nodes"), ..Leaf::default() };
        let mut ips: Vec<IpAddr> = addresses.split(',').filter_map(|ip| ip.parse().ok()).collect();
        ips.push(crate::paths::loopback());
        let serving = Leaf {
            name: node,
            dns: vec![node.into(), "localhost".into()],
            ips,
            serves: true,
            ..Leaf::default()
        };
        let client = pki::issue(&self.client_ca, &client)?;
        let serving = pki::issue(&self.server_ca, &serving)?;
        Ok(NodeCerts {
            client: (client.cert, client.key),
            serving: (serving.cert, serving.key),
            client_ca: self.client_ca.cert.clone(),
            server_ca: self.server_ca.cert.clone(),
        })
    }

    fn register(&self, request: &Request, node: &str) -> Reply {
        answer(|| {
            let wanted: Node = serde_json::from_slice(&request.body).context("node")?;
            self.cluster.update(|s| s.register(node, wanted.clone()))?;
            self.cluster.heard(node);
            Ok(Reply::text(200, "ok"))
        })
    }

    /// Stores only a change; the heartbeat itself stays in memory.
    fn status(&self, request: &Request, node: &str) -> Reply {
        answer(|| {
            let beat: Heartbeat = serde_json::from_slice(&request.body).context("status")?;
            let same =
                self.cluster.with(|s| s.nodes.get(node).map(|n| n.same_status(beat.ready, &beat.message)));
            let Some(same) = same else {
                return Ok(Reply::text(404, &format!("nodes \"{node}\" not found")));
            };
            self.cluster.heard(node);
            if !same {
                self.cluster.update(|s| {
                    if let Some(known) = s.nodes.get_mut(node) {
                        known.ready = beat.ready;
                        known.message.clone_from(&beat.message);
                    }
                    Ok(())
                })?;
            }
            Ok(Reply::json(200, &json!(api::server_addresses(&self.cluster))))
        })
    }
}

/// v1.36.2: no proof is 403, a wrong one 401.
fn refused(request: &Request) -> Reply {
    match request.basic() {
        Some(_) => unauthorized(),
        None => api::status(403, "Forbidden", "forbidden"),
    }
}

fn unauthorized() -> Reply {
    api::status(401, "Unauthorized", "not authorized")
}

fn answer(work: impl FnOnce() -> Result<Reply>) -> Reply {
    work().unwrap_or_else(|error| Reply::text(500, &format!("{error:#}")))
}
