//! The assignment's manifests: who writes them, what is written, what goes.
//!
//! Owns the rule of the room's one writer, the server of the lowest name whose
//! Node is Ready, and the order of the work: an Addon says whose assignment
//! decides before a file is written, and what an older assignment does not name
//! is never withdrawn by it. Asks nobody and touches nothing.
//!
//! k3s keeps an Addon for each file in its directory, with the digest of what it
//! applied last; a file that goes takes nothing with it, one that holds no
//! objects any more takes all that k3s made of it (k3s: pkg/deploy/controller.go).

use std::collections::{BTreeMap, BTreeSet};

use super::item::PlannedFile;
use crate::ordered::Ordered as _;
use crate::role::{Assignment, Duty, Role};
use crate::wire::secret::sha256_hex;

/// Where k3s looks for files to apply.
pub const DIRECTORY: &str = "/var/lib/rancher/k3s/server/manifests";
/// First line of each file of ours: tells it from one that a person put there.
pub const OWNER: &str = "# Written by edge-bootstrap; changes here are put back.\n";
/// Content of a file whose objects go: without objects, so that k3s removes what
/// it made of the file, and says by its digest that it has done so.
const WITHDRAWN: &str = "# Withdrawn: k3s removes what it made of this file.\n";

/// What the cluster and this host's disk show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Names of the Nodes that are Ready and run the control plane: a host may be
    /// assigned a server and still be an agent.
    pub ready: BTreeSet<String>,
    /// Addons whose names begin as ours do.
    pub addons: Vec<SeenAddon>,
    /// Digests of our files in k3s's directory, by name.
    pub files: BTreeMap<String, String>,
    /// k3s has not taken what was written for so long that it is written again.
    pub is_overdue: bool,
}

/// One Addon.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeenAddon {
    /// Its name: that of its file up to the first dot.
    pub name: String,
    /// SHA-256 of the content that k3s applied last; empty before it did.
    pub checksum: String,
    /// When the assignment was issued that decides about it, in seconds since
    /// 1970; absent where it is not ours.
    pub issued_at: Option<u64>,
}

/// One piece of work, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Note at the Addon that this assignment decides about it.
    Claim {
        /// The Addon.
        addon: String,
        /// There is none yet.
        is_new: bool,
    },
    /// Put this file into k3s's directory.
    Write(PlannedFile),
    /// Take the file at this path out of it.
    Remove(String),
    /// Remove what is left of the objects that k3s made of it, then the Addon.
    Clear(String),
}

/// What this host does now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Turn {
    /// The room's writer; none while no server's Node is Ready.
    pub writer: Option<String>,
    /// The work of this host.
    pub acts: Vec<Act>,
    /// Addons that k3s has not brought to what their files say.
    pub waits: Vec<String>,
    /// Addons about which a newer assignment decides than this host's.
    pub newer: Vec<String>,
    /// When the newest of these assignments was issued, in seconds since 1970.
    pub newest: u64,
}

impl Turn {
    fn yields(&mut self, addon: &str, decided: Option<u64>) {
        self.newer.push(addon.to_owned());
        self.newest = self.newest.max(decided.unwrap_or(0));
    }

    /// Addons whose objects are being removed.
    pub fn cleared(&self) -> impl Iterator<Item = &str> {
        self.acts.iter().filter_map(|act| match act {
            Act::Clear(addon) => Some(addon.as_str()),
            _ => None,
        })
    }
}

/// The files of an assignment; none for an agent.
pub(super) fn planned(duty: &Duty) -> Vec<PlannedFile> {
    if duty.role != Role::Server {
        return Vec::new();
    }
    // Of two files of one name the later counts.
    let by_name: BTreeMap<&str, &str> =
        duty.manifests.iter().map(|it| (it.name.as_str(), it.content.as_str())).collect();
    by_name.into_iter().map(|(name, content)| file(name, content, "the assignment's manifest")).collect()
}

/// What a reader of the plan should know: the plan alone does not tell whether it
/// is this host that writes.
pub(super) fn notes(duty: &Duty) -> Vec<String> {
    let words = |file: PlannedFile| {
        let by = "the room's Ready server of the lowest name keeps it, and no other";
        format!("manifest {}: {by}", file.path)
    };
    planned(duty).into_iter().map(words).collect()
}

/// Only root may read it: a manifest may hold a Secret.
fn file(name: &str, content: &str, reason: &str) -> PlannedFile {
    PlannedFile::secret(path(name), format!("{OWNER}{}\n", content.trim_end_matches('\n')), reason)
}

/// Where the file of this name lies.
#[must_use]
pub fn path(name: &str) -> String {
    format!("{DIRECTORY}/{name}")
}

/// Name of the Addon that k3s keeps for a file.
#[must_use]
pub fn addon_of(file: &PlannedFile) -> &str {
    file_name(file).split('.').next().unwrap_or_default()
}

fn file_name(file: &PlannedFile) -> &str {
    file.path.rsplit('/').next().unwrap_or_default()
}

/// Whether a file in k3s's directory is ours, by name and first line.
#[must_use]
pub fn is_ours(name: &str, text: &[u8]) -> bool {
    name.starts_with("eb-") && name.ends_with(".yaml") && text.starts_with(OWNER.as_bytes())
}

/// Whether another server may have been the writer while this host was down:
/// then what lies in its directory is not for its k3s to apply at the start.
#[must_use]
pub fn has_other_servers(assignment: &Assignment) -> bool {
    assignment.room.iter().any(|host| host.role == Role::Server)
}

/// What this host does about `planned`, the files of `assignment`.
#[must_use]
pub fn turn(assignment: &Assignment, planned: &[PlannedFile], seen: &Seen) -> Turn {
    let Some(duty) = assignment.duty.as_ref().filter(|duty| duty.role == Role::Server) else {
        return Turn::default();
    };
    let me = duty.node.name.as_str();
    // Whoever is told of no room cannot tell whose servers the others are: one writes all the same.
    let counts = |name: &&str| assignment.room.is_empty() || *name == me || is_server(assignment, name);
    let writer = seen.ready.iter().map(String::as_str).find(counts);
    let mut turn = Turn { writer: writer.map(str::to_owned), ..Turn::default() };
    match writer {
        Some(writer) if writer == me => {
            let mine = assignment.issued_at.unwrap_or(0);
            planned.iter().for_each(|file| keep(file, mine, seen, &mut turn));
            let unwanted =
                ours(seen).into_iter().filter(|name| planned.iter().all(|it| addon_of(it) != *name));
            unwanted.for_each(|name| withdraw(name, mine, seen, &mut turn));
        }
        Some(_) => turn.acts.extend(seen.files.keys().map(|name| Act::Remove(path(name)))),
        // Nobody is told to write: nobody takes anything away either.
        None => {}
    }
    turn
}

fn is_server(assignment: &Assignment, name: &str) -> bool {
    assignment.room.iter().any(|host| host.role == Role::Server && host.name.as_str() == name)
}

fn keep(file: &PlannedFile, mine: u64, seen: &Seen, turn: &mut Turn) {
    let name = addon_of(file);
    let addon = seen.addons.iter().find(|addon| addon.name == name);
    let is_taken = addon.is_some_and(|addon| addon.checksum == file.sha256());
    let decided = addon.and_then(|addon| addon.issued_at);
    if decided > Some(mine) && !is_taken {
        turn.yields(name, decided);
        remove(file_name(file), seen, turn);
        return;
    }
    if decided < Some(mine) {
        turn.acts.push(Act::Claim { addon: name.to_owned(), is_new: addon.is_none() });
    }
    put(file, is_taken, seen, turn);
}

/// Addons with our note, or with a file of ours: any other is a person's.
fn ours(seen: &Seen) -> BTreeSet<&str> {
    let noted = seen.addons.iter().filter(|addon| addon.issued_at.is_some()).map(|addon| addon.name.as_str());
    noted.chain(seen.files.keys().filter_map(|name| name.strip_suffix(".yaml"))).into_set()
}

fn withdraw(name: &str, mine: u64, seen: &Seen, turn: &mut Turn) {
    let addon = seen.addons.iter().find(|addon| addon.name == name);
    let decided = addon.and_then(|addon| addon.issued_at);
    let file = withdrawn(name);
    if decided > Some(mine) {
        turn.yields(name, decided);
        return remove(file_name(&file), seen, turn);
    }
    if decided < Some(mine) {
        turn.acts.push(Act::Claim { addon: name.to_owned(), is_new: addon.is_none() });
    }
    if addon.is_some_and(|addon| addon.checksum == file.sha256()) {
        // The Addon goes last: as long as it is there the work is found again.
        remove(file_name(&file), seen, turn);
        return turn.acts.push(Act::Clear(name.to_owned()));
    }
    put(&file, false, seen, turn);
}

fn withdrawn(addon: &str) -> PlannedFile {
    file(&format!("{addon}.yaml"), WITHDRAWN, "the assignment does not name it any more")
}

fn put(file: &PlannedFile, is_taken: bool, seen: &Seen, turn: &mut Turn) {
    let is_written = seen.files.get(file_name(file)).is_some_and(|digest| *digest == file.sha256());
    if !is_taken {
        turn.waits.push(addon_of(file).to_owned());
        // k3s looks again at a file whose time changed, and only then.
        if is_written && seen.is_overdue {
            turn.acts.push(Act::Remove(file.path.clone()));
        }
    }
    if !is_written || (!is_taken && seen.is_overdue) {
        turn.acts.push(Act::Write(file.clone()));
    }
}

fn remove(name: &str, seen: &Seen, turn: &mut Turn) {
    if seen.files.contains_key(name) {
        turn.acts.push(Act::Remove(path(name)));
    }
}

/// Digest of a file's content, as k3s notes it.
#[must_use]
pub fn digest(text: &[u8]) -> String {
    sha256_hex(text)
}

#[cfg(test)]
#[path = "manifests_tests.rs"]
mod tests;
