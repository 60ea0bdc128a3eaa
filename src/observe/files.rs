//! Files and links that we own or heed.
//!
//! Owns the list of them and what of each may be shown. A file that can hold a
//! secret is told by mode, size and digest; in texts that people write, lines
//! that may hold one are hidden.

use std::collections::BTreeMap;

use super::text;
use crate::facts::k3s_config::Effective;
use crate::facts::runtime::FileFact;
use crate::ordered::Ordered as _;
use crate::paths::{
    ADOPT_CONFIG, ADOPT_DROP_IN, ADOPT_VARIABLES, ADOPTED, CNI_DIR, CNI_LOOPBACK, CONTAINERD_CERTS,
    CONTAINERD_CONFIG, CONTAINERD_DROP_IN, DROP_IN, GENERATIONS, HOSTNAME, HOSTS, K3S_AGENT_UNIT, K3S_CONFIG,
    K3S_CONFIG_DIR, K3S_LINK, K3S_UNIT, MODULES, SYSCTL,
};
use crate::plan::writers;
use crate::sys::Root;
use crate::wire::secret::sha256_hex;

/// What takes the place of a line that may hold a secret.
pub const HIDDEN_LINE: &str = "(hidden: may hold a secret)";
const SECRET_WORDS: [&str; 8] =
    ["token", "secret", "passw", "auth", "credential", "access-key", "datastore-endpoint", "private"];
const ENVIRONMENT_FILES: [&str; 6] = [
    "/etc/default/k3s",
    "/etc/default/k3s-agent",
    "/etc/sysconfig/k3s",
    "/etc/sysconfig/k3s-agent",
    "/etc/systemd/system/k3s.service.env",
    "/etc/systemd/system/k3s-agent.service.env",
];
/// Programs that k3s answers to under these names, where nobody else has them.
const TOOLS: [&str; 3] = ["kubectl", "crictl", "ctr"];
const WANTS: &str = "/etc/systemd/system/multi-user.target.wants";

/// How much of a file may be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Show {
    /// Everything.
    Text,
    /// Everything but lines that may hold a secret.
    Guarded,
    /// Effective values of a k3s configuration.
    K3sConfig,
    /// Nothing of the content.
    Digest,
}

/// Files that we own or heed, by path. An entry with an empty digest is there
/// but could not be read. `generation` is the one that `config.yaml` names.
#[must_use]
pub fn observe(root: &Root, generation: Option<u64>) -> BTreeMap<String, FileFact> {
    let mut paths = fixed();
    paths.extend(below(root, CNI_DIR).into_iter().map(|path| (path, Show::Digest)));
    paths.extend(below(root, K3S_CONFIG_DIR).into_iter().map(|path| (path, Show::Digest)));
    let registries = below(root, CONTAINERD_CERTS).into_iter();
    paths.extend(registries.map(|registry| (format!("{registry}/hosts.toml"), Show::Guarded)));
    if let Some(number) = generation {
        paths.extend(
            below(root, &format!("{GENERATIONS}/{number}")).into_iter().map(|path| (path, Show::Digest)),
        );
    }
    paths.push((CNI_LOOPBACK.to_owned(), Show::Text));
    let files = paths.into_iter().filter_map(|(path, show)| Some((path.clone(), file(root, &path, show)?)));
    files.chain(tools(root)).chain(namers(root)).into_map()
}

/// Programs that name hosts, and where they look for hooks: noted as there, never read.
fn namers(root: &Root) -> impl Iterator<Item = (String, FileFact)> {
    writers::programs().filter(|path| root.exists(path)).map(|path| (path.to_owned(), present()))
}

fn present() -> FileFact {
    FileFact { mode: 0, size: 0, sha256: String::new(), text: None }
}

/// Programs of others under the names of our links: noted as there, never read.
fn tools(root: &Root) -> Vec<(String, FileFact)> {
    let places = ["/usr/local/bin", "/usr/bin"];
    let paths = places.iter().flat_map(|place| TOOLS.map(|name| format!("{place}/{name}")));
    let is_link_of_ours =
        |path: &String| path.starts_with("/usr/local/") && root.read_link(path).ok().flatten().is_some();
    paths.filter(|path| root.exists(path) && !is_link_of_ours(path)).map(|path| (path, present())).collect()
}

/// Symbolic links that we own, by path, with their target.
#[must_use]
pub fn links(root: &Root) -> BTreeMap<String, String> {
    let tools = TOOLS.map(|name| format!("/usr/local/bin/{name}"));
    let wants = ["k3s", "k3s-agent", "containerd"].map(|unit| format!("{WANTS}/{unit}.service"));
    let paths = tools.into_iter().chain(wants).chain([K3S_LINK.to_owned()]);
    paths.filter_map(|path| Some((path.clone(), root.read_link(&path).ok()??))).into_map()
}

fn fixed() -> Vec<(String, Show)> {
    let open = [HOSTNAME, HOSTS, SYSCTL, MODULES].into_iter().chain(writers::paths());
    let open = open.map(|path| (path.to_owned(), Show::Text));
    let guarded = [K3S_UNIT, K3S_AGENT_UNIT, CONTAINERD_CONFIG, CONTAINERD_DROP_IN].map(str::to_owned);
    let drop_ins = [K3S_UNIT, K3S_AGENT_UNIT].map(|unit| format!("{unit}.d/{DROP_IN}"));
    let environment = ENVIRONMENT_FILES.map(|path| (path.to_owned(), Show::Digest));
    let vendors = ["k3s", "k3s-agent"].map(|unit| format!("/usr/lib/systemd/system/{unit}.service"));
    let guarded = guarded.into_iter().chain(drop_ins).chain(vendors).map(|path| (path, Show::Guarded));
    let adopting = [K3S_UNIT, K3S_AGENT_UNIT].map(|unit| format!("{unit}.d/{ADOPT_DROP_IN}"));
    let adopting = adopting.into_iter().chain([ADOPT_VARIABLES, ADOPT_CONFIG, ADOPTED].map(str::to_owned));
    let adopting = adopting.map(|path| (path, Show::Digest));
    let own = [(K3S_CONFIG.to_owned(), Show::K3sConfig)];
    open.chain(guarded).chain(environment).chain(own).chain(adopting).collect()
}

fn below(root: &Root, directory: &str) -> Vec<String> {
    let names = root.list(directory).unwrap_or_default();
    names.into_iter().map(|name| format!("{directory}/{name}")).collect()
}

fn file(root: &Root, path: &str, show: Show) -> Option<FileFact> {
    if !root.exists(path) || text::is_dir(root, path) {
        return None;
    }
    let stat = root.stat(path).ok().flatten();
    let mode = stat.map_or(0, |stat| stat.mode);
    match root.read(path) {
        Ok(Some(bytes)) => Some(FileFact {
            mode,
            size: bytes.len() as u64,
            sha256: sha256_hex(&bytes),
            text: shown(&String::from_utf8(bytes).ok(), show),
        }),
        Ok(None) | Err(_) => {
            Some(FileFact { mode, size: stat.map_or(0, |stat| stat.size), sha256: String::new(), text: None })
        }
    }
}

fn shown(text: &Option<String>, show: Show) -> Option<String> {
    let text = text.as_ref()?;
    match show {
        Show::Text => Some(text.clone()),
        Show::Guarded => Some(guarded(text)),
        Show::K3sConfig => {
            let mut config = Effective::default();
            config.merge(text).ok().map(|()| config.shown())
        }
        Show::Digest => None,
    }
}

/// A line that is continued is one with those after it: an installer writes an
/// option and its value in two.
fn guarded(text: &str) -> String {
    let (mut out, mut lines) = (String::new(), Vec::new());
    for line in text.split_inclusive('\n') {
        lines.push(line);
        if !line.trim_end().ends_with('\\') {
            out.extend(guarded_lines(&std::mem::take(&mut lines)));
        }
    }
    out.extend(guarded_lines(&lines));
    out
}

fn guarded_lines(lines: &[&str]) -> Vec<String> {
    let small = lines.concat().to_ascii_lowercase();
    if !SECRET_WORDS.iter().any(|word| small.contains(word)) {
        return lines.iter().map(|line| (*line).to_owned()).collect();
    }
    let hidden = |line: &&str| format!("{HIDDEN_LINE}{}", if line.ends_with('\n') { "\n" } else { "" });
    lines.iter().map(hidden).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_may_hold_a_secret_are_hidden_and_others_are_the_same() {
        let unit = "[Service]\nEnvironment=K3S_TOKEN=canary\nExecStart=/usr/local/bin/k3s server";
        let shown = guarded(unit);
        assert!(!shown.contains("canary"));
        assert_eq!(shown.lines().count(), 3);
        assert!(shown.ends_with("ExecStart=/usr/local/bin/k3s server"));
    }

    #[test]
    fn a_secret_in_the_line_after_its_option_is_hidden_too() {
        let unit = "[Service]\nExecStart=/usr/local/bin/k3s \\\n    server \\\n\t'--token' \\\n\t'canary' \\\n\nRestart=always\n";
        let shown = guarded(unit);
        assert!(!shown.contains("canary") && shown.ends_with("Restart=always\n"), "{shown}");
        assert_eq!(shown.lines().count(), unit.lines().count());
    }
}
