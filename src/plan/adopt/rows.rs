//! The table old to new, for people.
//!
//! Owns the words for each setting: where it goes, or why it goes nowhere.
//! Shows no secret.

use super::compare::{Difference, default_of};
use super::{Rank, Setting, values};
use crate::facts::k3s_config::{Effective, is_secret};
use crate::role::Role;

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// File in which the setting stands.
    pub path: String,
    /// As it stands there, secrets hidden.
    pub old: String,
    /// Where it goes, or why not.
    pub new: String,
    /// Its value is wrong and is not copied.
    pub is_refused: bool,
}

/// The table: one row for each setting. `planned` is the configuration to come,
/// `changed` what differs in effect.
#[must_use]
pub fn rows(settings: &[Setting], planned: &Effective, changed: &[Difference], role: Role) -> Vec<Row> {
    settings
        .iter()
        .map(|one| Row {
            path: one.path.clone(),
            old: old(one),
            new: new(one, planned, changed, role),
            is_refused: one.lost.is_none() && one.invalid.is_some(),
        })
        .collect()
}

fn old(one: &Setting) -> String {
    let key = one.key.as_deref().unwrap_or(&one.name);
    match (one.rank, &one.key) {
        // Words that belong to nothing, and variables of others, may be anything.
        (_, None) => one.name.clone(),
        (Rank::Argument, _) if one.values == ["true"] => one.name.clone(),
        (Rank::Argument, _) => format!("{} {}", one.name, shown(key, &one.values)),
        (Rank::File, _) => format!("{}: {}", one.name, shown(key, &one.values)),
        (Rank::Variable, _) => format!("{}={}", one.name, shown(key, &one.values)),
    }
}

/// Values of `key` for people.
#[must_use]
pub fn shown(key: &str, values: &[String]) -> String {
    if is_secret(key) && !values.is_empty() {
        return "(secret)".to_owned();
    }
    values.iter().map(|value| guarded(value)).collect::<Vec<_>>().join(",")
}

/// An option of a component, or a URL, may carry a password.
pub(super) fn guarded(value: &str) -> String {
    let has_user = value.split_once("://").is_some_and(|(_, rest)| rest.contains('@'));
    match value.split_once('=') {
        Some((name, _)) if is_secret(name) => format!("{name}=(secret)"),
        _ if has_user => "(a URL with a password)".to_owned(),
        _ => value.to_owned(),
    }
}

fn new(one: &Setting, planned: &Effective, changed: &[Difference], role: Role) -> String {
    let Some(key) = one.key.as_deref() else { return without_key(one) };
    if let Some(lost) = &one.lost {
        return format!("dropped: it had no effect, {lost}");
    }
    if let Some(invalid) = &one.invalid {
        let instead = planned.0.get(key).map(|values| format!("; config.yaml {key}: {}", shown(key, values)));
        return format!("NOT COPIED: {invalid}{}", instead.unwrap_or_default());
    }
    if let Some(words) = special(key, planned, role) {
        return words;
    }
    let differs = changed.iter().any(|difference| difference.key == key);
    match (planned.0.get(key), differs) {
        (Some(values), false) => format!("config.yaml {key}: {}", shown(key, values)),
        (Some(values), true) => format!("config.yaml {key}: {} (differs, see below)", shown(key, values)),
        (None, true) => "dropped: the assignment does not set it (differs, see below)".to_owned(),
        (None, false) if is_off(one) => "dropped: it is off by itself".to_owned(),
        (None, false) if default_of(key).is_some() => "dropped: it is k3s's default".to_owned(),
        (None, false) => "dropped: nothing depends on it".to_owned(),
    }
}

fn is_off(one: &Setting) -> bool {
    one.values.iter().all(|value| values::truth(value) == Some(false))
}

fn without_key(one: &Setting) -> String {
    match one.rank {
        Rank::Variable => "stays: it sets no key of config.yaml".to_owned(),
        _ => "dropped: k3s takes no such word".to_owned(),
    }
}

/// Keys that do not simply move.
fn special(key: &str, planned: &Effective, role: Role) -> Option<String> {
    let side = |name: &str, key: &str| format!("generations/N/{name} (0600), named by {key}");
    Some(match (key, role) {
        ("token" | "token-file" | "cluster-secret", Role::Agent) => side("agent-token", "token-file"),
        ("token" | "token-file" | "cluster-secret", _) => side("server-token", "token-file"),
        ("agent-token" | "agent-token-file", _) => side("agent-token", "agent-token-file"),
        ("cluster-init", _) => {
            "dropped: the cluster is formed; on a lost datastore it would form a second one".to_owned()
        }
        ("config", _) => "dropped: the keys of that file move".to_owned(),
        ("no-flannel", Role::Agent) => {
            let file = super::AGENT_DROP_IN;
            format!("{file} no-flannel: true, until all its servers run with flannel-backend: none")
        }
        ("no-flannel", _) => "config.yaml flannel-backend: none (differs, see below)".to_owned(),
        ("disable-selinux", _) => "dropped: SELinux support is off by itself".to_owned(),
        ("node-taint", _) => match planned.0.get(key) {
            Some(values) => format!("config.yaml node-taint: {}", shown(key, values)),
            None => "dropped: taints count only when a node registers".to_owned(),
        },
        ("server", _) => match planned.first("server") {
            Some(url) => format!("config.yaml server: {}", guarded(url)),
            None => "dropped: the assignment names no other server".to_owned(),
        },
        _ => return None,
    })
}
