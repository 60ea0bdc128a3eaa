//! Board and disks of a lab host: a fixture below its `/sys`, and said to be one.
//!
//! Owns the files that stand for DMI and `/sys/block`. They lie beside the
//! host's disk, not on it: a copied disk comes up on the board of its new host.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Host;

/// What a host's firmware and disks tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hardware {
    /// UUID of the board.
    pub uuid: String,
    /// Serial numbers of its disks, `sda` first.
    pub disks: Vec<String>,
}

impl Hardware {
    /// A board and disks.
    #[must_use]
    pub fn new(uuid: &str, disks: &[&str]) -> Self {
        Self { uuid: uuid.to_owned(), disks: disks.iter().map(|serial| (*serial).to_owned()).collect() }
    }

    /// Writes the files into `dir`, in place: a host that is on sees them.
    fn write(&self, dir: &Path) -> Result<()> {
        let block = dir.join("block");
        if block.exists() {
            fs::remove_dir_all(&block).context("cannot take the old disks away")?;
        }
        put(&dir.join("dmi/product_uuid"), &self.uuid)?;
        put(&dir.join("dmi/sys_vendor"), "edge-lab fixture")?;
        fs::create_dir_all(&block)?;
        for (letter, serial) in ('a'..='z').zip(&self.disks) {
            let disk = block.join(format!("sd{letter}"));
            for (name, value) in [
                ("device/serial", serial.as_str()),
                ("size", "2097152"),
                ("removable", "0"),
                ("queue/rotational", "0"),
            ] {
                put(&disk.join(name), value)?;
            }
        }
        Ok(())
    }
}

fn put(path: &Path, value: &str) -> Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    fs::write(path, format!("{value}\n")).with_context(|| format!("cannot write {}", path.display()))
}

impl Host {
    /// Works on its hardware; what it tells from the next boot on.
    ///
    /// # Errors
    /// The host is on, has no hardware of its own (`HostSpec::hardware`), or the files cannot be written.
    pub fn set_hardware(&self, hardware: &Hardware) -> Result<()> {
        self.refuse_while_on()?;
        anyhow::ensure!(self.spec.hardware.is_some(), "{} was made without hardware of its own", self.name());
        hardware.write(&hardware_dir(&self.dir))
    }

    /// Copies the whole disk of `other`, as a person with an imaging tool does.
    ///
    /// # Errors
    /// One of the two is on, or the machine's own disk is full.
    pub fn copy_disk_of(&self, other: &Self) -> Result<()> {
        self.refuse_while_on()?;
        other.refuse_while_on()?;
        self.disk.copy_of(&other.disk)
    }
}

/// Where the files of the host in `dir` lie.
pub(super) fn hardware_dir(dir: &Path) -> PathBuf {
    dir.join("hardware")
}

/// The files of a new host.
pub(super) fn install(hardware: Option<&Hardware>, dir: &Path) -> Result<()> {
    hardware.map_or(Ok(()), |hardware| hardware.write(&hardware_dir(dir)))
}

/// Where the host sees them; its prepare script puts them in place.
pub(super) const INSIDE: &str = "/usr/lib/edge-lab/hardware";
