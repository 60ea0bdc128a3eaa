//! Registry hosts: `certs.d/REGISTRY/hosts.toml`.
//!
//! Owns the files of registries that the assignment names mirrors for, always
//! with the registry itself as fall-back, and leaves out mirrors that would
//! stall pulls: containerd reads these files at every pull, so that no restart
//! is needed. Files of others are left alone. Asks no mirror.

use super::text;
use crate::paths;
use crate::plan::Inputs;
use crate::plan::item::{PlannedFile, PlannedRemoval};
use crate::role::{Duty, Mirror};

/// First words of a `hosts.toml` of ours.
const MARK: &str = "# Written by edge-bootstrap";

/// containerd takes `HOST:PORT` as a directory's name as it stands.
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

/// One file for each registry with mirrors.
pub(in crate::plan) fn files(inputs: Inputs<'_>, duty: &Duty) -> Vec<PlannedFile> {
    let seen = inputs.facts.runtime.mirrors.known();
    let is_withdrawn =
        |url: &str| seen.and_then(|seen| seen.get(url)).is_some_and(|seen| seen.is_withdrawn());
    registries(&duty.runtime.mirrors)
        .into_iter()
        .map(|(registry, endpoints)| {
            let (gone, kept): (Vec<&str>, Vec<&str>) =
                endpoints.into_iter().partition(|url| is_withdrawn(url));
            PlannedFile::public(hosts_path(registry), content(registry, &kept), reason(registry, &gone))
        })
        .collect()
}

/// Registries in the order of the assignment, each once, with every endpoint
/// once: containerd reads a file that repeats a table as none at all.
fn registries(mirrors: &[Mirror]) -> Vec<(&str, Vec<&str>)> {
    let mut out: Vec<(&str, Vec<&str>)> = Vec::new();
    for mirror in mirrors {
        let registry = mirror.registry.as_str();
        if !out.iter().any(|(name, _)| *name == registry) {
            out.push((registry, Vec::new()));
        }
        let Some((_, endpoints)) = out.iter_mut().find(|(name, _)| *name == registry) else { continue };
        for url in &mirror.endpoints {
            if !endpoints.contains(&url.as_str()) {
                endpoints.push(url.as_str());
            }
        }
    }
    out
}

/// Mirrors first, the registry itself as fall-back. Neither `ca` nor
/// `skip_verify`: with one of them a plain http mirror is asked by https first.
fn content(registry: &str, endpoints: &[&str]) -> String {
    let server = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
    let mut out = format!("{MARK}.\nserver = {}\n", text(&format!("https://{server}")));
    for url in endpoints {
        out += &format!("\n[host.{}]\ncapabilities = [\"pull\", \"resolve\"]\n", text(url));
        // Read by containerd 2.0.7 and newer, ignored by older ones.
        out += "dial_timeout = \"1s\"\n";
    }
    out
}

fn reason(registry: &str, gone: &[&str]) -> String {
    let mirrors = format!("mirrors of {registry}, with the registry itself as fall-back");
    if gone.is_empty() { mirrors } else { format!("{mirrors}; without {}, which stalls", gone.join(", ")) }
}

/// containerd looks for `HOST_PORT_` before `HOST:PORT`, and the first that is
/// there counts alone.
pub(in crate::plan) fn shadowed(inputs: Inputs<'_>, duty: &Duty) -> Vec<String> {
    let first = |registry: &str| {
        let (host, port) = registry.split_once(':')?;
        let path = hosts_path(&format!("{host}_{port}_"));
        inputs.facts.runtime.files.contains_key(&path).then(|| {
            format!("{path} of others is read instead of the mirrors of {registry}; it is left alone")
        })
    };
    registries(&duty.runtime.mirrors).into_iter().filter_map(|(registry, _)| first(registry)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use proptest::prelude::*;
    use toml::Table;

    use super::*;
    use crate::role::words::{Registry, WebUrl};

    fn mirror(registry: &str, endpoints: &[&str]) -> Mirror {
        let endpoints = endpoints.iter().map(|url| url.parse().unwrap()).collect();
        Mirror { registry: registry.parse().unwrap(), endpoints }
    }

    #[test]
    fn a_mirror_falls_back_to_its_registry() {
        let table: Table = content("docker.io", &["http://172.16.36.5:5000"]).parse().unwrap();
        assert_eq!(table["server"].as_str(), Some("https://registry-1.docker.io"));
        let host = table["host"]["http://172.16.36.5:5000"].as_table().unwrap();
        assert_eq!(host["dial_timeout"].as_str(), Some("1s"));
        // Either would make containerd ask a plain http mirror by https first.
        assert!(!host.contains_key("ca") && !host.contains_key("skip_verify"));
    }

    #[test]
    fn what_is_named_twice_is_written_once_and_the_order_stays() {
        let mirrors = [
            mirror("a.example:5000", &["http://b", "http://a", "http://b"]),
            mirror("docker.io", &[]),
            mirror("a.example:5000", &["http://c", "http://a"]),
        ];
        let wanted: [(&str, Vec<&str>); 2] =
            [("a.example:5000", vec!["http://b", "http://a", "http://c"]), ("docker.io", vec![])];
        assert_eq!(registries(&mirrors), wanted);
    }

    proptest! {
        #[test]
        fn every_registry_and_url_that_is_taken_makes_a_file_that_containerd_reads(
            registry in "[a-zA-Z0-9.:\\[\\]_/-]{1,40}",
            urls in proptest::collection::vec("https?://[a-z0-9.:\\[\\]]{1,20}[ -~]{0,20}", 0..4),
        ) {
            let Ok(registry) = registry.parse::<Registry>() else { return Ok(()) };
            let endpoints: Vec<WebUrl> = urls.iter().filter_map(|url| url.parse().ok()).collect();
            let mirror = Mirror { registry: registry.clone(), endpoints };
            let binding = [mirror];
            let (name, endpoints) = registries(&binding).remove(0);
            let path = hosts_path(name);
            let file = path.strip_prefix("/etc/containerd/certs.d/").unwrap();
            prop_assert_eq!(file.split('/').count(), 2, "{}", path);
            prop_assert!(!path.contains(".."));
            let table: Table = content(name, &endpoints).parse().unwrap();
            prop_assert!(table["server"].as_str().unwrap().starts_with("https://"));
            let hosts = table.get("host").and_then(|host| host.as_table());
            let written: Vec<&str> = hosts.into_iter().flatten().map(|(url, _)| url.as_str()).collect();
            prop_assert_eq!(written.len(), endpoints.len());
            prop_assert!(endpoints.iter().all(|url| written.contains(url)));
        }

        #[test]
        fn ports_and_names_are_taken_as_they_are_used(host in "[a-z]{1,8}(\\.[a-z]{2,5}){0,2}", port in 1..65535_u16) {
            let registry: Registry = format!("{host}:{port}").parse().unwrap();
            prop_assert_eq!(hosts_path(registry.as_str()), format!("/etc/containerd/certs.d/{host}:{port}/hosts.toml"));
        }
    }
}
