//! Owns the kubelet part of both roles: node password, certificates, wait for
//! the runtime, registration, heartbeats (k3s: pkg/agent/run.go,
//! pkg/agent/config/config.go). It runs
//! no pod and judges the runtime by a connect to its socket only.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::flags::Scope;
use crate::http::{Reply, reason};
use crate::pki::{self, Pair};
use crate::settings::Settings;
use crate::store::{DUPLICATE_HOST, Node};
use crate::supervisor::{Heartbeat, NodeCerts, Phase, Supervisor};
use crate::tls::Client;
use crate::{api, durable, files, listen, log, paths};

const BEAT: Duration = Duration::from_secs(3);

/// The kubelet of one host.
pub struct Kubelet<'a> {
    /// Settings.
    pub settings: &'a Settings,
    /// `host:port` of supervisor and API as this host reaches them.
    pub address: String,
    /// CA of the servers, PEM.
    pub ca: String,
    /// Asks for certificates.
    pub client: Client,
    /// Member name of a server with etcd.
    pub member: Option<String>,
}

impl std::fmt::Debug for Kubelet<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubelet").field("address", &self.address).finish_non_exhaustive()
    }
}

/// From READY to the end of a k3s whose kubelet does not take its arguments.
const REFUSAL: Duration = Duration::from_secs(3);

/// All parts of one process must have the same level of logging; the kubelet begins
/// after the API server, and ends k3s when it finds another one (k3s:
/// pkg/daemons/control/server.go, Kubernetes: component-base/logs/api/v1).
fn agrees_on_logging(all: Option<&str>, kubelet: &[String]) -> bool {
    let own = kubelet.iter().filter_map(|arg| arg.strip_prefix("v=")).next_back();
    own.is_none_or(|own| own == all.unwrap_or("0"))
}

/// The kubelet of a server talks to its own supervisor on loopback.
pub fn run_on_server(settings: &Settings, server: &Arc<Supervisor>) {
    if !agrees_on_logging(settings.values.text("v"), &settings.values.list("kubelet-arg")) {
        while server.phase() != Phase::Ready {
            std::thread::sleep(Duration::from_millis(200));
        }
        std::thread::sleep(REFUSAL);
        log::shutdown("kubelet exited: the level of logging was set to another value before");
    }
    let address = format!("{}:{}", paths::loopback(), settings.port() + 1);
    let ca = server.server_ca.cert.clone();
    let client = match Client::new(&address, &ca, None) {
        Ok(client) => client.basic("node", &server.node_password),
        Err(error) => log::fatal(&format!("Error: {error:#}")),
    };
    let member = (!server.cluster.me.single).then(|| server.cluster.me.name.clone());
    let kubelet = Kubelet { settings, address, ca, client, member };
    kubelet.run(|| {}, |_| {});
}

impl Kubelet<'_> {
    /// Runs for ever; `registered` is called once, `learned` with the servers
    /// after each heartbeat.
    pub fn run(&self, registered: impl FnOnce(), learned: impl Fn(Vec<String>)) {
        let pair = self.certificates();
        self.wait_for_runtime();
        if let Err(error) = serve_health() {
            log::shutdown(&format!("kubelet exited: {error:#}"));
        }
        let client = match Client::new(&self.address, &self.ca, Some(&pair)) {
            Ok(client) => client,
            Err(error) => log::fatal(&format!("Error: {error:#}")),
        };
        while let Err(error) = self.register(&client) {
            log::info(&format!("Waiting for node {} to be registered: {error:#}", self.settings.node_name));
            std::thread::sleep(Duration::from_secs(2));
        }
        let mut registered = Some(registered);
        loop {
            match self.beat(&client) {
                Ok(servers) => learned(servers),
                Err(error) => log::warn(&format!("Unable to update node status: {error:#}")),
            }
            if let Some(call) = registered.take() {
                call();
            }
            std::thread::sleep(BEAT);
        }
    }

    /// Loops for ever on a refused node password, as k3s does.
    fn certificates(&self) -> Pair {
        loop {
            match self.try_certificates() {
                Ok(pair) => return pair,
                Err(error) => log::info(&format!(
                    "Waiting to retrieve agent configuration; server is not ready: {error:#}"
                )),
            }
            let pause = if self.settings.role == Scope::Server { 1 } else { 5 };
            std::thread::sleep(Duration::from_secs(pause));
        }
    }

    fn try_certificates(&self) -> Result<Pair> {
        for key in ["client-kubelet.key", "serving-kubelet.key"] {
            files::whole_key(&self.settings.data.agent(key))?;
        }
        let name = &self.settings.node_name;
        let ips: Vec<String> = self.settings.node_ips.iter().map(ToString::to_string).collect();
        let (password, ips) = (node_password()?, ips.join(","));
        let headers =
            [("k3s-Node-Name", name.as_str()), ("k3s-Node-Password", &password), ("k3s-Node-IP", &ips)];
        let reply = self.client.send("POST", &format!("/standin/certs/{name}"), &headers, Vec::new())?;
        match reply.status {
            200 => {}
            403 => bail!(DUPLICATE_HOST),
            code => bail!("https://{}/v1-k3s/serving-kubelet.crt: {code} {}", self.address, reason(code)),
        }
        let certs: NodeCerts = serde_json::from_slice(&reply.body)?;
        self.write(&certs)?;
        Ok(Pair { cert: certs.client.0, key: certs.client.1 })
    }

    fn write(&self, certs: &NodeCerts) -> Result<()> {
        let data = &self.settings.data;
        let files = [
            ("client-kubelet.key", &certs.client.1, 0o600),
            ("client-kubelet.crt", &certs.client.0, 0o600),
            ("serving-kubelet.key", &certs.serving.1, 0o600),
            ("serving-kubelet.crt", &certs.serving.0, 0o644),
            ("client-ca.crt", &certs.client_ca, 0o644),
            ("server-ca.crt", &certs.server_ca, 0o644),
        ];
        for (name, text, mode) in files {
            durable::write(&data.agent(name), text.as_bytes(), mode)?;
        }
        let path = |name: &str| data.agent(name).display().to_string();
        let kubeconfig = format!(
            "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority: {}\n    server: \
             https://{}\n  name: local\ncontexts:\n- context:\n    cluster: local\n    user: user\n  \
             name: Default\ncurrent-context: Default\nkind: Config\nusers:\n- name: user\n  user:\n    \
             client-certificate: {}\n    client-key: {}\n",
            path("server-ca.crt"),
            self.address,
            path("client-kubelet.crt"),
            path("client-kubelet.key"),
        );
        durable::write(&data.agent("kubelet.kubeconfig"), kubeconfig.as_bytes(), 0o600)
    }

    /// Each second; the first miss is not logged (k3s: pkg/agent/cri/cri.go).
    fn wait_for_runtime(&self) {
        let mut missed = false;
        while let Err(error) = self.runtime() {
            if missed {
                log::info(&format!("Waiting for CRI startup: {error:#}"));
            }
            missed = true;
            std::thread::sleep(Duration::from_secs(1));
        }
    }

    fn runtime(&self) -> Result<()> {
        let Some(path) = &self.settings.cri else { return Ok(()) };
        UnixStream::connect(path)
            .map(drop)
            .with_context(|| format!("rpc error: code = Unavailable desc = dial unix {}", path.display()))
    }

    fn register(&self, client: &Client) -> Result<()> {
        let reply = client.post(&format!("/standin/nodes/{}", self.settings.node_name), &self.node())?;
        done(&reply)
    }

    /// Heartbeat; the answer names the servers.
    fn beat(&self, client: &Client) -> Result<Vec<String>> {
        let runtime = self.runtime();
        let beat = Heartbeat {
            ready: runtime.is_ok(),
            message: runtime
                .err()
                .map(|error| format!("container runtime is down: {error:#}"))
                .unwrap_or_default(),
        };
        let path = format!("/standin/nodes/{}/status", self.settings.node_name);
        let reply = client.post(&path, &beat)?;
        done(&reply)?;
        Ok(serde_json::from_slice(&reply.body)?)
    }

    fn node(&self) -> Node {
        Node {
            ips: self.settings.node_ips.clone(),
            labels: self.labels(),
            annotations: self.annotations(),
            taints: self.settings.values.list("node-taint"),
            version: api::version(),
            ..Node::default()
        }
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let name = &self.settings.node_name;
        let mut labels: BTreeMap<String, String> = [
            ("kubernetes.io/hostname", name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("node.kubernetes.io/instance-type", "k3s"),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
        for label in self.settings.values.list("node-label") {
            let (key, value) = label.split_once('=').unwrap_or((label.as_str(), ""));
            labels.insert(key.into(), value.into());
        }
        if self.settings.role == Scope::Server {
            labels.insert("node-role.kubernetes.io/control-plane".into(), "true".into());
        }
        if self.member.is_some() {
            labels.insert("node-role.kubernetes.io/etcd".into(), "true".into());
        }
        labels
    }

    /// k3s: pkg/nodeconfig/nodeconfig.go, pkg/etcd/metadata_controller.go.
    fn annotations(&self) -> BTreeMap<String, String> {
        let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
        let ip = self.settings.ip().to_string();
        let mut all = BTreeMap::from([
            ("k3s.io/hostname".to_owned(), host.unwrap_or_default()),
            ("k3s.io/internal-ip".to_owned(), ip.clone()),
            ("k3s.io/node-args".to_owned(), self.settings.node_args().to_string()),
        ]);
        if let Some(member) = &self.member {
            all.insert("etcd.k3s.cattle.io/node-name".into(), member.clone());
            all.insert("etcd.k3s.cattle.io/node-address".into(), ip);
        }
        all
    }
}

fn done(reply: &Reply) -> Result<()> {
    match reply.status {
        200 => Ok(()),
        code => bail!("{code} {}: {}", reason(code), reply.as_text()),
    }
}

/// Made when missing; an empty file stays empty and is refused by the server.
fn node_password() -> Result<String> {
    let path = paths::node_password();
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim().into()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let password = pki::random_hex(16)?;
            durable::write(&path, format!("{password}\n").as_bytes(), 0o600)?;
            Ok(password)
        }
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// `http://127.0.0.1:10248/healthz`.
fn serve_health() -> Result<()> {
    let listener = listen::bind(&format!("{}:10248", paths::loopback()))?;
    listen::plain(listener, |request| match request.path.as_str() {
        "/healthz" => Reply::text(200, "ok"),
        _ => Reply::text(404, "404 page not found"),
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubelet_of_a_server_takes_the_level_of_logging_of_all_and_no_other() {
        let agrees = |all, args: &[&str]| {
            let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
            agrees_on_logging(all, &args)
        };
        assert!(agrees(None, &["max-pods=110"]) && agrees(None, &["v=0"]) && agrees(Some("2"), &["v=2"]));
        assert!(!agrees(None, &["v=1"]) && !agrees(Some("2"), &["v=2", "v=1"]));
    }
}
