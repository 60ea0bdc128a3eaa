//! A real overlay mount, in a mount namespace that dies with it.
//!
//! Owns the trial below one directory: two lower directories, a read, a removal.
//! Leaves nothing: mounts vanish with their namespace also after kill -9, and
//! what an interrupted trial left is removed by the next one.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

pub use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use thiserror::Error;

use super::entries;
use super::root::Root;

/// Name of a trial's directory; a number follows.
const PREFIX: &str = ".edge-probe-";

/// What a trial found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trial {
    /// Whether directory entries tell their type; `None` when that could not be seen.
    pub types: Option<bool>,
    /// The step that failed, and how; `None` when the overlay works.
    pub failed: Option<(&'static str, Errno)>,
}

/// There could be no trial: nothing is known of overlay.
#[derive(Debug, Error)]
#[error("overlay could not be tried: {what} {path}")]
pub struct TrialError {
    what: &'static str,
    path: String,
    /// Why.
    #[source]
    source: io::Error,
}

/// Tries overlay below `directory`, which must be there.
///
/// # Errors
/// When there could be no trial: a full or read-only file system, no right to mount.
pub fn try_below(root: &Root, directory: &str) -> Result<Trial, TrialError> {
    let below = root.path(directory);
    sweep(&below).map_err(failed("clean up", &below))?;
    let place = Place(below.join(format!("{PREFIX}{}", std::process::id())));
    place.prepare().map_err(failed("prepare", &place.0))?;
    let types = entries::types_in(&place.0).ok().flatten();
    let path = place.0.clone();
    // A thread of its own: the namespace is this thread's, and gone with it.
    let trial = std::thread::spawn(move || in_namespace(&path)).join();
    let lost = || Err(io::Error::other("its thread ended early"));
    let failed_step = trial.unwrap_or_else(|_| lost()).map_err(failed("no mount namespace for", &place.0))?;
    place.remove().map_err(failed("clean up", &place.0))?;
    Ok(Trial { types, failed: failed_step })
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TrialError {
    let path = path.display().to_string();
    move |source| TrialError { what, path, source }
}

/// Removes what interrupted trials left.
fn sweep(below: &Path) -> io::Result<()> {
    for entry in fs::read_dir(below)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// The directory of one trial; removed when it is dropped, too.
struct Place(PathBuf);

impl Place {
    fn prepare(&self) -> io::Result<()> {
        let make = |path: &Path| fs::DirBuilder::new().mode(0o700).create(path);
        make(&self.0)?;
        for name in ["l1", "l2", "u", "w", "m"] {
            make(&self.0.join(name))?;
        }
        fs::write(self.0.join("l1/lowest"), "1")?;
        fs::write(self.0.join("l2/lower"), "2")
    }

    fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The next trial removes what cannot be removed now.
        let _ = self.remove();
    }
}

fn in_namespace(place: &Path) -> io::Result<Option<(&'static str, Errno)>> {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    let merged = place.join("m");
    let result = steps(place, &merged).err();
    let _ = umount2(&merged, MntFlags::MNT_DETACH);
    Ok(result)
}

type Step = Result<(), (&'static str, Errno)>;

fn steps(place: &Path, merged: &Path) -> Step {
    let dir = |name: &str| place.join(name).display().to_string();
    let options = format!("lowerdir={}:{},upperdir={},workdir={}", dir("l2"), dir("l1"), dir("u"), dir("w"));
    mount(Some("overlay"), merged, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .map_err(|errno| ("mount", errno))?;
    for name in ["lowest", "lower"] {
        fs::read(merged.join(name)).map_err(|error| ("read", errno(&error)))?;
    }
    fs::remove_file(merged.join("lowest")).map_err(|error| ("remove", errno(&error)))?;
    let hidden = fs::symlink_metadata(place.join("u/lowest")).map_err(|error| ("remove", errno(&error)))?;
    if hidden.file_type().is_char_device() && hidden.rdev() == 0 && !merged.join("lowest").exists() {
        return Ok(());
    }
    Err(("hide a removed file", Errno::EINVAL))
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO))
}

/// Name of an error as headers spell it: `EPERM`.
#[must_use]
pub fn name(errno: Errno) -> String {
    format!("{errno:?}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn names(root: &Root) -> Vec<String> {
        root.list("/").unwrap()
    }

    /// As root on a host of its own this is the real thing; elsewhere the kernel
    /// says no, which must be told as such and leave nothing either.
    #[test]
    fn a_trial_leaves_nothing_and_takes_what_another_left() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        fs::create_dir_all(dir.path().join(".edge-probe-1/w/work")).unwrap();
        fs::write(dir.path().join("kept"), "").unwrap();
        match try_below(&root, "/") {
            Ok(trial) => assert_eq!(trial.types, Some(true)),
            Err(error) => assert!(error.to_string().contains("no mount namespace"), "{error}"),
        }
        assert_eq!(names(&root), ["kept"]);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(PREFIX), "the mount is seen outside its namespace");
    }
}
