//! What is left of the files of others once their settings are moved, and the
//! configuration that holds all of them meanwhile.
//!
//! Owns what stays: variables that set no key (proxies of the runtime among
//! them) and whatever else operators wrote into drop-ins of the unit.

use super::{Raw, table};
use crate::facts::unit_text as line;
use crate::plan::yaml::{self, Value};
use crate::role::Role;

/// A file without what was moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rest {
    /// The whole text; empty when nothing is left that counts.
    pub text: String,
    /// Whether anything was taken out.
    pub changed: bool,
}

/// First line of an environment file that we wrote.
const MARK: &str = "# Written by edge-bootstrap: variables that set no key of config.yaml. The file before it lies in /var/lib/edge-bootstrap/backup/adopted.\n";

/// An environment file without the variables that set a key; `more` is added.
#[must_use]
pub fn environment_rest(text: &str, more: &[(String, String)]) -> Rest {
    let all = line::assignments(text);
    let is_there =
        |(name, value): &&(String, String)| all.iter().any(|one| one.name == *name && one.value == *value);
    let more: Vec<&(String, String)> = more.iter().filter(|one| !is_there(one)).collect();
    let stays = |one: &&line::Assigned| table::key_of(&one.name).is_none();
    let changed = !more.is_empty() || !all.iter().all(|one| stays(&one));
    let has_variable = !more.is_empty() || all.iter().filter(stays).any(|one| !one.name.is_empty());
    let mut out = if text.starts_with(MARK) { String::new() } else { MARK.to_owned() };
    out.extend(all.iter().filter(stays).map(|one| one.raw.as_str()));
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out.extend(more.iter().map(|(name, value)| format!("{name}={}\n", quoted(value))));
    Rest { text: if has_variable { out } else { String::new() }, changed }
}

/// A drop-in of the unit without its command line and without the variables
/// that set a key.
#[must_use]
pub fn unit_rest(text: &str) -> Rest {
    let mut rest = Rest { text: String::new(), changed: false };
    let mut says_something = false;
    for directive in line::directives(text) {
        let in_service = directive.section == "Service";
        match directive.name.as_str() {
            "ExecStart" if in_service => rest.changed = true,
            "Environment" if in_service => {
                let kept = kept_variables(&directive);
                rest.changed |= kept != directive.raw;
                says_something |= !kept.is_empty();
                rest.text += &kept;
            }
            name => {
                says_something |= !name.is_empty();
                rest.text += &directive.raw;
            }
        }
    }
    if !says_something {
        rest.text.clear();
    }
    rest
}

fn kept_variables(directive: &line::Directive) -> String {
    let words = line::words(&directive.value);
    let sets_key =
        |word: &&String| word.split_once('=').is_some_and(|(name, _)| table::key_of(name).is_some());
    if !words.iter().any(|word| sets_key(&word)) {
        return directive.raw.clone();
    }
    let kept: Vec<String> = words.iter().filter(|word| !sets_key(word)).map(|word| quoted(word)).collect();
    if kept.is_empty() { String::new() } else { format!("Environment={}\n", kept.join(" ")) }
}

/// What the installer itself writes, and what is moved: not told.
const KNOWN: [&str; 9] = [
    "After",
    "Description",
    "Documentation",
    "Environment",
    "EnvironmentFile",
    "ExecStart",
    "Type",
    "WantedBy",
    "Wants",
];

/// Directives of a unit file that `ours` does not have: an operator's own, which
/// go with the file.
#[must_use]
pub fn left_out(text: &str, ours: &str) -> Vec<String> {
    let same = line::directives(ours);
    let is_kept = |one: &line::Directive| {
        same.iter().any(|other| other.name == one.name && other.value == one.value)
            || KNOWN.contains(&one.name.as_str())
            || one.name == "ExecStartPre"
                && (one.value.contains("modprobe") || one.value.contains("nm-cloud-setup"))
    };
    let own = line::directives(text).into_iter().filter(|one| !one.name.is_empty() && !is_kept(one));
    own.map(|one| format!("{}={}", one.name, super::rows::guarded(&one.value))).collect()
}

/// In double quotes, as units and environment files both read it.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

/// A configuration with everything that is in force: it alone is equal in effect
/// to command line, files and variables together. Never beside that command line,
/// whose lists k3s would add to its own.
#[must_use]
pub fn transition(raw: &Raw) -> String {
    let entries: Vec<(String, Value)> = raw
        .iter()
        .filter(|(key, _)| key.as_str() != "config")
        .map(|(key, values)| (key.clone(), value(key, values)))
        .collect();
    yaml::render(TRANSITION, &entries)
}

const TRANSITION: &str = "Being taken over by edge-bootstrap; see docs/adopt.md.";

/// The first key whose value a configuration file cannot hold: k3s cuts off the
/// blanks at both ends, which it does not do on its command line.
#[must_use]
pub fn unwritable(raw: &Raw) -> Option<&str> {
    let mut all = raw.iter();
    all.find(|(key, values)| !value(key, values).reads_back()).map(|(key, _)| key.as_str())
}

/// Where an agent keeps `no-flannel`.
pub const AGENT_DROP_IN: &str = "/etc/rancher/k3s/config.yaml.d/50-adopted.yaml";

/// The text of [`AGENT_DROP_IN`], for an agent that was told `no-flannel`: it has no
/// other key for that, and takes vxlan from a server that was told `no-flannel` too
/// (k3s: pkg/agent/config/config.go until v1.24).
#[must_use]
pub fn agent_drop_in(raw: &Raw, role: Role) -> Option<&'static str> {
    let is_told = raw.get("no-flannel").and_then(|values| values.last());
    let is_told = is_told.and_then(|value| super::values::truth(value)) == Some(true);
    (role == Role::Agent && is_told).then_some(
        "# Kept by edge-bootstrap adopt. Remove this file when all servers run with flannel-backend: none,\n# and before this agent gets k3s v1.25, which does not know the key.\nno-flannel: true\n",
    )
}

fn value(key: &str, values: &[String]) -> Value {
    match values {
        values if table::is_list(key) => Value::List(values.to_vec()),
        [.., last] if table::is_switch(key) && super::values::truth(last).is_some() => {
            Value::Bare((super::values::truth(last) == Some(true)).to_string())
        }
        [.., last] => Value::text(last),
        [] => Value::text(""),
    }
}
