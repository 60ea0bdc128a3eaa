//! containerd as installed.
//!
//! Owns finding the package's binary and version, what it starts containers
//! with, who else uses it, and networks of others that it cannot use. Never
//! changes the package's configuration.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::mounts::{self, Mount};
use super::{k3s, text, versions};
use crate::facts::Fact;
use crate::facts::runtime::{Containerd, StartRecord};
use crate::ordered::sort_by;
use crate::paths::{CNI_DIR, CNI_LOOPBACK, STARTED_BY_AGENT};
use crate::sys::Root;
use crate::wire::json;

const STATE: &str = "/var/lib/containerd";
/// Where the unit itself may be, in systemd's order of precedence.
const UNITS: [&str; 5] = [
    "/etc/systemd/system/containerd.service",
    "/run/systemd/system/containerd.service",
    "/usr/local/lib/systemd/system/containerd.service",
    "/usr/lib/systemd/system/containerd.service",
    "/lib/systemd/system/containerd.service",
];
const BINARIES: [&str; 2] = ["/usr/bin/containerd", "/usr/local/bin/containerd"];
/// Debian's, upstream's, Red Hat's and k3s's own directories of CNI plugins.
const CNI_BIN_DIRS: [&str; 5] = [
    "/usr/lib/cni",
    "/opt/cni/bin",
    "/usr/libexec/cni",
    "/var/lib/rancher/k3s/data/cni",
    "/var/lib/rancher/k3s/data/current/bin",
];
/// The search path that systemd gives to services, then bundles that leave runc
/// outside of it.
const RUNC: [&str; 10] = [
    "/usr/local/sbin/runc",
    "/usr/local/bin/runc",
    "/usr/sbin/runc",
    "/usr/bin/runc",
    "/sbin/runc",
    "/bin/runc",
    "/usr/libexec/docker/docker-runc-current",
    "/usr/bin/docker-runc",
    "/opt/containerd/bin/runc",
    "/var/lib/rancher/k3s/data/current/bin/runc",
];
/// The package's own file.
const PACKAGE_CONFIG: &str = "/etc/containerd/config.toml";
/// There while dockerd runs, and where it is started at boot.
const DOCKER: [&str; 2] = ["/run/docker.pid", "/etc/systemd/system/multi-user.target.wants/docker.service"];

/// containerd as installed.
pub async fn observe(root: &Root, mounts: &Fact<Vec<Mount>>, main_pid: Option<u32>) -> Containerd {
    let binary = binary(root);
    let version = match &binary {
        Fact::Known(program) => text::parsed(
            versions::printed(root, program).await,
            "what containerd prints as its version",
            parse_version,
        ),
        Fact::Unknown { unknown } => Fact::unknown(unknown.clone()),
    };
    Containerd {
        binary,
        version,
        cni_bin_dirs: cni_bin_dirs(root),
        root_fs: root_fs(mounts),
        started_with: started_with(root, main_pid),
        runc: Fact::Known(RUNC.iter().find(|path| root.exists(path)).map(|path| (*path).to_owned())),
        shared_with: shared_with(root),
        package_root: package_root(root),
        broken_networks: broken_networks(root),
    }
}

/// What the gate recorded. A gate that was taken away, or did not end in time,
/// records nothing: of the process that the agent started itself, the agent's
/// own record counts.
fn started_with(root: &Root, main_pid: Option<u32>) -> Fact<Option<String>> {
    let by_agent = root.read(STARTED_BY_AGENT).ok().flatten();
    let by_agent = by_agent.and_then(|bytes| json::read::<StartRecord>(&bytes).ok());
    match by_agent.filter(|record| main_pid.is_some() && record.main_pid == main_pid) {
        Some(record) => Fact::Known(record.config),
        None => k3s::started(root, &["containerd"]).map(|record| record.and_then(|record| record.config)),
    }
}

/// A link to a unit may lead nowhere, as seen from here: it counts all the same.
fn shared_with(root: &Root) -> Fact<Vec<String>> {
    let is_there = |path: &str| root.exists(path) || root.read_link(path).ok().flatten().is_some();
    let docker = DOCKER.iter().any(|path| is_there(path));
    Fact::Known(docker.then(|| "dockerd".to_owned()).into_iter().collect())
}

/// A file that cannot be parsed names none: our own is used instead of it.
fn package_root(root: &Root) -> Fact<Option<String>> {
    match root.read_text(PACKAGE_CONFIG) {
        Ok(text) => Fact::Known(text.and_then(|text| {
            let package: toml::Table = text.parse().ok()?;
            Some(package.get("root")?.as_str()?.to_owned())
        })),
        Err(error) => text::because(&error),
    }
}

/// containerd reads files by name and stops at the first that it cannot use:
/// the network is then not ready (containerd: vendor/github.com/containerd/go-cni/opts.go).
fn broken_networks(root: &Root) -> Fact<BTreeMap<String, String>> {
    let names = match root.list(CNI_DIR) {
        Ok(names) => names,
        Err(error) => return text::because(&error),
    };
    let ours = |name: &String| format!("{CNI_DIR}/{name}") == CNI_LOOPBACK;
    let broken = names.into_iter().filter(|name| !ours(name)).filter_map(|name| {
        let bytes = root.read(&format!("{CNI_DIR}/{name}")).ok()??;
        let why = unusable(&name, &bytes)?;
        Some((name, why.to_owned()))
    });
    Fact::Known(broken.collect())
}

/// Why containerd cannot use a CNI file; `None` where it can, or does not read it.
fn unusable(name: &str, bytes: &[u8]) -> Option<&'static str> {
    #[derive(Deserialize)]
    struct Cni {
        #[serde(default)]
        plugins: Vec<serde::de::IgnoredAny>,
        #[serde(default, rename = "type")]
        kind: String,
    }
    let is_list = name.ends_with(".conflist");
    if !is_list && !name.ends_with(".conf") && !name.ends_with(".json") {
        return None;
    }
    match json::read::<Cni>(bytes) {
        Err(_) if bytes.trim_ascii().is_empty() => Some("it is empty"),
        Err(_) => Some("it is no JSON of a network"),
        Ok(cni) if is_list && cni.plugins.is_empty() => Some("its list of plugins is empty"),
        Ok(cni) if !is_list && cni.kind.is_empty() => Some("it names no type of plugin"),
        Ok(_) => None,
    }
}

fn binary(root: &Root) -> Fact<String> {
    let of_unit = UNITS.iter().find_map(|path| exec_start(&root.read_text(path).ok()??));
    let fallbacks = BINARIES.iter().map(|path| (*path).to_owned());
    of_unit
        .into_iter()
        .chain(fallbacks)
        .find(|path| root.exists(path))
        .map_or_else(|| Fact::unknown("containerd is not installed"), Fact::Known)
}

/// Program of the unit's last `ExecStart=`, without systemd's prefix characters.
fn exec_start(unit: &str) -> Option<String> {
    let line = unit.lines().rev().find_map(|line| line.trim().strip_prefix("ExecStart="))?;
    let program = line.trim_start_matches(['@', '-', ':', '+', '!', '|']).split_whitespace().next()?;
    let program = program.trim_matches('"');
    program.starts_with('/').then(|| program.to_owned())
}

/// The third field: `containerd MODULE VERSION REVISION`; the suffixes of
/// distributions (`~ds1`, `+unknown`, `-rc.1`) say nothing about the format.
fn parse_version(printed: &str) -> Option<(u32, u32, u32)> {
    let version = printed.split_whitespace().nth(2)?;
    let mut parts = version.strip_prefix('v').unwrap_or(version).splitn(3, '.');
    let (major, minor, patch) = (parts.next()?, parts.next()?, parts.next()?);
    let patch = patch.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((major.parse().ok()?, minor.parse().ok()?, patch.parse().ok()?))
}

/// Those that hold the loopback plugin come first.
fn cni_bin_dirs(root: &Root) -> Fact<Vec<String>> {
    let mut found: Vec<String> =
        CNI_BIN_DIRS.iter().filter(|path| text::is_dir(root, path)).map(|path| (*path).to_owned()).collect();
    let has_loopback = |path: &str| root.exists(&format!("{path}/loopback"));
    sort_by(&mut found, |one, other| has_loopback(one) && !has_loopback(other));
    Fact::Known(found)
}

fn root_fs(mounts: &Fact<Vec<Mount>>) -> Fact<String> {
    match mounts {
        Fact::Known(mounts) => mounts::below(mounts, STATE).map_or_else(
            || Fact::unknown("nothing is mounted at /"),
            |mount| Fact::Known(mount.fs_type.clone()),
        ),
        Fact::Unknown { unknown } => Fact::unknown(unknown.clone()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fixture::Tree;
    use super::*;

    #[test]
    fn versions_of_all_packagers_are_read() {
        for (printed, version) in [
            ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3", (1, 6, 20)),
            ("containerd github.com/containerd/containerd/v2 2.1.9+unknown ", (2, 1, 9)),
            ("containerd github.com/containerd/containerd/v2 v2.3.4 local", (2, 3, 4)),
            ("containerd containerd.io 1.7.0-rc.2 abc", (1, 7, 0)),
        ] {
            assert_eq!(parse_version(printed), Some(version), "{printed}");
        }
        for printed in ["", "containerd", "containerd x 2.1", "containerd x v.1.2 y", "containerd x 1.2.~ds1"]
        {
            assert_eq!(parse_version(printed), None, "{printed}");
        }
    }

    #[test]
    fn the_program_of_a_unit_is_its_last_exec_start() {
        let unit = "[Service]\nExecStartPre=-/sbin/modprobe overlay\nExecStart=\nExecStart=-/opt/bin/containerd --log\n";
        assert_eq!(exec_start(unit).as_deref(), Some("/opt/bin/containerd"));
        assert_eq!(exec_start("[Service]\nExecStart=containerd\n"), None);
        assert_eq!(exec_start("ExecStart=\n"), None);
    }

    #[test]
    fn a_network_that_containerd_cannot_use_is_told_with_why() {
        for (name, text, why) in [
            ("10-a.conflist", r#"{"name":"a","plugins":[{"type":"bridge"}]}"#, None),
            ("10-a.conflist", r#"{"name":"a","plugins":[]}"#, Some("its list of plugins is empty")),
            ("10-a.conflist", "", Some("it is empty")),
            ("10-a.conflist", "{", Some("it is no JSON of a network")),
            ("10-a.conf", r#"{"name":"a","type":"bridge"}"#, None),
            ("10-a.conf", r#"{"name":"a","plugins":[{"type":"x"}]}"#, Some("it names no type of plugin")),
            ("10-a.json", "7", Some("it is no JSON of a network")),
            ("10-a.tmp", "{", None),
        ] {
            assert_eq!(unusable(name, text.as_bytes()), why, "{name} {text}");
        }
    }

    #[tokio::test]
    async fn what_stands_around_containerd_is_seen() {
        let tree = Tree::new();
        tree.file("/usr/bin/docker-runc", "").file(PACKAGE_CONFIG, "root = \"/data/containerd\"\n");
        tree.link(DOCKER[1], "/usr/lib/systemd/system/docker.service");
        tree.file("/etc/cni/net.d/10-x.conflist", "{").file(CNI_LOOPBACK, "{");
        let seen = observe(&tree.root(), &Fact::default(), None).await;
        assert_eq!(seen.runc, Fact::Known(Some("/usr/bin/docker-runc".to_owned())));
        assert_eq!(seen.shared_with, Fact::Known(vec!["dockerd".to_owned()]));
        assert_eq!(seen.package_root, Fact::Known(Some("/data/containerd".to_owned())));
        assert_eq!(seen.broken_networks.known().map(BTreeMap::len), Some(1));
        let bare = observe(&Tree::new().root(), &Fact::default(), None).await;
        assert_eq!(bare.runc, Fact::Known(None));
        assert_eq!(bare.shared_with, Fact::Known(Vec::new()));
        assert_eq!(bare.package_root, Fact::Known(None));
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_left(text in "\\PC{0,120}") {
            let _ = (parse_version(&text), exec_start(&format!("ExecStart={text}")));
            let _ = (unusable("a.conflist", text.as_bytes()), unusable("a.conf", text.as_bytes()));
        }
    }
}
