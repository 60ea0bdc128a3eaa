//! What a file system tells with a directory entry.
//!
//! Owns getdents(2) with the types as they come (the standard library hides a
//! missing one), and one ioctl of xfs. Reads only.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::root::Root;

/// Size of `struct xfs_fsop_geom_v1` (kernel: fs/xfs/libxfs/xfs_fs.h).
const GEOMETRY: usize = 112;
/// Where its flags are, and the one that says `ftype=1`.
const FLAGS: std::ops::Range<usize> = 92..96;
const FTYPE: u32 = 0x1_0000;

nix::ioctl_read!(
    /// `XFS_IOC_FSGEOMETRY_V1`; not xfs: `ENOTTY`.
    fsgeometry_v1,
    b'X',
    100,
    [u8; GEOMETRY]
);

/// Whether entries of `directory` tell their type; `None` when it has none
/// besides `.` and `..`, which say nothing.
///
/// # Errors
/// When it cannot be listed.
pub fn tell_types(root: &Root, directory: &str) -> Result<Option<bool>, Errno> {
    types_in(&root.path(directory))
}

/// As [`tell_types`], of a real path.
pub(super) fn types_in(directory: &Path) -> Result<Option<bool>, Errno> {
    let mut dir = Dir::open(directory, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())?;
    let mut seen = None;
    for entry in dir.iter() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            seen = Some(seen.unwrap_or(true) && entry.file_type().is_some());
        }
    }
    Ok(seen)
}

/// Whether the xfs below `directory` was made with `ftype=1`; `None` when it is
/// no xfs.
///
/// # Errors
/// When it cannot be opened, or does not answer.
pub fn xfs_ftype(root: &Root, directory: &str) -> std::io::Result<Option<bool>> {
    let file = File::open(root.path(directory))?;
    let mut geometry = [0_u8; GEOMETRY];
    match ask(&file, &mut geometry) {
        Ok(_) => Ok(flags(&geometry).map(|flags| flags & FTYPE != 0)),
        Err(Errno::ENOTTY | Errno::EOPNOTSUPP | Errno::EINVAL) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

#[expect(unsafe_code, reason = "an ioctl writes through a pointer")]
fn ask(file: &File, geometry: &mut [u8; GEOMETRY]) -> Result<i32, Errno> {
    // SAFETY: the kernel writes as many bytes as the request's number says, which is the buffer's size.
    unsafe { fsgeometry_v1(file.as_raw_fd(), geometry) }
}

fn flags(geometry: &[u8; GEOMETRY]) -> Option<u32> {
    Some(u32::from_ne_bytes(geometry.get(FLAGS)?.try_into().ok()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn an_empty_directory_says_nothing_and_a_file_in_it_does() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert_eq!(tell_types(&root, "/"), Ok(None));
        root.make_dir("/x", 0o755).unwrap();
        assert_eq!(tell_types(&root, "/"), Ok(Some(true)), "file systems of this century tell it");
        assert_eq!(tell_types(&root, "/none"), Err(Errno::ENOENT));
    }

    #[test]
    fn what_is_no_xfs_has_no_ftype() {
        // Kernel's own file system: never xfs.
        assert_eq!(xfs_ftype(&Root::default(), "/proc").unwrap(), None);
        assert!(xfs_ftype(&Root::default(), "/none").is_err());
    }

    #[test]
    fn the_request_is_the_one_that_xfs_knows() {
        assert_eq!(nix::request_code_read!(b'X', 100, GEOMETRY), 0x8070_5864);
    }
}
