//! One lab host: Debian with systemd as PID 1 in systemd-nspawn.
//!
//! Owns the host's life: boot, reboot, power cut, clean end. Each host has a
//! mount namespace, a network namespace, a cgroup and a disk of its own, all of
//! which vanish with it.

mod files;
mod hardware;
mod inside;
mod nspawn;
mod spec;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cgroup::Group;
use crate::cmd::wait_until;
use crate::disk::Disk;
use crate::lab::Lab;
use crate::net;
use crate::root;
use crate::say;

pub use self::hardware::Hardware;
pub use self::spec::{Bind, Cgroups, HostSpec};

/// A host of a lab; its disk and all its processes are gone when it is dropped.
#[derive(Debug)]
pub struct Host {
    spec: HostSpec,
    address: Ipv4Addr,
    dir: PathBuf,
    root: PathBuf,
    netns: String,
    group: Group,
    disk: Disk,
    supervisor: Mutex<Option<Child>>,
    lab: Lab,
}

/// The time that a boot may take before it counts as failed.
const BOOT: Duration = Duration::from_mins(2);

impl Host {
    pub(crate) fn create(lab: &Lab, spec: HostSpec) -> Result<Self> {
        let dir = lab.dir().join("hosts").join(&spec.name);
        if dir.exists() {
            bail!("there is a host `{}` already", spec.name);
        }
        fs::create_dir_all(&dir)?;
        hardware::install(spec.hardware.as_ref(), &dir)?;
        let root = root::host_root_with(spec.suite, spec.packages)?;
        let address = spec.address.unwrap_or_else(|| lab.next_address());
        Ok(Self {
            address,
            disk: Disk::create(&dir, &root, spec.fs, spec.disk_mib)?,
            netns: lab.net().attach(&spec.name, address)?,
            group: Group::new(format!("edge-{}.{}", lab.name(), spec.name)),
            supervisor: Mutex::new(None),
            lab: lab.clone(),
            spec,
            dir,
            root,
        })
    }

    /// Switches it on and waits until systemd has run all boot jobs; gives
    /// systemd's own word for the result, `running` or `degraded`.
    ///
    /// # Errors
    /// It is on already, ends, or takes longer than two minutes.
    pub fn boot(&self) -> Result<String> {
        self.boot_no_wait()?;
        self.wait_booted(BOOT)
    }

    /// Switches it on.
    ///
    /// # Errors
    /// It is on already, or its supervisor cannot be started.
    pub fn boot_no_wait(&self) -> Result<()> {
        if self.is_on() {
            bail!("{} is on already", self.name());
        }
        self.disk.wait_unused()?;
        fs::remove_file(self.dir.join("supervisor.pid")).ok();
        let child = self.supervise()?;
        *self.supervisor.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        Ok(())
    }

    /// Waits until systemd has run all boot jobs; gives `running` or `degraded`.
    ///
    /// # Errors
    /// The host ends, or the time is over; the message holds the console's end.
    pub fn wait_booted(&self, limit: Duration) -> Result<String> {
        let state = wait_until(limit, &format!("{} has booted", self.name()), || {
            if !self.is_on() {
                bail!("{} went off while booting", self.name());
            }
            let state = self.exec(&["systemctl", "is-system-running"])?.stdout;
            Ok(matches!(state.trim(), "running" | "degraded").then(|| state.trim().to_owned()))
        });
        state.with_context(|| format!("console: {}", self.console_tail()))
    }

    /// The power goes: what was not synced is lost, everything is dead, the disk stays.
    ///
    /// # Errors
    /// The host is off, or does not die.
    pub fn cut(&self) -> Result<()> {
        let pid = wait_until(Duration::from_secs(60), "the host's disk is mounted", || {
            if !self.is_on() {
                bail!("{} is off already", self.name());
            }
            Ok(self.supervisor_pid())
        })?;
        self.disk.stop(pid)?;
        self.bury()
    }

    /// Kills everything but keeps all writes: only user space crashed.
    ///
    /// # Errors
    /// The host does not die.
    pub fn kill(&self) -> Result<()> {
        self.bury()
    }

    /// Switches it off in good order.
    ///
    /// # Errors
    /// It is not off after a minute and a half, systemd's own patience with a unit.
    pub fn off(&self) -> Result<()> {
        self.exec(&["systemctl", "poweroff", "--no-block"])?.ok()?;
        wait_until(Duration::from_secs(100), &format!("{} is off", self.name()), || {
            Ok((!self.is_on()).then_some(()))
        })?;
        self.bury()
    }

    /// Ends it and removes its disk; the same as dropping it, with the error told.
    ///
    /// # Errors
    /// The host does not die.
    pub fn destroy(self) -> Result<()> {
        self.bury()
    }

    /// True from [`Host::boot_no_wait`] until it is off, also while it reboots.
    #[must_use]
    pub fn is_on(&self) -> bool {
        let mut child = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner);
        child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Its name in the lab.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The lab that it belongs to.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// What its console showed, over all boots.
    #[must_use]
    pub fn console(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// The ids, as the machine counts them, of all processes in it.
    #[must_use]
    pub fn processes(&self) -> Vec<i32> {
        self.group.processes()
    }

    fn supervisor_pid(&self) -> Option<i32> {
        let text = fs::read_to_string(self.dir.join("supervisor.pid")).ok()?;
        let pid = text.trim().parse().ok()?;
        self.is_on().then_some(pid)
    }

    /// Ends the supervisor, so that nothing new starts, and then all the rest.
    fn bury(&self) -> Result<()> {
        let child = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut child) = child {
            // It may have ended by itself.
            child.kill().ok();
            child.wait()?;
        }
        self.group.kill()
    }

    fn console_tail(&self) -> String {
        let text = fs::read(self.console()).unwrap_or_default();
        let start = text.len().saturating_sub(2000);
        String::from_utf8_lossy(text.get(start..).unwrap_or_default()).into_owned()
    }

    /// For the person who reads why a test failed.
    fn last_words(&self) {
        let journal = ["journalctl", "--no-pager", "-b", "-n", "60", "-o", "short-monotonic"];
        let text = self.exec(&journal).map(|output| output.stdout).unwrap_or_default();
        say(&format!("the test failed; the journal of {} ends with\n{text}", self.name()));
        say(&format!("and its console with\n{}", self.console_tail()));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() && self.is_on() {
            self.last_words();
        }
        if let Err(error) = self.bury() {
            say(&format!("{error:#}"));
        }
        net::remove(&self.netns);
        root::remove_tree(&Path::new("/run/systemd/nspawn/propagate").join(format!(
            "edge-{}.{}",
            self.lab.name(),
            self.name()
        )))
        .ok();
        if std::env::var_os("EDGE_LAB_KEEP").is_none() {
            root::remove_tree(&self.dir).ok();
        }
    }
}
