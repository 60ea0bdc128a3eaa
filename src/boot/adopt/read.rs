//! Reads what others told their k3s: unit, drop-ins, environment files,
//! configuration files, tokens.
//!
//! Owns which files those are. Changes nothing; what it gives holds secrets.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::facts::ca::ca_hash_of_pem;
use crate::facts::k3s_config::{ConfigParseError, parse_in_clear};
use crate::facts::{HostFacts, leaf, unit_text as line};
use crate::observe::overrides;
use crate::ordered::Ordered as _;
use crate::paths;
use crate::plan::adopt::{self, ConfigFile, Installed, Seen, Variable};
use crate::role::Role;
use crate::role::words::is_bootstrap_token;
use crate::sys::{FileError, Root};

/// Why what runs cannot be told.
#[derive(Debug, Error)]
pub enum ReadError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A configuration file that k3s would not read either.
    #[error("{path} is {error}")]
    Config {
        /// The file.
        path: String,
        /// What is wrong.
        error: ConfigParseError,
    },
    /// The unit starts something else than a server or an agent.
    #[error("{path} does not start `k3s server` or `k3s agent`; such a unit is not taken over")]
    Command {
        /// The unit file.
        path: String,
    },
}

/// What `[Service]` of a unit and its drop-ins says that k3s gets to see.
#[derive(Default)]
struct Service {
    start: String,
    environment: Vec<(String, String)>,
    /// Environment files, each with the file that names it.
    files: Vec<(String, String)>,
}

impl Service {
    fn merge(&mut self, path: &str, text: &str) {
        for directive in line::directives(text).into_iter().filter(|one| one.section == "Service") {
            let value = directive.value;
            match directive.name.as_str() {
                "ExecStart" => self.start = value,
                "Environment" if value.is_empty() => self.environment.clear(),
                "Environment" => {
                    let words = line::words(&value).into_iter();
                    self.environment.extend(words.map(|word| (path.to_owned(), word)));
                }
                "EnvironmentFile" if value.is_empty() => self.files.clear(),
                "EnvironmentFile" => {
                    self.files.push((path.to_owned(), value.trim_start_matches('-').to_owned()));
                }
                _ => {}
            }
        }
    }
}

/// A unit of others, with what has to be written anew when it is taken over.
pub struct Found {
    /// What k3s was told.
    pub installed: Installed,
    /// The program that the unit starts, by path.
    pub program: String,
    /// Drop-ins of the unit that are not ours, by path.
    pub drop_ins: Vec<String>,
    /// Environment files that are not ours, by path.
    pub environment_files: Vec<String>,
    /// Variables without a key that go with the unit file, and are to be kept.
    pub carried: Vec<(String, String)>,
}

impl std::fmt::Debug for Found {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Found({:?})", self.installed)
    }
}

/// Where the variables that are kept go: our unit reads this file too.
pub fn environment_file(unit: &str) -> String {
    format!("/etc/systemd/system/{unit}.env")
}

/// The drop-in with which k3s reads one file of ours while it is taken over.
pub fn drop_in(unit: &str) -> String {
    format!("/etc/systemd/system/{unit}.d/{}", paths::ADOPT_DROP_IN)
}

/// What the k3s of `unit` was told; `None` when there is no such unit. `command`
/// is what systemd has loaded, where it could be asked.
///
/// # Errors
/// When a file cannot be read, or the unit starts something else.
pub fn found(
    root: &Root,
    unit: &str,
    command: Option<Vec<String>>,
    facts: &HostFacts,
) -> Result<Option<Found>, ReadError> {
    let Some(path) = overrides::fragment(root, unit) else { return Ok(None) };
    let mut service = Service::default();
    let mut drop_ins = overrides::drop_ins(root, unit)?;
    for file in std::iter::once(&path).chain(&drop_ins) {
        service.merge(file, &root.read_text(file)?.unwrap_or_default());
    }
    let hostname = facts.identity.hostname.kernel.known().map_or("", String::as_str);
    let specified = |word: &str| line::specified(word, unit, hostname);
    let mut variables: Vec<Variable> =
        service.environment.iter().filter_map(|(path, word)| variable(path, &specified(word))).collect();
    let mut environment_files = Vec::new();
    // Files whose variables go with the unit file, the file itself among them.
    let mut going = vec![path.clone()];
    for (named_in, file) in &service.files {
        let file = specified(file);
        going.extend((!is_standard(&file, unit) && *named_in == path).then(|| file.clone()));
        variables.extend(variables_of(root, &file)?);
        environment_files.push(file);
    }
    let by_name: BTreeMap<&str, &Variable> = variables.iter().map(|one| (one.name.as_str(), one)).into_map();
    let carried = carried(&by_name, &going);
    let values = by_name.values().map(|one| (one.name.clone(), one.value.clone())).collect();
    let words =
        command.unwrap_or_else(|| line::words(&service.start).iter().map(|word| specified(word)).collect());
    let words = line::expanded(&words, &values);
    let (program, role, arguments) =
        started(&words).ok_or_else(|| ReadError::Command { path: path.clone() })?;
    drop_ins.retain(|path| *path != drop_in(unit));
    environment_files.retain(|path| path != paths::ADOPT_VARIABLES);
    let version = facts.runtime.k3s.version.known().cloned().flatten().and_then(|text| text.parse().ok());
    let unit = unit.to_owned();
    let mut installed = Installed { unit, path, role, version, arguments, variables, files: Vec::new() };
    installed.files = config_files(root, &adopt::config_path(&installed))?;
    Ok(Some(Found { installed, program, drop_ins, environment_files, carried }))
}

/// Variables without a key that are in force and stand where nobody reads them any
/// more. One that lost would win in the file to which it goes.
fn carried(by_name: &BTreeMap<&str, &Variable>, going: &[String]) -> Vec<(String, String)> {
    let loose =
        by_name.values().filter(|one| adopt::key_of(&one.name).is_none() && going.contains(&one.path));
    loose.map(|one| (one.name.clone(), one.value.clone())).collect()
}

fn is_standard(path: &str, unit: &str) -> bool {
    let name = unit.trim_end_matches(".service");
    [format!("/etc/default/{name}"), format!("/etc/sysconfig/{name}"), environment_file(unit)]
        .iter()
        .any(|standard| standard == path)
}

fn variable(path: &str, word: &str) -> Option<Variable> {
    let (name, value) = word.split_once('=')?;
    Some(Variable { path: path.to_owned(), name: name.to_owned(), value: value.to_owned() })
}

fn variables_of(root: &Root, path: &str) -> Result<Vec<Variable>, FileError> {
    let text = root.read_text(path)?.unwrap_or_default();
    let all = line::assignments(&text).into_iter().filter(|one| !one.name.is_empty());
    Ok(all.map(|one| Variable { path: path.to_owned(), name: one.name, value: one.value }).collect())
}

/// Program, role and what stands behind them on the command line.
fn started(words: &[String]) -> Option<(String, Role, Vec<String>)> {
    let [program, command, rest @ ..] = words else { return None };
    let program = program.trim_start_matches(['-', '@', ':', '+', '!']);
    let is_plain = program.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b));
    let is_k3s = is_plain && program.starts_with('/') && program.ends_with("/k3s");
    let role = match command.as_str() {
        "server" => Role::Server,
        "agent" => Role::Agent,
        _ => return None,
    };
    is_k3s.then(|| (program.to_owned(), role, rest.to_vec()))
}

/// The main file, then its drop-ins by name (k3s: pkg/configfilearg/parser.go).
fn config_files(root: &Root, main: &str) -> Result<Vec<ConfigFile>, ReadError> {
    let mut paths = vec![main.to_owned()];
    paths.extend(config_drop_ins(root, &format!("{main}.d"))?);
    let mut files = Vec::new();
    for path in paths {
        let Some(text) = root.read_text(&path)? else { continue };
        let layer = parse_in_clear(&text).map_err(|error| ReadError::Config { path: path.clone(), error })?;
        files.push(ConfigFile { path, layer });
    }
    Ok(files)
}

/// Files of `directory` that k3s adds to its configuration; it passes over directories there.
pub fn config_drop_ins(root: &Root, directory: &str) -> Result<Vec<String>, FileError> {
    let is_read = |path: &String| {
        let name = path.to_ascii_lowercase();
        (name.ends_with(".yaml") || name.ends_with(".yml"))
            && !root.stat(path).ok().flatten().is_some_and(|stat| stat.is_dir)
    };
    let paths = root.list(directory)?.into_iter().map(|name| format!("{directory}/{name}"));
    Ok(paths.filter(is_read).collect())
}

/// What of the host counts beside what k3s was told.
///
/// # Errors
/// When a token's file cannot be read.
pub fn seen(root: &Root, facts: &HostFacts, raw: &adopt::Raw, role: Role) -> Result<Seen, FileError> {
    let k3s = &facts.runtime.k3s;
    let given = given_token(root, raw)?;
    let read = |name: &str| -> Result<Option<String>, FileError> {
        let path = format!("{}/server/{name}", paths::K3S_DATA);
        Ok(root.read_text(&path)?.and_then(|text| adopt::password(&text)))
    };
    let (server_token, agent_token, ca) = if role == Role::Agent {
        (None, given, format!("{}/agent/server-ca.crt", paths::K3S_DATA))
    } else {
        let is_own = root.read_link(&format!("{}/server/agent-token", paths::K3S_DATA))?.is_none();
        let agent = if is_own { read("agent-token")? } else { None };
        (read("token")?.or(given), agent, format!("{}/server/tls/server-ca.crt", paths::K3S_DATA))
    };
    Ok(Seen {
        name: name(root, facts)?,
        addresses: root.read(&kubelet("serving"))?.map_or_else(Vec::new, |pem| leaf::addresses(&pem)),
        servers: Vec::new(),
        server_token,
        agent_token,
        ca_hash: root.read(&ca)?.and_then(|pem| ca_hash_of_pem(&pem)),
        version: k3s.version.known().cloned().flatten(),
        has_datastore: k3s.has_datastore.known().copied(),
    })
}

fn given_token(root: &Root, raw: &adopt::Raw) -> Result<Option<String>, FileError> {
    let last = |key: &str| raw.get(key).and_then(|values| values.last());
    let from_file = match last("token-file") {
        Some(path) => root.read_text(path)?,
        None => None,
    };
    let token = from_file.or_else(|| last("token").or(last("cluster-secret")).cloned());
    Ok(token.and_then(|token| adopt::password(&token)).filter(|token| !is_bootstrap_token(token)))
}

/// The kubelet's certificate for its calls (`client`) or for its callers (`serving`).
fn kubelet(kind: &str) -> String {
    format!("{}/agent/{kind}-kubelet.crt", paths::K3S_DATA)
}

/// As what this node runs: its kubelet's name, else what its etcd member was called
/// when it joined.
fn name(root: &Root, facts: &HostFacts) -> Result<Option<String>, FileError> {
    let kubelet = root.read(&kubelet("client"))?.and_then(|pem| leaf::common_name(&pem));
    let kubelet = kubelet.and_then(|name| name.strip_prefix("system:node:").map(str::to_lowercase));
    let member = facts.runtime.k3s.etcd_member.known().and_then(Option::as_ref);
    Ok(kubelet.or_else(|| member?.rsplit_once('-').map(|(name, _)| name.to_lowercase())))
}
