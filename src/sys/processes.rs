//! Ends processes, and takes mounts off their places.
//!
//! Owns kill(2) with a guard against a number that was given to another process
//! meanwhile, and umount(2). Decides nothing about whose they are.

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::host::process_start;
use super::root::Root;

/// Ends process `pid` at once, when it is still the one that started at
/// `started`, in clock ticks since boot. One that is gone is fine.
///
/// # Errors
/// `EPERM` without the right.
pub fn end(root: &Root, pid: u32, started: u64) -> Result<(), Errno> {
    let Ok(number) = i32::try_from(pid) else { return Ok(()) };
    if number <= 1 || process_start(root, pid) != Some(started) {
        return Ok(());
    }
    match kill(Pid::from_raw(number), Signal::SIGKILL) {
        Err(Errno::ESRCH) => Ok(()),
        other => other,
    }
}

/// Takes the topmost mount off `point`; none there is fine. One that is in use
/// leaves its place all the same and ends with its last user.
///
/// # Errors
/// `EPERM` without the right.
pub fn unmount(root: &Root, point: &str) -> Result<(), Errno> {
    let place = root.path(point);
    let plain = umount2(&place, MntFlags::UMOUNT_NOFOLLOW);
    let result = match plain {
        Err(Errno::EBUSY) => umount2(&place, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH),
        other => other,
    };
    match result {
        Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        other => other,
    }
}

/// What is unmounted below `point` from here on is unmounted there alone. The
/// kernel would else take it off the directory too that is mounted at `point`
/// (mount_namespaces(7), shared subtrees). A place without a mount is fine.
///
/// # Errors
/// `EPERM` without the right.
pub fn seclude(root: &Root, point: &str) -> Result<(), Errno> {
    match mount(None::<&str>, &root.path(point), None::<&str>, MsFlags::MS_PRIVATE, None::<&str>) {
        Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        other => other,
    }
}

/// As [`unmount`], without a word to a server that may be dead.
///
/// # Errors
/// `EPERM` without the right.
pub fn unmount_remote(root: &Root, point: &str) -> Result<(), Errno> {
    let flags = MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH | MntFlags::MNT_FORCE;
    match umount2(&root.path(point), flags) {
        Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::zombie_processes, reason = "a test may stop at the first surprise")]
mod tests {
    use super::super::Root;
    use super::*;

    #[test]
    fn only_the_process_that_was_seen_is_ended() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let root = Root::default();
        let started = process_start(&root, child.id()).unwrap();
        end(&root, child.id(), started + 1).unwrap();
        assert!(child.try_wait().unwrap().is_none(), "another process was ended");
        end(&root, child.id(), started).unwrap();
        assert!(!child.wait().unwrap().success());
        end(&root, child.id(), started).unwrap();
    }

    /// As root this is the real thing; elsewhere the kernel says no at once, and
    /// `tests/hosts/reset_verb.rs` shows it.
    #[test]
    fn a_disk_in_a_directory_that_is_mounted_elsewhere_too_stays_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        for name in ["/data/disk", "/pod"] {
            root.make_dir(name, 0o755).unwrap();
        }
        let [data, pod, disk] = ["/data", "/pod", "/data/disk"].map(|name| root.path(name));
        let none = None::<&str>;
        let bind = |from: &std::path::Path, to| mount(Some(from), to, none, MsFlags::MS_BIND, none);
        if !nix::unistd::geteuid().is_root() {
            return assert_eq!(bind(&data, &pod), Err(Errno::EPERM));
        }
        bind(&data, &data).unwrap();
        mount(none, &data, none, MsFlags::MS_SHARED, none).unwrap();
        bind(&data, &pod).unwrap();
        mount(Some("none"), &disk, Some("tmpfs"), MsFlags::empty(), none).unwrap();
        std::fs::write(disk.join("file"), "precious").unwrap();
        let is_seen = root.exists("/pod/disk/file");
        let ended = seclude(&root, "/pod").and_then(|()| unmount(&root, "/pod/disk"));
        let seen = [root.exists("/data/disk/file"), root.exists("/pod/disk/file")];
        for place in [&disk, &pod, &data] {
            umount2(place, MntFlags::MNT_DETACH).unwrap();
        }
        assert_eq!((is_seen, ended, seen), (true, Ok(()), [true, false]));
    }

    #[test]
    fn a_place_without_a_mount_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        root.make_dir("/x", 0o755).unwrap();
        assert!(matches!(unmount(&root, "/x"), Ok(()) | Err(Errno::EPERM)));
        assert!(matches!(seclude(&root, "/none"), Ok(()) | Err(Errno::EPERM)));
        assert!(matches!(unmount(&root, "/none"), Ok(()) | Err(Errno::EPERM)));
    }
}
