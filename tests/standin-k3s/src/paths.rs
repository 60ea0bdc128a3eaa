//! Owns the names of all files and the hidden variables that move them for
//! tests (`K3S_STANDIN_ROOT`, `K3S_STANDIN_LOOPBACK`). It reads no file.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

/// Prefix of `/etc/rancher` and of the default data directory; empty in a host.
pub fn rooted(path: &str) -> PathBuf {
    match std::env::var("K3S_STANDIN_ROOT") {
        Ok(root) if !root.is_empty() => PathBuf::from(format!("{root}{path}")),
        _ => PathBuf::from(path),
    }
}

/// The address used wherever k3s uses 127.0.0.1, so that several stand-ins fit
/// into one network namespace.
pub fn loopback() -> IpAddr {
    std::env::var("K3S_STANDIN_LOOPBACK")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// `/etc/rancher/k3s/config.yaml`, below the test root if there is one.
pub fn default_config() -> PathBuf {
    rooted("/etc/rancher/k3s/config.yaml")
}

/// `/etc/rancher/k3s/k3s.yaml`: the admin kubeconfig of a server.
pub fn kubeconfig() -> PathBuf {
    rooted("/etc/rancher/k3s/k3s.yaml")
}

/// `/etc/rancher/node/password`: outside the data directory, the host's proof
/// of its node name.
pub fn node_password() -> PathBuf {
    rooted("/etc/rancher/node/password")
}

/// `/etc/rancher/node/id`: suffix of the node name with `with-node-id`.
pub fn node_id() -> PathBuf {
    rooted("/etc/rancher/node/id")
}

/// The data directory `D` and the files below it.
#[derive(Debug, Clone)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// `None` means `/var/lib/rancher/k3s`, below the test root if there is one.
    pub fn new(configured: Option<&str>) -> Self {
        Self(configured.map_or_else(|| rooted("/var/lib/rancher/k3s"), PathBuf::from))
    }

    /// Any file below `D/server`.
    pub fn server(&self, name: &str) -> PathBuf {
        self.0.join("server").join(name)
    }

    /// Any file below `D/server/tls`.
    pub fn tls(&self, name: &str) -> PathBuf {
        self.0.join("server/tls").join(name)
    }

    /// Any file below `D/agent`.
    pub fn agent(&self, name: &str) -> PathBuf {
        self.0.join("agent").join(name)
    }

    /// Any file below `D/server/db/etcd`.
    pub fn etcd(&self, name: &str) -> PathBuf {
        self.0.join("server/db/etcd").join(name)
    }

    /// The write-ahead log directory: its existence alone means "initialised"
    /// (k3s: pkg/etcd/etcd.go IsInitialized).
    pub fn wal(&self) -> PathBuf {
        self.etcd("member/wal")
    }

    /// The stand-in's own record of the settings that it really runs with.
    pub fn record(&self) -> PathBuf {
        self.0.join("standin-state.json")
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }
}
