//! Taking over a k3s that others installed: what it was told, and where each
//! word of that goes.
//!
//! Owns the order in which k3s lets arguments, files and variables win (k3s:
//! pkg/configfilearg/parser.go), which of them have no effect or cannot be
//! copied, and the comparison of what runs with what is planned. Pure; what it
//! is given holds secrets, and what it shows does not.

mod compare;
mod proposal;
mod rest;
mod rows;
mod seen;
mod strangers;
mod table;

use std::collections::BTreeMap;
use std::fmt;

pub use compare::{Difference, blockers, differences, is_fixed, normal};
pub use proposal::{Proposed, password, proposal};
pub use rest::{
    AGENT_DROP_IN, Rest, agent_drop_in, environment_rest, left_out, transition, unit_rest, unwritable,
};
pub use rows::{Row, rows, shown};
pub use seen::Seen;
pub use strangers::strangers;
pub use table::key_of;

use super::keys::values;
use super::refusal::Refusal;
use super::{Inputs, keys, pinned, retire, units};
use crate::facts::HostFacts;
use crate::facts::k3s_config::{Effective, Layer, hidden};
use crate::paths;
use crate::role::{K3sVersion, Role};

/// Values by key, secrets among them: never shown, only compared and written.
pub type Raw = BTreeMap<String, Vec<String>>;

/// One variable of the unit, with the file in which it stands.
#[derive(Clone, PartialEq, Eq)]
pub struct Variable {
    /// Path of the file.
    pub path: String,
    /// `K3S_URL`.
    pub name: String,
    /// Its value.
    pub value: String,
}

impl fmt::Debug for Variable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Variable({} in {})", self.name, self.path)
    }
}

/// One configuration file of k3s, in the order in which k3s reads them.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigFile {
    /// Its path.
    pub path: String,
    /// Its keys as they stand, `key+` among them; secrets in clear.
    pub layer: Layer,
}

impl fmt::Debug for ConfigFile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "ConfigFile({})", self.path)
    }
}

/// A k3s as others installed it.
#[derive(Clone, PartialEq, Eq)]
pub struct Installed {
    /// `k3s.service` or `k3s-agent.service`.
    pub unit: String,
    /// Path of the unit file.
    pub path: String,
    /// By the command on its line.
    pub role: Role,
    /// Of the binary, where it is known: not every version reads every variable.
    pub version: Option<K3sVersion>,
    /// What stands behind `server` or `agent`, as k3s gets it.
    pub arguments: Vec<String>,
    /// Variables of `Environment=` and of environment files, the last of a name counts.
    pub variables: Vec<Variable>,
    /// `config.yaml` first, then its drop-ins.
    pub files: Vec<ConfigFile>,
}

impl fmt::Debug for Installed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Installed({} in {}, its words are secret)", self.role, self.path)
    }
}

/// Where a setting stands, the weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// A variable: counts where nothing else sets the key.
    Variable,
    /// A configuration file.
    File,
    /// The command line.
    Argument,
}

/// One setting as it stands somewhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Setting {
    /// File in which it stands.
    pub path: String,
    /// As it stands there: `--node-ip`, `K3S_URL`, `node-ip`.
    pub name: String,
    /// The key that it sets, under its long name; `None` for variables that set none.
    pub key: Option<String>,
    /// Its values.
    pub values: Vec<String>,
    /// Where it stands.
    pub rank: Rank,
    /// Adds to earlier values of the same file form (`key+`).
    pub appends: bool,
    /// Why it has no effect.
    pub lost: Option<String>,
    /// Why its value cannot be copied.
    pub invalid: Option<String>,
}

impl fmt::Debug for Setting {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Setting({} in {}, lost {:?})", self.name, self.path, self.lost)
    }
}

/// Everything that an installed k3s was told, each with what became of it.
#[must_use]
pub fn settings(installed: &Installed) -> Vec<Setting> {
    let mut all: Vec<Setting> = installed.files.iter().flat_map(of_file).collect();
    all.extend(arguments(installed));
    all.extend(installed.variables.iter().map(of_variable));
    for index in 0..all.len() {
        let unread = all.get(index).and_then(|one| unread(one, installed));
        let lost = || {
            let later = all.get(index + 1..).unwrap_or_default();
            all.get(index).and_then(|one| lost(one, later, &all))
        };
        let lost = unread.or_else(lost);
        if let Some(one) = all.get_mut(index) {
            one.invalid = one.key.as_deref().and_then(|key| values::problem(key, &one.values));
            one.lost = lost;
        }
    }
    all
}

fn setting(path: &str, name: String, key: Option<&str>, values: Vec<String>, rank: Rank) -> Setting {
    let key = key.map(|key| table::long_name(key).to_owned());
    let values = match &key {
        Some(key) if table::splits(key) => split(&values),
        _ => values,
    };
    let path = path.to_owned();
    Setting { path, name, key, values, rank, appends: false, lost: None, invalid: None }
}

fn split(values: &[String]) -> Vec<String> {
    let parts = values.iter().flat_map(|value| value.split(','));
    parts.map(|part| part.trim().to_owned()).collect()
}

fn of_file(file: &ConfigFile) -> Vec<Setting> {
    let entries = file.layer.iter().map(|(name, values)| {
        let key = name.trim_end_matches('+');
        let one = setting(&file.path, name.clone(), Some(key), values.clone(), Rank::File);
        Setting { appends: name.ends_with('+'), ..one }
    });
    entries.collect()
}

fn of_variable(variable: &Variable) -> Setting {
    let key = table::key_of(&variable.name);
    setting(&variable.path, variable.name.clone(), key, vec![variable.value.clone()], Rank::Variable)
}

fn arguments(installed: &Installed) -> Vec<Setting> {
    let mut found = Vec::new();
    let mut words = installed.arguments.iter();
    let mut before = installed.role.to_string();
    while let Some(word) = words.next() {
        let name = word.trim_start_matches('-');
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (name, None),
        };
        let key = table::long_name(name);
        let is_word = !word.starts_with('-') || key.is_empty();
        let value = match value {
            Some(value) => value,
            None if is_word || table::is_switch(key) => "true".to_owned(),
            None => words.next().cloned().unwrap_or_default(),
        };
        let key = (!is_word).then_some(key);
        // A stray word may be anything, a password too.
        let title =
            if is_word { format!("a word that is no option, behind {before}") } else { format!("--{name}") };
        if !is_word {
            before.clone_from(&title);
        }
        found.push(setting(&installed.path, title, key, vec![value], Rank::Argument));
    }
    found
}

/// Why k3s does not even look at a variable: it is the other role's, or another
/// version's. In a file the same key would end an agent.
fn unread(one: &Setting, installed: &Installed) -> Option<String> {
    let key = one.key.as_deref().filter(|_| one.rank == Rank::Variable)?;
    let Installed { role, version, .. } = installed;
    let of_role = keys::rows().any(|row| row.name == key && row.serves(*role));
    let of_version = version.as_ref().is_none_or(|version| match keys::of(version).find(key, *role) {
        keys::Presence::Known(_) | keys::Presence::Perhaps(_) => table::has_variable(version, &one.name),
        _ => false,
    });
    (!of_role || !of_version).then(|| match version {
        Some(version) if of_role => format!("k3s {version} does not read it"),
        _ => format!("k3s as {role} does not read it"),
    })
}

/// Why `one` has no effect. `later` stand behind it in the order of reading.
fn lost(one: &Setting, later: &[Setting], all: &[Setting]) -> Option<String> {
    let key = one.key.as_deref()?;
    let sets = |other: &&Setting| other.key.as_deref() == Some(key);
    if one.rank == Rank::Variable {
        if one.values.iter().all(String::is_empty) {
            return Some("it is empty".to_owned());
        }
        let stronger = all.iter().filter(sets).find(|other| other.rank > Rank::Variable);
        let again = || later.iter().find(|other| other.name == one.name);
        return stronger.or_else(again).map(|other| format!("{} sets {key}", place(other)));
    }
    let replaces = |other: &&Setting| match (one.rank, other.rank) {
        (_, Rank::Variable) => false,
        (Rank::File, Rank::File) => !other.appends,
        _ => !table::is_list(key),
    };
    let by_key = later.iter().filter(sets).find(replaces);
    let file = format!("{key}-file");
    let by_file = || {
        let is_token = ["token", "agent-token"].contains(&key);
        all.iter().find(|other| is_token && other.key.as_deref() == Some(&file))
    };
    by_key.or_else(by_file).map(|other| format!("{} sets {}", place(other), other.name))
}

fn place(setting: &Setting) -> String {
    match setting.rank {
        Rank::Argument => "the command line".to_owned(),
        Rank::File | Rank::Variable => setting.path.clone(),
    }
}

/// The values in force, files before arguments in lists; of a list what can be copied.
#[must_use]
pub fn in_force(settings: &[Setting]) -> Raw {
    let mut raw = Raw::new();
    for one in settings.iter().filter(|one| one.lost.is_none()) {
        let Some(key) = &one.key else { continue };
        let is_right = |value: &String| {
            values::problem(key, std::slice::from_ref(value)).is_none() && table::is_list(key)
        };
        if one.invalid.is_some() && !one.values.iter().any(is_right) {
            continue;
        }
        let slot = raw.entry(key.clone()).or_default();
        if !table::is_list(key) {
            slot.clear();
        }
        slot.extend(one.values.iter().filter(|value| one.invalid.is_none() || is_right(value)).cloned());
    }
    raw
}

/// The file that k3s reads as its configuration: the variable beats the
/// argument (k3s: pkg/configfilearg/parser.go).
#[must_use]
pub fn config_path(installed: &Installed) -> String {
    let mut variables = installed.variables.iter().filter(|one| one.name == "K3S_CONFIG_FILE");
    let named = variables.next_back().map(|one| one.value.clone()).filter(|path| !path.is_empty());
    // The first of them, unlike with every other argument.
    let by_argument = || {
        let mut all = arguments(installed).into_iter();
        all.find(|one| one.key.as_deref() == Some("config"))?.values.pop()
    };
    named.or_else(by_argument).unwrap_or_else(|| paths::K3S_CONFIG.to_owned())
}

/// Where k3s may stop reading its command line: behind a word that is no option it
/// takes none, or not all, by its version (urfave/cli v2 and v1).
#[must_use]
pub fn stray(settings: &[Setting]) -> Option<&str> {
    let mut all = settings.iter().filter(|one| one.rank == Rank::Argument);
    let stray = all.find(|one| one.key.is_none())?;
    all.any(|one| one.key.is_some()).then_some(&stray.name)
}

/// Values as facts and records hold them: secrets are fingerprints.
#[must_use]
pub fn redacted(raw: &Raw) -> Effective {
    let entries = raw.iter().map(|(key, values)| {
        (key.clone(), values.iter().map(|value| hidden(key, value)).collect::<Vec<_>>())
    });
    Effective(entries.collect())
}

/// Why no pass may touch this host yet: its k3s was installed by others, and
/// nobody has said that it is to be taken over. Told by files, because at a boot
/// nothing of k3s runs yet.
pub(super) fn is_needed(inputs: Inputs<'_>) -> Option<Refusal> {
    let runtime = &inputs.facts.runtime;
    if pinned(inputs.facts).is_some() || runtime.files.contains_key(paths::ADOPTED) {
        return None;
    }
    let facts = inputs.facts;
    let is_alive = |unit: &&str| is_enabled_or_up(facts, unit) || has_lived(facts);
    let unit = [units::K3S, units::K3S_AGENT].into_iter().filter(is_alive);
    let Some(path) = unit.filter_map(|unit| foreign_unit(facts, unit)).next() else {
        return strangers(&runtime.k3s.strangers, facts).into_iter().next();
    };
    Some(Refusal::new(
        "EB-adopt-needed",
        format!("the k3s of this host was installed by others: {path}"),
        "`edge-bootstrap adopt` shows what taking it over means; nothing is touched before a person says so",
    ))
}

/// The file that counts for `unit`, when others wrote it.
fn foreign_unit(facts: &HostFacts, unit: &str) -> Option<String> {
    let path = unit_file(facts, unit)?;
    let text = facts.runtime.files.get(&path)?.text.as_deref();
    text.is_some_and(units::is_foreign).then_some(path)
}

fn unit_file(facts: &HostFacts, unit: &str) -> Option<String> {
    let places = ["/etc/systemd/system", "/usr/lib/systemd/system"].map(|place| format!("{place}/{unit}"));
    places.into_iter().find(|path| facts.runtime.files.contains_key(path))
}

fn is_enabled_or_up(facts: &HostFacts, unit: &str) -> bool {
    let runtime = &facts.runtime;
    let state = runtime.units.get(unit.trim_end_matches(".service")).and_then(|state| state.known());
    let link = format!("/etc/systemd/system/multi-user.target.wants/{unit}");
    runtime.links.contains_key(&link)
        || state.is_some_and(|state| state.main_pid != 0 || state.file_state == "enabled")
}

/// What cannot be read may have lived.
fn has_lived(facts: &HostFacts) -> bool {
    let remains = facts.runtime.k3s.remains.known();
    remains.is_none_or(|remains| remains.iter().any(|path| retire::belongs_to_a_cluster(path)))
}

#[cfg(test)]
#[path = "mod_tests.rs"]
mod tests;
