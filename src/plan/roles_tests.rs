//! When a server leaves etcd, and when an agent may become a server.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::facts::Fact;
use crate::facts::runtime::{Departing, Joined, Retiring, pinned_server};
use crate::plan::{Local, forks};
use crate::role::{Assignment, parse_payload};

const CA: &str = "5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d";
const MEMBER: &str = "172-16-36-1-0a1b2c3d";

/// What this host shall be, `role` in a room with these other servers.
fn assignment(role: Role, others: &[&str], epoch: u64) -> Assignment {
    let text = include_str!("../../tests/plan/05-second-server-has-joined/assignment.json");
    let mut payload: Value = serde_json::from_str(text).unwrap();
    payload["role"] = json!(role.to_string());
    payload["cluster"]["epoch"] = json!(epoch);
    payload["cluster"]["ca_hash"] = json!(CA);
    payload["cluster"]["servers"] = others.iter().map(|ip| json!(format!("https://{ip}:6443"))).collect();
    payload["cluster"]["init"] = json!(false);
    payload["room"] = json!([]);
    if role != Role::Server {
        payload["join"].as_object_mut().unwrap().remove("server_token");
    }
    if role == Role::None {
        let kept = ["schema", "node_id", "generation", "issued_at", "site", "role"];
        payload.as_object_mut().unwrap().retain(|key, _| kept.contains(&key.as_str()));
    }
    parse_payload(payload.to_string().as_bytes()).unwrap()
}

/// A node that has joined as `role`.
fn joined(role: Role, step: Option<Departure>) -> PinnedIdentity {
    let departing = step.map(|step| Departing { step, member: MEMBER.to_owned() });
    let joined = Joined { ca_hash: Some(CA.to_owned()), etcd_member: Some(MEMBER.to_owned()) };
    PinnedIdentity { role, joined: Some(joined), departing, ..pinned_server() }
}

fn facts(identity: &PinnedIdentity) -> HostFacts {
    let mut facts = HostFacts::default();
    facts.runtime.identity = Fact::Known(Some(identity.clone()));
    facts.runtime.k3s.remains = Fact::Known(vec!["/var/lib/rancher/k3s/server".to_owned()]);
    facts
}

/// What is decided: a departure, and a leave.
fn decided(
    facts: &HostFacts,
    assignment: &Assignment,
) -> (Result<Option<PlannedDeparture>, WaitingOn>, Option<PlannedRetirement>) {
    let local = Local::default();
    let inputs = Inputs { facts, assignment, local: &local, confirmed: true };
    let leave = assignment.duty.as_ref().and_then(|duty| retire::decide(inputs, duty));
    (departure(inputs), leave)
}

#[test]
fn a_server_leaves_etcd_before_its_files_go() {
    let agent = assignment(Role::Agent, &["172.16.36.2"], 1);
    for (step, leaves, goes) in [
        (None, true, false),
        (Some(Departure::Asked), true, false),
        (Some(Departure::Left), true, false),
        (Some(Departure::Tidied), false, true),
    ] {
        let (departure, leave) = decided(&facts(&joined(Role::Server, step)), &agent);
        assert_eq!((departure.unwrap().is_some(), leave.is_some()), (leaves, goes), "{step:?}");
    }
    let none = assignment(Role::None, &[], 1);
    let mut facts = facts(&joined(Role::Server, None));
    let alone = decided(&facts, &none).0.unwrap_err().words();
    assert!(alone.code == "EB-leave-server" && alone.next.ends_with("k3s goes on as it is"), "{alone}");
    facts.runtime.identity = Fact::Known(Some(joined(Role::Server, Some(Departure::Left))));
    let down = decided(&facts, &none).0.unwrap_err().words();
    assert!(down.code == "EB-leave-server" && down.next.contains("k3s stays down"), "{down}");
    facts.runtime.identity = Fact::Known(Some(joined(Role::Server, None)));
    let mut own = crate::facts::k3s_config::Effective::default();
    own.merge("server: https://172.16.36.3:6443").unwrap();
    facts.runtime.k3s.effective = Fact::Known(own);
    assert_eq!(decided(&facts, &none).0.unwrap().unwrap().servers, ["172.16.36.3:6443"]);
}

/// Until etcd has removed it, it must be able to run: only then others can be asked.
#[test]
fn a_power_cut_while_a_server_leaves_is_mended_as_on_any_member() {
    let agent = assignment(Role::Agent, &["172.16.36.2"], 1);
    let mended = |step| {
        let mut facts = facts(&joined(Role::Server, Some(step)));
        let k3s = &mut facts.runtime.k3s;
        (k3s.has_datastore, k3s.etcd_name_empty) = (Fact::Known(true), Fact::Known(true));
        k3s.version = Fact::Known(Some("v1.36.2+k3s1".to_owned()));
        let ca = format!("{}/server/tls/server-ca.crt", crate::paths::K3S_DATA);
        k3s.empty_files = vec![ca.clone()];
        let local = Local::default();
        let inputs = Inputs { facts: &facts, assignment: &agent, local: &local, confirmed: true };
        let plan = while_departing(inputs, departure(inputs).unwrap().unwrap()).unwrap();
        let removed = plan.empty.map(|empty| empty.paths).unwrap_or_default();
        (plan.restores.iter().any(|item| item.path == crate::paths::K3S_ETCD_NAME), removed == [ca])
    };
    assert_eq!(mended(Departure::Asked), (true, true));
    assert_eq!(mended(Departure::Left), (false, false), "its k3s stays down");
}

#[test]
fn a_role_that_comes_back_in_time_keeps_the_server_and_one_that_comes_late_joins_anew() {
    let server = assignment(Role::Server, &["172.16.36.2"], 1);
    let seen = |step| {
        let (departure, leave) = decided(&facts(&joined(Role::Server, step)), &server);
        (departure.unwrap().is_some(), leave.map(|leave| leave.reason))
    };
    assert_eq!(seen(None), (false, None));
    assert_eq!(seen(Some(Departure::Asked)), (false, None));
    assert_eq!(seen(Some(Departure::Left)), (true, None));
    let anew = "etcd has removed this server, and it joins anew".to_owned();
    assert_eq!(seen(Some(Departure::Tidied)), (false, Some(anew)));
}

#[test]
fn an_agent_becomes_a_server_only_where_it_can_join_its_own_cluster() {
    let agent = joined(Role::Agent, None);
    let change = |duty: &Duty, pinned: &PinnedIdentity| cannot_join(duty, pinned).map(|it| it.reason);
    let mut server = assignment(Role::Server, &["172.16.36.2"], 1);
    assert_eq!(decided(&facts(&agent), &server).1.unwrap().reason, "role agent to server");
    let duty = server.duty.as_mut().unwrap();
    duty.cluster.ca_hash = Some("6e".repeat(32).parse().unwrap());
    assert!(change(duty, &agent).unwrap().contains("another CA"));
    duty.cluster.ca_hash = None;
    assert!(change(duty, &agent).unwrap().contains("does not name the CA"));
    assert!(decided(&facts(&agent), &server).1.is_none());
    // A server that names this host itself is none that it could join.
    for nobody in [&[][..], &["172.16.36.1"]] {
        let alone = assignment(Role::Server, nobody, 1);
        assert!(change(alone.duty.as_ref().unwrap(), &agent).unwrap().contains("no other server"));
        assert!(decided(&facts(&agent), &alone).1.is_none());
    }
}

#[test]
fn nothing_is_removed_before_the_node_names_this_hosts_own_member() {
    let ip: IpAddr = [172, 16, 36, 1].into();
    assert_eq!(is_own(MEMBER, ip, (Some(MEMBER), Some("172.16.36.1"))), Ok(()));
    for named in [
        (None, None),
        (Some(MEMBER), None),
        (Some(MEMBER), Some("172.16.36.2")),
        (Some("172-16-36-1-ffffffff"), Some("172.16.36.1")),
        (Some("172-16-36-2-0a1b2c3d"), Some("172.16.36.2")),
    ] {
        assert!(is_own(MEMBER, ip, named).unwrap_err().reason.contains("nothing is removed"), "{named:?}");
    }
}

#[test]
fn what_is_left_of_a_server_without_a_role_goes_once() {
    let none = assignment(Role::None, &[], 1);
    let (local, left) = (Local::default(), joined(Role::Server, Some(Departure::Tidied)));
    let rest = |facts: &HostFacts, pinned: &PinnedIdentity| {
        rest(Inputs { facts, assignment: &none, local: &local, confirmed: true }, pinned).is_some()
    };
    let mut facts = facts(&left);
    assert!(rest(&facts, &left) && !rest(&facts, &joined(Role::Agent, None)));
    facts.runtime.k3s.remains = Fact::Known(vec!["/var/lib/rancher/k3s/server.quarantine-1".to_owned()]);
    assert!(!rest(&facts, &left));
}

fn steps() -> impl Strategy<Value = Option<Departure>> {
    prop::sample::select(vec![None, Some(Departure::Asked), Some(Departure::Left), Some(Departure::Tidied)])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever the assignment says of a member of etcd in its own cluster's life.
    #[test]
    fn a_member_of_etcd_loses_nothing_before_etcd_has_let_it_go(
        was in prop::sample::select(vec![Role::Server, Role::Agent]),
        role in prop::sample::select(vec![Role::Server, Role::Agent, Role::None]),
        step in steps(),
        others in prop::sample::subsequence(vec!["172.16.36.1", "172.16.36.2", "172.16.36.3"], 0..=3),
        epoch in 1_u64..=2,
        (has_joined, retires) in any::<(bool, bool)>(),
    ) {
        let mut identity = joined(was, step.filter(|_| was == Role::Server));
        if !has_joined {
            identity.joined = None;
        }
        identity.retiring = retires.then(|| Retiring { number: 3, reason: "begun".to_owned() });
        let (departure, leave) = decided(&facts(&identity), &assignment(role, &others, epoch));
        let stays = others.iter().any(|ip| *ip != "172.16.36.1");
        if let Ok(Some(departure)) = &departure {
            prop_assert!(was == Role::Server && has_joined && !retires);
            prop_assert!(stays && departure.servers.iter().all(|server| !server.starts_with("172.16.36.1:")));
        }
        if was == Role::Server && has_joined && epoch == identity.epoch && leave.is_some() && !retires {
            prop_assert_eq!(identity.departing.as_ref().map(|it| it.step), Some(Departure::Tidied));
        }
        // A departure and a leave are never due at once.
        prop_assert!(leave.is_none() || !matches!(departure, Ok(Some(_))));
        // What has become a server without a way to join would form a cluster.
        if was == Role::Agent && role == Role::Server && epoch == 1 && has_joined && !retires {
            prop_assert_eq!(leave.is_some(), stays);
        }
        // The gate is shut from the moment on that etcd has let it go.
        let shut = retires || identity.departing.as_ref().is_some_and(|it| it.step >= Departure::Left);
        prop_assert_eq!(forks::is_not_leaving(&identity).is_some(), shut);
    }
}
