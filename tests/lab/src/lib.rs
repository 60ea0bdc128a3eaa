//! Real hosts for the tests: systemd as PID 1 in containers that have their own
//! disks (which can lose their power), their own network and a central service.
//!
//! A [`Lab`] is one such world with a network of its own; it holds [`Host`]s,
//! and everything of it is gone when it is dropped. What a lab cannot show
//! (an own clock, board identity, device-mapper, kernel modules) needs
//! [`machine`]. Everything here needs root; see [`root::prepare`].
//!
//! Variables: `EDGE_LAB` says where roots, caches and disks are kept,
//! `EDGE_LAB_KEEP=1` leaves the files of a lab for a look afterwards,
//! `EDGE_LAB_MIRROR` names another Debian mirror than apt's own.

use std::io::Write;
use std::path::Path;

pub mod bench;
pub mod canary;
pub mod central;
pub mod cmd;
pub mod demo;
pub mod machine;
pub mod net;
pub mod programs;
pub mod registry;
pub mod room;
pub mod root;
pub mod service;

mod cgroup;
mod disk;
mod host;
mod lab;

pub use central::Central;
pub use cmd::{Output, wait_until};
pub use disk::Fs;
pub use host::{Bind, Cgroups, Hardware, Host, HostSpec};
pub use lab::Lab;
pub use machine::{Machine, MachineSpec, RootFs};
pub use programs::{K3s, Profile};
pub use registry::Registry;
pub use room::Room;
pub use root::Suite;
pub use service::Service;

/// A shell script that makes, on a host or a machine, an archive of an image that can tell
/// whether it is whole; its words are explained at its begin.
pub const MAKE_ARCHIVE: &str = include_str!("archive.sh");

/// Tells the person who waits what is going on. Straight to standard error:
/// a test runner that keeps the output of tests does not keep this.
pub fn say(text: &str) {
    // Nobody may be listening.
    writeln!(std::io::stderr(), "lab: {text}").ok();
}

/// Names in a directory; none when it cannot be read.
pub(crate) fn entries(dir: &Path) -> Vec<String> {
    let Ok(list) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    list.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}
