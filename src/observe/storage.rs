//! containerd's root, what lies in it, and the last look with privileges.
//!
//! Owns reading; mounts nothing and opens no device. What needs more than the
//! daemon may do was left by the act `look-at-storage` in this boot. Asks no file
//! system that lies on another host.

use std::collections::BTreeMap;

use super::mounts::{self, Mount, NOT_ASKED};
use super::{FIXTURES, store, text};
use crate::facts::Fact;
use crate::facts::storage::{Choice, Look, Storage, StoreRoot};
use crate::inventory::Inventory;
use crate::paths;
use crate::sys::root::FileError;
use crate::sys::{Root, entries, host, machine};
use crate::wire::json;

/// Directories of snapshotters below containerd's root.
const PREFIX: &str = "io.containerd.snapshotter.v1.";
const BY_UUID: &str = "/dev/disk/by-uuid";

/// What decides about the snapshotter, and whether the store is whole.
#[must_use]
pub fn observe(root: &Root, mounts: &Fact<Vec<Mount>>) -> Storage {
    let look = look(root);
    let known = mounts.known().map(Vec::as_slice).unwrap_or_default();
    if root.is_host() && mounts::is_remote(known, paths::CONTAINERD_ROOT) {
        let root_fact = store_root(root, mounts, look.known());
        let content = Fact::unknown(NOT_ASKED);
        return Storage {
            root: root_fact,
            content,
            look,
            choice: choice(root),
            archives: archives(root),
            ..Storage::default()
        };
    }
    let databases = store::databases(root);
    Storage {
        root: store_root(root, mounts, look.known()),
        content: content(root).map_or_else(|error| text::because(&error), Fact::Known),
        choice: choice(root),
        archives: archives(root),
        store: store::observe(root, mounts, &databases),
        databases,
        look,
    }
}

/// The same, when something that is not this module's changed a moment ago.
#[must_use]
pub fn again(root: &Root) -> Storage {
    observe(root, &mounts::read(root))
}

/// What was decided on this host before.
fn choice(root: &Root) -> Fact<Option<Choice>> {
    Fact::Known(Inventory::load(root).choice)
}

/// What was imported and synced before.
fn archives(root: &Root) -> Fact<Vec<String>> {
    Fact::Known(Inventory::load(root).archives.into_keys().collect())
}

/// Only a look of this boot counts: modules, disks and mounts may be others now.
fn look(root: &Root) -> Fact<Look> {
    let bytes = match root.read(paths::STORAGE_LOOK) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Fact::unknown("nobody has looked in this boot"),
        Err(error) => return text::because(&error),
    };
    match json::read::<Look>(&bytes) {
        Ok(look) if !root.is_host() || Some(&look.boot_id) == host::boot_id(root).ok().as_ref() => {
            Fact::Known(look)
        }
        Ok(_) => Fact::unknown("nobody has looked in this boot"),
        Err(error) => Fact::unknown(format!("{}: {error}", paths::STORAGE_LOOK)),
    }
}

fn store_root(root: &Root, mounts: &Fact<Vec<Mount>>, look: Option<&Look>) -> Fact<StoreRoot> {
    let mounts = match mounts {
        Fact::Known(mounts) => mounts,
        Fact::Unknown { unknown } => return Fact::unknown(unknown.clone()),
    };
    let Some(mount) = mounts::below(mounts, paths::CONTAINERD_ROOT) else {
        return Fact::unknown("nothing is mounted at /");
    };
    let plain = StoreRoot {
        mount_point: mount.mount_point.clone(),
        holds_records: mounts::holds_both(mounts, paths::CONTAINERD_ROOT, paths::STATE_DIR),
        fs_type: mount.fs_type.clone(),
        source: mount.source.clone(),
        uuid: uuid(root, mount),
        read_only: mount.options.iter().any(|option| option == "ro"),
        ..StoreRoot::default()
    };
    if !root.is_host() {
        return Fact::Known(told(root, plain));
    }
    if mounts::is_remote(mounts, paths::CONTAINERD_ROOT) {
        return Fact::Known(StoreRoot { d_type: Fact::unknown(NOT_ASKED), ..plain });
    }
    Fact::Known(asked(root, plain, look))
}

/// What only the kernel of the running host tells.
fn asked(root: &Root, plain: StoreRoot, look: Option<&Look>) -> StoreRoot {
    let place = deepest(root);
    let space = machine::space(root, place);
    let tried = look.map(|look| look.d_type.clone()).unwrap_or_default();
    StoreRoot {
        d_type: text::first_known([d_type(root, place), tried]),
        xfs_ftype: entries::xfs_ftype(root, place).into(),
        free_bytes: space.map(|space| space.free_bytes).into(),
        total_bytes: space.map(|space| space.total_bytes).into(),
        free_inodes: space.map(|space| space.free_inodes).into(),
        ..plain
    }
}

/// containerd's root, or the nearest directory above it that is there.
fn deepest(root: &Root) -> &'static str {
    let mut path = paths::CONTAINERD_ROOT;
    while !text::is_dir(root, path) {
        match path.rsplit_once('/') {
            Some((parent, _)) if !parent.is_empty() => path = parent,
            _ => return "/",
        }
    }
    path
}

/// By the entries that are there; an empty directory's parent tells it as well
/// where it lies on the same file system.
fn d_type(root: &Root, place: &'static str) -> Fact<bool> {
    let device = |path: &str| root.stat(path).ok().flatten().map(|stat| stat.dev);
    let mut path = place;
    loop {
        match entries::tell_types(root, path) {
            Ok(Some(told)) => return Fact::Known(told),
            Ok(None) => {}
            Err(errno) => return Fact::unknown(errno.desc()),
        }
        match path.rsplit_once('/') {
            Some((parent, _)) if !parent.is_empty() && device(parent) == device(place) => path = parent,
            _ => return Fact::unknown("there are no entries to see it by"),
        }
    }
}

/// A foreign root may hold the answers in `store`: lines `free 6442450944`,
/// `total …`, `inodes 100000`, `d_type yes`, `xfs_ftype no`.
fn told(root: &Root, plain: StoreRoot) -> StoreRoot {
    let text = root.read_text(&format!("{FIXTURES}/store")).ok().flatten().unwrap_or_default();
    let word = |name: &str| -> Fact<String> {
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        let found = lines.find(|(key, _)| *key == name).map(|(_, value)| value.trim().to_owned());
        found.map_or_else(|| Fact::unknown("this root is not the running host"), Fact::Known)
    };
    let number = |name: &str| text::parsed(word(name), name, |text| text.parse::<u64>().ok());
    StoreRoot {
        d_type: word("d_type").map(|word| word == "yes"),
        xfs_ftype: word("xfs_ftype").map(|word| Some(word == "yes")),
        free_bytes: number("free"),
        total_bytes: number("total"),
        free_inodes: number("inodes").map(Some),
        ..plain
    }
}

/// By the kernel's name of the device. `/dev/root` and btrfs have no number of
/// their own, or none that helps: then by the source.
#[must_use]
pub fn uuid(root: &Root, mount: &Mount) -> Fact<String> {
    let last = |path: String| path.rsplit('/').next().map(str::to_owned);
    let numbered = root.read_link(&format!("/sys/dev/block/{}", mount.device)).ok().flatten();
    let source = mount.source.strip_prefix("/dev/").map(|_| mount.source.clone());
    let linked = source.as_ref().and_then(|path| root.read_link(path).ok().flatten());
    let Some(device) = numbered.or(linked).or(source).and_then(last) else {
        return Fact::unknown(format!("{} is no block device", mount.source));
    };
    let names = match root.list(BY_UUID) {
        Ok(names) => names,
        Err(error) => return text::because(&error),
    };
    let is_it = |name: &&String| {
        let target = root.read_link(&format!("{BY_UUID}/{name}")).ok().flatten();
        target.and_then(last).as_deref() == Some(device.as_str())
    };
    names.iter().find(is_it).map_or_else(
        || Fact::unknown(format!("{BY_UUID} names no {device}")),
        |name| Fact::Known(name.clone()),
    )
}

/// Snapshots by snapshotter, for those that have any. One without directories of
/// its own counts one as soon as its database holds something.
fn content(root: &Root) -> Result<BTreeMap<String, u64>, FileError> {
    let mut content = BTreeMap::new();
    for directory in root.list(paths::CONTAINERD_ROOT)? {
        let Some(name) = directory.strip_prefix(PREFIX) else { continue };
        let path = format!("{}/{directory}", paths::CONTAINERD_ROOT);
        let count = snapshots(root, &path)?;
        if count > 0 {
            content.insert(name.to_owned(), count);
        }
    }
    Ok(content)
}

fn snapshots(root: &Root, path: &str) -> Result<u64, FileError> {
    let below = format!("{path}/snapshots");
    if text::is_dir(root, &below) {
        let names = root.list(&below)?;
        // Others are being made or removed.
        return Ok(names.iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).count() as u64);
    }
    let database = root.stat(&format!("{path}/metadata.db"))?;
    Ok(u64::from(database.is_some_and(|stat| stat.size > 0)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::observe::fixture::Tree;

    fn observed(tree: &Tree) -> Storage {
        again(&tree.root())
    }

    fn table(tree: &Tree, line: &str) {
        tree.file("/proc/self/mountinfo", format!("25 1 8:2 / / rw - ext4 /dev/sda2 rw\n{line}\n"));
    }

    #[test]
    fn the_file_system_of_the_root_is_told_with_its_uuid() {
        let tree = Tree::new();
        table(&tree, "27 25 8:3 / /var/lib/containerd ro,noatime - xfs /dev/sda3 rw,attr2");
        tree.link("/sys/dev/block/8:3", "../../devices/pci0000:00/ata1/block/sda/sda3")
            .link("/dev/disk/by-uuid/aaaa-0002", "../../sda2")
            .link("/dev/disk/by-uuid/bbbb-0003", "../../sda3")
            .file("/.facts/store", "free 7\ntotal 9\ninodes 5\nd_type no\nxfs_ftype no\n");
        let store = observed(&tree).root.known().unwrap().clone();
        assert_eq!((store.mount_point.as_str(), store.fs_type.as_str()), ("/var/lib/containerd", "xfs"));
        assert_eq!(store.uuid, Fact::Known("bbbb-0003".to_owned()));
        assert!(store.read_only);
        assert_eq!((store.free_bytes, store.total_bytes), (Fact::Known(7), Fact::Known(9)));
        assert_eq!((store.d_type, store.xfs_ftype), (Fact::Known(false), Fact::Known(Some(false))));
    }

    #[test]
    fn a_mapped_device_is_found_through_its_link() {
        let tree = Tree::new();
        table(&tree, "27 25 0:31 / /var/lib btrfs rw - btrfs /dev/mapper/vg0-data rw");
        table(&tree, "27 25 0:31 / /var/lib rw - btrfs /dev/mapper/vg0-data rw");
        tree.link("/dev/mapper/vg0-data", "../dm-4").link("/dev/disk/by-uuid/cccc", "../../dm-4");
        assert_eq!(observed(&tree).root.known().unwrap().uuid, Fact::Known("cccc".to_owned()));
    }

    #[test]
    fn content_is_counted_by_what_a_snapshotter_leaves() {
        let tree = Tree::new();
        let at = |rest: &str| format!("{}/{PREFIX}{rest}", paths::CONTAINERD_ROOT);
        assert_eq!(observed(&tree).content, Fact::Known(BTreeMap::new()), "there is no root");
        tree.file(&at("overlayfs/metadata.db"), "x")
            .directory(&at("overlayfs/snapshots/1"))
            .directory(&at("overlayfs/snapshots/12"))
            .directory(&at("overlayfs/snapshots/new-407"))
            .file(&at("devmapper/metadata.db"), "")
            .directory(&at("native/snapshots"))
            .file(&at("blockfile/metadata.db"), "x");
        let content = observed(&tree).content.known().unwrap().clone();
        assert_eq!(content, BTreeMap::from([("blockfile".to_owned(), 1), ("overlayfs".to_owned(), 2)]));
    }

    #[test]
    fn the_running_host_tells_everything_about_its_root() {
        let store = again(&Root::default()).root.known().unwrap().clone();
        assert_eq!(store.d_type, Fact::Known(true));
        assert!(store.free_bytes.known() > Some(&0) && store.total_bytes.known() > store.free_bytes.known());
        assert!(store.free_inodes.known().is_some());
        assert_eq!(store.xfs_ftype.known().unwrap().is_some(), store.fs_type == "xfs");
    }
}
