//! Whether a server may leave by a reset, asked of the other servers of its room
//! over real TLS, by the signed assignment on disk.
#![cfg(feature = "agent")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may stop at the first surprise, and prepares files by hand"
)]

#[allow(missing_docs, missing_debug_implementations, dead_code, reason = "shared with other line tests")]
#[path = "common/central.rs"]
mod central;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};

use edge_bootstrap::boot::Agent;
use edge_bootstrap::boot::reset::{Wish, may_begin};
use edge_bootstrap::enrol::cache::Stored;
use edge_bootstrap::enrol::trust::Trust;
use edge_bootstrap::facts::runtime::{Joined, PinnedIdentity};
use edge_bootstrap::identity;
use edge_bootstrap::paths::{self, K3S_DATA};
use edge_bootstrap::role::Role;
use edge_bootstrap::sys::{Root, statefile};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

const ID: &str = "bcdefghijklmnopqrstuvwxy2a";
const OWN: &str = "172-16-36-1";
/// Other servers, each with its own address of this machine.
const OTHERS: [&str; 2] = ["127.77.36.11", "127.77.36.12"];
const BREAK: Wish = Wish { kill_only: false, forget: false, break_cluster: true };

/// What servers that are up say of the cluster.
#[derive(Debug, Default)]
struct Cluster {
    nodes: Vec<Value>,
    up: Vec<&'static str>,
}

type Shared = Arc<Mutex<Cluster>>;
type Issuer<'a> = CertifiedIssuer<'a, KeyPair>;

/// The Node of a member of etcd that was Ready when it was last heard of.
fn node(address: &str) -> Value {
    let name = address.replace('.', "-");
    json!({"metadata": {"name": name, "uid": name,
        "labels": {"node-role.kubernetes.io/etcd": "true", "node-role.kubernetes.io/control-plane": "true"},
        "annotations": {"etcd.k3s.cattle.io/node-name": format!("{name}-0a1b2c3d"),
            "etcd.k3s.cattle.io/node-address": address}},
        "status": {"addresses": [{"type": "InternalIP", "address": address}],
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "EtcdIsVoter", "status": "True"}]}})
}

fn issue(ca: &Issuer<'_>, name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, ca).unwrap();
    (certificate.pem(), key.serialize_pem())
}

/// k3s's API on one server; one that is not up ends each connection.
fn serve(cluster: &Shared, ca: &Issuer<'_>, address: &'static str) {
    let (certificate, key) = issue(ca, address);
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = Arc::new(config.unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap());
    let listener = TcpListener::bind((address, 6443)).expect(
        "this test needs port 6443 of 127.77.36.11 and .12: nothing may listen on it at all addresses",
    );
    let cluster = cluster.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let answer = {
                let cluster = cluster.lock().unwrap();
                cluster.up.contains(&address).then(|| json!({"items": cluster.nodes}).to_string())
            };
            let (Some(body), Ok(stream)) = (answer, stream) else { continue };
            let connection = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, stream);
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let head =
                format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    });
}

/// A joined server whose k3s is down, and the other servers of its room.
struct Host {
    dir: tempfile::TempDir,
    cluster: Shared,
    signer: Arc<central::Signer>,
}

impl Host {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let host = Self {
            dir: tempfile::tempdir().unwrap(),
            cluster: Shared::default(),
            signer: central::Signer::new(),
        };
        OTHERS.iter().for_each(|address| serve(&host.cluster, &ca, address));
        let (certificate, key) = issue(&ca, "admin");
        for (name, text) in [
            ("server/tls/server-ca.crt", ca.pem()),
            ("server/tls/client-admin.crt", certificate),
            ("server/tls/client-admin.key", key),
        ] {
            host.write(&format!("{K3S_DATA}/{name}"), &text);
        }
        let joined = Joined { ca_hash: None, etcd_member: Some(format!("{OWN}-0a1b2c3d")) };
        let pinned = json!({"node_id": ID, "site": "hz-017", "cluster": "hz-017", "role": Role::Server,
            "node_name": OWN, "node_ip": "172.16.36.1", "manage_hostname": true, "epoch": 1});
        let pinned: PinnedIdentity = serde_json::from_value(pinned).unwrap();
        host.root().make_dir(paths::STATE_DIR, 0o700).unwrap();
        identity::pin(&host.root(), &PinnedIdentity { joined: Some(joined), ..pinned }).unwrap();
        host
    }

    fn root(&self) -> Root {
        Root::new(self.dir.path())
    }

    fn write(&self, path: &str, text: &str) {
        let real = self.root().path(path);
        std::fs::create_dir_all(real.parent().unwrap()).unwrap();
        std::fs::write(&real, text).unwrap();
        std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// The newest assignment names `servers` besides this one, of which `up` serve.
    fn room(&self, servers: &[&'static str], up: &[&'static str]) {
        let mut payload = central::payload(4);
        payload["node_id"] = json!(ID);
        payload["role"] = json!("server");
        payload["node"] = json!({"name": OWN, "ip": "172.16.36.1"});
        let urls: Vec<String> = servers.iter().map(|address| format!("https://{address}:6443")).collect();
        payload["cluster"]["servers"] = json!(urls);
        payload["cluster"]["ca_hash"] = json!("5d".repeat(32));
        payload["join"]["server_token"] = json!("canary-server-token");
        let trust = Trust { signing_keys: vec![self.signer.key()], ..Trust::default() };
        let stored = Stored { trust, envelope: Some(self.signer.sign(&payload)), statement: None };
        statefile::store(&self.root(), paths::ASSIGNMENT, &stored).unwrap();
        let mut cluster = self.cluster.lock().unwrap();
        cluster.nodes = std::iter::once("172.16.36.1").chain(servers.iter().copied()).map(node).collect();
        cluster.up = up.to_vec();
    }

    /// What a person is told, and what is in the way.
    async fn asked(&self, wish: Wish) -> (String, String) {
        let agent = Agent::new(self.root(), None).unwrap();
        let (told, obstacles) = may_begin(&agent, wish).await;
        (told.unwrap_or_default(), obstacles.join("\n"))
    }
}

#[tokio::test]
async fn a_reset_that_takes_the_majority_of_two_or_three_servers_is_refused_until_a_person_says_that_it_shall()
 {
    let host = Host::new();
    let command = "`edge-bootstrap reset --break-cluster --yes`";

    host.room(&OTHERS, &OTHERS);
    let (told, refused) = host.asked(Wish::default()).await;
    assert!(told.contains("Of 3 members 2 remain healthy") && refused.is_empty(), "{told}\n{refused}");

    let too_few: [(&[&'static str], &[&'static str], &str); 2] = [
        (&OTHERS, &OTHERS[..1], "Of 3 members 1 remains healthy"),
        (&OTHERS[..1], &OTHERS[..1], "Of 2 members 1 remains healthy"),
    ];
    for (servers, up, words) in too_few {
        host.room(servers, up);
        let (told, refused) = host.asked(Wish::default()).await;
        assert!(told.contains(words) && told.contains("remove=true"), "{told}");
        assert!(
            refused.contains("lose their majority; if they shall") && refused.contains(command),
            "{refused}"
        );
        let (told, refused) = host.asked(BREAK).await;
        assert!(told.contains(words) && refused.is_empty(), "{refused}");
        let (_, refused) = host.asked(Wish { kill_only: true, ..Wish::default() }).await;
        assert_eq!(refused, "", "k3s that only stops comes back as a member");
    }
    let (_, refused) = host.asked(Wish { forget: true, ..Wish::default() }).await;
    assert!(refused.contains("`edge-bootstrap reset --forget --break-cluster --yes`"), "{refused}");

    // Nobody tells; and an assignment by which nobody is left to tell.
    host.room(&OTHERS, &[]);
    let (told, refused) = host.asked(Wish::default()).await;
    assert!(
        told.contains("no server of the cluster tells") && refused.contains(command),
        "{told}\n{refused}"
    );
    host.room(&[], &[]);
    let (told, refused) = host.asked(Wish::default()).await;
    assert!(told.contains("only server") && refused.is_empty(), "{told}\n{refused}");

    // A local file says nothing of who has joined since.
    let pinned = identity::load(&host.root()).unwrap().value().unwrap();
    identity::pin(&host.root(), &PinnedIdentity { node_id: None, ..pinned }).unwrap();
    let (_, refused) = host.asked(Wish::default()).await;
    assert!(refused.contains("start k3s, here") && refused.contains(command), "{refused}");
    assert!(host.asked(BREAK).await.1.is_empty());
}
