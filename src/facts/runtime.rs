//! containerd, k3s and our own files as they are now.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Fact;
use super::k3s_config::{DropIn, Effective, Layer, is_drop_in, with_files};
use super::mirrors::Mirrors;
use super::overrides::Override;
use super::upgrade::Attempt;
use crate::paths::K3S_CONFIG_DIR;

/// What runs on the host, and what our files hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// containerd.
    pub containerd: Containerd,
    /// k3s.
    pub k3s: K3s,
    /// Units by name: k3s, k3s-agent, containerd.
    pub units: BTreeMap<String, Fact<Unit>>,
    /// Files that we own or heed, by path. A path that was looked for and is
    /// not there is absent from the map.
    pub files: BTreeMap<String, FileFact>,
    /// Symbolic links that we own, by path, with their target.
    pub links: BTreeMap<String, String>,
    /// Generations on disk.
    pub generations: Generations,
    /// The pinned identity, when there is one.
    pub identity: Fact<Option<PinnedIdentity>>,
    /// CNI files of others, by name order, with their network's name.
    pub cni_files: Fact<Vec<String>>,
    /// Which registry mirrors answered in this boot.
    #[serde(default)]
    pub mirrors: Fact<Mirrors>,
}

impl Runtime {
    /// How often the unit `name` of k3s, without `.service`, ended by itself and was
    /// started again since its last start by a job. systemd counts the starts that the
    /// gate refused too, and the gate those that it let go.
    #[must_use]
    pub fn ends(&self, name: &str) -> u32 {
        let unit = self.units.get(name).and_then(|unit| unit.known());
        let restarts = unit.and_then(|unit| unit.restarts.known().copied()).unwrap_or(0);
        restarts.min(self.k3s.starts.unwrap_or(restarts))
    }
}

/// containerd as installed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Containerd {
    /// Binary of the unit's `ExecStart`; the package's own, not our drop-in's flags.
    pub binary: Fact<String>,
    /// Version as numbers.
    pub version: Fact<(u32, u32, u32)>,
    /// Directories that exist of the known CNI plugin directories.
    pub cni_bin_dirs: Fact<Vec<String>>,
    /// Type of the file system below containerd's root.
    pub root_fs: Fact<String>,
    /// SHA-256 of our configuration when containerd last started with it, as
    /// its gate recorded it in this boot, or the agent that started it.
    #[serde(default)]
    pub started_with: Fact<Option<String>>,
    /// Where runc is; `None`: nowhere that is known.
    #[serde(default)]
    pub runc: Fact<Option<String>>,
    /// Other programs that use the same daemon: `dockerd`.
    #[serde(default)]
    pub shared_with: Fact<Vec<String>>,
    /// Store that the package's own `/etc/containerd/config.toml` names.
    #[serde(default)]
    pub package_root: Fact<Option<String>>,
    /// CNI files of others that containerd cannot use, by name, with why.
    #[serde(default)]
    pub broken_networks: Fact<BTreeMap<String, String>>,
}

/// k3s as installed and as it last started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct K3s {
    /// Version of the binary that `/usr/local/bin/k3s` leads to.
    pub version: Fact<Option<String>>,
    /// Versions in our store, each with the SHA-256 that was verified.
    pub store: BTreeMap<String, String>,
    /// Effective values of `config.yaml` with all drop-ins, as on disk now.
    pub effective: Fact<Effective>,
    /// The operator's drop-ins, in the order in which k3s reads them.
    pub drop_ins: Fact<Vec<Layer>>,
    /// Effective values that the running k3s was started with.
    pub started_with: Fact<Option<Effective>>,
    /// Effective values that a person has accepted for the next start of a k3s that
    /// others started; absent once it was started anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Effective>,
    /// Binary that the running k3s was started from.
    #[serde(default)]
    pub started_binary: Fact<Option<String>>,
    /// Starts in a row that the gate let go since the last that it refused in this
    /// boot; absent where it recorded none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts: Option<u32>,
    /// Whether `server/db/etcd/member/wal` exists and holds something.
    pub has_datastore: Fact<bool>,
    /// First line of `server/db/etcd/name`.
    pub etcd_member: Fact<Option<String>>,
    /// Hash of `server/tls/server-ca.crt` by k3s's rule.
    pub ca_hash: Fact<Option<String>>,
    /// `server` and what lies in `agent`, as paths, quarantined ones too.
    #[serde(default)]
    pub remains: Fact<Vec<String>>,
    /// Whether `server/db/etcd/tombstone` exists: etcd has removed this member.
    #[serde(default)]
    pub tombstone: Fact<bool>,
    /// Whether `server/db/etcd/name` is there and holds nothing.
    #[serde(default)]
    pub etcd_name_empty: Fact<bool>,
    /// Files of its own that are there and hold nothing, as paths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub empty_files: Vec<String>,
    /// Each k3s of others that no take-over reaches, on a host that has no identity yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub strangers: Vec<Stranger>,
    /// The node's password and our copy of it.
    #[serde(default)]
    pub node_password: Fact<NodePassword>,
    /// What units, their drop-ins and environment files set beside the configuration.
    #[serde(default)]
    pub overrides: Fact<Vec<Override>>,
    /// Names the password in `server/token`, which k3s writes: the server token that
    /// it holds. Absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_token: Option<String>,
    /// Names the server token that the running k3s was started with, as which it
    /// knows who asks until its next start. Absent where its start recorded none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_token: Option<String>,
    /// The disk of a server's datastore, once it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_disk: Option<DataDisk>,
    /// The newest try of another version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<Attempt>,
}

impl Runtime {
    /// The operator's drop-ins with their files; none where they cannot be read.
    #[must_use]
    pub fn drop_ins(&self) -> Vec<DropIn<'_>> {
        let layers = self.k3s.drop_ins.known().map_or(&[][..], Vec::as_slice);
        let files = self.files.keys().map(String::as_str);
        let files = files.filter(|path| path.starts_with(K3S_CONFIG_DIR) && is_drop_in(path)).collect();
        with_files(layers, files)
    }
}

/// A k3s of others whose unit has another name, or that has none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stranger {
    /// Path of its unit file or of its script of init; empty where it has none.
    pub place: String,
    /// Its process, 0 for none.
    pub pid: u32,
    /// Starts at boot.
    pub enabled: bool,
}

/// How fast a disk makes small writes durable, as it was measured last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataDisk {
    /// How patient etcd must be with it: 0 as k3s sets it, more for a slow one.
    pub level: u8,
    /// 99th percentile of one write, in microseconds.
    pub p99_us: u64,
    /// Boot in which it was measured.
    pub boot_id: String,
    /// UUID or source of its file system, without blanks.
    pub disk: String,
}

impl DataDisk {
    /// Reads what [`fmt::Display`] gives; `None` when it is something else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let mut word = || words.next();
        let (level, p99_us) = (word()?.parse().ok()?, word()?.parse().ok()?);
        Some(Self { level, p99_us, boot_id: word()?.to_owned(), disk: word()?.to_owned() })
    }
}

impl fmt::Display for DataDisk {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{} {} {} {}", self.level, self.p99_us, self.boot_id, self.disk)
    }
}

/// `/etc/rancher/node/password` and our copy of it; never their content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePassword {
    /// The file is there and holds something.
    pub is_whole: bool,
    /// Our copy is there and holds something.
    pub has_copy: bool,
    /// Both hold the same.
    pub agree: bool,
}

/// What a unit was started with, as its gate records it in this boot in
/// `paths::started_with(unit)`: plain JSON, no secret in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartRecord {
    /// k3s: effective values of `config.yaml` with all drop-ins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective: Option<Effective>,
    /// k3s that others started: what a person has accepted for its next start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Effective>,
    /// k3s: target of `/usr/local/bin/k3s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<String>,
    /// k3s: starts in a row that the gate let go, this one included, since the last
    /// that it refused in this boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts: Option<u32>,
    /// k3s of a server: names the password in its token file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_token: Option<String>,
    /// containerd: SHA-256 of our configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// k3s: names the datastore as it was before the first start of `binary`, while
    /// that is being tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datastore: Option<String>,
    /// In the agent's own record of a job: main process that the job left; of k3s,
    /// whose jobs are only queued, the one before it, 0 for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main_pid: Option<u32>,
    /// In the agent's own record of a job of k3s: names the gate's record that was
    /// there before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<String>,
}

/// State of one unit, as systemd tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// `loaded`, `not-found`, `masked`, …
    pub load: String,
    /// `active`, `activating`, `inactive`, `failed`, …
    pub active: String,
    /// `running`, `start-pre`, `auto-restart`, `dead`, …
    pub sub: String,
    /// `enabled`, `disabled`, `masked`, `static`; empty when there is no file.
    pub file_state: String,
    /// Main process, 0 when there is none.
    pub main_pid: u32,
    /// Restarts since it was loaded; unknown on systemd before 235.
    pub restarts: Fact<u32>,
    /// Whether files changed since systemd read them.
    pub need_reload: bool,
    /// Program of the first `ExecStart`.
    pub exec: Option<String>,
    /// Drop-ins in force, by path.
    pub drop_ins: Vec<String>,
    /// Whether our check stands before its start, as systemd has it loaded.
    #[serde(default)]
    pub has_gate: Fact<bool>,
    /// Seconds since boot (monotonic) when it entered its state, 0 when never.
    pub since_monotonic_s: u64,
}

/// One file on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFact {
    /// Permission bits, for example 0o600.
    pub mode: u32,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of the content.
    pub sha256: String,
    /// The text, for files that cannot hold a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Generation directories on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generations {
    /// The one that `config.yaml` names, with the digest of its plan.
    pub current: Option<GenerationFact>,
    /// Highest number that exists; 0 when there is none.
    pub highest: u64,
}

/// One generation directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationFact {
    /// Its number.
    pub number: u64,
    /// Digest of what was rendered into it.
    pub digest: String,
}

/// Who this host is for good. Written in two steps, `assigned` then `joined`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedIdentity {
    /// Node id; absent for a host with a local assignment file.
    pub node_id: Option<String>,
    /// The machine room.
    pub site: String,
    /// Cluster name.
    pub cluster: String,
    /// Role, `server` or `agent`.
    pub role: crate::role::Role,
    /// Node name and hostname.
    pub node_name: String,
    /// Node IP.
    pub node_ip: std::net::IpAddr,
    /// Whether the hostname is ours to keep.
    pub manage_hostname: bool,
    /// Number of the datastore's life.
    pub epoch: u64,
    /// Epoch for which an initialisation was started on this host.
    #[serde(default)]
    pub init_started: Option<u64>,
    /// Hardware facts by class at the time of pinning.
    #[serde(default)]
    pub fingerprint: Fingerprint,
    /// Filled after the first READY.
    #[serde(default)]
    pub joined: Option<Joined>,
    /// Highest epoch of the site that this host knows of, from its own
    /// assignment or from a signed statement of a peer. A datastore of a lower
    /// one never starts.
    #[serde(default)]
    pub highest_epoch: u64,
    /// Interface that carried the node IP when the node was last healthy.
    #[serde(default)]
    pub nic: Option<PinnedNic>,
    /// A leave that has begun: nothing of k3s starts before it is done.
    #[serde(default)]
    pub retiring: Option<Retiring>,
    /// A server that leaves etcd before it stops being one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub departing: Option<Departing>,
}

/// How far a server has come that leaves etcd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departing {
    /// The step that was reached last.
    pub step: Departure,
    /// Full name of the member that goes, `NODE-12345678`.
    pub member: String,
}

/// A step on the way out of etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Departure {
    /// The cluster was asked to remove the member, or may have been.
    Asked,
    /// etcd has removed the member: nothing of this host's k3s starts any more.
    Left,
    /// Nothing in the cluster calls this Node a server any more.
    Tidied,
}

/// The interface of the node IP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedNic {
    /// Kernel name, for example `eth0`.
    pub name: String,
    /// Its permanent MAC, or the one in use where that is not known.
    pub mac: Option<String>,
    /// Bits of the network part of the node IP.
    pub prefix: u8,
}

/// A leave that has begun: the old life's files go to quarantine, then the new
/// identity is pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retiring {
    /// Number of the quarantine directories of this leave.
    pub number: u64,
    /// Why, for people.
    pub reason: String,
}

/// Hardware facts in classes, to tell the same machine from a copied disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Board UUID, lower case.
    #[serde(default)]
    pub uuid: Option<String>,
    /// Serials of product, board and chassis.
    pub board: Vec<String>,
    /// Permanent MACs.
    pub nics: Vec<String>,
    /// Disk serials.
    pub disks: Vec<String>,
}

/// What is known once the host has been Ready in its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// Hash of the cluster's CA.
    pub ca_hash: Option<String>,
    /// Full etcd member name; only the part before the last `-` is compared.
    pub etcd_member: Option<String>,
}

/// The pinned identity of a server that has not joined yet, for tests.
#[cfg(test)]
pub(crate) fn pinned_server() -> PinnedIdentity {
    PinnedIdentity {
        node_id: None,
        site: "hz-017".to_owned(),
        cluster: "hz-017".to_owned(),
        role: crate::role::Role::Server,
        node_name: "172-16-36-1".to_owned(),
        node_ip: std::net::Ipv4Addr::new(172, 16, 36, 1).into(),
        manage_hostname: true,
        epoch: 1,
        init_started: None,
        fingerprint: Fingerprint::default(),
        joined: None,
        highest_epoch: 1,
        nic: None,
        retiring: None,
        departing: None,
    }
}
