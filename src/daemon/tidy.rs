//! Temporary files that a kill or a power cut left behind.
//!
//! Owns one sweep at the start of the daemon, while nothing else of ours
//! writes. Removes only names that [`crate::sys::atomic`] gives; some held
//! secrets, and nobody would ever look at them again.

use tracing::{info, warn};

use crate::error::Chain;
use crate::paths;
use crate::sys::{FileError, Root, atomic};

/// Where files of ours are written in place; generations and drop-ins lie one deeper.
const DIRECTORIES: [&str; 13] = [
    paths::STATE_DIR,
    paths::OUTBOX,
    paths::BACKUP,
    "/etc",
    "/etc/rancher/k3s",
    "/etc/containerd",
    paths::CNI_DIR,
    "/etc/sysctl.d",
    "/etc/modules-load.d",
    "/etc/cloud/cloud.cfg.d",
    "/etc/NetworkManager/conf.d",
    paths::DHCLIENT_HOOKS,
    "/usr/local/bin",
];

/// Directories whose directories are looked into too.
const DEEP: [&str; 3] = [paths::GENERATIONS, "/etc/systemd/system", paths::CONTAINERD_CERTS];

/// Removes them all. What cannot be removed stays, and is told.
pub(super) fn sweep(root: &Root) {
    let mut removed = 0;
    for directory in DIRECTORIES {
        removed += told(atomic::sweep(root, directory));
    }
    for directory in DEEP {
        removed += told(atomic::sweep(root, directory));
        for below in directories_in(root, directory) {
            removed += told(atomic::sweep(root, &below));
        }
    }
    if removed > 0 {
        info!(
            EDGE_STEP = "start",
            EDGE_FILES = removed,
            "temporary files of an interrupted pass are removed"
        );
    }
}

fn directories_in(root: &Root, directory: &str) -> Vec<String> {
    let names = root.list(directory).unwrap_or_default().into_iter();
    let paths = names.map(|name| format!("{directory}/{name}"));
    paths.filter(|path| root.stat(path).ok().flatten().is_some_and(|stat| stat.is_dir)).collect()
}

fn told(swept: Result<usize, FileError>) -> usize {
    swept.unwrap_or_else(|error| {
        warn!(EDGE_STEP = "start", EDGE_REASON = %Chain(&error), "temporary file stays, ignoring");
        0
    })
}
