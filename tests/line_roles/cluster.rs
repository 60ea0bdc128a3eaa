//! Another server of the room: its API, with k3s's rules about members and Nodes
//! (k3s: pkg/etcd/member_controller.go). It can cut the host's power at any request.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::tls::Ca;

pub const NODE: &str = "172-16-36-4";
pub const MEMBER: &str = "172-16-36-4-0a1b2c3d";
const OTHER: &str = "172-16-36-1";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";

/// At which request the power goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Requests that are answered before it.
    pub after: usize,
    /// Whether what was asked is still done.
    pub is_done: bool,
}

/// What the cluster holds.
#[derive(Debug)]
pub struct State {
    pub members: Vec<String>,
    pub node: Value,
    pub lease: Value,
    pub cut: Option<Cut>,
    /// Requests since the cluster was made, as `METHOD PATH`.
    pub seen: Vec<String>,
    /// Whether it takes the request back, as where no voter would stay.
    pub refuses: bool,
    /// What somebody else changes of the Node right before the next change that this
    /// host makes of it.
    pub between: Option<Value>,
}

/// A server and the files that it gave to this host.
#[derive(Clone)]
pub struct Cluster {
    state: Arc<Mutex<State>>,
    pub cut: Arc<Notify>,
    pub port: u16,
    pub ca: String,
    pub admin: (String, String),
}

type Stream = rustls::StreamOwned<rustls::ServerConnection, TcpStream>;

impl Cluster {
    pub fn start() -> Self {
        let ca = Ca::new();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let cluster = Self {
            state: Arc::new(Mutex::new(State::new())),
            cut: Arc::new(Notify::new()),
            port: listener.local_addr().unwrap().port(),
            ca: ca.pem(),
            admin: ca.issue("admin"),
        };
        let (config, server) = (ca.server("0.0.0.0"), cluster.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let connection = rustls::ServerConnection::new(config.clone()).unwrap();
                server.answer(rustls::StreamOwned::new(connection, stream.unwrap()));
            }
        });
        cluster
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn answer(&self, mut stream: Stream) {
        let Some((method, path, body)) = request(&mut stream) else { return };
        let (cut, reply) = {
            let mut state = self.state();
            let cut = state.cut.filter(|cut| cut.after == state.seen.len());
            state.seen.push(format!("{method} {path}"));
            let is_done = cut.is_none_or(|cut| cut.is_done);
            (cut, is_done.then(|| state.handle(&method, &path, &body)))
        };
        if cut.is_some() {
            // Whoever asked is gone; its connection closes with it.
            self.cut.notify_one();
            return;
        }
        let (status, body) = reply.unwrap_or((500, Value::Null));
        let body = body.to_string();
        let head =
            format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        let _ = stream.write_all(format!("{head}{body}").as_bytes());
        stream.conn.send_close_notify();
        let _ = stream.flush();
    }
}

impl State {
    fn new() -> Self {
        Self {
            members: vec![format!("{OTHER}-00000001"), MEMBER.to_owned()],
            node: server(NODE, "172.16.36.4", MEMBER),
            lease: Value::Null,
            cut: None,
            seen: Vec::new(),
            refuses: false,
            between: None,
        }
    }

    /// As the API does it: a change of another version than the one there is refused.
    fn change(&mut self, fields: &Value) -> (u16, Value) {
        if let Some(others) = self.between.take() {
            self.node["metadata"]["resourceVersion"] = json!(format!("other-{}", self.seen.len()));
            merge(&mut self.node, &others);
        }
        let versions = [fields, &self.node].map(|it| it["metadata"]["resourceVersion"].as_str());
        if versions[0].is_some() && versions[0] != versions[1] {
            return (409, json!({}));
        }
        merge(&mut self.node, fields);
        self.node["metadata"]["resourceVersion"] = json!(self.seen.len().to_string());
        (200, self.node.clone())
    }

    fn handle(&mut self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let own = format!("/api/v1/nodes/{NODE}");
        match (method, path) {
            ("GET", "/readyz") => (200, json!("ok")),
            ("GET", path) if path.starts_with("/api/v1/nodes?labelSelector=") => {
                (200, json!({"items": [server(OTHER, "0.0.0.0", "172-16-36-1-00000001"), self.node]}))
            }
            ("GET", path) if path == own => {
                self.control();
                (200, self.node.clone())
            }
            ("PATCH", path) if path == own => self.change(body),
            ("GET", _) if path.starts_with(LEASES) && self.lease.is_null() => (404, json!({})),
            ("GET", _) if path.starts_with(LEASES) => (200, self.lease.clone()),
            ("POST" | "PUT", _) if path.starts_with(LEASES) => self.give(body),
            _ => (405, json!({"message": format!("{method} {path}")})),
        }
    }

    fn give(&mut self, body: &Value) -> (u16, Value) {
        let version = |lease: &Value| lease["metadata"]["resourceVersion"].as_str().map(str::to_owned);
        if version(&self.lease) != version(body) {
            return (409, json!({}));
        }
        self.lease = body.clone();
        self.lease["metadata"]["resourceVersion"] = json!(self.seen.len().to_string());
        (200, self.lease.clone())
    }

    /// The leader's controller: a moment later.
    fn control(&mut self) {
        let notes = &mut self.node["metadata"]["annotations"];
        let is_asked = notes["etcd.k3s.cattle.io/remove"] == "true";
        let is_done = notes["etcd.k3s.cattle.io/removed-node-name"].is_string();
        if is_asked && self.refuses {
            return merge(notes, &json!({"etcd.k3s.cattle.io/remove": null}));
        }
        let name = notes["etcd.k3s.cattle.io/node-name"].as_str().map(str::to_owned);
        let has_role = self.node["metadata"]["labels"]["node-role.kubernetes.io/etcd"] == "true";
        if let Some(name) = name.filter(|_| is_asked && !is_done && has_role) {
            self.members.retain(|member| *member != name);
            let removed = json!({"metadata": {"annotations": {
                "etcd.k3s.cattle.io/removed-node-name": name,
                "etcd.k3s.cattle.io/node-name": null, "etcd.k3s.cattle.io/node-address": null,
            }}});
            merge(&mut self.node, &removed);
        }
    }
}

/// A healthy server's Node.
fn server(name: &str, ip: &str, member: &str) -> Value {
    json!({"metadata": {"name": name, "uid": name, "resourceVersion": "0",
        "labels": {"node-role.kubernetes.io/etcd": "true", "node-role.kubernetes.io/control-plane": "true",
            "kubernetes.io/hostname": name},
        "annotations": {"etcd.k3s.cattle.io/node-name": member, "etcd.k3s.cattle.io/node-address": ip}},
        "status": {"addresses": [{"type": "InternalIP", "address": ip}],
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "EtcdIsVoter", "status": "True"}]}})
}

/// RFC 7396.
fn merge(into: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut into[key], value);
        }
    }
}

fn request(stream: &mut Stream) -> Option<(String, String, Value)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let size = stream.read(&mut buffer).ok().filter(|size| *size > 0)?;
        bytes.extend_from_slice(&buffer[..size]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| {
            line.to_ascii_lowercase().strip_prefix("content-length:").map(|text| text.trim().parse().unwrap())
        });
        if body.len() < length.unwrap_or(0) {
            continue;
        }
        let mut words = head.split_whitespace();
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        return Some((method, path, serde_json::from_str(body).unwrap_or_default()));
    }
}
