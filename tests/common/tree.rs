//! A directory tree that stands for a host on which plans are carried out.
//!
//! Observed by the program's own `observe`; what a gate, a download and systemd
//! would leave behind is put there by [`TestHost::carry_out`].

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use edge_bootstrap::boot::Agent;
use edge_bootstrap::facts::runtime::{Departing, Departure, Joined, PinnedNic, StartRecord, Unit};
use edge_bootstrap::facts::storage::Pool;
use edge_bootstrap::facts::{Fact, HostFacts};
use edge_bootstrap::plan::{Local, Plan, RestoreFrom, Wanted};
use edge_bootstrap::sys::{Clock, Root, statefile};
use edge_bootstrap::wire::secret::sha256_hex;
use edge_bootstrap::{inventory, observe, paths};

/// Below these every file is for root only, as on a real host: git keeps no such modes.
const PRIVATE: [&str; 3] = ["var/lib/edge-bootstrap/", "etc/rancher/k3s/", "etc/edge-bootstrap/"];

pub struct TestHost {
    directory: tempfile::TempDir,
    units: BTreeMap<String, Fact<Unit>>,
}

impl TestHost {
    /// An empty root; containerd runs, as its package leaves it.
    pub fn new() -> Self {
        // In memory, where there is such a place: syncs of state files cost nothing there.
        let memory = Path::new("/dev/shm");
        let directory = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let mut host = Self { directory: directory.unwrap(), units: BTreeMap::new() };
        host.set_unit("containerd", "active enabled");
        host
    }

    pub fn root(&self) -> Root {
        Root::new(self.directory.path())
    }

    /// Puts the files and links of `tree` over what is there.
    pub fn overlay(&self, tree: &Path) {
        for (name, path) in files_below(tree) {
            let to = self.directory.path().join(&name);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            let _ = std::fs::remove_file(&to);
            if let Ok(target) = std::fs::read_link(&path) {
                std::os::unix::fs::symlink(target, &to).unwrap();
                continue;
            }
            std::fs::copy(&path, &to).unwrap();
            let mode = if PRIVATE.iter().any(|place| name.starts_with(place)) { 0o600 } else { 0o644 };
            std::fs::set_permissions(&to, std::fs::Permissions::from_mode(mode)).unwrap();
        }
    }

    pub fn remove(&self, path: &str) {
        let real = self.root().path(path);
        if real.is_dir() { std::fs::remove_dir_all(real) } else { std::fs::remove_file(real) }.unwrap();
    }

    /// `words`: the active state, then the state of the unit file.
    pub fn set_unit(&mut self, name: &str, words: &str) {
        let (active, file_state) = words.split_once(' ').unwrap();
        let up = ["active", "activating"].contains(&active);
        let unit = Unit {
            load: "loaded".to_owned(),
            active: active.to_owned(),
            file_state: file_state.to_owned(),
            main_pid: u32::from(up) * 4711,
            ..Unit::default()
        };
        self.units.insert(name.to_owned(), Fact::Known(unit));
    }

    pub async fn facts(&self) -> HostFacts {
        observe::host(&self.root(), Clock::Fixed(1_800_000_000), &self.units).await
    }

    /// What the settings of this root say to the plan.
    pub fn local(&self) -> Local {
        Agent::new(self.root(), None).unwrap().local()
    }

    /// Pins `joined`, as the host does after its first READY.
    pub fn join(&self, joined: Joined) {
        let mut identity = observe::runtime::identity(&self.root()).known().cloned().flatten().unwrap();
        identity.joined = Some(joined);
        statefile::store(&self.root(), paths::IDENTITY, &identity).unwrap();
    }

    /// Pins the interface that carried the node IP.
    #[allow(dead_code, reason = "not every test that shares this file needs it")]
    pub fn pin_nic(&self, nic: PinnedNic) {
        let mut identity = observe::runtime::identity(&self.root()).known().cloned().flatten().unwrap();
        identity.nic = Some(nic);
        statefile::store(&self.root(), paths::IDENTITY, &identity).unwrap();
    }

    /// Pins that etcd has removed this server, and the cluster has forgotten it.
    fn depart(&self) {
        let mut identity = observe::runtime::identity(&self.root()).known().cloned().flatten().unwrap();
        let member = "172-16-36-1-0a1b2c3d".to_owned();
        identity.departing = Some(Departing { step: Departure::Tidied, member });
        statefile::store(&self.root(), paths::IDENTITY, &identity).unwrap();
    }

    /// Makes everything so as `plan` says, and starts the units with it.
    pub fn carry_out(&mut self, plan: &Plan) {
        let root = self.root();
        for path in plan.retirement.iter().flat_map(|retirement| &retirement.paths) {
            let aside = format!("{path}.quarantine-{}", plan.retirement.as_ref().unwrap().number);
            std::fs::rename(root.path(path), root.path(&aside)).unwrap();
        }
        for item in &plan.quarantines {
            std::fs::rename(root.path(&item.path), root.path(&format!("{}.quarantine-1", item.path)))
                .unwrap();
        }
        for item in &plan.restores {
            let bytes = match &item.from {
                RestoreFrom::Copy(path) => std::fs::read(root.path(path)).unwrap(),
                RestoreFrom::Text(text) => text.clone().into_bytes(),
            };
            self.write(&item.path, &bytes, 0o600);
        }
        plan.empty.iter().flat_map(|empty| &empty.paths).for_each(|path| self.remove(path));
        if plan.departure.is_some() {
            self.depart();
        } else if let Some(identity) = &plan.identity {
            self.make_parent(paths::IDENTITY);
            statefile::store(&root, paths::IDENTITY, identity).unwrap();
        }
        for file in &plan.files {
            self.write(&file.path, &file.bytes, file.mode);
        }
        let staged = plan.upgrade.iter().flat_map(|upgrade| &upgrade.artifact);
        for artifact in plan.artifacts.iter().chain(staged) {
            self.write(&artifact.path, b"k3s", 0o755);
            self.write(&format!("{}.sha256", artifact.path), artifact.sha256.as_str().as_bytes(), 0o600);
        }
        for link in &plan.links {
            self.make_parent(&link.path);
            let real = root.path(&link.path);
            let _ = std::fs::remove_file(&real);
            std::os::unix::fs::symlink(&link.target, real).unwrap();
        }
        for removal in &plan.removals {
            root.remove_file(&removal.path).unwrap();
        }
        self.name(plan);
        self.storage(plan);
        self.address(plan);
        self.run_units(plan);
    }

    /// Without the syncs of the program's own writer: nobody cuts the power here.
    fn write(&self, path: &str, bytes: &[u8], mode: u32) {
        self.make_parent(path);
        let real = self.root().path(path);
        std::fs::write(&real, bytes).unwrap();
        std::fs::set_permissions(real, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn make_parent(&self, path: &str) {
        std::fs::create_dir_all(self.root().path(path).parent().unwrap()).unwrap();
    }

    fn name(&self, plan: &Plan) {
        for path in plan.hostname.iter().flat_map(|_| [paths::HOSTNAME, "/proc/sys/kernel/hostname"]) {
            let name = &plan.hostname.as_ref().unwrap().name;
            self.write(path, format!("{name}\n").as_bytes(), 0o644);
        }
    }

    /// Records the choice, and looks at the pool after the work on it.
    fn storage(&self, plan: &Plan) {
        let Some(storage) = &plan.storage else { return };
        if !storage.choice.mount_point.is_empty() {
            let choice = storage.choice.clone();
            inventory::update(&self.root(), |inventory| inventory.choice = Some(choice)).unwrap();
        }
        if !storage.acts.is_empty() {
            let mut look = observe::storage::again(&self.root()).look.known().unwrap().clone();
            look.pool = Fact::Known(Some(Pool {
                name: storage.choice.pool.clone().unwrap(),
                active: true,
                mode: "rw".to_owned(),
                data: (0, 1000),
                metadata: (1, 1000),
                ..Pool::default()
            }));
            self.write(paths::STORAGE_LOOK, &serde_json::to_vec(&look).unwrap(), 0o600);
        }
    }

    fn address(&self, plan: &Plan) {
        let Some(planned) = &plan.address else { return };
        let now = self.root().read_text("/.facts/addresses").unwrap().unwrap_or_default();
        if !now.contains(&planned.cidr.address.to_string()) {
            let text = format!("{now}{} {}\n", planned.interface, planned.cidr);
            self.write("/.facts/addresses", text.as_bytes(), 0o644);
        }
    }

    fn run_units(&mut self, plan: &Plan) {
        for unit in &plan.units {
            let name = unit.name.trim_end_matches(".service");
            match unit.wanted {
                Wanted::Running => {
                    self.set_unit(name, "active enabled");
                    self.record_start(name);
                }
                Wanted::Stopped if self.units.contains_key(name) => self.set_unit(name, "inactive disabled"),
                Wanted::Stopped | Wanted::Rerun => {}
            }
        }
    }

    /// What the gate of `name` records.
    fn record_start(&self, name: &str) {
        let root = self.root();
        let k3s = name.starts_with("k3s");
        let config = root.read(paths::CONTAINERD_CONFIG).unwrap().map(|bytes| sha256_hex(&bytes));
        let effective = observe::k3s::effective(&root).known().cloned().filter(|_| k3s);
        let record = StartRecord {
            server_token: observe::k3s::token_of_start(&root, &format!("{name}.service"), effective.as_ref()),
            effective,
            binary: root.read_link(paths::K3S_LINK).unwrap().filter(|_| k3s),
            config: config.filter(|_| !k3s),
            ..StartRecord::default()
        };
        self.write(&paths::started_with(name), &serde_json::to_vec(&record).unwrap(), 0o600);
        for other in ["k3s", "k3s-agent"].into_iter().filter(|other| k3s && *other != name) {
            root.remove_file(&paths::started_with(other)).unwrap();
        }
    }
}

/// Files and links below `directory`, by their path relative to it.
pub fn files_below(directory: &Path) -> BTreeMap<String, std::path::PathBuf> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(path) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&path) else { continue };
        for entry in entries.map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            } else {
                let name = entry.path().strip_prefix(directory).unwrap().to_str().unwrap().to_owned();
                found.insert(name, entry.path());
            }
        }
    }
    found
}
