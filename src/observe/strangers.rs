//! A k3s that others run, under no name of which a take-over knows what to do.
//!
//! Owns reading processes of procfs, and where unit files and scripts of init lie.
//! Reads only; what it means is `plan::adopt`'s.

use std::collections::BTreeSet;

use super::overrides;
use crate::facts::runtime::Stranger;
use crate::plan::reset::processes::{self, Process};
use crate::plan::reset::{UNIT_DIRECTORIES, UNITS, starts_k3s};
use crate::sys::{Root, host};

/// What systemd starts at boot.
const WANTS: &str = "/etc/systemd/system/multi-user.target.wants";
/// Scripts of OpenRC and of System V.
const SCRIPTS: &str = "/etc/init.d";
/// Where OpenRC and System V have links to scripts that start at boot (openrc(8);
/// update-rc.d(8)).
const LEVELS: [&str; 4] = ["/etc/runlevels/default", "/etc/rc2.d", "/etc/rc3.d", "/etc/rc5.d"];

/// Every process that procfs tells. One that ends meanwhile is none.
#[must_use]
pub fn processes(root: &Root) -> Vec<Process> {
    numbers(root).filter_map(|pid| process(root, pid)).collect()
}

/// Each k3s of others that is not `k3s.service` or `k3s-agent.service`: by its unit
/// file or script, whether it runs or not, and by its process.
#[must_use]
pub fn strangers(root: &Root) -> Vec<Stranger> {
    let mut found: Vec<Stranger> = units(root).into_iter().chain(scripts(root)).collect();
    for (service, pid) in processes::strangers(&named_k3s(root)) {
        // A service from which somebody started it, as cron's, is not k3s's unit.
        let unit = service.and_then(|name| overrides::fragment(root, &name)).filter(|at| starts(root, at));
        let place = unit.unwrap_or_default();
        match found.iter_mut().find(|known| known.place == place && !place.is_empty()) {
            Some(known) => known.pid = pid,
            None => found.push(Stranger { place, pid, enabled: false }),
        }
    }
    found
}

fn numbers(root: &Root) -> impl Iterator<Item = u32> {
    root.list("/proc").unwrap_or_default().into_iter().filter_map(|name| name.parse().ok())
}

/// k3s by the kernel's name for it, and the first process, which tells whether this
/// host is itself somebody's machine. No more is read of the others.
fn named_k3s(root: &Root) -> Vec<Process> {
    let is_meant = |pid: &u32| {
        let name = || root.read_kernel(&format!("/proc/{pid}/comm"));
        *pid == 1 || name().is_ok_and(|name| name.starts_with("k3s"))
    };
    numbers(root).filter(is_meant).filter_map(|pid| process(root, pid)).collect()
}

fn process(root: &Root, pid: u32) -> Option<Process> {
    let read = |name: &str| root.read_kernel(&format!("/proc/{pid}/{name}"));
    let stat = read("stat").ok()?;
    // The name is in brackets and may hold anything.
    let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
    // The first process is that of our own name space, and may not let us look.
    let space = if pid == 1 { "/proc/self/ns/pid".to_owned() } else { format!("/proc/{pid}/ns/pid") };
    Some(Process {
        pid,
        parent,
        started: host::process_start(root, pid)?,
        name: read("comm").unwrap_or_default(),
        arguments: read("cmdline").unwrap_or_default().split('\0').map(str::to_owned).collect(),
        groups: read("cgroup").unwrap_or_default(),
        program: root.read_link(&format!("/proc/{pid}/exe")).ok().flatten().unwrap_or_default(),
        space: root.read_link(&space).ok().flatten().unwrap_or_default(),
    })
}

/// Unit files that start k3s: what is called after it, and what starts at boot.
fn units(root: &Root) -> Vec<Stranger> {
    let enabled = root.list(WANTS).unwrap_or_default();
    let of_k3s = UNIT_DIRECTORIES.iter().flat_map(|place| root.list(place).unwrap_or_default());
    let names: BTreeSet<String> =
        of_k3s.filter(|name| name.starts_with("k3s")).chain(enabled.iter().cloned()).collect();
    let is_other = |name: &&String| name.ends_with(".service") && !UNITS.contains(&name.as_str());
    let stranger = |name: &String| {
        let place = overrides::fragment(root, name)?;
        starts(root, &place).then(|| Stranger { place, pid: 0, enabled: enabled.contains(name) })
    };
    names.iter().filter(is_other).filter_map(stranger).collect()
}

fn starts(root: &Root, unit_file: &str) -> bool {
    root.read_text(unit_file).is_ok_and(|text| text.is_some_and(|text| starts_k3s(&text)))
}

fn scripts(root: &Root) -> Vec<Stranger> {
    let at_boot: Vec<String> = LEVELS.iter().flat_map(|level| root.list(level).unwrap_or_default()).collect();
    // `S01k3s` of System V, `k3s` of OpenRC.
    let is_enabled = |name: &str| at_boot.iter().any(|link| link == name || is_start_of(link, name));
    let names = root.list(SCRIPTS).unwrap_or_default().into_iter().filter(|name| name.starts_with("k3s"));
    let stranger =
        |name: String| Stranger { enabled: is_enabled(&name), place: format!("{SCRIPTS}/{name}"), pid: 0 };
    names.map(stranger).collect()
}

fn is_start_of(link: &str, name: &str) -> bool {
    let number = link.strip_prefix('S').and_then(|rest| rest.strip_suffix(name));
    number.is_some_and(|number| number.len() == 2 && number.bytes().all(|byte| byte.is_ascii_digit()))
}
