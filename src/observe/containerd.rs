//! containerd as installed.
//!
//! Owns finding the package's binary and version. Never reads or changes its
//! configuration.

use super::mounts::{self, Mount};
use super::{k3s, text, versions};
use crate::facts::Fact;
use crate::facts::runtime::Containerd;
use crate::sys::Root;

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
/// Debian's, upstream's, Red Hat's and k3s's own directory of CNI plugins.
const CNI_BIN_DIRS: [&str; 4] =
    ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni", "/var/lib/rancher/k3s/data/cni"];

/// containerd as installed.
pub async fn observe(root: &Root, mounts: &Fact<Vec<Mount>>) -> Containerd {
    let binary = binary(root);
    let version = match &binary {
        Fact::Known(program) => text::parsed(
            versions::printed(root, program).await,
            "what containerd prints as its version",
            parse_version,
        ),
        Fact::Unknown { unknown } => Fact::unknown(unknown.clone()),
    };
    let started_with =
        k3s::started(root, &["containerd"]).map(|record| record.and_then(|record| record.config));
    Containerd { binary, version, cni_bin_dirs: cni_bin_dirs(root), root_fs: root_fs(mounts), started_with }
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
    found.sort_by_key(|path| !root.exists(&format!("{path}/loopback")));
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

    proptest! {
        #[test]
        fn any_text_is_taken_or_left(text in "\\PC{0,120}") {
            let _ = (parse_version(&text), exec_start(&format!("ExecStart={text}")));
        }
    }
}
