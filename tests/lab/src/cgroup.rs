//! The control groups of lab hosts: one `edge-LAB.HOST` in every hierarchy.
//!
//! Owns those directories and the end of every process in them. Never touches
//! a group that the machine or another lab made. Works on machines with cgroup
//! v2 alone and on those with v1 hierarchies beside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cmd::wait_until;

const MOUNT: &str = "/sys/fs/cgroup";

/// The same group in every hierarchy of the machine.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    name: String,
}

impl Group {
    pub(crate) fn new(name: String) -> Self {
        Self { name }
    }

    /// Makes the group where it is missing; gives its directories.
    pub(crate) fn create(&self) -> Result<Vec<PathBuf>> {
        hierarchies().iter().map(|tree| self.create_in(tree)).collect()
    }

    fn create_in(&self, tree: &Path) -> Result<PathBuf> {
        let dir = tree.join(&self.name);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        // A v1 cpuset takes no process before it has processors and memory.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if !is_v2(tree) && dir.join(file).exists() {
                fs::write(dir.join(file), fs::read(tree.join(file))?)?;
            }
        }
        Ok(dir)
    }

    /// A leaf of the v2 hierarchy that only the supervisor uses: what holds
    /// processes there cannot hand controllers down to nspawn's groups.
    pub(crate) fn keeper(&self) -> Result<PathBuf> {
        let dir = v2().join(&self.name).join("keeper");
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// Leaves in which programs run inside the host next to its own services.
    pub(crate) fn inside(&self) -> Vec<PathBuf> {
        let leaf = |tree: PathBuf| {
            let group = tree.join(&self.name);
            let payload = group.join("payload");
            let dir = if payload.is_dir() { payload } else { group }.join("exec");
            fs::create_dir_all(&dir).ok().map(|()| dir)
        };
        hierarchies().into_iter().filter_map(leaf).collect()
    }

    /// SIGKILL for every process of the host at once; waits until all are gone
    /// and removes the groups.
    pub(crate) fn kill(&self) -> Result<()> {
        let what = format!("all processes of {} are dead", self.name);
        wait_until(Duration::from_secs(60), &what, || {
            fs::write(v2().join(&self.name).join("cgroup.kill"), "1").ok();
            let left = self.processes();
            for pid in &left {
                kill(Pid::from_raw(*pid), Signal::SIGKILL).ok();
            }
            Ok(left.is_empty().then_some(()))
        })?;
        for tree in hierarchies() {
            remove(&tree.join(&self.name));
        }
        Ok(())
    }

    /// All processes of the host, each once.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let trees = hierarchies();
        let mut all: Vec<i32> = trees.iter().flat_map(|tree| processes(&tree.join(&self.name))).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// Groups that an earlier, aborted run of the same lab left behind.
pub(crate) fn leftovers(lab: &str) -> Vec<Group> {
    let prefix = format!("edge-{lab}.");
    let mut names: Vec<String> = hierarchies().iter().flat_map(|tree| crate::entries(tree)).collect();
    names.retain(|name| name.starts_with(&prefix));
    names.sort();
    names.dedup();
    names.into_iter().map(Group::new).collect()
}

/// True when the machine has cgroup v2 alone.
pub(crate) fn pure_v2() -> bool {
    is_v2(Path::new(MOUNT))
}

fn is_v2(tree: &Path) -> bool {
    tree.join("cgroup.controllers").exists()
}

fn v2() -> PathBuf {
    if pure_v2() { PathBuf::from(MOUNT) } else { Path::new(MOUNT).join("unified") }
}

/// Mount points of all hierarchies; links such as `cpu,cpuacct` are no second one.
fn hierarchies() -> Vec<PathBuf> {
    if pure_v2() {
        return vec![PathBuf::from(MOUNT)];
    }
    let dirs = crate::entries(MOUNT.as_ref()).into_iter().map(|name| Path::new(MOUNT).join(name));
    dirs.filter(|dir| dir.join("cgroup.procs").exists() && !dir.is_symlink()).collect()
}

fn processes(dir: &Path) -> Vec<i32> {
    let own = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let mut all: Vec<i32> = own.lines().filter_map(|line| line.parse().ok()).collect();
    for child in subdirectories(dir) {
        all.extend(processes(&child));
    }
    // 0 is a process of another namespace: never a target of kill(2).
    all.retain(|pid| *pid > 0);
    all
}

fn remove(dir: &Path) {
    for child in subdirectories(dir) {
        remove(&child);
    }
    fs::remove_dir(dir).ok();
}

fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    let paths = crate::entries(dir).into_iter().map(|name| dir.join(name));
    paths.filter(|path| path.is_dir()).collect()
}
