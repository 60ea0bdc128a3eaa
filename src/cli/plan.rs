//! `plan`: what a pass would change.
//!
//! Owns the printed form and the exit code: 0 nothing, 2 changes, 1 error.
//! Changes nothing and asks nobody.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::{Common, output};
use crate::boot::{self, Agent};
use crate::enrol::Outcome;
use crate::facts::HostFacts;
use crate::plan::diff::{self, Changes};
use crate::plan::{self, Inputs, Plan, WaitingOn};
use crate::report::status::Waiting;
use crate::role::{self, Assignment};
use crate::sys::Root;
use crate::wire::secret::sha256_hex;

#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Plan for this assignment (JSON payload or TOML)
    #[arg(long, value_name = "FILE")]
    assignment: Option<String>,
    /// Plan for these facts (`facts --json` of another host)
    #[arg(long, value_name = "FILE")]
    facts: Option<String>,
}

/// Exit code when something would change.
const CHANGES: u8 = 2;

pub async fn run(common: &Common, args: &PlanArgs) -> anyhow::Result<u8> {
    let mut agent = common.agent()?;
    let facts = match &args.facts {
        Some(path) => facts(&read(path)?).map_err(|error| in_file(path, &error))?,
        None => boot::facts(&agent.root).await,
    };
    let (assignment, confirmed) = match &args.assignment {
        Some(path) => (parse(path, &read(path)?).map_err(|error| in_file(path, &error))?, true),
        None => in_force(&mut agent).await?,
    };
    let local = agent.local();
    let inputs = Inputs { facts: &facts, assignment: &assignment, local: &local, confirmed };
    match plan::plan(inputs) {
        Ok(plan) => show(common, plan, inputs),
        Err(waiting) => wait(common, &waiting),
    }
}

fn read(path: &str) -> anyhow::Result<String> {
    // A file that a person names lies outside `--root`.
    Root::default().read_text(&absolute(path))?.ok_or_else(|| anyhow::anyhow!("{path} is not there"))
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') {
        return path.to_owned();
    }
    let here = crate::sys::host::environment("PWD").unwrap_or_default();
    format!("{here}/{path}")
}

fn in_file(path: &str, error: &anyhow::Error) -> anyhow::Error {
    anyhow::anyhow!("{path}: {error:#}")
}

fn facts(text: &str) -> anyhow::Result<HostFacts> {
    let facts: HostFacts = serde_json::from_value(serde_json::from_str(text)?)?;
    anyhow::ensure!(facts.schema == 1, "the schema of these facts is unknown to this version");
    Ok(facts)
}

fn parse(path: &str, text: &str) -> anyhow::Result<Assignment> {
    if path.ends_with(".toml") {
        let payload = crate::wire::written::payload(text)?;
        return Ok(role::validate(&payload, sha256_hex(text.as_bytes()))?);
    }
    Ok(role::parse_payload(text.as_bytes())?)
}

/// The assignment on disk, or the local file.
async fn in_force(agent: &mut Agent) -> anyhow::Result<(Assignment, bool)> {
    match agent.enrolment.assignment(Duration::ZERO).await? {
        Outcome::Enrolled(enrolled) => {
            let local = enrolled.freshness == crate::enrol::Freshness::Local;
            Ok((enrolled.assignment, local))
        }
        Outcome::Waiting(waiting) => anyhow::bail!("{waiting}"),
    }
}

fn wait(common: &Common, waiting: &WaitingOn) -> anyhow::Result<u8> {
    if common.json {
        output::json(&json!({"schema": 1, "waiting_on": Waiting::from(waiting)}))?;
    } else {
        output::error(&waiting.to_string());
    }
    Ok(1)
}

fn show(common: &Common, plan: Plan, inputs: Inputs<'_>) -> anyhow::Result<u8> {
    let changes = diff::changes(&plan, inputs.facts);
    let checked = plan::check(plan, inputs).map_err(|broken| {
        anyhow::anyhow!("{}", broken.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })?;
    if common.json {
        output::json(&json!({"schema": 1, "plan": plan::to_json(checked.plan()), "changes": changes}))?;
    } else {
        output::text(&text(checked.plan(), &changes, inputs.facts));
    }
    Ok(if changes.is_empty() { 0 } else { CHANGES })
}

/// The plan for people: what changes, why, and the diff.
fn text(plan: &Plan, changes: &Changes, facts: &HostFacts) -> String {
    let mut out = String::new();
    if let Some(departure) = &plan.departure {
        let _ = writeln!(out, "leave etcd\n    because: {}", departure.reason);
    }
    if let Some(retirement) = &plan.retirement {
        let _ = writeln!(out, "leave the old life\n    because: {}", retirement.reason);
    }
    lines(&mut out, "move", changes.leaves.iter().cloned());
    if let Some(identity) = plan.identity.as_ref().filter(|_| changes.identity) {
        let _ =
            writeln!(out, "pin identity {} {} as {}", identity.node_name, identity.node_ip, identity.role);
    }
    if let Some(hostname) = &changes.hostname {
        let _ = writeln!(out, "set hostname {hostname}");
    }
    for item in &plan.quarantines {
        let _ = writeln!(out, "move aside {}\n    because: {}", item.path, item.reason);
    }
    for item in &plan.restores {
        let _ = writeln!(out, "put back {}\n    because: {}", item.path, item.reason);
    }
    if let Some(empty) = &plan.empty {
        let _ =
            writeln!(out, "remove {} empty files of k3s\n    because: {}", empty.paths.len(), empty.reason);
    }
    if let Some(planned) = plan.address.as_ref().filter(|_| changes.address.is_some()) {
        let _ = writeln!(
            out,
            "add address {} to {}\n    because: {}",
            planned.cidr, planned.interface, planned.reason
        );
    }
    storage(&mut out, plan, changes);
    lines(&mut out, "upgrade", changes.upgrade.iter().cloned());
    for title in &changes.artifacts {
        let _ = writeln!(out, "fetch {title}");
    }
    for file in &changes.files {
        let _ = writeln!(out, "{} {}\n    because: {}", file.action, file.path, file.reason);
        let _ = match &file.diff {
            Some(diff) => write!(out, "{}", indent(diff)),
            None => writeln!(out, "    (content is secret)"),
        };
    }
    lines(&mut out, "link", changes.links.iter().cloned());
    lines(&mut out, "remove", changes.removals.iter().cloned());
    let unit = |change: &diff::UnitChange| {
        format!("{} {}\n    because: {}", change.action, change.name, change.reason)
    };
    lines(&mut out, "unit", changes.units.iter().map(unit));
    lines(&mut out, "bring images of", changes.images.iter().cloned());
    lines(&mut out, "waits for the room's Lease:", changes.pending.iter().map(unit));
    lines(&mut out, "note:", plan.notes.iter().cloned());
    if changes.is_empty() {
        let name = facts.identity.hostname.kernel.known().map_or("this host", String::as_str);
        let _ = writeln!(out, "nothing to change on {name}");
    }
    out
}

/// The snapshotter with its reason and what was looked at, changed or not.
fn storage(out: &mut String, plan: &Plan, changes: &Changes) {
    let Some(storage) = &plan.storage else { return };
    for change in &changes.storage {
        let _ = writeln!(out, "{change}");
    }
    let _ = writeln!(out, "snapshotter {}\n    because: {}", storage.choice.snapshotter, storage.reason);
    for input in &storage.inputs {
        let _ = writeln!(out, "    {input}");
    }
}

fn lines(out: &mut String, title: &str, items: impl Iterator<Item = String>) {
    for item in items {
        let _ = writeln!(out, "{title} {item}");
    }
}

fn indent(diff: &str) -> String {
    diff.lines().map(|line| format!("    {line}\n")).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_neither_facts_nor_an_assignment_is_named() {
        let told = |error: anyhow::Error| in_file("f.json", &error).to_string();
        let no_facts = told(facts("{}").unwrap_err());
        assert!(no_facts.starts_with("f.json: missing field"), "{no_facts}");
        let no_assignment = told(parse("f.json", "{}").unwrap_err());
        assert!(no_assignment.starts_with("f.json: assignment is not usable"), "{no_assignment}");
        let later = HostFacts { schema: 2, ..HostFacts::default() };
        assert!(facts(&serde_json::to_string(&later).unwrap()).is_err());
    }
}
