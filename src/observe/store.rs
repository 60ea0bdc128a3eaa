//! containerd's store: its databases, what lies in it, and what is in the way of
//! setting it aside.
//!
//! Owns reading a few pages of each database, of devmapper also the records of its
//! devices, and counting no more than it must: a store is large, and every pass
//! looks at it. Decides nothing.

use super::mounts::Mount;
use super::text;
use crate::facts::Fact;
use crate::facts::bolt::tree::{self, Bucket, Found};
use crate::facts::bolt::{self, Bytes};
use crate::facts::devices::{self, Ahead};
use crate::facts::storage::{Database, DatabaseState};
use crate::facts::store::{Kept, Store};
use crate::floor;
use crate::inventory::Inventory;
use crate::paths;
use crate::role::Snapshotter;
use crate::sys::part::Part;
use crate::sys::root::FileError;
use crate::sys::{Root, host};

const META: &str = "io.containerd.metadata.v1.bolt/meta.db";
const BLOBS: &str = "io.containerd.content.v1.content/blobs/sha256";
const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1.";
/// What a snapshotter unpacks into.
const UNPACKED: &str = "snapshots";
/// A store that was set aside whole lies beside the root with this in its name,
/// the parts of one that is a mount of its own lie in it.
const ASIDE: [(&str, &str); 2] =
    [("/var/lib", "containerd.quarantine-"), (paths::CONTAINERD_ROOT, ".quarantine-")];
/// The kernel cuts a process's name after 15 bytes.
const SHIM: &str = "containerd-shim";

/// containerd's databases that are there, and whether each is whole.
#[must_use]
pub fn databases(root: &Root) -> Fact<Vec<Database>> {
    let names = match database_names(root) {
        Ok(names) => names,
        Err(error) => return text::because(&error),
    };
    let mut found = Vec::new();
    for name in names {
        let path = format!("{}/{name}", paths::CONTAINERD_ROOT);
        match state(root, &path) {
            Ok(Some(state)) => found.push(Database { path, state }),
            Ok(None) => {}
            // A disk that answers with errors says nothing about its content.
            Err(error) => return text::because(&error),
        }
    }
    Fact::Known(found)
}

fn database_names(root: &Root) -> Result<Vec<String>, FileError> {
    let mut names = vec![META.to_owned()];
    for snapshotter in
        root.list(paths::CONTAINERD_ROOT)?.into_iter().filter(|name| name.starts_with(SNAPSHOTTER))
    {
        names.push(format!("{snapshotter}/metadata.db"));
        if snapshotter.ends_with(".devmapper") {
            let files = root.list(&format!("{}/{snapshotter}", paths::CONTAINERD_ROOT))?;
            let pools = files.into_iter().filter(|name| name.ends_with(".db") && name != "metadata.db");
            names.extend(pools.map(|name| format!("{snapshotter}/{name}")));
        }
    }
    Ok(names)
}

/// Whether one database is whole; `None` when there is none.
///
/// # Errors
/// When it cannot be read.
pub fn state(root: &Root, path: &str) -> Result<Option<DatabaseState>, FileError> {
    Part::open(root, path)?.map(|part| bolt::judge(&mut File(part))).transpose()
}

struct File(Part);

impl Bytes for File {
    type Error = FileError;

    fn length(&mut self) -> Result<u64, FileError> {
        self.0.length()
    }

    fn at(&mut self, offset: u64, length: usize) -> Result<Vec<u8>, FileError> {
        self.0.at(offset, length)
    }
}

/// What a repair of the store would have to know. Processes are looked through
/// only where a database is not whole.
#[must_use]
pub fn observe(root: &Root, mounts: &Fact<Vec<Mount>>, databases: &Fact<Vec<Database>>) -> Store {
    let inventory = Inventory::load(root);
    let half_aside = root.exists(paths::STORE_HALF_ASIDE);
    let databases = databases.known().map(Vec::as_slice).unwrap_or_default();
    let is_whole = |name: &str| {
        let path = format!("{}/{name}", paths::CONTAINERD_ROOT);
        databases.iter().any(|database| database.path == path && database.state == DatabaseState::Whole)
    };
    let all_whole = databases.iter().all(|database| database.state == DatabaseState::Whole);
    let unpacked = unpacked(root);
    let has_lost = unpacked
        .known()
        .is_some_and(|names| names.iter().any(|name| !is_whole(&format!("{SNAPSHOTTER}{name}/metadata.db"))));
    let is_well = !half_aside && all_whole && is_whole(META) && !has_lost;
    Store {
        images: inventory.images.len() as u64,
        snapshots: inventory.snapshots,
        has_blobs: has_blobs(root),
        unpacked,
        half_aside,
        shims: if is_well { Fact::unknown("nobody had to look") } else { shims(root) },
        mounts: below(mounts),
        ahead: ahead(root, pool(&inventory)),
        aside: inventory.aside,
        kept: kept(root),
        boot_id: host::boot_id(root).map_or_else(|error| text::because(&error), Fact::Known),
        past: floor::known(root).at,
    }
}

/// Whether the content directory holds a blob.
#[must_use]
pub fn has_blobs(root: &Root) -> Fact<bool> {
    listed(root, BLOBS).map(|names| !names.is_empty())
}

/// By directories that a database has named: a snapshotter makes them under
/// another name, and takes them away under another one.
fn unpacked(root: &Root) -> Fact<Vec<String>> {
    let is_named = |name: &String| name.bytes().all(|byte| byte.is_ascii_digit());
    listed(root, "").map(|names| {
        let snapshotters = names.iter().filter_map(|name| name.strip_prefix(SNAPSHOTTER));
        let holds = |name: &&str| {
            let inside = listed(root, &format!("{SNAPSHOTTER}{name}/{UNPACKED}"));
            inside.known().is_some_and(|names| names.iter().any(is_named))
        };
        snapshotters.filter(holds).map(str::to_owned).collect()
    })
}

fn listed(root: &Root, name: &str) -> Fact<Vec<String>> {
    let path = format!("{}/{name}", paths::CONTAINERD_ROOT);
    root.list(path.trim_end_matches('/')).map_or_else(|error| text::because(&error), Fact::Known)
}

/// Shims of any namespace: they hold files of the store open.
fn shims(root: &Root) -> Fact<Vec<u32>> {
    let names = match root.list("/proc") {
        Ok(names) => names,
        Err(error) => return text::because(&error),
    };
    let pids = names.iter().filter_map(|name| name.parse::<u32>().ok());
    let is_shim =
        |pid: &u32| root.read_kernel(&format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with(SHIM));
    Fact::Known(pids.filter(is_shim).collect())
}

/// Also those of containers that outlived their shim: what is below containerd's
/// state directory is put together from layers of the store.
fn below(mounts: &Fact<Vec<Mount>>) -> Fact<Vec<String>> {
    let inside = [paths::CONTAINERD_ROOT, paths::CONTAINERD_STATE].map(|place| format!("{place}/"));
    let is_inside = |mount: &&Mount| inside.iter().any(|place| mount.mount_point.starts_with(place.as_str()));
    mounts
        .clone()
        .map(|mounts| mounts.iter().filter(is_inside).map(|mount| mount.mount_point.clone()).collect())
}

/// The pool of a host that was decided to have one.
fn pool(inventory: &Inventory) -> Option<&str> {
    let choice = inventory.choice.as_ref()?;
    choice.pool.as_deref().filter(|_| choice.snapshotter == Snapshotter::Devmapper)
}

fn ahead(root: &Root, pool: Option<&str>) -> Fact<Ahead> {
    let Some(pool) = pool else { return Fact::Known(Ahead::default()) };
    match devices_ahead(root, pool) {
        Ok(Some((ahead, _))) => Fact::Known(ahead),
        Ok(None) => Fact::unknown("a database of the snapshotter is not there or cannot be read"),
        Err(error) => text::because(&error),
    }
}

/// Thin devices of `pool` that are ahead of the snapshots, and the bucket that
/// they are in; `None` where a database is gone, empty or damaged.
///
/// # Errors
/// When a database cannot be read.
pub fn devices_ahead(root: &Root, pool: &str) -> Result<Option<(Ahead, Bucket)>, FileError> {
    let Some(last) = last_snapshot(root)? else { return Ok(None) };
    let Some(found) = bucket(root, &devices::database(pool), &devices::DEVICES, true)? else {
        return Ok(None);
    };
    // Meanwhile containerd may have made snapshots.
    let is_still = last_snapshot(root)? == Some(last);
    Ok(is_still.then(|| (devices::ahead(&found, pool, last), found)))
}

/// The number of the newest snapshot.
fn last_snapshot(root: &Root) -> Result<Option<u64>, FileError> {
    let found = bucket(root, &devices::database("metadata"), &devices::SNAPSHOTS, false)?;
    Ok(found.map(|bucket| bucket.sequence))
}

/// A bucket of a whole database; one that it does not have yet is empty.
fn bucket(root: &Root, path: &str, names: &[&str], with_items: bool) -> Result<Option<Bucket>, FileError> {
    let Some(part) = Part::open(root, path)? else { return Ok(None) };
    let mut file = File(part);
    if bolt::judge(&mut file)? != DatabaseState::Whole {
        return Ok(None);
    }
    Ok(match tree::bucket(&mut file, names, with_items)? {
        Found::Bucket(found) => Some(found),
        Found::Nothing => Some(Bucket::default()),
        Found::Unsound => None,
    })
}

/// Stores that were set aside and lie there still.
fn kept(root: &Root) -> Vec<Kept> {
    let mut kept: Vec<Kept> = Vec::new();
    for (directory, prefix) in ASIDE {
        let names = root.list(directory).unwrap_or_default();
        let is_one =
            |name: &&String| name.strip_prefix(prefix).is_some_and(|rest| rest.parse::<u64>().is_ok());
        kept.extend(names.iter().filter(is_one).map(|name| kept_store(root, format!("{directory}/{name}"))));
    }
    kept
}

fn kept_store(root: &Root, path: String) -> Kept {
    let moved_at = root.stat(&path).ok().flatten().map_or(0, |stat| u64::try_from(stat.ctime).unwrap_or(0));
    let blobs = format!("{path}/{BLOBS}");
    let names = root.list(&blobs).unwrap_or_default();
    let size =
        |name: &String| root.stat(&format!("{blobs}/{name}")).ok().flatten().map_or(0, |stat| stat.size);
    let blob_bytes = names.iter().map(size).sum();
    Kept { path, moved_at, blob_bytes }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::sys::atomic;

    fn put(root: &Root, path: &str, bytes: &[u8]) {
        root.ensure_dir(path.rsplit_once('/').unwrap().0).unwrap();
        atomic::write(root, path, bytes, 0o600).unwrap();
    }

    fn at(name: &str) -> String {
        format!("{}/{name}", paths::CONTAINERD_ROOT)
    }

    #[test]
    fn a_host_without_a_store_has_nothing_to_repair() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert_eq!(databases(&root), Fact::Known(Vec::new()));
        let store = observe(&root, &Fact::Known(Vec::new()), &databases(&root));
        assert_eq!(store.has_blobs, Fact::Known(false));
        assert_eq!(store.unpacked, Fact::Known(Vec::new()));
        assert!(!store.half_aside && store.kept.is_empty());
    }

    #[test]
    fn each_database_is_judged_and_shims_are_looked_for_only_where_one_is_not_whole() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        put(&root, &at(META), b"");
        put(&root, &at("io.containerd.snapshotter.v1.overlayfs/metadata.db"), b"short");
        put(&root, &at("io.containerd.snapshotter.v1.devmapper/metadata.db"), b"");
        put(&root, &at("io.containerd.snapshotter.v1.devmapper/edge-thinpool.db"), b"");
        put(&root, &at("io.containerd.snapshotter.v1.overlayfs/snapshots/7/fs/x"), b"x");
        put(&root, &at(&format!("{BLOBS}/aa")), b"blob");
        put(&root, "/proc/41/comm", b"containerd-shim\n");
        put(&root, "/proc/42/comm", b"containerd\n");
        let found = databases(&root);
        let states = found.known().unwrap();
        assert_eq!(states.len(), 4);
        assert_eq!(states[0].state, DatabaseState::Empty);
        assert!(states.iter().any(|database| matches!(database.state, DatabaseState::Damaged(_))));
        let store = observe(&root, &Fact::Known(Vec::new()), &found);
        assert_eq!(store.shims, Fact::Known(vec![41]));
        assert_eq!(store.has_blobs, Fact::Known(true));
        assert_eq!(store.unpacked, Fact::Known(vec!["overlayfs".to_owned()]));
    }

    #[test]
    fn shims_are_looked_for_where_a_used_snapshotter_has_no_database_and_not_where_nobody_used_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        put(&root, &at(META), &crate::facts::bolt::tests::whole(4096));
        put(&root, "/proc/41/comm", b"containerd-shim\n");
        let shims = |root: &Root| observe(root, &Fact::Known(Vec::new()), &databases(root)).shims;
        assert!(shims(&root).known().is_none(), "nothing was unpacked by anybody");
        // As a start leaves it, and a first snapshot that was cut.
        root.ensure_dir(&at("io.containerd.snapshotter.v1.overlayfs/snapshots/new-407")).unwrap();
        assert!(shims(&root).known().is_none(), "nothing was unpacked to its end");
        root.ensure_dir(&at("io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs")).unwrap();
        assert_eq!(shims(&root), Fact::Known(vec![41]));
    }

    #[test]
    fn mounts_of_containers_count_wherever_containerd_makes_them() {
        let mount = |place: &str| Mount {
            device: "0:31".to_owned(),
            mount_point: place.to_owned(),
            fs_type: "overlay".to_owned(),
            source: "overlay".to_owned(),
            options: Vec::new(),
        };
        let rootfs = "/run/containerd/io.containerd.runtime.v2.task/k8s.io/a/rootfs";
        let all = ["/", "/run/containerd-of-mine", "/var/lib/containerd", "/var/lib/containerd/x", rootfs];
        let found = below(&Fact::Known(all.map(mount).to_vec()));
        assert_eq!(found, Fact::Known(vec!["/var/lib/containerd/x".to_owned(), rootfs.to_owned()]));
    }

    #[test]
    fn earlier_stores_are_found_beside_the_root_and_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        put(&root, &format!("/var/lib/containerd.quarantine-2/{BLOBS}/aa"), b"12345");
        put(&root, &at(&format!(".quarantine-1/{BLOBS}/aa")), b"123");
        put(&root, "/var/lib/containerd.quarantine-of-mine/x", b"");
        let store = observe(&root, &Fact::Known(Vec::new()), &databases(&root));
        let kept: Vec<_> = store.kept.iter().map(|kept| (kept.path.as_str(), kept.blob_bytes)).collect();
        assert_eq!(kept, [("/var/lib/containerd.quarantine-2", 5), ("/var/lib/containerd/.quarantine-1", 3)]);
        assert!(store.kept.iter().all(|kept| kept.moved_at > 0) && !store.half_aside);
    }
}
