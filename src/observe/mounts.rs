//! The mount table.
//!
//! Owns parsing `/proc/self/mountinfo` (proc(5)) and which mounts hold data.
//! Never asks a network file system anything: a dead server would hang it.

use super::text;
use crate::facts::Fact;
use crate::facts::hardware::Filesystem;
use crate::ordered::sort_by;
use crate::sys::Root;
use crate::sys::machine::{self, Space};

const MOUNTINFO: &str = "/proc/self/mountinfo";
/// The table of PID 1. Our own one lists what the daemon's sandbox mounts over
/// the host's (`ReadWritePaths=`), which nobody else sees.
const HOST_MOUNTINFO: &str = "/proc/1/mountinfo";
/// File systems whose answers come from another host.
const NETWORK: [&str; 10] =
    ["nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "9p", "afs", "lustre", "fuse.sshfs"];
/// Why nothing is known of such a one.
pub const NOT_ASKED: &str = "a network file system is not asked: it could hang";
/// Mount points of containers: theirs come and go and hold nothing of the host's.
const CONTAINERS: [&str; 6] = [
    "/run/containerd",
    "/run/k3s",
    "/run/netns",
    "/var/lib/containerd/io.containerd",
    "/var/lib/docker/",
    "/var/lib/kubelet/",
];

/// One line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Number of its device, `8:2`; `0:…` where there is none.
    pub device: String,
    /// Where.
    pub mount_point: String,
    /// Type, for example `ext4`.
    pub fs_type: String,
    /// Device or source.
    pub source: String,
    /// Options of the mount, then of the superblock, without doubles.
    pub options: Vec<String>,
}

impl Mount {
    fn is_network(&self) -> bool {
        NETWORK.contains(&self.fs_type.as_str()) || self.fs_type.starts_with("fuse.")
    }

    fn holds_data(&self) -> bool {
        if CONTAINERS.iter().any(|prefix| self.mount_point.starts_with(prefix)) {
            return false;
        }
        let on_disk = self.source.starts_with("/dev/") || matches!(self.fs_type.as_str(), "zfs" | "btrfs");
        let writable_type = !matches!(self.fs_type.as_str(), "squashfs" | "iso9660" | "devtmpfs");
        let volatile = self.fs_type == "tmpfs"
            && (matches!(self.mount_point.as_str(), "/run" | "/tmp")
                || self.mount_point.starts_with("/var/"));
        self.mount_point == "/" || (on_disk && writable_type) || volatile || self.is_network()
    }
}

/// Mounts that are visible, in the order of the table.
pub fn read(root: &Root) -> Fact<Vec<Mount>> {
    let table =
        |path| text::table(root, path).map(|table| visible(table.lines().filter_map(parse).collect()));
    let own: Fact<Vec<Mount>> = table(MOUNTINFO);
    let host: Fact<Vec<Mount>> = table(HOST_MOUNTINFO);
    // In a chroot PID 1 is of another host.
    let is_same = own.known().map(|own| first(own)) == host.known().map(|host| first(host));
    if is_same { host } else { own }
}

/// What is mounted at `/`.
fn first(mounts: &[Mount]) -> Option<(&str, &str)> {
    let root = mounts.iter().find(|mount| mount.mount_point == "/")?;
    Some((&root.device, &root.fs_type))
}

/// A later mount hides an earlier one at the same place.
fn visible(mounts: Vec<Mount>) -> Vec<Mount> {
    let hidden = |index: usize, mount: &Mount| {
        mounts.iter().skip(index + 1).any(|later| later.mount_point == mount.mount_point)
    };
    let kept: Vec<usize> = mounts
        .iter()
        .enumerate()
        .filter(|(index, mount)| !hidden(*index, mount))
        .map(|(index, _)| index)
        .collect();
    kept.into_iter().filter_map(|index| mounts.get(index).cloned()).collect()
}

fn parse(line: &str) -> Option<Mount> {
    let (mount, superblock) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(2);
    let (device, mount_point, own) = (mount.next()?, mount.nth(1)?, mount.next()?);
    let mut superblock = superblock.split(' ');
    let (fs_type, source, shared) = (superblock.next()?, superblock.next()?, superblock.next().unwrap_or(""));
    let mut options: Vec<String> = Vec::new();
    for option in own.split(',').chain(shared.split(',')).filter(|option| !option.is_empty()) {
        if !options.iter().any(|known| known == option) {
            options.push(unescape(option));
        }
    }
    Some(Mount {
        device: device.to_owned(),
        mount_point: unescape(mount_point),
        fs_type: fs_type.to_owned(),
        source: unescape(source),
        options,
    })
}

/// Turns `\040` and the like back into the byte that they stand for.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        match (first, octal(after)) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn octal(digits: &[u8]) -> Option<u8> {
    let digits = digits.get(..3)?;
    if !digits.iter().all(|digit| (b'0'..=b'7').contains(digit)) {
        return None;
    }
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

/// The mount that `path` lies on.
#[must_use]
pub fn below<'a>(mounts: &'a [Mount], path: &str) -> Option<&'a Mount> {
    mounts
        .iter()
        .filter(|mount| lies_in(path, &mount.mount_point))
        .max_by_key(|mount| mount.mount_point.len())
}

/// Whether both paths lie on one mount.
#[must_use]
pub fn holds_both(mounts: &[Mount], one: &str, other: &str) -> bool {
    let [one, other] = [one, other].map(|path| below(mounts, path).map(|mount| &mount.mount_point));
    one.is_some() && one == other
}

fn lies_in(path: &str, mount_point: &str) -> bool {
    match path.strip_prefix(mount_point.trim_end_matches('/')) {
        Some(rest) => rest.is_empty() || rest.starts_with('/'),
        None => false,
    }
}

/// Mounted file systems that hold data, by mount point, with their space.
pub fn filesystems(root: &Root, mounts: &Fact<Vec<Mount>>) -> Fact<Vec<Filesystem>> {
    mounts.clone().map(|mounts| {
        let mut found: Vec<Filesystem> = mounts
            .iter()
            .filter(|mount| mount.holds_data())
            .map(|mount| filesystem(mount, space(root, &mounts, mount)))
            .collect();
        sort_by(&mut found, |one, other| one.mount_point < other.mount_point);
        found
    })
}

/// Whether `path`, or the way to it, lies on another host, which could be dead.
#[must_use]
pub fn is_remote(mounts: &[Mount], path: &str) -> bool {
    mounts.iter().any(|mount| mount.is_network() && lies_in(path, &mount.mount_point))
}

fn space(root: &Root, mounts: &[Mount], mount: &Mount) -> Fact<Space> {
    if !root.is_host() {
        return Fact::unknown("this root is not the running host");
    }
    if is_remote(mounts, &mount.mount_point) {
        return Fact::unknown(NOT_ASKED);
    }
    match machine::space(root, &mount.mount_point) {
        Ok(space) => Fact::Known(space),
        Err(errno) => Fact::unknown(errno.desc()),
    }
}

fn filesystem(mount: &Mount, space: Fact<Space>) -> Filesystem {
    let free_inodes = match space.clone() {
        Fact::Known(space) => space
            .free_inodes
            .map_or_else(|| Fact::unknown("this file system has no fixed number of inodes"), Fact::Known),
        Fact::Unknown { unknown } => Fact::Unknown { unknown },
    };
    Filesystem {
        mount_point: mount.mount_point.clone(),
        source: mount.source.clone(),
        fs_type: mount.fs_type.clone(),
        options: mount.options.clone(),
        total_bytes: space.clone().map(|space| space.total_bytes),
        free_bytes: space.map(|space| space.free_bytes),
        free_inodes,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOT: &str = "25 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw,errors=remount-ro";

    #[test]
    fn spaces_in_names_come_back() {
        let line = r"90 25 8:5 /sub\134dir /mnt/a\040b\011c rw,noatime - xfs /dev/sd\040b rw,attr2,noatime";
        let mount = parse(line).unwrap();
        assert_eq!((mount.mount_point.as_str(), mount.source.as_str()), ("/mnt/a b\tc", "/dev/sd b"));
        assert_eq!(mount.options, ["rw", "noatime", "attr2"]);
    }

    #[test]
    fn a_path_lies_on_its_nearest_mount() {
        let lines =
            [ROOT, "30 25 8:3 / /var rw - xfs /dev/sda3 rw", "31 25 8:4 / /var/lib2 rw - btrfs /dev/sda4 rw"];
        let mounts: Vec<Mount> = lines.iter().filter_map(|line| parse(line)).collect();
        assert_eq!(below(&mounts, "/var/lib/containerd").unwrap().fs_type, "xfs");
        assert_eq!(below(&mounts, "/var/lib2").unwrap().fs_type, "btrfs");
        assert_eq!(below(&mounts, "/variable").unwrap().fs_type, "ext4");
    }

    #[test]
    fn mounts_of_a_sandbox_are_not_those_of_the_host_and_those_of_another_root_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let table = |path: &str, lines: &[&str]| {
            root.ensure_dir(path.rsplit_once('/').unwrap().0).unwrap();
            crate::sys::atomic::write(&root, path, lines.join("\n").as_bytes(), 0o644).unwrap();
        };
        let point =
            |root: &Root| below(read(root).known().unwrap(), "/var/lib/x").unwrap().mount_point.clone();
        table(MOUNTINFO, &[ROOT, "80 25 8:2 /var/lib /var/lib rw - ext4 /dev/sda2 rw"]);
        assert_eq!(point(&root), "/var/lib", "there is no other table");
        table(HOST_MOUNTINFO, &[ROOT]);
        assert_eq!(point(&root), "/");
        table(HOST_MOUNTINFO, &["25 1 8:9 / / rw - ext4 /dev/sdz rw"]);
        assert_eq!(point(&root), "/var/lib", "PID 1 has another root");
    }

    #[test]
    fn a_hidden_mount_is_not_seen() {
        let later = "40 25 0:50 / / rw - nfs4 10.0.0.1:/export rw";
        let mounts = visible([ROOT, later].iter().filter_map(|line| parse(line)).collect());
        assert_eq!(mounts.len(), 1);
        assert_eq!(mounts[0].fs_type, "nfs4");
    }

    #[test]
    fn the_space_behind_a_network_mount_is_not_asked() {
        let lines = [
            ROOT,
            "40 25 0:50 / /net rw - nfs4 10.0.0.1:/e rw",
            "41 40 8:9 / /net/disk rw - ext4 /dev/sdz1 rw",
        ];
        let mounts: Vec<Mount> = lines.iter().filter_map(|line| parse(line)).collect();
        for mount in &mounts[1..] {
            assert!(space(&Root::default(), &mounts, mount).reason().unwrap().contains("network"));
        }
        assert!(space(&Root::default(), &mounts, &mounts[0]).known().is_some());
    }

    proptest! {
        #[test]
        fn any_line_is_taken_or_left(line in ".{0,120}") {
            let _ = parse(&line);
        }

        #[test]
        fn escaping_and_back_is_the_same(text in "[ -~]{0,40}") {
            let escaped: String = text.chars().map(|c| match c {
                ' ' | '\\' => format!("\\{:03o}", u32::from(c)),
                other => other.to_string(),
            }).collect();
            prop_assert_eq!(unescape(&escaped), text);
        }
    }
}
