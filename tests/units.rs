//! The units that run on hosts: our own, and those that the plan renders.
//!
//! systemd's own checker reads them; the gate line is run by a real shell. A
//! machine without `systemd-analyze` fails these tests and says so.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may stop at the first surprise, and runs programs on files of its own"
)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use edge_bootstrap::facts::runtime::Containerd;
use edge_bootstrap::facts::{Fact, HostFacts};
use edge_bootstrap::plan::{self, Inputs, Local, Plan};
use edge_bootstrap::role::validate;
use edge_bootstrap::wire::assignment::Payload;

const OURS: &str = include_str!("../systemd/edge-bootstrap.service");

/// Highest exposure that `systemd-analyze security` may name, in tenths.
const CEILING: u32 = 35;

/// Every directive of our unit with the first systemd that knows it. An older
/// one ignores the line, so one that came after 219 may only harden.
const DIRECTIVES: &[(&str, u32)] = &[
    ("Description", 1),
    ("Documentation", 1),
    ("Before", 1),
    ("Wants", 1),
    ("After", 1),
    ("StartLimitIntervalSec", 230),
    ("Type", 1),
    ("ExecStart", 1),
    ("ExecReload", 1),
    ("TimeoutStartSec", 188),
    ("TimeoutStopSec", 188),
    ("Restart", 1),
    ("RestartSec", 1),
    ("WatchdogSec", 183),
    ("OOMScoreAdjust", 1),
    ("LimitCORE", 1),
    ("ProtectSystem", 214),
    ("ReadWritePaths", 231),
    ("StateDirectory", 235),
    ("StateDirectoryMode", 235),
    ("ProtectHome", 214),
    ("DevicePolicy", 208),
    ("DeviceAllow", 208),
    ("ReadOnlyPaths", 231),
    ("ProtectKernelModules", 232),
    ("ProtectKernelLogs", 244),
    ("PrivateMounts", 239),
    ("NoNewPrivileges", 187),
    ("CapabilityBoundingSet", 21),
    ("RestrictNamespaces", 233),
    ("RestrictRealtime", 231),
    ("RestrictSUIDSGID", 242),
    ("LockPersonality", 235),
    ("MemoryDenyWriteExecute", 231),
    ("KeyringMode", 235),
    ("RestrictAddressFamilies", 211),
    ("SystemCallArchitectures", 209),
    ("SystemCallFilter", 187),
    ("SystemCallErrorNumber", 209),
    ("UMask", 1),
    ("WantedBy", 1),
];

/// Directives younger than 219 that an older systemd may skip: they only take
/// rights away, or make what the package or the program makes as well.
const MAY_BE_SKIPPED: &[&str] = &[
    "StartLimitIntervalSec",
    "ReadWritePaths",
    "StateDirectory",
    "StateDirectoryMode",
    "ReadOnlyPaths",
    "ProtectKernelModules",
    "ProtectKernelLogs",
    "PrivateMounts",
    "RestrictNamespaces",
    "RestrictRealtime",
    "RestrictSUIDSGID",
    "LockPersonality",
    "MemoryDenyWriteExecute",
    "KeyringMode",
];

fn directives(unit: &str) -> Vec<(&str, &str)> {
    let lines = unit.lines().filter(|line| !line.starts_with(['#', '[']));
    lines.filter_map(|line| line.split_once('=')).collect()
}

fn values<'a>(unit: &'a str, name: &str) -> Vec<&'a str> {
    directives(unit).into_iter().filter(|(key, _)| *key == name).map(|(_, value)| value).collect()
}

fn analyze(words: &[&str], units: &Path) -> Output {
    let mut command = Command::new("systemd-analyze");
    // The trailing colon keeps the machine's own units in view: targets, sockets.
    command
        .args(words)
        .env("SYSTEMD_UNIT_PATH", format!("{}:", units.display()))
        .env("SYSTEMD_LOG_LEVEL", "warning");
    command.output().expect("these tests need systemd-analyze: install the package `systemd`")
}

/// Programs of a host that this machine may lack; the checker looks for them.
fn with_programs_that_are_here(unit: &str) -> String {
    ["/usr/bin/edge-bootstrap", "/usr/local/bin/k3s", "/usr/bin/containerd", "/sbin/modprobe"]
        .iter()
        .fold(unit.to_owned(), |text, program| text.replace(program, "/bin/true"))
}

fn put(directory: &Path, name: &str, text: &str) {
    let path = directory.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, with_programs_that_are_here(text)).unwrap();
}

/// What the checker says about `name`; empty when it finds nothing.
fn complaints(directory: &Path, name: &str) -> String {
    let unit = directory.join(name);
    let output = analyze(&["verify", "--man=no", unit.to_str().unwrap()], directory);
    let said = String::from_utf8_lossy(&output.stderr);
    let about_ours = said.lines().filter(|line| line.contains(name.trim_end_matches(".service")));
    let text = about_ours.collect::<Vec<_>>().join("\n");
    assert!(output.status.success() || !text.is_empty(), "systemd-analyze failed: {said}");
    text
}

#[test]
fn our_unit_is_valid() {
    let directory = tempfile::tempdir().unwrap();
    put(directory.path(), "edge-bootstrap.service", OURS);
    assert_eq!(complaints(directory.path(), "edge-bootstrap.service"), "");
}

#[test]
fn the_checker_finds_a_wrong_directive() {
    let directory = tempfile::tempdir().unwrap();
    put(directory.path(), "edge-bootstrap.service", &OURS.replace("RestartSec=10", "RestartSecs=10"));
    let found = complaints(directory.path(), "edge-bootstrap.service");
    assert!(found.contains("RestartSecs"), "{found:?}");
}

#[test]
fn our_unit_is_below_the_exposure_ceiling() {
    let directory = tempfile::tempdir().unwrap();
    put(directory.path(), "edge-bootstrap.service", OURS);
    let unit = directory.path().join("edge-bootstrap.service");
    let limit = format!("--threshold={CEILING}");
    let output = analyze(
        &["security", "--offline=yes", "--no-pager", &limit, unit.to_str().unwrap()],
        directory.path(),
    );
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("Overall exposure level"), "{said}");
}

#[test]
fn an_old_systemd_may_skip_only_what_hardens() {
    for (name, _) in directives(OURS) {
        let since = DIRECTIVES.iter().find(|(known, _)| *known == name);
        let (_, since) = since.unwrap_or_else(|| panic!("{name}: put it into the table with its version"));
        assert!(
            *since <= 219 || MAY_BE_SKIPPED.contains(&name),
            "{name} came with {since}, and hosts run 219"
        );
    }
}

#[test]
fn an_old_systemd_that_skips_system_call_groups_is_left_with_a_working_filter() {
    // Groups came with 231, @system-service with 239; a list of what is allowed
    // would then hold next to nothing, and the program could not run.
    let filters = values(OURS, "SystemCallFilter");
    assert!(filters.first().is_some_and(|first| first.starts_with('~')), "{filters:?}");
}

#[test]
fn our_unit_sees_the_hosts_own_proc_and_sys() {
    // These mount fresh ones, without what a container has mounted over them:
    // its boot id, by which the gate knows a hold of this boot.
    for name in ["ProtectKernelTunables", "ProtectControlGroups", "ProcSubset", "ProtectProc", "MountAPIVFS"]
    {
        assert!(values(OURS, name).is_empty(), "{name}");
    }
}

#[test]
fn our_unit_waits_for_no_network_and_comes_before_k3s() {
    let order = values(OURS, "Before").join(" ");
    for unit in ["containerd.service", "k3s.service", "k3s-agent.service"] {
        assert!(order.split(' ').any(|word| word == unit), "{unit} is not in Before={order}");
    }
    for name in ["After", "Wants", "Requires", "Requisite", "BindsTo"] {
        assert!(!values(OURS, name).join(" ").contains("network"), "{name}");
    }
    assert_eq!(values(OURS, "TimeoutStartSec"), ["60"]);
}

const SERVER: &str = r#"{
    "schema": 1, "site": "hz-017", "role": "server",
    "node": {"name": "172-16-36-1", "ip": "172.16.36.1"},
    "cluster": {"name": "hz-017", "init": true},
    "join": {"server_token": "server-password", "agent_token": "agent-password"},
    "k3s": {"version": "v1.36.2+k3s1"}
}"#;

const AGENT: &str = r#"{
    "schema": 1, "site": "hz-017", "role": "agent",
    "node": {"name": "172-16-36-9", "ip": "172.16.36.9"},
    "cluster": {"name": "hz-017", "servers": ["https://172.16.36.1:6443"],
        "ca_hash": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
    "join": {"agent_token": "agent-password"},
    "k3s": {"version": "v1.36.2+k3s1"}
}"#;

/// A bare host with a containerd and a k3s that a person installed.
fn bare_host() -> HostFacts {
    let mut facts = HostFacts::default();
    facts.runtime.containerd = Containerd {
        binary: Fact::Known("/usr/bin/containerd".to_owned()),
        version: Fact::Known((1, 7, 24)),
        ..Containerd::default()
    };
    facts.runtime.k3s.version = Fact::Known(Some("v1.36.2+k3s1".to_owned()));
    facts.runtime.k3s.has_datastore = Fact::Known(false);
    facts.runtime.k3s.drop_ins = Fact::Known(Vec::new());
    facts.runtime.identity = Fact::Known(None);
    facts
}

fn planned(assignment: &str) -> Plan {
    let payload: Payload = serde_json::from_str(assignment).unwrap();
    let assignment = validate(&payload, "digest".to_owned()).unwrap();
    let (facts, local) = (bare_host(), Local { manage_hostname: true, ..Local::default() });
    plan::plan(Inputs { facts: &facts, assignment: &assignment, local: &local, confirmed: true }).unwrap()
}

/// The distribution's part of containerd's unit.
const CONTAINERD: &str = "[Service]\nType=notify\nExecStart=/usr/bin/containerd\n";

/// Puts the units of a plan where the checker finds them; gives their names.
fn rendered(directory: &Path, plan: &Plan) -> Vec<String> {
    put(directory, "edge-bootstrap.service", OURS);
    put(directory, "containerd.service", CONTAINERD);
    let mut names = vec!["containerd.service".to_owned()];
    for file in &plan.files {
        let Some(name) = file.path.strip_prefix("/etc/systemd/system/") else { continue };
        put(directory, name, std::str::from_utf8(&file.bytes).unwrap());
        if !name.contains('/') {
            names.push(name.to_owned());
        }
    }
    names
}

#[test]
fn rendered_units_are_valid() {
    for (assignment, unit) in [(SERVER, "k3s.service"), (AGENT, "k3s-agent.service")] {
        let directory = tempfile::tempdir().unwrap();
        let names = rendered(directory.path(), &planned(assignment));
        assert_eq!(names, ["containerd.service", unit]);
        for name in names {
            assert_eq!(complaints(directory.path(), &name), "", "{name}");
        }
    }
}

fn drop_in(plan: &Plan, unit: &str) -> String {
    let path = format!("/etc/systemd/system/{unit}.d/10-edge-bootstrap.conf");
    let file = plan.files.iter().find(|file| file.path == path).unwrap();
    String::from_utf8(file.bytes.clone()).unwrap()
}

/// The gate line of a unit as systemd hands it to the shell, with programs and
/// files of the test's own in place of the host's.
fn gate_line(unit: &str, gate: &Path, config: &Path) -> String {
    let text = drop_in(&planned(SERVER), unit);
    let line = values(&text, "ExecStartPre").pop().unwrap().to_owned();
    let script = line.strip_prefix("/bin/sh -c '").and_then(|line| line.strip_suffix('\'')).unwrap();
    script
        .replace("$$", "$")
        .replace("%n", unit)
        .replace("/usr/bin/edge-bootstrap", gate.to_str().unwrap())
        .replace("/etc/rancher/k3s/config.yaml", config.to_str().unwrap())
        .replace("KILL 10", "KILL 1")
}

fn starts(script: &str) -> bool {
    // No pipes: a child of a killed gate would keep them open.
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    shell.status().unwrap().success()
}

/// Gates that must let the unit start; `None` is no file at all.
const SICK_GATES: [Option<&str>; 7] = [
    None,
    Some(""),
    Some("#!/bin/sh\nexit 2\n"),
    Some("#!/bin/sh\nkill -SEGV $$\n"),
    Some("#!/bin/sh\nkill -ALRM $$\n"),
    Some("#!/bin/sh\nwhile :; do sleep 100; done\n"),
    Some("#!/nowhere/interpreter\n"),
];

fn install(gate: &Path, text: Option<&str>) {
    std::fs::remove_file(gate).ok();
    let Some(text) = text else { return };
    std::fs::write(gate, text).unwrap();
    std::fs::set_permissions(gate, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_sick_gate_never_stops_a_unit_and_a_refusal_always_does() {
    let directory = tempfile::tempdir().unwrap();
    let (gate, config) = (directory.path().join("gate"), directory.path().join("config.yaml"));
    std::fs::write(&config, "node-name: a\n").unwrap();
    for unit in ["k3s.service", "containerd.service"] {
        let script = gate_line(unit, &gate, &config);
        for sick in SICK_GATES {
            install(&gate, sick);
            let began = Instant::now();
            assert!(starts(&script), "{unit}: {sick:?}");
            assert!(began.elapsed() < Duration::from_secs(20), "{unit}: {sick:?}");
        }
        install(&gate, Some("#!/bin/sh\nexit 1\n"));
        assert!(!starts(&script), "{unit}: a refusal lets it start");
    }
}

#[test]
fn k3s_never_starts_on_an_empty_configuration_even_without_a_gate() {
    let directory = tempfile::tempdir().unwrap();
    let (gate, config) = (directory.path().join("gate"), directory.path().join("config.yaml"));
    let script = gate_line("k3s.service", &gate, &config);
    assert!(!starts(&script));
    std::fs::write(&config, "").unwrap();
    assert!(!starts(&script));
    std::fs::write(&config, "node-name: a\n").unwrap();
    assert!(starts(&script));
}
