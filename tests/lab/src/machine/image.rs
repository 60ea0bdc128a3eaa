//! What machines boot from, built once and kept outside the tree.
//!
//! Owns `$EDGE_LAB/machines`: per suite a kernel, an initrd and a disk, and one
//! qemu of its own (Debian 12's 7.2 emulates some instructions wrongly, kernels
//! die of it; 10.0 from backports does not).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::RootFs;
use crate::cmd::{Cmd, run};
use crate::root::{self, HOST_PACKAGES, Suite};
use crate::say;

/// What a machine has beside what every host has.
const MACHINE_PACKAGES: &[&str] = &[
    "linux-image-cloud-amd64",
    "udev",
    "busybox-static",
    "qemu-guest-agent",
    "lvm2",
    "dmsetup",
    "thin-provisioning-tools",
    "xfsprogs",
    "e2fsprogs",
    "mdadm",
    "cryptsetup-bin",
];

/// Programs that making an image takes.
const TOOLS: &[(&str, &str)] =
    &[("cpio", "cpio"), ("xz", "xz-utils"), ("zstd", "zstd"), ("lz4", "lz4"), ("mkfs.ext4", "e2fsprogs")];

/// Rises when the scripts beside this file change what they make.
const RECIPE: &str = "machine 2";

/// The kernel, the initrd and the disk of `suite`, built when they are not there.
pub(super) fn base(suite: Suite) -> Result<PathBuf> {
    root::install_missing(TOOLS)?;
    let packages = [HOST_PACKAGES, MACHINE_PACKAGES].concat().join(",");
    let name = format!("{}-{}", suite.name(), root::tag(&[RECIPE, &packages]));
    let dir = root::home().join("machines").join(name);
    let _one_at_a_time = root::lock(&format!("machine-{}", suite.name()))?;
    if !dir.exists() {
        let began = Instant::now();
        say(&format!("building the {} machine in {} (once)", suite.name(), dir.display()));
        build(suite, &packages, &dir)?;
        say(&format!("built the {} machine in {:.0} s", suite.name(), began.elapsed().as_secs_f32()));
    }
    Ok(dir)
}

fn build(suite: Suite, packages: &str, dir: &Path) -> Result<()> {
    let (debian, fresh) = (dir.with_extension("root"), dir.with_extension("image"));
    root::remove_tree(&debian)?;
    root::remove_tree(&fresh)?;
    fs::create_dir_all(&fresh)?;
    root::build(suite, packages, &debian)?;
    Cmd::new(&["sh", "-c", include_str!("image.sh")])
        .env("ROOT", &debian.display().to_string())
        .env("OUT", &fresh.display().to_string())
        .env("INIT", include_str!("init.sh"))
        .shown("(making the machine's image)")
        .limit(Duration::from_mins(10))
        .run()?
        .ok()?;
    root::remove_tree(&debian)?;
    fs::rename(&fresh, dir).with_context(|| format!("cannot put {} in place", dir.display()))
}

/// The root disk of `suite` with that file system; not to be written, copied only.
pub(super) fn disk(suite: Suite, fs: RootFs) -> Result<PathBuf> {
    let dir = base(suite)?;
    let first = dir.join("disk.img");
    match fs {
        RootFs::Ext4 => Ok(first),
        RootFs::XfsNoFtype => {
            let second = dir.join("disk-xfs-no-ftype.img");
            let _one_at_a_time = root::lock(&format!("machine-xfs-{}", suite.name()))?;
            if !second.exists() {
                copy_root(&dir, &first, &second)?;
            }
            Ok(second)
        }
    }
}

/// Has a machine's own kernel make the file system, which this one may not know.
fn copy_root(dir: &Path, first: &Path, second: &Path) -> Result<()> {
    let began = Instant::now();
    say("copying the machine's root to an xfs with ftype=0 (once)");
    let (fresh, console) = (second.with_extension("new"), second.with_extension("log"));
    fs::remove_file(&fresh).ok();
    run(&["truncate", "-s", "12G", &fresh.display().to_string()])?;
    let mut words = qemu()?;
    words.extend(super::QEMU.split_whitespace().map(str::to_owned));
    let mut add = |name: &str, value: String| words.extend([name.to_owned(), value]);
    add("-m", "1024".to_owned());
    add("-serial", format!("file:{}", console.display()));
    add("-kernel", dir.join("vmlinux").display().to_string());
    add("-initrd", dir.join("initrd").display().to_string());
    add("-append", format!("{} lab.copy", super::KERNEL));
    for (id, file, more) in [("d0", first, "readonly=on"), ("d1", &fresh, "cache=unsafe")] {
        add("-drive", format!("file={},format=raw,if=none,id={id},{more}", file.display()));
        add("-device", format!("virtio-blk-pci,drive={id}"));
    }
    Cmd::new(&words).shown("(copying the machine's root)").limit(Duration::from_mins(10)).run()?.ok()?;
    let said = fs::read_to_string(&console).unwrap_or_default();
    if !said.contains("lab: the root was copied") {
        bail!("the machine's root was not copied:\n{said}");
    }
    fs::rename(&fresh, second)?;
    say(&format!("copied the machine's root in {:.0} s", began.elapsed().as_secs_f32()));
    Ok(())
}

/// The words with which qemu starts, whatever this machine's own libraries are:
/// its loader, its libraries and its firmware lie beside it.
pub(super) fn qemu() -> Result<Vec<String>> {
    let root = qemu_root()?.display().to_string();
    let libraries = format!("{root}/usr/lib/x86_64-linux-gnu:{root}/lib/x86_64-linux-gnu");
    let mut words = vec![format!("{root}/lib64/ld-linux-x86-64.so.2"), "--library-path".to_owned()];
    words.extend([libraries, format!("{root}/usr/bin/qemu-system-x86_64")]);
    for firmware in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
        words.extend(["-L".to_owned(), format!("{root}/{firmware}")]);
    }
    Ok(words)
}

fn qemu_root() -> Result<PathBuf> {
    let dir = root::home().join("machines").join("qemu-10");
    let _one_at_a_time = root::lock("qemu")?;
    if !dir.exists() {
        say("unpacking qemu (once)");
        let fresh = dir.with_extension("new");
        root::remove_tree(&fresh)?;
        fs::create_dir_all(&fresh)?;
        unpack_qemu(&fresh)?;
        fs::rename(&fresh, &dir)?;
    }
    Ok(dir)
}

fn unpack_qemu(dir: &Path) -> Result<()> {
    let mut argv: Vec<String> = [
        "mmdebstrap",
        "--quiet",
        "--variant=extract",
        "--mode=root",
        "--format=directory",
        "--aptopt=Acquire::Check-Valid-Until \"false\"",
        "--aptopt=APT::Default-Release \"bookworm-backports\"",
        "--include=qemu-system-x86,qemu-system-data,seabios,ipxe-qemu,libc6",
        "bookworm",
    ]
    .map(str::to_owned)
    .to_vec();
    argv.push(dir.display().to_string());
    let mirror =
        root::mirror()?.context("set EDGE_LAB_MIRROR to a Debian mirror: qemu comes from its backports")?;
    argv.extend(["bookworm", "bookworm-backports"].map(|suite| format!("deb {mirror} {suite} main")));
    Cmd::new(&argv).limit(Duration::from_mins(10)).run()?.ok()?;
    Ok(())
}
