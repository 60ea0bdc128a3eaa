//! The files whose change by hand wakes the daemon.
//!
//! Owns the list: what the last plan writes, and where operators override it.
//! A pass that puts one back changes it too; the next one changes nothing, and
//! that ends it.

use crate::paths;
use crate::plan::{Plan, units};
use crate::sys::file_watch::FileWatch;

/// Beside what a plan names: the hostname is set by a step of its own, and in
/// directories of drop-ins any name counts.
const FIXED: [&str; 3] = [paths::HOSTNAME, paths::HOSTS, paths::K3S_CONFIG_DIR];
const UNITS: [&str; 3] = [units::CONTAINERD, units::K3S, units::K3S_AGENT];

/// Watches what `plan` keeps so; without a plan what was watched before.
pub(super) fn follow(watch: &mut FileWatch, plan: Option<&Plan>) {
    let Some(plan) = plan else { return };
    let files = plan.files.iter().map(|file| file.path.as_str());
    let links = plan.links.iter().map(|link| link.path.as_str());
    // A directory that is not there yet is told by its own name in the one above.
    let drop_ins: Vec<String> = UNITS
        .iter()
        .flat_map(|unit| [format!("/etc/systemd/system/{unit}.d"), format!("/etc/systemd/system/{unit}.d/")])
        .chain([format!("{}/", paths::K3S_CONFIG_DIR)])
        .collect();
    watch.follow(files.chain(links).chain(FIXED).chain(drop_ins.iter().map(String::as_str)));
}
