//! Writes a take-over down, act by act.
//!
//! Owns the order, by which k3s does the same at whatever moment the power goes.
//! k3s adds up the lists of its file and its command line, so that nothing may
//! ever stand in both: everything that is in force is written where the old unit
//! does not look, and one rename, that of a drop-in, turns k3s from its old
//! command line, files and variables to that one file. Only then are those
//! changed. The record comes last, with which an ordinary pass goes on and writes
//! unit and configuration of its own.

use serde_json::json;
use thiserror::Error;

use super::Look;
use super::read::{self, drop_in, environment_file};
use crate::config::AssignmentSource;
use crate::facts::runtime::StartRecord;
use crate::plan::adopt::{
    AGENT_DROP_IN, Proposed, agent_drop_in, environment_rest, in_force, redacted, transition, unit_rest,
};
use crate::sys::systemd::{Systemd, SystemdError};
use crate::sys::{Clock, FileError, Root, atomic};
use crate::{observe, paths};

/// The drop-in of our own configuration that names the local assignment.
const DROP_IN: &str = "/etc/edge-bootstrap/config.d/50-adopt.toml";
/// The local assignment, when the settings name no other place.
pub const ASSIGNMENT: &str = "/etc/edge-bootstrap/assignment.toml";

/// Why a take-over ended half-way; k3s does what it did before.
#[derive(Debug, Error)]
pub enum TakeError {
    /// A file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// systemd does not read its files again.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
}

/// One act of a take-over. Holds secrets.
#[derive(Clone, PartialEq, Eq)]
pub enum Act {
    /// Write a file.
    Write {
        /// Its path.
        path: String,
        /// Its content.
        bytes: Vec<u8>,
        /// Its mode.
        mode: u32,
    },
    /// Remove a file, for good: one that came back after a cut would be read again.
    Remove(String),
    /// Rename a directory.
    Rename(String, String),
    /// systemd reads its files again.
    Reload,
}

impl std::fmt::Debug for Act {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Write { path, .. } => write!(out, "Write({path})"),
            Self::Remove(path) => write!(out, "Remove({path})"),
            Self::Rename(from, to) => write!(out, "Rename({from}, {to})"),
            Self::Reload => out.write_str("Reload"),
        }
    }
}

impl Act {
    fn write(path: impl Into<String>, text: impl Into<String>, mode: u32) -> Self {
        Self::Write { path: path.into(), bytes: text.into().into_bytes(), mode }
    }

    fn secret(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self::write(path, text, 0o600)
    }
}

/// Everything that takes over what `look` saw, in order, up to the point from which
/// an ordinary pass goes on. Changes nothing.
///
/// # Errors
/// When a file cannot be read.
pub fn script(root: &Root, clock: Clock, look: &Look, restart: bool) -> Result<Vec<Act>, FileError> {
    let unit = &look.found.installed.unit;
    let raw = in_force(&look.settings);
    let mut acts = copies(root, look)?;
    acts.extend(look.proposed.iter().flat_map(|proposed| assignment(look, proposed)));
    acts.push(started(root, look, restart)?);
    acts.push(Act::secret(paths::ADOPT_CONFIG, transition(&raw)));
    acts.push(Act::secret(paths::ADOPT_VARIABLES, variables(paths::ADOPT_CONFIG)));
    // From this rename on k3s reads that file alone, also after a cut.
    acts.push(Act::write(drop_in(unit), unit_drop_in(look), 0o644));
    acts.push(Act::Reload);
    acts.push(Act::secret(paths::K3S_CONFIG, transition(&raw)));
    acts.extend(config_drop_ins(root)?.into_iter().map(Act::Remove));
    acts.extend(agent_drop_in(&raw, look.found.installed.role).map(|text| Act::secret(AGENT_DROP_IN, text)));
    acts.extend(rest(root, look)?);
    acts.push(Act::secret(paths::ADOPT_VARIABLES, variables(paths::K3S_CONFIG)));
    let record = json!({"schema": 1, "at": clock.rfc3339(), "unit": look.found.installed.path});
    acts.push(Act::secret(paths::ADOPTED, format!("{record}\n")));
    Ok(acts)
}

/// Does `acts` in their order; gives the paths that changed.
///
/// # Errors
/// When one of them fails; those after it are not done.
pub async fn carry_out(root: &Root, systemd: &Systemd, acts: &[Act]) -> Result<Vec<String>, TakeError> {
    root.make_dir(paths::STATE_DIR, 0o700)?;
    root.make_dir(paths::BACKUP, 0o700)?;
    let mut done = Vec::new();
    for act in acts {
        let changed = match act {
            Act::Write { path, bytes, mode } => {
                root.ensure_dir(path.rsplit_once('/').map_or("/", |(directory, _)| directory))?;
                atomic::write(root, path, bytes, *mode)?.is_change().then_some(path)
            }
            Act::Remove(path) => removed(root, path)?.then_some(path),
            Act::Rename(from, to) => {
                root.rename(from, to)?;
                Some(to)
            }
            Act::Reload => {
                systemd.reload().await?;
                None
            }
        };
        done.extend(changed.cloned());
    }
    Ok(done)
}

fn removed(root: &Root, path: &str) -> Result<bool, FileError> {
    let was_there = root.remove_file(path)?;
    let directory = path.rsplit_once('/').map_or("/", |(directory, _)| directory);
    if was_there {
        root.sync_dir(directory)?;
    }
    Ok(was_there)
}

/// What the unit starts meanwhile. The variable beats every other way to name a
/// configuration file, and the last of its name counts. Its file may be gone where a
/// cut has spared the drop-in alone: then `config.yaml` is ours already.
fn unit_drop_in(look: &Look) -> String {
    format!(
        "# Written by edge-bootstrap adopt, and gone again with the next pass.
[Service]
EnvironmentFile=-{}
ExecStart=
ExecStart={} {}
",
        paths::ADOPT_VARIABLES,
        look.found.program,
        look.found.installed.role,
    )
}

fn variables(config: &str) -> String {
    format!(
        "# Written by edge-bootstrap adopt, and gone again with the next pass.\nK3S_CONFIG_FILE={config}\n"
    )
}

/// A copy of every file that is touched, as it is before the first of them is. What
/// an earlier take-over has kept stays beside it.
fn copies(root: &Root, look: &Look) -> Result<Vec<Act>, FileError> {
    let found = &look.found;
    if root.exists(&drop_in(&found.installed.unit)) {
        return Ok(Vec::new());
    }
    let mut acts = Vec::new();
    if root.exists(paths::ADOPTED_FILES) {
        let mut places = (1..).map(|number: u32| format!("{}.{number}", paths::ADOPTED_FILES));
        let free = places.find(|path| !root.exists(path)).unwrap_or_default();
        acts.push(Act::Rename(paths::ADOPTED_FILES.to_owned(), free));
    }
    let mut all = vec![found.installed.path.clone(), paths::K3S_CONFIG.to_owned()];
    all.extend(found.drop_ins.iter().chain(&found.environment_files).cloned());
    all.extend(found.installed.files.iter().map(|file| file.path.clone()));
    all.extend(config_drop_ins(root)?);
    all.sort();
    all.dedup();
    for path in all {
        let copy = format!("{}{path}", paths::ADOPTED_FILES);
        acts.extend(root.read(&path)?.map(|bytes| Act::Write { path: copy, bytes, mode: 0o600 }));
    }
    Ok(acts)
}

/// Files that k3s would add to `config.yaml`; their keys are in it by then.
fn config_drop_ins(root: &Root) -> Result<Vec<String>, FileError> {
    let mut paths = read::config_drop_ins(root, paths::K3S_CONFIG_DIR)?;
    paths.retain(|path| path != AGENT_DROP_IN);
    Ok(paths)
}

/// Where the local assignment goes.
pub fn assignment_path(source: &AssignmentSource) -> String {
    match source {
        AssignmentSource::File(path) => path.to_string_lossy().into_owned(),
        AssignmentSource::None | AssignmentSource::Central(_) => ASSIGNMENT.to_owned(),
    }
}

fn assignment(look: &Look, proposed: &Proposed) -> Vec<Act> {
    let mut acts = vec![Act::secret(&look.assignment_path, &proposed.text)];
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let mut text = "# Written by `edge-bootstrap adopt`.\n".to_owned();
    if look.names_assignment {
        text += &format!("[central]\nassignment-file = {}\n", quoted(&look.assignment_path));
    }
    if !proposed.allow_keys.is_empty() {
        let keys: Vec<String> = look.allow_keys.iter().map(|key| quoted(key)).collect();
        text += &format!("[trust]\nallow-keys = [{}]\n", keys.join(", "));
    }
    if look.names_assignment || !proposed.allow_keys.is_empty() {
        acts.push(Act::write(DROP_IN, text, 0o644));
    }
    acts
}

/// What k3s runs with, and which of the values to come a person has accepted for
/// its next start, whenever that is: those restart nothing.
fn started(root: &Root, look: &Look, restart: bool) -> Result<Act, FileError> {
    let accepted = look.plan.generation.as_ref().filter(|_| !restart);
    let record = StartRecord {
        effective: Some(redacted(&in_force(&look.settings))),
        accepted: accepted.map(|generation| generation.effective.clone()),
        binary: root.read_link(paths::K3S_LINK)?,
        server_token: observe::k3s::token_file(root),
        ..StartRecord::default()
    };
    let path = paths::started_with(look.found.installed.unit.trim_end_matches(".service"));
    Ok(Act::Write { path, bytes: serde_json::to_vec(&record).unwrap_or_default(), mode: 0o600 })
}

/// Takes what was moved out of environment files and drop-ins.
fn rest(root: &Root, look: &Look) -> Result<Vec<Act>, FileError> {
    let found = &look.found;
    let ours = environment_file(&found.installed.unit);
    let mut files = found.environment_files.clone();
    if !files.contains(&ours) && !found.carried.is_empty() {
        files.push(ours.clone());
    }
    let mut acts = Vec::new();
    for path in files {
        let before = root.read_text(&path)?;
        if before.is_none() && path != ours {
            continue;
        }
        let more: &[(String, String)] = if path == ours { &found.carried } else { &[] };
        let rest = environment_rest(&before.unwrap_or_default(), more);
        acts.extend(rest.changed.then(|| replaced(path, rest.text, 0o600)));
    }
    for path in found.drop_ins.iter().filter(|path| !path.ends_with(paths::DROP_IN)) {
        let rest = unit_rest(&root.read_text(path)?.unwrap_or_default());
        acts.extend(rest.changed.then(|| replaced(path.clone(), rest.text, 0o644)));
    }
    Ok(acts)
}

fn replaced(path: String, text: String, mode: u32) -> Act {
    if text.is_empty() { Act::Remove(path) } else { Act::write(path, text, mode) }
}
