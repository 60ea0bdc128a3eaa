//! How this host is, as plain data.
//!
//! Owns the shape of `status --json` and of `/run/edge-bootstrap/status.json`
//! (`docs/schemas/status.json`). Everybody may read it: no field holds a claim
//! code, a token or a key. The code of a pending claim is a [`PendingClaim`],
//! in a file of its own that only root reads.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::words::{FindingStatus, Outcome, Phase, Verdict};
use crate::facts::runtime::Unit;
use crate::plan::diff::UnitChange;
use crate::plan::refusal::{Refusal, WaitingOn};

/// How this host is. All times are RFC 3339 in UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// 1.
    pub schema: u32,
    /// The kernel's hostname.
    pub host: String,
    /// Where the boot line stands.
    pub phase: Phase,
    /// Since when it stands there; empty, and absent in JSON, where no daemon said it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub since: String,
    /// `server`, `agent` or `none`; absent without an assignment.
    #[serde(default)]
    pub role: Option<String>,
    /// The machine room, once known.
    #[serde(default)]
    pub site: Option<String>,
    /// Name and address of the node, once pinned.
    #[serde(default)]
    pub node: Option<NodeAddress>,
    /// Generation of the assignment in force; 0 when there is none.
    #[serde(default)]
    pub generation: u64,
    /// Epoch of the pinned identity; 0 when there is none.
    #[serde(default)]
    pub epoch: u64,
    /// Number of the generation directory in force; 0 when there is none.
    #[serde(default)]
    pub plan_generation: u64,
    /// When the central service last answered.
    #[serde(default)]
    pub last_contact: Option<String>,
    /// The last pass that ended.
    #[serde(default)]
    pub last_pass: Option<LastPass>,
    /// What must happen before there can be a plan.
    #[serde(default)]
    pub waiting_on: Option<Waiting>,
    /// What a node that comes up by itself waits for, as it was seen last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coming_up: Option<String>,
    /// Why k3s must not start yet.
    #[serde(default)]
    pub hold: Option<Hold>,
    /// Who stopped all changes.
    #[serde(default)]
    pub paused: Option<Paused>,
    /// Refusals of the gate that a person lets pass.
    #[serde(default)]
    pub allowed: Vec<Allowed>,
    /// Starts that the gate refused last.
    #[serde(default)]
    pub refused: Vec<RefusedStart>,
    /// Units that a person stopped and that therefore stay so.
    #[serde(default)]
    pub left_alone: Vec<LeftAlone>,
    /// Restarts that are due and wait for the room's Lease.
    #[serde(default)]
    pub pending_restarts: Vec<PendingRestart>,
    /// How far the archives of images are; absent when none are assigned.
    #[serde(default)]
    pub images: Option<Images>,
    /// What is not as it should be.
    #[serde(default)]
    pub findings: Vec<Finding>,
    /// Units by name, as systemd tells them.
    #[serde(default)]
    pub units: BTreeMap<String, UnitState>,
    /// Program name to version.
    #[serde(default)]
    pub versions: BTreeMap<String, String>,
    /// The daemon itself.
    pub agent: Agent,
    /// Whether the daemon's process lives; otherwise this is what it said last,
    /// or what was read from disk.
    #[serde(default = "yes")]
    pub running: bool,
}

fn yes() -> bool {
    true
}

/// Name and address of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAddress {
    /// Node name.
    pub name: String,
    /// Node IP.
    pub ip: IpAddr,
}

/// A pass that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastPass {
    /// When it ended.
    pub at: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Milliseconds by step: observe, enrol, plan, apply, activate, verify.
    #[serde(default)]
    pub steps_ms: BTreeMap<String, u64>,
}

/// What must happen before there can be a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// `EB-…`.
    pub code: String,
    /// What was seen.
    pub reason: String,
    /// What to do.
    pub next: String,
}

/// Why k3s must not start yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// `EB-…`.
    pub code: String,
    /// What was seen.
    pub reason: String,
    /// Since when.
    pub since: String,
}

/// A person stopped all changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// Until when.
    pub until: String,
    /// Who, as the login name that is known.
    pub by: String,
    /// Why, in that person's words.
    pub reason: String,
}

/// A refusal of the gate that a person lets pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowed {
    /// `EB-…`.
    pub code: String,
    /// Until when.
    pub until: String,
    /// Who, as the login name that is known.
    pub by: String,
    /// Why, in that person's words.
    pub reason: String,
    /// How many starts it let go in this boot.
    #[serde(default)]
    pub used: u64,
    /// When it last let one go; absent when it did not in this boot.
    #[serde(default)]
    pub last_used: Option<String>,
}

/// A start that the gate refused, in this boot, with no start let go since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedStart {
    /// Unit name.
    pub unit: String,
    /// `EB-…`.
    pub code: String,
    /// What was seen.
    pub reason: String,
    /// What to do.
    pub next: String,
    /// How often it was refused for this.
    pub count: u64,
    /// When the journal was told last.
    pub told_at: String,
    /// When it was refused last.
    pub last_at: String,
    /// The command with which a person lets it pass.
    pub allow: String,
}

/// A unit that a person stopped, disabled or masked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftAlone {
    /// Unit name.
    pub unit: String,
    /// What was seen.
    pub why: String,
    /// Since when.
    pub since: String,
}

/// A restart that is due and waits for the room's Lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingRestart {
    /// Unit name.
    pub unit: String,
    /// Why it is due.
    pub reason: String,
    /// What must happen first, when the last pass looked.
    #[serde(default)]
    pub waits_for: Option<String>,
}

/// Archives of images that the assignment names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Images {
    /// How many.
    pub wanted: u64,
    /// How many of them are in containerd's store, synced.
    pub imported: u64,
    /// What is done now: `airgap.tar 61 % (12.3 MB/s)`.
    #[serde(default)]
    pub now: Option<String>,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable id of the check.
    pub id: String,
    /// `EB-…`.
    pub code: String,
    /// How it is.
    pub status: FindingStatus,
    /// For people.
    pub text: String,
}

/// One unit, as systemd tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitState {
    /// `active`, `activating`, `inactive`, `failed`, …
    pub active: String,
    /// `running`, `start-pre`, `auto-restart`, `dead`, …
    pub sub: String,
    /// Restarts since it was loaded; absent where systemd does not count them.
    #[serde(default)]
    pub restarts: Option<u32>,
}

/// The daemon itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Its version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// How often it was started in this boot, this time included.
    pub starts_in_boot: u32,
}

/// A claim that a person must approve. Not for everybody's eyes: who knows the
/// code can pass another host off as this one.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingClaim {
    /// 1.
    pub schema: u32,
    /// Told to the approver.
    pub code: String,
    /// `approval` or `replaces`.
    pub reason: String,
    /// The node that this host would replace.
    #[serde(default)]
    pub of: Option<String>,
    /// Since when, RFC 3339 in UTC.
    pub since: String,
}

impl fmt::Debug for PendingClaim {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "PendingClaim({}, since {})", self.reason, self.since)
    }
}

// === impl Status ===

impl Status {
    /// A daemon that has just begun, at `now`.
    #[must_use]
    pub fn starting(host: impl Into<String>, agent: Agent, now: impl Into<String>) -> Self {
        Self {
            schema: 1,
            host: host.into(),
            phase: Phase::Starting,
            since: now.into(),
            role: None,
            site: None,
            node: None,
            generation: 0,
            epoch: 0,
            plan_generation: 0,
            last_contact: None,
            last_pass: None,
            waiting_on: None,
            coming_up: None,
            hold: None,
            paused: None,
            allowed: Vec::new(),
            refused: Vec::new(),
            left_alone: Vec::new(),
            pending_restarts: Vec::new(),
            images: None,
            findings: Vec::new(),
            units: BTreeMap::new(),
            versions: BTreeMap::new(),
            agent,
            running: true,
        }
    }

    /// Goes to `phase`; `since` moves only when that is another one.
    pub fn enter(&mut self, phase: Phase, now: impl Into<String>) {
        if self.phase != phase {
            self.phase = phase;
            self.since = now.into();
        }
    }

    /// 0 when steady, else 1 (DESIGN 5). What a dead daemon said last is no
    /// promise.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        u8::from(self.phase != Phase::Steady || !self.running)
    }

    /// The host in one word. What nobody has looked at yet is `unknown`, never healthy.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let found = |status: FindingStatus| self.findings.iter().any(|finding| finding.status == status);
        match &self.phase {
            Phase::Failed => Verdict::Failed,
            _ if found(FindingStatus::Fail) => Verdict::Failed,
            Phase::Degraded | Phase::Held | Phase::Quarantined => Verdict::Degraded,
            _ if found(FindingStatus::Warn) => Verdict::Degraded,
            Phase::Steady => Verdict::Healthy,
            _ => Verdict::Unknown,
        }
    }

    /// The host in one line for people: `systemctl status`, console, log.
    #[must_use]
    pub fn line(&self) -> String {
        let place = match (&self.role, &self.site) {
            (Some(role), Some(site)) => format!(", {role} of {site}, generation {}", self.generation),
            (Some(role), None) => format!(", {role}, generation {}", self.generation),
            (None, _) => String::new(),
        };
        one_line(&format!("{}{place}{}", self.phase, self.why()))
    }

    fn why(&self) -> String {
        match (&self.paused, &self.hold, &self.waiting_on, self.findings.first()) {
            (Some(paused), ..) => {
                format!("; paused by {} until {}: {}", paused.by, paused.until, paused.reason)
            }
            (_, Some(hold), ..) => format!("; k3s is held, {}: {}", hold.code, hold.reason),
            (_, _, Some(waiting), _) => {
                format!("; waits, {}: {}; {}", waiting.code, waiting.reason, waiting.next)
            }
            (_, _, _, Some(finding)) => format!("; {}: {}", finding.code, finding.text),
            _ => String::new(),
        }
    }
}

// === impl others ===

impl From<&WaitingOn> for Waiting {
    fn from(waiting: &WaitingOn) -> Self {
        (&waiting.words()).into()
    }
}

impl From<&Refusal> for Waiting {
    fn from(refusal: &Refusal) -> Self {
        let Refusal { code, reason, next } = refusal.clone();
        Self { code, reason, next }
    }
}

impl From<&Unit> for UnitState {
    fn from(unit: &Unit) -> Self {
        Self { active: unit.active.clone(), sub: unit.sub.clone(), restarts: unit.restarts.known().copied() }
    }
}

impl From<&UnitChange> for PendingRestart {
    fn from(change: &UnitChange) -> Self {
        Self { unit: change.name.clone(), reason: change.reason.clone(), waits_for: None }
    }
}

/// What a console shows while a claim waits for a person.
#[must_use]
pub fn console_line(status: &Status, claim: &PendingClaim) -> String {
    let site = status.site.as_deref().unwrap_or("its site");
    let replaces = claim.of.as_ref().map(|of| format!(" (replaces {of})")).unwrap_or_default();
    one_line(&format!(
        "edge-bootstrap: {} waits for approval in {site}{replaces}, code {}",
        status.host, claim.code
    ))
}

/// Text of others without line breaks and terminal control.
#[must_use]
pub fn one_line(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}
