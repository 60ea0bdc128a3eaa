//! The lab's network: one network namespace with a bridge, and the faults on it.
//!
//! Owns the namespace `edge-LAB`, its bridge (10.77.0.1/16) and one namespace
//! and cable per host. Touches nothing of the machine's own network, so every
//! lab uses the same addresses and labs do not see each other.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cmd::{Cmd, run};

/// The bridge's own address: where central listens, and every host's default gateway.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Bits of the network part of every address of a lab.
pub const PREFIX: u8 = 16;

/// The network of one lab; gone when dropped.
#[derive(Debug)]
pub struct Net {
    netns: String,
}

impl Net {
    /// Makes the namespace and its bridge.
    ///
    /// # Errors
    /// `ip` fails, for example because the namespace is already there.
    pub(crate) fn create(lab: &str) -> Result<Self> {
        let net = Self { netns: format!("edge-{lab}") };
        run(&["ip", "netns", "add", &net.netns]).context("cannot make the lab's network")?;
        net.ip("link set lo up")?;
        net.ip("link add br0 type bridge")?;
        net.ip(&format!("addr add {GATEWAY}/{PREFIX} dev br0"))?;
        net.ip("link set br0 up")?;
        Ok(net)
    }

    /// The network namespace's name, as `ip netns` knows it.
    #[must_use]
    pub fn netns(&self) -> &str {
        &self.netns
    }

    /// A program to run on the bridge's side of the network.
    #[must_use]
    pub fn cmd<S: AsRef<str>>(&self, argv: &[S]) -> Cmd {
        let mut words = vec!["ip", "netns", "exec", &self.netns];
        words.extend(argv.iter().map(AsRef::as_ref));
        Cmd::new(&words)
    }

    /// Loads an nft ruleset into the bridge's namespace. It filters what goes
    /// to and comes from servers there (central), not what hosts say to each other.
    ///
    /// # Errors
    /// nft refuses the ruleset.
    pub fn nft(&self, ruleset: &str) -> Result<()> {
        self.cmd(&["nft", "-f", "-"]).input(ruleset).run()?.ok()?;
        Ok(())
    }

    /// Applies `verdict` (`drop`, `reject with tcp reset`, or a condition and a
    /// verdict such as `numgen random mod 100 < 30 drop`) to everything that
    /// hosts send to a TCP port of the bridge's address. One fault per port; see [`Net::heal`].
    ///
    /// # Errors
    /// nft refuses the verdict.
    pub fn fault(&self, port: u16, verdict: &str) -> Result<()> {
        self.nft(&format!(
            "table ip fault {{ chain in {{ type filter hook input priority 0; tcp dport {port} {verdict}; }}; }}"
        ))
    }

    /// Takes all faults away, including a slow line.
    ///
    /// # Errors
    /// nft fails.
    pub fn heal(&self) -> Result<()> {
        self.nft("flush ruleset")?;
        self.cmd(&["tc", "qdisc", "del", "dev", "br0", "root"]).run()?;
        Ok(())
    }

    /// Slows down what the bridge's side sends to the hosts, for example to `256kbit`.
    ///
    /// # Errors
    /// tc refuses the rate.
    pub fn slow(&self, rate: &str) -> Result<()> {
        let words = format!("tc qdisc replace dev br0 root tbf rate {rate} burst 16kb latency 400ms");
        self.cmd(&words.split(' ').collect::<Vec<_>>()).run()?.ok()?;
        Ok(())
    }

    /// Gives the bridge one more address, for a server of its own.
    ///
    /// # Errors
    /// It has it already.
    pub fn take(&self, address: Ipv4Addr) -> Result<()> {
        self.ip(&format!("addr add {address}/{PREFIX} dev br0"))
    }

    /// Takes such an address away: nobody answers for it any more.
    ///
    /// # Errors
    /// The bridge does not have it.
    pub fn leave(&self, address: Ipv4Addr) -> Result<()> {
        self.ip(&format!("addr del {address}/{PREFIX} dev br0"))
    }

    /// Pulls a host's cable out.
    ///
    /// # Errors
    /// There is no such host on this network.
    pub fn unplug(&self, host: &str) -> Result<()> {
        self.ip(&format!("link set v-{host} down"))
    }

    /// Puts a host's cable back in.
    ///
    /// # Errors
    /// There is no such host on this network.
    pub fn plug(&self, host: &str) -> Result<()> {
        self.ip(&format!("link set v-{host} up"))
    }

    /// A namespace for a host with `eth0` on the bridge; gives its name.
    pub(crate) fn attach(&self, host: &str, address: Ipv4Addr) -> Result<String> {
        let netns = format!("{}.{host}", self.netns);
        run(&["ip", "netns", "add", &netns])?;
        self.ip(&format!("link add v-{host} type veth peer name eth0 netns {netns}"))?;
        self.ip(&format!("link set v-{host} master br0 up"))?;
        ip(&netns, "link set lo up")?;
        ip(&netns, &format!("addr add {address}/{PREFIX} dev eth0"))?;
        ip(&netns, "link set eth0 up")?;
        ip(&netns, &format!("route add default via {GATEWAY}"))?;
        Ok(netns)
    }

    /// A tap device on the bridge for a virtual machine; gives its name.
    pub(crate) fn tap(&self, machine: &str) -> Result<String> {
        let tap = format!("t-{machine}");
        self.ip(&format!("tuntap add {tap} mode tap"))?;
        self.ip(&format!("link set {tap} master br0 up"))?;
        Ok(tap)
    }

    fn ip(&self, words: &str) -> Result<()> {
        ip(&self.netns, words)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        remove(&self.netns);
    }
}

/// Removes a network namespace, if it is there, and ends what runs in it.
pub(crate) fn remove(netns: &str) {
    let pids = run(&["ip", "netns", "pids", netns]).unwrap_or_default();
    for pid in pids.lines().filter_map(|line| line.parse().ok()) {
        kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
    }
    Cmd::new(&["ip", "netns", "del", netns]).run().ok();
}

/// All network namespaces of a lab: its own and those of its hosts.
pub(crate) fn namespaces(lab: &str) -> Vec<String> {
    let (own, hosts) = (format!("edge-{lab}"), format!("edge-{lab}."));
    crate::entries("/run/netns".as_ref())
        .into_iter()
        .filter(|name| *name == own || name.starts_with(&hosts))
        .collect()
}

fn ip(netns: &str, words: &str) -> Result<()> {
    let mut argv = vec!["ip", "-n", netns];
    argv.extend(words.split(' '));
    run(&argv)?;
    Ok(())
}
