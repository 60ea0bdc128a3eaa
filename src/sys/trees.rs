//! Trees of files on one mount: their weight, and their end.
//!
//! Owns the rule that a mount is never followed, also not one of a directory of
//! the same file system: the kernel's number of the mount decides (proc(5),
//! `fdinfo`), and the table of mounts where a kernel before 3.15 tells none.
//! Links are never followed.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::root::{FileError, Root};

const FLAGS: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Where a walk may go.
struct Walk {
    device: u64,
    mount: Option<u64>,
    /// Mounts that were met and left as they are.
    left: Vec<String>,
}

/// Removes what is at `path` with all that is in it, on its own mount alone.
/// Gives the mounts that were met: they, and the directories that lead to them,
/// stay as they are. `path` itself stays when it is a mount point.
///
/// # Errors
/// When something cannot be removed.
pub fn remove(root: &Root, path: &str) -> Result<Vec<String>, FileError> {
    let real = root.path(path);
    let failed = |error: io::Error| FileError::new("remove", path, error);
    match fs::symlink_metadata(&real) {
        Ok(meta) if meta.is_dir() => {}
        Ok(_) => return fs::remove_file(&real).map(|()| Vec::new()).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    }
    let mut dir = Dir::open(&real, FLAGS, Mode::empty()).map_err(|errno| failed(errno.into()))?;
    let mut walk = Walk::at(dir.as_fd()).map_err(failed)?;
    walk.empty(&mut dir, &real).map_err(failed)?;
    match fs::remove_dir(&real) {
        Ok(()) => {}
        Err(error) if is_in_use(&error) => {}
        Err(error) => return Err(failed(error)),
    }
    Ok(walk.left)
}

/// `EBUSY`: a mount point. `ENOTEMPTY`: one is below it.
fn is_in_use(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::DirectoryNotEmpty)
}

/// Where `path` really lies, with all links on the way followed; `None` when
/// there is nothing, or outside of this root.
#[must_use]
pub fn real(root: &Root, path: &str) -> Option<String> {
    let top = fs::canonicalize(root.path("/")).ok()?;
    let found = fs::canonicalize(root.path(path)).ok()?;
    Some(format!("/{}", found.strip_prefix(top).ok()?.to_str()?))
}

/// Bytes on disk of what is at `path`, on its own mount alone; 0 when there is
/// nothing or it cannot be looked at.
#[must_use]
pub fn weight(root: &Root, path: &str) -> u64 {
    let real = root.path(path);
    let Ok(meta) = fs::symlink_metadata(&real) else { return 0 };
    let mut sum = meta.blocks() * 512;
    let mut open = vec![real];
    while let Some(directory) = open.pop().filter(|_| meta.is_dir()) {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else { continue };
            if found.dev() == meta.dev() {
                sum += found.blocks() * 512;
                open.extend(found.is_dir().then(|| entry.path()));
            }
        }
    }
    sum
}

impl Walk {
    fn at(top: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self { device: device(&fstat(top)?), mount: mount_of(top), left: Vec::new() })
    }

    /// Whether this directory is on the mount where the walk began.
    fn is_here(&self, directory: BorrowedFd<'_>, path: &Path) -> io::Result<bool> {
        let same_device = device(&fstat(directory)?) == self.device;
        Ok(same_device
            && match (self.mount, mount_of(directory)) {
                (Some(here), Some(there)) => here == there,
                _ => !is_mount_point(path)?,
            })
    }

    fn empty(&mut self, directory: &mut Dir, path: &Path) -> io::Result<()> {
        let mut names = Vec::new();
        for entry in directory.iter() {
            let name = entry?.file_name().to_owned();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push(name);
            }
        }
        for name in names {
            let place = path.join(name.to_string_lossy().as_ref());
            let found = fstatat(&*directory, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
            if SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFDIR {
                self.directory(directory, (name.as_c_str(), &place))?;
            } else {
                let removed = unlinkat(&*directory, name.as_c_str(), UnlinkatFlags::NoRemoveDir);
                self.settle(removed, &place)?;
            }
        }
        Ok(())
    }

    fn directory(&mut self, above: &Dir, (name, place): (&std::ffi::CStr, &PathBuf)) -> io::Result<()> {
        let mut inside = Dir::openat(above, name, FLAGS, Mode::empty())?;
        if !self.is_here(inside.as_fd(), place)? {
            self.left.push(place.to_string_lossy().into_owned());
            return Ok(());
        }
        self.empty(&mut inside, place)?;
        let removed = unlinkat(above, name, UnlinkatFlags::RemoveDir);
        self.settle(removed, place)
    }

    /// A file may be a mount point too.
    fn settle(&mut self, removed: Result<(), Errno>, place: &Path) -> io::Result<()> {
        match removed {
            Err(Errno::EBUSY) => {
                self.left.push(place.to_string_lossy().into_owned());
                Ok(())
            }
            Err(Errno::ENOTEMPTY) if !self.left.is_empty() => Ok(()),
            Err(Errno::ENOENT) => Ok(()),
            other => other.map_err(io::Error::from),
        }
    }
}

#[allow(clippy::useless_conversion, reason = "its width differs by architecture")]
fn device(found: &FileStat) -> u64 {
    found.st_dev.into()
}

fn mount_of(directory: BorrowedFd<'_>) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", directory.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
}

fn is_mount_point(path: &Path) -> io::Result<bool> {
    let wanted = path.to_string_lossy().replace('\\', "\\134").replace(' ', "\\040");
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table.lines().any(|line| line.split(' ').nth(4) == Some(&wanted)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};

    use super::*;

    fn tree(top: &Path) {
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::write(top.join("a/b/file"), "x").unwrap();
        fs::write(top.join("a/file"), vec![1; 10_000]).unwrap();
    }

    #[test]
    fn a_tree_goes_and_what_a_link_leads_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        tree(&dir.path().join("goes"));
        tree(&dir.path().join("stays"));
        std::os::unix::fs::symlink(dir.path().join("stays"), dir.path().join("goes/a/link")).unwrap();
        assert!(weight(&root, "/goes") >= 10_000 && weight(&root, "/none") == 0);
        assert_eq!(real(&root, "/goes/a/link/a").as_deref(), Some("/stays/a"));
        assert_eq!((real(&root, "/none"), real(&root, "/").as_deref()), (None, Some("/")));
        assert!(remove(&root, "/goes").unwrap().is_empty());
        assert!(!dir.path().join("goes").exists());
        assert!(dir.path().join("stays/a/b/file").exists());
        assert!(remove(&root, "/goes").unwrap().is_empty(), "a second time");
        assert!(
            remove(&root, "/stays/a/file").unwrap().is_empty() && !dir.path().join("stays/a/file").exists()
        );
    }

    /// Of the same file system: only the number of the mount tells it apart. As
    /// root this is the real thing; elsewhere the kernel says no at once, and
    /// `tests/hosts/reset_verb.rs` shows it.
    #[test]
    fn a_directory_of_the_host_that_is_mounted_inside_is_never_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let [goes, stays] = ["goes", "stays"].map(|name| dir.path().join(name));
        tree(&goes);
        tree(&stays);
        fs::create_dir_all(goes.join("pods/volume")).unwrap();
        fs::write(goes.join("pods/single"), "").unwrap();
        let bind = |from: &Path, to: &str| {
            mount(Some(from), &goes.join(to), None::<&str>, MsFlags::MS_BIND, None::<&str>)
        };
        if !nix::unistd::geteuid().is_root() {
            return assert_eq!(bind(&stays, "pods/volume"), Err(Errno::EPERM));
        }
        bind(&stays, "pods/volume").unwrap();
        bind(&stays.join("a/file"), "pods/single").unwrap();
        let left = remove(&root, "/goes");
        for point in ["pods/volume", "pods/single"] {
            umount2(&goes.join(point), MntFlags::MNT_DETACH).unwrap();
        }
        assert_eq!(left.unwrap().len(), 2);
        assert!(stays.join("a/b/file").exists() && stays.join("a/file").exists());
        assert!(!goes.join("a").exists() && goes.join("pods/volume").exists());
        assert!(remove(&root, "/goes").unwrap().is_empty() && !goes.exists());
    }
}
