//! What "never a mixed generation" means, said about the files of a host.
//!
//! Owns how the files are gathered, from a host that is on or off, and every
//! sentence about them that must hold at each moment. Knows the contract of the
//! files alone, nothing of the program that writes them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

const STATE: &str = "var/lib/edge-bootstrap";
const CONFIG: &str = "etc/rancher/k3s/config.yaml";

/// Prints `F path base64` for every small file of ours and `K path digest` for
/// every binary in the store, below the working directory.
pub const GATHER: &str = r#"
find etc/rancher/k3s etc/systemd/system etc/containerd etc/cni/net.d etc/sysctl.d etc/modules-load.d \
  etc/hostname etc/hosts var/lib/edge-bootstrap var/lib/rancher/k3s/server/tls/server-ca.crt \
  -type f ! -name k3s ! -name '*.part' 2>/dev/null | sort | while read -r file; do
  printf 'F %s %s\n' "$file" "$(base64 -w0 "$file")"
done
for file in var/lib/edge-bootstrap/k3s/*/k3s; do
  if [ -e "$file" ]; then printf 'K %s %s\n' "$file" "$(sha256sum <"$file" | cut -c1-64)"; fi
done
"#;

/// The files of a host at one moment.
#[derive(Debug, Default)]
pub struct Files {
    text: BTreeMap<String, Vec<u8>>,
    binaries: BTreeMap<String, String>,
}

impl Files {
    /// Reads what [`GATHER`] printed.
    pub fn parse(output: &str) -> Self {
        let mut files = Self::default();
        for line in output.lines() {
            let mut words = line.split(' ');
            match (words.next(), words.next(), words.next()) {
                (Some("F"), Some(path), Some(bytes)) => {
                    files.text.insert(path.to_owned(), BASE64_STANDARD.decode(bytes).unwrap());
                }
                (Some("K"), Some(path), Some(digest)) => {
                    files.binaries.insert(path.to_owned(), digest.to_owned());
                }
                _ => panic!("the gathering script printed `{line}`"),
            }
        }
        files
    }

    /// Everything that is wrong by itself.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.config();
        for name in ["identity.json", "ledger.json", "assignment.json"] {
            problems.extend(self.state_file(name));
        }
        problems.extend(["node.key", "node.crt"].iter().filter_map(|name| self.pem(name)));
        problems.extend(self.binaries());
        problems
    }

    /// What differs from `later`, the same host when it was steady, although
    /// nothing of ours may be half there before.
    pub fn torn(&self, later: &Self) -> Vec<String> {
        let outside = |path: &&String| {
            !path.starts_with(STATE)
                && !path.starts_with("etc/rancher")
                && !path.starts_with("var")
                && !is_temporary(path)
        };
        let differs = |path: &&String| self.text.get(*path) != later.text.get(*path) && *path != "etc/hosts";
        self.text
            .keys()
            .filter(outside)
            .filter(differs)
            .map(|path| format!("{path} was neither absent nor whole"))
            .collect()
    }

    /// Temporary files that nobody renamed or removed.
    pub fn leftovers(&self) -> Vec<String> {
        self.text.keys().filter(|path| is_temporary(path)).cloned().collect()
    }

    /// The hash of the cluster's CA that is pinned, once this host joined.
    pub fn joined(&self) -> Option<String> {
        let identity: serde_json::Value = serde_json::from_slice(self.state("identity.json")?).ok()?;
        Some(identity["body"]["joined"]["ca_hash"].as_str()?.to_owned())
    }

    /// How far a first boot has come.
    pub fn stage(&self) -> &'static str {
        let has = |name: &str| self.state(name).is_some();
        if self.joined().is_some() {
            "joined"
        } else if self.text.contains_key("var/lib/rancher/k3s/server/tls/server-ca.crt") {
            "k3s runs"
        } else if self.text.contains_key(CONFIG) {
            "committed"
        } else if has("identity.json") {
            "applying"
        } else if has("assignment.json") {
            "assigned"
        } else if has("node.key") {
            "claiming"
        } else {
            "bare"
        }
    }

    fn state(&self, name: &str) -> Option<&Vec<u8>> {
        self.text.get(&format!("{STATE}/{name}"))
    }

    /// `config.yaml` and everything that it names is of one generation.
    fn config(&self) -> Vec<String> {
        let Some(bytes) = self.text.get(CONFIG) else { return Vec::new() };
        let text = String::from_utf8_lossy(bytes);
        let Some(keys) = flat_yaml(&text) else { return vec![format!("{CONFIG} is not whole:\n{text}")] };
        let mut problems = Vec::new();
        let mut generations = Vec::new();
        // Only a server names the agents' token too.
        let is_server = keys.contains_key("cluster-cidr");
        for key in ["token-file", "agent-token-file"].into_iter().take(1 + usize::from(is_server)) {
            let Some(path) = keys.get(key) else {
                problems.push(format!("{CONFIG} has no {key}"));
                continue;
            };
            let path = path.trim_start_matches('/');
            if self.text.get(path).is_none_or(|token| !token.ends_with(b"\n")) {
                problems.push(format!("{path}, named by {CONFIG}, is missing or not whole"));
            }
            generations.extend(path.rsplit_once('/').map(|(directory, _)| directory.to_owned()));
        }
        generations.dedup();
        match generations.as_slice() {
            [one] => problems.extend(self.generation(one, bytes)),
            many => problems.push(format!("{CONFIG} names files of {many:?}")),
        }
        problems
    }

    fn generation(&self, directory: &str, config: &[u8]) -> Vec<String> {
        let mut problems = Vec::new();
        let manifest = self.text.get(&format!("{directory}/manifest.json"));
        if manifest.is_none_or(|bytes| serde_json::from_slice::<serde_json::Value>(bytes).is_err()) {
            problems.push(format!("{directory}/manifest.json is missing or not whole"));
        }
        if self.text.get(&format!("{directory}/config.yaml")).is_none_or(|copy| copy != config) {
            problems.push(format!("{directory}/config.yaml is not what is in force"));
        }
        problems
    }

    fn state_file(&self, name: &str) -> Option<String> {
        let bytes = self.state(name)?;
        let damage = frame_damage(bytes)?;
        Some(format!("{name} is damaged: {damage}"))
    }

    fn pem(&self, name: &str) -> Option<String> {
        let text = String::from_utf8_lossy(self.state(name)?).into_owned();
        let whole = text.starts_with("-----BEGIN ")
            && text.trim_end().ends_with("-----")
            && text.contains("-----END ");
        (!whole).then(|| format!("{name} is not whole"))
    }

    fn binaries(&self) -> Vec<String> {
        let wrong = |(path, digest): (&String, &String)| {
            let recorded = self.text.get(&format!("{path}.sha256"))?;
            // What follows is how the file looked.
            let recorded = String::from_utf8_lossy(recorded);
            let fits = recorded.split_whitespace().next() == Some(digest.as_str());
            (!fits).then(|| format!("{path} does not have the digest beside it"))
        };
        self.binaries.iter().filter_map(wrong).collect()
    }
}

fn is_temporary(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|name| name.starts_with('.') && name.ends_with(".tmp"))
}

/// What is wrong with `{"schema":1,"sha256":…,"body":…}`; `None`: nothing.
fn frame_damage(bytes: &[u8]) -> Option<String> {
    let frame: BTreeMap<String, &RawValue> = match serde_json::from_slice(bytes) {
        Ok(frame) => frame,
        Err(error) => return Some(error.to_string()),
    };
    let body = frame.get("body").map(|body| body.get()).unwrap_or_default();
    let digest = Sha256::digest(body.as_bytes()).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    });
    let recorded = frame.get("sha256").map(|sha256| sha256.get().trim_matches('"')).unwrap_or_default();
    (recorded != digest).then(|| "its checksum does not fit".to_owned())
}

/// The keys of a file of `key: value` and lists; `None` when it is cut off or
/// has a line of another form.
fn flat_yaml(text: &str) -> Option<BTreeMap<String, String>> {
    let body = text.strip_suffix('\n').filter(|_| text.starts_with("# Written by edge-bootstrap"))?;
    let mut keys = BTreeMap::new();
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        match line.split_once(':') {
            _ if line.trim_start().starts_with("- ") => {}
            Some((key, value)) if !key.starts_with(' ') => {
                keys.insert(key.to_owned(), value.trim().trim_matches(['"', '\'']).to_owned());
            }
            _ => return None,
        }
    }
    Some(keys)
}
