//! Taking over a k3s that others installed.
//!
//! Owns what is looked at together before a person says yes: what runs, the
//! assignment it would have, the plan of that, and what differs. [`carry_out`] then
//! makes the host one that an ordinary pass goes on with ([`script`] in which order).
//! Decides nothing that the plan decides.

mod read;
mod take;

use std::time::Duration;

use thiserror::Error;

pub use read::{Found, ReadError, found};
pub use take::{Act, TakeError, carry_out, script};

use super::host::introduction;
use super::{Agent, facts};
use crate::config::AssignmentSource;
use crate::enrol::{EnrolError, Freshness, Outcome, Waiting};
use crate::facts::k3s_config::parse_layer;
use crate::facts::runtime::FileFact;
use crate::facts::{Fact, HostFacts};
use crate::kube::{Kube, Node};
use crate::observe::strangers;
use crate::paths;
use crate::plan::adopt::{
    self, Difference, Proposed, Raw, Row, Seen, Setting, agent_drop_in, blockers, differences, in_force,
    normal, redacted, settings, unwritable,
};
use crate::plan::diff::{self, Changes};
use crate::plan::{self, Inputs, Plan, Refusal, units};
use crate::role::{self, Assignment, Role};
use crate::sys::systemd::UnitState;
use crate::sys::{FileError, Root};
use crate::wire::secret::sha256_hex;
use crate::wire::written;

/// Why there is nothing to show.
#[derive(Debug, Error)]
pub enum AdoptError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// What others told k3s cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The assignment cannot be used.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    /// There is no assignment yet, and no local one may be proposed.
    #[error("{0}; take this host over when it has an assignment")]
    Waiting(Waiting),
    /// Only a person can say what is missing.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Refused(Vec<Refusal>),
    /// Both units of k3s are those of others.
    #[error("k3s.service and k3s-agent.service are both there; remove the one that does not run")]
    Both,
}

/// Everything that a person should see before saying yes.
#[derive(Debug)]
pub struct Look {
    /// What k3s was told, and where.
    pub found: Found,
    /// Each setting with what becomes of it.
    pub settings: Vec<Setting>,
    /// The table old to new.
    pub rows: Vec<Row>,
    /// Directives of the unit file that go with it.
    pub left_out: Vec<String>,
    /// What k3s would read otherwise at its next start.
    pub differences: Vec<Difference>,
    /// Why it cannot be taken over.
    pub refusals: Vec<Refusal>,
    /// The assignment that would be written; `None` when there is one already.
    pub proposed: Option<Proposed>,
    /// Where the local assignment lies or goes.
    pub assignment_path: String,
    /// Our own configuration does not name it yet.
    pub names_assignment: bool,
    /// Keys that this host allows, those of the proposal among them.
    pub allow_keys: Vec<String>,
    /// The plan after the take-over; empty when there can be none.
    pub plan: Plan,
    /// What of it differs from the host as it is.
    pub changes: Changes,
}

/// Looks at the k3s of others; `None` when there is none. Changes nothing.
///
/// # Errors
/// When what runs, or the assignment for it, cannot be told.
pub async fn look(agent: &mut Agent, patience: Duration) -> Result<Option<Look>, AdoptError> {
    let host = facts(&agent.root).await;
    let strangers = adopt::strangers(&strangers::strangers(&agent.root), &host);
    let Some(found) = installed(agent, &host).await? else {
        return if strangers.is_empty() { Ok(None) } else { Err(AdoptError::Refused(strangers)) };
    };
    let role = found.installed.role;
    let settings = settings(&found.installed);
    if let Some(unread) = unread(&found, &settings) {
        return Err(AdoptError::Refused(vec![unread]));
    }
    let raw = in_force(&settings);
    let seen = Seen {
        servers: other_servers(&agent.root, role, &host).await,
        ..read::seen(&agent.root, &host, &raw, role)?
    };
    agent.introduce(&host);
    let (assignment, proposed, confirmed) = match assigned(agent, patience).await? {
        Some((assignment, confirmed)) => (assignment, None, confirmed),
        None => {
            let (assignment, proposed) = propose(agent, &host, (&raw, role), &seen)?;
            (assignment, Some(proposed), true)
        }
    };
    let mut local = agent.local();
    local.allow_keys.extend(proposed.iter().flat_map(|proposed| proposed.allow_keys.clone()));
    let after = facts_after(&host, &found, &raw);
    let inputs = Inputs { facts: &after, assignment: &assignment, local: &local, confirmed };
    let (plan, broken) = planned(inputs);
    let effective = plan.generation.as_ref().map(|generation| &generation.effective);
    let differences = effective.map_or_else(Vec::new, |effective| {
        let old = redacted(&comparable(&settings, &raw, effective));
        differences(&normal(&old, role, &seen), &normal(effective, role, &seen))
    });
    let mut refusals: Vec<Refusal> = role_differs(role, &assignment).into_iter().collect();
    refusals.extend(strangers);
    refusals.extend(unmovable(&found, &raw));
    refusals.extend(site_is_guessed(agent, proposed.as_ref()));
    refusals.extend(blockers(&redacted(&raw), &differences, &assignment, &seen));
    if refusals.is_empty() {
        // What a plan says of a host that cannot be taken over misleads.
        refusals = broken;
        if proposed.is_some() {
            refusals.iter_mut().for_each(|refusal| of_this_host(refusal, &settings));
        }
    }
    Ok(Some(Look {
        left_out: left_out(&agent.root, &found, &plan)?,
        rows: adopt::rows(&settings, effective.unwrap_or(&redacted(&raw)), &differences, role),
        changes: diff::changes(&plan, &after),
        assignment_path: take::assignment_path(&agent.settings.source),
        names_assignment: agent.settings.source == AssignmentSource::None,
        allow_keys: local.allow_keys,
        found,
        settings,
        differences,
        refusals,
        proposed,
        plan,
    }))
}

/// The unit of others that is there; ours are nobody else's.
async fn installed(agent: &Agent, host: &HostFacts) -> Result<Option<Found>, AdoptError> {
    let mut found = Vec::new();
    for unit in [units::K3S, units::K3S_AGENT] {
        if is_ours(&agent.root, unit)? {
            continue;
        }
        let state = agent.systemd.unit(unit).await.ok().filter(|state| state.load == "loaded");
        // What systemd has not read yet is what counts at the next start.
        let is_read = |state: &UnitState| !state.need_reload && !agent.root.exists(&read::drop_in(unit));
        let command = state.filter(is_read).and_then(|state| state.command);
        found.extend(read::found(&agent.root, unit, command, host)?);
    }
    if found.len() > 1 {
        return Err(AdoptError::Both);
    }
    Ok(found.pop())
}

fn is_ours(root: &Root, unit: &str) -> Result<bool, FileError> {
    let Some(path) = crate::observe::overrides::fragment(root, unit) else { return Ok(false) };
    Ok(root.read_text(&path)?.is_some_and(|text| !units::is_foreign(&text)))
}

/// The assignment that is in force, and whether it was confirmed; `None` where
/// nobody was ever asked.
async fn assigned(agent: &mut Agent, patience: Duration) -> Result<Option<(Assignment, bool)>, AdoptError> {
    if let AssignmentSource::File(path) = &agent.settings.source
        && !agent.root.exists(&path.to_string_lossy())
    {
        return Ok(None);
    }
    match agent.enrolment.assignment(patience).await? {
        Outcome::Enrolled(enrolled) => {
            Ok(Some((enrolled.assignment, enrolled.freshness != Freshness::Cached)))
        }
        Outcome::Waiting(Waiting::NotConfigured) => Ok(None),
        Outcome::Waiting(waiting) => Err(AdoptError::Waiting(waiting)),
    }
}

/// A local assignment of what runs. The address that our own settings name
/// stands in for one that k3s was not told.
fn propose(
    agent: &Agent,
    host: &HostFacts,
    (raw, role): (&Raw, Role),
    seen: &Seen,
) -> Result<(Assignment, Proposed), AdoptError> {
    let mut raw = raw.clone();
    let node = introduction(&agent.settings, host).node.filter(|_| seen.addresses.is_empty());
    if let Some(node) = node {
        raw.entry("node-ip".to_owned()).or_insert_with(|| vec![node.ip.to_string()]);
    }
    let site = agent.settings.node.site.as_ref().map_or_else(|| NO_SITE.to_owned(), ToString::to_string);
    let proposed = adopt::proposal(&raw, role, seen, &site).map_err(AdoptError::Refused)?;
    let problem = |words: String| {
        AdoptError::Refused(vec![Refusal::new(
            "EB-adopt-refused",
            format!("what runs makes no assignment: {words}"),
            "write the assignment by hand, name it as [central] assignment-file, and run adopt again",
        )])
    };
    let payload = written::payload(&proposed.text).map_err(|error| problem(error.to_string()))?;
    let assignment = role::validate(&payload, sha256_hex(proposed.text.as_bytes()))
        .map_err(|errors| problem(errors.to_string()))?;
    Ok((assignment, proposed))
}

/// Stands in for a site that nobody has named, so that the rest can be shown.
const NO_SITE: &str = "not-named";

/// The site is pinned for good, and so is the cluster, which has its name.
fn site_is_guessed(agent: &Agent, proposed: Option<&Proposed>) -> Option<Refusal> {
    (proposed.is_some() && agent.settings.node.site.is_none()).then(|| {
        Refusal::new(
            "EB-adopt-refused",
            "nobody has named the site of this host, which is pinned for good",
            "`edge-bootstrap adopt --site NAME`, or site in [node] of /etc/edge-bootstrap/config.toml",
        )
    })
}

/// Why nobody can tell here what k3s goes by.
fn unread(found: &Found, settings: &[Setting]) -> Option<Refusal> {
    let (reason, next) = if let Some(word) = adopt::stray(settings) {
        let reason = format!("k3s may stop reading its command line at {word}, and options follow");
        (reason, "remove that word from the command line of the unit")
    } else {
        let config = adopt::config_path(&found.installed);
        if !found.installed.files.is_empty() || config == paths::K3S_CONFIG {
            return None;
        }
        let config = adopt::shown("config", &[config]);
        let reason = format!("k3s is told to read {config}, which is no file of this host");
        (reason, "save it as one and name that, or take the option away")
    };
    let next = format!("{next}; then restart k3s and run adopt again");
    Some(Refusal::new("EB-adopt-refused", reason, next))
}

/// What cannot be moved as it is.
fn unmovable(found: &Found, raw: &Raw) -> Vec<Refusal> {
    let refused = |reason, next: String| Refusal::new("EB-adopt-refused", reason, next);
    let elsewhere = (found.program != paths::K3S_LINK).then(|| {
        let program = &found.program;
        let next = format!("ln -s {program} {}, and name that in the unit", paths::K3S_LINK);
        refused(format!("k3s is {program}, and {} here", paths::K3S_LINK), next)
    });
    let blank = unwritable(raw).map(|key| {
        let next = "give it a value without them".to_owned();
        refused(
            format!("the value of {key} begins or ends with a blank, which config.yaml cannot hold"),
            next,
        )
    });
    let late = found
        .drop_ins
        .iter()
        .find(|path| path.rsplit('/').next().is_some_and(|name| name > paths::ADOPT_DROP_IN));
    let late = late.map(|path| {
        let next = format!("rename it, so that it sorts before {}", paths::ADOPT_DROP_IN);
        refused(format!("{path} would be read after ours"), next)
    });
    elsewhere.into_iter().chain(blank).chain(late).collect()
}

/// The other servers, as the cluster itself names them.
async fn other_servers(root: &Root, role: Role, host: &HostFacts) -> Vec<String> {
    let own = host.runtime.k3s.etcd_member.known().and_then(Option::as_deref);
    if role != Role::Server {
        return Vec::new();
    }
    let members = Kube::own_admin(root).members().await.unwrap_or_default();
    let others = members.iter().filter(|node| node.member_name() != own);
    let address = |node: &Node| node.member_address().map(str::to_owned);
    let urls = others.filter_map(address).map(|address| match address.contains(':') {
        true => format!("https://[{address}]:6443"),
        false => format!("https://{address}:6443"),
    });
    urls.collect()
}

/// The host as it is once the settings of others are moved.
fn facts_after(host: &HostFacts, found: &Found, raw: &Raw) -> HostFacts {
    let mut after = host.clone();
    let record = FileFact { mode: 0o600, size: 0, sha256: String::new(), text: None };
    after.runtime.files.insert(paths::ADOPTED.to_owned(), record);
    for path in &found.environment_files {
        after.runtime.files.remove(path);
    }
    if let Fact::Known(overrides) = &mut after.runtime.k3s.overrides {
        overrides.retain(|over| over.unit != found.installed.unit);
    }
    let kept = agent_drop_in(raw, found.installed.role).and_then(|text| parse_layer(text).ok());
    after.runtime.k3s.drop_ins = Fact::Known(kept.into_iter().collect());
    for (path, _) in host.runtime.drop_ins() {
        after.runtime.files.remove(path);
    }
    // An agent keeps the server that it knows, wherever that was named.
    after.runtime.k3s.effective = Fact::Known(redacted(raw));
    after
}

fn planned(inputs: Inputs<'_>) -> (Plan, Vec<Refusal>) {
    let plan = match plan::plan(inputs) {
        Ok(plan) => plan,
        Err(waiting) => return (Plan::default(), vec![waiting.words()]),
    };
    match plan::check(plan.clone(), inputs) {
        Ok(_) => (plan, Vec::new()),
        Err(broken) => (plan, broken),
    }
}

fn left_out(root: &Root, found: &Found, plan: &Plan) -> Result<Vec<String>, FileError> {
    let name = format!("/{}", found.installed.unit);
    let Some(ours) = plan.files.iter().find(|file| file.path.ends_with(&name)) else { return Ok(Vec::new()) };
    let text = root.read_text(&found.installed.path)?.unwrap_or_default();
    Ok(adopt::left_out(&text, ours.shown.as_deref().unwrap_or_default()))
}

/// What a proposed assignment cannot hold stands in files of this host, and at no
/// central service.
fn of_this_host(refusal: &mut Refusal, settings: &[Setting]) {
    let is_named = |key: &str| refusal.reason.split([' ', ':']).any(|word| word == key);
    let named = settings.iter().filter(|one| one.lost.is_none() && one.key.as_deref().is_some_and(is_named));
    let mut files: Vec<&str> = named.map(|one| one.path.as_str()).collect();
    files.dedup();
    if refusal.code == "EB-k3s-key" && !files.is_empty() {
        refusal.next = format!("correct it in {}, restart k3s, and run adopt again", files.join(" and "));
    }
}

/// With the values that are not copied: k3s may run with them all the same. What
/// no take-over may change is reported by itself, and is no difference.
fn comparable(settings: &[Setting], raw: &Raw, planned: &crate::facts::k3s_config::Effective) -> Raw {
    let mut raw = raw.clone();
    for one in settings.iter().filter(|one| one.lost.is_none() && one.invalid.is_some()) {
        let Some(key) = &one.key else { continue };
        if adopt::is_fixed(key) {
            raw.entry(key.clone()).or_insert_with(|| planned.all(key).to_vec());
            continue;
        }
        let values = raw.entry(key.clone()).or_default();
        for value in &one.values {
            if !values.contains(value) {
                values.push(value.clone());
            }
        }
    }
    raw
}

fn role_differs(role: Role, assignment: &Assignment) -> Option<Refusal> {
    (assignment.duty.is_some() && assignment.role() != role).then(|| {
        Refusal::new(
            "EB-adopt-refused",
            format!("k3s runs as {role}, the assignment says {}", assignment.role()),
            "take it over in its role, and change that afterwards",
        )
    })
}

/// The pass after a take-over would do this to units, beside what waits for a
/// start that somebody asks for.
#[must_use]
pub fn unit_changes(look: &Look, restart: bool) -> Vec<&diff::UnitChange> {
    look.changes.units.iter().filter(|change| restart || change.action != "restart").collect()
}
