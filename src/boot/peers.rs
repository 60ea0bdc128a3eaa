//! The highest epoch that is known of the site, and what the room says about it
//! before the only server of a cluster starts.
//!
//! Owns when peers are asked, and that a higher epoch is pinned durably and
//! holds k3s. What then becomes of the old datastore is decided elsewhere, and
//! only by an assignment.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tracing::{info, warn};

use super::{Agent, Order, Pass, Severity, Stop, StopKind};
use crate::enrol::Freshness;
use crate::enrol::peers::{self, Asked, PeersError};
use crate::error::Chain;
use crate::facts::Fact;
use crate::facts::runtime::PinnedIdentity;
use crate::plan::{self, Refusal};
use crate::role::{Duty, Role};
use crate::sys::atomic;
use crate::{allow, identity, observe, paths};

/// For all peers together.
const PATIENCE: Duration = Duration::from_secs(2);

/// Pins an epoch that this host's own assignment raises, before the plan may
/// refuse to follow it. A local file is its author's to correct.
pub(super) fn note_epoch(agent: &Agent, order: Order, pass: &mut Pass) -> Result<(), Stop> {
    let signed = pass.freshness.is_some_and(|freshness| freshness != Freshness::Local);
    let epoch = pass.assignment.as_ref().and_then(|assignment| Some(assignment.duty.as_ref()?.cluster.epoch));
    let known = plan::pinned(&pass.facts).map(highest);
    match (epoch, known) {
        (Some(epoch), Some(known)) if signed && epoch > known && !order.observe_only => {
            raise(agent, pass, epoch)
        }
        _ => Ok(()),
    }
}

/// Asks the room where that is due; a server of an older epoch is held.
pub(super) async fn ask(agent: &Agent, pass: &mut Pass) -> Result<(), Stop> {
    if let Some(peers) = due(agent, pass) {
        match answer(agent, &peers).await {
            Ok(epoch) => heard(agent, pass, epoch)?,
            Err(why) => return Err(Stop { why, kind: StopKind::Held }),
        }
    }
    hold(agent, pass)
}

/// The node IP and the addresses of the room's other hosts.
struct Peers {
    ip: IpAddr,
    others: Vec<IpAddr>,
}

/// Whom to ask: once in a boot, when k3s would start alone on the datastore that
/// is there, and nobody who knows better has said yet that it is the newest.
fn due(agent: &Agent, pass: &Pass) -> Option<Peers> {
    let assignment = pass.assignment.as_ref()?;
    let duty = assignment.duty.as_ref()?;
    let is_alone = duty.role == Role::Server && duty.cluster.servers.is_empty();
    let has_datastore = pass.facts.runtime.k3s.has_datastore.known() == Some(&true);
    let is_confirmed = agent.confirmed.as_ref() == Some(&assignment.digest);
    if !is_alone || !has_datastore || is_confirmed || runs(pass) || agent.root.exists(paths::PEERS_ASKED) {
        return None;
    }
    let ip = duty.node.ip;
    let others: Vec<IpAddr> =
        assignment.room.iter().map(|host| host.ip).filter(|other| *other != ip).collect();
    (!others.is_empty()).then_some(Peers { ip, others })
}

fn runs(pass: &Pass) -> bool {
    let unit = pass.facts.runtime.units.get("k3s").and_then(Fact::known);
    unit.is_some_and(|unit| unit.main_pid != 0)
}

/// The highest epoch that the room proves; `None` when it is silent.
async fn answer(agent: &Agent, peers: &Peers) -> Result<Option<u64>, Refusal> {
    if let Fact::Known(nics) = observe::network::interfaces(&agent.root)
        && !nics.iter().any(|nic| nic.addresses.iter().any(|cidr| cidr.address == peers.ip))
    {
        return Err(wait(peers));
    }
    let asked = Asked { from: peers.ip, peers: &peers.others, patience: PATIENCE };
    match peers::highest(&agent.root, asked).await {
        Ok(epoch) => Ok(epoch),
        // It is there and may not be used yet: duplicate address detection runs.
        Err(PeersError::Socket(_, error)) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            Err(wait(peers))
        }
        Err(error) => {
            warn!(EDGE_STEP = "start", EDGE_REASON = %Chain(&error), "the room cannot be asked, going on without");
            Ok(None)
        }
    }
}

fn wait(peers: &Peers) -> Refusal {
    Refusal::new(
        "EB-wait-peers",
        format!(
            "the other hosts of the room are asked for the newest epoch as soon as {} is there",
            peers.ip
        ),
        "check cable and network configuration; it goes on by itself when the address is there",
    )
}

fn heard(agent: &Agent, pass: &mut Pass, epoch: Option<u64>) -> Result<(), Stop> {
    info!(
        EDGE_STEP = "start",
        EDGE_EPOCH = epoch.unwrap_or_default(),
        "the room was asked for the newest epoch"
    );
    if let Some(epoch) = epoch {
        raise(agent, pass, epoch)?;
    }
    let text = serde_json::json!({"schema": 1, "epoch": epoch}).to_string();
    if let Err(error) = atomic::write_volatile(&agent.root, paths::PEERS_ASKED, text.as_bytes(), 0o644) {
        warn!(EDGE_STEP = "start", EDGE_REASON = %Chain(&error), "the answer cannot be noted, asking again in the next pass");
    }
    Ok(())
}

/// Pins `epoch` as the highest, durably. What lies on disk is the base: this
/// pass may have pinned since it observed.
fn raise(agent: &Agent, pass: &mut Pass, epoch: u64) -> Result<(), Stop> {
    let failed = |error: &(dyn std::error::Error + 'static)| {
        let why = Refusal::new("EB-state-file", Chain(error).to_string(), "it is tried again by itself");
        Stop { why, kind: StopKind::Held }
    };
    let loaded = identity::load(&agent.root).map_err(|error| failed(&error))?;
    let Some(pinned) = loaded.value().filter(|pinned| highest(pinned) < epoch) else { return Ok(()) };
    let raised = PinnedIdentity { highest_epoch: epoch, ..pinned };
    identity::pin(&agent.root, &raised).map_err(|error| failed(&error))?;
    warn!(EDGE_STEP = "start", EDGE_EPOCH = epoch, "a higher epoch of the site is known now");
    pass.facts.runtime.identity = Fact::Known(Some(raised));
    Ok(())
}

fn highest(pinned: &PinnedIdentity) -> u64 {
    pinned.highest_epoch.max(pinned.epoch)
}

/// Holds a server whose assignment is of an older epoch than the highest known
/// one. One that runs is left alone, and a person may let it pass.
fn hold(agent: &Agent, pass: &mut Pass) -> Result<(), Stop> {
    let Some(why) = is_behind(pass) else { return Ok(()) };
    if runs(pass) || allow::lets_pass(&agent.root, agent.clock, &why.code).is_some() {
        pass.find(Severity::Fail, why);
        return Ok(());
    }
    Err(Stop { why, kind: StopKind::Held })
}

fn is_behind(pass: &Pass) -> Option<Refusal> {
    let duty: &Duty = pass.assignment.as_ref()?.duty.as_ref()?;
    let (known, own) = (highest(plan::pinned(&pass.facts)?), duty.cluster.epoch);
    (duty.role == Role::Server && own < known).then(|| {
        Refusal::new(
            "EB-datastore-epoch",
            format!("the assignment on this host is of epoch {own}, and the site's cluster began anew as epoch {known}; starting would bring the old cluster back beside it"),
            "bring the central service back in reach: it says what becomes of this host; its datastore stays as it is",
        )
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::boot::Until;
    use crate::facts::runtime::Unit;
    use crate::role::parse_payload;
    use crate::sys::Root;

    const IP: &str = "172.16.36.1";

    struct Fixture {
        _dir: tempfile::TempDir,
        agent: Agent,
        pass: Pass,
    }

    fn pinned() -> PinnedIdentity {
        serde_json::from_value(serde_json::json!({
            "node_id": null, "site": "hz-017", "cluster": "hz-017", "role": "server",
            "node_name": "172-16-36-1", "node_ip": IP, "manage_hostname": true, "epoch": 1, "highest_epoch": 1,
        }))
        .unwrap()
    }

    /// The only server of a room of two hosts, before its k3s starts.
    fn alone(epoch: u64, change: impl Fn(&mut serde_json::Value)) -> Fixture {
        let mut payload = serde_json::json!({
            "schema": 1, "generation": 7, "issued_at": "2026-11-21T10:00:00Z", "site": "hz-017", "role": "server",
            "node": {"name": "172-16-36-1", "ip": IP},
            "cluster": {"name": "hz-017", "epoch": epoch, "ca_hash": "a".repeat(64)},
            "join": {"server_token": "s", "agent_token": "a"}, "k3s": {"version": "v1.36.2+k3s1"},
            "room": [
                {"name": "172-16-36-1", "ip": IP, "role": "server", "node_id": "a".repeat(26)},
                {"name": "172-16-36-2", "ip": "172.16.36.2", "role": "agent", "node_id": "b".repeat(26)},
            ],
        });
        change(&mut payload);
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        root.make_dir("/run/edge-bootstrap", 0o755).unwrap();
        root.make_dir("/var/lib/edge-bootstrap", 0o700).unwrap();
        identity::pin(&root, &pinned()).unwrap();
        let mut pass = Pass {
            assignment: Some(parse_payload(payload.to_string().as_bytes()).unwrap()),
            freshness: Some(Freshness::Cached),
            ..Pass::default()
        };
        pass.facts.runtime.identity = Fact::Known(Some(pinned()));
        pass.facts.runtime.k3s.has_datastore = Fact::Known(true);
        Fixture { agent: Agent::new(root, None).unwrap(), _dir: dir, pass }
    }

    fn order(observe_only: bool) -> Order {
        Order { until: Until::Ready, patience: Duration::ZERO, observe_only }
    }

    fn on_disk(fixture: &Fixture) -> u64 {
        identity::load(&fixture.agent.root).unwrap().value().unwrap().highest_epoch
    }

    #[test]
    fn a_higher_epoch_of_the_own_signed_assignment_is_pinned_for_good() {
        for (epoch, freshness, observe_only, expected) in [
            (2, Freshness::Cached, false, 2),
            (2, Freshness::Fresh, false, 2),
            (2, Freshness::Local, false, 1),
            (2, Freshness::Fresh, true, 1),
            (1, Freshness::Fresh, false, 1),
        ] {
            let mut host = alone(epoch, |_| ());
            host.pass.freshness = Some(freshness);
            note_epoch(&host.agent, order(observe_only), &mut host.pass).unwrap();
            assert_eq!(on_disk(&host), expected, "{epoch} {freshness:?} {observe_only}");
            let again = plan::pinned(&host.pass.facts).unwrap().highest_epoch;
            assert_eq!(again, expected, "the rest of the pass knows it");
        }
    }

    #[test]
    fn what_was_pinned_meanwhile_is_kept_and_no_epoch_is_lowered() {
        let mut host = alone(1, |_| ());
        let newer = PinnedIdentity { init_started: Some(1), highest_epoch: 3, ..pinned() };
        identity::pin(&host.agent.root, &newer).unwrap();
        raise(&host.agent, &mut host.pass, 2).unwrap();
        assert_eq!(identity::load(&host.agent.root).unwrap().value().unwrap(), newer);
        raise(&host.agent, &mut host.pass, 4).unwrap();
        let raised = PinnedIdentity { highest_epoch: 4, ..newer };
        assert_eq!(identity::load(&host.agent.root).unwrap().value().unwrap(), raised);
    }

    #[test]
    fn a_server_of_an_older_epoch_is_held_and_one_that_runs_is_left_alone() {
        let mut host = alone(1, |_| ());
        heard(&host.agent, &mut host.pass, Some(2)).unwrap();
        let stop = hold(&host.agent, &mut host.pass).unwrap_err();
        assert_eq!((stop.why.code.as_str(), stop.kind), ("EB-datastore-epoch", StopKind::Held));
        assert!(stop.why.reason.contains("epoch 1") && stop.why.reason.contains("epoch 2"), "{}", stop.why);
        let up = Unit { main_pid: 7, ..Unit::default() };
        host.pass.facts.runtime.units.insert("k3s".to_owned(), Fact::Known(up));
        hold(&host.agent, &mut host.pass).unwrap();
        assert_eq!(host.pass.findings[0].0.code, "EB-datastore-epoch");
    }

    #[test]
    fn silence_and_equal_epochs_start_it_and_are_not_asked_for_again() {
        for heard_epoch in [None, Some(1)] {
            let mut host = alone(1, |_| ());
            assert!(due(&host.agent, &host.pass).is_some());
            heard(&host.agent, &mut host.pass, heard_epoch).unwrap();
            hold(&host.agent, &mut host.pass).unwrap();
            assert!(due(&host.agent, &host.pass).is_none());
        }
    }

    #[test]
    fn only_a_server_that_would_start_alone_on_its_datastore_asks() {
        let asks = |host: &Fixture| due(&host.agent, &host.pass).map(|peers| peers.others);
        let with = |change: fn(&mut Fixture)| {
            let mut host = alone(1, |_| ());
            change(&mut host);
            asks(&host)
        };
        assert_eq!(with(|_| ()).unwrap(), ["172.16.36.2".parse::<IpAddr>().unwrap()]);
        assert_eq!(with(|host| host.pass.facts.runtime.k3s.has_datastore = Fact::Known(false)), None);
        assert_eq!(
            with(|host| host.agent.confirmed = Some(host.pass.assignment.as_ref().unwrap().digest.clone())),
            None
        );
        assert_eq!(asks(&alone(1, |payload| payload["room"] = serde_json::json!([]))), None, "nobody to ask");
        let servers = serde_json::json!(["https://172.16.36.2:6443"]);
        assert_eq!(asks(&alone(1, |payload| payload["cluster"]["servers"] = servers.clone())), None);
        let agent = |payload: &mut serde_json::Value| {
            payload["role"] = "agent".into();
            payload["join"] = serde_json::json!({"agent_token": "a"});
        };
        assert_eq!(asks(&alone(1, agent)), None);
    }

    #[tokio::test]
    async fn without_its_address_a_host_waits_and_asks_later() {
        let mut host = alone(1, |_| ());
        host.agent.root.make_dir("/.facts", 0o755).unwrap();
        atomic::write(&host.agent.root, "/.facts/addresses", b"eth0 10.0.0.9/8\n", 0o644).unwrap();
        host.agent.root.ensure_dir("/sys/class/net").unwrap();
        let stop = ask(&host.agent, &mut host.pass).await.unwrap_err();
        assert_eq!((stop.why.code.as_str(), stop.kind), ("EB-wait-peers", StopKind::Held));
        assert!(due(&host.agent, &host.pass).is_some(), "nothing was asked yet");
    }
}
