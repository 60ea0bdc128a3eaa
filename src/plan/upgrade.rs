//! Which version of k3s is in force while another one is assigned.
//!
//! Owns the steps from one version to the next: what is refused, what is brought
//! beforehand, when a try has failed, and whether there is a way back from it.
//! Pure: what was tried is a fact ([`Attempt`]); how the other servers are is
//! looked at by who asks.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::item::{PlannedArtifact, PlannedUnit};
use super::refusal::Refusal;
use super::{Inputs, keys, node, pinned, trial, units};
use crate::facts::HostFacts;
use crate::facts::runtime::Unit;
use crate::facts::upgrade::{Attempt, Progress, Started};
use crate::paths;
use crate::role::{Duty, K3sVersion, Role};
use crate::wire::secret::sha256_hex;

/// How long a server may take from its first start to Ready: a first start of
/// another etcd on a slow disk takes minutes.
const SERVER: Duration = Duration::from_mins(10);
/// The same for an agent: Kubernetes takes the pods from a node that is away
/// for 5 minutes (default toleration of `node.kubernetes.io/unreachable`).
const AGENT: Duration = Duration::from_mins(4);
/// A version that ran in so many boots and was never Ready has failed.
const BOOTS: u32 = 3;
/// First k3s 1.33 whose etcd, 3.5.26, puts its member lists in order before etcd
/// 3.6 reads them (k3s-io/k3s#13485, #13493).
const REPAIRED: ((u32, u32, u32), u32) = ((1, 33, 7), 3);
/// First Kubernetes minor with etcd 3.6 (k3s: commit 56ef1cd3a).
const ETCD_3_6: u32 = 34;

/// Another version is assigned than the one in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedUpgrade {
    /// Version that runs, or would.
    pub from: K3sVersion,
    /// Version that is assigned.
    pub to: K3sVersion,
    /// Where it stands.
    pub step: Step,
    /// Why it does not go on, where it does not.
    pub reason: Option<String>,
    /// The binary, when it must be fetched before anything else is done.
    pub artifact: Option<PlannedArtifact>,
    /// Names what was asked for.
    #[serde(skip)]
    pub wish: String,
    /// Code of `reason` and what a person may do.
    #[serde(skip)]
    pub words: Option<Refusal>,
}

/// Where an upgrade stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// It is begun as soon as its binary is there and it is this host's turn.
    Due,
    /// This step cannot be taken.
    Refused,
    /// The new version is in force, and was not seen to be Ready.
    Begun,
    /// It did not come up and there is no way back.
    Stuck,
    /// It did not come up, and the version before is in force.
    Failed,
}

impl PlannedUpgrade {
    /// The version that is in force meanwhile.
    #[must_use]
    pub fn in_force(&self) -> &K3sVersion {
        if matches!(self.step, Step::Begun | Step::Stuck) { &self.to } else { &self.from }
    }

    /// In one line, for people.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { from, to, .. } = self;
        let step = match self.step {
            Step::Due => "due",
            Step::Refused => "refused",
            Step::Begun => "begun",
            Step::Stuck => "stuck",
            Step::Failed => "failed",
        };
        let why = self.reason.iter().map(|reason| format!(": {reason}"));
        format!("k3s {from} -> {to} {step}{}", why.collect::<String>())
    }

    /// The record of its begin, `at` being RFC 3339 in UTC.
    #[must_use]
    pub fn attempt(&self, facts: &HostFacts, at: String) -> Attempt {
        Attempt {
            wish: self.wish.clone(),
            from: self.from.to_string(),
            from_binary: binary_of(facts, &self.from),
            to: self.to.to_string(),
            at,
            state: Progress::Begun,
            started: None,
            reason: None,
        }
    }

    /// The record of the upgrade that was begun, for what is assigned now: where keys or
    /// file have changed since, its budget begins anew and its way back stays.
    #[must_use]
    pub fn goes_on(&self, begun: Attempt) -> Attempt {
        if begun.wish == self.wish {
            return begun;
        }
        Attempt { wish: self.wish.clone(), started: None, ..begun }
    }

    /// Whether `own`, the name of this Node, may try what another may have gone
    /// back from: `failed` is who, and what.
    ///
    /// # Errors
    /// Why not.
    pub fn may_try(&self, own: &str, failed: Option<(&str, &str)>) -> Result<(), String> {
        match failed {
            Some((node, wish)) if node != own && wish == self.wish => Err(format!(
                "{node} did not come up with it; assign another version, or run `edge-bootstrap apply` there"
            )),
            _ => Ok(()),
        }
    }

    /// The assignment's duty with the version that is in force; `None` where that
    /// is the assigned one. Keys that came with the new version come with it.
    pub(super) fn duty(&self, inputs: Inputs<'_>, duty: &Duty) -> Option<Duty> {
        let version = self.in_force();
        (*version != duty.k3s.version).then(|| {
            let mut now = duty.clone();
            now.k3s.version = version.clone();
            now.k3s.artifacts.clear();
            let fits = |key: &_, value: &_| {
                let one = std::iter::once((Clone::clone(key), Clone::clone(value))).collect();
                keys::assigned((version, duty.role), &one, &inputs.local.allow_keys).is_ok()
            };
            now.k3s.config.retain(|key, value| fits(key, value));
            now
        })
    }

    /// The same, refused because the plan with the new version would be.
    pub(super) fn refused_for(self, words: Refusal) -> Self {
        let reason = Some(words.reason.clone());
        Self { step: Step::Refused, reason, words: Some(words), artifact: None, ..self }
    }

    /// What is to be restarted for other reasons waits: the upgrade restarts it.
    pub(super) fn hold_restarts(&self, units: &mut [PlannedUnit]) {
        let is_due = self.step == Step::Due;
        for unit in units.iter_mut().filter(|unit| is_due && units::is_k3s(&unit.name)) {
            let reason = unit.restart.take().or(unit.restart_pending.take());
            unit.restart_pending = reason.map(|reason| format!("{reason}; with the upgrade to {}", self.to));
        }
    }
}

/// Compares the version in force with the assigned one. A host that was in no
/// cluster yet, or leaves its life, has none to keep.
#[must_use]
pub fn decide(inputs: Inputs<'_>, duty: &Duty) -> Option<PlannedUpgrade> {
    pinned(inputs.facts)?.joined.as_ref()?;
    let to = &duty.k3s.version;
    let wish = wish(duty);
    let recorded = inputs.facts.runtime.k3s.upgrade.as_ref();
    let attempt = recorded.filter(|attempt| attempt.wish == wish || is_still_tried(attempt, to));
    if let Some(begun) = attempt.and_then(|attempt| going_on(attempt, to, &wish)) {
        return Some(begun);
    }
    if recorded.is_some_and(|attempt| is_taken_back(attempt, duty)) {
        return None;
    }
    if let Some(begun) = recorded.and_then(|attempt| ends_first(inputs, duty, attempt)) {
        return Some(begun);
    }
    let from = present(inputs.facts).filter(|from| from != to)?;
    let words = refused(inputs, duty, &from);
    let artifact = node::k3s_binary(inputs, duty).ok().and_then(|binary| binary.wanted());
    let step = if words.is_some() { Step::Refused } else { Step::Due };
    // What runs is not at hand any more: there is nothing to keep.
    if step == Step::Due && !is_at_hand(inputs.facts, &from) {
        return None;
    }
    let reason = words.as_ref().map(|words| words.reason.clone());
    let artifact = artifact.filter(|_| step == Step::Due);
    Some(PlannedUpgrade { from, to: to.clone(), step, reason, artifact, wish, words })
}

/// What goes on to be tried with other keys or from another file keeps its way back.
fn is_still_tried(attempt: &Attempt, to: &K3sVersion) -> bool {
    attempt.state == Progress::Begun && attempt.to == to.as_str()
}

/// The version before is wanted again, and may come back whatever became of the try.
fn is_taken_back(attempt: &Attempt, duty: &Duty) -> bool {
    let is_asked = attempt.state == Progress::Begun && attempt.from == duty.k3s.version.as_str();
    is_asked && may_go_back(attempt, duty.role, false).is_ok()
}

/// A try of another version is brought to its end first: only then it is known what
/// there is to come back to.
fn ends_first(inputs: Inputs<'_>, duty: &Duty, attempt: &Attempt) -> Option<PlannedUpgrade> {
    let tried: K3sVersion = attempt.to.parse().ok()?;
    let to = &duty.k3s.version;
    if attempt.state != Progress::Begun || !is_at_hand(inputs.facts, &tried) {
        return None;
    }
    let words = refused(inputs, duty, &tried);
    let after = || format!("{to} is assigned meanwhile, and follows when this try is over");
    let reason = words.as_ref().map_or_else(after, |words| words.reason.clone());
    let goes_on = going_on(attempt, &tried, &attempt.wish)?;
    Some(PlannedUpgrade { reason: Some(reason), words, ..goes_on })
}

fn going_on(attempt: &Attempt, to: &K3sVersion, wish: &str) -> Option<PlannedUpgrade> {
    let from: K3sVersion = attempt.from.parse().ok()?;
    let step = match attempt.state {
        Progress::Done => return None,
        Progress::Begun => Step::Begun,
        Progress::Stuck => Step::Stuck,
        Progress::Failed => Step::Failed,
    };
    let words = told(attempt, step);
    let reason = words.as_ref().map(|words| words.reason.clone());
    Some(PlannedUpgrade { from, to: to.clone(), step, reason, artifact: None, wish: wish.to_owned(), words })
}

fn told(attempt: &Attempt, step: Step) -> Option<Refusal> {
    let Attempt { from, to, at, reason, .. } = attempt;
    let reason = reason.as_deref().unwrap_or_default();
    match step {
        Step::Failed => Some(Refusal::new(
            "EB-upgrade-failed",
            format!("k3s {to}, begun at {at}, did not come up: {reason}; {from} is in force again"),
            "assign another version, or run `edge-bootstrap apply` to try the same once more",
        )),
        Step::Stuck => Some(Refusal::new(
            "EB-upgrade-stuck",
            format!("k3s {to}, begun at {at}, does not come up: {reason}"),
            "look at `journalctl -u k3s`; assign a newer version, or restore a snapshot that was taken with the old one",
        )),
        _ => None,
    }
}

/// Names what is asked for: a try that failed is made again only when that changes.
fn wish(duty: &Duty) -> String {
    let k3s = &duty.k3s;
    let files: Vec<_> = k3s.artifacts.iter().map(|(arch, file)| (arch, file.sha256.as_str())).collect();
    let config: Vec<_> = k3s.config.iter().map(|(key, value)| (key.as_str(), value)).collect();
    sha256_hex(json!([k3s.version, files, config]).to_string().as_bytes())
}

/// The version that is in force: what runs, else what would. One that has failed is
/// not, although it may still be linked.
fn present(facts: &HostFacts) -> Option<K3sVersion> {
    let k3s = &facts.runtime.k3s;
    let is_up = [units::K3S, units::K3S_AGENT]
        .into_iter()
        .any(|name| unit(facts, name).is_some_and(|unit| unit.main_pid != 0));
    let started = k3s.started_binary.known().and_then(Option::as_deref).filter(|_| is_up);
    let runs = started.and_then(version_of);
    let present = runs.or_else(|| k3s.version.known()?.as_deref()?.parse().ok())?;
    let failed = k3s.upgrade.as_ref().filter(|tried| tried.state == Progress::Failed);
    let before =
        failed.filter(|tried| tried.to == present.as_str()).and_then(|tried| tried.from.parse().ok());
    Some(before.unwrap_or(present))
}

fn unit<'a>(facts: &'a HostFacts, name: &str) -> Option<&'a Unit> {
    facts.runtime.units.get(name.trim_end_matches(".service"))?.known()
}

fn version_of(binary: &str) -> Option<K3sVersion> {
    binary.strip_prefix(paths::K3S_STORE)?.strip_prefix('/')?.strip_suffix("/k3s")?.parse().ok()
}

/// Where the binary in force lies: what the link leads to, or where a file in its
/// place is kept. A version that failed may still be linked.
fn binary_of(facts: &HostFacts, version: &K3sVersion) -> String {
    let tried = facts.runtime.k3s.upgrade.as_ref();
    let failed = tried.filter(|tried| tried.state == Progress::Failed && tried.from == version.as_str());
    let known = failed.map(|tried| &tried.from_binary).or_else(|| facts.runtime.links.get(paths::K3S_LINK));
    known.cloned().unwrap_or_else(|| format!("{}.replaced", paths::K3S_LINK))
}

fn is_at_hand(facts: &HostFacts, version: &K3sVersion) -> bool {
    let k3s = &facts.runtime.k3s;
    let is_installed = k3s.version.known().and_then(Option::as_deref) == Some(version.as_str())
        && facts.runtime.links.get(paths::K3S_LINK).is_none_or(|target| version_of(target).is_none());
    is_installed || k3s.store.contains_key(version.as_str()) || kept(facts, version).is_some()
}

/// Where the binary of `version` lies that a failed try gives way to, when it is
/// not in the store: a person had installed it.
pub(super) fn kept<'a>(facts: &'a HostFacts, version: &K3sVersion) -> Option<&'a str> {
    let attempt = facts.runtime.k3s.upgrade.as_ref()?;
    let is_meant = attempt.state == Progress::Failed && attempt.from == version.as_str();
    (is_meant && version_of(&attempt.from_binary).is_none()).then_some(attempt.from_binary.as_str())
}

/// Why this step cannot be taken.
fn refused(inputs: Inputs<'_>, duty: &Duty, from: &K3sVersion) -> Option<Refusal> {
    let to = &duty.k3s.version;
    let has_etcd =
        duty.role == Role::Server && inputs.facts.runtime.k3s.has_datastore.known() != Some(&false);
    step_refused(from, to, has_etcd).or_else(|| {
        let fits = keys::assigned((to, duty.role), &duty.k3s.config, &inputs.local.allow_keys);
        keys::supported(to).err().or(fits.err())
    })
}

/// Which steps there are: agents follow their servers however far, as Kubernetes
/// lets a kubelet be older; servers take each minor (Kubernetes' version skew).
fn step_refused(from: &K3sVersion, to: &K3sVersion, has_etcd: bool) -> Option<Refusal> {
    let minor = |version: &K3sVersion| (version.kubernetes.0, version.kubernetes.1);
    let no = |reason: String, next: &str| Some(Refusal::new("EB-upgrade-refused", reason, next));
    if minor(to) < minor(from) {
        let reason = format!(
            "k3s {from} is in force, and {to} is of an earlier minor, which cannot read data of a newer one"
        );
        return no(reason, "assign the version in force, or a newer one");
    }
    if has_etcd && minor(to) > (from.kubernetes.0, from.minor() + 1) {
        let next = format!("assign a v1.{} first", from.minor() + 1);
        return no(
            format!("k3s {from} is in force, and a server must not skip a minor on its way to {to}"),
            &next,
        );
    }
    let is_repaired = (from.kubernetes, from.revision.unwrap_or(0)) >= REPAIRED;
    if has_etcd && from.minor() < ETCD_3_6 && to.minor() >= ETCD_3_6 && !is_repaired {
        let reason = format!(
            "k3s {from} is in force, and members that were removed long ago come back when the etcd of {to} reads its data"
        );
        return no(reason, "assign v1.33.7+k3s3 or a newer v1.33 first");
    }
    None
}

/// What is seen of the new version after a pass.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen<'a> {
    /// The host's k3s was started with it.
    pub runs: bool,
    /// Everything about the node is well, and k3s is up for long enough.
    pub is_healthy: bool,
    /// Its unit.
    pub unit: Option<&'a Unit>,
    /// How often k3s ended by itself since its last start by a job.
    pub ends: u32,
    /// The gate lets it start.
    pub may_start: bool,
    /// This boot.
    pub boot_id: &'a str,
    /// Seconds since boot (monotonic).
    pub now_s: u64,
}

/// What becomes of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// It is looked at again.
    Wait,
    /// It runs, as this records.
    Runs(Started),
    /// It is well.
    Done,
    /// It failed.
    Over(String),
    /// Its time is over, which is its own fault only where the room works.
    Late(Started, String),
}

/// Judges a try by what is seen.
#[must_use]
pub fn judge(attempt: &Attempt, role: Role, seen: Seen<'_>) -> Next {
    if !seen.runs {
        return Next::Wait;
    }
    if seen.is_healthy {
        return Next::Done;
    }
    let started =
        |boots| Started { boot_id: seen.boot_id.to_owned(), at_s: seen.now_s, restarts: seen.ends, boots };
    let Some(since) = &attempt.started else { return Next::Runs(started(1)) };
    if since.boot_id != seen.boot_id {
        return match since.boots {
            BOOTS.. => Next::Late(started(1), format!("it was not Ready in any of {BOOTS} boots")),
            boots => Next::Runs(started(boots + 1)),
        };
    }
    let unit = seen.unit.filter(|_| seen.may_start);
    if let Some(why) = unit.and_then(|unit| trial::gave_up(unit, seen.ends, since, trial::ENDS)) {
        return Next::Over(why);
    }
    let budget = if role == Role::Server { SERVER } else { AGENT };
    let is_late = Duration::from_secs(seen.now_s.saturating_sub(since.at_s)) >= budget;
    if !is_late {
        return Next::Wait;
    }
    Next::Late(started(since.boots), format!("it was not Ready after {} s", budget.as_secs()))
}

/// Whether the version before may come back. `untouched`: the datastore is as the
/// version before left it, for certain.
///
/// # Errors
/// Why not.
pub fn may_go_back(attempt: &Attempt, role: Role, untouched: bool) -> Result<(), String> {
    if role != Role::Server || untouched || is_one_minor(attempt) {
        return Ok(());
    }
    let Attempt { from, to, .. } = attempt;
    Err(format!(
        "there is no way back to {from}: {to} has opened the datastore, and its data do not go back a minor"
    ))
}

/// Whether both versions of a try read the same data.
fn is_one_minor(attempt: &Attempt) -> bool {
    let minor =
        |version: &str| version.parse::<K3sVersion>().ok().map(|it| (it.kubernetes.0, it.kubernetes.1));
    let from = minor(&attempt.from);
    from.is_some() && from == minor(&attempt.to)
}

/// Whether this is the one of two servers that follows the other: the one with the
/// higher address.
#[must_use]
pub fn is_second(duty: &Duty) -> bool {
    let address = |text: &str| text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let other =
        duty.cluster.servers.iter().find_map(|url| address(url.as_str().trim_start_matches("https://")));
    other.is_some_and(|other| other < duty.node.ip)
}

/// Whether a server whose k3s has not been up for `down` may begin, with so many
/// `others`: after a power cut all of them are not up yet, and would begin at once.
///
/// # Errors
/// What it waits for.
pub fn may_begin_while_down(others: usize, down: Duration) -> Result<(), String> {
    if others == 0 || down >= SERVER {
        return Ok(());
    }
    Err(format!(
        "k3s is not up yet; beside other servers an upgrade begins when it is, or has not been for {} minutes",
        SERVER.as_secs() / 60
    ))
}

/// Whether an agent may go to `to`: no server's API may be older than its kubelet
/// (Kubernetes' version skew). `servers` are addresses, each with what it says
/// that it is, or why it says nothing.
///
/// # Errors
/// What it waits for.
pub fn may_follow(to: &K3sVersion, servers: &[(String, Result<String, String>)]) -> Result<(), String> {
    for (address, says) in servers {
        match says.as_ref().map(|version| version.parse::<K3sVersion>()) {
            Ok(Ok(version)) if version >= *to => {}
            Ok(Ok(version)) => return Err(format!("servers go first, and {address} runs {version}")),
            Ok(Err(error)) => return Err(format!("servers go first, and {address}: {error}")),
            Err(why) => {
                return Err(format!("servers go first, and {address} does not say what it runs: {why}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "upgrade_tests.rs"]
mod tests;
