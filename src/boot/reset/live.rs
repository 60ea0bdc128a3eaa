//! Ends what of k3s runs: processes, mounts, name spaces, links, rules.
//!
//! Owns the order, and how long each may take. What does not go is not an error
//! here: whoever looks afterwards names it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{look, rules, told};
use crate::boot::Agent;
use crate::observe::{mounts, strangers};
use crate::plan::reset::mounts::is_below;
use crate::plan::reset::network::Interface;
use crate::sys::{Root, host, interfaces, processes};

/// How long processes may take to go after their end, in the kernel.
const GONE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(100);
/// A mount may hide another at the same place.
const LAYERS: usize = 8;

/// Ends all of it, as far as it goes.
pub(super) async fn end(agent: &Agent) {
    let root = &agent.root;
    agent.watcher.doing("ending processes, mounts and network of k3s and its pods");
    end_processes(root).await;
    unmount(root);
    let manifest = look::live(agent).await;
    for path in &manifest.namespaces {
        remove_namespace(root, path);
    }
    remove_links(&manifest.interfaces);
    rules::remove(root, &manifest.rules).await;
    if let Err(error) = remove_groups(root) {
        told("a control group of pods stays", &error);
    }
}

/// Again and again: a shim that was not ended yet may start another.
async fn end_processes(root: &Root) {
    let deadline = Instant::now() + GONE;
    loop {
        let all = strangers::processes(root);
        let ending = crate::plan::reset::processes::to_end(&all, host::pid());
        if ending.is_empty() || Instant::now() >= deadline {
            return;
        }
        for (process, why) in &ending {
            match processes::end(root, process.pid, process.started) {
                Ok(()) => {
                    tracing::info!(EDGE_STEP = "reset", "ended {} ({}): {why}", process.pid, process.name)
                }
                Err(error) => told(&format!("process {} cannot be ended", process.pid), &error),
            }
        }
        sleep(PAUSE).await;
    }
}

fn unmount(root: &Root) {
    for _ in 0..LAYERS {
        let table = look::mount_table(root).unwrap_or_default();
        let points = look::to_unmount(root);
        if points.is_empty() {
            return;
        }
        let is_remote = |point: &str| mounts::is_remote(&table, point);
        // A pod may have a directory of the host in which a person mounted a disk: that
        // one stays where it is.
        let leads = |point: &&String| points.iter().any(|inner| is_below(inner, point)) && !is_remote(point);
        for point in points.iter().filter(leads) {
            if let Err(error) = processes::seclude(root, point) {
                told(&format!("{point} stays shared"), &error);
            }
        }
        for point in &points {
            let how = if is_remote(point) { processes::unmount_remote } else { processes::unmount };
            if let Err(error) = how(root, point) {
                told(&format!("{point} stays mounted"), &error);
            }
        }
    }
}

fn remove_namespace(root: &Root, path: &str) {
    // As ip-netns(8) does it: the mount, then the file that it was on.
    if let Err(error) = processes::unmount(root, path) {
        return told(&format!("{path} stays mounted"), &error);
    }
    if let Err(error) = root.remove_file(path) {
        told(&format!("{path} stays"), &error);
    }
}

fn remove_links(all: &[Interface]) {
    for link in all {
        if let Err(error) = interfaces::remove(link.index) {
            told(&format!("interface {} stays", link.name), &error);
        }
    }
}

/// Control groups of pods, where kubelet makes them itself and not systemd.
fn remove_groups(root: &Root) -> Result<(), crate::sys::FileError> {
    const TOP: &str = "/sys/fs/cgroup";
    let mut tops = vec![format!("{TOP}/kubepods")];
    // Version 1 has a tree per controller.
    tops.extend(root.list(TOP)?.into_iter().map(|name| format!("{TOP}/{name}/kubepods")));
    for top in tops.iter().filter(|top| root.exists(top)) {
        remove_group(root, top)?;
    }
    Ok(())
}

/// The innermost first; only directories of empty groups can be removed.
fn remove_group(root: &Root, path: &str) -> Result<(), crate::sys::FileError> {
    for name in root.list(path)? {
        let inside = format!("{path}/{name}");
        if root.stat(&inside)?.is_some_and(|stat| stat.is_dir) {
            remove_group(root, &inside)?;
        }
    }
    let _ = root.remove_empty_dir(path);
    Ok(())
}
