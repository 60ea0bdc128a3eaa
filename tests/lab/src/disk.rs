//! The disk of a lab host: a sparse file with a file system, mounted by loop.
//!
//! Owns the image and access to it while the host is off. On it lie the upper
//! layer of the root (`up`), the overlay's work directory, and the whole of
//! `/var` as plain files: containerd's own overlays do not work on an overlay,
//! and a repair must be able to rename directories there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cmd::{Cmd, Output, run, wait_until};

/// The file system of a host's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fs {
    /// ext4, Debian's default.
    Ext4,
    /// xfs: stricter about what was not synced; at least 300 MiB.
    Xfs,
}

impl Fs {
    fn mkfs(self) -> &'static str {
        match self {
            Self::Ext4 => "mkfs.ext4",
            Self::Xfs => "mkfs.xfs",
        }
    }
}

/// Mounts the disk and the root below `$DIR`, as [`Disk::edit`] and the supervisor see them.
const MOUNT: &str = r#"mount -o loop "$DIR/disk.img" "$DIR/disk"
mount -t overlay overlay -o "lowerdir=$ROOT,upperdir=$DIR/disk/up,workdir=$DIR/disk/work" "$DIR/root"
mount --bind "$DIR/disk/var" "$DIR/root/var"
cd "$DIR/root"
"#;

/// A new disk: an installed host has its machine id on disk already. Beside it
/// the lab's own unit, where packages would put it.
const FILL: &str = r#"mount -o loop "$DIR/disk.img" "$DIR/disk"
up=$DIR/disk/up units=$DIR/disk/up/usr/lib/systemd/system
mkdir -p "$DIR/disk/work" "$up/etc" "$up/usr/lib/edge-lab" "$units/sysinit.target.wants"
cp -a "$ROOT/var" "$DIR/disk/var"
tr -d - </proc/sys/kernel/random/uuid >"$up/etc/machine-id"
printf '%s' "$PREPARE" >"$up/usr/lib/edge-lab/prepare"
printf '%s' "$UNIT" >"$units/edge-lab-prepare.service"
ln -s ../edge-lab-prepare.service "$units/sysinit.target.wants/"
"#;

/// One host's disk and the place where its root is mounted.
#[derive(Debug)]
pub(crate) struct Disk {
    dir: PathBuf,
    root: PathBuf,
}

impl Disk {
    /// Makes the image in `dir`, above the base image `root`.
    pub(crate) fn create(dir: &Path, root: &Path, fs: Fs, mib: u32) -> Result<Self> {
        let disk = Self { dir: dir.to_owned(), root: root.to_owned() };
        for part in ["disk", "root"] {
            std::fs::create_dir_all(dir.join(part))?;
        }
        let image = disk.image();
        run(&["truncate", "-s", &format!("{mib}M"), &image])?;
        run(&[fs.mkfs(), "-q", &image])?;
        disk.private(FILL, "")
            .env("PREPARE", include_str!("host/prepare.sh"))
            .env("UNIT", include_str!("host/prepare.service"))
            .run()?
            .ok()
            .context("cannot fill the host's disk")?;
        Ok(disk)
    }

    /// Runs a shell script in the root directory of a host that is off; its
    /// mounts are seen by nobody else and synced at its end.
    pub(crate) fn edit(&self, script: &str, input: &[u8]) -> Result<Output> {
        self.wait_unused()?;
        self.private(MOUNT, script).input(input).run()
    }

    /// Waits until the kernel let go of the last run's mount.
    pub(crate) fn wait_unused(&self) -> Result<()> {
        let image = self.image();
        wait_until(Duration::from_secs(120), &format!("{image} is unused"), || {
            Ok(run(&["losetup", "-j", &image])?.is_empty().then_some(()))
        })
    }

    /// Stops the file system without a log flush, as when the power goes:
    /// what was not written to the disk by now never will be. `pid` is a
    /// process that sees the mount.
    pub(crate) fn stop(&self, pid: i32) -> Result<()> {
        let mount = self.dir.join("disk").display().to_string();
        run(&["nsenter", "-t", &pid.to_string(), "-m", "xfs_io", "-x", "-c", "shutdown", &mount])?;
        Ok(())
    }

    /// Puts a copy of the image beside it; holes stay holes.
    pub(crate) fn keep(&self) -> Result<()> {
        self.wait_unused()?;
        self.copy(&self.image(), &self.kept())
    }

    /// Makes the image what it was at [`Disk::keep`].
    pub(crate) fn put_back(&self) -> Result<()> {
        self.wait_unused()?;
        self.copy(&self.kept(), &self.image())
    }

    /// Makes the image what that of `other` is.
    pub(crate) fn copy_of(&self, other: &Self) -> Result<()> {
        self.wait_unused()?;
        other.wait_unused()?;
        self.copy(&other.image(), &self.image())
    }

    fn copy(&self, from: &str, to: &str) -> Result<()> {
        run(&["cp", "--sparse=always", "--reflink=auto", from, to])?;
        Ok(())
    }

    fn kept(&self) -> String {
        self.dir.join("kept.img").display().to_string()
    }

    fn image(&self) -> String {
        self.dir.join("disk.img").display().to_string()
    }

    fn private(&self, first: &str, then: &str) -> Cmd {
        let script = format!("{first}{then}");
        Cmd::new(&["unshare", "-m", "--propagation", "private", "sh", "-euc", &script])
            .env("DIR", &self.dir.display().to_string())
            .env("ROOT", &self.root.display().to_string())
            .shown("(on the disk of a host that is off)")
    }
}
