//! Every fault point of apply and of state writes, killed and failed, each time
//! that it is passed: the files are of the old generation or of the new one,
//! and the next pass ends what was begun.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a test prepares its own files")]

#[allow(dead_code, reason = "shared with the campaign on real hosts")]
#[path = "hosts/campaign/whole.rs"]
mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use edge_bootstrap::facts::runtime::{Departing, Departure, Joined};
use edge_bootstrap::identity;
use edge_bootstrap::plan::forks;
use edge_bootstrap::role::Role;
use edge_bootstrap::sys::Root;
use edge_bootstrap::sys::statefile::Loaded;
use edge_bootstrap::wire::secret::sha256_hex;
use whole::{Files, GATHER};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/plan/55-local-file-in-toml/root/.");
const CONFIG: &str = "etc/rancher/k3s/config.yaml";
/// Where the program writes.
const PLACES: [&str; 4] = ["etc", "var/lib/edge-bootstrap", "var/lib/rancher", "usr/local"];
/// Points that only a pass comes by which leaves an old life.
const LEAVES: [&str; 5] = ["retiring-pinned", "aside-before", "aside-after", "retired", "leave-ended"];
/// Points that only a pass comes by which mends k3s's own files.
const MENDS: [&str; 2] = ["mended", "emptied"];
/// The datastore of the old life.
const DATASTORE: &str = "var/lib/rancher/k3s/server/db/etcd/member/wal/0.wal";
/// More passes of one point than any pass makes: then the test counts wrongly.
const MOST: usize = 200;

#[test]
fn a_first_generation_is_whole_or_absent_at_every_fault() {
    try_all(&Host::new(), &End::reach(&Host::new(), 1), None, &[&LEAVES[..], &MENDS].concat());
}

#[test]
fn a_change_leaves_the_old_generation_or_the_new_one_at_every_fault() {
    let host = Host::new();
    let old = End::reach(&host, 1);
    let reference = host.copy();
    try_all(&host, &End::reach(&reference, 2), Some(&old), &[&LEAVES[..], &MENDS].concat());
}

#[test]
fn a_leave_loses_nothing_and_goes_on_after_every_fault() {
    let host = Host::new();
    let old = End::reach(&host, 1);
    host.live();
    let reference = host.copy();
    let new = End::reach(&reference, ANOTHER_LIFE);
    let quarantine = DATASTORE.replace("server/", "server.quarantine-1/");
    assert_eq!(new.files.get(&quarantine).map(Vec::as_slice), Some(b"old life".as_slice()));
    assert!(new.files.contains_key("var/lib/rancher/k3s/agent/images/pause.tar"));
    try_all(&host, &new, Some(&old), &MENDS);
}

#[test]
fn a_removed_members_datastore_is_whole_in_one_place_at_every_fault() {
    let host = Host::new();
    let old = End::reach(&host, 1);
    host.removed_member();
    let reference = host.copy();
    let new = End::reach(&reference, REMOVED);
    let quarantine = DATASTORE.replace("/etcd/", "/etcd.quarantine-1/");
    assert_eq!(new.files.get(&quarantine).map(Vec::as_slice), Some(b"old life".as_slice()));
    assert_eq!(new.files.get(PASSWORD).map(Vec::as_slice), Some(b"node password".as_slice()));
    for (name, _) in EMPTIED {
        assert!(
            !new.files.contains_key(&format!("var/lib/rancher/k3s/server/{name}")),
            "{name} is still there"
        );
    }
    assert!(String::from_utf8(new.files[CONFIG].clone()).unwrap().contains("\nserver:"), "no way to join");
    let unpacked = [UNPACKED.to_owned(), UNPACKED.replace("/bin", "-tmp/bin")];
    assert_eq!(unpacked.map(|path| new.files.contains_key(&path)), [false, true]);
    try_all(&host, &new, Some(&old), &["retiring-pinned", "retired", "leave-ended"]);
}

#[test]
fn a_server_that_has_left_etcd_is_an_agent_after_every_fault() {
    let host = Host::new();
    let old = End::reach(&host, 1);
    host.live();
    host.departed();
    let reference = host.copy();
    let new = End::reach(&reference, AGENT);
    let quarantine = DATASTORE.replace("server/", "server.quarantine-1/");
    assert_eq!(new.files.get(&quarantine).map(Vec::as_slice), Some(b"old life".as_slice()));
    assert!(new.files.contains_key("etc/systemd/system/k3s-agent.service"));
    assert!(!new.files.contains_key("etc/systemd/system/k3s.service"));
    try_all(&host, &new, Some(&old), &MENDS);
}

#[test]
fn an_agent_that_becomes_a_server_is_one_or_the_other_at_every_fault() {
    let host = Host::new();
    let old = End::reach(&host, AGENT_BEFORE);
    host.write(CERTIFICATE, "old life");
    host.write("var/lib/rancher/k3s/agent/images/pause.tar", "image");
    host.joined(None);
    let reference = host.copy();
    let new = End::reach(&reference, SERVER);
    let quarantine = format!("{CERTIFICATE}.quarantine-1");
    assert_eq!(new.files.get(&quarantine).map(Vec::as_slice), Some(b"old life".as_slice()));
    assert!(new.files.contains_key("var/lib/rancher/k3s/agent/images/pause.tar"));
    let config = String::from_utf8(new.files[CONFIG].clone()).unwrap();
    assert!(config.contains("\nserver:") && !config.contains("cluster-init"), "no way to join: {config}");
    try_all(&host, &new, Some(&old), &MENDS);
}

#[test]
fn an_identity_of_which_no_copy_is_whole_is_never_taken_for_none_after_a_cut() {
    let host = Host::new();
    End::reach(&host, 1);
    for copy in ["", ".prev"] {
        host.write(&format!("var/lib/edge-bootstrap/identity.json{copy}"), "{");
    }
    for point in ["atomic-staged", "atomic-renamed"] {
        let is_cut = |pass: usize| {
            let host = host.copy();
            let killed = host.apply(Some(&format!("{point}=abort:{pass}"))).status.code().is_none();
            let loaded = identity::load(&Root::new(host.path())).map(Loaded::value);
            assert!(!matches!(loaded, Ok(None)), "{point} {pass}: as if it never had been pinned");
            host.converge();
            killed
        };
        assert!((1..MOST).find(|pass| !is_cut(*pass)).unwrap() > 2, "no pass comes by {point}");
    }
}

/// The assignment that makes a server an agent of its own cluster.
const AGENT: u32 = 5;
/// That of an agent with another k3s.
const AGENT_BEFORE: u32 = 7;
/// The assignment that makes an agent a server of its own cluster.
const SERVER: u32 = 6;
/// What an agent has of its cluster.
const CERTIFICATE: &str = "var/lib/rancher/k3s/agent/client-kubelet.crt";
/// The assignment of a member that joins its cluster anew.
const REMOVED: u32 = 4;
/// What a power cut left empty, and the certificate that goes with its kubeconfig.
const EMPTIED: [(&str, &str); 3] =
    [("cred/admin.kubeconfig", ""), ("tls/client-admin.crt", "whole"), ("tls/client-kube-proxy.key", "")];
/// A program that k3s unpacked, and that a power cut left empty.
const UNPACKED: &str =
    "var/lib/rancher/k3s/data/5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d/bin/k3s";
/// The node's password.
const PASSWORD: &str = "etc/rancher/node/password";

/// The assignment of a later epoch.
const ANOTHER_LIFE: u32 = 3;

/// What a pass without a fault ends with.
struct End {
    number: u32,
    files: BTreeMap<String, Vec<u8>>,
    in_force: Vec<Vec<u8>>,
}

impl End {
    fn reach(host: &Host, number: u32) -> Self {
        host.assign(number);
        host.converge();
        Self { number, files: host.lasting(), in_force: host.in_force() }
    }
}

/// Starts from `host` again and again, on the way to `new`.
fn try_all(host: &Host, new: &End, old: Option<&End>, elsewhere: &[&str]) {
    let mut points = points();
    assert!(points.len() >= 9, "the fault points of the source were not found: {points:?}");
    for point in elsewhere {
        assert!(points.remove(*point), "there is no point {point}");
    }
    for point in points {
        let passes =
            (1..MOST).find(|pass| !try_one(host, &format!("{point}=abort:{pass}"), new, old)).unwrap();
        assert!(passes > 1, "no pass comes by {point}");
        for pass in 1..passes {
            try_one(host, &format!("{point}=error:{pass}"), new, old);
        }
    }
}

/// One fault on a copy of `host`; whether it killed the program.
fn try_one(host: &Host, fault: &str, new: &End, old: Option<&End>) -> bool {
    let host = host.copy();
    host.assign(new.number);
    let output = host.apply(Some(fault));
    let killed = output.status.code().is_none();
    assert_eq!(host.gather().problems(), Vec::<String>::new(), "after {fault}");
    match new.number {
        ANOTHER_LIFE => host.check_leave(fault),
        AGENT => host.check_role(fault, (Role::Agent, DATASTORE)),
        SERVER => host.check_role(fault, (Role::Server, CERTIFICATE)),
        _ => {}
    }
    let now = host.in_force();
    let is_old = old.map_or(now.is_empty(), |old| now == old.in_force);
    assert!(is_old || now == new.in_force, "{fault} leaves a mixed generation: {now:?}");
    host.converge();
    assert_eq!(names(&host.lasting()), names(&new.files), "files after {fault} and another pass");
    for (path, bytes) in host.lasting() {
        assert_eq!(new.files.get(&path), Some(&bytes), "{path} after {fault} and another pass");
    }
    killed
}

fn names(files: &BTreeMap<String, Vec<u8>>) -> Vec<&String> {
    files.keys().collect()
}

/// The names of all fault points that a pass may come by, as the source has them:
/// those of `reset`, which is no pass, begin with its name.
fn points() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let names = text.split("point(\"").skip(1).filter_map(|rest| rest.split_once('"'));
            let of_passes = names.map(|(name, _)| name).filter(|name| !name.starts_with("reset-"));
            found.extend(of_passes.map(str::to_owned));
        }
    }
    found
}

/// A root with a containerd, two k3s binaries and a local assignment file.
struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        let host = Self::copy_of(FIXTURE);
        for number in [1, 2] {
            host.write(&format!("srv/k3s-{number}"), &binary(number));
        }
        let config = "[central]\nassignment-file = \"/etc/edge-bootstrap/assignment.toml\"\n";
        host.write("etc/edge-bootstrap/config.toml", config);
        host
    }

    fn copy(&self) -> Self {
        Self::copy_of(&format!("{}/.", self.path().display()))
    }

    fn copy_of(from: &str) -> Self {
        let to = tempfile::tempdir().unwrap();
        let copied = Command::new("cp").args(["-a", from]).arg(to.path()).status().unwrap();
        assert!(copied.success());
        Self(to)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, path: &str, text: &str) {
        let real = self.path().join(path);
        std::fs::create_dir_all(real.parent().unwrap()).unwrap();
        std::fs::write(&real, text).unwrap();
        std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Puts assignment `number` in the place of the one before: other tokens,
    /// another name in the certificates, another k3s.
    fn assign(&self, number: u32) {
        let (k3s, epoch) = match number {
            ANOTHER_LIFE => (2, 2),
            REMOVED | AGENT | SERVER => (2, 1),
            AGENT_BEFORE => (1, 1),
            other => (other, 1),
        };
        let others = match number {
            REMOVED | AGENT | SERVER | AGENT_BEFORE => {
                format!("ca_hash = \"{}\"\nservers = [\"https://172.16.36.2:6443\"]\n", "5d".repeat(32))
            }
            _ => String::new(),
        };
        let (role, init, server_token) = match number {
            AGENT | AGENT_BEFORE => ("agent", false, String::new()),
            other => ("server", true, format!("server_token = \"server-token-{other}\"\n")),
        };
        let text = format!(
            "schema = 1
site = \"lab\"
role = \"{role}\"
[node]
name = \"172-16-36-1\"
ip = \"172.16.36.1\"
[cluster]
name = \"lab\"
epoch = {epoch}
init = {init}
tls_san = [\"name-{number}.lab\"]
{others}[join]
{server_token}agent_token = \"agent-token-{number}\"
[k3s]
version = \"v1.36.{k3s}+k3s1\"
[k3s.artifacts.amd64]
urls = [\"file:///srv/k3s-{k3s}\"]
sha256 = \"{}\"
",
            sha256_hex(binary(k3s).as_bytes())
        );
        self.write("etc/edge-bootstrap/assignment.toml", &text);
    }

    /// What k3s leaves after its first start.
    fn live(&self) {
        for path in [DATASTORE, "var/lib/rancher/k3s/agent/client-kubelet.crt"] {
            self.write(path, "old life");
        }
        self.write("var/lib/rancher/k3s/agent/images/pause.tar", "image");
    }

    /// etcd has removed this server, and its cluster has forgotten that it was one.
    fn departed(&self) {
        let member = "172-16-36-1-0a1b2c3d".to_owned();
        self.joined(Some(Departing { step: Departure::Tidied, member }));
    }

    /// The host has been READY.
    fn joined(&self, departing: Option<Departing>) {
        let root = Root::new(self.path());
        let mut pinned = identity::load(&root).unwrap().value().unwrap();
        let etcd_member = departing.as_ref().map(|departing| departing.member.clone());
        pinned.joined = Some(Joined { ca_hash: Some("5d".repeat(32)), etcd_member });
        pinned.departing = departing;
        identity::pin(&root, &pinned).unwrap();
    }

    /// A member that etcd has removed, and that has lost its node password too.
    fn removed_member(&self) {
        self.write(DATASTORE, "old life");
        self.write(&DATASTORE.replace("member/wal/0.wal", "tombstone"), "");
        for (name, text) in EMPTIED {
            self.write(&format!("var/lib/rancher/k3s/server/{name}"), text);
        }
        self.write(UNPACKED, "");
        self.write("var/lib/edge-bootstrap/backup/node-password", "node password");
        let root = Root::new(self.path());
        let mut pinned = identity::load(&root).unwrap().value().unwrap();
        pinned.joined = Some(Joined { ca_hash: Some("5d".repeat(32)), etcd_member: None });
        identity::pin(&root, &pinned).unwrap();
    }

    /// The old files go only while the leave is pinned, and the new identity is
    /// pinned only when they are gone.
    fn check_leave(&self, fault: &str) {
        let text = std::fs::read(self.path().join("var/lib/edge-bootstrap/identity.json")).unwrap();
        let identity: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let identity = &identity["body"];
        let is_there = self.path().join(DATASTORE).exists();
        let is_committed = self.in_force().iter().any(|text| text.ends_with(b"server-token-3\n"));
        match (identity["epoch"].as_u64().unwrap(), identity["retiring"].is_null()) {
            (1, true) => assert!(is_there, "{fault}: moved before the leave was pinned"),
            (1, false) => {}
            (2, false) => assert!(!is_there, "{fault}: the new identity has the old datastore"),
            (2, true) => assert!(is_committed, "{fault}: the gate is open for the old configuration"),
            other => panic!("{fault}: the identity is {other:?}"),
        }
    }

    /// The gate opens for the configuration of the pinned role only, and what the
    /// old role had is gone by then; never for a server that etcd has removed.
    fn check_role(&self, fault: &str, (role, of_the_old): (Role, &str)) {
        let pinned = identity::load(&Root::new(self.path())).unwrap().value().unwrap();
        let is_there = self.path().join(of_the_old).exists();
        let is_shut = forks::is_not_leaving(&pinned).is_some();
        let is_agent = !self.in_force().iter().any(|text| is_server_token(text));
        match (pinned.role == role, pinned.retiring.is_some()) {
            (false, false) => assert!(is_there, "{fault}: moved before the leave was pinned"),
            (false, true) => assert!(is_shut, "{fault}: the gate is open while its files go"),
            (true, true) => assert!(is_shut && !is_there, "{fault}: the new role has the old one's files"),
            (true, false) => {
                assert!(!is_there && !is_shut, "{fault}: the leave ended too early");
                assert_eq!(is_agent, role == Role::Agent, "{fault}: the configuration is the old role's");
            }
        }
        assert!(is_shut || pinned.departing.is_none(), "{fault}: a removed server could start");
    }

    fn apply(&self, fault: Option<&str>) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edge-bootstrap"));
        command.args(["apply", "--root"]).arg(self.path()).env_remove("EDGE_FAULT");
        command.envs(fault.map(|fault| ("EDGE_FAULT", fault))).output().unwrap()
    }

    /// A pass ends well, and one more touches nothing.
    fn converge(&self) {
        let output = self.apply(None);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let before = self.stamps();
        let output = self.apply(None);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(self.stamps(), before, "a second pass touches no file");
    }

    fn gather(&self) -> Files {
        let output = Command::new("sh").args(["-euc", GATHER]).current_dir(self.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Files::parse(&String::from_utf8(output.stdout).unwrap())
    }

    /// `config.yaml` and the files that it names; nothing before the first commit.
    fn in_force(&self) -> Vec<Vec<u8>> {
        let Ok(config) = std::fs::read_to_string(self.path().join(CONFIG)) else { return Vec::new() };
        let named = config.lines().filter_map(|line| line.split_once("token-file: "));
        let tokens = named.map(|(_, path)| self.path().join(path.trim_matches('"').trim_start_matches('/')));
        let mut all: Vec<Vec<u8>> = tokens.map(|path| std::fs::read(path).unwrap()).collect();
        all.push(self.unnumbered(&config).into_bytes());
        all
    }

    /// What must be the same however a host came to its generation.
    fn lasting(&self) -> BTreeMap<String, Vec<u8>> {
        let backup = self.path().join("var/lib/edge-bootstrap/backup");
        let paths = self.walk().into_iter().filter(|path| !is_incidental(path) && !path.starts_with(&backup));
        let entry = |path: PathBuf| {
            let name = self.unnumbered(&self.name(&path));
            let text = String::from_utf8(std::fs::read(&path).unwrap_or_default()).unwrap();
            // The ledger names the generation's number below a checksum.
            let text = if name.ends_with("ledger.json") { String::new() } else { self.unnumbered(&text) };
            (name, text.into_bytes())
        };
        paths.map(entry).collect()
    }

    /// `text` without the number of the generation in force: one that an
    /// interrupted pass took is not used again.
    fn unnumbered(&self, text: &str) -> String {
        let config = std::fs::read_to_string(self.path().join(CONFIG)).unwrap_or_default();
        let number = config.split("/generations/").nth(1).and_then(|rest| rest.split_once('/'));
        number.map_or(text.to_owned(), |(number, _)| {
            text.replace(&format!("generations/{number}/"), "generations/in-force/")
        })
    }

    /// Inode and time of change of every file.
    fn stamps(&self) -> BTreeMap<String, (u64, i64, i64)> {
        let stamp = |path: &PathBuf| {
            let meta = path.symlink_metadata().unwrap();
            (self.name(path), (meta.ino(), meta.mtime(), meta.mtime_nsec()))
        };
        self.walk().iter().map(stamp).collect()
    }

    fn name(&self, path: &Path) -> String {
        path.strip_prefix(self.path()).unwrap().display().to_string()
    }

    fn walk(&self) -> Vec<PathBuf> {
        let mut open: Vec<PathBuf> = PLACES.iter().map(|place| self.path().join(place)).collect();
        let mut found = Vec::new();
        while let Some(path) = open.pop() {
            if path.is_dir() && !path.is_symlink() {
                open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else if path.symlink_metadata().is_ok() {
                found.push(path);
            }
        }
        found
    }
}

/// Whether a token is one with which a server joins.
fn is_server_token(token: &[u8]) -> bool {
    token.starts_with(b"K10") && String::from_utf8_lossy(token).contains("::server:")
}

fn binary(number: u32) -> String {
    format!("k3s number {number}\n")
}

/// Not compared: temporary files of a killed pass (the daemon sweeps them), earlier copies of
/// state files, and what is remembered by inode, as the record beside a binary.
fn is_incidental(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_string_lossy();
    name.ends_with(".tmp")
        || name.ends_with(".part")
        || name.ends_with(".prev")
        || name == "versions.json"
        || name == "k3s.sha256"
}
