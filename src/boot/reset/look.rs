//! What of k3s and of the agent is on this host.
//!
//! Owns reading it: processes and mounts of procfs, links of netlink, rules as
//! the programs print them, files with their weight. Changes nothing.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Wish, files, may, quorum, rules};
use crate::boot::Agent;
use crate::error::Chain;
use crate::facts::runtime::PinnedIdentity;
use crate::observe::{mounts as table, strangers};
use crate::plan::reset::network::{self, Interface};
use crate::plan::reset::processes::{self, Process};
use crate::plan::reset::quorum::{Loss, loss};
use crate::plan::reset::{self as plan, mounts};
use crate::sys::systemd::UnitState;
use crate::sys::{Root, host, interfaces, trees};
use crate::{identity, paths, reset};

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
    /// Why it would be refused as things are.
    pub refused: Vec<String>,
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
    /// What could not be seen, so that nobody can say that it is gone.
    pub blind: Vec<String>,
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
    manifest.identity = pinned(root);
    manifest.warnings.extend(manifest.rules.unseen.iter().map(|reason| format!("not looked at: {reason}")));
    let loss = if wish.kill_only { None } else { loss_of(root, manifest.identity.as_ref()).await };
    manifest.refused = may::obstacles(agent, wish, loss.as_ref());
    manifest.warnings.extend(loss.map(|loss| loss.warning));
    if !wish.kill_only {
        on_disk(root, wish, &mut manifest);
    }
    manifest
}

/// The identity, when one is pinned and can be read.
pub(super) fn pinned(root: &Root) -> Option<PinnedIdentity> {
    identity::load(root).ok().and_then(|loaded| loaded.value())
}

/// What its cluster would lose; asks nobody where this host is no server.
pub(super) async fn loss_of(root: &Root, identity: Option<&PinnedIdentity>) -> Option<Loss> {
    let identity = identity
        .filter(|identity| identity.joined.is_some() && identity.role == crate::role::Role::Server)?;
    loss(Some(identity), &quorum::members(root, identity).await)
}

fn on_disk(root: &Root, wish: Wish, manifest: &mut Manifest) {
    let begun = reset::unfinished(root);
    manifest.number = begun.map_or_else(|| files::next_number(root).unwrap_or(1), |begun| begun.number);
    manifest.moved = items(root, files::to_move(root));
    let mut gone = files::to_remove(root);
    if wish.forget {
        gone.extend(plan::forgotten());
    }
    manifest.removed = items(root, gone);
    let kept = plan::kept(wish.forget).into_iter().filter(|(path, _)| root.exists(path));
    let item = |(path, why): (&str, &str)| Item {
        path: path.to_owned(),
        bytes: weight(root, path),
        why: why.to_owned(),
    };
    manifest.kept = kept.map(item).collect();
}

/// What is still there, one line each; `running` looks at nothing on disk.
pub(super) async fn left(agent: &Agent, running: bool) -> super::Outcome {
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
    left.extend(manifest.blind);
    if !running {
        let root = &agent.root;
        let gone = files::to_move(root).into_iter().chain(files::to_remove(root));
        left.extend(gone.map(|path| format!("{path} is there")));
    }
    super::Outcome { left, unseen: manifest.rules.unseen, backup: None }
}

/// What runs. A unit that is down is not named.
pub(super) async fn live(agent: &Agent) -> Manifest {
    let root = &agent.root;
    let all = strangers::processes(root);
    let processes = processes::to_end(&all, host::pid());
    let foreign = foreign_networks(root);
    let mut blind = Vec::new();
    let links = interfaces::all().unwrap_or_else(|errno| {
        blind.push(format!("the kernel does not tell its interfaces: {}", errno.desc()));
        Vec::new()
    });
    let links = links.into_iter();
    let links: Vec<Interface> =
        links.map(|link| Interface { index: link.index, name: link.name, master: link.master }).collect();
    if mount_table(root).is_none() {
        blind.push("the table of mounts cannot be read".to_owned());
    }
    Manifest {
        units: units(agent, &all).await,
        namespaces: namespaces(root, &all, &processes),
        processes,
        mounts: to_unmount(root),
        interfaces: network::interfaces(&links, &foreign),
        rules: rules::look(root, !foreign.is_empty()).await,
        blind,
        ..Manifest::default()
    }
}

async fn units(agent: &Agent, all: &[Process]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for name in unit_names(agent, all).await.into_iter().chain([plan::PODS_SLICE.to_owned()]) {
        match agent.systemd.unit(&name).await {
            Ok(state) if state.active.is_empty() || is_over(&state) => {}
            Ok(state) => found.push((name, format!("{}/{}", state.active, state.sub))),
            // Nothing proves that it is down.
            Err(error) => {
                found.push((name, format!("in a state that systemd does not tell: {}", Chain(&error))))
            }
        }
    }
    found
}

/// Units of k3s: ours, and those of others that start k3s under another name.
pub(super) async fn unit_names(agent: &Agent, all: &[Process]) -> Vec<String> {
    let mut names: Vec<String> = plan::UNITS.map(str::to_owned).into();
    for directory in plan::UNIT_DIRECTORIES {
        for name in agent.root.list(directory).unwrap_or_default() {
            let text = || agent.root.read_text(&format!("{directory}/{name}")).ok().flatten();
            if name.starts_with("k3s") && text().is_some_and(|text| plan::is_unit_of_k3s(&name, &text)) {
                names.push(name);
            }
        }
    }
    for (name, pid) in processes::units_of_k3s(all) {
        // A service in which somebody started k3s by hand is not k3s's.
        if agent.systemd.unit(&name).await.is_ok_and(|state| state.main_pid == pid) {
            names.push(name);
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

fn is_over(state: &UnitState) -> bool {
    matches!(state.active.as_str(), "inactive" | "failed")
}

/// Mounts that go, the last one first: what lies in another comes before it.
pub(super) fn to_unmount(root: &Root) -> Vec<String> {
    let points = mount_table(root).unwrap_or_default().into_iter().rev().map(|mount| mount.mount_point);
    points.filter(|point| mounts::must_go(point)).collect()
}

/// The table of mounts, with places behind links by the names that the rules
/// know; `None` when it cannot be read.
pub(super) fn mount_table(root: &Root) -> Option<Vec<table::Mount>> {
    let real = |place: &'static str| Some((place, trees::real(root, place)?));
    let links = mounts::PLACES.into_iter().filter_map(real).filter(|(place, real)| place != real);
    let links: Vec<(&str, String)> = links.collect();
    let mut all = table::read(root).known()?.clone();
    all.iter_mut().for_each(|mount| mount.mount_point = mounts::nominal(&mount.mount_point, &links));
    Some(all)
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
    there.map(|path| Item { bytes: weight(root, &path), path, why: String::new() }).collect()
}

/// Weight of what is there. What another host would have to tell is not asked: a
/// dead server would hang it.
fn weight(root: &Root, path: &str) -> u64 {
    let is_remote = |mount: &table::Mount| {
        mounts::is_below(&mount.mount_point, path)
            && table::is_remote(std::slice::from_ref(mount), &mount.mount_point)
    };
    if mount_table(root).is_none_or(|all| all.iter().any(is_remote) || table::is_remote(&all, path)) {
        return 0;
    }
    trees::weight(root, &trees::real(root, path).unwrap_or_else(|| path.to_owned()))
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
            "refused": self.refused,
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
