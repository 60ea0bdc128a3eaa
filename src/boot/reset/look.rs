//! What of k3s and of the agent is on this host.
//!
//! Owns reading it: processes and mounts of procfs, links of netlink, rules as
//! the programs print them, files with their weight. Changes nothing.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Wish, files, rules};
use crate::boot::Agent;
use crate::enrol::cache;
use crate::facts::runtime::PinnedIdentity;
use crate::plan::reset::network::{self, Interface};
use crate::plan::reset::processes::{self, Process};
use crate::plan::reset::{self as plan, mounts};
use crate::role::words::NodeId;
use crate::role::{Assignment, Role};
use crate::sys::systemd::UnitState;
use crate::sys::{Root, host, interfaces, trees};
use crate::{identity, observe, paths, reset};

/// Named name spaces of the network, by ip-netns(8) and the CNI.
const NAMESPACES: &str = "/run/netns";

/// A file or directory with its weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Absolute path below the root.
    pub path: String,
    /// Bytes on disk.
    pub bytes: u64,
    /// Why it stays; empty for what goes.
    pub why: String,
}

/// What a reset would do, in its order.
#[derive(Debug, Clone, Default)]
pub struct Manifest {
    /// Number of its backup directory.
    pub number: u64,
    /// The identity, when one is pinned.
    pub identity: Option<PinnedIdentity>,
    /// What a person should know before.
    pub warnings: Vec<String>,
    /// Units that are stopped, with their states.
    pub units: Vec<(String, String)>,
    /// Processes that are ended, with the reason.
    pub processes: Vec<(Process, &'static str)>,
    /// Mounts that are taken off their places, the last one first.
    pub mounts: Vec<String>,
    /// Name spaces of the network that are removed.
    pub namespaces: Vec<String>,
    /// Interfaces that are removed.
    pub interfaces: Vec<Interface>,
    /// Chains and rules that are removed.
    pub rules: rules::Found,
    /// What is moved into the backup.
    pub moved: Vec<Item>,
    /// What is removed.
    pub removed: Vec<Item>,
    /// What stays.
    pub kept: Vec<Item>,
}

/// Looks at all that a reset by this wish would touch.
pub async fn look(agent: &Agent, wish: Wish) -> Manifest {
    let root = &agent.root;
    let mut manifest = live(agent).await;
    manifest.identity = identity::load(root).ok().and_then(|loaded| loaded.value());
    if wish.kill_only {
        return manifest;
    }
    let begun = reset::unfinished(root);
    manifest.number = begun.map_or_else(|| files::next_number(root).unwrap_or(1), |begun| begun.number);
    manifest
        .warnings
        .extend(plan::member_warning(manifest.identity.as_ref(), voters(root, manifest.identity.as_ref())));
    manifest.moved = items(root, files::to_move(root));
    let mut gone = files::to_remove(root);
    if wish.forget {
        gone.extend(plan::forgotten());
    }
    manifest.removed = items(root, gone);
    let kept = plan::kept(wish.forget).into_iter().filter(|(path, _)| root.exists(path));
    let item = |(path, why): (&str, &str)| Item {
        path: path.to_owned(),
        bytes: trees::weight(root, path),
        why: why.to_owned(),
    };
    manifest.kept = kept.map(item).collect();
    manifest
}

/// What is still there, one line each; `running` looks at nothing on disk.
pub(super) async fn left(agent: &Agent, running: bool) -> Vec<String> {
    let manifest = live(agent).await;
    let mut left: Vec<String> =
        manifest.units.iter().map(|(name, state)| format!("{name} is {state}")).collect();
    let process =
        |(process, why): &(Process, &str)| format!("process {} ({}) {why}", process.pid, process.name);
    left.extend(manifest.processes.iter().map(process));
    left.extend(manifest.mounts.iter().map(|point| format!("something is mounted at {point}")));
    left.extend(manifest.namespaces.iter().map(|name| format!("network name space {name} is there")));
    left.extend(manifest.interfaces.iter().map(|link| format!("interface {} is there", link.name)));
    left.extend(manifest.rules.lines());
    if !running {
        let root = &agent.root;
        let gone = files::to_move(root).into_iter().chain(files::to_remove(root));
        left.extend(gone.map(|path| format!("{path} is there")));
    }
    left
}

/// What runs. A unit that is down is not named.
async fn live(agent: &Agent) -> Manifest {
    let root = &agent.root;
    let all = all_processes(root);
    let processes = processes::to_end(&all, host::pid());
    let foreign = foreign_networks(root);
    let links = interfaces::all().unwrap_or_default().into_iter();
    let links: Vec<Interface> =
        links.map(|link| Interface { index: link.index, name: link.name, master: link.master }).collect();
    Manifest {
        units: units(agent).await,
        namespaces: namespaces(root, &all, &processes),
        processes,
        mounts: to_unmount(root),
        interfaces: network::interfaces(&links, &foreign),
        rules: rules::look(root, !foreign.is_empty()).await,
        ..Manifest::default()
    }
}

async fn units(agent: &Agent) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for name in plan::UNITS.into_iter().chain([plan::PODS_SLICE]) {
        let state = agent.systemd.unit(name).await.unwrap_or_default();
        if !state.active.is_empty() && !is_over(&state) {
            found.push((name.to_owned(), format!("{}/{}", state.active, state.sub)));
        }
    }
    found
}

fn is_over(state: &UnitState) -> bool {
    matches!(state.active.as_str(), "inactive" | "failed")
}

/// Every process that procfs tells. One that ends meanwhile is none.
pub(super) fn all_processes(root: &Root) -> Vec<Process> {
    let names = root.list("/proc").unwrap_or_default();
    names.iter().filter_map(|name| process(root, name.parse().ok()?)).collect()
}

fn process(root: &Root, pid: u32) -> Option<Process> {
    let read = |name: &str| root.read_kernel(&format!("/proc/{pid}/{name}"));
    let stat = read("stat").ok()?;
    // The name is in brackets and may hold anything.
    let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
    Some(Process {
        pid,
        parent,
        started: host::process_start(root, pid)?,
        name: read("comm").unwrap_or_default(),
        arguments: read("cmdline").unwrap_or_default().split('\0').map(str::to_owned).collect(),
        groups: read("cgroup").unwrap_or_default(),
        program: root.read_link(&format!("/proc/{pid}/exe")).ok().flatten().unwrap_or_default(),
    })
}

/// Whether this program itself runs in what it would end.
#[must_use]
pub fn is_inside(root: &Root) -> bool {
    processes::is_inside(&all_processes(root), host::pid())
}

/// Mounts that go, the last one first: what lies in another comes before it.
pub(super) fn to_unmount(root: &Root) -> Vec<String> {
    let table = observe::mounts::read(root);
    let points = table.known().into_iter().flatten().rev().map(|mount| mount.mount_point.clone());
    points.filter(|point| mounts::must_go(point)).collect()
}

/// Name spaces that the CRI made and in which nobody lives who stays.
fn namespaces(root: &Root, all: &[Process], ending: &[(Process, &'static str)]) -> Vec<String> {
    let names = root.list(NAMESPACES).unwrap_or_default();
    let names: Vec<String> = names.into_iter().filter(|name| name.starts_with("cni-")).collect();
    if names.is_empty() {
        return names;
    }
    let mut lived_in: BTreeMap<u64, usize> = BTreeMap::new();
    let stays = |process: &&Process| !ending.iter().any(|(gone, _)| gone.pid == process.pid);
    for process in all.iter().filter(stays) {
        if let Some(inode) = namespace_of(root, process.pid) {
            *lived_in.entry(inode).or_default() += 1;
        }
    }
    let paths = names.into_iter().map(|name| format!("{NAMESPACES}/{name}"));
    paths
        .filter(|path| root.stat(path).ok().flatten().is_some_and(|stat| !lived_in.contains_key(&stat.inode)))
        .collect()
}

/// `net:[4026531840]`.
fn namespace_of(root: &Root, pid: u32) -> Option<u64> {
    let target = root.read_link(&format!("/proc/{pid}/ns/net")).ok()??;
    target.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

/// Texts of the CNI's configurations that are not ours.
fn foreign_networks(root: &Root) -> Vec<String> {
    let names = root.list(paths::CNI_DIR).unwrap_or_default();
    let paths = names.into_iter().map(|name| format!("{}/{name}", paths::CNI_DIR));
    let texts = paths.filter_map(|path| Some((root.read_text(&path).ok()??, path)));
    let foreign = texts.filter(|(text, path)| *path != paths::CNI_LOOPBACK || !plan::is_ours(path, text));
    foreign.map(|(text, _)| text).collect()
}

fn items(root: &Root, all: Vec<String>) -> Vec<Item> {
    let there = all.into_iter().filter(|path| root.exists(path));
    there.map(|path| Item { bytes: trees::weight(root, &path), path, why: String::new() }).collect()
}

/// The other servers of the cluster by the newest assignment.
fn voters(root: &Root, identity: Option<&PinnedIdentity>) -> Option<usize> {
    let identity = identity?;
    let node_id: NodeId = identity.node_id.clone()?.parse().ok()?;
    let assignment: Assignment = cache::load(root, &node_id).ok()?.assignment?;
    let others =
        assignment.room.iter().filter(|host| host.role == Role::Server && host.ip != identity.node_ip);
    let listed = assignment.duty.as_ref().map_or(0, |duty| duty.cluster.servers.len());
    Some(others.count().max(listed))
}

impl Manifest {
    /// As JSON, `"schema": 1`.
    #[must_use]
    pub fn to_json(&self, wish: Wish) -> Value {
        let items = |all: &[Item]| -> Vec<Value> {
            all.iter().map(|item| json!({"path": item.path, "bytes": item.bytes, "why": item.why})).collect()
        };
        let process =
            |(process, why): &(Process, &str)| json!({"pid": process.pid, "name": process.name, "why": why});
        json!({
            "schema": 1,
            "kill_only": wish.kill_only,
            "forget": wish.forget,
            "node": self.identity.as_ref().map(|identity| &identity.node_name),
            "warnings": self.warnings,
            "units": self.units.iter().map(|(name, state)| json!({"name": name, "state": state})).collect::<Vec<_>>(),
            "processes": self.processes.iter().map(process).collect::<Vec<_>>(),
            "mounts": self.mounts,
            "namespaces": self.namespaces,
            "interfaces": self.interfaces.iter().map(|link| &link.name).collect::<Vec<_>>(),
            "rules": self.rules.lines(),
            "backup": (!wish.kill_only).then(|| files::backup(self.number)),
            "moved": items(&self.moved),
            "removed": items(&self.removed),
            "kept": items(&self.kept),
        })
    }
}
