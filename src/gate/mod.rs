//! The check before every start of k3s, and a smaller one before containerd.
//!
//! Owns what `gate --unit` reads and when it refuses: on positive evidence
//! only, never because something could not be read, except for an empty or
//! damaged configuration or token. Reads local files, procfs, sysfs and
//! netlink; no D-Bus, no packet. The rules themselves are the plan's
//! ([`crate::plan::rules`]).

mod binary;
mod config;
mod identity;
mod line;
mod members;
mod overrides;
mod passed;
mod runtime;

pub use line::{Refused, all_refused, allow_command, line, refused};
pub use passed::{Passed, passed};

use crate::allow::{self, Allowance};
use crate::facts::Fact;
use crate::facts::k3s_config::Effective;
use crate::facts::overrides::Override;
use crate::facts::runtime::{PinnedIdentity, StartRecord};
use crate::facts::upgrade::Progress;
use crate::plan::forks::Datastore;
use crate::plan::{Refusal, units};
use crate::sys::{Clock, Root, atomic, host};
use crate::wire::secret::sha256_hex;
use crate::{hold, observe, paths, upgrade};

/// What the gate found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Why the unit must not start; `None` lets it go.
    pub refusal: Option<Refusal>,
    /// Refusals that a person lets pass, each with who does.
    pub allowed: Vec<(Refusal, Allowance)>,
    /// What could not be checked; said, but no reason to refuse.
    pub notes: Vec<String>,
}

/// What all checks of one start look at.
struct Look<'a> {
    root: &'a Root,
    unit: &'a str,
    identity: Option<PinnedIdentity>,
    effective: Fact<Effective>,
    /// Settings of others, once a check has asked for them.
    overrides: Option<Vec<Override>>,
    /// What lies on disk, once a check has asked for it.
    datastore: Option<Datastore>,
    notes: Vec<String>,
}

/// One check; evidence against the start, when there is any.
type Check = fn(&mut Look<'_>) -> Option<Refusal>;

/// The cheapest first; the first that is not let pass refuses.
const K3S_CHECKS: &[Check] = &[
    // Before a hold, which says the same and less.
    identity::hardware_fits,
    held,
    members::not_resetting,
    members::not_leaving,
    config::is_whole,
    config::tokens_are_whole,
    binary::is_whole,
    identity::unit_fits,
    identity::config_fits,
    identity::name_fits,
    identity::address_fits,
    overrides::drop_ins_break_nothing,
    overrides::unit_breaks_nothing,
    members::epoch_holds,
    members::is_a_member,
    members::begins_rightly,
    members::name_fits,
    members::ca_fits,
    members::has_server,
    members::joins_its_own,
    overrides::nobody_else_runs,
];

const REWRITE: &str = "`edge-bootstrap apply` writes it anew";

/// Checks whether `unit` may start, and records what it starts with.
#[must_use]
pub fn check(root: &Root, clock: Clock, unit: &str) -> Verdict {
    let checks = if units::is_k3s(unit) { K3S_CHECKS } else { runtime::CHECKS };
    let (identity, notes) = identity::pinned(root);
    let effective = if units::is_k3s(unit) { observe::k3s::effective(root) } else { Fact::default() };
    let mut look = Look { root, unit, identity, effective, overrides: None, datastore: None, notes };
    let mut verdict = Verdict::default();
    for check in checks {
        let Some(refusal) = check(&mut look) else { continue };
        match allow::lets_pass(root, clock, &refusal.code) {
            Some(allowance) => verdict.allowed.push((refusal, allowance)),
            None => {
                verdict.refusal = Some(refusal);
                break;
            }
        }
    }
    verdict.notes = look.notes;
    if verdict.refusal.is_none() {
        record_start(root, unit);
        passed::record(root, clock, &verdict.allowed);
        line::forget(root, unit);
    }
    verdict
}

fn held(look: &mut Look<'_>) -> Option<Refusal> {
    let hold = hold::current(look.root)?;
    Some(Refusal::new(
        &hold.code,
        hold.reason,
        "edge-bootstrap starts k3s by itself when this is over; see `edge-bootstrap status`",
    ))
}

/// Records what the unit starts with, for later decisions about restarts. A
/// record that cannot be written is no reason to hold up a start.
fn record_start(root: &Root, unit: &str) {
    let record = if units::is_k3s(unit) {
        let effective = observe::k3s::effective(root).known().cloned();
        StartRecord {
            server_token: observe::k3s::token_of_start(root, unit, effective.as_ref()),
            effective,
            datastore: datastore_before(root, unit),
            binary: root.read_link(paths::K3S_LINK).ok().flatten(),
            starts: Some(starts(root, unit)),
            ..StartRecord::default()
        }
    } else {
        let config = root.read(paths::CONTAINERD_CONFIG).ok().flatten().map(|bytes| sha256_hex(&bytes));
        StartRecord { config, ..StartRecord::default() }
    };
    let name = unit.trim_end_matches(".service");
    let _ = root.ensure_dir(paths::RUN_DIR);
    let bytes = serde_json::to_vec(&record).unwrap_or_default();
    atomic::write_volatile_or_drop(root, &paths::started_with(name), &bytes, 0o600);
    // One of the two runs at a time: what the other was started with is over.
    for other in
        [units::K3S, units::K3S_AGENT].into_iter().filter(|other| units::is_k3s(unit) && *other != unit)
    {
        let _ = root.remove_file(&paths::started_with(other.trim_end_matches(".service")));
    }
}

/// How often in a row the unit was let go, with this start.
fn starts(root: &Root, unit: &str) -> u32 {
    if refused(root, unit).is_some() {
        return 1;
    }
    let record = observe::k3s::started(root, &[unit.trim_end_matches(".service")]);
    let before = record.known().and_then(Option::as_ref).and_then(|record| record.starts);
    before.unwrap_or(0).saturating_add(1)
}

/// How the datastore was before the first start of a version that is tried. Only
/// the record of the version before, in this boot, shows that this is the first.
fn datastore_before(root: &Root, unit: &str) -> Option<String> {
    let tried = upgrade::load(root).filter(|attempt| attempt.state == Progress::Begun)?;
    let record = observe::k3s::started(root, &[unit.trim_end_matches(".service")]);
    let before = record.known()?.as_ref()?;
    let is_first = before.binary.as_ref() != Some(&paths::k3s_binary(&tried.to));
    if is_first { observe::k3s::datastore_stamp(root) } else { before.datastore.clone() }
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
    use serde_json::json;

    use super::*;
    use crate::facts::runtime::pinned_server;
    use crate::identity;
    use crate::wire::secret::fingerprint;

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
        fixture.put("/var/lib/rancher/k3s/server/db/etcd/member/wal/0-0.wal", "wal");
        fixture.put("/var/lib/edge-bootstrap/generations/1/server-token", "K10aa::server:x\n");
        identity::pin(&fixture.root, &pinned_server()).unwrap();
        fixture
    }

    impl Fixture {
        fn put(&self, path: &str, text: &str) {
            self.root.ensure_dir(path.rsplit_once('/').unwrap().0).unwrap();
            atomic::write(&self.root, path, text.as_bytes(), 0o600).unwrap();
        }

        fn code(&self, unit: &str) -> Option<String> {
            check(&self.root, Clock::System, unit).refusal.map(|refusal| refusal.code)
        }
    }

    #[test]
    fn a_healthy_host_passes_and_its_start_is_recorded() {
        let host = healthy();
        assert_eq!(host.code("k3s.service"), None);
        let record = observe::k3s::started(&host.root, &["k3s"]);
        let record = record.known().unwrap().as_ref().unwrap();
        assert_eq!(record.effective.as_ref().unwrap().first("node-ip"), Some("172.16.36.1"));
        assert_eq!(record.server_token, Some(fingerprint(b"x")));
    }

    #[test]
    fn starts_in_a_row_are_counted_and_a_refusal_ends_the_row() {
        let host = healthy();
        let starts = || {
            assert_eq!(host.code("k3s.service"), None);
            observe::k3s::started(&host.root, &["k3s"]).known().unwrap().as_ref().unwrap().starts
        };
        assert_eq!([starts(), starts(), starts()], [1, 2, 3].map(Some));
        host.put("/proc/sys/kernel/hostname", "other\n");
        let refusal = check(&host.root, Clock::System, "k3s.service").refusal.unwrap();
        let _ = line(&host.root, Clock::System, "k3s.service", &refusal);
        host.put("/proc/sys/kernel/hostname", "172-16-36-1\n");
        assert_eq!([starts(), starts()], [1, 2].map(Some));
    }

    #[test]
    fn how_the_datastore_was_is_noted_before_the_first_start_of_a_version_that_is_tried() {
        let host = healthy();
        let datastore = || {
            assert_eq!(host.code("k3s.service"), None);
            observe::k3s::started(&host.root, &["k3s"]).known().unwrap().as_ref().unwrap().datastore.clone()
        };
        host.root.ensure_dir("/usr/local/bin").unwrap();
        let link = |version: &str| {
            host.put(&paths::k3s_binary(version), "k3s");
            atomic::link(&host.root, paths::K3S_LINK, &paths::k3s_binary(version)).unwrap();
        };
        link("v1.36.2+k3s1");
        assert_eq!(datastore(), None, "nothing is tried");
        let attempt = json!({"wish": "", "from": "v1.36.2+k3s1", "from_binary": "", "to": "v1.37.0+k3s1",
            "at": "", "state": "begun"});
        upgrade::store(&host.root, &serde_json::from_value(attempt).unwrap()).unwrap();
        link("v1.37.0+k3s1");
        let before = datastore();
        assert!(before.is_some());
        host.put("/var/lib/rancher/k3s/server/db/etcd/member/wal/0-1.wal", "more");
        assert_ne!(before, observe::k3s::datastore_stamp(&host.root));
        assert_eq!(datastore(), before, "a second start says how it was before the first");
        // After a reboot nobody knows whether it was the first.
        host.root.remove_file(&paths::started_with("k3s")).unwrap();
        assert_eq!(datastore(), None);
        assert_eq!(datastore(), None);
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
    fn a_configuration_that_no_pass_mends_is_a_persons_to_mend() {
        let next = |host: &Fixture| {
            let refusal = check(&host.root, Clock::System, "k3s.service").refusal.unwrap();
            assert_eq!(refusal.code, "EB-config-damaged");
            refusal.next
        };
        let host = healthy();
        host.put("/etc/rancher/k3s/config.yaml.d/a.yaml", "a: [");
        assert_eq!(next(&host), "correct or remove that file");
        let host = healthy();
        host.put(paths::K3S_CONFIG, "a: [");
        assert_eq!(next(&host), REWRITE);
        host.root.remove_file(paths::K3S_CONFIG).unwrap();
        host.root.make_dir(&format!("{}/x", paths::K3S_CONFIG), 0o755).unwrap();
        assert_eq!(next(&host), crate::plan::refusal::MOVE_AWAY);
    }

    #[test]
    fn what_cannot_be_read_is_no_evidence() {
        let host = healthy();
        host.put(paths::IDENTITY, "{");
        let verdict = check(&host.root, Clock::System, "k3s.service");
        assert_eq!(verdict.refusal, None);
        assert!(verdict.notes[0].contains("identity.json"), "{:?}", verdict.notes);
    }

    #[test]
    fn containerd_is_refused_only_for_its_own_damaged_file() {
        let host = healthy();
        assert_eq!(host.code("containerd.service"), None, "it is not ours");
        host.put(paths::CONTAINERD_DROP_IN, "[Service]\n");
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
