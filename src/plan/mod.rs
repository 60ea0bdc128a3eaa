//! From facts, assignment and settings to the exact bytes and unit verbs.
//!
//! Owns every decision about content. A pure function: no I/O, no clock, no
//! randomness; the same inputs give the same plan, so that what `plan` prints
//! is what `apply` does. Nothing outside this module chooses by role.

pub mod absence;
pub mod address;
pub mod adopt;
pub mod binary;
pub mod cidrs;
pub mod config;
pub mod conflict;
pub mod containerd;
pub mod diff;
pub mod empty;
pub mod etcd;
pub mod fingerprint;
pub mod forks;
pub mod hosts;
pub mod images;
pub mod item;
pub mod keys;
pub mod lint;
pub mod manifests;
mod members;
pub mod node;
pub mod pool;
pub mod refusal;
pub mod reset;
pub mod restart;
pub mod retire;
pub mod retired;
pub mod roles;
pub mod rules;
pub mod snapshotter;
pub mod store;
pub mod suspects;
pub mod time;
pub mod tokens;
pub mod trial;
pub mod turn;
pub mod units;
pub mod upgrade;
pub mod writers;
pub mod yaml;

use std::net::IpAddr;

use serde_json::json;

pub use address::PlannedAddress;
pub use item::{
    PlannedArtifact, PlannedEmpty, PlannedFile, PlannedGeneration, PlannedHostname, PlannedImage,
    PlannedLink, PlannedQuarantine, PlannedRemoval, PlannedRestore, PlannedStorage, PlannedUnit, PoolAct,
    PoolSpace, PoolWish, RestoreFrom, Sensitivity, Wanted,
};
pub use lint::{CheckedPlan, check};
pub use refusal::{Refusal, WaitingOn};
pub use retire::PlannedRetirement;
pub use roles::PlannedDeparture;

use crate::facts::HostFacts;
use crate::facts::network::{Cidr, InterfaceChoice};
use crate::facts::runtime::PinnedIdentity;
use crate::paths;
use crate::role::{Assignment, Duty, Snapshotter};
use crate::wire::secret::sha256_hex;

/// What the host's own settings say to the plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Local {
    /// Node IP that the settings name; the assignment must agree before the first start.
    pub ip: Option<IpAddr>,
    /// Whether the hostname is ours to keep.
    pub manage_hostname: bool,
    /// k3s keys that name paths or programs, allowed on this host.
    pub allow_keys: Vec<String>,
    /// Snapshotter that the settings ask for.
    pub snapshotter: Option<Snapshotter>,
    /// The thin pool that the settings name.
    pub devmapper: Option<PoolWish>,
    /// Whether the agent puts the node IP on its interface at each boot.
    pub manage_ip: bool,
    /// The interface for that, where the settings name one.
    pub interface: Option<InterfaceChoice>,
    /// Networks of which one is the node IP's.
    pub networks: Vec<Cidr>,
}

/// Everything that a plan depends on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The host as it is.
    pub facts: &'a HostFacts,
    /// What it shall be.
    pub assignment: &'a Assignment,
    /// What its own settings say.
    pub local: &'a Local,
    /// Whether the service (or a local file) confirmed the assignment in this
    /// boot; only then may a cluster be initialised (invariant 4).
    pub confirmed: bool,
}

/// The exact bytes, modes, links, units and order that make a host match its
/// assignment.
#[must_use = "a plan that nobody checks changes nothing"]
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// A server leaves etcd before anything else is done; the rest of this plan
    /// keeps it up until then.
    pub departure: Option<PlannedDeparture>,
    /// An old life that is left before anything else is done.
    pub retirement: Option<PlannedRetirement>,
    /// Identity to pin before anything starts; `None` for role `none`.
    pub identity: Option<PinnedIdentity>,
    /// Generation directory; `None` for role `none`.
    pub generation: Option<PlannedGeneration>,
    /// Another version of k3s is assigned than the one that this plan keeps, or was just now.
    pub upgrade: Option<upgrade::PlannedUpgrade>,
    /// Hostname to keep; `None` leaves it alone.
    pub hostname: Option<PlannedHostname>,
    /// Address to keep on an interface; `None` leaves addresses to others.
    pub address: Option<PlannedAddress>,
    /// Files by digest, fetched before anything is written.
    pub artifacts: Vec<PlannedArtifact>,
    /// Files in the order of writing; the commit point is the last one.
    pub files: Vec<PlannedFile>,
    /// Links, made after the files.
    pub links: Vec<PlannedLink>,
    /// Files of ours that go, after the links.
    pub removals: Vec<PlannedRemoval>,
    /// Units in order.
    pub units: Vec<PlannedUnit>,
    /// What is moved out of k3s's way, before anything is written.
    pub quarantines: Vec<PlannedQuarantine>,
    /// Files of k3s that are put back, after that.
    pub restores: Vec<PlannedRestore>,
    /// Empty files of k3s that go before it starts.
    pub empty: Option<PlannedEmpty>,
    /// The snapshotter, and what its pool needs before containerd starts.
    pub storage: Option<PlannedStorage>,
    /// Archives whose images shall be in containerd's store; brought after the units are up.
    pub images: Vec<PlannedImage>,
    /// Files of k3s's own directory that the room's one writer keeps there, after the node is up.
    pub manifests: Vec<PlannedFile>,
    /// What a reader should know, and does not stop anything.
    pub notes: Vec<String>,
}

impl Plan {
    /// The unit of k3s that shall be up.
    #[must_use]
    pub fn k3s_unit(&self) -> Option<&str> {
        let wanted = |unit: &&PlannedUnit| unit.wanted == Wanted::Running && units::is_k3s(&unit.name);
        self.units.iter().find(wanted).map(|unit| unit.name.as_str())
    }
}

/// A plan, or why there is none yet.
///
/// # Errors
/// [`WaitingOn`] when something outside must happen first, or when the
/// assignment cannot be followed without breaking an invariant.
pub fn plan(inputs: Inputs<'_>) -> Result<Plan, WaitingOn> {
    rules::hardware_fits(inputs.facts)?;
    if let Some(departure) = roles::departure(inputs)? {
        return roles::while_departing(inputs, departure);
    }
    match &inputs.assignment.duty {
        None => Ok(idle(inputs)),
        Some(duty) => match retire::decide(inputs, duty) {
            Some(retirement) => after_leaving(inputs, duty, retirement),
            None => with_upgrade(inputs, duty),
        },
    }
}

/// The plan with the version that is in force meanwhile.
fn with_upgrade(inputs: Inputs<'_>, duty: &Duty) -> Result<Plan, WaitingOn> {
    let Some(upgrade) = upgrade::decide(inputs, duty) else { return node_plan(inputs, duty) };
    let upgrade = possible(inputs, duty, upgrade);
    let now = upgrade.duty(inputs, duty);
    let mut plan = node_plan(inputs, now.as_ref().unwrap_or(duty))?;
    upgrade.hold_restarts(&mut plan.units);
    Ok(Plan { upgrade: Some(upgrade), ..plan })
}

/// No upgrade begins of which the plan would be refused afterwards: k3s would then
/// be kept from its next start.
fn possible(inputs: Inputs<'_>, duty: &Duty, upgrade: upgrade::PlannedUpgrade) -> upgrade::PlannedUpgrade {
    if upgrade.step != upgrade::Step::Due {
        return upgrade;
    }
    let plan = node_plan(inputs, duty);
    match plan.and_then(|plan| lint::check(plan, inputs).map_err(roles::first)) {
        Err(WaitingOn::Refused(words)) => upgrade.refused_for(words),
        _ => upgrade,
    }
}

/// The plan of a new life, as on a host that has nothing of the old one.
fn after_leaving(inputs: Inputs<'_>, duty: &Duty, retirement: PlannedRetirement) -> Result<Plan, WaitingOn> {
    let facts = retire::facts_after(inputs, duty);
    let plan = node_plan(Inputs { facts: &facts, ..inputs }, duty)?;
    Ok(Plan { retirement: Some(retirement), ..plan })
}

/// Role `none`: stay claimed, run nothing.
fn idle(inputs: Inputs<'_>) -> Plan {
    let Some(identity) = pinned(inputs.facts) else { return Plan::default() };
    let units = [units::K3S, units::K3S_AGENT]
        .map(|name| units::stopped(name, "the assignment gives this host no role"));
    Plan {
        retirement: roles::rest(inputs, identity),
        units: units.into(),
        removals: writers::removals(inputs),
        ..Plan::default()
    }
}

fn node_plan(inputs: Inputs<'_>, duty: &Duty) -> Result<Plan, WaitingOn> {
    rules::before_planning(inputs, duty)?;
    let start = config::Start::decide(inputs, duty)?;
    let snapshotter = snapshotter::decide(inputs, duty)?;
    let runtime = containerd::decide(inputs, duty, &snapshotter.storage)?;
    let artifact = node::k3s_binary(inputs, duty)?;
    let rendered = config::render(inputs, duty, start, &runtime)?;
    let mut files = node::files(inputs, duty);
    files.extend(containerd::files(duty, &runtime));
    files.extend(containerd::host_files(inputs, duty));
    files.extend(units::files(duty, &runtime));
    files.extend(writers::files(inputs));
    let identity = identity(inputs, duty, start);
    let generation = generation(inputs, &rendered, &files);
    files.extend(rendered.side_files(&generation));
    files.push(rendered.commit_file(&generation));
    let units = restart::units(inputs, duty, &files, &generation, artifact.binary());
    Ok(Plan {
        departure: None,
        retirement: None,
        upgrade: None,
        hostname: hostname(inputs, duty.node.name.as_str()),
        address: address::decide(inputs, duty.node.ip)?,
        artifacts: artifact.wanted().into_iter().collect(),
        links: node::links(&artifact, inputs),
        removals: removals(inputs, duty),
        quarantines: members::quarantines(inputs, duty),
        restores: members::restores(inputs, duty),
        empty: empty::decide(inputs, duty, start),
        storage: Some(snapshotter.storage),
        images: images::missing(inputs, duty),
        manifests: manifests::planned(duty),
        notes: notes(inputs, duty, &runtime)
            .into_iter()
            .chain(snapshotter.notes)
            .chain(rendered.notes)
            .collect(),
        identity: Some(identity),
        generation: Some(generation),
        files,
        units,
    })
}

fn removals(inputs: Inputs<'_>, duty: &Duty) -> Vec<PlannedRemoval> {
    let mut removals = units::removals(inputs, duty);
    removals.extend(containerd::removals(inputs, duty));
    removals.extend(writers::removals(inputs));
    removals
}

/// The pinned identity, when there is one.
#[must_use]
pub fn pinned(facts: &HostFacts) -> Option<&PinnedIdentity> {
    facts.runtime.identity.known()?.as_ref()
}

fn hostname(inputs: Inputs<'_>, name: &str) -> Option<PlannedHostname> {
    inputs.local.manage_hostname.then(|| PlannedHostname {
        name: name.to_owned(),
        reason: "the pinned node name is the name (invariant 1)".to_owned(),
    })
}

/// What is pinned: the step `assigned`. A `joined` part stays as it is.
fn identity(inputs: Inputs<'_>, duty: &Duty, start: config::Start) -> PinnedIdentity {
    let before = pinned(inputs.facts);
    let same_epoch = before.filter(|before| before.epoch == duty.cluster.epoch);
    PinnedIdentity {
        node_id: inputs.assignment.node_id.as_ref().map(ToString::to_string),
        site: inputs.assignment.site.to_string(),
        cluster: duty.cluster.name.to_string(),
        role: duty.role,
        node_name: duty.node.name.to_string(),
        node_ip: duty.node.ip,
        manage_hostname: inputs.local.manage_hostname,
        epoch: duty.cluster.epoch,
        init_started: match start {
            config::Start::Init => Some(duty.cluster.epoch),
            _ => same_epoch.and_then(|before| before.init_started),
        },
        fingerprint: before
            .map_or_else(|| fingerprint::of(inputs.facts), |before| before.fingerprint.clone()),
        joined: same_epoch.and_then(|before| before.joined.clone()),
        highest_epoch: before.map_or(0, |before| before.highest_epoch).max(duty.cluster.epoch),
        nic: before.and_then(|before| before.nic.clone()),
        retiring: None,
        departing: before.and_then(|before| before.departing.clone()),
    }
}

/// A new number is taken only when something that it holds is different.
fn generation(inputs: Inputs<'_>, rendered: &config::Rendered, files: &[PlannedFile]) -> PlannedGeneration {
    let digest = digest(rendered, files);
    let generations = &inputs.facts.runtime.generations;
    let current = generations.current.as_ref().filter(|current| current.digest == digest);
    PlannedGeneration {
        number: current.map_or(generations.highest + 1, |current| current.number),
        exists: current.is_some(),
        effective: rendered.effective.clone(),
        digest,
    }
}

/// Names what a generation holds: k3s's configuration and containerd's.
fn digest(rendered: &config::Rendered, files: &[PlannedFile]) -> String {
    let containerd = files.iter().find(|file| file.path == paths::CONTAINERD_CONFIG).map(PlannedFile::sha256);
    sha256_hex(json!({"k3s": rendered.digest(), "containerd": containerd}).to_string().as_bytes())
}

fn notes(inputs: Inputs<'_>, duty: &Duty, runtime: &containerd::Decision) -> Vec<String> {
    let ignored = inputs.assignment.ignored.iter();
    let mut notes: Vec<String> = ignored
        .map(|field| format!("assignment field `{field}` is unknown to this version, ignoring"))
        .collect();
    notes.extend(inputs.facts.runtime.identity.reason().map(str::to_owned));
    notes.extend(runtime.notes.iter().cloned());
    notes.extend(images::note(duty, runtime.version));
    notes.extend(manifests::notes(duty));
    notes.extend(tokens::finding(inputs.facts, duty).map(|finding| finding.to_string()));
    notes.extend(containerd::foreign_network(inputs.facts).map(|network| network.words));
    notes.extend(containerd::shadowed(inputs, duty));
    notes.extend(units::foreign_environment(inputs, duty));
    notes
}

/// A plan as `plan --json` shows it: no content of a secret file.
#[must_use]
pub fn to_json(plan: &Plan) -> serde_json::Value {
    json!({
        "schema": 1,
        "departure": plan.departure,
        "retirement": plan.retirement,
        "identity": plan.identity,
        "generation": plan.generation,
        "upgrade": plan.upgrade,
        "hostname": plan.hostname.as_ref().map(|hostname| &hostname.name),
        "address": plan.address,
        "artifacts": plan.artifacts,
        "files": plan.files.iter().map(file_json).collect::<Vec<_>>(),
        "links": plan.links,
        "removals": plan.removals,
        "quarantines": plan.quarantines,
        "restores": plan.restores,
        "empty": plan.empty,
        "storage": plan.storage,
        "images": plan.images,
        "manifests": plan.manifests.iter().map(file_json).collect::<Vec<_>>(),
        "units": plan.units,
        "notes": plan.notes,
    })
}

fn file_json(file: &PlannedFile) -> serde_json::Value {
    json!({
        "path": file.path,
        "mode": format!("{:04o}", file.mode),
        "size": file.bytes.len(),
        "sha256": file.sha256(),
        "sensitivity": file.sensitivity,
        "content": file.shown,
        "reason": file.reason,
    })
}
