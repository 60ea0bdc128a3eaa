//! Reads what others told their k3s: unit, drop-ins, environment files,
//! configuration files, tokens.
//!
//! Owns which files those are. Changes nothing; what it gives holds secrets.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::facts::HostFacts;
use crate::facts::ca::ca_hash_of_pem;
use crate::facts::k3s_config::{ConfigParseError, parse_in_clear};
use crate::observe::overrides;
use crate::paths;
use crate::plan::adopt::{self, ConfigFile, Installed, Seen, Variable, line};
use crate::role::Role;
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
    /// Drop-ins of the unit, by path.
    pub drop_ins: Vec<String>,
    /// Environment files, by path.
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

/// What the k3s of `unit` was told; `None` when there is no such unit. `command`
/// is what systemd has loaded, where it could be asked.
///
/// # Errors
/// When a file cannot be read, or the unit starts something else.
pub fn found(
    root: &Root,
    unit: &str,
    command: Option<Vec<String>>,
    hostname: &str,
) -> Result<Option<Found>, ReadError> {
    let Some(path) = overrides::fragment(root, unit) else { return Ok(None) };
    let mut service = Service::default();
    let drop_ins = overrides::drop_ins(root, unit)?;
    for file in std::iter::once(&path).chain(&drop_ins) {
        service.merge(file, &root.read_text(file)?.unwrap_or_default());
    }
    let specified = |word: &str| line::specified(word, unit, hostname);
    let mut variables: Vec<Variable> =
        service.environment.iter().filter_map(|(path, word)| variable(path, &specified(word))).collect();
    let mut environment_files = Vec::new();
    let mut carried: Vec<(String, String)> = loose(variables.iter().filter(|one| one.path == path));
    for (named_in, file) in &service.files {
        let file = specified(file);
        let read = variables_of(root, &file)?;
        let is_read_by_ours = is_standard(&file, unit) || *named_in != path;
        carried.extend(loose(read.iter().filter(|_| !is_read_by_ours)));
        variables.extend(read);
        environment_files.push(file);
    }
    let by_name: BTreeMap<String, String> =
        variables.iter().map(|one| (one.name.clone(), one.value.clone())).collect();
    let words =
        command.unwrap_or_else(|| line::words(&service.start).iter().map(|word| specified(word)).collect());
    let words = line::expanded(&words, &by_name);
    let (role, arguments) = role(&words).ok_or_else(|| ReadError::Command { path: path.clone() })?;
    let unit = unit.to_owned();
    let mut installed = Installed { unit, path, role, arguments, variables, files: Vec::new() };
    installed.files = config_files(root, &adopt::config_path(&installed))?;
    Ok(Some(Found { installed, drop_ins, environment_files, carried }))
}

fn is_standard(path: &str, unit: &str) -> bool {
    let name = unit.trim_end_matches(".service");
    [format!("/etc/default/{name}"), format!("/etc/sysconfig/{name}"), environment_file(unit)]
        .iter()
        .any(|standard| standard == path)
}

fn loose<'a>(variables: impl Iterator<Item = &'a Variable>) -> Vec<(String, String)> {
    let loose = variables.filter(|one| adopt::key_of(&one.name).is_none());
    loose.map(|one| (one.name.clone(), one.value.clone())).collect()
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

/// Role and what stands behind it on the command line.
fn role(words: &[String]) -> Option<(Role, Vec<String>)> {
    let [program, command, rest @ ..] = words else { return None };
    let is_k3s = program.rsplit('/').next().is_some_and(|name| name.trim_start_matches(['-', '@']) == "k3s");
    let role = match command.as_str() {
        "server" => Role::Server,
        "agent" => Role::Agent,
        _ => return None,
    };
    is_k3s.then(|| (role, rest.to_vec()))
}

/// The main file, then its drop-ins by name (k3s: pkg/configfilearg/parser.go).
fn config_files(root: &Root, main: &str) -> Result<Vec<ConfigFile>, ReadError> {
    let directory = format!("{main}.d");
    let mut paths = vec![main.to_owned()];
    let is_read = |name: &String| {
        let name = name.to_ascii_lowercase();
        name.ends_with(".yaml") || name.ends_with(".yml")
    };
    let names = root.list(&directory)?.into_iter().filter(is_read);
    paths.extend(names.map(|name| format!("{directory}/{name}")));
    let mut files = Vec::new();
    for path in paths {
        let Some(text) = root.read_text(&path)? else { continue };
        let layer = parse_in_clear(&text).map_err(|error| ReadError::Config { path: path.clone(), error })?;
        files.push(ConfigFile { path, layer });
    }
    Ok(files)
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
        hostname: facts.identity.hostname.kernel.known().cloned().unwrap_or_default(),
        default_ip: default_ip(facts),
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
    Ok(token.and_then(|token| adopt::password(&token)))
}

/// First address on the interface of the default route, which k3s takes without
/// `node-ip` (k3s: pkg/util/net.go).
fn default_ip(facts: &HostFacts) -> Option<std::net::IpAddr> {
    let routes = facts.network.routes.known()?;
    let route =
        routes.iter().find(|route| route.destination.prefix == 0 && route.destination.address.is_ipv4())?;
    let nics = facts.network.interfaces.known()?;
    let nic = nics.iter().find(|nic| nic.name == route.interface)?;
    nic.addresses.iter().map(|cidr| cidr.address).find(std::net::IpAddr::is_ipv4)
}
