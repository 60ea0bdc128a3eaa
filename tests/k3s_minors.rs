//! The configuration of each k3s minor from 1.21 on, for the three roles.
//!
//! | below `tests/k3s_minors/` | what |
//! |---|---|
//! | `flags/vNN-ROLE.txt` | the flags that this k3s has, read from its own source; the first line names the commit |
//! | `vNN-first-server.yaml`, `-joining-server.yaml`, `-agent.yaml` | `config.yaml` as the plan writes it, with every key that an assignment may set freely there |
//!
//! `EDGE_GOLDEN=update cargo test --test k3s_minors` writes the files anew; the
//! diff is then for a person to read.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may stop at the first surprise, and works on its own files"
)]

#[allow(dead_code, reason = "the other tests that share this file need the rest of it")]
#[path = "common/tree.rs"]
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use edge_bootstrap::plan::keys::{self, Key, Kind, May, Presence};
use edge_bootstrap::plan::{self, Inputs, Plan};
use edge_bootstrap::role::{self, Assignment, K3sVersion, Role};
use serde_json::{Value as Json, json};
use tree::TestHost;

const FIRST: u32 = 21;
const NEWEST: u32 = 36;
/// Name here, case below `tests/plan/` whose host and assignment are taken, role.
const ROLES: [(&str, &str, Role); 3] = [
    ("first-server", "01-first-server", Role::Server),
    ("joining-server", "06-joining-server", Role::Server),
    ("agent", "07-agent", Role::Agent),
];

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The flags of one k3s for one role: name to type and short names.
struct Flags {
    version: K3sVersion,
    by_name: BTreeMap<String, (String, String)>,
}

fn flags(minor: u32, role: Role) -> Flags {
    let text = read(&here().join(format!("k3s_minors/flags/v{minor}-{role}.txt")));
    let version = text.split([' ', ':']).nth(2).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let by_name = lines.map(|line| {
        let mut cells = line.split('\t').map(str::to_owned);
        (cells.next().unwrap(), (cells.next().unwrap(), cells.next().unwrap_or_default()))
    });
    Flags { version: format!("{version}+k3s1").parse().unwrap(), by_name: by_name.collect() }
}

/// What an assignment may say of `key`, as a value that k3s takes.
fn sample(key: Key) -> Json {
    match (key.name, key.kind()) {
        ("cluster-dns", _) => json!(["10.254.0.10"]),
        ("cluster-domain", _) => json!("room.example"),
        ("disable", _) => json!(["ccm"]),
        ("node-external-ip", _) => json!("203.0.113.7"),
        ("node-external-dns" | "node-internal-dns", _) => json!(["a.example.net"]),
        ("service-node-port-range", _) => json!("30000-31000"),
        ("system-default-registry", _) => json!("registry.example.net:5000"),
        (_, Kind::Switch) => json!(true),
        (_, Kind::Number) => json!(7),
        (_, Kind::Duration) => json!("10m"),
        (_, Kind::List) => json!(["v=2"]),
        (_, Kind::Text("")) => json!("012"),
        (_, Kind::Text(words)) => json!(words.split(',').next().unwrap()),
    }
}

/// The assignment of `case` for `version`, with all that it may say of k3s.
fn assignment(case: &str, version: &K3sVersion, role: Role) -> Assignment {
    let mut payload: Json =
        serde_json::from_str(&read(&here().join(format!("plan/{case}/assignment.json")))).unwrap();
    let has = |key: &Key| key.may() == May::Free && keys::of(version).has(key.name, role) && key.serves(role);
    let config: serde_json::Map<String, Json> =
        keys::rows().filter(has).map(|key| (key.name.to_owned(), sample(key))).collect();
    payload["k3s"]["version"] = json!(version.as_str());
    payload["k3s"]["config"] = Json::Object(config);
    payload["node"]["labels"] = json!({"rack": "012"});
    payload["node"]["taints"] = json!(["dedicated=no:NoSchedule"]);
    if role == Role::Server {
        payload["cluster"]["tls_san"] = json!(["api.example.net"]);
        payload["etcd"]["snapshots"] = json!({"schedule": "0 */6 * * *", "retention": 12, "s3": {
            "endpoint": "s3.example.net", "bucket": "edge", "folder": "hz-017", "region": "cn-east-1",
            "access_key": "access-canary-0001", "secret_key": "secret-canary-0001"}});
    }
    role::parse_payload(payload.to_string().as_bytes()).unwrap()
}

/// The planned `config.yaml` of `minor` for one of [`ROLES`], after the lint.
async fn planned(minor: u32, (_, case, role): (&str, &str, Role)) -> (Flags, String) {
    let flags = flags(minor, role);
    let assignment = assignment(case, &flags.version, role);
    let host = TestHost::new();
    host.overlay(&here().join(format!("plan/{case}/root")));
    let (facts, local) = (host.facts().await, host.local());
    let inputs = Inputs { facts: &facts, assignment: &assignment, local: &local, confirmed: true };
    let plan: Plan = plan::plan(inputs).unwrap_or_else(|error| panic!("{minor} {case}: {error}"));
    let notes: Vec<_> = plan.notes.iter().filter(|note| note.contains("k3s.config")).collect();
    assert!(notes.is_empty(), "{minor} {case}: {notes:?}");
    let checked = plan::check(plan, inputs).unwrap_or_else(|broken| panic!("{minor} {case}: {broken:?}"));
    let commit = checked.plan().files.last().unwrap();
    (flags, String::from_utf8(commit.bytes.clone()).unwrap())
}

/// Keys of a `config.yaml` of ours with their values as they are written.
fn entries(text: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut found: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut last = "";
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(item) = line.strip_prefix("  - ") {
            found.get_mut(last).unwrap().push(item);
            continue;
        }
        let (key, value) = line.split_once(':').unwrap();
        last = key;
        let values = Some(value.trim()).filter(|value| !value.is_empty());
        assert!(found.insert(key, values.into_iter().collect()).is_none(), "{key} stands twice");
    }
    found
}

/// Whether k3s's flag parser takes `value` for a flag of this type.
fn is_taken(kind: &str, value: &str) -> bool {
    let is_quoted = value.len() >= 2 && value.starts_with('"') && value.ends_with('"');
    match kind {
        "b" => ["true", "false"].contains(&value),
        "i" => value.parse::<i64>().is_ok(),
        _ => is_quoted,
    }
}

#[tokio::test]
async fn each_minor_gets_the_configuration_that_was_reviewed_and_that_its_own_flags_take() {
    let update = std::env::var("EDGE_GOLDEN").is_ok_and(|golden| golden == "update");
    for minor in FIRST..=NEWEST {
        for role in ROLES {
            let (flags, text) = planned(minor, role).await;
            let name = format!("v{minor}-{}.yaml", role.0);
            for (key, values) in entries(&text) {
                let (kind, _) = flags.by_name.get(key).unwrap_or_else(|| panic!("{name}: k3s has no {key}"));
                assert!(values.len() == 1 || kind == "l", "{name}: {key} is no list for k3s");
                assert!(values.iter().all(|value| is_taken(kind, value)), "{name}: {key} {values:?}");
            }
            let golden = here().join("k3s_minors").join(&name);
            if update {
                std::fs::write(&golden, &text).unwrap();
            }
            assert_eq!(text, read(&golden), "{name}");
        }
    }
}

/// The table that the program carries says of each minor what its source says.
#[test]
fn the_table_has_exactly_the_flags_of_each_minor() {
    for minor in FIRST..=NEWEST {
        for role in [Role::Server, Role::Agent] {
            let flags = flags(minor, role);
            let at = keys::of(&flags.version);
            let has = |key: &Key| {
                key.serves(role)
                    && matches!(at.find(key.name, role), Presence::Known(_) | Presence::Perhaps(_))
            };
            let known: BTreeMap<&str, Key> = keys::rows().filter(has).map(|key| (key.name, key)).collect();
            let names: BTreeSet<&str> = known.keys().copied().collect();
            let wanted: BTreeSet<&str> = flags.by_name.keys().map(String::as_str).collect();
            assert!(wanted.len() > 25, "{minor} {role}: {wanted:?}");
            let differ: Vec<_> = names.symmetric_difference(&wanted).collect();
            assert!(differ.is_empty(), "{} {role}: {differ:?}", flags.version);
            for (name, (kind, short)) in &flags.by_name {
                assert_eq!(letter(known[name.as_str()].kind()), kind, "{minor} {role}: {name}");
                let found = at.find(if short.is_empty() { name } else { short }, role);
                assert_eq!(found, Presence::Known(known[name.as_str()]), "{minor} {role}: {name} {short}");
            }
        }
    }
}

fn letter(kind: Kind) -> &'static str {
    match kind {
        Kind::Switch => "b",
        Kind::Text(_) => "s",
        Kind::Number => "i",
        Kind::Duration => "d",
        Kind::List => "l",
    }
}

/// A key of a minor that has it is an error for a minor that has not.
#[test]
fn a_key_that_a_minor_lacks_is_refused_with_the_versions_that_have_it() {
    let mut looked_at = 0;
    for (minor, role) in (FIRST..=NEWEST).flat_map(|minor| [(minor, Role::Server), (minor, Role::Agent)]) {
        let flags = flags(minor, role);
        for key in keys::rows().filter(|key| !flags.by_name.contains_key(key.name)) {
            let config = BTreeMap::from([(key.name.parse().unwrap(), sample(key))]);
            let allowed = [key.name.to_owned()];
            let refusal = keys::assigned((&flags.version, role), &config, &allowed).unwrap_err();
            assert!(refusal.code == "EB-k3s-key" && refusal.reason.contains(key.name), "{refusal}");
            looked_at += 1;
        }
    }
    assert!(looked_at > 1000, "{looked_at}");
}

#[tokio::test]
async fn a_version_before_the_first_known_one_is_refused() {
    let host = TestHost::new();
    host.overlay(&here().join("plan/07-agent/root"));
    let (facts, local) = (host.facts().await, host.local());
    let version = "v1.20.15+k3s1".parse().unwrap();
    let assignment = assignment("07-agent", &version, Role::Agent);
    let inputs = Inputs { facts: &facts, assignment: &assignment, local: &local, confirmed: true };
    let refusal = plan::plan(inputs).unwrap_err().words();
    assert_eq!(refusal.code, "EB-k3s-version");
    assert!(refusal.reason.contains("v1.20.15+k3s1") && refusal.reason.contains("v1.21.0"), "{refusal}");
}
