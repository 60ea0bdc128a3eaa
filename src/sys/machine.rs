//! Numbers of the running machine that no file below a root tells: space of a
//! file system, processors and memory.
//!
//! Owns statvfs(3) and the one use of `sysinfo`. Used for the running host
//! only; never for a foreign root.

use std::fs::File;

use nix::errno::Errno;
use nix::sys::statvfs::{Statvfs, fstatvfs, statvfs};
use sysinfo::{CpuRefreshKind, System};

use super::root::Root;

/// Space of one file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Size in bytes.
    pub total_bytes: u64,
    /// Bytes free for root.
    pub free_bytes: u64,
    /// Bytes free for everybody, without what is reserved for root: what the
    /// kubelet counts.
    pub available_bytes: u64,
    /// Free inodes; `None` where their number is not fixed (btrfs).
    pub free_inodes: Option<u64>,
}

/// Space of the file system that holds `path`. Blocks while that file system
/// does not answer: never ask one that lies on the network.
///
/// # Errors
/// When the kernel does not tell.
pub fn space(root: &Root, path: &str) -> Result<Space, Errno> {
    statvfs(&root.path(path)).map(|answer| told(&answer))
}

/// Space of the file system that holds an open file. Blocks as [`space`] does.
///
/// # Errors
/// When the kernel does not tell.
pub fn space_of(file: &File) -> Result<Space, Errno> {
    fstatvfs(file).map(|answer| told(&answer))
}

fn told(answer: &Statvfs) -> Space {
    Space {
        total_bytes: bytes(answer, wide(answer.blocks())),
        free_bytes: bytes(answer, wide(answer.blocks_free())),
        available_bytes: bytes(answer, wide(answer.blocks_available())),
        free_inodes: (wide(answer.files()) > 0).then(|| wide(answer.files_free())),
    }
}

fn bytes(answer: &Statvfs, blocks: u64) -> u64 {
    blocks.saturating_mul(wide(answer.fragment_size()))
}

/// The width of these numbers differs between platforms.
fn wide(number: impl Into<u64>) -> u64 {
    number.into()
}

/// Memory and swap in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryTotals {
    /// Installed.
    pub total: u64,
    /// Usable without swapping; estimated on kernels before 3.14, which do not tell.
    pub available: u64,
    /// Swap that is on.
    pub swap: u64,
}

/// Memory of the running machine; `None` when sysinfo knows none.
#[must_use]
pub fn memory() -> Option<MemoryTotals> {
    let mut system = System::new().ok()?;
    system.refresh_memory();
    let total = system.total_memory();
    (total > 0).then(|| MemoryTotals {
        total,
        available: system.available_memory(),
        swap: system.total_swap(),
    })
}

/// Architecture of this program and so of the running machine, for example `x86_64`.
#[must_use]
pub fn arch() -> &'static str {
    std::env::consts::ARCH
}

/// Logical processors of the running machine; `None` when sysinfo knows none.
#[must_use]
pub fn cpus() -> Option<u32> {
    let mut system = System::new().ok()?;
    system.refresh_cpu_list(CpuRefreshKind::nothing());
    u32::try_from(system.cpus().len()).ok().filter(|count| *count > 0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn the_running_machine_has_memory_processors_and_space() {
        assert!(memory().unwrap().total >= memory().unwrap().available);
        assert!(cpus().unwrap() > 0);
        let space = space(&Root::default(), "/").unwrap();
        assert!(space.total_bytes > 0 && space.free_bytes <= space.total_bytes);
        assert!(space.available_bytes <= space.free_bytes);
    }

    #[test]
    fn a_path_that_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(space(&Root::new(dir.path()), "/none"), Err(Errno::ENOENT));
    }
}
