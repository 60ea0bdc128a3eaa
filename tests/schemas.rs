//! What the program prints as JSON is what `docs/schemas/` promises.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may stop at the first surprise, and reads the schemas as they lie there"
)]

use std::path::Path;
use std::process::Command;

use edge_bootstrap::facts::HostFacts;
use edge_bootstrap::facts::runtime::Joined;
use edge_bootstrap::plan::upgrade::{PlannedUpgrade, Step};
use edge_bootstrap::plan::{
    self, Inputs, Local, PlannedEmpty, PlannedImage, PlannedQuarantine, PlannedRemoval, PlannedRestore,
    PoolAct, PoolSpace, RestoreFrom, WaitingOn, diff,
};
use edge_bootstrap::report::status::{
    Agent, Allowed, Finding, Hold, Images, LastPass, LeftAlone, NodeAddress, Paused, PendingRestart,
    RefusedStart, UnitState, Waiting,
};
use edge_bootstrap::report::{FindingStatus, Outcome, Phase, Status};
use edge_bootstrap::role;
use jsonschema::Validator;
use serde_json::{Value, json};

const TIME: &str = "2026-11-21T10:00:00Z";

fn schema(name: &str) -> Validator {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schemas").join(name);
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    jsonschema::meta::validate(&schema).unwrap();
    jsonschema::validator_for(&schema).unwrap()
}

fn assert_fits(schema: &Validator, value: &Value) {
    let errors: Vec<String> =
        schema.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

/// A field more, anywhere, must be noticed: that is how a schema that lags
/// behind its type is found.
fn assert_closed(schema: &Validator, value: &Value) {
    assert_fits(schema, value);
    let places = objects(value, String::new());
    assert!(places.len() > 1, "the sample holds nothing to look at");
    for place in places {
        let mut changed = value.clone();
        let object = changed.pointer_mut(&place).unwrap().as_object_mut().unwrap();
        object.insert("drift".to_owned(), Value::Null);
        assert!(!schema.is_valid(&changed), "a new field in {place:?} was not noticed");
    }
}

/// JSON pointers of all objects in `value`.
fn objects(value: &Value, here: String) -> Vec<String> {
    let below =
        |key: &str, value| objects(value, format!("{here}/{}", key.replace('~', "~0").replace('/', "~1")));
    match value {
        Value::Object(map) => {
            let mut places: Vec<String> = map.iter().flat_map(|(key, value)| below(key, value)).collect();
            places.push(here.clone());
            places
        }
        Value::Array(items) => {
            items.iter().enumerate().flat_map(|(at, value)| below(&at.to_string(), value)).collect()
        }
        _ => Vec::new(),
    }
}

// === facts ===

/// A host that was looked at whole: every field is known.
fn facts_json() -> Value {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemas/facts.json"))
            .unwrap();
    serde_json::from_str(&text).unwrap()
}

fn facts() -> HostFacts {
    serde_json::from_value(facts_json()).unwrap()
}

/// The same host before its first start.
fn bare_facts() -> HostFacts {
    let mut facts = facts();
    facts.runtime.k3s.has_datastore = plan_known(false);
    facts.runtime.identity = plan_known(None);
    facts.runtime.files.clear();
    facts.runtime.links.clear();
    facts
}

fn plan_known<T>(value: T) -> edge_bootstrap::facts::Fact<T> {
    edge_bootstrap::facts::Fact::Known(value)
}

#[test]
fn facts_fit_when_nothing_is_known() {
    let facts = HostFacts { schema: 1, ..HostFacts::default() };
    assert_closed(&schema("facts.json"), &serde_json::to_value(facts).unwrap());
}

#[test]
fn facts_fit_when_everything_is_known() {
    let printed = serde_json::to_value(facts()).unwrap();
    assert_eq!(printed, facts_json(), "the sample says what the types do not hold");
    assert_closed(&schema("facts.json"), &printed);
    let unknown = objects(&printed, String::new())
        .into_iter()
        .filter(|place| printed.pointer(place).and_then(|object| object.get("unknown")).is_some());
    assert_eq!(unknown.count(), 0, "the sample must know everything");
}

// === plan ===

fn assignment() -> role::Assignment {
    let payload = json!({
        "schema": 1, "generation": 7, "issued_at": TIME, "site": "hz-017", "role": "server",
        "node": {"name": "172-16-36-1", "ip": "172.16.36.1", "labels": {}, "taints": []},
        "cluster": {"name": "hz-017", "epoch": 1, "cluster_cidr": "10.253.0.0/16", "service_cidr": "10.254.0.0/16",
                    "init": true, "ca_hash": null, "servers": [], "tls_san": []},
        "join": {"server_token": "canary-server-token", "agent_token": "canary-agent-token"},
        "k3s": {"version": "v1.36.2+k3s1", "config": {},
                "artifacts": {"amd64": {"urls": ["https://files.example.net/k3s"], "sha256": "ab".repeat(32)}}},
        "runtime": {"mirrors": [{"registry": "docker.io", "endpoints": ["http://172.16.36.5:5000"]}]},
        "field_of_tomorrow": 1
    });
    role::parse_payload(payload.to_string().as_bytes()).unwrap()
}

fn facts_joined() -> Option<Joined> {
    facts().runtime.identity.known().unwrap().as_ref().unwrap().joined.clone()
}

fn plan_json(facts: &HostFacts) -> Value {
    let local = Local { manage_hostname: true, manage_ip: true, ..Local::default() };
    let assignment = assignment();
    let inputs = Inputs { facts, assignment: &assignment, local: &local, confirmed: true };
    let mut plan = plan::plan(inputs).unwrap();
    // What a first plan has not yet, and a later one may have.
    plan.removals.push(PlannedRemoval {
        path: "/etc/cni/net.d/old".to_owned(),
        reason: "ours, not needed".to_owned(),
    });
    plan.quarantines.push(PlannedQuarantine {
        path: "/var/lib/rancher/k3s/server/db/etcd".to_owned(),
        needs_stopped: "k3s.service".to_owned(),
        reason: "removed".to_owned(),
    });
    let text = RestoreFrom::Text("172-16-36-1-1a2b3c4d".to_owned());
    plan.restores = [RestoreFrom::Copy("/var/lib/edge-bootstrap/backup/node-password".to_owned()), text]
        .map(|from| PlannedRestore {
            path: "/etc/rancher/node/password".to_owned(),
            from,
            needs_stopped: None,
            reason: "lost".to_owned(),
        })
        .into();
    plan.empty = Some(PlannedEmpty {
        paths: vec!["/var/lib/rancher/k3s/server/tls/client-admin.key".to_owned()],
        needs_stopped: "k3s.service".to_owned(),
        reason: "holds nothing".to_owned(),
    });
    let pool = || "edge-thinpool".to_owned();
    plan.storage.as_mut().unwrap().acts = vec![
        PoolAct::Create { pool: pool(), space: PoolSpace::Device("/dev/sdb".to_owned()) },
        PoolAct::Create { pool: pool(), space: PoolSpace::VolumeGroup("edge".to_owned()) },
        PoolAct::Activate { pool: pool() },
        PoolAct::Repair { pool: pool() },
        PoolAct::Extend { pool: pool() },
    ];
    plan.images.push(PlannedImage {
        urls: vec!["https://files.example.net/images.tar".parse().unwrap()],
        sha256: "ab".repeat(32).parse().unwrap(),
    });
    plan.upgrade = Some(PlannedUpgrade {
        from: "v1.36.1+k3s1".parse().unwrap(),
        to: "v1.36.2+k3s1".parse().unwrap(),
        step: Step::Due,
        reason: Some("servers go first".to_owned()),
        artifact: plan.artifacts.first().cloned(),
        wish: String::new(),
        words: None,
    });
    plan.units[0].restart_pending = Some("node-label changed".to_owned());
    plan.identity.as_mut().unwrap().joined = facts_joined();
    let changes = diff::changes(&plan, facts);
    json!({"schema": 1, "plan": plan::to_json(&plan), "changes": changes})
}

#[test]
fn a_plan_with_its_changes_fits() {
    let printed = plan_json(&bare_facts());
    for list in
        ["/plan/artifacts", "/plan/files", "/plan/links", "/plan/units", "/plan/notes"].into_iter().chain([
            "/plan/removals",
            "/plan/quarantines",
            "/plan/restores",
            "/plan/images",
            "/plan/storage/inputs",
            "/plan/storage/acts",
            "/changes/storage",
            "/changes/quarantines",
            "/changes/restores",
            "/plan/empty/paths",
            "/changes/empty",
            "/changes/artifacts",
            "/changes/files",
            "/changes/links",
            "/changes/units",
            "/changes/pending",
        ])
    {
        assert!(
            !printed.pointer(list).unwrap().as_array().unwrap().is_empty(),
            "{list} is empty: {printed:#}"
        );
    }
    assert_closed(&schema("plan.json"), &printed);
    assert!(!printed.to_string().contains("canary"), "a token is shown");
}

#[test]
fn a_plan_that_waits_fits() {
    let waiting = Waiting::from(&WaitingOn::FirstServer);
    assert_closed(&schema("plan.json"), &json!({"schema": 1, "waiting_on": waiting}));
}

#[test]
fn a_plan_and_a_wait_at_once_do_not_fit() {
    let mut both = plan_json(&bare_facts());
    both["waiting_on"] = serde_json::to_value(Waiting::from(&WaitingOn::FirstServer)).unwrap();
    assert!(!schema("plan.json").is_valid(&both));
}

// === status ===

fn starting() -> Status {
    Status::starting("172-16-36-1", Agent { version: "0.1.0".to_owned(), pid: 812, starts_in_boot: 1 }, TIME)
}

/// Everything is there at once, which no real host shows.
fn filled() -> Status {
    let text = str::to_owned;
    Status {
        role: Some(text("server")),
        site: Some(text("hz-017")),
        node: Some(NodeAddress { name: text("172-16-36-1"), ip: "172.16.36.1".parse().unwrap() }),
        generation: 7,
        epoch: 1,
        plan_generation: 3,
        last_contact: Some(text(TIME)),
        last_pass: Some(LastPass {
            at: text(TIME),
            outcome: Outcome::Converged,
            steps_ms: [(text("plan"), 3)].into(),
        }),
        waiting_on: Some(Waiting::from(&WaitingOn::Server)),
        coming_up: Some(text("k3s-unit: k3s.service is activating/start, for 14 s")),
        hold: Some(Hold { code: text("EB-wait-init-lease"), reason: text("no word"), since: text(TIME) }),
        paused: Some(Paused { until: text(TIME), by: text("wang"), reason: text("disk") }),
        allowed: vec![Allowed {
            code: text("EB-hostname"),
            until: text(TIME),
            by: text("wang"),
            reason: text("cable"),
            used: 2,
            last_used: Some(text(TIME)),
        }],
        refused: vec![RefusedStart {
            unit: text("k3s.service"),
            code: text("EB-ip-absent"),
            reason: text("it is on no interface"),
            next: text("check the cable"),
            count: 12,
            told_at: text(TIME),
            last_at: text(TIME),
            allow: text("edge-bootstrap gate allow --code EB-ip-absent --for 1h --reason TEXT"),
        }],
        left_alone: vec![LeftAlone { unit: text("k3s.service"), why: text("stopped"), since: text(TIME) }],
        pending_restarts: vec![PendingRestart {
            unit: text("k3s.service"),
            reason: text("node-label changed"),
            waits_for: Some(text("server 172-16-36-2 must be healthy first: its Node is not Ready")),
        }],
        images: Some(Images { wanted: 2, imported: 1, now: Some(text("airgap.tar 61 % (12.3 MB/s)")) }),
        findings: FindingStatus::ALL.iter().map(finding).collect(),
        units: [
            (
                text("k3s.service"),
                UnitState { active: text("active"), sub: text("running"), restarts: Some(0) },
            ),
            (
                text("containerd.service"),
                UnitState { active: text("active"), sub: text("running"), restarts: None },
            ),
        ]
        .into(),
        versions: [(text("k3s"), text("v1.36.2+k3s1"))].into(),
        ..starting()
    }
}

fn finding(status: &FindingStatus) -> Finding {
    let [id, code, text] = ["hostname", "EB-hostname", "the name drifted"].map(str::to_owned);
    Finding { id, code, status: status.clone(), text }
}

#[test]
fn a_status_fits_in_every_phase_and_with_every_outcome() {
    let schema = schema("status.json");
    for phase in Phase::ALL {
        for mut status in [starting(), filled()] {
            status.phase = phase.clone();
            assert_closed(&schema, &serde_json::to_value(&status).unwrap());
            // Where no daemon said anything nobody knows since when.
            status.since.clear();
            let is_silent = status.phase == Phase::Silent;
            assert_eq!(schema.is_valid(&serde_json::to_value(&status).unwrap()), is_silent);
        }
    }
    for outcome in Outcome::ALL {
        let mut status = filled();
        status.last_pass.as_mut().unwrap().outcome = outcome.clone();
        assert_fits(&schema, &serde_json::to_value(&status).unwrap());
    }
}

#[test]
fn a_status_with_a_claim_code_or_a_strange_word_does_not_fit() {
    let schema = schema("status.json");
    for (field, value) in
        [("code", json!("7KQ2MX")), ("phase", json!("asleep")), ("since", json!("yesterday"))]
    {
        let mut status = serde_json::to_value(filled()).unwrap();
        status[field] = value;
        assert!(!schema.is_valid(&status), "{field}");
    }
}

// === reset ===

#[test]
fn what_a_reset_would_do_fits() {
    use edge_bootstrap::boot::reset::{Item, Manifest, Wish};
    use edge_bootstrap::plan::reset::processes::Process;
    let item = Item { path: "/var/lib/kubelet".into(), bytes: 4096, why: String::new() };
    let filled = Manifest {
        number: 2,
        identity: Some(edge_bootstrap::facts::runtime::PinnedIdentity::clone(
            facts().runtime.identity.known().unwrap().as_ref().unwrap(),
        )),
        warnings: vec!["the only server".into()],
        refused: vec!["paused by wang".into()],
        units: vec![("k3s.service".into(), "active/running".into())],
        processes: vec![(Process { pid: 7, name: "k3s-server".into(), ..Process::default() }, "is k3s")],
        mounts: vec!["/run/k3s".into()],
        moved: vec![item.clone()],
        removed: vec![item.clone()],
        kept: vec![item],
        ..Manifest::default()
    };
    let schema = schema("reset.json");
    for kill_only in [false, true] {
        assert_closed(&schema, &filled.to_json(Wish { kill_only, ..Wish::default() }));
    }
    assert_fits(
        &schema,
        &Manifest::default().to_json(Wish { kill_only: true, forget: true, break_cluster: true }),
    );
}

// === doctor ===

fn doctor() -> Value {
    json!({"schema": 1, "verdict": "degraded", "host": "172-16-36-1", "findings": [
        {"id": "identity.hostname", "title": "Hostname", "status": "warn", "evidence": "hostname is localhost",
         "cause": "dhclient set it", "since": TIME,
         "remedy": {"id": "hostname", "class": "safe", "text": "put it back", "command": "edge-bootstrap apply"}},
        {"id": "disk.space", "title": "Free space", "status": "ok", "evidence": null, "cause": null,
         "since": null, "remedy": null}
    ]})
}

#[test]
fn the_contract_of_doctor_fits_its_schema_and_nothing_else_does() {
    let schema = schema("doctor.json");
    assert_closed(&schema, &doctor());
    for (place, value) in [
        ("/verdict", json!("unknown")),
        ("/findings/0/status", json!("bad")),
        ("/findings/0/remedy/class", json!("harmless")),
        ("/findings/0/id", json!("Identity Hostname")),
        ("/schema", json!(2)),
    ] {
        let mut changed = doctor();
        *changed.pointer_mut(place).unwrap() = value;
        assert!(!schema.is_valid(&changed), "{place}");
    }
}

// === what a person's word did ===

/// What `line` prints as JSON on the host below `root`, and its exit code.
fn printed(root: &Path, line: &str) -> (Value, Option<i32>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edge-bootstrap"));
    let output = command.args(line.split(' ')).arg("--json").arg("--root").arg(root).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{line}: {error}: {output:?}"));
    (value, output.status.code())
}

#[test]
fn a_pause_and_an_allowance_print_the_status_with_what_is_in_force_then() {
    let (dir, schema) = (tempfile::tempdir().unwrap(), schema("status.json"));
    let said = |line: &str| {
        let (printed, code) = printed(dir.path(), line);
        assert_eq!(code, Some(0), "{line}");
        assert_fits(&schema, &printed);
        printed
    };
    assert_eq!(said("pause --for 1h --reason disk")["paused"]["reason"], "disk");
    let allowed = said("gate allow --code EB-hostname --for 1h --reason cable");
    assert_eq!(
        (&allowed["allowed"][0]["code"], &allowed["paused"]["reason"]),
        (&"EB-hostname".into(), &"disk".into())
    );
    assert_eq!(said("gate revoke --code EB-hostname")["allowed"], json!([]));
    assert_eq!(said("resume")["paused"], Value::Null);
}

#[test]
fn a_check_of_the_settings_and_nothing_to_take_over_print_one_object_too() {
    let dir = tempfile::tempdir().unwrap();
    for line in ["config check", "adopt"] {
        let (printed, code) = printed(dir.path(), line);
        assert_eq!((&printed["schema"], code), (&json!(1), Some(0)), "{line}");
    }
}

#[test]
fn a_pass_prints_the_status_after_it_also_where_it_waits() {
    let dir = tempfile::tempdir().unwrap();
    let (printed, code) = printed(dir.path(), "apply");
    assert_fits(&schema("status.json"), &printed);
    assert_eq!(code, Some(75));
}

#[test]
fn the_gate_prints_its_refusal_or_that_there_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let gate = |unit: &str| printed(dir.path(), &format!("gate --unit {unit}"));
    let none = json!({"schema": 1, "unit": "other.service", "refusal": null});
    assert_eq!(gate("other.service"), (none, Some(0)));
    let (printed, code) = gate("k3s.service");
    assert_eq!((printed["refusal"]["code"].as_str(), code), (Some("EB-config-empty"), Some(1)), "{printed}");
    assert!(printed["refusal"]["next"].as_str().is_some_and(|next| !next.is_empty()));
}
