//! Properties that every plan has, over generated assignments on hosts of
//! several kinds.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    dead_code,
    reason = "a test may stop at the first surprise, and works on its own files"
)]

#[path = "common/tree.rs"]
mod tree;

use std::path::Path;

use edge_bootstrap::facts::k3s_config::Effective;
use edge_bootstrap::facts::runtime::Joined;
use edge_bootstrap::facts::{Fact, HostFacts};
use edge_bootstrap::paths;
use edge_bootstrap::plan::diff;
use edge_bootstrap::plan::keys::{Key, Kind, May};
use edge_bootstrap::plan::{self, Inputs, Local, Plan, WaitingOn, keys};
use edge_bootstrap::role::{self, Assignment};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use serde_json::{Value, json};
use tree::TestHost;

/// Hosts of the golden cases: bookworm, trixie, sid, CentOS 7, Ubuntu.
const HOSTS: [&str; 5] = ["07-agent", "06-joining-server", "13-debian-sid", "14-centos-7", "16-ubuntu"];
const CA: &str = "5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d";

fn host(name: &str) -> TestHost {
    let host = TestHost::new();
    host.overlay(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plan").join(name).join("root"));
    host
}

fn now<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn observed(host: &TestHost) -> HostFacts {
    now(host.facts())
}

/// One wish and the host that it is made to.
#[derive(Debug, Clone)]
struct World {
    host: &'static str,
    payload: Value,
    confirmed: bool,
}

impl World {
    fn assignment(&self) -> Assignment {
        role::parse_payload(self.payload.to_string().as_bytes()).unwrap()
    }
}

/// A secret that is found wherever it leaks to.
fn secret(prefix: &'static str) -> impl Strategy<Value = String> {
    "[a-zA-Z0-9!#$%&*+.,/@_~-]{1,24}".prop_map(move |tail| format!("{prefix}-canary-{tail}"))
}

fn labels() -> impl Strategy<Value = Value> {
    let value = prop_oneof![
        Just(String::new()),
        Just("yes".to_owned()),
        Just("012".to_owned()),
        Just("1_000".to_owned()),
        Just("1e3".to_owned()),
        "[a-zA-Z0-9]([a-zA-Z0-9._-]{0,20}[a-zA-Z0-9])?",
    ];
    prop::collection::btree_map("([a-z]{1,8}\\.[a-z]{2,3}/)?[a-z]{1,10}", value, 0..4)
        .prop_map(|map| json!(map))
}

fn taints() -> impl Strategy<Value = Value> {
    let effect = prop_oneof![Just("NoSchedule"), Just("PreferNoSchedule"), Just("NoExecute")];
    prop::collection::vec(("[a-z]{1,8}", "(=[a-z0-9]{1,8})?", effect), 0..3).prop_map(|taints| {
        json!(taints.iter().map(|(key, value, effect)| format!("{key}{value}:{effect}")).collect::<Vec<_>>())
    })
}

/// A value of any kind, whatever the key takes.
fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<bool>().prop_map(|on| json!(on)),
        any::<u16>().prop_map(|number| json!(number)),
        "[^\\p{C}]{1,20}".prop_map(|text| json!(text)),
        prop::collection::vec("[a-z-]{1,10}=[^\\p{C}]{0,10}", 1..3).prop_map(|list| json!(list)),
    ]
}

/// A value of the kind that the key takes.
fn value_of(key: Key) -> BoxedStrategy<Value> {
    match key.kind() {
        Kind::Switch => any::<bool>().prop_map(|on| json!(on)).boxed(),
        Kind::Number => any::<u16>().prop_map(|number| json!(number)).boxed(),
        Kind::Duration => (1_u16..).prop_map(|minutes| json!(format!("{minutes}m"))).boxed(),
        Kind::Text("") => "[^\\p{C}]{1,20}".prop_map(|text| json!(text)).boxed(),
        Kind::Text(words) => {
            prop::sample::select(words.split(',').collect::<Vec<_>>()).prop_map(|word| json!(word)).boxed()
        }
        Kind::List => {
            prop::collection::vec("[a-z-]{1,10}=[^\\p{C}]{0,10}", 1..3).prop_map(|list| json!(list)).boxed()
        }
    }
}

fn rows(wanted: fn(&Key) -> bool) -> impl Strategy<Value = Key> {
    prop::sample::select(keys::rows().filter(wanted).collect::<Vec<_>>())
}

fn free_keys() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        3 => rows(|key| key.may() == May::Free && key.serves(role::Role::Agent)),
        3 => rows(|key| key.may() == May::Free),
        1 => rows(|key| !key.serves(role::Role::Agent)),
        1 => rows(|key| key.may() == May::Host),
    ];
    let entry = key.prop_flat_map(|key| {
        let value = prop_oneof![5 => value_of(key), 1 => any_value()];
        value.prop_map(move |value| (key.name, value))
    });
    let some = prop::collection::vec(entry, 0..3)
        .prop_map(|entries| json!(entries.into_iter().collect::<std::collections::BTreeMap<_, _>>()));
    prop_oneof![Just(json!({})), some]
}

fn s3() -> impl Strategy<Value = Option<Value>> {
    let keys = (secret("access"), secret("secret"), "[^\\p{C}]{1,20}", 1..=u8::MAX);
    prop::option::of(keys.prop_map(|(access, secret, folder, retention)| {
        json!({"snapshots": {"schedule": "0 */6 * * *", "retention": retention, "s3": {
            "endpoint": "s3.example.net", "bucket": "edge", "folder": folder, "access_key": access, "secret_key": secret,
        }}})
    }))
}

fn runtime() -> impl Strategy<Value = Value> {
    let snapshotter = prop::sample::select(vec!["auto", "auto", "overlayfs", "overlayfs", "devmapper"]);
    let mirrors = prop::collection::btree_set("[a-z]{1,8}(\\.[a-z]{2,3})?(:[1-9][0-9]{1,3})?", 0..3);
    let image = prop::option::of(Just("172.16.36.5:5000/pause:3.10"));
    (snapshotter, mirrors, image).prop_map(|(snapshotter, mirrors, image)| {
        let mirrors: Vec<Value> = mirrors
            .iter()
            .map(|registry| json!({"registry": registry, "endpoints": ["http://172.16.36.5:5000"]}))
            .collect();
        json!({"snapshotter": snapshotter, "sandbox_image": image, "mirrors": mirrors})
    })
}

prop_compose! {
    fn cluster(role: &'static str)(
        init in any::<bool>(), ca in prop::bool::weighted(0.7), servers in prop::collection::btree_set(10_u8..20, 0..4),
        san in prop::collection::vec("[a-z]{1,8}\\.example\\.net", 0..3), epoch in 1_u64..4,
    ) -> Value {
        let servers: Vec<String> = servers.iter().map(|last| format!("https://172.16.36.{last}:6443")).collect();
        json!({"name": "hz-017", "epoch": epoch, "init": init && role == "server",
            "ca_hash": ca.then_some(CA), "servers": servers, "tls_san": san})
    }
}

prop_compose! {
    fn payload(role: &'static str)(
        cluster in cluster(role), labels in labels(), taints in taints(), config in free_keys(), etcd in s3(),
        runtime in runtime(), server in secret("server"), agent in secret("agent"),
        version in prop::sample::select(vec!["v1.28.3+k3s1", "v1.31.4+k3s1", "v1.36.2+k3s1"]),
    ) -> Value {
        let join = if role == "server" { json!({"server_token": server, "agent_token": agent}) } else { json!({"agent_token": agent}) };
        json!({
            "schema": 1, "generation": 7, "site": "hz-017", "role": role, "join": join, "cluster": cluster, "runtime": runtime,
            "etcd": etcd.unwrap_or_else(|| json!({})),
            "node": {"name": "172-16-36-4", "ip": "172.16.36.4", "labels": labels, "taints": taints},
            "k3s": {"version": version, "config": config,
                "artifacts": {"amd64": {"urls": ["https://central.example.net:8443/k3s"], "sha256": "ab".repeat(32)}}},
            "room": [{"name": "172-16-36-9", "ip": "172.16.36.9", "role": "server", "node_id": "a".repeat(26)}],
        })
    }
}

fn worlds() -> impl Strategy<Value = World> {
    let payload = prop_oneof![payload("server"), payload("agent")];
    (prop::sample::select(HOSTS.to_vec()), payload, any::<bool>())
        .prop_map(|(host, payload, confirmed)| World { host, payload, confirmed })
}

fn local() -> Local {
    Local { manage_hostname: true, ..Local::default() }
}

/// Plans, and requires that the second opinion has nothing against the result.
fn planned(world: &World, assignment: &Assignment, facts: &HostFacts) -> Result<Option<Plan>, TestCaseError> {
    let local = local();
    let inputs = Inputs { facts, assignment, local: &local, confirmed: world.confirmed };
    match plan::plan(inputs) {
        Ok(plan) => {
            let checked = plan::check(plan.clone(), inputs);
            prop_assert!(checked.is_ok(), "{:?}", checked.err());
            prop_assert_eq!(plan::plan(inputs).unwrap(), plan.clone(), "another plan from the same inputs");
            Ok(Some(plan))
        }
        Err(WaitingOn::Refused(refusal)) => {
            prop_assert!(refusal.code.starts_with("EB-") && !refusal.next.is_empty());
            Ok(None)
        }
        Err(_) => Ok(None),
    }
}

fn reads_back(plan: &Plan) -> Result<Effective, TestCaseError> {
    let mut read = Effective::default();
    let commit = plan.files.last().unwrap();
    prop_assert_eq!(commit.path.as_str(), paths::K3S_CONFIG);
    prop_assert_eq!(read.merge(std::str::from_utf8(&commit.bytes).unwrap()), Ok(()));
    for (key, values) in &plan.generation.as_ref().unwrap().effective.0 {
        prop_assert_eq!(read.all(key), values.as_slice(), "{} is not what was planned", key);
    }
    Ok(read)
}

fn tells_no_secret(plan: &Plan, facts: &HostFacts) -> Result<(), TestCaseError> {
    for file in plan.files.iter().filter(|file| file.mode & 0o077 != 0) {
        prop_assert!(!String::from_utf8_lossy(&file.bytes).contains("-canary-"), "{}", file.path);
    }
    let changes = diff::changes(plan, facts);
    let told =
        format!("{}{}{plan:?}{changes:?}", plan::to_json(plan), serde_json::to_string(&changes).unwrap());
    prop_assert!(!told.contains("-canary-"), "{}", told);
    Ok(())
}

fn nothing_more(
    world: &World,
    assignment: &Assignment,
    host: &mut TestHost,
    plan: &Plan,
) -> Result<(), TestCaseError> {
    host.carry_out(plan);
    let facts = observed(host);
    let again = planned(world, assignment, &facts)?.unwrap();
    let changes = diff::changes(&again, &facts);
    prop_assert!(changes.is_empty() && changes.pending.is_empty(), "{:#?}", changes);
    // Joined, with no word from the service in this boot, it is still the same.
    let joined = assignment.duty.as_ref().unwrap().cluster.ca_hash.as_ref();
    let Some(ca_hash) = joined.map(ToString::to_string) else { return Ok(()) };
    host.join(Joined { ca_hash: Some(ca_hash), etcd_member: None });
    let facts = observed(host);
    let alone = World { confirmed: false, ..world.clone() };
    let again = planned(&alone, assignment, &facts)?.unwrap();
    let changes = diff::changes(&again, &facts);
    prop_assert!(changes.is_empty(), "{:#?}", changes);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_plan_keeps_the_laws(world in worlds()) {
        let assignment = world.assignment();
        let mut host = host(world.host);
        let facts = observed(&host);
        if let Some(plan) = planned(&world, &assignment, &facts)? {
            let read = reads_back(&plan)?;
            if assignment.role() == role::Role::Agent {
                prop_assert!(read.0.keys().all(|key| !keys::is_server_only(key)), "{:?}", read.0.keys());
            }
            tells_no_secret(&plan, &facts)?;
            nothing_more(&world, &assignment, &mut host, &plan)?;
        }
    }
}

/// The law above is empty if nothing is ever planned.
#[test]
fn enough_of_the_generated_assignments_give_a_plan() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let facts: Vec<HostFacts> = HOSTS.iter().map(|name| observed(&host(name))).collect();
    let mut servers = 0;
    let mut agents = 0;
    for _ in 0..200 {
        let world = worlds().new_tree(&mut runner).unwrap().current();
        let assignment = world.assignment();
        let at = HOSTS.iter().position(|name| *name == world.host).unwrap();
        match planned(&world, &assignment, &facts[at]).unwrap().and_then(|plan| plan.identity) {
            Some(identity) if identity.role == role::Role::Server => servers += 1,
            Some(_) => agents += 1,
            None => {}
        }
    }
    assert!(servers >= 15 && agents >= 15, "{servers} plans for servers, {agents} for agents of 200");
}

#[test]
fn an_identity_that_is_not_known_is_told_whatever_the_reason_says() {
    let mut facts = observed(&host("07-agent"));
    let assignment = role::parse_payload(include_bytes!("plan/07-agent/assignment.json")).unwrap();
    for unknown in [Fact::default(), Fact::unknown("damaged")] {
        facts.runtime.identity = unknown;
        let local = Local::default();
        let inputs = Inputs { facts: &facts, assignment: &assignment, local: &local, confirmed: true };
        let notes = plan::plan(inputs).unwrap().notes;
        assert!(notes.iter().any(|note| Some(note.as_str()) == facts.runtime.identity.reason()), "{notes:?}");
    }
}
