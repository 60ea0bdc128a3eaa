//! One lab: a name, a directory, a network, and the hosts in it.
//!
//! Owns `$EDGE_LAB/labs/NAME` and everything called `edge-NAME`. Cleans up what
//! an aborted earlier run of the same name left; leaves other labs alone.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Result, bail};

use crate::host::{Host, HostSpec};
use crate::machine::{Machine, MachineSpec};
use crate::net::Net;
use crate::{cgroup, net, root};

/// A network with hosts on it. Cheap to clone; the last clone (every [`Host`]
/// holds one) takes the network and the directory away.
#[derive(Debug, Clone)]
pub struct Lab {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    dir: PathBuf,
    net: Net,
    /// Last byte of the next address that is given without being asked for.
    next: AtomicU8,
    _lock: File,
}

impl Lab {
    /// Opens the lab of that name (`a-z`, `0-9`, `-`; at most 16): installs
    /// missing programs, waits for another process that has it, removes what
    /// an aborted run left, and makes its network. Tests that run at the same
    /// time use different names, then they may use the same addresses.
    ///
    /// # Errors
    /// Not root, a bad name, or the network cannot be made.
    pub fn open(name: &str) -> Result<Self> {
        check_name(name, 16)?;
        root::prepare()?;
        let lock = root::lock(&format!("lab-{name}"))?;
        let dir = root::home().join("labs").join(name);
        clean(name, &dir)?;
        fs::create_dir_all(&dir)?;
        let inner = Inner {
            name: name.to_owned(),
            dir,
            net: Net::create(name)?,
            next: AtomicU8::new(11),
            _lock: lock,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Makes a host that is off; see [`HostSpec`].
    ///
    /// # Errors
    /// The base image, the disk or the network cannot be made.
    pub fn host(&self, spec: HostSpec) -> Result<Host> {
        check_name(&spec.name, 11)?;
        Host::create(self, spec)
    }

    /// Makes a machine that is off; see [`MachineSpec`].
    ///
    /// # Errors
    /// Its image or its disks cannot be made.
    pub fn machine(&self, spec: MachineSpec) -> Result<Machine> {
        check_name(&spec.name, 11)?;
        Machine::create(self, spec)
    }

    /// The lab's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The lab's directory on the machine, for logs and files of a test.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// The lab's network.
    #[must_use]
    pub fn net(&self) -> &Net {
        &self.inner.net
    }

    /// 10.77.0.11, 10.77.0.12, and so on.
    pub(crate) fn next_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, self.inner.next.fetch_add(1, Ordering::Relaxed))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if std::env::var_os("EDGE_LAB_KEEP").is_none() {
            root::remove_tree(&self.dir).ok();
        }
    }
}

/// Everything of an earlier run: processes first, they hold the rest.
fn clean(name: &str, dir: &Path) -> Result<()> {
    for group in cgroup::leftovers(name) {
        group.kill()?;
    }
    for netns in net::namespaces(name) {
        net::remove(&netns);
    }
    root::remove_tree(dir)
}

/// Names become parts of paths, of interface names and of cgroups.
fn check_name(name: &str, most: usize) -> Result<()> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || name.len() > most || !name.bytes().all(fits) {
        bail!("bad name `{name}`: a-z, 0-9 and -, at most {most}");
    }
    Ok(())
}
