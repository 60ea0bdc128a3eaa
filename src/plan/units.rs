//! Unit files and drop-ins.
//!
//! Owns their text: k3s's units carry the names and directives that its
//! installer would use (k3s: install.sh create_systemd_service_file), plus
//! `Conflicts=` and a drop-in with the order and the gate line.

use super::Inputs;
use super::containerd::Decision;
use super::item::{PlannedFile, PlannedRemoval, PlannedUnit, Wanted};
use crate::paths;
use crate::role::{Duty, Role};

/// Unit of a server.
pub const K3S: &str = "k3s.service";
/// Unit of an agent.
pub const K3S_AGENT: &str = "k3s-agent.service";
/// containerd's unit.
pub const CONTAINERD: &str = "containerd.service";
/// Applies `/etc/sysctl.d`.
pub const SYSCTL: &str = "systemd-sysctl.service";
/// Loads `/etc/modules-load.d`.
pub const MODULES: &str = "systemd-modules-load.service";

/// Whether `unit` runs k3s.
#[must_use]
pub fn is_k3s(unit: &str) -> bool {
    unit == K3S || unit == K3S_AGENT
}

/// The unit of a role; `k3s.service` for none, which nothing starts.
#[must_use]
pub fn of_role(role: Role) -> &'static str {
    match role {
        Role::Agent => K3S_AGENT,
        Role::Server | Role::None => K3S,
    }
}

fn other_role(role: Role) -> &'static str {
    match role {
        Role::Agent => K3S,
        Role::Server | Role::None => K3S_AGENT,
    }
}

/// A unit that shall be down.
pub(super) fn stopped(name: &str, reason: &str) -> PlannedUnit {
    PlannedUnit {
        name: name.to_owned(),
        wanted: Wanted::Stopped,
        manage_boot: true,
        restart: None,
        restart_pending: None,
        reason: reason.to_owned(),
    }
}

/// The unit of the other role must be down and stay so.
pub(super) fn other_stopped(duty: &Duty) -> PlannedUnit {
    stopped(other_role(duty.role), &format!("this host is a k3s {}", duty.role))
}

/// Unit file of the role, its drop-in and containerd's drop-in.
pub(super) fn files(duty: &Duty, decision: &Decision) -> Vec<PlannedFile> {
    let (path, verb) = match duty.role {
        Role::Agent => (paths::K3S_AGENT_UNIT, "agent"),
        Role::Server | Role::None => (paths::K3S_UNIT, "server"),
    };
    vec![
        PlannedFile::public(
            paths::CONTAINERD_DROP_IN,
            containerd_drop_in(decision),
            "containerd runs on our own complete file and fails without it",
        ),
        PlannedFile::public(path, k3s_unit(verb, other_role(duty.role)), format!("runs k3s as {verb}")),
        PlannedFile::public(
            format!("{path}.d/{}", paths::DROP_IN),
            k3s_drop_in(),
            "k3s starts after its checks, and not at all against positive evidence",
        ),
    ]
}

/// The unit file of the other role goes, so that nobody starts it by mistake.
pub(super) fn removals(inputs: Inputs<'_>, duty: &Duty) -> Vec<PlannedRemoval> {
    let path = match duty.role {
        Role::Agent => paths::K3S_UNIT,
        Role::Server | Role::None => paths::K3S_AGENT_UNIT,
    };
    let ours = |text: &Option<String>| text.as_deref().is_some_and(|text| text.contains(UNIT_MARK));
    let files = &inputs.facts.runtime.files;
    let present = files.get(path).is_some_and(|file| ours(&file.text));
    let drop_in = format!("{path}.d/{}", paths::DROP_IN);
    let mut removals = Vec::new();
    for path in [path.to_owned(), drop_in] {
        if present && files.contains_key(&path) {
            removals.push(PlannedRemoval { path, reason: "unit of the other role".to_owned() });
        }
    }
    removals.extend(adopting(inputs));
    removals
}

/// What a take-over needed until our unit and configuration are there; the drop-in
/// first, which names the others.
fn adopting(inputs: Inputs<'_>) -> Vec<PlannedRemoval> {
    let drop_ins = [paths::K3S_UNIT, paths::K3S_AGENT_UNIT];
    let drop_ins = drop_ins.map(|unit| format!("{unit}.d/{}", paths::ADOPT_DROP_IN));
    let all = drop_ins.into_iter().chain([paths::ADOPT_VARIABLES, paths::ADOPT_CONFIG].map(str::to_owned));
    let there = all.filter(|path| inputs.facts.runtime.files.contains_key(path));
    there.map(|path| PlannedRemoval { path, reason: "the take-over is done".to_owned() }).collect()
}

/// Files of others whose `K3S_` variables fill in every key that `config.yaml`
/// leaves open, `K3S_URL` of a first server among them.
pub(super) fn foreign_environment(inputs: Inputs<'_>, duty: &Duty) -> Vec<String> {
    let name = of_role(duty.role).trim_end_matches(".service");
    let places = [
        format!("/etc/default/{name}"),
        format!("/etc/sysconfig/{name}"),
        format!("/etc/systemd/system/{name}.service.env"),
    ];
    let files = &inputs.facts.runtime.files;
    let holds_something = |path: &String| files.get(path).is_some_and(|file| file.size > 0);
    let note = |path| {
        format!(
            "k3s also reads {path}, which is not ours; K3S_ variables there fill in keys that config.yaml leaves open"
        )
    };
    places.into_iter().filter(holds_something).map(note).collect()
}

/// Marks a unit file as ours.
const UNIT_MARK: &str = "# Written by edge-bootstrap";

/// Whether the text of a unit file is of somebody else.
#[must_use]
pub fn is_foreign(text: &str) -> bool {
    !text.contains(UNIT_MARK)
}

fn k3s_unit(verb: &str, conflicts: &str) -> String {
    format!(
        "{UNIT_MARK}; changes here are put back. Operators use `systemctl edit`.
[Unit]
Description=Lightweight Kubernetes ({verb})
Documentation=https://k3s.io
Wants=network-online.target
After=network-online.target
Conflicts={conflicts}

[Service]
Type=notify
EnvironmentFile=-/etc/default/%N
EnvironmentFile=-/etc/sysconfig/%N
EnvironmentFile=-/etc/systemd/system/%N.service.env
KillMode=process
Delegate=yes
User=root
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
TimeoutStartSec=0
Restart=always
RestartSec=5s
ExecStartPre=-/sbin/modprobe br_netfilter
ExecStartPre=-/sbin/modprobe overlay
ExecStart={link} {verb}

[Install]
WantedBy=multi-user.target
",
        link = paths::K3S_LINK,
    )
}

/// Only exit 1 refuses: a missing, torn, crashing, hanging or killed gate lets
/// the unit start. `timeout` covers a binary that hangs before its own alarm.
/// What the shell checks itself comes after, so that a gate that works can say why.
fn gate(after: &str) -> String {
    format!(
        "ExecStartPre=/bin/sh -c 'timeout -s KILL 10 /usr/bin/edge-bootstrap gate --unit %n; test $$? -ne 1{after}'"
    )
}

fn k3s_drop_in() -> String {
    let gate = gate(" && test -s /etc/rancher/k3s/config.yaml");
    format!(
        "{UNIT_MARK}.
[Unit]
After=edge-bootstrap.service containerd.service
Wants=containerd.service

[Service]
{gate}
"
    )
}

/// Never gives up: a host in a dark room has nobody to reset a start limit. The
/// directive moved with systemd 230, which still reads the old one; an older one
/// skips the new one.
fn no_start_limit(systemd: Option<u32>) -> [&'static str; 2] {
    let (new, old) = ("StartLimitIntervalSec=0\n", "StartLimitInterval=0\n");
    match systemd {
        Some(version) if version < 230 => ["", old],
        Some(_) => [new, ""],
        None => [new, old],
    }
}

/// containerd's own unit dropped the limit with 2.0, because systemd 240 and
/// newer have a sound one; two numbers are understood from 229 on.
fn open_files(decision: &Decision) -> &'static str {
    match decision.systemd {
        Some(version) if decision.version.0 >= 2 && version < 229 => "LimitNOFILE=524288\n",
        Some(version) if decision.version.0 >= 2 && version < 240 => "LimitNOFILE=1024:524288\n",
        _ => "",
    }
}

/// `RequiresMountsFor=`: with its data disk missing containerd would start on an
/// empty store of the root disk.
fn containerd_drop_in(decision: &Decision) -> String {
    let gate = gate("");
    let [unit_limit, service_limit] = no_start_limit(decision.systemd);
    format!(
        "{UNIT_MARK}.
[Unit]
After=edge-bootstrap.service
RequiresMountsFor={root}
{unit_limit}
[Service]
{service_limit}{files}{gate}
ExecStart=
ExecStart={binary} --config {config}
",
        root = paths::CONTAINERD_ROOT,
        files = open_files(decision),
        binary = decision.binary,
        config = paths::CONTAINERD_CONFIG,
    )
}
