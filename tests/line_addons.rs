//! What is left of a withdrawn manifest goes through a scripted API over real TLS,
//! parts of which do not answer.
#![cfg(feature = "agent")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may stop at the first surprise, and prepares files by hand"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use edge_bootstrap::kube::{Kube, Silence};
use edge_bootstrap::paths::K3S_DATA;
use edge_bootstrap::sys::Root;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

const ADDON: &str = "/apis/k3s.cattle.io/v1/namespaces/kube-system/addons/eb-base";
const MAPS: &str = "/api/v1/configmaps";
const THINGS: &str = "/apis/broken.example.org/v1/things";

/// What the API answers, by path; a path with `None` is one that fails.
#[derive(Debug, Default)]
struct Api {
    answers: BTreeMap<String, Option<Value>>,
    removed: BTreeSet<String>,
    /// Answered to everything, as while its storage begins.
    status: Option<u16>,
}

type Shared = Arc<Mutex<Api>>;
type Stream = rustls::StreamOwned<rustls::ServerConnection, TcpStream>;

/// A cluster with ConfigMaps, and a kind whose own program is down.
fn api(kinds: Option<&str>) -> Api {
    let can = json!(["list", "delete"]);
    let list = |names: &[&str]| json!({"items": names.iter().map(|name| object(name)).collect::<Vec<_>>()});
    let addon = json!({"metadata": {"name": "eb-base", "uid": "a", "annotations": {"addon.k3s.cattle.io/gvks": kinds}}});
    let answers = [
        (ADDON, Some(addon)),
        (
            "/apis",
            Some(
                json!({"groups": [{"name": "broken.example.org", "versions": [{"groupVersion": "broken.example.org/v1"}]}]}),
            ),
        ),
        ("/api/v1", Some(json!({"resources": [{"name": "configmaps", "verbs": can}]}))),
        ("/apis/broken.example.org/v1", Some(json!({"resources": [{"name": "things", "verbs": can}]}))),
        (MAPS, Some(list(&["one"]))),
        (THINGS, None),
    ];
    let answers = answers.into_iter().map(|(path, answer)| (path.to_owned(), answer)).collect();
    Api { answers, ..Api::default() }
}

/// An object that k3s made of the file `eb-base.yaml`.
fn object(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "uid": name, "annotations": {
        "objectset.rio.cattle.io/owner-gvk": "k3s.cattle.io/v1, Kind=Addon",
        "objectset.rio.cattle.io/owner-namespace": "kube-system",
        "objectset.rio.cattle.io/owner-name": "eb-base",
    }}})
}

impl Api {
    fn answer(&mut self, method: &str, path: &str) -> (u16, Value) {
        if let Some(status) = self.status {
            return (status, json!({"kind": "Status", "message": "storage is (re)initializing"}));
        }
        let path = path.split('?').next().unwrap();
        if method == "DELETE" {
            self.removed.insert(path.to_owned());
            return (200, json!({}));
        }
        match self.answers.get(path) {
            Some(Some(answer)) => (200, answer.clone()),
            Some(None) => (500, json!({"message": "conversion webhook failed"})),
            None => (404, json!({})),
        }
    }
}

fn serve(api: &Shared, mut stream: Stream) {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    while !bytes.windows(4).any(|end| end == b"\r\n\r\n") {
        let Some(size) = stream.read(&mut buffer).ok().filter(|size| *size > 0) else { return };
        bytes.extend_from_slice(&buffer[..size]);
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let mut words = text.split_whitespace();
    let (status, body) = api.lock().unwrap().answer(words.next().unwrap(), words.next().unwrap());
    let body = body.to_string();
    let head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    let _ = stream.write_all(format!("{head}{body}").as_bytes());
    stream.conn.send_close_notify();
    let _ = stream.flush();
}

/// A server's files below a root, and where its API is.
fn start(api: &Shared) -> (tempfile::TempDir, Root, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let tls = dir.path().join(K3S_DATA.trim_start_matches('/')).join("server/tls");
    std::fs::create_dir_all(&tls).unwrap();
    let files = [
        ("server-ca.crt", ca.pem()),
        ("client-admin.crt", certificate.pem()),
        ("client-admin.key", key.serialize_pem()),
    ];
    files.iter().for_each(|(name, text)| std::fs::write(tls.join(name), text).unwrap());
    let chain = vec![CertificateDer::from_pem_slice(certificate.pem().as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("https://{}", listener.local_addr().unwrap());
    let api = api.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = rustls::ServerConnection::new(config.clone()).unwrap();
            serve(&api, rustls::StreamOwned::new(connection, stream.unwrap()));
        }
    });
    let root = Root::new(dir.path());
    (dir, root, base)
}

#[tokio::test]
async fn a_kind_of_others_that_does_not_answer_keeps_no_addon_from_its_end() {
    let shared = Arc::new(Mutex::new(api(Some("/v1, Kind=ConfigMap"))));
    let (_dir, root, base) = start(&shared);
    let kube = Kube::admin_at(&root, &base);
    assert_eq!(kube.clear_addon("eb-base").await.unwrap(), 1);
    let removed = |path: &str| shared.lock().unwrap().removed.contains(path);
    assert!(removed("/api/v1/namespaces/default/configmaps/one") && !removed(ADDON), "objects first");
    shared.lock().unwrap().answers.insert(MAPS.to_owned(), Some(json!({"items": []})));
    assert_eq!(kube.clear_addon("eb-base").await.unwrap(), 0);
    assert!(removed(ADDON));
}

#[tokio::test]
async fn a_kind_that_the_addon_has_must_answer_and_the_rest_goes_meanwhile() {
    let kinds = "/v1, Kind=ConfigMap;broken.example.org/v1, Kind=Thing";
    let shared = Arc::new(Mutex::new(api(Some(kinds))));
    let (_dir, root, base) = start(&shared);
    let kube = Kube::admin_at(&root, &base);
    assert_eq!(kube.clear_addon("eb-base").await.unwrap(), 1);
    shared.lock().unwrap().answers.insert(MAPS.to_owned(), Some(json!({"items": []})));
    let error = kube.clear_addon("eb-base").await.unwrap_err().to_string();
    assert!(error.contains(THINGS) && error.contains("conversion webhook failed"), "{error}");
    assert!(!shared.lock().unwrap().removed.contains(ADDON), "nobody knows that nothing is left");
}

#[tokio::test]
async fn an_api_that_begins_or_is_away_is_waited_for_before_a_person_is_told_and_a_refusal_is_not() {
    let shared = Arc::new(Mutex::new(api(None)));
    let (_dir, root, base) = start(&shared);
    let (kube, at) = (Kube::admin_at(&root, &base), Duration::from_secs);
    let mut silence = Silence::default();
    for (status, is_told) in [(429, false), (503, false), (403, true)] {
        shared.lock().unwrap().status = Some(status);
        let error = kube.addons().await.unwrap_err();
        assert!(error.words().contains("storage is (re)initializing"), "{}", error.words());
        assert_eq!(silence.is_told(&error, at(100)), is_told, "{status}");
    }
    // Nobody listens there.
    let error = Kube::admin_at(&root, "https://127.0.0.1:1").addons().await.unwrap_err();
    assert!(!silence.is_told(&error, at(159)) && silence.is_told(&error, at(160)), "{}", error.words());
    // Without its files nobody could ask.
    std::fs::remove_file(root.path(&format!("{K3S_DATA}/server/tls/server-ca.crt"))).unwrap();
    let error = kube.addons().await.unwrap_err();
    assert!(!Silence::default().is_told(&error, at(160)), "{}", error.words());
}
