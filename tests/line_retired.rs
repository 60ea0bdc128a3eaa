//! The turn that lets a retired host leave its cluster, against a scripted API over
//! real TLS that loses connections, before and after each effect.
#![cfg(feature = "agent")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may stop at the first surprise, and prepares files by hand"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex, MutexGuard};

use edge_bootstrap::boot::retired::{Hands, Memory, turn};
use edge_bootstrap::kube::{Kube, KubeError};
use edge_bootstrap::paths::K3S_DATA;
use edge_bootstrap::plan::retired::Next;
use edge_bootstrap::role::{Assignment, parse_payload};
use edge_bootstrap::sys::Root;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

const ID: &str = "bcdefghijklmnopqrstuvwxy2a";
const SECRET: &str = "/api/v1/namespaces/kube-system/secrets/c.node-password.k3s";
const NOTES: &str = "/api/v1/namespaces/kube-system/configmaps/edge-bootstrap-retired";
const MEMBER: &str = "etcd.k3s.cattle.io/node-name";
const REMOVE: &str = "etcd.k3s.cattle.io/remove";
const REMOVED: &str = "etcd.k3s.cattle.io/removed-node-name";

/// A cluster with k3s's rules about Nodes and members.
#[derive(Debug, Default)]
struct Cluster {
    objects: BTreeMap<String, Value>,
    members: BTreeSet<String>,
    /// Requests that changed something, in order.
    changes: Vec<String>,
    version: u64,
    /// The connection ends at the change of this number: before it, or after.
    cut: Option<(usize, bool)>,
}

fn node_path(name: &str) -> String {
    format!("/api/v1/nodes/{name}")
}

/// A server's Node at 127.77.36.`last`.
fn server(name: &str, last: u8, is_ready: bool) -> Value {
    let ready = if is_ready { "True" } else { "Unknown" };
    let address = format!("127.77.36.{last}");
    json!({
        "metadata": {"name": name, "uid": format!("u-{name}"),
            "labels": {"node-role.kubernetes.io/etcd": "true", "node-role.kubernetes.io/control-plane": "true"},
            "annotations": {MEMBER: format!("{name}-0000000{last}"), "etcd.k3s.cattle.io/node-address": address}},
        "status": {"addresses": [{"type": "InternalIP", "address": address}],
            "conditions": [{"type": "Ready", "status": ready}]},
    })
}

impl Cluster {
    /// Servers `a` and `b` are up, `c` has no power.
    fn of_three() -> Self {
        let mut cluster = Self::default();
        for (name, last, is_ready) in [("a", 1, true), ("b", 2, true), ("c", 3, false)] {
            cluster.objects.insert(node_path(name), server(name, last, is_ready));
            cluster.members.insert(format!("{name}-0000000{last}"));
        }
        cluster.objects.insert(SECRET.to_owned(), json!({"metadata": {"uid": "s-c"}}));
        cluster
    }

    fn answer(&mut self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let uid = |object: &Value| object["metadata"]["uid"].clone();
        let known = self.objects.get(path).cloned();
        match (method, path) {
            ("GET", "/readyz") => (200, json!("ok")),
            ("GET", "/api/v1/nodes") => {
                let nodes = self.objects.iter().filter(|(path, _)| path.starts_with("/api/v1/nodes/"));
                (200, json!({"items": nodes.map(|(_, node)| node).collect::<Vec<_>>()}))
            }
            ("GET", _) => known.map_or((404, json!({})), |object| (200, object)),
            ("POST", _) => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                if self.objects.contains_key(&path) { (409, json!({})) } else { (201, self.put(path, body)) }
            }
            ("PUT", _) if known.as_ref().is_some_and(|it| it["metadata"] != body["metadata"]) => {
                (409, json!({}))
            }
            ("PUT", _) => (200, self.put(path.to_owned(), body)),
            ("PATCH" | "DELETE", _) if known.is_none() => (404, json!({})),
            ("PATCH", _) if body["metadata"]["uid"] != uid(&known.clone().unwrap()) => (409, json!({})),
            ("PATCH", _) => (200, self.take_out(path)),
            ("DELETE", _) if body["preconditions"]["uid"] != uid(&known.clone().unwrap()) => (409, json!({})),
            ("DELETE", _) => (200, self.remove(path)),
            _ => (405, json!({})),
        }
    }

    fn put(&mut self, path: String, body: &Value) -> Value {
        self.version += 1;
        let mut object = body.clone();
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(path, object.clone());
        object
    }

    /// k3s: pkg/etcd/member_controller.go, sync.
    fn take_out(&mut self, path: &str) -> Value {
        let node = self.objects.get_mut(path).unwrap();
        let annotations = node["metadata"]["annotations"].as_object_mut().unwrap();
        annotations.insert(REMOVE.to_owned(), json!("true"));
        if let Some(member) = annotations.remove(MEMBER) {
            annotations.remove("etcd.k3s.cattle.io/node-address");
            annotations.insert(REMOVED.to_owned(), member.clone());
            self.members.remove(member.as_str().unwrap());
        }
        node.clone()
    }

    /// The same, onRemove: it takes whatever member the Node names.
    fn remove(&mut self, path: &str) -> Value {
        let object = self.objects.remove(path).unwrap();
        if let Some(member) = object["metadata"]["annotations"][MEMBER].as_str() {
            self.members.remove(member);
        }
        json!({"kind": "Status"})
    }
}

/// The API of all three servers, on one port; that of `c` has no power.
struct Api {
    cluster: Arc<Mutex<Cluster>>,
    acceptor: TlsAcceptor,
    dir: tempfile::TempDir,
    port: u16,
    base: &'static str,
}

impl Api {
    async fn start(cluster: Cluster) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let acceptor = credentials(&Root::new(dir.path()));
        let first = TcpListener::bind("127.77.36.1:0").await.unwrap();
        let port = first.local_addr().unwrap().port();
        let second = TcpListener::bind(("127.77.36.2", port)).await.unwrap();
        let cluster = Arc::new(Mutex::new(cluster));
        for listener in [first, second] {
            tokio::spawn(accept(listener, acceptor.clone(), cluster.clone()));
        }
        let k3s = dir.path().join("k3s");
        std::fs::write(&k3s, format!("#!/bin/sh\necho \"$@\" >>{}/saved\n", dir.path().display())).unwrap();
        std::fs::set_permissions(&k3s, std::fs::Permissions::from_mode(0o755)).unwrap();
        let base = Box::leak(format!("https://127.77.36.1:{port}").into_boxed_str());
        Self { cluster, acceptor, dir, port, base }
    }

    fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap()
    }

    /// One turn of the server `own`, whose process has just started.
    async fn turn(&self, own: &str, retired: &Value) -> Result<Option<Next>, KubeError> {
        let root = Root::new(self.dir.path());
        let assignment = assignment(own, retired);
        let leaver = assignment.duty.as_ref().unwrap().cluster.retired[0].clone();
        let k3s = self.dir.path().join("k3s").to_string_lossy().into_owned();
        let mut memory = Memory::default();
        let kube = Kube::admin_at(&root, self.base);
        let mut hands = Hands { kube, port: self.port, k3s, memory: &mut memory };
        turn(&mut hands, &assignment, &leaver).await
    }

    fn snapshots(&self) -> usize {
        std::fs::read_to_string(self.dir.path().join("saved")).unwrap_or_default().lines().count()
    }
}

/// What of the dead server is retired.
fn dead() -> Value {
    json!([{"name": "c", "node_id": ID, "etcd_member": "c-00000003"}])
}

fn assignment(own: &str, retired: &Value) -> Assignment {
    let text = include_str!("plan/01-first-server/assignment.json");
    let mut payload: Value = serde_json::from_str(text).unwrap();
    payload["node"]["name"] = json!(own);
    payload["cluster"]["retired"] = retired.clone();
    let others = ["a", "b"].into_iter().filter(|name| *name != own);
    let host = |name: &str| json!({"name": name, "ip": "172.16.36.9", "role": "server", "node_id": ID});
    payload["room"] = others.map(host).collect();
    parse_payload(payload.to_string().as_bytes()).unwrap()
}

/// Files of an administrator below `root`, and the API's side of them.
fn credentials(root: &Root) -> TlsAcceptor {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let names = ["127.77.36.1", "127.77.36.2", "127.77.36.3"].map(str::to_owned);
    let leaf = CertificateParams::new(names.to_vec()).unwrap();
    let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    let tls = format!("{K3S_DATA}/server/tls");
    root.ensure_dir(&tls).unwrap();
    for (name, text) in [
        ("server-ca.crt", &ca_pem),
        ("client-admin.crt", &leaf.pem()),
        ("client-admin.key", &key.serialize_pem()),
    ] {
        std::fs::write(root.path(&format!("{tls}/{name}")), text).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, cluster: Arc<Mutex<Cluster>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, cluster) = (acceptor.clone(), cluster.clone());
        tokio::spawn(async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                serve(stream, &cluster).await;
            }
        });
    }
}

async fn serve(mut stream: TlsStream<TcpStream>, cluster: &Mutex<Cluster>) {
    while let Some((method, path, body)) = read_request(&mut stream).await {
        let Some((status, answer)) = handle(&mut cluster.lock().unwrap(), &method, &path, &body) else {
            return;
        };
        let body = answer.to_string();
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
        if stream.write_all((head + &body).as_bytes()).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

/// `None`: the connection ends without an answer.
fn handle(cluster: &mut Cluster, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
    if method == "GET" {
        return Some(cluster.answer(method, path, body));
    }
    cluster.changes.push(format!("{method} {path}"));
    let cut = cluster.cut.filter(|(number, _)| *number == cluster.changes.len());
    if cut.is_some_and(|(_, is_after)| !is_after) {
        return None;
    }
    let answer = cluster.answer(method, path, body);
    if cut.is_some() { None } else { Some(answer) }
}

async fn read_request(stream: &mut TlsStream<TcpStream>) -> Option<(String, String, Value)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let length = |line: &str| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned);
    let length = head.lines().find_map(length);
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await.ok()?;
    let mut words = head.lines().next()?.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    Some((method, path, serde_json::from_slice(&body).unwrap_or_default()))
}

fn is_gone(cluster: &Cluster) -> bool {
    !cluster.objects.contains_key(&node_path("c")) && !cluster.objects.contains_key(SECRET)
}

fn members(cluster: &Cluster) -> Vec<&str> {
    cluster.members.iter().map(String::as_str).collect()
}

#[tokio::test]
async fn a_dead_server_leaves_in_one_turn_of_the_server_with_the_lowest_name() {
    let api = Api::start(Cluster::of_three()).await;
    assert_eq!(api.turn("b", &dead()).await.unwrap(), None, "it is another server's turn");
    assert!(api.cluster().changes.is_empty());
    assert_eq!(api.turn("a", &dead()).await.unwrap(), Some(Next::Done));
    assert!(is_gone(&api.cluster()));
    assert_eq!(members(&api.cluster()), ["a-00000001", "b-00000002"]);
    assert_eq!(api.snapshots(), 1);
    // Said again, also to a server with an older assignment: nothing more is done,
    // whatever has come under that name since.
    let changes = api.cluster().changes.len();
    api.cluster().objects.insert(node_path("c"), server("c", 3, false));
    for own in ["a", "b"] {
        assert_eq!(api.turn(own, &dead()).await.unwrap(), Some(Next::Done));
    }
    assert_eq!(api.cluster().changes.len(), changes);
}

#[tokio::test]
async fn a_turn_that_is_cut_at_any_change_is_ended_by_whichever_server_comes_next() {
    let whole = Api::start(Cluster::of_three()).await;
    whole.turn("a", &dead()).await.unwrap();
    let changes = whole.cluster().changes.len();
    assert!(changes >= 6, "{:?}", whole.cluster().changes);
    for (number, is_after) in (1..=changes).flat_map(|number| [(number, false), (number, true)]) {
        let api = Api::start(Cluster { cut: Some((number, is_after)), ..Cluster::of_three() }).await;
        assert!(api.turn("a", &dead()).await.is_err(), "cut {number} {is_after}");
        // The one that was cut is down now.
        api.cluster().objects.get_mut(&node_path("a")).unwrap()["status"]["conditions"] = json!([]);
        let ended = api.turn("b", &dead()).await.unwrap();
        assert_eq!(ended, Some(Next::Done), "cut {number} {is_after}");
        assert!(is_gone(&api.cluster()), "cut {number} {is_after}");
        assert_eq!(members(&api.cluster()), ["a-00000001", "b-00000002"], "cut {number} {is_after}");
    }
}

#[tokio::test]
async fn a_node_that_shares_a_live_members_name_or_address_stays_and_so_does_the_member() {
    let ties = [
        |ghost: &mut Value| ghost["metadata"]["annotations"][MEMBER] = json!("b-00000002"),
        |ghost: &mut Value| {
            ghost["metadata"]["annotations"]["etcd.k3s.cattle.io/node-address"] = json!("127.77.36.2")
        },
        |ghost: &mut Value| ghost["status"]["addresses"][0]["address"] = json!("127.77.36.2"),
    ];
    for (number, tie) in ties.into_iter().enumerate() {
        for is_up in [true, false] {
            let mut cluster = Cluster::of_three();
            tie(cluster.objects.get_mut(&node_path("c")).unwrap());
            if !is_up {
                // It may be booting: nobody said that it is gone.
                cluster.objects.insert(node_path("b"), server("b", 2, false));
            }
            let api = Api::start(cluster).await;
            let retired = json!([{"name": "c", "node_id": ID, "etcd_member": ""}]);
            let next = api.turn("a", &retired).await.unwrap();
            let Some(Next::Refuse(why)) = &next else { panic!("tie {number}: {next:?}") };
            assert_eq!(why.code, "EB-retired-shared", "tie {number}: {why}");
            assert!(api.cluster().changes.is_empty(), "tie {number}: {:?}", api.cluster().changes);
            assert_eq!(api.cluster().members.len(), 3);
        }
    }
}

#[tokio::test]
async fn a_host_that_comes_up_while_the_datastore_is_saved_stays() {
    let api = Api::start(Cluster::of_three()).await;
    let (saved, up) = (api.dir.path().join("saved"), api.dir.path().join("up"));
    let script = format!(
        "#!/bin/sh\necho \"$@\" >>{}\nwhile [ ! -e {} ]; do sleep 0.02; done\n",
        saved.display(),
        up.display()
    );
    std::fs::write(api.dir.path().join("k3s"), script).unwrap();
    let (acceptor, cluster, port) = (api.acceptor.clone(), api.cluster.clone(), api.port);
    let boots = async {
        while !saved.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let listener = TcpListener::bind(("127.77.36.3", port)).await.unwrap();
        tokio::spawn(accept(listener, acceptor, cluster));
        std::fs::write(&up, "").unwrap();
    };
    let retired = dead();
    let (next, ()) = tokio::join!(api.turn("a", &retired), boots);
    let Some(Next::Wait(why)) = next.unwrap() else { panic!("a live member was taken out") };
    assert_eq!(why.code, "EB-retired-live");
    assert_eq!(api.cluster().members.len(), 3);
}

#[tokio::test]
async fn a_snapshot_that_fails_keeps_the_member() {
    let api = Api::start(Cluster::of_three()).await;
    std::fs::write(api.dir.path().join("k3s"), "#!/bin/sh\necho no space left >&2\nexit 1\n").unwrap();
    let Some(Next::Refuse(why)) = api.turn("a", &dead()).await.unwrap() else { panic!("it went on") };
    assert!(why.code == "EB-retired-snapshot" && why.reason.contains("no space left"), "{why}");
    assert_eq!(api.cluster().members.len(), 3);
    assert_eq!(api.cluster().changes, [format!("POST {}", NOTES.rsplit_once('/').unwrap().0)]);
}
