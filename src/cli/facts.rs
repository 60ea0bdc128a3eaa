//! The readable form of facts.
//!
//! Owns the words and the layout for people; pure text, no terminal, no colour.
//! Scripts read `facts --json`, whose shape is a contract.

use std::fmt::{Display, Write as _};

use crate::facts::hardware::{Disk, Filesystem, Hardware};
use crate::facts::identity::Identity;
use crate::facts::network::{Interface, Network};
use crate::facts::runtime::{Runtime, Unit};
use crate::facts::storage::{Choice, Pool, Storage, StoreRoot};
use crate::facts::system::{CgroupVersion, System};
use crate::facts::{Fact, HostFacts};
use crate::paths::CONTAINERD_ROOT;

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
    storage(&mut page, &facts.storage);
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
        let text = match file.mode {
            // Only noted as there.
            0 if file.sha256.is_empty() => format!("{path} present"),
            mode => format!("{path} {mode:04o} {}", digest(&file.sha256)),
        };
        page.line("file", text);
    }
}

fn storage(page: &mut Page, storage: &Storage) {
    page.section("Storage");
    page.line("containerd root", format!("{CONTAINERD_ROOT} {}", storage.root.as_text(store_root)));
    if let Some(root) = storage.root.known() {
        page.line("entry types", entry_types(root));
        page.line("free", store_free(root));
    }
    let count = |(name, count): (&String, &u64)| format!("{name} ({count} snapshots)");
    let content = |all: &std::collections::BTreeMap<_, _>| list(&all.iter().map(count).collect::<Vec<_>>());
    page.line("snapshots of", storage.content.as_text(content));
    let look = storage.look.known();
    let pool = look.map_or_else(|| Fact::unknown("nobody has looked in this boot"), |look| look.pool.clone());
    page.maybe("thin pool", &pool.map(|pool| pool.map(|pool| thin_pool(&pool))));
    page.maybe("choice in force", &storage.choice.clone().map(|choice| choice.map(|choice| chosen(&choice))));
}

fn store_root(root: &StoreRoot) -> String {
    let mode = if root.read_only { "ro" } else { "rw" };
    format!("on {} {} {} {mode}", root.mount_point, root.fs_type, root.source)
}

fn entry_types(root: &StoreRoot) -> String {
    let word = |is: &bool| if *is { "told" } else { "not told" }.to_owned();
    let ftype = match root.xfs_ftype.known() {
        Some(Some(ftype)) => format!(" (xfs ftype={})", u8::from(*ftype)),
        Some(None) | None => String::new(),
    };
    format!("{}{ftype}", root.d_type.as_text(word))
}

fn store_free(root: &StoreRoot) -> String {
    let inodes = match root.free_inodes.known() {
        Some(Some(inodes)) => format!("{inodes} inodes"),
        Some(None) => "no fixed number of inodes".to_owned(),
        None => "? inodes".to_owned(),
    };
    let bytes = |fact: &Fact<u64>| shown(&fact.clone().map(size));
    format!("{} of {}, {inodes}", bytes(&root.free_bytes), bytes(&root.total_bytes))
}

fn thin_pool(pool: &Pool) -> String {
    if !pool.active {
        return format!("{} inactive", pool.name);
    }
    let used = |(used, all): (u64, u64)| format!("{used} of {all}");
    let check = if pool.needs_check { ", needs a check" } else { "" };
    let (data, metadata) = (used(pool.data), used(pool.metadata));
    format!("{} {}{check}, {data} data blocks and {metadata} metadata blocks in use", pool.name, pool.mode)
}

fn chosen(choice: &Choice) -> String {
    let pool = choice.pool.as_ref().map(|pool| format!(" on {pool}")).unwrap_or_default();
    format!("{}{pool}: {}", choice.snapshotter, choice.reason)
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
    use crate::facts::storage::Look;

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
    fn storage_tells_what_the_snapshotter_stands_on() {
        let mut facts = HostFacts::default();
        let page = text(&facts);
        assert!(page.contains("containerd root    /var/lib/containerd unknown: not observed\n"), "{page}");
        assert!(page.contains("thin pool          unknown: nobody has looked in this boot\n"), "{page}");
        let root = StoreRoot {
            mount_point: "/data".to_owned(),
            fs_type: "xfs".to_owned(),
            source: "/dev/sdb1".to_owned(),
            d_type: Fact::Known(false),
            xfs_ftype: Fact::Known(Some(false)),
            free_bytes: Fact::Known(3 << 30),
            total_bytes: Fact::Known(8 << 30),
            free_inodes: Fact::Known(Some(9)),
            ..StoreRoot::default()
        };
        let pool = Pool {
            name: "vg-pool".to_owned(),
            active: true,
            mode: "rw".to_owned(),
            data: (1, 4),
            metadata: (2, 8),
            ..Pool::default()
        };
        facts.storage.root = Fact::Known(root);
        facts.storage.content = Fact::Known([("devmapper".to_owned(), 7)].into());
        facts.storage.look = Fact::Known(Look { pool: Fact::Known(Some(pool)), ..Look::default() });
        let choice = serde_json::json!({
            "snapshotter": "devmapper", "pool": "vg-pool", "mount_point": "/data", "fs_type": "xfs", "reason": "no d_type"
        });
        facts.storage.choice = Fact::Known(serde_json::from_value(choice).ok());
        let page = text(&facts);
        let (_, section) = page.split_once("\nStorage\n").unwrap_or_default();
        assert_eq!(
            section,
            "  containerd root    /var/lib/containerd on /data xfs /dev/sdb1 rw\n  \
               entry types        not told (xfs ftype=0)\n  \
               free               3.0 GiB of 8.0 GiB, 9 inodes\n  \
               snapshots of       devmapper (7 snapshots)\n  \
               thin pool          vg-pool rw, 1 of 4 data blocks and 2 of 8 metadata blocks in use\n  \
               choice in force    devmapper on vg-pool: no d_type\n"
        );
    }

    #[test]
    fn a_file_that_is_only_noted_as_there_is_not_called_unreadable() {
        let mut facts = HostFacts::default();
        let file =
            |mode| crate::facts::runtime::FileFact { mode, size: 0, sha256: String::new(), text: None };
        facts.runtime.files = [("/usr/bin/ctr".to_owned(), file(0)), ("/x".to_owned(), file(0o600))].into();
        let page = text(&facts);
        assert!(page.contains(" /usr/bin/ctr present\n") && page.contains(" /x 0600 unreadable\n"), "{page}");
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
