//! Who may restart when, and that two never do at once.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::time::Duration;

use proptest::prelude::*;

use super::*;

const TERM: Duration = Duration::from_secs(600);

fn healthy(name: &str) -> Other {
    Other { name: name.into(), address: format!("{name}:6443"), trouble: None }
}

fn ill(name: &str) -> Other {
    Other { trouble: Some("its Node is not Ready".into()), ..healthy(name) }
}

fn held(by: &str, watched: u64) -> Held {
    Held { by: by.into(), watched: Duration::from_secs(watched), term: TERM }
}

fn seen(name: &str, address: &str) -> Seen {
    Seen { name: name.into(), addresses: vec![address.into()], is_member: true, is_ready: true, votes: true }
}

#[test]
fn one_of_three_healthy_servers_restarts_and_one_of_two_never_does() {
    let three = [healthy("b"), healthy("c")];
    assert_eq!(may_restart("a_1", &three, None), Ok(()));
    assert_eq!(may_restart("a_1", &three, Some(&held("a_1", 0))), Ok(()), "its own turn goes on");
    let two = may_restart("a_1", &three[..1], None).unwrap_err();
    assert!(!two.soon && two.reason.contains("systemctl restart k3s"), "{two:?}");
    assert!(may_restart("a_1", &[], None).is_err());
}

#[test]
fn an_ill_voter_and_another_hosts_turn_are_waited_for() {
    let wait = may_restart("a", &[healthy("b"), ill("c")], None).unwrap_err();
    assert_eq!(wait, Wait::long("server c must be healthy first: its Node is not Ready"));
    // Also with the Lease in hand.
    assert!(may_restart("a", &[healthy("b"), ill("c")], Some(&held("a", 9))).is_err());
    let wait = may_restart("a", &[healthy("b"), healthy("c")], Some(&held("b_7", 599))).unwrap_err();
    assert_eq!(wait, Wait::soon("b has the room's Lease, to restart, to leave etcd or to change the token"));
}

#[test]
fn a_lease_that_nobody_gave_back_ends() {
    let all = [healthy("b"), healthy("c")];
    assert_eq!(may_restart("a", &all, Some(&held("b_7", 600))), Ok(()), "its holder is healthy again");
    assert!(may_restart("a", &[ill("b"), healthy("c")], Some(&held("b_7", 9000))).is_err());
    assert!(may_restart("a", &all, Some(&held("gone_7", 1199))).is_err());
    assert_eq!(may_restart("a", &all, Some(&held("gone_7", 1200))), Ok(()));
    // This host's name under another id is another host.
    assert!(may_restart("a_2", &all, Some(&held("a_1", 600))).is_err());
}

#[test]
fn voters_are_the_assigned_servers_and_every_member() {
    let servers = ["10.0.0.2:6443".to_owned(), "[fd00::3]:6443".to_owned(), "10.0.0.4:6443".to_owned()];
    let nodes = [
        seen("a", "10.0.0.1"),
        seen("b", "10.0.0.2"),
        Seen { is_ready: false, ..seen("c", "fd00::3") },
        Seen { is_member: false, ..seen("agent", "10.0.0.9") },
        Seen { votes: false, ..seen("old", "10.0.0.8") },
    ];
    let found = others("a", &servers, &nodes);
    let told: Vec<_> = found.iter().map(|other| (other.name.as_str(), other.trouble.as_deref())).collect();
    let expected = [
        ("b", None),
        ("c", Some("its Node is not Ready")),
        ("10.0.0.4", Some("it has not joined yet")),
        ("old", Some("it has no vote in etcd yet")),
    ];
    assert_eq!(told, expected);
    assert_eq!(found[3].address, "10.0.0.8:6443");
    // An assigned server that is a plain node, and one that is this host.
    let nodes = [seen("a", "10.0.0.1"), Seen { is_member: false, ..seen("b", "10.0.0.2") }];
    let found = others("a", &["10.0.0.1:6443".to_owned(), "10.0.0.2:6443".to_owned()], &nodes);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].trouble.as_deref(), Some("it is no member of etcd yet"));
    // A server that is named by its Node's name instead of its address.
    let found = others("a", &["B:6443".to_owned()], &[seen("a", "10.0.0.1"), seen("b", "10.0.0.2")]);
    assert_eq!(found, [Other { address: "B:6443".to_owned(), ..healthy("b") }]);
}

// === a room of three, with clocks of their own, late news and daemons that die ===

/// How late a host may learn that another is down, in seconds: less than a term.
const LATE: u64 = 60;

#[derive(Debug, Clone, Copy)]
struct Model {
    /// Parts per hundred by which its clock runs fast or slow.
    pace: u64,
    /// Its daemon has died and gives nothing back.
    is_dead: bool,
    down_until: u64,
    /// Change of the Lease that it saw first, and when by the room's time.
    watched: (u64, u64),
    restarts: u32,
}

#[derive(Debug, Default)]
struct LeaseModel {
    holder: Option<usize>,
    change: u64,
}

fn look(hosts: &[Model], me: usize, now: u64) -> Vec<Other> {
    let others = (0..hosts.len()).filter(|other| *other != me);
    // It was down that long ago already, and is not up yet.
    let is_seen_down = |other: usize| {
        let begun = hosts[other].down_until.saturating_sub(hosts[other].pace_of_restart());
        hosts[other].down_until > now && now.saturating_sub(begun) >= LATE
    };
    others
        .map(|other| {
            let name = format!("h{other}");
            if is_seen_down(other) { ill(&name) } else { healthy(&name) }
        })
        .collect()
}

impl Model {
    /// How long its restarts take: as long as its pace says, so that both short
    /// ones and those beyond a term are met.
    fn pace_of_restart(self) -> u64 {
        if self.pace.is_multiple_of(3) { 5000 } else { self.pace }
    }
}

fn act(hosts: &mut [Model], lease: &mut LeaseModel, me: usize, now: u64) {
    if hosts[me].is_dead || hosts[me].down_until > now {
        return;
    }
    if lease.holder == Some(me) && hosts[me].restarts > 0 {
        // Up again: given back.
        (lease.holder, lease.change) = (None, lease.change + 1);
        return;
    }
    if hosts[me].watched.0 != lease.change {
        hosts[me].watched = (lease.change, now);
    }
    let watched = (now - hosts[me].watched.1) * hosts[me].pace / 100;
    let held = lease.holder.map(|holder| held(&format!("h{holder}"), watched));
    if may_restart(&format!("h{me}"), &look(hosts, me, now), held.as_ref()).is_ok() {
        (lease.holder, lease.change) = (Some(me), lease.change + 1);
        hosts[me].down_until = now + hosts[me].pace_of_restart();
        hosts[me].restarts += 1;
    }
}

proptest! {
    #[test]
    fn two_never_restart_at_once(
        paces in prop::collection::vec(50_u64..200, 3),
        steps in prop::collection::vec((0_usize..3, 1_u64..400, prop::bool::weighted(0.05)), 1..200),
    ) {
        let mut hosts: Vec<Model> = paces
            .into_iter()
            .map(|pace| Model { pace, is_dead: false, down_until: 0, watched: (u64::MAX, 0), restarts: 0 })
            .collect();
        let (mut lease, mut now) = (LeaseModel::default(), 1);
        for (me, passes, dies) in steps {
            now += passes;
            hosts[me].is_dead |= dies;
            act(&mut hosts, &mut lease, me, now);
            let down = hosts.iter().filter(|host| host.down_until > now).count();
            prop_assert!(down <= 1, "{down} are down at {now}: {hosts:?}");
        }
    }

    #[test]
    fn what_clocks_say_is_no_part_of_the_decision(watched in 0_u64..3000, ill_one in any::<bool>()) {
        let all = [healthy("b"), if ill_one { ill("c") } else { healthy("c") }];
        let taken = may_restart("a", &all, Some(&held("b", watched))).is_ok();
        prop_assert_eq!(taken, watched >= 600 && !ill_one);
    }
}
