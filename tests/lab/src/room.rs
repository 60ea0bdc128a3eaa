//! A machine room: a central service and hosts with the package installed.
//!
//! Owns how a bare host is given its package, its configuration and its token,
//! and how a test waits for a host to be steady. Everything that happens then
//! is the product's own doing.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::central::{Central, TOKEN_FILE};
use crate::cmd::wait_until;
use crate::host::{Host, HostSpec};
use crate::lab::Lab;
use crate::programs::{self, K3s, Profile};
use crate::root::Suite;

/// The site that a room is.
pub const SITE: &str = "hz-017";
/// The version under which the k3s of a lab is offered.
pub const VERSION: &str = "v1.36.2+k3s1";
/// How long a room may take to become steady, with a real k3s on a small machine.
pub const LONG: Duration = Duration::from_secs(300);

/// Hosts of one site, and their central service.
#[derive(Debug)]
pub struct Room {
    /// The lab that everything lives in.
    pub lab: Lab,
    /// The central service; it runs.
    pub central: Central,
    /// The hosts, in the order of their addresses.
    pub hosts: Vec<Host>,
    /// The k3s that they will run.
    pub k3s: K3s,
    package: PathBuf,
    token: String,
}

impl Room {
    /// A room without hosts; its central service has the site and a token that
    /// allows servers.
    ///
    /// # Errors
    /// A program does not compile, or the service does not start.
    pub fn open(name: &str) -> Result<Self> {
        Self::with_profile(name, Profile::Dev, "")
    }

    /// The same with the package of another build.
    ///
    /// # Errors
    /// As [`Room::open`].
    pub fn with_profile(name: &str, profile: Profile, features: &str) -> Result<Self> {
        let k3s = programs::k3s()?;
        let package = programs::package(profile, features)?;
        let lab = Lab::open(name)?;
        let central = Central::start(&lab)?;
        central.add_site(SITE, &k3s, VERSION)?;
        let token = central.token(SITE, 100, true)?;
        Ok(Self { lab, central, hosts: Vec::new(), k3s, package, token })
    }

    /// Adds a host: booted, with the package installed and configured as a
    /// person at rack-up would do it.
    ///
    /// # Errors
    /// The host does not boot, or the package cannot be installed.
    pub fn add(&mut self, name: &str, suite: Suite) -> Result<&Host> {
        let host = self.bare(name, suite)?;
        self.rack_up(&host)?;
        self.hosts.push(host);
        self.hosts.last().context("a host was just added")
    }

    /// Adds hosts: the first alone, so that it is the one that forms the cluster,
    /// and then all others at the same time.
    ///
    /// # Errors
    /// As [`Room::add`].
    pub fn add_all(&mut self, wanted: &[(&str, Suite)]) -> Result<()> {
        let Some((&(first, suite), others)) = wanted.split_first() else { return Ok(()) };
        self.add(first, suite)?;
        let bare = others.iter().map(|(name, suite)| self.bare(name, *suite));
        let hosts: Vec<Host> = bare.collect::<Result<_>>()?;
        std::thread::scope(|scope| {
            let room = &*self;
            let threads: Vec<_> = hosts.iter().map(|host| scope.spawn(|| room.rack_up(host))).collect();
            let ends = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| bail!("see above")));
            ends.collect::<Result<()>>()
        })?;
        self.hosts.extend(hosts);
        Ok(())
    }

    fn rack_up(&self, host: &Host) -> Result<()> {
        host.boot()?;
        self.configure(host)?;
        host.install(&self.package)
    }

    /// A host as it comes from the rack: off, without our package.
    ///
    /// # Errors
    /// Its disk cannot be made.
    pub fn bare(&self, name: &str, suite: Suite) -> Result<Host> {
        let spec =
            if self.k3s.real { HostSpec::with_kubelet(name, suite) } else { HostSpec::new(name, suite) };
        self.lab.host(spec)
    }

    /// Writes configuration and token of a host.
    ///
    /// # Errors
    /// The host's file system refuses it.
    pub fn configure(&self, host: &Host) -> Result<()> {
        host.write_file_mode(TOKEN_FILE, format!("{}\n", self.token), 0o600)?;
        let node = format!("\n[node]\nsite = \"{SITE}\"\nip-networks = [\"10.77.0.0/16\"]\n");
        host.write_file("/etc/edge-bootstrap/config.d/20-site.toml", self.central.host_config()? + &node)
    }

    /// The package that hosts get.
    #[must_use]
    pub fn package(&self) -> &PathBuf {
        &self.package
    }

    /// The enrolment token, for the search of secrets.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Waits until every host is steady.
    ///
    /// # Errors
    /// One is not within `limit`; says how it is.
    pub fn wait_steady(&self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        for host in &self.hosts {
            steady(host, deadline.saturating_duration_since(Instant::now()))?;
        }
        Ok(())
    }

    /// Does the same on all hosts at the same time; a panic on one of them is one here.
    pub fn on_each(&self, act: impl Fn(&Host) + Sync) {
        std::thread::scope(|scope| {
            for host in &self.hosts {
                scope.spawn(|| act(host));
            }
        });
    }

    /// Cuts the power of all hosts, as one fuse does.
    ///
    /// # Errors
    /// A process does not die.
    pub fn cut(&self) -> Result<()> {
        self.hosts.iter().try_for_each(Host::cut)
    }

    /// Gives all hosts their power back, without waiting for one before the next.
    ///
    /// # Errors
    /// One does not boot.
    pub fn boot(&self) -> Result<()> {
        self.hosts.iter().try_for_each(Host::boot_no_wait)
    }
}

/// What the daemon of a host says about it; `None` when it says nothing (yet), or the host is off.
///
/// Read from outside: nothing has to be started for it, and it is asked for very often.
#[must_use]
pub fn status(host: &Host) -> Option<Value> {
    let root = host.seen_from_outside()?;
    let text = std::fs::read(root.join("run/edge-bootstrap/status.json")).ok()?;
    serde_json::from_slice(&text).ok()
}

/// The phase of a host, empty when its daemon says nothing.
#[must_use]
pub fn phase(host: &Host) -> String {
    status(host).and_then(|status| status["phase"].as_str().map(str::to_owned)).unwrap_or_default()
}

/// Waits until a host is steady.
///
/// # Errors
/// It is not within `limit`; says how it is.
pub fn steady(host: &Host, limit: Duration) -> Result<()> {
    wait_phase(host, "steady", limit)
}

/// Waits until a host is in `wanted`.
///
/// # Errors
/// It is not within `limit`; says how it is.
pub fn wait_phase(host: &Host, wanted: &str, limit: Duration) -> Result<()> {
    let seen = wait_until(limit, wanted, || Ok((phase(host) == wanted).then_some(())));
    if seen.is_ok() {
        return Ok(());
    }
    let shown = host.exec(&["edge-bootstrap", "status"])?;
    bail!("{} is not {wanted} after {} s:\n{}{}", host.name(), limit.as_secs(), shown.stdout, shown.stderr)
}
