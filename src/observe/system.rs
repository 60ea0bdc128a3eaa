//! Kernel, distribution, control groups and clock.
//!
//! Owns parsing of procfs tables and `/etc/os-release`. Asks no service: what
//! only timedated knows stays unknown.

use std::collections::BTreeMap;

use super::mounts::Mount;
use super::text;
use crate::facts::Fact;
use crate::facts::system::{Cgroup, CgroupVersion, OsRelease, System, Time};
use crate::ordered::Ordered as _;
use crate::sys::{Clock, Root};

const CGROUP: &str = "/sys/fs/cgroup";
const SYSCTLS: [&str; 7] = [
    "fs.inotify.max_user_instances",
    "fs.inotify.max_user_watches",
    "kernel.keys.root_maxkeys",
    "kernel.panic",
    "net.bridge.bridge-nf-call-iptables",
    "net.ipv4.ip_forward",
    "vm.overcommit_memory",
];
/// Directories of systemd's private library; Debian moved it after 12.
const SYSTEMD_LIBRARIES: [&str; 6] = [
    "/usr/lib/systemd",
    "/lib/systemd",
    "/usr/lib64/systemd",
    "/usr/lib/x86_64-linux-gnu/systemd",
    "/usr/lib/aarch64-linux-gnu/systemd",
    "/usr/lib64",
];
/// Written by timesyncd once the clock was set in this boot.
const SYNCHRONIZED: &str = "/run/systemd/timesync/synchronized";

/// The system's software below k3s.
#[must_use]
pub fn observe(root: &Root, clock: Clock, mounts: &Fact<Vec<Mount>>) -> System {
    System {
        os: os_release(root),
        kernel: text::kernel(root, "/proc/sys/kernel/osrelease"),
        cmdline: text::kernel(root, "/proc/cmdline"),
        modules: text::table(root, "/proc/modules").map(|table| words(&table, |line| line.next())),
        filesystems: text::table(root, "/proc/filesystems").map(|table| words(&table, |line| line.last())),
        cgroup: cgroup(root, mounts),
        systemd: systemd(root),
        time: time(root, clock),
        sysctl: sysctls(root),
    }
}

/// One word of each line, sorted.
fn words<'a>(
    table: &'a str,
    pick: impl Fn(&mut std::str::SplitWhitespace<'a>) -> Option<&'a str>,
) -> Vec<String> {
    let mut words: Vec<String> =
        table.lines().filter_map(|line| pick(&mut line.split_whitespace())).map(str::to_owned).collect();
    words.sort();
    words.dedup();
    words
}

fn os_release(root: &Root) -> Fact<OsRelease> {
    let sources = ["/etc/os-release", "/usr/lib/os-release"].map(|path| text::file(root, path));
    text::parsed(text::first_known(sources), "os-release", parse_os_release)
}

fn parse_os_release(content: &str) -> Option<OsRelease> {
    let pairs: BTreeMap<&str, String> = content
        .lines()
        .filter_map(|line| line.trim().split_once('='))
        .map(|(key, value)| (key.trim(), unquote(value.trim())))
        .into_map();
    let value = |key: &str| pairs.get(key).cloned().unwrap_or_default();
    let id = value("ID");
    (!id.is_empty()).then(|| OsRelease {
        id,
        id_like: value("ID_LIKE").split_whitespace().map(str::to_owned).collect(),
        version_id: value("VERSION_ID"),
        pretty_name: value("PRETTY_NAME"),
    })
}

/// A value in quotes as a shell reads it; inside single quotes nothing is special.
fn unquote(value: &str) -> String {
    if let Some(inner) = value.strip_prefix('\'').and_then(|value| value.strip_suffix('\'')) {
        return inner.to_owned();
    }
    let inner = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    let mut text = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => text.extend(characters.next()),
            other => text.push(other),
        }
    }
    text
}

fn cgroup(root: &Root, mounts: &Fact<Vec<Mount>>) -> Fact<Cgroup> {
    let version = match mounts {
        Fact::Known(mounts) => cgroup_version(mounts),
        Fact::Unknown { unknown } => return Fact::unknown(unknown.clone()),
    };
    let Some(version) = version else { return Fact::unknown("no control groups are mounted") };
    let controllers = if version == CgroupVersion::V2 {
        text::table(root, &format!("{CGROUP}/cgroup.controllers"))
            .map(|line| line.split_whitespace().map(str::to_owned).collect())
    } else {
        text::table(root, "/proc/cgroups").map(|table| table.lines().filter_map(enabled_controller).collect())
    };
    controllers.map(|controllers| Cgroup { version, controllers })
}

fn cgroup_version(mounts: &[Mount]) -> Option<CgroupVersion> {
    let at = |path: &str| {
        mounts.iter().find(|mount| mount.mount_point == path).map(|mount| mount.fs_type.as_str())
    };
    if at(CGROUP) == Some("cgroup2") {
        return Some(CgroupVersion::V2);
    }
    if !mounts.iter().any(|mount| mount.fs_type == "cgroup") {
        return None;
    }
    let unified = at(&format!("{CGROUP}/unified")) == Some("cgroup2");
    Some(if unified { CgroupVersion::Hybrid } else { CgroupVersion::V1 })
}

/// A line of `/proc/cgroups`: name, hierarchy, number of groups, enabled.
fn enabled_controller(line: &str) -> Option<String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    match fields.as_slice() {
        [name, _, _, "1"] => Some((*name).to_owned()),
        _ => None,
    }
}

/// From the name of systemd's private library, which carries its version since 231.
fn systemd(root: &Root) -> Fact<u32> {
    let names = SYSTEMD_LIBRARIES.iter().filter_map(|directory| root.list(directory).ok()).flatten();
    names.filter_map(|name| library_version(&name)).max().map_or_else(
        || Fact::unknown("systemd was not asked and its library has no version in its name"),
        Fact::Known,
    )
}

fn library_version(name: &str) -> Option<u32> {
    let version = name.strip_prefix("libsystemd-shared-")?;
    let digits = version.split(|c: char| !c.is_ascii_digit()).next()?;
    version.contains(".so").then(|| digits.parse().ok())?
}

fn time(root: &Root, clock: Clock) -> Time {
    let synchronized = if root.exists(SYNCHRONIZED) {
        Fact::Known(true)
    } else {
        Fact::unknown(format!("there is no {SYNCHRONIZED}; another time service may still keep the clock"))
    };
    Time { now: Fact::Known(clock.unix()), synchronized, ntp: Fact::unknown("timedated was not asked") }
}

fn sysctls(root: &Root) -> BTreeMap<String, Fact<String>> {
    let value = |name: &str| text::kernel(root, &format!("/proc/sys/{}", name.replace('.', "/")));
    SYSCTLS.iter().map(|name| ((*name).to_owned(), value(name))).into_map()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn os_release_is_read_with_every_kind_of_quote() {
        let text = "# c\nID='rhel'\nID_LIKE=\"centos fedora\"\nPRETTY_NAME=\"A \\\"B\\\" \\$C\"\n";
        let os = parse_os_release(text).unwrap();
        assert_eq!((os.id.as_str(), os.pretty_name.as_str()), ("rhel", "A \"B\" $C"));
        assert_eq!(os.id_like, ["centos", "fedora"]);
        assert_eq!(os.version_id, "", "a rolling release has none");
        assert_eq!(parse_os_release("NAME=x\n"), None);
    }

    #[test]
    fn the_version_of_systemd_is_in_its_library() {
        assert_eq!(library_version("libsystemd-shared-256.7-1.fc41.so"), Some(256));
        assert_eq!(library_version("libsystemd-shared-247.so"), Some(247));
        assert_eq!(library_version("libsystemd-shared.so"), None);
        assert_eq!(library_version("libsystemd-core-257.so"), None);
    }

    #[test]
    fn a_disabled_controller_cannot_be_used() {
        assert_eq!(enabled_controller("memory\t0\t1\t0"), None);
        assert_eq!(enabled_controller("#subsys_name\thierarchy\tnum_cgroups\tenabled"), None);
        assert_eq!(enabled_controller("cpu\t3\t1\t1").as_deref(), Some("cpu"));
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_left(text in "\\PC{0,120}") {
            let _ = (unquote(&text), parse_os_release(&format!("ID={text}")), library_version(&text));
        }
    }
}
