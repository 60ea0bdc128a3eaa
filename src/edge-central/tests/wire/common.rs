//! A running service in a temporary directory, and hosts that talk to it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use edge_bootstrap::role::{self, Assignment};
use edge_bootstrap::wire::assignment::Payload;
use edge_bootstrap::wire::envelope::{Envelope, SigningKey};
use edge_central::ids;
use edge_central::serve::Server;
use edge_central::service::{Deadlines, Options};
use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use reqwest::{Certificate, Client, ClientBuilder, Identity, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// The site of all tests.
pub const SITE: &str = "hz-017";
/// Longer than anything takes; only a failing test waits so long.
pub const LONG: Duration = Duration::from_secs(20);

/// The service under test.
pub struct Central {
    /// Its data directory.
    pub dir: TempDir,
    /// `https://127.0.0.1:PORT`.
    pub url: String,
    /// What `serve` prints.
    pub pin: String,
    task: JoinHandle<()>,
}

impl Drop for Central {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn bind(dir: &Path, deadlines: Deadlines) -> (Server, String) {
    let options = Options {
        data: dir.to_owned(),
        public_url: "https://central.test".to_owned(),
        steady: 0,
        report_every: 2,
        deadlines,
    };
    let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), &names, options).await.unwrap();
    let url = format!("https://{}", server.address().unwrap());
    (server, url)
}

impl Central {
    /// With one site.
    pub async fn start() -> Self {
        Self::start_with(Deadlines::default()).await
    }

    /// With one site and deadlines of one's own.
    pub async fn start_with(deadlines: Deadlines) -> Self {
        // Another test may have been first; both want the same provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let (server, url) = bind(dir.path(), deadlines).await;
        let pin = server.pin().to_owned();
        let central = Self { dir, url, pin, task: tokio::spawn(server.run()) };
        central.cli(&["site", "add", SITE, "--k3s-version", "v1.36.2+k3s1"]);
        central
    }

    /// Ends the service and starts it again on the same data.
    pub async fn restart(&mut self) {
        self.task.abort();
        let (server, url) = bind(self.dir.path(), Deadlines::default()).await;
        self.pin = server.pin().to_owned();
        self.url = url;
        self.task = tokio::spawn(server.run());
    }

    /// Runs the command line; gives what it printed.
    pub fn cli(&self, arguments: &[&str]) -> String {
        let (succeeded, stdout, stderr) = self.try_cli(arguments);
        assert!(succeeded, "edge-central {arguments:?}: {stderr}");
        stdout
    }

    /// Runs the command line; gives success, standard output and error.
    pub fn try_cli(&self, arguments: &[&str]) -> (bool, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edge-central"));
        let output = command.arg("--data").arg(self.dir.path()).args(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.success(), text(output.stdout), text(output.stderr))
    }

    /// The JSON of a command.
    pub fn cli_json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.cli(&[arguments, &["--json"]].concat())).unwrap()
    }

    /// A token for `uses` hosts that may be servers.
    pub fn server_token(&self, uses: &str) -> String {
        let arguments = ["token", "create", "--site", SITE, "--uses", uses, "--allow-server"];
        self.cli(&arguments).trim().to_owned()
    }

    /// A token for one host that may be an agent only.
    pub fn agent_token(&self) -> String {
        self.cli(&["token", "create", "--site", SITE]).trim().to_owned()
    }

    /// The node as `node list` shows it.
    pub fn node(&self, id: &str) -> Value {
        let nodes = self.cli_json(&["node", "list"]);
        nodes["nodes"].as_array().unwrap().iter().find(|node| node["id"] == id).unwrap().clone()
    }

    /// A client that trusts this service's authority.
    pub fn client(&self) -> ClientBuilder {
        let ca = std::fs::read(self.dir.path().join("ca.pem")).unwrap();
        let ca = Certificate::from_pem(&ca).unwrap();
        Client::builder().tls_certs_only([ca]).no_proxy().timeout(LONG)
    }

    /// Host `number` with a new key.
    pub fn host(&self, number: u8) -> Host {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap();
        let pem = key.serialize_pem() + &certificate.pem();
        let identity = Identity::from_pem(pem.as_bytes()).unwrap();
        Host {
            id: ids::node_id(&key.subject_public_key_info()),
            client: self.client().identity(identity).build().unwrap(),
            url: self.url.clone(),
            number,
            sequence: 0,
        }
    }

    /// A host that claimed with `token`.
    pub async fn claimed(&self, number: u8, token: &str) -> Host {
        let host = self.host(number);
        assert_eq!(host.claim(Some(token)).await.0, StatusCode::OK);
        host
    }
}

/// A host.
pub struct Host {
    /// Its node id.
    pub id: String,
    /// Shows its certificate.
    pub client: Client,
    /// Where the service is.
    pub url: String,
    number: u8,
    sequence: u64,
}

impl Host {
    /// Status and body of a claim.
    pub async fn claim(&self, token: Option<&str>) -> (StatusCode, Value) {
        answer(self.client.post(format!("{}/v1/claims", self.url)).json(&self.claim_body(token)).send().await)
            .await
    }

    /// The body of a claim.
    pub fn claim_body(&self, token: Option<&str>) -> Value {
        let mut body = json!({
            "protocol": 1, "agent_version": "0.1.0", "site": SITE, "boot_id": "boot-1",
            "node": {"name": format!("172-16-36-{}", self.number), "ip": format!("172.16.36.{}", self.number)},
            "facts": {"schema": 1},
        });
        if let Some(token) = token {
            body["enrol_token"] = json!(token);
        }
        body
    }

    /// Asks for its assignment.
    pub async fn ask(&self, generation: u64, wait: u64) -> Response {
        let url = format!("{}/v1/nodes/{}/assignment?generation={generation}&wait={wait}", self.url, self.id);
        self.client.get(url).send().await.unwrap()
    }

    /// Status of asking for an assignment that is not there.
    pub async fn ask_status(&self, generation: u64) -> u16 {
        self.ask(generation, 0).await.status().as_u16()
    }

    /// Its assignment, waiting until there is one; signature and content checked.
    pub async fn assignment(&self, generation: u64) -> (Payload, Assignment) {
        let response = self.ask(generation, 15).await;
        assert_eq!(response.status(), StatusCode::OK);
        let envelope: Envelope = response.json().await.unwrap();
        self.open(&envelope).await
    }

    /// Checks signature and content as a host does.
    pub async fn open(&self, envelope: &Envelope) -> (Payload, Assignment) {
        let (_, claim) = self.claim(None).await;
        let key = SigningKey::try_from(claim["signing_key"].as_str().unwrap().to_owned()).unwrap();
        let bytes = envelope.open(&[key]).unwrap();
        let payload: Payload = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(payload.node_id.as_deref(), Some(self.id.as_str()));
        assert_eq!(payload.site, SITE);
        (payload, role::parse_payload(&bytes).unwrap())
    }

    /// The next report, with `cluster` in it.
    pub fn report_body(&mut self, generation: u64, cluster: &Value) -> Value {
        self.sequence += 1;
        json!({
            "sequence": self.sequence, "boot_id": "boot-1", "generation": generation, "epoch": 1,
            "phase": "steady", "verdict": "healthy", "findings": [], "cluster": cluster,
            "versions": {}, "facts_digest": "", "clock": {},
        })
    }

    /// Sends a report; status and body of the answer.
    pub async fn send_report(&self, body: &Value) -> (StatusCode, Value) {
        let url = format!("{}/v1/nodes/{}/reports", self.url, self.id);
        answer(self.client.post(url).json(body).send().await).await
    }

    /// Sends the next report; the newest generation that the service has.
    pub async fn report(&mut self, generation: u64, cluster: Value) -> u64 {
        let body = self.report_body(generation, &cluster);
        let (status, answer) = self.send_report(&body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["generation"].as_u64().unwrap()
    }

    /// Reports that it joined the cluster whose CA hash is 64 times `digit`.
    pub async fn joined(&mut self, generation: u64, digit: &str) -> u64 {
        self.report(generation, json!({"ca_hash": digit.repeat(64), "etcd_member": "m", "init_started": 1}))
            .await
    }
}

async fn answer(response: reqwest::Result<Response>) -> (StatusCode, Value) {
    let response = response.unwrap();
    let status = response.status();
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or(Value::Null))
}

/// The code of a refusal.
pub fn code(body: &Value) -> &str {
    body["error"]["code"].as_str().unwrap()
}
