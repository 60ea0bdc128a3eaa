//! Owns how values reach k3s: main file, drop-ins, command line, environment,
//! and who wins (k3s: pkg/configfilearg/parser.go). It gives
//! raw values per key; what they mean is in `settings`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use edge_bootstrap::facts::k3s_config::parse_in_clear;

use crate::flags::{self, Flag, Kind, Scope};

/// A file that is no YAML mapping: the one error that k3s prints without
/// `Error: ` in front.
#[derive(Debug)]
pub struct BadYaml(String);

impl fmt::Display for BadYaml {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadYaml {}

/// Values per key after all sources were merged.
#[derive(Debug, Default, Clone)]
pub struct Values {
    map: BTreeMap<&'static str, Vec<String>>,
    /// Lines that k3s logs as warnings, in order.
    pub warnings: Vec<String>,
    /// Files that were read, in order.
    pub files: Vec<PathBuf>,
}

impl Values {
    /// The last value of a key; `None` when it is not set anywhere.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.map.get(key)?.last().map(String::as_str)
    }

    /// All values of a key.
    pub fn list(&self, key: &str) -> Vec<String> {
        self.map.get(key).cloned().unwrap_or_default()
    }

    /// A switch; absent means false.
    pub fn on(&self, key: &str) -> bool {
        matches!(self.text(key), Some("true" | "1" | "t" | "T" | "TRUE" | "True"))
    }

    /// All keys with their values, for the stand-in's record.
    pub fn all(&self) -> &BTreeMap<&'static str, Vec<String>> {
        &self.map
    }

    fn add(&mut self, flag: &Flag, value: &str) -> Result<()> {
        check(flag, value)?;
        let slot = self.map.entry(flag.name).or_default();
        match flag.kind {
            Kind::List => slot.push(value.into()),
            Kind::Commas => slot.extend(value.split(',').map(|part| part.trim().to_owned())),
            Kind::Bool | Kind::Int | Kind::Text => *slot = vec![value.into()],
        }
        Ok(())
    }
}

fn check(flag: &Flag, value: &str) -> Result<()> {
    const SWITCH: &[&str] =
        &["1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False"];
    match flag.kind {
        Kind::Bool if !SWITCH.contains(&value) => {
            bail!("invalid boolean value \"{value}\" for -{}: parse error", flag.name)
        }
        Kind::Int if value.parse::<i64>().is_err() => {
            bail!("invalid value \"{value}\" for flag -{}: parse error", flag.name)
        }
        _ => Ok(()),
    }
}

/// Reads everything for `role`: `arguments` are those after the sub-command.
pub fn load(role: Scope, arguments: &[String]) -> Result<Values> {
    let main = config_path(arguments);
    let files = read_files(&main)?;
    let mut values = Values::default();
    let pairs = merge(&files)?;
    values.files = files.into_iter().map(|(path, _)| path).collect();
    from_file(role, &pairs, &mut values)?;
    from_arguments(role, arguments, &mut values)?;
    from_environment(role, &mut values, |name| std::env::var(name).ok())?;
    Ok(values)
}

/// `K3S_CONFIG_FILE` beats `--config` beats the default.
fn config_path(arguments: &[String]) -> PathBuf {
    if let Ok(path) = std::env::var("K3S_CONFIG_FILE")
        && !path.is_empty()
    {
        return path.into();
    }
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == "--config" || argument == "-c" {
            return rest.next().map_or_else(crate::paths::default_config, PathBuf::from);
        }
        if let Some(path) = argument.strip_prefix("--config=").or(argument.strip_prefix("-c=")) {
            return path.into();
        }
    }
    crate::paths::default_config()
}

/// The main file and its drop-ins, sorted by name. A missing one is no error.
fn read_files(main: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut names = vec![main.to_path_buf()];
    let mut directory = main.as_os_str().to_owned();
    directory.push(".d");
    let mut drop_ins: Vec<PathBuf> = std::fs::read_dir(&directory)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    drop_ins.retain(|path| path.extension().is_some_and(|end| end == "yaml" || end == "yml"));
    drop_ins.sort();
    names.extend(drop_ins);
    let mut files = Vec::new();
    for path in names {
        match std::fs::read_to_string(&path) {
            Ok(text) => files.push((path, text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        }
    }
    Ok(files)
}

/// Key and values, in the order of the first occurrence; last file wins, `key+` appends.
fn merge(files: &[(PathBuf, String)]) -> Result<Vec<(String, Vec<String>)>> {
    let mut merged: Vec<(String, Vec<String>)> = Vec::new();
    for (path, text) in files {
        let entries = parse(text).map_err(|BadYaml(text)| BadYaml(format!("{text} ({})", path.display())))?;
        for (key, values) in entries {
            let (key, append) = key.strip_suffix('+').map_or((key.as_str(), false), |k| (k, true));
            match merged.iter_mut().find(|(known, _)| known == key) {
                Some((_, old)) if append => old.extend(values),
                Some((_, old)) => *old = values,
                None => merged.push((key.to_owned(), values)),
            }
        }
    }
    Ok(merged)
}

/// One file as key and values, `key` before `key+`; a document without content has none.
/// The reader is the product's: it keeps k3s's rules of YAML 1.1, and was compared with
/// k3s's own.
fn parse(text: &str) -> Result<Vec<(String, Vec<String>)>, BadYaml> {
    let layer = parse_in_clear(text).map_err(|error| BadYaml(format!("yaml: {error}")))?;
    Ok(layer.into_iter().collect())
}

/// Unknown keys: a warning for the server, fatal for the agent.
fn from_file(role: Scope, pairs: &[(String, Vec<String>)], into: &mut Values) -> Result<()> {
    for (key, values) in pairs {
        match flags::find(role, key) {
            Some(flag) => {
                for value in values {
                    into.add(&flag, value)?;
                }
            }
            None if role == Scope::Server => {
                into.warnings.push(format!("Unknown flag --{key} found in config.yaml, skipping\n"));
            }
            None => bail!("flag provided but not defined: -{key}"),
        }
    }
    Ok(())
}

fn from_arguments(role: Scope, arguments: &[String], into: &mut Values) -> Result<()> {
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let Some(body) = argument.strip_prefix("--").or(argument.strip_prefix('-')) else {
            continue;
        };
        let (name, inline) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        let flag =
            flags::find(role, name).with_context(|| format!("flag provided but not defined: -{name}"))?;
        let value = match (inline, flag.kind) {
            (Some(value), _) => value,
            (None, Kind::Bool) => "true".into(),
            (None, _) => rest.next().cloned().with_context(|| format!("flag needs an argument: -{name}"))?,
        };
        into.add(&flag, &value)?;
    }
    Ok(())
}

/// Environment loses to both other sources.
fn from_environment(role: Scope, into: &mut Values, get: impl Fn(&str) -> Option<String>) -> Result<()> {
    for (variable, key) in flags::ENVIRONMENT {
        let Some(flag) = flags::find(role, key) else { continue };
        if into.map.contains_key(flag.name) {
            continue;
        }
        if let Some(value) = get(variable).filter(|value| !value.is_empty()) {
            into.add(&flag, &value)?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn files(texts: &[&str]) -> Vec<(PathBuf, String)> {
        texts.iter().map(|text| (PathBuf::from("f"), (*text).to_owned())).collect()
    }

    fn values(role: Scope, texts: &[&str], arguments: &[&str]) -> Result<Values> {
        let mut values = Values::default();
        from_file(role, &merge(&files(texts))?, &mut values)?;
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        from_arguments(role, &arguments, &mut values)?;
        Ok(values)
    }

    #[test]
    fn an_empty_file_means_no_settings() {
        for text in ["", "# only a comment\n", "---\n"] {
            assert!(values(Scope::Server, &[text], &[]).unwrap().map.is_empty(), "{text:?}");
        }
    }

    #[test]
    fn the_last_file_replaces_a_whole_list() {
        let v = values(Scope::Server, &["tls-san: [a, b]", "tls-san: c"], &[]).unwrap();
        assert_eq!(v.list("tls-san"), ["c"]);
    }

    #[test]
    fn a_plus_appends_to_what_came_before() {
        let v = values(Scope::Server, &["tls-san: a", "tls-san+: [b, c]"], &[]).unwrap();
        assert_eq!(v.list("tls-san"), ["a", "b", "c"]);
        let v = values(Scope::Server, &["tls-san+: b"], &[]).unwrap();
        assert_eq!(v.list("tls-san"), ["b"]);
    }

    #[test]
    fn a_repeated_key_in_one_file_takes_the_last() {
        let v = values(Scope::Server, &["node-name: a\nnode-name: b\n"], &[]).unwrap();
        assert_eq!(v.text("node-name"), Some("b"));
    }

    #[test]
    fn an_unknown_key_warns_a_server_and_kills_an_agent() {
        let v = values(Scope::Server, &["no-flannel: true"], &[]).unwrap();
        assert!(v.warnings[0].starts_with("Unknown flag --no-flannel found in config.yaml, skipping"));
        let error = values(Scope::Agent, &["no-flannel: true"], &[]).unwrap_err();
        assert_eq!(error.to_string(), "flag provided but not defined: -no-flannel");
    }

    #[test]
    fn a_server_key_kills_an_agent() {
        assert!(values(Scope::Agent, &["cluster-init: true"], &[]).is_err());
    }

    #[test]
    fn broken_yaml_is_fatal_for_both() {
        for role in [Scope::Server, Scope::Agent] {
            assert!(values(role, &["node-name: [a\nb"], &[]).is_err());
            assert!(values(role, &["just words"], &[]).is_err());
        }
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let v = values(Scope::Agent, &["node-name: a"], &["--node-name", "b"]).unwrap();
        assert_eq!(v.text("node-name"), Some("b"));
    }

    #[test]
    fn the_environment_loses_to_the_file() {
        let mut v = values(Scope::Agent, &["node-name: a"], &[]).unwrap();
        let get = |name: &str| Some(format!("from {name}"));
        let get = |name: &str| ["K3S_NODE_NAME", "K3S_URL"].contains(&name).then(|| get(name))?;
        from_environment(Scope::Agent, &mut v, get).unwrap();
        assert_eq!(v.text("node-name"), Some("a"));
        assert_eq!(v.text("server"), Some("from K3S_URL"));
    }

    #[test]
    fn lists_of_file_and_command_line_add_up_and_one_network_twice_is_an_error() {
        let line = ["--service-cidr", "10.254.0.0/16"];
        let v = values(Scope::Server, &["service-cidr: 10.254.0.0/16"], &line).unwrap();
        assert_eq!(v.list("service-cidr"), ["10.254.0.0/16", "10.254.0.0/16"]);
        let error = crate::settings::Settings::new(Scope::Server, v).unwrap_err().to_string();
        assert!(error.contains("must be of different IP family"), "{error}");
        let both = values(
            Scope::Server,
            &["service-cidr: '10.254.0.0/16,fd00::/112'\nnode-name: a\nnode-ip: 10.0.0.1"],
            &[],
        );
        assert!(crate::settings::Settings::new(Scope::Server, both.unwrap()).is_ok());
    }

    #[test]
    fn scalars_are_those_of_yaml_1_1() {
        let v = values(Scope::Server, &["cluster-init: on\nhttps-listen-port: 014453\n"], &[]).unwrap();
        assert!(v.on("cluster-init"));
        assert_eq!(v.text("https-listen-port"), Some("6443"));
    }

    #[test]
    fn scalars_become_text_and_switches_are_checked() {
        let v = values(Scope::Server, &["cluster-init: yes\nhttps-listen-port: 6443\n"], &[]).unwrap();
        assert!(v.on("cluster-init"));
        assert_eq!(v.text("https-listen-port"), Some("6443"));
        assert!(values(Scope::Server, &["cluster-init: perhaps"], &[]).is_err());
        assert!(values(Scope::Server, &["https-listen-port: many"], &[]).is_err());
    }
}
