//! The text of containerd's file.
//!
//! Owns what each schema says for a decision. A key is put down for every
//! version of its schema and written to those that know it ([`super::keys`]).

use toml::{Table, Value};

use super::{Decision, keys, list, text};
use crate::paths;
use crate::role::Snapshotter;
use crate::role::words::ImageRef;

/// One key as a path, its parts joined by `/`, with its value.
pub(super) type Entry = (String, Value);

const CRI: &str = "io.containerd.grpc.v1.cri";
const IMAGES: &str = "io.containerd.cri.v1.images";
const RUNTIME: &str = "io.containerd.cri.v1.runtime";
const TRANSFER: &str = "io.containerd.transfer.v1.local";
const SNAPSHOTTERS: &str = "io.containerd.snapshotter.v1";
const DIFF: &str = "io.containerd.service.v1.diff-service";

/// Where the daemon keeps its run state.
const STATE: &str = "/run/containerd";
/// A second daemon on the same store gives up after this, and says so; without
/// it, it waits for ever on the lock of the database.
const DATABASE_PATIENCE: &str = "30s";
/// Longer than a mirror that hangs costs for an image of some layers; "0s" would
/// let a pull hang for ever (containerd#14158).
const PULL_PATIENCE: &str = "10m";
/// On 2.1 and newer another number turns local pulls on by itself.
const DOWNLOADS: i64 = 3;

/// containerd's whole file for `decision`.
#[must_use]
pub fn config(decision: &Decision, sandbox: Option<&ImageRef>) -> String {
    let known = |(path, _): &Entry| keys::knows(decision.version, path);
    let mut table = Table::new();
    for (path, value) in entries(decision, sandbox).into_iter().filter(known) {
        insert(&mut table, &path, value);
    }
    // A table of strings, numbers and lists always has a TOML form.
    let text = toml::to_string(&table).unwrap_or_default();
    format!("# Written by edge-bootstrap; changes here are put back.\n{text}")
}

fn insert(table: &mut Table, path: &str, value: Value) {
    match path.split_once('/') {
        None => {
            table.insert(path.to_owned(), value);
        }
        Some((first, rest)) => {
            let below = table.entry(first).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(below) = below {
                insert(below, rest, value);
            }
        }
    }
}

/// Everything that the schema of this version could be told.
pub(super) fn entries(decision: &Decision, sandbox: Option<&ImageRef>) -> Vec<Entry> {
    let mut out = daemon(decision);
    out.extend(if decision.version.0 == 1 { schema_2(decision) } else { schema_3(decision) });
    if let Some(image) = sandbox {
        let (plugin, key) =
            if decision.version.0 == 1 { (CRI, "sandbox_image") } else { (IMAGES, "pinned_images/sandbox") };
        out.extend(section(plugin, [(key, text(image.as_str()))]));
    }
    // Imports by `ctr --local` are synced by it; pulls have a key of their own.
    out.extend(section(DIFF, [("sync_fs", Value::Boolean(true))]));
    if decision.choice.snapshotter == Snapshotter::Devmapper {
        out.extend(devmapper(decision));
    }
    out
}

fn section<const N: usize>(plugin: &str, keys: [(&str, Value); N]) -> Vec<Entry> {
    keys.into_iter().map(|(key, value)| (format!("plugins/{plugin}/{key}"), value)).collect()
}

fn daemon(decision: &Decision) -> Vec<Entry> {
    let (schema, cri): (i64, &[&str]) =
        if decision.version.0 == 1 { (2, &[CRI]) } else { (3, &[CRI, IMAGES, RUNTIME]) };
    let snapshotter = plugin(&decision.choice.snapshotter.to_string());
    let required = cri.iter().map(|id| (*id).to_owned()).chain([snapshotter]);
    let keys = [
        ("version", Value::Integer(schema)),
        ("root", text(paths::CONTAINERD_ROOT)),
        ("state", text(STATE)),
        ("oom_score", Value::Integer(-999)),
        // Without this a failed CRI plugin leaves a daemon that systemd calls active.
        ("required_plugins", list(required)),
        ("disabled_plugins", list(disabled(decision))),
        ("grpc/address", text(paths::CONTAINERD_SOCKET)),
        ("timeouts/io.containerd.timeout.bolt.open", text(DATABASE_PATIENCE)),
    ];
    keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn plugin(snapshotter: &str) -> String {
    format!("{SNAPSHOTTERS}.{snapshotter}")
}

/// Snapshotters that are never wanted beside the chosen one: on 2.x one that
/// fails takes the whole daemon down, and overlayfs fails on xfs without ftype.
fn disabled(decision: &Decision) -> Vec<String> {
    let devmapper = decision.choice.snapshotter == Snapshotter::Devmapper;
    let others: &[&str] = match (devmapper, decision.version) {
        (false, _) => &["devmapper", "btrfs", "zfs"],
        (true, (1, ..)) => &["btrfs", "zfs"],
        (true, (2, 0, _)) => &["overlayfs", "btrfs", "zfs"],
        (true, _) => &["overlayfs", "erofs", "btrfs", "zfs"],
    };
    others.iter().copied().map(plugin).collect()
}

fn schema_2(decision: &Decision) -> Vec<Entry> {
    let mut out = section(
        CRI,
        [
            ("max_concurrent_downloads", Value::Integer(DOWNLOADS)),
            ("image_pull_progress_timeout", text(PULL_PATIENCE)),
            // Unpacked layers are not durable otherwise (containerd#9401).
            ("image_pull_with_sync_fs", Value::Boolean(true)),
            ("containerd/snapshotter", text(&decision.choice.snapshotter.to_string())),
            ("containerd/discard_unpacked_layers", Value::Boolean(false)),
            ("containerd/disable_snapshot_annotations", Value::Boolean(true)),
            ("registry/config_path", text(paths::CONTAINERD_CERTS)),
        ],
    );
    out.extend(runtime(CRI, decision));
    out
}

fn schema_3(decision: &Decision) -> Vec<Entry> {
    let mut out = section(
        IMAGES,
        [
            ("snapshotter", text(&decision.choice.snapshotter.to_string())),
            ("disable_snapshot_annotations", Value::Boolean(true)),
            ("discard_unpacked_layers", Value::Boolean(false)),
            ("max_concurrent_downloads", Value::Integer(DOWNLOADS)),
            ("image_pull_progress_timeout", text(PULL_PATIENCE)),
            ("image_pull_with_sync_fs", Value::Boolean(true)),
            // Timeout and sync work on the local pull path only.
            ("use_local_image_pull", Value::Boolean(true)),
            ("registry/config_path", text(paths::CONTAINERD_CERTS)),
        ],
    );
    out.extend(runtime(RUNTIME, decision));
    out.extend(section(RUNTIME, [("cni/bin_dirs", list(decision.cni_bin_dirs.iter().cloned()))]));
    out
}

/// The runtimes table is always there: without `runtime_type` every pod fails
/// on 1.x, and without the table 2.x would drop the snapshotter while it
/// migrates a file of schema 2.
fn runtime(plugin: &str, decision: &Decision) -> Vec<Entry> {
    let bin_dir = decision.cni_bin_dirs.first().map_or(super::CNI_BIN_DIR, String::as_str);
    let mut out = section(
        plugin,
        [
            ("containerd/default_runtime_name", text("runc")),
            ("containerd/runtimes/runc/runtime_type", text("io.containerd.runc.v2")),
            ("containerd/runtimes/runc/options/SystemdCgroup", Value::Boolean(decision.systemd_cgroup)),
            ("cni/bin_dir", text(bin_dir)),
            ("cni/conf_dir", text(paths::CNI_DIR)),
        ],
    );
    if let Some(runc) = &decision.runc {
        out.extend(section(plugin, [("containerd/runtimes/runc/options/BinaryName", text(runc))]));
    }
    out
}

fn devmapper(decision: &Decision) -> Vec<Entry> {
    let choice = &decision.choice;
    let size = choice.base_image_size.as_deref().unwrap_or(super::BASE_IMAGE_SIZE);
    let id = plugin("devmapper");
    let mut out = section(
        &id,
        [
            ("root_path", text(&format!("{}/{id}", paths::CONTAINERD_ROOT))),
            ("pool_name", text(choice.pool.as_deref().unwrap_or_default())),
            ("base_image_size", text(size)),
            ("fs_type", text("ext4")),
            ("async_remove", Value::Boolean(false)),
            ("discard_blocks", Value::Boolean(true)),
        ],
    );
    let unpack = [
        ("platform", format!("linux/{}", decision.arch)),
        ("snapshotter", "devmapper".to_owned()),
        ("differ", "walking".to_owned()),
    ];
    let unpack = unpack.into_iter().map(|(key, value)| (key.to_owned(), Value::String(value))).collect();
    // Without it 2.x calls itself Ready, and no image can be pulled or imported.
    out.extend(section(TRANSFER, [("unpack_config", Value::Array(vec![Value::Table(unpack)]))]));
    out
}
