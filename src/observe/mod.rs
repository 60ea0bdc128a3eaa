//! Step 1, observe: reads the host into [`HostFacts`].
//!
//! Owns where each fact is found. Reads only (its one write is a cache of
//! program versions on the running host); decides nothing; never fails as a
//! whole: what cannot be read is `unknown` with its reason.
//!
//! All files are read below a [`Root`], so that a directory tree can stand for
//! a host. What the kernel tells only by call or a program only by running is
//! asked of the running host alone; a foreign root may hold the answers as
//! files in [`FIXTURES`].

pub mod containerd;
pub mod disks;
pub mod files;
pub mod hardware;
pub mod identity;
pub mod k3s;
pub mod mounts;
pub mod network;
pub mod overrides;
pub mod ports;
pub mod rename;
pub mod routes;
pub mod runtime;
pub mod storage;
pub mod store;
pub mod strangers;
pub mod system;
mod text;
mod versions;

use std::collections::BTreeMap;

use crate::facts::runtime::Unit;
use crate::facts::{Fact, HostFacts};
use crate::sys::{Clock, Root};

/// Directory of a foreign root with what files of a host do not tell:
/// `addresses` (lines `eth0 172.16.36.1/24`), `arch` (`amd64`),
/// `containerd-version`, `k3s-version` (what the programs print).
pub use crate::paths::FIXTURES;

/// Reads everything about the host below `root`. `units` are the states that
/// systemd tells, by unit name without `.service`.
///
/// Runs `containerd --version` (and `k3s --version` for a k3s that is not from
/// our store) on the running host when the binary changed since the last time.
pub async fn host(root: &Root, clock: Clock, units: &BTreeMap<String, Fact<Unit>>) -> HostFacts {
    let mounts = mounts::read(root);
    HostFacts {
        schema: 1,
        identity: identity::observe(root),
        hardware: hardware::observe(root, &mounts),
        network: network::observe(root),
        system: system::observe(root, clock, &mounts),
        runtime: runtime::observe(root, units, &mounts).await,
        storage: storage::observe(root, &mounts),
    }
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
