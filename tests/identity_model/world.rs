//! One host, what happens to it, and what must never follow.
//!
//! Owns the events, the passes between them, and the law.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use edge_bootstrap::allow::{self, Allowance};
use edge_bootstrap::boot::{self, Agent, Order, StopKind, Until};
use edge_bootstrap::cli::status;
use edge_bootstrap::facts::runtime::PinnedIdentity;
use edge_bootstrap::report::status::one_line;
use edge_bootstrap::role::Role;
use edge_bootstrap::sys::{Clock, Root};
use edge_bootstrap::wire::secret::sha256_hex;
use edge_bootstrap::{gate, hold, identity};

use super::central::{self, Central, IP, NAME};
use super::k3s::{self, Membership, Node, Start};
use super::tree::TestHost;

/// What happens to the host.
#[derive(Debug, Clone)]
pub enum Event {
    Rename {
        is_static: bool,
    },
    Address(&'static str),
    /// The disk is in another machine, or back in its own.
    Machine {
        is_other: bool,
    },
    Cut,
    /// An older copy of a file, or of nothing when there is none.
    Restore {
        file: usize,
        age: usize,
    },
    Damage {
        file: usize,
        keeps: u8,
    },
    Token,
    Role(&'static str),
    Central(Word),
    Clock(u64),
    DatastoreLost,
    Tombstone,
    /// The datastore of another host, of another room or both.
    Foreign {
        name: bool,
        ca: bool,
    },
    DropIn(&'static str),
    NoDropIns,
    Daemon {
        lives: bool,
    },
}

/// What changes at the central service.
#[derive(Debug, Clone, Copy)]
pub enum Word {
    Formed,
    Joined,
    Alone,
    InitHere,
    InitElsewhere,
}

/// What comes after an event.
#[derive(Debug, Clone)]
pub struct Step {
    pub event: Event,
    /// A pass of the daemon, when it lives.
    pub pass: Option<Wan>,
    /// k3s comes to READY where the gate lets it start.
    pub ready: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wan {
    Up,
    Down,
}

/// How a case begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    Holder,
    Server,
    Agent,
}

/// What the gate said, over all cases.
#[derive(Debug, Default)]
pub struct Tally {
    pub starts: u32,
    pub refusals: BTreeMap<String, u32>,
}

const FILES: [&str; 6] = [
    "etc/rancher/k3s/config.yaml",
    "var/lib/edge-bootstrap/identity.json",
    "var/lib/edge-bootstrap/assignment.json",
    "var/lib/edge-bootstrap/ledger.json",
    "var/lib/edge-bootstrap/generations/1/server-token",
    "var/lib/edge-bootstrap/generations/2/agent-token",
];
const ETCD: &str = "var/lib/rancher/k3s/server/db/etcd";
const CA: &str = "var/lib/rancher/k3s/server/tls/server-ca.crt";
const DROP_INS: &str = "etc/rancher/k3s/config.yaml.d";
const MACHINES: [(&str, &str); 2] = [
    ("4c4c4544-0042-3510-8052-b4c04f4d3132", "S4X9NF0M8812"),
    ("4c4c4544-0099-7710-8052-000000000001", "WD-WX31A1234567"),
];

pub struct World {
    host: TestHost,
    central: Central,
    daemon_lives: bool,
    is_other_machine: bool,
    now: u64,
    boot: u32,
    /// Epoch for which a pass of this boot heard that the lease is this host's.
    lease: Option<u64>,
    last_pinned: Option<PinnedIdentity>,
    /// Lives of the cluster in which this host came to READY.
    lived: BTreeSet<u64>,
    history: BTreeMap<&'static str, Vec<Vec<u8>>>,
    codes: BTreeSet<String>,
    pub tally: Tally,
}

impl World {
    pub fn new(begin: Begin, codes: &BTreeSet<String>) -> Self {
        let host = TestHost::new();
        let case = if begin == Begin::Agent { "07-agent" } else { "06-joining-server" };
        host.overlay(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/plan").join(case).join("root"));
        let is_holder = begin == Begin::Holder;
        let central = Central {
            generation: 1,
            role: if begin == Begin::Agent { "agent" } else { "server" },
            epoch: 1,
            init: is_holder,
            is_formed: !is_holder,
            servers: if is_holder { Vec::new() } else { vec![1, 3] },
            token: 1,
        };
        let world = Self {
            host,
            central,
            daemon_lives: true,
            is_other_machine: false,
            now: 1_800_000_000,
            boot: 0,
            lease: None,
            last_pinned: None,
            lived: BTreeSet::new(),
            history: BTreeMap::new(),
            codes: codes.clone(),
            tally: Tally::default(),
        };
        world.furnish();
        world
    }

    /// What every host has before the agent comes.
    fn furnish(&self) {
        let pin = "A".repeat(43);
        self.put("etc/edge-bootstrap/config.toml", &format!("[central]\nendpoints = [\"https://127.0.0.1:1\"]\npins = [\"sha256/{pin}=\"]\n[node]\nsite = \"hz-017\"\nip = \"{IP}\"\n"));
        let store = "var/lib/edge-bootstrap/k3s/v1.36.2+k3s1";
        self.put(&format!("{store}/k3s"), "k3s");
        self.put(&format!("{store}/k3s.sha256"), &sha256_hex(b"k3s"));
        self.put(".facts/addresses", &format!("eth0 {IP}/24\nlo 127.0.0.1/8\n"));
        self.put("sys/block/sda/removable", "0\n");
        self.put("etc/hostname", "localhost\n");
        self.machine();
        self.begin_boot();
    }

    fn root(&self) -> Root {
        self.host.root()
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root().path(path)
    }

    fn put(&self, path: &str, text: &str) {
        let real = self.path(path);
        std::fs::create_dir_all(real.parent().unwrap()).unwrap();
        std::fs::write(&real, text).unwrap();
        std::fs::set_permissions(real, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }

    fn remove_dir(&self, path: &str) {
        let _ = std::fs::remove_dir_all(self.path(path));
    }

    fn begin_boot(&self) {
        self.remove_dir("run");
        self.put("proc/sys/kernel/random/boot_id", &format!("boot-{}\n", self.boot));
        let name = std::fs::read_to_string(self.path("etc/hostname")).unwrap();
        self.put("proc/sys/kernel/hostname", &name);
        self.daemon_process();
    }

    /// This test is the daemon: a hold of it counts while its process is there.
    fn daemon_process(&self) {
        let own = format!("proc/{}", std::process::id());
        self.remove_dir(&own);
        if self.daemon_lives {
            self.put(&format!("{own}/stat"), &format!("1 (x) S {} 77 0\n", "0 ".repeat(18).trim_end()));
        }
    }

    fn machine(&self) {
        let (uuid, disk) = MACHINES[usize::from(self.is_other_machine)];
        self.put("sys/class/dmi/id/product_uuid", &format!("{uuid}\n"));
        self.put("sys/block/sda/device/serial", &format!("{disk}\n"));
    }

    /// A refusal that is let pass for ever: the check behind it is then no more.
    pub fn without_check(&self, code: &str) {
        let [code, by, reason] = [code, "test", "mutation"].map(str::to_owned);
        let allowance = Allowance { code, since: 0, until: u64::MAX, by, reason };
        allow::add(&self.root(), Clock::Fixed(self.now), allowance).unwrap();
    }

    // === events ===

    /// # Errors
    /// How the law was broken.
    pub async fn step(&mut self, step: &Step) -> Result<(), String> {
        self.happen(&step.event);
        if let Some(wan) = step.pass.filter(|_| self.daemon_lives) {
            self.pass(wan).await;
        }
        self.remember();
        for unit in ["k3s.service", "k3s-agent.service"] {
            self.start(unit, step.ready).await?;
        }
        self.remember();
        Ok(())
    }

    fn happen(&mut self, event: &Event) {
        match event {
            Event::Rename { is_static } => {
                self.put(if *is_static { "etc/hostname" } else { "proc/sys/kernel/hostname" }, "drifted\n");
            }
            Event::Address(ip) => self.put(".facts/addresses", &format!("eth0 {ip}/24\nlo 127.0.0.1/8\n")),
            Event::Machine { is_other } => {
                self.is_other_machine = *is_other;
                self.machine();
                self.cut();
            }
            Event::Cut => self.cut(),
            Event::Restore { file, age } => self.restore(FILES[file % FILES.len()], *age),
            Event::Damage { file, keeps } => self.damage(FILES[file % FILES.len()], *keeps),
            Event::Token => self.at_central(|central| central.token += 1),
            Event::Role(role) => self.at_central(|central| central.role = role),
            Event::Central(word) => self.hear(*word),
            Event::Clock(now) => self.now = *now,
            Event::DatastoreLost => self.remove_dir(ETCD),
            Event::Tombstone if self.path(ETCD).is_dir() => self.put(&format!("{ETCD}/tombstone"), ""),
            Event::Tombstone => {}
            Event::Foreign { name, ca } => self.foreign(*name, *ca),
            Event::DropIn(line) => {
                let key = line.split(':').next().unwrap_or_default();
                self.put(&format!("{DROP_INS}/50-{key}.yaml"), &format!("{line}\n"));
            }
            Event::NoDropIns => self.remove_dir(DROP_INS),
            Event::Daemon { lives } => {
                self.daemon_lives = *lives;
                self.daemon_process();
            }
        }
    }

    fn cut(&mut self) {
        self.boot += 1;
        self.lease = None;
        self.begin_boot();
    }

    fn at_central(&mut self, change: impl FnOnce(&mut Central)) {
        change(&mut self.central);
        self.central.generation += 1;
    }

    fn hear(&mut self, word: Word) {
        let is_up = self.lived.contains(&self.central.epoch);
        self.at_central(|central| match word {
            // Only the holder of the lease forms the cluster, and others join what is formed.
            Word::Formed => central.is_formed |= is_up,
            Word::Joined if central.is_formed => central.servers = vec![1, 3],
            Word::Joined => {}
            Word::Alone => central.servers = Vec::new(),
            Word::InitHere | Word::InitElsewhere if central.epoch + 1 >= central::FOREIGN => {}
            Word::InitHere => {
                central.epoch += 1;
                (central.init, central.is_formed, central.servers) = (true, false, Vec::new());
            }
            Word::InitElsewhere => {
                central.epoch += 1;
                (central.init, central.is_formed, central.servers) = (false, true, vec![1, 3]);
            }
        });
    }

    fn restore(&self, file: &str, age: usize) {
        let Some(copies) = self.history.get(file).filter(|copies| !copies.is_empty()) else { return };
        let copy = &copies[age % copies.len()];
        if self.path(file).parent().unwrap().is_dir() {
            std::fs::write(self.path(file), copy).unwrap();
        }
    }

    fn damage(&self, file: &str, keeps: u8) {
        let Ok(bytes) = std::fs::read(self.path(file)) else { return };
        let keep = bytes.len() * usize::from(keeps) / 256;
        std::fs::write(self.path(file), &bytes[..keep]).unwrap();
    }

    fn foreign(&self, name: bool, ca: bool) {
        if self.path(ETCD).is_dir() {
            self.put(
                &format!("{ETCD}/name"),
                if name { "172-16-99-9-0a1b2c3d" } else { "172-16-36-2-0a1b2c3d" },
            );
            self.put(CA, central::ca_pem(if ca { central::FOREIGN } else { self.central.epoch }));
            if name || ca {
                self.put(&format!("{ETCD}/foreign"), "");
            }
        }
    }

    /// Copies that may come back later.
    fn remember(&mut self) {
        self.last_pinned = self.pinned();
        for file in FILES {
            let Ok(bytes) = std::fs::read(self.path(file)) else { continue };
            let copies = self.history.entry(file).or_default();
            if !copies.contains(&bytes) {
                copies.push(bytes);
            }
        }
    }

    // === the agent ===

    async fn pass(&mut self, wan: Wan) {
        let root = self.root();
        root.make_dir(edge_bootstrap::paths::RUN_DIR, 0o755).unwrap();
        // The report that the cluster is formed waits in the outbox for the service.
        if wan == Wan::Up && self.lived.contains(&self.central.epoch) && !self.central.is_formed {
            self.at_central(|central| central.is_formed = true);
        }
        // Word comes only to a host that central can take for this one.
        let told = (wan == Wan::Up && !self.is_other_machine).then(|| self.central.tell(&root));
        let mut agent = Agent::new(root.clone(), None).unwrap();
        agent.clock = Clock::Fixed(self.now);
        agent.confirmed.clone_from(&told);
        let order = Order { until: Until::Written, patience: Duration::ZERO, observe_only: false };
        let pass = boot::pass(&mut agent, order).await;
        if told.is_some() {
            self.lease =
                Some(self.central.epoch).filter(|_| self.central.init && self.central.role == "server");
        }
        match &pass.stop {
            Some(stop) if stop.kind == StopKind::Held => hold::set(&root, &stop.why).map(|_| ()).unwrap(),
            _ => hold::clear(&root).map(|_| ()).unwrap(),
        }
        let name = pass.plan.as_ref().and_then(|plan| plan.plan().hostname.as_ref());
        if let (Some(name), None) = (name, &pass.stop) {
            self.put("etc/hostname", &format!("{}\n", name.name));
            self.put("proc/sys/kernel/hostname", &format!("{}\n", name.name));
        }
    }

    // === starts and their law ===

    async fn start(&mut self, unit: &str, ready: bool) -> Result<(), String> {
        let (root, clock) = (self.root(), Clock::Fixed(self.now));
        // A unit that was never written cannot be started.
        if self.pinned().is_none() {
            return Ok(());
        }
        let verdict = gate::check(&root, clock, unit);
        if let Some(refusal) = verdict.refusal {
            *self.tally.refusals.entry(refusal.code.clone()).or_default() += 1;
            let _ = gate::line(&root, clock, unit, &refusal);
            return self.is_explained(unit, &refusal.code, &refusal.reason, &refusal.next);
        }
        match k3s::start(&self.path("/"), unit) {
            Start::Fails(_) => Ok(()),
            Start::Runs(node) => {
                if self.run(unit, &node, ready).await? {
                    self.tally.starts += 1;
                }
                Ok(())
            }
        }
    }

    fn is_explained(&self, unit: &str, code: &str, reason: &str, next: &str) -> Result<(), String> {
        if !self.codes.contains(code) {
            return Err(format!("{code} stands in no list"));
        }
        if !allow::is_known(code) {
            return Err(format!("{code} is unknown to `gate allow`"));
        }
        let (told, _) = status::look(&self.root(), Clock::Fixed(self.now));
        let text = status::text(&told);
        let allow = gate::allow_command(code);
        let missing: Vec<&str> = [unit, code, reason, next, &allow]
            .into_iter()
            .filter(|words| words.is_empty() || !text.contains(&one_line(words)))
            .collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("status does not tell {missing:?}:\n{text}")) }
    }

    /// Runs k3s as `node`, when that is right; whether it came up.
    async fn run(&mut self, unit: &str, node: &Node, ready: bool) -> Result<bool, String> {
        let pinned = self.pinned().unwrap();
        self.is_this_node(unit, node, &pinned)?;
        let epoch = match &node.membership {
            Membership::Member => self.is_this_member(&pinned)?,
            Membership::Joins { url, ca_hash } => match self.joins(url, ca_hash.as_deref())? {
                Some(epoch) => epoch,
                // The server refuses the token, and k3s tries again.
                None => return Ok(false),
            },
            Membership::NewCluster => self.may_form(&pinned)?,
            Membership::Private(what) | Membership::Destroys(what) => {
                return Err(format!("k3s starts: {what}"));
            }
        };
        self.came_up(unit, &pinned, epoch, ready).await;
        Ok(true)
    }

    fn is_this_node(&self, unit: &str, node: &Node, pinned: &PinnedIdentity) -> Result<(), String> {
        let fixed = (node.name.as_str(), node.ip.as_deref());
        if fixed != (NAME, Some(IP)) || pinned.node_name != NAME || pinned.node_ip.to_string() != IP {
            return Err(format!("k3s starts as {fixed:?}"));
        }
        // What cannot be read is no evidence for the gate; what k3s would run as is
        // right all the same, because its configuration says it.
        if identity::load(&self.root()).is_err() {
            return Ok(());
        }
        let hostname = std::fs::read_to_string(self.path("proc/sys/kernel/hostname")).unwrap();
        if hostname.trim() != NAME {
            return Err(format!("k3s starts on a host called {hostname}"));
        }
        let addresses = std::fs::read_to_string(self.path(".facts/addresses")).unwrap();
        if !addresses.contains(&format!(" {IP}/")) {
            return Err("k3s starts without its address".to_owned());
        }
        if (unit == "k3s.service") != (pinned.role == Role::Server) {
            return Err(format!("{unit} starts on a host pinned as {}", pinned.role));
        }
        let of_here = MACHINES[usize::from(self.is_other_machine)].0;
        if pinned.fingerprint.uuid.as_deref() != Some(of_here) {
            return Err("a copied disk starts as its original".to_owned());
        }
        Ok(())
    }

    fn is_this_member(&self, pinned: &PinnedIdentity) -> Result<u64, String> {
        let read = |path: &str| std::fs::read_to_string(self.path(path)).unwrap_or_default();
        let epoch: u64 = read(&format!("{ETCD}/epoch")).trim().parse().unwrap_or(0);
        let name = read(&format!("{ETCD}/name"));
        if epoch < pinned.highest_epoch {
            return Err(format!(
                "a datastore of epoch {epoch} starts, the host knows of {}",
                pinned.highest_epoch
            ));
        }
        let Some(joined) = &pinned.joined else { return Ok(epoch) };
        if name.trim().rsplit_once('-').map(|(prefix, _)| prefix) != Some(NAME) {
            return Err(format!("the datastore of {name} starts"));
        }
        let ca = edge_bootstrap::facts::ca::ca_hash_of_pem(read(CA).as_bytes());
        if ca.is_some() && joined.ca_hash.is_some() && ca != joined.ca_hash {
            return Err("the datastore of another cluster starts".to_owned());
        }
        Ok(epoch)
    }

    /// The epoch of the cluster that is joined; none when its server says no.
    fn joins(&self, url: &str, ca_hash: Option<&str>) -> Result<Option<u64>, String> {
        let epoch = if Central::is_of_the_room(url) { self.central.epoch } else { central::FOREIGN };
        match ca_hash {
            Some(hash) if hash != central::ca_hash(epoch) => Ok(None),
            Some(_) if epoch != central::FOREIGN => Ok(Some(epoch)),
            _ => Err(format!("k3s joins {url} with the CA {ca_hash:?} in its token")),
        }
    }

    fn may_form(&self, pinned: &PinnedIdentity) -> Result<u64, String> {
        if self.lease != Some(pinned.epoch) {
            return Err(format!(
                "k3s forms a cluster of epoch {}, the lease is {:?}",
                pinned.epoch, self.lease
            ));
        }
        if self.lived.contains(&pinned.epoch) {
            return Err(format!("k3s forms the cluster of epoch {} a second time", pinned.epoch));
        }
        Ok(pinned.epoch)
    }

    async fn came_up(&mut self, unit: &str, pinned: &PinnedIdentity, epoch: u64, ready: bool) {
        if unit == "k3s.service" && !self.path(ETCD).join("member/wal").is_dir() {
            self.put(&format!("{ETCD}/member/wal/0.wal"), "x");
            self.put(&format!("{ETCD}/name"), &format!("{NAME}-0a1b2c3d"));
            self.put(&format!("{ETCD}/epoch"), &epoch.to_string());
            self.put(CA, central::ca_pem(epoch));
        }
        // With its data in place of ours, etcd finds itself in no list of members.
        let is_foreign = unit == "k3s.service" && self.path(ETCD).join("foreign").exists();
        // A READY that no daemon saw is pinned and reported by nobody.
        if ready && !is_foreign && self.daemon_lives {
            self.lived.insert(epoch);
            let facts = self.host.facts().await;
            identity::pin(&self.root(), &identity::after_ready(pinned, &facts)).unwrap();
        }
    }

    /// Who the host is, as pinned; the last that could be read when both copies
    /// of the file are damaged.
    fn pinned(&self) -> Option<PinnedIdentity> {
        match identity::load(&self.root()) {
            Ok(loaded) => loaded.value(),
            Err(_) => self.last_pinned.clone(),
        }
    }
}
