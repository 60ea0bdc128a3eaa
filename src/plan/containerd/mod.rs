//! containerd's configuration: our own complete file, named by `--config`.
//!
//! Owns schema choice (2 for every 1.x, 3 for every 2.x, never 4), the cgroup
//! driver that containerd and kubelet must agree on, CNI loopback and registry
//! hosts, and what counts as containerd having taken our file ([`dump`]). The
//! package's `config.toml` is left alone: merging differs between versions and a
//! missing file named by `--config` fails instead of running on defaults.

pub mod dump;
mod hosts;
pub mod keys;
pub mod render;
#[cfg(test)]
mod tests;

pub(super) use hosts::{files as host_files, removals, shadowed};
use toml::Value;

use super::Inputs;
use super::item::{PlannedFile, PlannedStorage};
use super::refusal::{Refusal, WaitingOn};
use crate::facts::HostFacts;
use crate::facts::runtime::Containerd;
use crate::facts::storage::Choice;
use crate::facts::system::CgroupVersion;
use crate::paths;
use crate::role::Duty;

/// Version of containerd: major, minor, patch.
pub type Version = (u32, u32, u32);

/// The oldest that we write a file for.
const OLDEST: Version = (1, 4, 0);
/// Where plugins are on a host that has none.
const CNI_BIN_DIR: &str = "/opt/cni/bin";
/// k3s unpacks its own plugins there when it starts, later than we look.
const K3S_DATA: &str = "/var/lib/rancher/";
/// Size of a new container's device; what is recorded of a host stays.
pub const BASE_IMAGE_SIZE: &str = "10GB";
/// Where every systemd lets services look for programs.
const SEARCH_PATH: [&str; 4] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];

/// What was decided about the container runtime.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The daemon's binary.
    pub binary: String,
    /// Its version.
    pub version: Version,
    /// The snapshotter, and its pool.
    pub choice: Choice,
    /// Whether runc puts containers below systemd's slices.
    pub systemd_cgroup: bool,
    /// Whether the host runs cgroup v1.
    pub cgroup_v1: bool,
    /// Directories with CNI plugins.
    pub cni_bin_dirs: Vec<String>,
    /// runc, where the daemon would not find it by itself.
    pub runc: Option<String>,
    /// Architecture of images: `amd64`, `arm64`.
    pub arch: String,
    /// Version of systemd, where it is known.
    pub systemd: Option<u32>,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// Decides from the installed containerd and the snapshotter.
pub(super) fn decide(
    inputs: Inputs<'_>,
    duty: &Duty,
    storage: &PlannedStorage,
) -> Result<Decision, WaitingOn> {
    let containerd = &inputs.facts.runtime.containerd;
    let missing = |what: &str, reason: Option<&str>| {
        WaitingOn::Containerd(format!(
            "{what}{}; install the distribution's containerd package",
            reason.unwrap_or_default()
        ))
    };
    let binary = containerd.binary.known().ok_or_else(|| missing("", containerd.binary.reason()))?;
    let version = *containerd
        .version
        .known()
        .ok_or_else(|| missing("containerd's version is not known: ", containerd.version.reason()))?;
    supported(version)?;
    shares_its_store(inputs.facts)?;
    let system = &inputs.facts.system;
    let cgroup = system.cgroup.known();
    let cgroup_v1 = cgroup.is_some_and(|cgroup| cgroup.version != CgroupVersion::V2);
    Ok(Decision {
        binary: binary.clone(),
        version,
        choice: storage.choice.clone(),
        // By the tree alone: see docs/containerd.md, "Control groups".
        systemd_cgroup: cgroup.is_some() && !cgroup_v1,
        cgroup_v1,
        cni_bin_dirs: cni_bin_dirs(containerd),
        runc: hidden_runc(containerd),
        arch: inputs.facts.hardware.arch.known().cloned().unwrap_or_else(|| "amd64".to_owned()),
        systemd: system.systemd.known().copied(),
        notes: notes(containerd, version, cgroup_v1, duty),
    })
}

fn supported(version: Version) -> Result<(), WaitingOn> {
    if version >= OLDEST && version.0 <= 2 {
        return Ok(());
    }
    let (major, minor, _) = version;
    Err(WaitingOn::Containerd(format!(
        "this version writes no configuration for containerd {major}.{minor}; install containerd 1.6 to 2.x, or upgrade edge-bootstrap"
    )))
}

/// dockerd keeps its containers in the same store: taking it away from under it
/// would lose them. Once our file is in force there is nothing left to lose.
fn shares_its_store(facts: &HostFacts) -> Result<(), Refusal> {
    let containerd = &facts.runtime.containerd;
    let Some(store) = containerd.package_root.known().and_then(Option::as_ref) else { return Ok(()) };
    let is_taken = facts.runtime.files.contains_key(paths::CONTAINERD_CONFIG);
    if !is_shared(containerd) || is_taken || store.trim_end_matches('/') == paths::CONTAINERD_ROOT {
        return Ok(());
    }
    Err(Refusal::new(
        "EB-containerd-shared",
        format!(
            "dockerd uses this containerd with its store at {store}, and k3s would be given one at {}",
            paths::CONTAINERD_ROOT
        ),
        "stop and disable docker on this host, or take `root` out of /etc/containerd/config.toml, and reboot",
    ))
}

fn is_shared(containerd: &Containerd) -> bool {
    containerd.shared_with.known().is_some_and(|others| !others.is_empty())
}

/// Those of the system; k3s's own only where the system has none, because they
/// come and go with k3s.
fn cni_bin_dirs(containerd: &Containerd) -> Vec<String> {
    let found = containerd.cni_bin_dirs.known().cloned().unwrap_or_default();
    let (k3s, system): (Vec<String>, Vec<String>) =
        found.into_iter().partition(|path| path.starts_with(K3S_DATA));
    let dirs = if system.is_empty() { k3s } else { system };
    if dirs.is_empty() { vec![CNI_BIN_DIR.to_owned()] } else { dirs }
}

fn hidden_runc(containerd: &Containerd) -> Option<String> {
    let runc = containerd.runc.known()?.as_ref()?;
    let (directory, name) = runc.rsplit_once('/')?;
    let is_found =
        name == "runc" && (SEARCH_PATH.contains(&directory) || ["/sbin", "/bin"].contains(&directory));
    (!is_found).then(|| runc.clone())
}

fn notes(containerd: &Containerd, version: Version, v1: bool, duty: &Duty) -> Vec<String> {
    let says = |said: bool, note: &str| said.then(|| note.to_owned());
    let mut notes: Vec<Option<String>> = vec![says(
        v1 && duty.k3s.version.at_least(35),
        "cgroup v1: the kubelet of Kubernetes 1.35 and newer is told not to refuse it; move this host to cgroup v2",
    )];
    notes.push(says(
        version < (1, 6, 0) && duty.k3s.version.at_least(26),
        "containerd before 1.6 does not speak the CRI of Kubernetes 1.26 and newer; upgrade containerd",
    ));
    notes.push(says(
        version < (1, 5, 0) && !duty.runtime.mirrors.is_empty(),
        "containerd before 1.5 does not read certs.d: the mirrors are not used",
    ));
    notes.push(says(
        is_shared(containerd),
        "dockerd uses this containerd too (shared): store and socket stay where they are, and a restart of containerd leaves its containers running",
    ));
    notes.into_iter().flatten().collect()
}

impl Decision {
    /// What the kubelet must be told so that both use the same cgroup driver
    /// (k3s#5738: k3s sets it only for its own containerd), and, on cgroup v1,
    /// so that it starts at all (kubernetes#134298).
    pub(super) fn kubelet_args(&self, _: Inputs<'_>, duty: &Duty) -> Vec<String> {
        let mut args = Vec::new();
        // containerd 2.x tells the kubelet by itself from Kubernetes 1.31 on.
        if self.systemd_cgroup && (self.version.0 < 2 || !duty.k3s.version.at_least(31)) {
            args.push("cgroup-driver=systemd".to_owned());
        }
        if self.cgroup_v1 && duty.k3s.version.at_least(35) {
            args.push("fail-cgroupv1=false".to_owned());
        }
        args
    }
}

/// containerd's own file and the loopback network.
pub(super) fn files(duty: &Duty, decision: &Decision) -> Vec<PlannedFile> {
    let config = render::config(decision, duty.runtime.sandbox_image.as_ref());
    vec![
        PlannedFile::public(paths::CONTAINERD_CONFIG, config, reason(decision)),
        PlannedFile::public(
            paths::CNI_LOOPBACK,
            LOOPBACK,
            "the CRI reports NetworkReady once one network is configured",
        ),
    ]
}

/// A network of others that containerd reads before ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignNetwork {
    /// What it is and what that means.
    pub words: String,
    /// containerd cannot use it, and looks no further: the CRI is not ready.
    pub blocks: bool,
}

/// containerd takes the first network by name; one of others may be before ours.
#[must_use]
pub fn foreign_network(facts: &HostFacts) -> Option<ForeignNetwork> {
    let ours = paths::CNI_LOOPBACK.rsplit('/').next()?;
    let files = facts.runtime.cni_files.known()?;
    let first = files.iter().find(|name| name.as_str() < ours)?;
    let name = first.split(": ").next().unwrap_or(first);
    let broken = facts.runtime.containerd.broken_networks.known().and_then(|broken| broken.get(name));
    let words = match broken {
        Some(why) => format!(
            "{}: {name} comes before our loopback network and {why}: containerd looks no further, and the node is not ready",
            paths::CNI_DIR
        ),
        None => format!(
            "{}: {first} comes before our loopback network, so containerd takes that one; it is left alone",
            paths::CNI_DIR
        ),
    };
    Some(ForeignNetwork { words, blocks: broken.is_some() })
}

/// `cniVersion` stays below 1.1.0: from there on containerd runs the plugin
/// before it calls the network ready.
const LOOPBACK: &str =
    "{\"cniVersion\":\"0.4.0\",\"name\":\"edge-loopback\",\"plugins\":[{\"type\":\"loopback\"}]}\n";

fn reason(decision: &Decision) -> String {
    let (major, minor, patch) = decision.version;
    let schema = if major == 1 { 2 } else { 3 };
    let cgroup = if decision.systemd_cgroup { "systemd cgroups" } else { "plain cgroups" };
    let snapshotter = decision.choice.snapshotter;
    format!("containerd {major}.{minor}.{patch} reads schema {schema}; {snapshotter}, {cgroup}")
}

fn text(value: &str) -> Value {
    Value::String(value.to_owned())
}

fn list(values: impl IntoIterator<Item = impl Into<String>>) -> Value {
    Value::Array(values.into_iter().map(|value| Value::String(value.into())).collect())
}
