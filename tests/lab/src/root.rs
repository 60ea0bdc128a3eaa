//! Base images: one Debian root per suite, built once and kept outside the tree.
//!
//! Owns `$EDGE_LAB/roots` and the list of packages that a lab host has. Never
//! changes a root after it was built (every host sees it read-only, below its
//! own overlay), and never names a mirror: that is the machine's own choice.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::cmd::{Cmd, have, run};
use crate::say;

/// A release of Debian that a host can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Suite {
    /// Debian 12: systemd 252, containerd 1.6.
    Bookworm,
    /// Debian 13: systemd 257, containerd 1.7.
    Trixie,
    /// Debian unstable: systemd 262, containerd 2.1.
    Sid,
}

impl Suite {
    /// All suites, oldest first.
    pub const ALL: [Self; 3] = [Self::Bookworm, Self::Trixie, Self::Sid];

    /// The name in Debian's archive.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Sid => "sid",
        }
    }
}

/// What a host of the room has, including what a real k3s wants to find.
pub(crate) const HOST_PACKAGES: &[&str] = &[
    "systemd",
    "systemd-sysv",
    "dbus",
    "containerd",
    "runc",
    "containernetworking-plugins",
    "iproute2",
    "iputils-ping",
    "iptables",
    "nftables",
    "conntrack",
    "ethtool",
    "kmod",
    "procps",
    "ca-certificates",
    "curl",
    "strace",
];

/// Programs that the lab itself runs, each with the package that brings it.
const TOOLS: &[(&str, &str)] = &[
    ("systemd-nspawn", "systemd-container"),
    ("mmdebstrap", "mmdebstrap"),
    ("xfs_io", "xfsprogs"),
    ("mkfs.ext4", "e2fsprogs"),
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("nft", "nftables"),
    ("unshare", "util-linux"),
];

/// Rises when the recipe below changes, so that old roots are not used again.
const RECIPE: &str = "1";

/// Debian's documentation and translations: half of the files, no use to a test.
const LEAVE_OUT: &[&str] = &["/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*"];

/// Where the lab keeps roots, caches and the disks of its hosts:
/// `$EDGE_LAB`, by default `/var/lib/edge-lab`.
#[must_use]
pub fn home() -> PathBuf {
    std::env::var_os("EDGE_LAB").map_or_else(|| PathBuf::from("/var/lib/edge-lab"), PathBuf::from)
}

/// Checks that this is root, and installs by apt the programs that the lab
/// needs and the machine lacks. Does nothing the second time.
///
/// # Errors
/// Not root, or a program is missing and apt cannot install it.
pub fn prepare() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the lab needs root: it makes namespaces, mounts and cgroups; run this again as root");
    }
    install_missing(TOOLS)
}

/// Installs the packages of those programs that are not there.
///
/// # Errors
/// apt fails, or there is no apt; the message names what is missing.
pub fn install_missing(tools: &[(&str, &str)]) -> Result<()> {
    if missing(tools).is_empty() {
        return Ok(());
    }
    let _one_at_a_time = lock("apt")?;
    let missing = missing(tools);
    if missing.is_empty() {
        return Ok(());
    }
    say(&format!("installing {}", missing.join(", ")));
    apt(&["update"])?;
    let mut install = vec!["install", "-y", "--no-install-recommends"];
    install.extend(&missing);
    apt(&install).with_context(|| format!("the lab needs these packages: {}", missing.join(" ")))
}

/// The files of a package, unpacked below the lab's directory and not
/// installed: an installed one might serve the machine itself.
///
/// # Errors
/// apt does not have it.
pub(crate) fn unpacked(package: &str) -> Result<PathBuf> {
    let dir = home().join("unpacked").join(package);
    let _one_at_a_time = lock("apt")?;
    if dir.exists() {
        return Ok(dir);
    }
    say(&format!("fetching {package}"));
    let fresh = dir.with_extension("new");
    remove_tree(&fresh)?;
    fs::create_dir_all(&fresh)?;
    apt(&["update"])?;
    let script = "cd \"$1\" && apt-get -q download \"$2\" && dpkg-deb -x ./*.deb . && rm ./*.deb";
    let words = ["sh", "-c", script, "unpack", &fresh.display().to_string(), package];
    Cmd::new(&words).limit(Duration::from_mins(5)).run()?.ok()?;
    fs::rename(&fresh, &dir)?;
    Ok(dir)
}

fn missing<'a>(tools: &[(&str, &'a str)]) -> Vec<&'a str> {
    let mut packages: Vec<&str> =
        tools.iter().filter(|(program, _)| !have(program)).map(|(_, package)| *package).collect();
    packages.dedup();
    packages
}

fn apt(words: &[&str]) -> Result<()> {
    let mut argv = vec!["apt-get", "-q", "-o", "DPkg::Lock::Timeout=600"];
    argv.extend(words);
    Cmd::new(&argv).env("DEBIAN_FRONTEND", "noninteractive").limit(Duration::from_mins(15)).run()?.ok()?;
    Ok(())
}

/// The root of `suite`, built when it is not there yet (about half a minute).
///
/// # Errors
/// mmdebstrap fails; nothing half-made is left behind under the root's name.
pub fn host_root(suite: Suite) -> Result<PathBuf> {
    host_root_with(suite, &[])
}

/// The same with further packages, for laws about programs that only some hosts have.
///
/// # Errors
/// As [`host_root`], also when the suite has no such package.
pub fn host_root_with(suite: Suite, more: &[&str]) -> Result<PathBuf> {
    let packages = [HOST_PACKAGES, more].concat().join(",");
    let dir = home().join("roots").join(format!("{}-{}", suite.name(), tag(&[RECIPE, &packages])));
    let _one_at_a_time = lock(&format!("root-{}", suite.name()))?;
    if !dir.exists() {
        let began = Instant::now();
        say(&format!("building the {} root in {} (once)", suite.name(), dir.display()));
        build(suite, &packages, &dir)?;
        say(&format!("built the {} root in {:.0} s", suite.name(), began.elapsed().as_secs_f32()));
    }
    Ok(dir)
}

/// A short name for what something was made of.
pub(crate) fn tag(parts: &[&str]) -> String {
    let sum = Sha256::digest(parts.join(" "));
    sum.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// Builds a Debian root of `packages` (separated by commas) in `dir`.
///
/// # Errors
/// mmdebstrap fails.
pub fn build(suite: Suite, packages: &str, dir: &Path) -> Result<()> {
    let fresh = dir.with_extension("new");
    remove_tree(&fresh)?;
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent)?;
    }
    bootstrap(suite, packages, &fresh)?;
    without_identity(&fresh)?;
    fs::rename(&fresh, dir).with_context(|| format!("cannot put {} in place", dir.display()))
}

fn bootstrap(suite: Suite, packages: &str, dir: &Path) -> Result<()> {
    let mut argv: Vec<String> = [
        "mmdebstrap",
        "--quiet",
        "--variant=minbase",
        "--mode=root",
        "--format=directory",
        // Unstable's index may be older than its own validity.
        "--aptopt=Acquire::Check-Valid-Until \"false\"",
        "--aptopt=APT::Install-Recommends \"false\"",
        "--dpkgopt=force-confold",
        // A kernel in the list needs no initrd: machines have their own.
        "--essential-hook=mkdir -p \"$1/etc/initramfs-tools\"; echo update_initramfs=no >\"$1/etc/initramfs-tools/update-initramfs.conf\"",
    ]
    .map(str::to_owned)
    .to_vec();
    argv.extend(LEAVE_OUT.iter().map(|glob| format!("--dpkgopt=path-exclude={glob}")));
    argv.push(format!("--include={packages}"));
    argv.push(suite.name().to_owned());
    argv.push(dir.display().to_string());
    argv.extend(mirror()?);
    Cmd::new(&argv).limit(Duration::from_mins(15)).run()?.ok()?;
    Ok(())
}

/// A base image has no name, no machine id and nothing that a first boot asks
/// a person for. Its package lists would be copied to the disk of every host.
fn without_identity(root: &Path) -> Result<()> {
    for file in ["etc/hostname", "var/lib/dbus/machine-id"] {
        fs::remove_file(root.join(file)).ok();
    }
    fs::write(root.join("etc/machine-id"), "")?;
    fs::write(root.join("etc/resolv.conf"), "nameserver 127.0.0.1\n")?;
    fs::write(root.join("etc/locale.conf"), "LANG=C.UTF-8\n")?;
    fs::create_dir_all(root.join("var/log/journal"))?;
    let shown = root.display();
    run(&["chroot", &shown.to_string(), "passwd", "-d", "root"])?;
    run(&["ln", "-sf", "/usr/share/zoneinfo/Etc/UTC", &format!("{shown}/etc/localtime")])?;
    run(&["sh", "-c", &format!("rm -rf {shown}/var/lib/apt/lists/* {shown}/var/cache/apt/*")])?;
    Ok(())
}

/// Names that Debian gives its releases; other distributions use none of them.
const DEBIAN: &[&str] =
    &["bullseye", "bookworm", "trixie", "forky", "sid", "oldstable", "stable", "testing", "unstable"];

/// Debian's mirror as this machine's own apt is told to use it (or
/// `$EDGE_LAB_MIRROR`). A machine that is no Debian has none; mmdebstrap then
/// takes its own default, and needs Debian's keys.
///
/// # Errors
/// apt does not answer, or Debian's keys cannot be installed.
pub(crate) fn mirror() -> Result<Option<String>> {
    if let Ok(url) = std::env::var("EDGE_LAB_MIRROR") {
        return Ok(Some(url));
    }
    let rows =
        run(&["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages"])?;
    let url = rows.lines().find_map(|row| {
        let (release, url) = row.split_once(' ')?;
        DEBIAN.contains(&release).then(|| url.trim_end_matches('/').to_owned())
    });
    if url.is_none() && !Path::new("/usr/share/keyrings/debian-archive-keyring.gpg").exists() {
        apt(&["install", "-y", "debian-archive-keyring"])?;
    }
    Ok(url)
}

/// Removes a directory tree, without following mounts.
///
/// # Errors
/// Something in it cannot be removed.
pub(crate) fn remove_tree(dir: &Path) -> Result<()> {
    run(&["rm", "-rf", "--one-file-system", &dir.display().to_string()])?;
    Ok(())
}

/// Waits for, takes and holds (until dropped) a lock among all lab processes of the machine.
///
/// # Errors
/// The lab's directory cannot be written.
pub(crate) fn lock(name: &str) -> Result<File> {
    let dir = home().join("locks");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let file = File::create(dir.join(name))?;
    if file.try_lock().is_err() {
        say(&format!("waiting for another lab process to let go of `{name}`"));
        file.lock()?;
    }
    Ok(file)
}
