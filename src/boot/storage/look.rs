//! The act `look-at-storage`, as it runs in a unit of its own.
//!
//! Owns what the daemon's sandbox cannot see: a real overlay mount, device-mapper,
//! disks. Leaves its result in the run directory and nothing else; what an
//! interrupted look left is removed by the next one.

use std::time::Duration;

use super::pool;
use crate::error::Chain;
use crate::facts::Fact;
use crate::facts::storage::{Look, Named, OverlayTest, Pool};
use crate::paths;
use crate::sys::root::FileError;
use crate::sys::{Root, atomic, clock, exec, host, overlay};

/// Limit of a program that only looks.
const LIMIT: Duration = Duration::from_secs(5);
/// Programs that containerd's devmapper plugin and LVM's thin pools run.
const TOOLS: [&str; 7] =
    ["blkdiscard", "dmsetup", "lvcreate", "mkfs.ext4", "thin_check", "thin_repair", "vgs"];
/// Mode of containerd's root (containerd: cmd/containerd/server/server.go).
const ROOT_MODE: u32 = 0o711;

/// Looks, and writes what was seen. Overlay is tried only where it could be
/// chosen.
///
/// # Errors
/// When the result cannot be written.
pub async fn look(root: &Root, named: Named, try_overlay: bool) -> Result<Look, FileError> {
    let (overlay, d_type) = if try_overlay { tried(root) } else { untried("devmapper is in use") };
    let pool = match &named.pool {
        Some(name) => pool::pool(name).await,
        None => Fact::unknown("no pool is named"),
    };
    let look = Look {
        boot_id: host::boot_id(root)?,
        since_boot_s: clock::since_boot().as_secs(),
        overlay,
        d_type,
        targets: targets(&named).await,
        missing_tools: missing(root, &named),
        group: group(&named, pool.known().and_then(Option::as_ref)).await,
        device: match &named.device {
            Some(path) => pool::device(path).await,
            None => Fact::unknown("no device is named"),
        },
        pool,
        named,
    };
    let bytes = serde_json::to_vec(&look).unwrap_or_default();
    root.make_dir(paths::RUN_DIR, 0o755)?;
    atomic::write_volatile(root, paths::STORAGE_LOOK, &bytes, 0o600)?;
    Ok(look)
}

fn untried(why: &str) -> (Fact<OverlayTest>, Fact<bool>) {
    (Fact::unknown(why), Fact::unknown(why))
}

/// Below containerd's root, which is there for the trial's time at least.
fn tried(root: &Root) -> (Fact<OverlayTest>, Fact<bool>) {
    let was_there = root.exists(paths::CONTAINERD_ROOT);
    if !was_there && let Err(error) = root.make_dir(paths::CONTAINERD_ROOT, ROOT_MODE) {
        return untried(&Chain(&error).to_string());
    }
    let trial = overlay::try_below(root, paths::CONTAINERD_ROOT);
    if !was_there {
        // One that something was put into meanwhile stays.
        let _ = root.remove_empty_dir(paths::CONTAINERD_ROOT);
    }
    match trial {
        Ok(trial) => (Fact::Known(test(trial.failed)), types(trial.types)),
        Err(error) => untried(&Chain(&error).to_string()),
    }
}

fn test(failed: Option<(&'static str, overlay::Errno)>) -> OverlayTest {
    failed.map_or(OverlayTest::Works, |(step, errno)| OverlayTest::Fails {
        step: step.to_owned(),
        errno: overlay::name(errno),
    })
}

fn types(told: Option<bool>) -> Fact<bool> {
    told.map_or_else(|| Fact::unknown("there were no entries to see it by"), Fact::Known)
}

/// The group that the settings name, or that of the pool.
async fn group(named: &Named, pool: Option<&Pool>) -> Fact<Option<crate::facts::storage::VolumeGroup>> {
    let of_pool = pool.and_then(|pool| pool.volume.as_ref()).map(|(group, _)| group);
    match named.group.as_ref().or(of_pool) {
        Some(name) => pool::group(name).await,
        None => Fact::unknown("no volume group is named"),
    }
}

async fn targets(named: &Named) -> Fact<Vec<String>> {
    if named.pool.is_none() {
        return Fact::unknown("no pool is named");
    }
    // Built in, or loaded already: what counts is the list.
    let _ = exec::run("modprobe", &["dm_thin_pool"], LIMIT).await;
    match exec::run("dmsetup", &["targets"], LIMIT).await {
        Ok(output) if output.code == Some(0) => Fact::Known(target_names(&output.stdout)),
        Ok(output) => Fact::unknown(format!("dmsetup targets: {}", output.stderr.trim())),
        Err(error) => Fact::unknown(Chain(&error).to_string()),
    }
}

/// Lines `thin-pool        v1.22.0`.
fn target_names(text: &str) -> Vec<String> {
    let mut names: Vec<String> =
        text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    names.sort();
    names
}

fn missing(root: &Root, named: &Named) -> Vec<String> {
    if named.pool.is_none() {
        return Vec::new();
    }
    TOOLS.iter().filter(|name| !exec::is_installed(root, name)).map(|name| (*name).to_owned()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn root_with_boot_id() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        root.make_dir("/proc/sys/kernel/random", 0o755).unwrap();
        atomic::write_volatile(&root, "/proc/sys/kernel/random/boot_id", b"boot-1\n", 0o644).unwrap();
        (dir, root)
    }

    #[tokio::test]
    async fn a_look_leaves_its_result_and_nothing_below_the_root_of_containerd() {
        let (_dir, root) = root_with_boot_id();
        let seen = look(&root, Named::default(), true).await.unwrap();
        assert!(!root.exists(paths::CONTAINERD_ROOT), "it was not there before");
        let written: Look =
            serde_json::from_slice(&root.read(paths::STORAGE_LOOK).unwrap().unwrap()).unwrap();
        assert_eq!((&written, written.boot_id.as_str()), (&seen, "boot-1"));
        root.make_dir(paths::CONTAINERD_ROOT, 0o700).unwrap();
        look(&root, Named::default(), true).await.unwrap();
        assert!(root.list(paths::CONTAINERD_ROOT).unwrap().is_empty());
        assert_eq!(root.stat(paths::CONTAINERD_ROOT).unwrap().unwrap().mode, 0o700, "it is left as it is");
    }

    #[tokio::test]
    async fn overlay_is_not_tried_where_devmapper_is_in_use() {
        let (_dir, root) = root_with_boot_id();
        let seen = look(&root, Named::default(), false).await.unwrap();
        assert_eq!(seen.overlay, Fact::unknown("devmapper is in use"));
    }

    #[test]
    fn targets_are_the_first_words() {
        assert_eq!(
            target_names("thin-pool        v1.22.0\nlinear           v1.4.0\n\n"),
            ["linear", "thin-pool"]
        );
    }

    #[test]
    fn programs_matter_only_where_a_pool_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert!(missing(&root, &Named::default()).is_empty());
        let named = Named { pool: Some("edge-thinpool".into()), ..Named::default() };
        assert_eq!(missing(&root, &named), TOOLS);
    }
}
