//! What a person sets for a site.
//!
//! Owns the stored shape and its defaults. The values travel into assignments
//! unchanged; [`crate::assign`] has the finished payload validated by the same
//! rules as the host.

use std::collections::BTreeMap;

use edge_bootstrap::wire::assignment::{Image, Manifest, Mirror, Policy, Snapshots, Trust};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Settings of one site.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct SiteSettings {
    /// Name of the cluster.
    pub cluster_name: String,
    /// Pod network.
    pub cluster_cidr: String,
    /// Service network.
    pub service_cidr: String,
    /// Further names and addresses for the cluster's serving certificate.
    pub tls_san: Vec<String>,
    /// k3s to run, for example `v1.36.2+k3s1`; without it nobody gets an assignment.
    pub k3s_version: Option<String>,
    /// Further k3s keys.
    pub k3s_config: BTreeMap<String, Value>,
    /// `auto`, `overlayfs` or `devmapper`.
    pub snapshotter: Option<String>,
    /// Pause image.
    pub sandbox_image: Option<String>,
    /// Registry mirrors.
    pub mirrors: Vec<Mirror>,
    /// Archives to import.
    pub images: Vec<Image>,
    /// Scheduled etcd snapshots.
    pub snapshots: Option<Snapshots>,
    /// Files for the room's one manifest writer.
    pub manifests: Vec<Manifest>,
    /// Who else may sign and serve.
    pub trust: Trust,
    /// What agents may do by themselves.
    pub policy: Policy,
}

impl Default for SiteSettings {
    fn default() -> Self {
        Self {
            cluster_name: String::new(),
            cluster_cidr: "10.253.0.0/16".to_owned(),
            service_cidr: "10.254.0.0/16".to_owned(),
            tls_san: Vec::new(),
            k3s_version: None,
            k3s_config: BTreeMap::new(),
            snapshotter: None,
            sandbox_image: None,
            mirrors: Vec::new(),
            images: Vec::new(),
            snapshots: None,
            manifests: Vec::new(),
            trust: Trust::default(),
            policy: Policy::default(),
        }
    }
}
