//! Registry hosts: `certs.d/REGISTRY/hosts.toml`.
//!
//! Owns the files of registries that the assignment names mirrors for, always
//! with the registry itself as fall-back. Files of others are left alone.

use super::text;
use crate::paths;
use crate::plan::Inputs;
use crate::plan::item::{PlannedFile, PlannedRemoval};
use crate::role::{Duty, Mirror};

/// First words of a `hosts.toml` of ours.
const MARK: &str = "# Written by edge-bootstrap";

fn hosts_path(registry: &str) -> String {
    format!("{}/{registry}/hosts.toml", paths::CONTAINERD_CERTS)
}

/// `hosts.toml` files of ours whose registry is not named any more.
pub(in crate::plan) fn removals(inputs: Inputs<'_>, duty: &Duty) -> Vec<PlannedRemoval> {
    let wanted: Vec<String> =
        duty.runtime.mirrors.iter().map(|mirror| hosts_path(mirror.registry.as_str())).collect();
    let ours = |text: &Option<String>| text.as_ref().is_some_and(|text| text.starts_with(MARK));
    let files = inputs.facts.runtime.files.iter();
    files
        .filter(|(path, file)| {
            path.starts_with(paths::CONTAINERD_CERTS) && ours(&file.text) && !wanted.contains(path)
        })
        .map(|(path, _)| PlannedRemoval {
            path: path.clone(),
            reason: "the assignment names no mirrors of it".to_owned(),
        })
        .collect()
}

/// `hosts.toml` of one registry: mirrors first, the registry itself as fall-back.
pub(super) fn hosts_file(mirror: &Mirror) -> PlannedFile {
    let registry = mirror.registry.as_str();
    let server = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
    let mut out = format!("{MARK}.\nserver = {}\n", text(&format!("https://{server}")));
    for endpoint in &mirror.endpoints {
        out += &format!("\n[host.{}]\ncapabilities = [\"pull\", \"resolve\"]\n", text(endpoint.as_str()));
        // Read by containerd 2.0.7 and newer, ignored by older ones.
        out += "dial_timeout = \"1s\"\n";
    }
    PlannedFile::public(
        hosts_path(registry),
        out,
        format!("mirrors of {registry}, with the registry itself as fall-back"),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use toml::Table;

    use super::*;

    #[test]
    fn a_mirror_falls_back_to_its_registry() {
        let mirror = Mirror {
            registry: "docker.io".parse().unwrap(),
            endpoints: vec!["http://172.16.36.5:5000".parse().unwrap()],
        };
        let file = hosts_file(&mirror);
        let table: Table = file.shown.unwrap().parse().unwrap();
        assert_eq!(table["server"].as_str(), Some("https://registry-1.docker.io"));
        assert!(table["host"]["http://172.16.36.5:5000"]["dial_timeout"].is_str());
    }
}
