//! The readable form of facts.
//!
//! Owns the words and the layout for people; pure text, no terminal, no colour.
//! Scripts read `facts --json`, whose shape is a contract.

use std::fmt::{Display, Write as _};

use crate::facts::hardware::{Disk, Filesystem, Hardware};
use crate::facts::identity::Identity;
use crate::facts::network::{Interface, Network};
use crate::facts::runtime::{Runtime, Unit};
use crate::facts::system::{CgroupVersion, System};
use crate::facts::{Fact, HostFacts};

/// `facts`: observes this host and prints what was seen.
///
/// # Errors
/// When the result has no JSON form.
pub async fn run(common: &super::Common) -> anyhow::Result<u8> {
    let facts = crate::boot::facts(&common.root()).await;
    if common.json {
        super::output::json(&facts)?
    } else {
        super::output::text(&text(&facts))
    }
    Ok(0)
}

/// Width of the names before values.
const NAME: usize = 18;

/// All facts as lines of text, one section each. An unknown fact is shown with
/// its reason. Holds no secret, because facts hold none.
#[must_use]
pub fn text(facts: &HostFacts) -> String {
    let mut page = Page::default();
    identity(&mut page, &facts.identity);
    hardware(&mut page, &facts.hardware);
    network(&mut page, &facts.network);
    system(&mut page, &facts.system);
    runtime(&mut page, &facts.runtime);
    page.0
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn section(&mut self, title: &str) {
        let gap = if self.0.is_empty() { "" } else { "\n" };
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(self.0, "{gap}{title}");
    }

    fn line(&mut self, name: &str, value: impl Display) {
        let _ = writeln!(self.0, "  {name:<NAME$} {}", plain(&value.to_string()));
    }

    fn fact<T: Display>(&mut self, name: &str, fact: &Fact<T>) {
        self.line(name, shown(fact));
    }

    /// A fact that is known to be there or not.
    fn maybe<T: Display>(&mut self, name: &str, fact: &Fact<Option<T>>) {
        let text =
            fact.as_text(|value| value.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string));
        self.line(name, text);
    }

    /// One line for each item under one name.
    fn rows<T>(&mut self, name: &str, fact: &Fact<Vec<T>>, row: impl Fn(&T) -> String) {
        match fact {
            Fact::Unknown { unknown } => self.line(name, format!("unknown: {unknown}")),
            Fact::Known(items) if items.is_empty() => self.line(name, "none"),
            Fact::Known(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.line(if index == 0 { name } else { "" }, row(item));
                }
            }
        }
    }
}

trait AsText<T> {
    fn as_text(&self, show: impl FnOnce(&T) -> String) -> String;
}

impl<T> AsText<T> for Fact<T> {
    fn as_text(&self, show: impl FnOnce(&T) -> String) -> String {
        match self {
            Fact::Known(value) => show(value),
            Fact::Unknown { unknown } => format!("unknown: {unknown}"),
        }
    }
}

fn shown<T: Display>(fact: &Fact<T>) -> String {
    fact.as_text(ToString::to_string)
}

/// The value, or `?` where a row has no room for a reason.
fn brief<T: Display>(fact: &Fact<T>) -> String {
    fact.known().map_or_else(|| "?".to_owned(), ToString::to_string)
}

/// A value from the host must not move the cursor of a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn identity(page: &mut Page, identity: &Identity) {
    page.section("Identity");
    page.fact("hostname", &identity.hostname.kernel);
    page.maybe("static hostname", &identity.hostname.static_name);
    page.maybe("transient", &identity.hostname.transient);
    page.fact("machine id", &identity.machine_id);
    page.fact("boot id", &identity.boot_id);
    let board = &identity.board;
    page.line("board", format!("{} {}", brief(&board.vendor), brief(&board.product)));
    page.fact("board uuid", &board.uuid);
    page.fact("product serial", &board.product_serial);
    page.fact("board serial", &board.board_serial);
    page.fact("chassis serial", &board.chassis_serial);
}

fn hardware(page: &mut Page, hardware: &Hardware) {
    page.section("Hardware");
    page.line("processors", format!("{} ({})", shown(&hardware.cpus), brief(&hardware.arch)));
    page.line(
        "memory",
        hardware.memory.as_text(|memory| {
            let [total, available, swap] =
                [memory.total_bytes, memory.available_bytes, memory.swap_total_bytes].map(size);
            format!("{total}, {available} available, swap {swap}")
        }),
    );
    page.rows("disks", &hardware.disks, disk);
    page.rows("file systems", &hardware.filesystems, filesystem);
}

fn disk(disk: &Disk) -> String {
    let bytes = brief(&disk.size_bytes.clone().map(size));
    let kind = match disk.rotational.known() {
        Some(true) => "rotating",
        Some(false) => "solid",
        None => "?",
    };
    format!("{} {bytes} {kind}, {}, serial {}", disk.name, brief(&disk.model), shown(&disk.serial))
}

fn filesystem(fs: &Filesystem) -> String {
    let free = match (fs.free_bytes.known(), fs.total_bytes.known()) {
        (Some(free), Some(total)) => format!("{} of {} free", size(*free), size(*total)),
        _ => shown(&fs.free_bytes.clone().map(size)),
    };
    let inodes = brief(&fs.free_inodes);
    let mode = if fs.options.iter().any(|option| option == "ro") { "ro" } else { "rw" };
    format!("{} {} {} {mode}, {free}, {inodes} inodes free", fs.mount_point, fs.fs_type, fs.source)
}

fn network(page: &mut Page, network: &Network) {
    page.section("Network");
    page.rows("interfaces", &network.interfaces, interface);
    page.rows("routes", &network.routes, |route| {
        let via = route.gateway.map_or_else(String::new, |gateway| format!(" via {gateway}"));
        format!("{}{via} dev {}", route.destination, route.interface)
    });
    page.rows("resolvers", &network.resolvers, ToString::to_string);
}

fn interface(nic: &Interface) -> String {
    let link = match nic.carrier.known() {
        Some(true) => "up",
        Some(false) => "no carrier",
        None => "down",
    };
    let permanent = match nic.permanent_mac.known() {
        Some(own) if Some(own) == nic.mac.known() => String::new(),
        Some(own) => format!(" (permanent {own})"),
        None => " (permanent unknown)".to_owned(),
    };
    let addresses: Vec<String> = nic.addresses.iter().map(ToString::to_string).collect();
    let driver = brief(&nic.driver);
    format!("{} {link}, {}{permanent}, driver {driver}, {}", nic.name, brief(&nic.mac), list(&addresses))
}

fn system(page: &mut Page, system: &System) {
    page.section("System");
    page.line(
        "distribution",
        system.os.as_text(|os| format!("{} ({} {})", os.pretty_name, os.id, os.version_id)),
    );
    page.fact("kernel", &system.kernel);
    page.fact("command line", &system.cmdline);
    page.line("modules", system.modules.as_text(|modules| format!("{} loaded", modules.len())));
    page.fact("systemd", &system.systemd);
    page.line(
        "control groups",
        system
            .cgroup
            .as_text(|cgroup| format!("{}: {}", version_name(cgroup.version), cgroup.controllers.join(" "))),
    );
    page.line("clock", system.time.synchronized.as_text(|is| synchronized(*is).to_owned()));
    for (name, value) in &system.sysctl {
        page.line("sysctl", format!("{name} = {}", shown(value)));
    }
}

fn version_name(version: CgroupVersion) -> &'static str {
    match version {
        CgroupVersion::V1 => "v1",
        CgroupVersion::Hybrid => "v1 with a v2 tree beside it",
        CgroupVersion::V2 => "v2",
    }
}

fn synchronized(is: bool) -> &'static str {
    if is { "synchronised" } else { "not synchronised" }
}

fn runtime(page: &mut Page, runtime: &Runtime) {
    page.section("Runtime");
    let containerd = &runtime.containerd;
    let version = containerd.version.as_text(|(major, minor, patch)| format!("{major}.{minor}.{patch}"));
    page.line("containerd", format!("{version}, {}", brief(&containerd.binary)));
    page.fact("containerd root", &containerd.root_fs);
    page.maybe("k3s", &runtime.k3s.version);
    let store: Vec<String> = runtime.k3s.store.keys().cloned().collect();
    page.line("k3s store", list(&store));
    page.line(
        "datastore",
        runtime.k3s.has_datastore.as_text(|has| if *has { "present" } else { "none" }.to_owned()),
    );
    page.maybe("etcd member", &runtime.k3s.etcd_member);
    page.maybe("CA hash", &runtime.k3s.ca_hash);
    for (name, fact) in &runtime.units {
        page.line("unit", format!("{name} {}", fact.as_text(unit)));
    }
    page.line(
        "identity",
        runtime.identity.as_text(|pinned| match pinned {
            Some(pinned) => format!("{} {} in {}", pinned.node_name, pinned.node_ip, pinned.cluster),
            None => "not assigned".to_owned(),
        }),
    );
    page.line(
        "generation",
        match &runtime.generations.current {
            Some(current) => current.number.to_string(),
            None => "none".to_owned(),
        },
    );
    page.rows("other CNI files", &runtime.cni_files, Clone::clone);
    for (path, file) in &runtime.files {
        page.line("file", format!("{path} {:04o} {}", file.mode, digest(&file.sha256)));
    }
}

fn unit(unit: &Unit) -> String {
    format!(
        "{} ({}), {}",
        unit.active,
        unit.sub,
        if unit.file_state.is_empty() { "no file" } else { &unit.file_state }
    )
}

fn digest(sha256: &str) -> String {
    match sha256.get(..12) {
        Some(start) => format!("sha256:{start}"),
        None => "unreadable".to_owned(),
    }
}

fn list(items: &[String]) -> String {
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

/// Bytes with a binary unit and one decimal.
fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let Some(unit) = (1..=units.len()).rev().find(|unit| bytes >> (10 * unit) > 0) else {
        return format!("{bytes} B");
    };
    let tenths = u128::from(bytes) * 10 / (1 << (10 * unit));
    format!("{}.{} {}", tenths / 10, tenths % 10, units.get(unit - 1).unwrap_or(&""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_fact_is_shown_with_its_reason() {
        let mut facts = HostFacts::default();
        facts.identity.board.uuid = Fact::unknown("placeholder of the vendor");
        let page = text(&facts);
        assert!(page.contains("board uuid         unknown: placeholder of the vendor\n"), "{page}");
    }

    #[test]
    fn a_value_cannot_control_the_terminal() {
        let mut facts = HostFacts::default();
        facts.system.cmdline = Fact::Known("quiet\u{1b}[2J\nIdentity".to_owned());
        let page = text(&facts);
        assert!(!page.contains('\u{1b}'));
        assert_eq!(page.lines().filter(|line| line.starts_with("Identity")).count(), 1);
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(2 << 40), "2.0 TiB");
        assert_eq!(size(u64::MAX), "16383.9 PiB");
    }
}
