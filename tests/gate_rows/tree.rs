//! A file tree that stands for a pinned host before a start of k3s.

use edge_bootstrap::allow::{self, Allowance};
use edge_bootstrap::facts::HostFacts;
use edge_bootstrap::facts::ca::ca_hash_of_pem;
use edge_bootstrap::facts::runtime::PinnedIdentity;
use edge_bootstrap::gate::{self, Verdict};
use edge_bootstrap::plan::Refusal;
use edge_bootstrap::sys::{Clock, Root};
use edge_bootstrap::{identity, observe, paths};
use serde_json::{Value, json};

pub const ROOT_CA: &str = include_str!("../../src/facts/testdata/ca-root.pem");
pub const OTHER_CA: &str = include_str!("../../src/facts/testdata/ca-server.pem");
pub const TOKEN: &str = "/var/lib/edge-bootstrap/generations/1/token";
pub const WAL: &str = "/var/lib/rancher/k3s/server/db/etcd/member/wal/0-0.wal";
/// An environment file of k3s's unit.
pub const PEER: &str = "/etc/default/k3s";
const NODE: &str = "node-name: \"172-16-36-1\"\nnode-ip: 172.16.36.1\ncluster-cidr: 10.253.0.0/16\nservice-cidr: 10.254.0.0/16\nflannel-backend: none\n";
const AGENT: &str = "node-name: \"172-16-36-1\"\nnode-ip: 172.16.36.1\n";

pub struct Host {
    _directory: tempfile::TempDir,
    pub root: Root,
    unit: &'static str,
}

impl Host {
    /// A pinned server that never was READY, with a token and no way to begin.
    pub fn server() -> Self {
        let host = Self::new("server", "k3s.service");
        host.config("")
    }

    /// A pinned agent with its server.
    pub fn agent() -> Self {
        let host = Self::new("agent", "k3s-agent.service");
        host.config_text(&format!("{AGENT}token-file: {TOKEN}\nserver: https://172.16.36.2:6443\n"))
    }

    /// A pinned server, for the gate before containerd.
    pub fn containerd() -> Self {
        Self { unit: "containerd.service", ..Self::server() }
    }

    /// Puts this table of mounts in its place.
    pub fn mounted(self, table: &str) -> Self {
        self.with("/proc/self/mountinfo", table)
    }

    fn new(role: &str, unit: &'static str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        let identity = json!({
            "node_id": "node-a", "site": "hz-017", "cluster": "hz-017", "role": role,
            "node_name": "172-16-36-1", "node_ip": "172.16.36.1", "manage_hostname": true,
            "epoch": 1, "highest_epoch": 1,
        });
        let host = Self { _directory: directory, root, unit }
            .with("/proc/sys/kernel/hostname", "172-16-36-1\n")
            .with("/proc/sys/kernel/random/boot_id", "this-boot\n")
            .with("/.facts/addresses", "eth0 172.16.36.1/24\n")
            .with(TOKEN, "K10aa::server:x\n");
        identity::pin(&host.root, &serde_json::from_value(identity).unwrap()).unwrap();
        host
    }

    /// Puts a file in its place.
    pub fn with(self, path: &str, text: &str) -> Self {
        let real = self.root.path(path);
        std::fs::create_dir_all(real.parent().unwrap()).unwrap();
        std::fs::write(real, text).unwrap();
        self
    }

    pub fn without(self, path: &str) -> Self {
        std::fs::remove_file(self.root.path(path)).unwrap();
        self
    }

    pub fn with_ca(self, pem: &str) -> Self {
        self.with("/var/lib/rancher/k3s/server/tls/server-ca.crt", pem)
    }

    /// Puts `config.yaml` in its place, with `extra` lines.
    pub fn config(self, extra: &str) -> Self {
        self.config_text(&format!("{NODE}token-file: {TOKEN}\n{extra}"))
    }

    pub fn config_without_token(self, extra: &str) -> Self {
        self.config_text(&format!("{NODE}{extra}"))
    }

    /// An agent's configuration without a server.
    pub fn bare_config(self, extra: &str) -> Self {
        self.config_text(&format!("{AGENT}token-file: {TOKEN}\n{extra}"))
    }

    pub fn config_text(self, text: &str) -> Self {
        self.with(paths::K3S_CONFIG, text)
    }

    /// Has been READY in the cluster of [`ROOT_CA`].
    pub fn joined(self) -> Self {
        let ca_hash = ca_hash_of_pem(ROOT_CA.as_bytes());
        self.pinned(|identity| {
            identity["joined"] = json!({"ca_hash": ca_hash, "etcd_member": "172-16-36-1-0a1b2c3d"});
        })
    }

    /// Changes what is pinned.
    pub fn pinned(self, change: impl FnOnce(&mut Value)) -> Self {
        let mut value = serde_json::to_value(self.identity()).unwrap();
        change(&mut value);
        identity::pin(&self.root, &serde_json::from_value(value).unwrap()).unwrap();
        self
    }

    pub fn identity(&self) -> PinnedIdentity {
        identity::load(&self.root).unwrap().value().unwrap()
    }

    pub fn facts(&self) -> HostFacts {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(observe::host(&self.root, Clock::System, &std::collections::BTreeMap::new()))
    }

    pub fn allow(&self, code: &str) {
        let allowance = Allowance {
            code: code.to_owned(),
            since: 0,
            until: u64::MAX,
            by: "test".to_owned(),
            reason: "a test".to_owned(),
        };
        allow::add(&self.root, Clock::System, allowance).unwrap();
    }

    pub fn verdict(&self) -> Verdict {
        gate::check(&self.root, Clock::System, self.unit)
    }

    pub fn goes(&self) -> Verdict {
        let verdict = self.verdict();
        assert_eq!(verdict.refusal, None);
        verdict
    }

    pub fn refused(&self, code: &str) -> Refusal {
        let refusal = self.verdict().refusal;
        assert_eq!(refusal.as_ref().map(|refusal| refusal.code.as_str()), Some(code), "{refusal:?}");
        refusal.unwrap()
    }

    /// Refused with this code, or not at all.
    pub fn says(&self, code: Option<&str>, what: &str) {
        let refusal = self.verdict().refusal;
        assert_eq!(refusal.as_ref().map(|refusal| refusal.code.as_str()), code, "{what}: {refusal:?}");
    }
}
