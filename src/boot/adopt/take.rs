//! Writes a take-over down, step by step.
//!
//! Owns the order, by which k3s does the same at whatever moment the power goes:
//! copies of everything first; then `config.yaml` with all that is in force,
//! while the old command line still stands; then the variables go; then the
//! record, with which an ordinary pass may go on and write unit and
//! configuration of its own.

use serde_json::json;

use super::Look;
use super::read::environment_file;
use crate::config::AssignmentSource;
use crate::facts::runtime::StartRecord;
use crate::paths;
use crate::plan::adopt::{
    Proposed, environment_rest, in_force, is_transition, redacted, transition, unit_rest,
};
use crate::plan::units;
use crate::sys::{Clock, FileError, Root, atomic};

/// The drop-in of our own configuration that names the local assignment.
const DROP_IN: &str = "/etc/edge-bootstrap/config.d/50-adopt.toml";
/// The local assignment, when the settings name no other place.
pub const ASSIGNMENT: &str = "/etc/edge-bootstrap/assignment.toml";

/// Takes over what `look` saw, up to the point from which an ordinary pass goes
/// on. Gives the paths that were written. May be run again after a cut.
///
/// # Errors
/// When a file cannot be written; k3s then does what it did before.
pub fn take(root: &Root, clock: Clock, look: &Look, restart: bool) -> Result<Vec<String>, FileError> {
    root.make_dir(paths::STATE_DIR, 0o700)?;
    root.make_dir(paths::BACKUP, 0o700)?;
    let mut done = Vec::new();
    keep(root, look, &mut done)?;
    if let Some(proposed) = &look.proposed {
        assign(root, look, proposed, &mut done)?;
    }
    record_starts(root, look, restart)?;
    let config = transition(&in_force(&look.settings));
    put(root, paths::K3S_CONFIG, &config, 0o600, &mut done)?;
    leave_rest(root, look, &mut done)?;
    let record = json!({"schema": 1, "at": clock.rfc3339(), "unit": look.found.installed.path});
    put(root, paths::ADOPTED, &format!("{record}\n"), 0o600, &mut done)?;
    Ok(done)
}

fn put(root: &Root, path: &str, text: &str, mode: u32, done: &mut Vec<String>) -> Result<(), FileError> {
    if let Some((directory, _)) = path.rsplit_once('/') {
        root.ensure_dir(directory)?;
    }
    if atomic::write(root, path, text.as_bytes(), mode)?.is_change() {
        done.push(path.to_owned());
    }
    Ok(())
}

/// Copies every file that is touched, once: after a cut they may be ours already.
fn keep(root: &Root, look: &Look, done: &mut Vec<String>) -> Result<(), FileError> {
    let found = &look.found;
    let configs = found.installed.files.iter().map(|file| &file.path);
    let all = std::iter::once(&found.installed.path).chain(&found.drop_ins).chain(&found.environment_files);
    for path in all.chain(configs) {
        let copy = format!("{}{path}", paths::ADOPTED_FILES);
        let original = |bytes: &Vec<u8>| !root.exists(&copy) && !is_transition(bytes);
        let Some(bytes) = root.read(path)?.filter(original) else { continue };
        let directory = copy.rsplit_once('/').map_or("", |(directory, _)| directory);
        root.ensure_dir(directory)?;
        atomic::write(root, &copy, &bytes, 0o600)?;
        done.push(copy);
    }
    Ok(())
}

/// Where the local assignment goes.
pub fn assignment_path(source: &AssignmentSource) -> String {
    match source {
        AssignmentSource::File(path) => path.to_string_lossy().into_owned(),
        AssignmentSource::None | AssignmentSource::Central(_) => ASSIGNMENT.to_owned(),
    }
}

fn assign(root: &Root, look: &Look, proposed: &Proposed, done: &mut Vec<String>) -> Result<(), FileError> {
    put(root, &look.assignment_path, &proposed.text, 0o600, done)?;
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
        put(root, DROP_IN, &text, 0o644, done)?;
    }
    Ok(())
}

/// What runs counts as started with what is planned: what differs was shown, and
/// waits for a start that somebody asks for. With `restart` it counts as it is.
fn record_starts(root: &Root, look: &Look, restart: bool) -> Result<(), FileError> {
    root.ensure_dir(paths::RUN_DIR)?;
    let effective = match &look.plan.generation {
        Some(generation) if !restart => generation.effective.clone(),
        _ => redacted(&in_force(&look.settings)),
    };
    let binary = root.read_link(paths::K3S_LINK)?;
    let k3s = StartRecord { effective: Some(effective), binary, ..StartRecord::default() };
    let file = look.plan.files.iter().find(|file| file.path == paths::CONTAINERD_CONFIG);
    let config = file.filter(|_| !restart).map(crate::plan::PlannedFile::sha256);
    let containerd = StartRecord { config, ..StartRecord::default() };
    for (unit, record) in [(look.found.installed.unit.as_str(), k3s), (units::CONTAINERD, containerd)] {
        let bytes = serde_json::to_vec(&record).unwrap_or_default();
        let path = paths::started_with(unit.trim_end_matches(".service"));
        atomic::write_volatile(root, &path, &bytes, 0o600)?;
    }
    Ok(())
}

/// Takes what was moved out of environment files and drop-ins.
fn leave_rest(root: &Root, look: &Look, done: &mut Vec<String>) -> Result<(), FileError> {
    let found = &look.found;
    let ours = environment_file(&found.installed.unit);
    let mut files = found.environment_files.clone();
    if !files.contains(&ours) && !found.carried.is_empty() {
        files.push(ours.clone());
    }
    for path in &files {
        let before = root.read_text(path)?;
        if before.is_none() && *path != ours {
            continue;
        }
        let more: &[(String, String)] = if *path == ours { &found.carried } else { &[] };
        let rest = environment_rest(&before.unwrap_or_default(), more);
        replace(root, path, &rest.text, rest.changed, (0o600, done))?;
    }
    for path in &found.drop_ins {
        let rest = unit_rest(&root.read_text(path)?.unwrap_or_default());
        let is_ours = path.ends_with(paths::DROP_IN);
        replace(root, path, &rest.text, rest.changed && !is_ours, (0o644, done))?;
    }
    Ok(())
}

fn replace(
    root: &Root,
    path: &str,
    text: &str,
    changed: bool,
    (mode, done): (u32, &mut Vec<String>),
) -> Result<(), FileError> {
    if !changed {
        return Ok(());
    }
    if text.is_empty() {
        if root.remove_file(path)? {
            done.push(path.to_owned());
        }
        return Ok(());
    }
    put(root, path, text, mode, done)
}
