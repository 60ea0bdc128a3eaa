//! Owns what the merged values mean: names, addresses, token, the settings
//! that all servers must share, and the record of what the stand-in really
//! runs with. It starts nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::config::Values;
use crate::flags::Scope;
use crate::paths::DataDir;
use crate::{durable, log, paths, pki};

/// The settings in force.
#[derive(Clone)]
pub struct Settings {
    /// `Scope::Server` or `Scope::Agent`.
    pub role: Scope,
    /// `D`.
    pub data: DataDir,
    /// `node-name`, else the host name, lower case (k3s: pkg/util/net.go).
    pub node_name: String,
    /// `node-ip`, else the address of the default route; never empty.
    pub node_ips: Vec<IpAddr>,
    /// `server`, as written.
    pub server: Option<String>,
    /// Token after `token-file`; empty when there is none.
    pub token: String,
    /// Agent token after `agent-token-file`.
    pub agent_token: String,
    /// Path of the CRI socket; `None` means the embedded containerd.
    pub cri: Option<PathBuf>,
    /// All values as merged.
    pub values: Values,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("node_name", &self.node_name).finish_non_exhaustive()
    }
}

impl Settings {
    /// Gives the values their meaning; waits for token files as k3s does.
    pub fn new(role: Scope, values: Values) -> Result<Self> {
        one_of_a_family(&values)?;
        let data = DataDir::new(values.text("data-dir"));
        let cri = values.text("container-runtime-endpoint").filter(|text| !text.is_empty());
        Ok(Self {
            role,
            node_name: node_name(&values)?,
            node_ips: node_ips(&values)?,
            server: values.text("server").filter(|text| !text.is_empty()).map(str::to_owned),
            token: secret(&values, "token", "token-file")?,
            agent_token: secret(&values, "agent-token", "agent-token-file")?,
            cri: cri.map(|text| PathBuf::from(text.trim_start_matches("unix://"))),
            data,
            values,
        })
    }

    /// The first node IP: the etcd address (k3s: pkg/etcd/etcd.go).
    pub fn ip(&self) -> IpAddr {
        self.node_ips.first().copied().unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST))
    }

    /// Port of supervisor and API.
    pub fn port(&self) -> u16 {
        self.number("https-listen-port", 6443)
    }

    /// Port of the agent's load balancer on loopback.
    pub fn lb_port(&self) -> u16 {
        self.number("lb-server-port", 6444)
    }

    /// A port-sized number or its default.
    fn number(&self, key: &str, default: u16) -> u16 {
        self.values.text(key).and_then(|text| text.parse().ok()).unwrap_or(default)
    }

    /// Address of the listener on 6443.
    pub fn bind(&self) -> String {
        let address = self.values.text("bind-address").unwrap_or("0.0.0.0");
        format!("{address}:{}", self.port())
    }

    /// The etcd peer URL of this host.
    pub fn peer_url(&self) -> String {
        format!("https://{}:2380", self.ip())
    }

    /// `host:port` of `server`, which must be an https URL.
    pub fn server_address(&self) -> Result<String> {
        let url = self.server.as_deref().context("--server is required")?;
        let rest = url.strip_prefix("https://").with_context(|| {
            format!("--server {url} is not a valid url: only https:// URLs are supported")
        })?;
        let rest = rest.trim_end_matches('/');
        let bare = rest.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err());
        Ok(if bare { format!("{rest}:443") } else { rest.into() })
    }

    /// A list setting or its default, joined by commas.
    fn joined(&self, key: &str, default: &str) -> String {
        let list = self.values.list(key);
        if list.is_empty() { default.into() } else { list.join(",") }
    }

    /// What k3s compares between servers at a join (k3s: pkg/daemons/config/types.go
    /// CriticalControlArgs).
    pub fn critical(&self) -> BTreeMap<String, String> {
        let mut map: BTreeMap<String, String> = BTreeMap::new();
        let mut put = |key: &str, value: String| map.insert(key.into(), value);
        for (key, default) in [
            ("cluster-cidr", "10.42.0.0/16"),
            ("service-cidr", "10.43.0.0/16"),
            ("cluster-dns", "10.43.0.10"),
            ("cluster-domain", "cluster.local"),
            ("flannel-backend", "vxlan"),
            ("egress-selector-mode", "agent"),
            ("secrets-encryption-provider", "aescbc"),
        ] {
            put(key, self.joined(key, default));
        }
        for key in [
            "disable-cloud-controller",
            "disable-helm-controller",
            "disable-network-policy",
            "embedded-registry",
            "flannel-external-ip",
            "flannel-ipv6-masq",
            "secrets-encryption",
            "supervisor-metrics",
        ] {
            put(key, self.values.on(key).to_string());
        }
        map
    }

    /// Writes what is in force to `D/standin-state.json`, without secrets, so
    /// that a test sees a start on defaults.
    pub fn record(&self, datastore: &str) -> Result<()> {
        let mut value = self.public();
        if let Some(map) = value.as_object_mut() {
            map.insert("datastore".into(), datastore.into());
        }
        durable::write(&self.data.record(), &serde_json::to_vec_pretty(&value)?, 0o600)
    }

    fn public(&self) -> Value {
        let files: Vec<String> = self.values.files.iter().map(|path| path.display().to_string()).collect();
        let mut shown = self.values.all().clone();
        shown.retain(|key, _| !is_secret(key));
        json!({
            "standin": true,
            "role": if self.role == Scope::Server { "server" } else { "agent" },
            "config_files": files,
            "defaults_only": self.values.all().is_empty(),
            "node_name": self.node_name,
            "node_ips": self.node_ips,
            "server": self.server,
            "critical": self.critical(),
            "values": shown,
            "warnings": self.values.warnings,
        })
    }

    /// `k3s.io/node-args` with secrets masked (k3s: pkg/nodeconfig/nodeconfig.go).
    pub fn node_args(&self) -> Value {
        let word = if self.role == Scope::Server { "server" } else { "agent" };
        let mut words = vec![word.to_owned()];
        for (key, values) in self.values.all() {
            for value in values {
                words.push(format!("--{key}"));
                words.push(if is_secret(key) { "********".into() } else { value.clone() });
            }
        }
        json!(words)
    }
}

fn is_secret(key: &str) -> bool {
    const SECRET: &[&str] = &[
        "agent-token",
        "datastore-endpoint",
        "etcd-s3-access-key",
        "etcd-s3-secret-key",
        "token",
        "vpn-auth",
    ];
    SECRET.contains(&key)
}

/// Recomputed at every start; k3s keeps no previous name (k3s: pkg/util/net.go).
fn node_name(values: &Values) -> Result<String> {
    let name = match values.text("node-name").filter(|name| !name.is_empty()) {
        Some(name) => name.to_owned(),
        None => nix::unistd::gethostname()?.to_string_lossy().into_owned(),
    };
    let mut name = name.to_lowercase();
    if values.on("with-node-id") {
        name = format!("{name}-{}", node_id()?);
    }
    Ok(name)
}

fn node_id() -> Result<String> {
    let path = paths::node_id();
    if let Ok(id) = std::fs::read_to_string(&path) {
        return Ok(id.trim().into());
    }
    let id = pki::random_hex(4)?;
    durable::write(&path, id.as_bytes(), 0o600)?;
    Ok(id)
}

/// At most one network and one address of each family: with two the components do
/// not start (kubernetes: cmd/kube-apiserver/app/options/validation.go, validateClusterIPFlags;
/// cmd/kube-controller-manager/app/core.go; pkg/util/node). A value that stands in
/// a file and on the command line counts twice.
fn one_of_a_family(values: &Values) -> Result<()> {
    for key in ["service-cidr", "cluster-cidr", "node-ip"] {
        let list = values.list(key);
        let six = list.iter().filter(|text| text.contains(':')).count();
        if six > 1 || list.len() - six > 1 {
            bail!(
                "invalid {key} {list:?}: expected at most one IPv4 and one IPv6, must be of different IP family"
            );
        }
    }
    Ok(())
}

fn node_ips(values: &Values) -> Result<Vec<IpAddr>> {
    let list = values.list("node-ip");
    if list.is_empty() {
        return Ok(vec![default_route_ip()?]);
    }
    list.iter().map(|text| text.parse().with_context(|| format!("invalid ip format '{text}'"))).collect()
}

/// No packet is sent: connecting a UDP socket asks the kernel for its route.
fn default_route_ip() -> Result<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let route = socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr());
    Ok(route.context("unable to select an IP from default routes")?.ip())
}

/// The file's content overwrites the plain value; an empty file is an empty token.
fn secret(values: &Values, plain: &str, file: &str) -> Result<String> {
    match values.text(file).filter(|path| !path.is_empty()) {
        Some(path) => wait_for_file(Path::new(path)),
        None => Ok(values.text(plain).unwrap_or_default().into()),
    }
}

/// Four minutes, polling each 2 s (k3s: pkg/util/file.go).
fn wait_for_file(path: &Path) -> Result<String> {
    let deadline = Instant::now() + Duration::from_secs(240);
    loop {
        match std::fs::read_to_string(path) {
            Ok(text) => return Ok(text.trim().into()),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| path.display().to_string());
            }
            Err(_) if Instant::now() > deadline => {
                bail!("timed out waiting for file {:?} to be created", path.display().to_string())
            }
            Err(_) => {
                log::info(&format!("Waiting for file {:?} to be created", path.display().to_string()));
                std::thread::sleep(Duration::from_secs(2));
            }
        }
    }
}
