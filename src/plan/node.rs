//! What the host itself needs: k3s's binary, kernel settings, modules, names.
//!
//! Owns where the binary comes from and the files that are not k3s's or
//! containerd's own.

use super::item::{PlannedArtifact, PlannedFile, PlannedLink};
use super::refusal::WaitingOn;
use super::{Inputs, hosts, upgrade};
use crate::paths;
use crate::role::{Artifact, Duty};

/// Kernel settings, each with its reason.
const SYSCTL: &str = "\
# Written by edge-bootstrap.
# Every pod and its watchers take inotify instances; the default of 128 is used up by a few.
fs.inotify.max_user_instances = 8192
fs.inotify.max_user_watches = 524288
# A host without a person beside it must come back by itself.
kernel.panic = 10
kernel.panic_on_oops = 1
# The kubelet sets these itself and fails where it must not.
vm.overcommit_memory = 1
vm.panic_on_oom = 0
# One key per container; the default of 200 users' keys is too few.
kernel.keys.root_maxkeys = 1000000
kernel.keys.root_maxbytes = 25000000
";

/// Modules that k3s and containerd use.
const MODULES: &str = "\
# Written by edge-bootstrap.
overlay
br_netfilter
nf_conntrack
";

/// Where k3s's binary comes from.
#[derive(Debug, Clone)]
pub(super) enum Binary {
    /// In our store, by version; fetched when it is not there yet.
    Store { path: String, fetch: Option<PlannedArtifact> },
    /// A person put the right version at the link's place.
    Installed,
}

impl Binary {
    /// The path that the running k3s must come from, when it is ours.
    pub fn binary(&self) -> Option<&str> {
        match self {
            Self::Store { path, .. } => Some(path),
            Self::Installed => None,
        }
    }

    /// What must be fetched.
    pub fn wanted(&self) -> Option<PlannedArtifact> {
        match self {
            Self::Store { fetch, .. } => fetch.clone(),
            Self::Installed => None,
        }
    }
}

/// Decides where the binary comes from: the store, an artifact, or the file
/// that a person installed.
pub(super) fn k3s_binary(inputs: Inputs<'_>, duty: &Duty) -> Result<Binary, WaitingOn> {
    let version = &duty.k3s.version;
    let path = paths::k3s_binary(version.as_str());
    let runtime = &inputs.facts.runtime.k3s;
    let arch = inputs.facts.hardware.arch.known().map_or("amd64", String::as_str);
    let artifact = duty.k3s.artifacts.get(arch);
    let stored = runtime.store.get(version.as_str());
    match (stored, artifact) {
        (Some(sha256), Some(artifact)) if *sha256 == artifact.sha256.as_str() => {
            Ok(Binary::Store { path, fetch: None })
        }
        (_, Some(artifact)) => {
            Ok(Binary::Store { fetch: Some(fetch(artifact, (version.as_str(), arch), &path)), path })
        }
        (Some(_), None) => Ok(Binary::Store { path, fetch: None }),
        (None, None) => installed(inputs, duty, arch),
    }
}

fn fetch(artifact: &Artifact, (version, arch): (&str, &str), path: &str) -> PlannedArtifact {
    PlannedArtifact {
        title: format!("k3s {version}"),
        path: path.to_owned(),
        urls: artifact.urls.clone(),
        sha256: artifact.sha256.clone(),
        version: version.to_owned(),
        arch: arch.to_owned(),
    }
}

/// For which architectures there is one instead, in words.
fn others(duty: &Duty) -> String {
    let names: Vec<&str> = duty.k3s.artifacts.keys().map(String::as_str).collect();
    if names.is_empty() { String::new() } else { format!(" (it names {})", names.join(", ")) }
}

fn installed(inputs: Inputs<'_>, duty: &Duty, arch: &str) -> Result<Binary, WaitingOn> {
    let wanted = duty.k3s.version.as_str();
    let found = inputs.facts.runtime.k3s.version.known().and_then(Option::as_deref);
    if let Some(path) = upgrade::kept(inputs.facts, &duty.k3s.version) {
        return Ok(Binary::Store { path: path.to_owned(), fetch: None });
    }
    match found {
        Some(found) if found == wanted => Ok(Binary::Installed),
        Some(found) => Err(WaitingOn::K3s(format!(
            "{} is {found}, the assignment wants {wanted} and names no artifact for {arch}{}; install that version",
            paths::K3S_LINK,
            others(duty)
        ))),
        None => Err(WaitingOn::K3s(format!(
            "there is no {} and the assignment names no artifact for {arch}{}; install k3s {wanted} there",
            paths::K3S_LINK,
            others(duty)
        ))),
    }
}

/// Kernel settings, modules, names of the room.
pub(super) fn files(inputs: Inputs<'_>, duty: &Duty) -> Vec<PlannedFile> {
    let mut files = vec![
        PlannedFile::public(paths::SYSCTL, SYSCTL, "kernel settings that a node needs"),
        PlannedFile::public(paths::MODULES, MODULES, "modules that k3s and containerd use"),
    ];
    files.extend(hosts::file(inputs, duty));
    files
}

/// `k3s` leads to the store; `kubectl`, `crictl` and `ctr` to `k3s`, where
/// nobody else has them (k3s: install.sh create_symlinks): containerd's package
/// brings a `ctr` that knows its socket.
pub(super) fn links(binary: &Binary, inputs: Inputs<'_>) -> Vec<PlannedLink> {
    let link = |path: &str, target: &str, reason: &str| PlannedLink {
        path: path.to_owned(),
        target: target.to_owned(),
        reason: reason.to_owned(),
    };
    let mut links = Vec::new();
    if let Binary::Store { path, .. } = binary {
        links.push(link(paths::K3S_LINK, path, "the version of the assignment"));
    }
    for tool in ["kubectl", "crictl", "ctr"] {
        let path = format!("/usr/local/bin/{tool}");
        let files = &inputs.facts.runtime.files;
        let taken = files.contains_key(&path)
            || files.contains_key(&format!("/usr/bin/{tool}"))
            || inputs.facts.runtime.links.get(&path).is_some_and(|target| target != "k3s");
        if !taken {
            links.push(link(&path, "k3s", "k3s answers to this name"));
        }
    }
    links
}
