//! The check before every start of k3s, and a smaller one before containerd.
//!
//! Owns what `gate --unit` reads and when it refuses: on positive evidence
//! only, never because something could not be read, except for an empty or
//! damaged configuration or token. Reads local files, procfs and netlink; no
//! D-Bus, no packet. The rules themselves are the plan's ([`crate::plan::rules`]).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::facts::Fact;
use crate::facts::runtime::{PinnedIdentity, StartRecord};
use crate::plan::{Refusal, rules, units};
use crate::sys::{Clock, Root, atomic, host};
use crate::wire::secret::sha256_hex;
use crate::{hold, identity, observe, paths};

/// A repeated refusal is told once in this many seconds.
const REPEAT_S: u64 = 600;

/// What the gate found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Why the unit must not start; `None` lets it go.
    pub refusal: Option<Refusal>,
    /// What could not be checked; said, but no reason to refuse.
    pub notes: Vec<String>,
}

/// Checks whether `unit` may start, and records what it starts with.
#[must_use]
pub fn check(root: &Root, unit: &str) -> Verdict {
    let verdict = if units::is_k3s(unit) { check_k3s(root, unit) } else { check_containerd(root) };
    if verdict.refusal.is_none() {
        record_start(root, unit);
        // A refusal after a start is no repetition. Best effort, as the record is.
        let _ = root.remove_file(&repeats_path(unit));
    }
    verdict
}

fn check_k3s(root: &Root, unit: &str) -> Verdict {
    let mut notes = Vec::new();
    let refusal = held(root)
        .or_else(|| config_is_whole(root))
        .or_else(|| tokens_are_whole(root))
        .or_else(|| fits_identity(root, unit, &mut notes));
    Verdict { refusal, notes }
}

fn held(root: &Root) -> Option<Refusal> {
    let hold = hold::current(root)?;
    Some(Refusal::new(
        &hold.code,
        hold.reason,
        "edge-bootstrap starts k3s by itself when this is over; see `edge-bootstrap status`",
    ))
}

const REWRITE: &str = "`edge-bootstrap apply` writes it anew";

fn config_is_whole(root: &Root) -> Option<Refusal> {
    let size = root.stat(paths::K3S_CONFIG).ok().map(|stat| stat.map_or(0, |stat| stat.size));
    if size == Some(0) {
        let reason =
            format!("{} is missing or empty, with which k3s would start on defaults", paths::K3S_CONFIG);
        return Some(Refusal::new("EB-config-empty", reason, REWRITE));
    }
    match observe::k3s::effective(root) {
        Fact::Known(effective) => rules::token_is_named(&effective),
        Fact::Unknown { unknown } => Some(Refusal::new(
            "EB-config-damaged",
            format!("k3s's configuration is damaged: {unknown}"),
            REWRITE,
        )),
    }
}

fn tokens_are_whole(root: &Root) -> Option<Refusal> {
    let effective = observe::k3s::effective(root);
    let effective = effective.known()?;
    ["token-file", "agent-token-file"].into_iter().filter_map(|key| effective.first(key)).find_map(|path| {
        let empty = match root.read(path) {
            Ok(None) => true,
            Ok(Some(bytes)) => bytes.trim_ascii().is_empty(),
            Err(_) => false,
        };
        empty.then(|| {
            Refusal::new(
                "EB-token-empty",
                format!("token file {path} is missing or empty, which k3s takes for no token"),
                REWRITE,
            )
        })
    })
}

fn fits_identity(root: &Root, unit: &str, notes: &mut Vec<String>) -> Option<Refusal> {
    let identity = match identity::load(root) {
        Ok(loaded) => loaded.value(),
        Err(error) => {
            notes.push(format!("{error}; name and address were not checked"));
            None
        }
    }?;
    let effective = observe::k3s::effective(root);
    rules::unit_fits(unit, &identity)
        .or_else(|| effective.known().and_then(|effective| rules::config_fits(effective, &identity)))
        .or_else(|| effective.known().and_then(|effective| rules::keys_fit(effective, identity.role)))
        .or_else(|| name_fits(root, &identity))
        .or_else(|| address_fits(root, &identity, notes))
}

fn name_fits(root: &Root, identity: &PinnedIdentity) -> Option<Refusal> {
    let hostname = root.read_kernel("/proc/sys/kernel/hostname").ok()?;
    rules::hostname_fits(&hostname, identity)
}

fn address_fits(root: &Root, identity: &PinnedIdentity, notes: &mut Vec<String>) -> Option<Refusal> {
    match observe::network::interfaces(root) {
        Fact::Known(interfaces) => {
            let addresses: Vec<IpAddr> =
                interfaces.iter().flat_map(|nic| nic.addresses.iter().map(|cidr| cidr.address)).collect();
            rules::address_fits(&addresses, identity)
        }
        Fact::Unknown { unknown } => {
            notes.push(format!("addresses were not checked: {unknown}"));
            None
        }
    }
}

/// containerd is refused only for its own damaged configuration, and only where
/// our drop-in made it ours.
fn check_containerd(root: &Root) -> Verdict {
    let damage = match root.read_text(paths::CONTAINERD_CONFIG) {
        Ok(Some(text)) if text.trim().is_empty() => Some("is empty".to_owned()),
        Ok(Some(text)) => {
            text.parse::<toml::Table>().err().map(|error| format!("is damaged: {}", error.message()))
        }
        Ok(None) => Some("is missing".to_owned()),
        Err(_) => None,
    };
    let refusal = damage.map(|damage| {
        Refusal::new("EB-containerd-config", format!("{} {damage}", paths::CONTAINERD_CONFIG), REWRITE)
    });
    Verdict { refusal, notes: Vec::new() }
}

/// Records what the unit starts with, for later decisions about restarts. A
/// record that cannot be written is no reason to hold up a start.
fn record_start(root: &Root, unit: &str) {
    let record = if units::is_k3s(unit) {
        StartRecord {
            effective: observe::k3s::effective(root).known().cloned(),
            binary: root.read_link(paths::K3S_LINK).ok().flatten(),
            config: None,
        }
    } else {
        let config = root.read(paths::CONTAINERD_CONFIG).ok().flatten().map(|bytes| sha256_hex(&bytes));
        StartRecord { effective: None, binary: None, config }
    };
    let name = unit.trim_end_matches(".service");
    let _ = root.ensure_dir(paths::RUN_DIR);
    let bytes = serde_json::to_vec(&record).unwrap_or_default();
    let _ = atomic::write_volatile(root, &paths::started_with(name), &bytes, 0o600);
}

/// How often a refusal was repeated.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Repeats {
    code: String,
    told_at: u64,
    count: u64,
}

fn repeats_path(unit: &str) -> String {
    format!("{}/refused-{}.json", paths::RUN_DIR, unit.trim_end_matches(".service"))
}

/// The line to say about a refusal: at once for a new one, then once per ten
/// minutes with the number of times.
#[must_use]
pub fn line(root: &Root, clock: Clock, unit: &str, refusal: &Refusal) -> Option<String> {
    let path = repeats_path(unit);
    let before: Repeats = root
        .read(&path)
        .ok()
        .flatten()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let now = clock.unix();
    let same = before.code == refusal.code;
    let quiet = same && now >= before.told_at && now - before.told_at < REPEAT_S;
    let count = if same { before.count + 1 } else { 1 };
    let told_at = if quiet { before.told_at } else { now };
    let repeats = Repeats { code: refusal.code.clone(), told_at, count };
    let _ = root.ensure_dir(paths::RUN_DIR);
    let _ = atomic::write_volatile(root, &path, &serde_json::to_vec(&repeats).unwrap_or_default(), 0o600);
    let again = if count > 1 { format!(" ({count} times)") } else { String::new() };
    (!quiet).then(|| format!("{unit} must not start{again}: {refusal}"))
}

/// The gate ends itself after this many seconds; systemd takes that for "go".
pub const LIMIT_S: u32 = 5;

/// Arms the end of [`LIMIT_S`].
pub fn arm() {
    host::alarm(LIMIT_S);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::facts::runtime::Fingerprint;
    use crate::role::Role;

    const CONFIG: &str = "node-name: \"172-16-36-1\"\nnode-ip: \"172.16.36.1\"\ntoken-file: \"/var/lib/edge-bootstrap/generations/1/server-token\"\n";

    struct Fixture {
        _dir: tempfile::TempDir,
        root: Root,
    }

    /// A healthy pinned server.
    fn healthy() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let fixture = Fixture { _dir: dir, root };
        fixture.put("/proc/sys/kernel/hostname", "172-16-36-1\n");
        fixture.put("/.facts/addresses", "eth0 172.16.36.1/24\n");
        fixture.put(paths::K3S_CONFIG, CONFIG);
        fixture.put("/var/lib/edge-bootstrap/generations/1/server-token", "K10aa::server:x\n");
        identity::pin(&fixture.root, &pinned()).unwrap();
        fixture
    }

    fn pinned() -> PinnedIdentity {
        PinnedIdentity {
            node_id: None,
            site: "hz-017".into(),
            cluster: "hz-017".into(),
            role: Role::Server,
            node_name: "172-16-36-1".into(),
            node_ip: "172.16.36.1".parse().unwrap(),
            manage_hostname: true,
            epoch: 1,
            init_started: None,
            fingerprint: Fingerprint::default(),
            joined: None,
        }
    }

    impl Fixture {
        fn put(&self, path: &str, text: &str) {
            self.root.ensure_dir(path.rsplit_once('/').unwrap().0).unwrap();
            atomic::write(&self.root, path, text.as_bytes(), 0o600).unwrap();
        }

        fn code(&self, unit: &str) -> Option<String> {
            check(&self.root, unit).refusal.map(|refusal| refusal.code)
        }
    }

    #[test]
    fn a_healthy_host_passes_and_its_start_is_recorded() {
        let host = healthy();
        assert_eq!(host.code("k3s.service"), None);
        let record = observe::k3s::started(&host.root, &["k3s"]);
        let record = record.known().unwrap().as_ref().unwrap();
        assert_eq!(record.effective.as_ref().unwrap().first("node-ip"), Some("172.16.36.1"));
    }

    #[test]
    fn each_piece_of_evidence_refuses_with_its_own_code() {
        let damage: [(&str, &str, &str); 7] = [
            (paths::K3S_CONFIG, "", "EB-config-empty"),
            (paths::K3S_CONFIG, "a: [", "EB-config-damaged"),
            (paths::K3S_CONFIG, "node-name: a\n", "EB-token-missing"),
            ("/var/lib/edge-bootstrap/generations/1/server-token", "\n", "EB-token-empty"),
            ("/etc/rancher/k3s/config.yaml.d/x.yaml", "node-name: other\n", "EB-config-identity"),
            ("/proc/sys/kernel/hostname", "localhost\n", "EB-hostname"),
            ("/.facts/addresses", "eth0 10.0.0.9/8\n", "EB-ip-absent"),
        ];
        for (path, text, code) in damage {
            let host = healthy();
            host.put(path, text);
            assert_eq!(host.code("k3s.service").as_deref(), Some(code), "{path}");
        }
        assert_eq!(healthy().code("k3s-agent.service").as_deref(), Some("EB-unit-role"));
    }

    #[test]
    fn what_cannot_be_read_is_no_evidence() {
        let host = healthy();
        host.put(paths::IDENTITY, "{");
        let verdict = check(&host.root, "k3s.service");
        assert_eq!(verdict.refusal, None);
        assert!(verdict.notes[0].contains("identity.json"), "{:?}", verdict.notes);
    }

    #[test]
    fn containerd_is_refused_only_for_its_own_damaged_file() {
        let host = healthy();
        assert_eq!(host.code("containerd.service").as_deref(), Some("EB-containerd-config"));
        host.put(paths::CONTAINERD_CONFIG, "version = 2\n");
        host.put("/proc/sys/kernel/hostname", "localhost\n");
        assert_eq!(host.code("containerd.service"), None);
    }

    #[test]
    fn a_repeated_refusal_is_told_once_in_ten_minutes() {
        let host = healthy();
        let refusal = Refusal::new("EB-hostname", "x", "y");
        let say = |at| line(&host.root, Clock::Fixed(at), "k3s.service", &refusal);
        assert!(say(1000).is_some());
        assert!(say(1005).is_none());
        assert!(say(1600).unwrap().contains("(3 times)"));
        assert!(
            line(&host.root, Clock::Fixed(1601), "k3s.service", &Refusal::new("EB-ip-absent", "x", "y"))
                .is_some()
        );
        assert_eq!(host.code("k3s.service"), None);
        assert!(
            line(&host.root, Clock::Fixed(1602), "k3s.service", &Refusal::new("EB-ip-absent", "x", "y"))
                .is_some()
        );
    }
}
