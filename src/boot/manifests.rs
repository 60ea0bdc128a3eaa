//! The assignment's manifests, as a part of the line.
//!
//! Owns when they are looked at, and how the writer's turn is carried out, act
//! by act, each found again by what the cluster and the disk show. Stops no
//! pass, restarts nothing. Who writes, and what, is the plan's.

use std::collections::BTreeMap;
use std::time::Duration;

use tracing::{debug, info};

use super::{Agent, Pass, Severity, mend};
use crate::kube::{Kube, KubeError, Silence};
use crate::plan::manifests::{self, Act, Seen, SeenAddon, Turn};
use crate::plan::{CheckedPlan, Refusal, units};
use crate::role::{Assignment, Role};
use crate::sys::root::FileError;
use crate::sys::{Root, atomic, clock};
use crate::verify::State;

/// Between looks while nothing is to be done: a Node list is no small answer.
const QUIET: Duration = Duration::from_secs(300);
/// How long k3s may leave a file alone; it looks every 15 s.
const PATIENCE: Duration = Duration::from_secs(120);
/// How far an assignment may be issued ahead of this host's clock before that is a
/// wrong clock of somebody's.
const AHEAD_S: u64 = 24 * 3600;
/// k3s's own mode of what it puts there (k3s: pkg/deploy/stage.go).
const MODE: u32 = 0o600;

/// What passes remember of the manifests.
#[derive(Debug, Default)]
pub struct Memory {
    /// Nothing was to be done for the assignment of this digest, then.
    settled: Option<(String, Duration)>,
    /// Since when k3s, or the end of an object, has been waited for.
    waits: Option<Duration>,
    /// When it was last given something to take.
    given: Duration,
    /// Since when the API has not served.
    silence: Silence,
}

impl Memory {
    fn rests(&self, digest: &str, now: Duration) -> bool {
        self.settled.as_ref().is_some_and(|(of, at)| of == digest && now.saturating_sub(*at) < QUIET)
    }

    /// Whether what waits is written once more.
    fn is_overdue(&self, now: Duration) -> bool {
        self.waits.is_some() && now.saturating_sub(self.given) > PATIENCE
    }

    /// Whether a person should look.
    fn waits_long(&self, now: Duration) -> bool {
        self.waits.is_some_and(|since| now.saturating_sub(since) > PATIENCE)
    }

    /// `turn`: what was done; none when there is nothing of ours anywhere.
    fn note(&mut self, turn: Option<&Turn>, digest: &str, now: Duration) {
        // While no server is Ready the first moment counts in which one is.
        let is_idle = |turn: &Turn| turn.writer.is_some() && turn.acts.is_empty() && turn.waits.is_empty();
        self.settled = turn.is_none_or(is_idle).then(|| (digest.to_owned(), now));
        if turn.is_some_and(|turn| turn.acts.iter().any(|act| matches!(act, Act::Write(_)))) {
            self.given = now;
        }
        let waits = turn.is_some_and(|turn| !turn.waits.is_empty() || turn.cleared().next().is_some());
        self.waits = waits.then(|| self.waits.unwrap_or(now));
    }
}

/// Before k3s starts in a room with other servers, our files leave its directory:
/// it would apply them at once, and another server may have been the writer since.
pub(super) fn before_start(agent: &Agent, pass: &mut Pass) {
    let is_shared = pass.assignment.as_ref().is_some_and(|assignment| {
        assignment.role() == Role::Server && manifests::has_other_servers(assignment)
    });
    let state = pass.facts.runtime.units.get("k3s");
    if !is_shared || !state.is_some_and(|state| mend::down(state, agent.root.is_host())) {
        return;
    }
    let removed = files(&agent.root).and_then(|files| {
        files.keys().try_for_each(|name| agent.root.remove_file(&manifests::path(name)).map(drop))
    });
    if let Err(error) = removed {
        trouble(pass, &crate::error::Chain(&error).to_string());
    }
}

/// Brings the room's manifests to what the assignment says, when it is this
/// host's turn. Comes after the node was looked at.
pub(super) async fn keep(agent: &mut Agent, checked: &CheckedPlan, pass: &mut Pass) {
    let Some(assignment) = pass.assignment.clone().filter(|_| serves(checked, pass)) else {
        agent.manifests.silence.ends();
        return;
    };
    let now = clock::monotonic();
    if agent.manifests.rests(&assignment.digest, now) {
        return;
    }
    match done(agent, checked, &assignment, now).await {
        Ok(turn) => {
            agent.manifests.silence.ends();
            agent.manifests.note(turn.as_ref(), &assignment.digest, now);
            tell(&turn.unwrap_or_default(), (agent.manifests.waits_long(now), agent.clock.unix()), pass);
        }
        // Two servers that believe to be the writer: one of them is told so.
        Err(error @ KubeError::Conflict { .. }) => debug!(EDGE_REASON = %error.words(), "manifests wait"),
        Err(error) if agent.manifests.silence.is_told(&error, now) => trouble(pass, &error.words()),
        Err(error) => debug!(EDGE_REASON = %error.words(), "the API does not serve manifests yet"),
    }
}

/// Whether this host runs a server whose API and Node were good in this pass: a
/// cluster that has only just begun does not know Addons yet.
pub(super) fn serves(checked: &CheckedPlan, pass: &Pass) -> bool {
    let is_good = |name: &str| {
        let probes = pass.verdict.iter().flat_map(|verdict| &verdict.probes);
        probes.into_iter().any(|probe| probe.name == name && probe.state == State::Ok)
    };
    checked.plan().k3s_unit() == Some(units::K3S) && is_good("api-server") && is_good("node")
}

async fn done(
    agent: &Agent,
    checked: &CheckedPlan,
    assignment: &Assignment,
    now: Duration,
) -> Result<Option<Turn>, KubeError> {
    let kube = Kube::own_admin(&agent.root);
    let planned = &checked.plan().manifests;
    let mut seen = Seen { addons: addons(&kube).await?, files: files(&agent.root)?, ..Seen::default() };
    let is_ours = |addon: &SeenAddon| addon.issued_at.is_some();
    if planned.is_empty() && seen.files.is_empty() && !seen.addons.iter().any(is_ours) {
        return Ok(None);
    }
    let nodes = kube.nodes().await?.into_iter();
    seen.ready =
        nodes.filter(|node| node.is_ready() && node.is_server()).map(|it| it.metadata.name).collect();
    seen.is_overdue = agent.manifests.is_overdue(now);
    let mut turn = manifests::turn(assignment, planned, &seen);
    let mut goes_on = Vec::new();
    for act in turn.acts {
        let is_over = carry_out(&agent.root, &kube, assignment, &act).await?;
        goes_on.extend((!is_over).then_some(act));
    }
    // An Addon that went with its last object is nothing to wait for.
    turn.acts = goes_on;
    Ok(Some(turn))
}

async fn addons(kube: &Kube<'_>) -> Result<Vec<SeenAddon>, KubeError> {
    let all = kube.addons().await?.into_iter().filter(|addon| addon.name.starts_with("eb-"));
    Ok(all
        .map(|addon| SeenAddon { name: addon.name, checksum: addon.checksum, issued_at: addon.issued_at })
        .collect())
}

/// Digests of our files in k3s's directory, by name.
fn files(root: &Root) -> Result<BTreeMap<String, String>, FileError> {
    let mut files = BTreeMap::new();
    for name in root.list(manifests::DIRECTORY)? {
        if !name.starts_with("eb-") {
            continue;
        }
        let text = root.read(&manifests::path(&name))?.unwrap_or_default();
        if manifests::is_ours(&name, &text) {
            files.insert(name, manifests::digest(&text));
        }
    }
    Ok(files)
}

/// Whether nothing comes after it.
async fn carry_out(
    root: &Root,
    kube: &Kube<'_>,
    assignment: &Assignment,
    act: &Act,
) -> Result<bool, KubeError> {
    match act {
        Act::Claim { addon, is_new } => {
            let source = manifests::path(&format!("{addon}.yaml"));
            kube.claim_addon(addon, &source, (assignment.issued_at.unwrap_or(0), *is_new)).await?;
        }
        Act::Write(file) => {
            if !root.exists(manifests::DIRECTORY) {
                root.make_dir(manifests::DIRECTORY, 0o700)?;
            }
            atomic::write(root, &file.path, &file.bytes, MODE)?;
            info!(EDGE_STEP = "apply", EDGE_PATH = %file.path, EDGE_REASON = %file.reason, "manifest written");
        }
        Act::Remove(path) => {
            root.remove_file(path)?;
            info!(EDGE_STEP = "apply", EDGE_PATH = %path, "manifest taken out of k3s's directory");
        }
        Act::Clear(addon) => {
            let left = kube.clear_addon(addon).await?;
            info!(EDGE_STEP = "apply", EDGE_ADDON = %addon, EDGE_OBJECTS = left, "withdrawn manifest's objects are removed");
            return Ok(left == 0);
        }
    }
    Ok(false)
}

fn tell(turn: &Turn, (waits_long, now): (bool, u64), pass: &mut Pass) {
    let severity = if waits_long { Severity::Warn } else { Severity::Info };
    if let Some(first) = turn.waits.first() {
        let reason = format!("k3s has not applied what is written for {}", turn.waits.join(", "));
        let next = format!("k3s kubectl -n kube-system describe addon {first}");
        pass.find(severity, Refusal::new("EB-manifests-waiting", reason, next));
    } else if let Some(first) = turn.cleared().next() {
        let reason = format!("objects of the withdrawn {first} are being removed");
        let next = "one that stays has a finalizer: its own program must let it go";
        pass.find(severity, Refusal::new("EB-manifests-waiting", reason, next));
    }
    if let Some(first) = turn.newer.first() {
        let (severity, refusal) = newer(turn, first, now);
        pass.find(severity, refusal);
    }
}

/// A newer assignment comes by itself, unless somebody's clock was wrong when the
/// one that decides was issued: then nothing would change for years.
fn newer(turn: &Turn, first: &str, now: u64) -> (Severity, Refusal) {
    let all = turn.newer.join(", ");
    if turn.newest <= now.saturating_add(AHEAD_S) {
        let reason = format!("a newer assignment than this host's decides about {all}");
        let next = "it goes on when this host has its next assignment";
        return (Severity::Info, Refusal::new("EB-manifests-newer", reason, next));
    }
    let at = clock::rfc3339(turn.newest);
    let reason = format!("an assignment of {at} decides about {all}, ahead of this host's clock");
    let next = format!(
        "if the service's clock was wrong then: k3s kubectl -n kube-system annotate addon {first} edge-bootstrap/issued-at-"
    );
    (Severity::Warn, Refusal::new("EB-manifests-newer", reason, next))
}

fn trouble(pass: &mut Pass, reason: &str) {
    pass.find(Severity::Warn, Refusal::new("EB-manifests", reason, "it is tried again by itself"));
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::plan::PlannedFile;

    fn turn(waits: &[&str], acts: Vec<Act>) -> Turn {
        let waits = waits.iter().map(|name| (*name).to_owned()).collect();
        Turn { writer: Some("a".to_owned()), waits, acts, ..Turn::default() }
    }

    fn written() -> Vec<Act> {
        vec![Act::Write(PlannedFile::secret("/x", "x", ""))]
    }

    #[test]
    fn a_settled_room_rests_until_its_assignment_changes() {
        let mut memory = Memory::default();
        let at = Duration::from_secs;
        memory.note(Some(&turn(&[], Vec::new())), "d7", at(10));
        assert!(memory.rests("d7", at(309)) && !memory.rests("d7", at(310)) && !memory.rests("d8", at(11)));
        memory.note(Some(&Turn::default()), "d7", at(310));
        assert!(!memory.rests("d7", at(311)), "no server is Ready yet");
        memory.note(None, "d7", at(320));
        assert!(memory.rests("d7", at(321)));
    }

    #[test]
    fn what_k3s_does_not_take_is_written_again_from_time_to_time_and_told_all_along() {
        let mut memory = Memory::default();
        let at = Duration::from_secs;
        memory.note(Some(&turn(&["eb-base"], written())), "d8", at(20));
        assert!(!memory.rests("d8", at(21)) && !memory.is_overdue(at(140)) && memory.is_overdue(at(141)));
        memory.note(Some(&turn(&["eb-base"], written())), "d8", at(141));
        assert!(!memory.is_overdue(at(200)) && memory.waits_long(at(200)));
        memory.note(Some(&turn(&[], Vec::new())), "d8", at(201));
        assert!(!memory.waits_long(at(400)) && !memory.is_overdue(at(400)));
    }

    #[test]
    fn a_note_from_a_wrong_clock_is_told_with_the_way_out_and_a_clear_that_never_ends_too() {
        let waits = |turn: &Turn, long: bool| {
            let mut pass = Pass::default();
            tell(turn, (long, 1000), &mut pass);
            pass.findings.into_iter().map(|(refusal, severity)| (severity, refusal.next)).next()
        };
        let ahead = |newest| Turn { newer: vec!["eb-base".to_owned()], newest, ..Turn::default() };
        assert_eq!(waits(&ahead(1000 + AHEAD_S), false).unwrap().0, Severity::Info);
        let (severity, next) = waits(&ahead(1001 + AHEAD_S), false).unwrap();
        assert!(
            severity == Severity::Warn && next.contains("addon eb-base edge-bootstrap/issued-at-"),
            "{next}"
        );
        let clearing = turn(&[], vec![Act::Clear("eb-base".to_owned())]);
        let mut memory = Memory::default();
        memory.note(Some(&clearing), "d", Duration::ZERO);
        assert!(memory.waits_long(Duration::from_secs(121)), "it counts as waiting");
        assert_eq!(waits(&clearing, true).unwrap().0, Severity::Warn);
    }

    #[test]
    fn only_files_with_our_first_line_are_ours() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert!(files(&root).unwrap().is_empty());
        root.ensure_dir(manifests::DIRECTORY).unwrap();
        let ours = format!("{}kind: X\n", manifests::OWNER);
        for (name, text) in [("eb-a.yaml", ours.as_str()), ("eb-b.yaml", "kind: X"), ("ccm.yaml", &ours)] {
            atomic::write(&root, &manifests::path(name), text.as_bytes(), MODE).unwrap();
        }
        assert_eq!(files(&root).unwrap().into_keys().collect::<Vec<_>>(), ["eb-a.yaml"]);
    }
}
