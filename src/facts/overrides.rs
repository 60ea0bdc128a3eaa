//! What others set for k3s beside its configuration file: arguments and
//! variables of its unit, drop-ins of the unit, environment files.
//!
//! Owns which of their words are settings of k3s (k3s: pkg/cli/cmds); how systemd
//! splits them is `unit_text`'s. Arguments win over
//! the configuration file, the file wins over variables. A secret value is
//! replaced by its fingerprint while it is read. No I/O.

use serde::{Deserialize, Serialize};

use super::k3s_config::{hidden, long_name};
use super::unit_text::{assignments, directives, words};

/// One setting of somebody else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// Unit that it is for, with `.service`.
    pub unit: String,
    /// File in which it stands.
    pub path: String,
    /// As it stands there: `K3S_URL` or `--server`.
    pub name: String,
    /// Key of k3s's configuration, for example `server`.
    pub key: String,
    /// Its value; `true` for a switch.
    pub value: String,
    /// An argument wins over the configuration file, a variable does not.
    pub wins: bool,
}

/// Variables that set a key when neither file nor argument does (k3s:
/// pkg/cli/cmds/server.go, agent.go), and the one that names the file itself.
const VARIABLES: [(&str, &str); 11] = [
    ("K3S_AGENT_TOKEN", "agent-token"),
    ("K3S_AGENT_TOKEN_FILE", "agent-token-file"),
    ("K3S_CLUSTER_INIT", "cluster-init"),
    ("K3S_CLUSTER_RESET", "cluster-reset"),
    ("K3S_CONFIG_FILE", "config"),
    ("K3S_DATASTORE_ENDPOINT", "datastore-endpoint"),
    ("K3S_DATA_DIR", "data-dir"),
    ("K3S_NODE_NAME", "node-name"),
    ("K3S_TOKEN", "token"),
    ("K3S_TOKEN_FILE", "token-file"),
    ("K3S_URL", "server"),
];

/// Keys that stand alone on a command line.
const SWITCHES: [&str; 7] =
    ["cluster-init", "cluster-reset", "debug", "disable-etcd", "docker", "rootless", "with-node-id"];

/// What a unit file and its drop-ins say in `[Service]`, merged in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    /// Words of each `ExecStart=`, with the file in which it stands.
    pub exec_start: Vec<(String, Vec<String>)>,
    /// Commands of `ExecStartPre=` as they stand.
    pub exec_start_pre: Vec<String>,
    /// Assignments of `Environment=`, with their file.
    pub environment: Vec<(String, String)>,
    /// Paths of `EnvironmentFile=`, specifiers as they stand.
    pub environment_files: Vec<String>,
}

impl Service {
    /// Reads one file over what is there already: an empty value resets a list.
    pub fn merge(&mut self, path: &str, text: &str) {
        for directive in directives(text).into_iter().filter(|one| one.section == "Service") {
            let value = directive.value;
            match directive.name.as_str() {
                "ExecStart" => {
                    append(&mut self.exec_start, &value, |value| vec![(path.to_owned(), words(value))])
                }
                "ExecStartPre" => {
                    append(&mut self.exec_start_pre, &value, |value| vec![value.to_owned()]);
                }
                "Environment" => append(&mut self.environment, &value, |value| {
                    words(value).into_iter().map(|word| (path.to_owned(), word)).collect()
                }),
                "EnvironmentFile" => append(&mut self.environment_files, &value, |value| {
                    vec![value.trim_start_matches('-').to_owned()]
                }),
                _ => {}
            }
        }
    }

    /// Settings of the command line and of `Environment=`, for `unit`.
    #[must_use]
    pub fn overrides(&self, unit: &str) -> Vec<Override> {
        let arguments = self.exec_start.iter().flat_map(|(path, words)| {
            let rest = words.get(1..).unwrap_or_default();
            arguments(rest).into_iter().map(|(name, value)| argument(unit, path, &name, value))
        });
        let variables = self.environment.iter().filter_map(|(path, word)| {
            let (name, value) = word.split_once('=')?;
            variable((unit, path), name, value)
        });
        arguments.chain(variables).collect()
    }
}

/// Settings of one environment file, for `unit`.
#[must_use]
pub fn of_environment_file(unit: &str, path: &str, text: &str) -> Vec<Override> {
    let all = assignments(text).into_iter();
    all.filter_map(|one| variable((unit, path), &one.name, &one.value)).collect()
}

fn append<T>(list: &mut Vec<T>, value: &str, items: impl FnOnce(&str) -> Vec<T>) {
    if value.is_empty() {
        list.clear();
    } else {
        list.extend(items(value));
    }
}

/// Name as written and value of each `--key` of a command line.
fn arguments(words: &[String]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        let Some(name) = word.strip_prefix("--").or(word.strip_prefix('-')).filter(|name| !name.is_empty())
        else {
            continue;
        };
        let (key, value) = match name.split_once('=') {
            Some((key, value)) => (key, value.to_owned()),
            None if SWITCHES.contains(&name) => (name, "true".to_owned()),
            None => match words.next_if(|next| !next.starts_with('-')) {
                Some(value) => (name, value.clone()),
                None => (name, "true".to_owned()),
            },
        };
        found.push((key.to_owned(), value));
    }
    found
}

fn argument(unit: &str, path: &str, name: &str, value: String) -> Override {
    let key = long_name(name.to_owned());
    Override {
        unit: unit.to_owned(),
        path: path.to_owned(),
        name: format!("--{key}"),
        value: hidden(&key, &value),
        key,
        wins: true,
    }
}

fn variable((unit, path): (&str, &str), name: &str, value: &str) -> Option<Override> {
    let (_, key) = VARIABLES.iter().find(|(known, _)| *known == name.trim())?;
    // An empty variable sets nothing.
    (!value.trim().is_empty()).then(|| Override {
        unit: unit.to_owned(),
        path: path.to_owned(),
        name: name.trim().to_owned(),
        key: (*key).to_owned(),
        value: hidden(key, value.trim()),
        // The one variable that beats an argument (k3s: pkg/configfilearg/parser.go).
        wins: *key == "config",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(texts: &[&str]) -> Vec<(String, String, bool)> {
        let mut service = Service::default();
        texts.iter().for_each(|text| service.merge("x.conf", text));
        service.overrides("k3s.service").into_iter().map(|over| (over.key, over.value, over.wins)).collect()
    }

    fn set(key: &str, value: &str, wins: bool) -> (String, String, bool) {
        (key.to_owned(), value.to_owned(), wins)
    }

    #[test]
    fn our_own_unit_overrides_nothing() {
        assert_eq!(unit(&["[Service]\nExecStart=/usr/local/bin/k3s server\n"]), []);
    }

    #[test]
    fn arguments_are_read_in_each_spelling() {
        let text = "[Service]\nExecStart=\nExecStart=/usr/local/bin/k3s server \\\n  --cluster-init \\\n  '--node-name' \"other\" --node-ip=10.0.0.9 -s https://10.0.0.1:6443\n";
        let found = unit(&["[Service]\nExecStart=/usr/local/bin/k3s server --data-dir /gone\n", text]);
        let expected = [
            set("cluster-init", "true", true),
            set("node-name", "other", true),
            set("node-ip", "10.0.0.9", true),
            set("server", "https://10.0.0.1:6443", true),
        ];
        assert_eq!(found, expected);
    }

    /// An escape would else hide a setting that systemd gives to k3s.
    #[test]
    fn quotes_and_escapes_are_systemds() {
        let start = r"/usr/local/bin/k3s server --node\x2dname a\x20b '--node-ip=it\'s'";
        let text = format!("[Service]\nExecStart={start}\nEnvironment='K3S_URL=https://a\\x2eb'\n");
        let expected = [
            set("node-name", "a b", true),
            set("node-ip", "it's", true),
            set("server", "https://a.b", false),
        ];
        assert_eq!(unit(&[&text]), expected);
        let file = "K3S_URL=https://a\\\n.b\nK3S_NODE_NAME=one two\nexport K3S_DATA_DIR=/srv\n";
        let found = of_environment_file("k3s.service", "x", file);
        let found: Vec<_> = found.iter().map(|one| (one.key.as_str(), one.value.as_str())).collect();
        assert_eq!(found, [("server", "https://a.b"), ("node-name", "one two")]);
    }

    #[test]
    fn variables_count_only_in_the_service_section_and_only_when_k3s_knows_them() {
        let text = "[Unit]\nEnvironment=K3S_URL=https://a\n[Service]\n# Environment=K3S_NODE_NAME=b\nEnvironment=\"K3S_CLUSTER_INIT=true\" PATH=/bin K3S_NODE_NAME=\n";
        assert_eq!(unit(&[text]), [set("cluster-init", "true", false)]);
        assert_eq!(unit(&[text, "[Service]\nEnvironment=\n"]), []);
    }

    #[test]
    fn a_token_is_never_kept() {
        let found = of_environment_file("k3s.service", "/etc/default/k3s", "K3S_TOKEN='canary'\nK3S_URL=x\n");
        assert!(!format!("{found:?}").contains("canary"));
        assert_eq!(found.len(), 2);
        assert!(
            !format!("{:?}", unit(&["[Service]\nExecStart=k3s server --token=canary"])).contains("canary")
        );
    }

    #[test]
    fn no_text_makes_it_panic() {
        for text in
            ["", "[Service]\nExecStart", "[Service]\nExecStart=-", "[Service]\nEnvironment='", "\\", "=\n\\"]
        {
            let _ = (unit(&[text]), of_environment_file("u", "p", text));
        }
    }
}
