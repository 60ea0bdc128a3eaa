//! containerd, k3s and our own files as they are now.
//!
//! Owns joining what `containerd`, `k3s` and `files` read with generations and
//! the pinned identity. Asks systemd nothing: unit states come as data.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::mounts::Mount;
use super::{containerd, files, k3s, text};
use crate::facts::Fact;
use crate::facts::mirrors::Mirrors;
use crate::facts::runtime::{GenerationFact, Generations, PinnedIdentity, Runtime, Unit};
use crate::mirrors;
use crate::paths::{CNI_DIR, CNI_LOOPBACK, GENERATIONS, IDENTITY, generation_file};
use crate::sys::{Root, statefile};
use crate::wire::json;

/// What runs on the host, and what our files hold.
pub async fn observe(
    root: &Root,
    units: &BTreeMap<String, Fact<Unit>>,
    mounts: &Fact<Vec<Mount>>,
) -> Runtime {
    let generations = generations(root);
    let main_pid = units.get("containerd").and_then(Fact::known).map(|unit| unit.main_pid);
    Runtime {
        containerd: containerd::observe(root, mounts, main_pid.filter(|pid| *pid != 0)).await,
        k3s: k3s::observe(root, k3s::main_pid(units)).await,
        units: units.clone(),
        files: files::observe(root, generations.current.as_ref().map(|current| current.number)),
        links: files::links(root),
        generations,
        identity: identity(root),
        cni_files: cni_files(root),
        mirrors: mirrors(root),
    }
}

/// What the daemon's own looks saw of the mirrors.
fn mirrors(root: &Root) -> Fact<Mirrors> {
    match mirrors::load(root) {
        Ok(Some(mirrors)) => Fact::Known(mirrors),
        Ok(None) => Fact::unknown("nobody has asked them in this boot"),
        Err(error) => text::because(&error),
    }
}

/// The pinned identity; unknown when both copies of its file are damaged.
#[must_use]
pub fn identity(root: &Root) -> Fact<Option<PinnedIdentity>> {
    match statefile::load(root, IDENTITY) {
        Ok(loaded) => Fact::Known(loaded.value()),
        Err(error) => text::because(&error),
    }
}

/// Generations on disk. A current one without a readable manifest has an empty
/// digest, which is equal to that of no plan.
#[must_use]
pub fn generations(root: &Root) -> Generations {
    let names = root.list(GENERATIONS).unwrap_or_default();
    let highest = names.iter().filter_map(|name| name.parse().ok()).max().unwrap_or(0);
    let config = k3s::main_config(root);
    let current = config.known().and_then(|config| {
        let mut paths = config.all("token-file").iter().chain(config.all("agent-token-file"));
        paths.find_map(|path| generation_of(path))
    });
    let current =
        current.map(|number| GenerationFact { number, digest: digest(root, number).unwrap_or_default() });
    Generations { current, highest }
}

fn generation_of(path: &str) -> Option<u64> {
    let (number, file) = path.strip_prefix(GENERATIONS)?.strip_prefix('/')?.split_once('/')?;
    number.parse().ok().filter(|_| !file.is_empty())
}

#[derive(Deserialize)]
struct Manifest {
    schema: u32,
    digest: String,
}

fn digest(root: &Root, number: u64) -> Option<String> {
    let bytes = root.read(&generation_file(number, "manifest.json")).ok()??;
    let manifest: Manifest = json::read(&bytes).ok()?;
    (manifest.schema == 1).then_some(manifest.digest)
}

/// `10-name.conflist: network`, or the file's name alone when it has no
/// network's name.
fn cni_files(root: &Root) -> Fact<Vec<String>> {
    let names = match root.list(CNI_DIR) {
        Ok(names) => names,
        Err(error) => return text::because(&error),
    };
    let is_read = |name: &String| {
        [".conflist", ".conf", ".json"].iter().any(|end| name.ends_with(end))
            && format!("{CNI_DIR}/{name}") != CNI_LOOPBACK
    };
    Fact::Known(names.into_iter().filter(is_read).map(|name| cni_file(root, name)).collect())
}

fn cni_file(root: &Root, name: String) -> String {
    #[derive(Deserialize)]
    struct Cni {
        name: String,
    }
    let content = root.read(&format!("{CNI_DIR}/{name}")).ok().flatten().unwrap_or_default();
    match json::read::<Cni>(&content) {
        Ok(cni) => format!("{name}: {}", cni.name),
        Err(_) => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_inside_a_generation_name_one() {
        assert_eq!(generation_of("/var/lib/edge-bootstrap/generations/7/server-token"), Some(7));
        for path in [
            "/var/lib/edge-bootstrap/generations/7",
            "/var/lib/edge-bootstrap/generations/x/t",
            "/etc/7/t",
            "",
        ] {
            assert_eq!(generation_of(path), None, "{path}");
        }
    }
}
