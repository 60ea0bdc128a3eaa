//! `adopt`: take over a host that runs a k3s of others.
//!
//! Owns what is printed and the exit code: 0 nothing to take over or done, 2
//! shown, 1 refused, 75 taken over and not steady yet. Without `--yes` it
//! changes nothing.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::{Common, apply, output, person};
use crate::boot::Agent;
use crate::boot::adopt::{self, Look};
use crate::plan::adopt::{Difference, shown};
use crate::{paths, pause};

/// How long the central service may be asked for the assignment.
const PATIENCE: Duration = Duration::from_secs(30);
/// Exit code when something was only shown.
const SHOWN: u8 = 2;
/// Width of the first column, in characters.
const COLUMN: usize = 44;

#[derive(Debug, Args)]
pub struct AdoptArgs {
    /// Do it; without it only show
    #[arg(long)]
    yes: bool,
    /// Restart k3s and containerd where the new configuration differs in effect
    #[arg(long, requires = "yes")]
    restart: bool,
}

pub async fn run(common: &Common, args: &AdoptArgs) -> anyhow::Result<u8> {
    let mut agent = common.agent()?;
    let Some(look) = adopt::look(&mut agent, PATIENCE).await? else {
        output::text("nothing to take over: there is no k3s of others on this host");
        return Ok(0);
    };
    if common.json {
        output::json(&as_json(&look))?;
    } else {
        output::text(&text(&look, args.restart));
    }
    if !look.refusals.is_empty() {
        look.refusals.iter().for_each(|refusal| output::error(&refusal.to_string()));
        return Ok(1);
    }
    if !args.yes {
        return Ok(SHOWN);
    }
    take(common, &agent, args.restart).await
}

/// Looks again under the lock, so that what is written is what is there.
async fn take(common: &Common, agent: &Agent, restart: bool) -> anyhow::Result<u8> {
    if let Some(pause) = pause::current(&agent.root, agent.clock) {
        anyhow::bail!("paused by {}: {}; `edge-bootstrap resume` ends it", pause.by, pause.reason);
    }
    let Some(lock) = apply::lock(&agent.root).await? else { return Ok(apply::WAITING) };
    let mut fresh = common.agent()?;
    let look = adopt::look(&mut fresh, PATIENCE).await?.filter(|look| look.refusals.is_empty());
    let Some(look) = look else {
        anyhow::bail!("what runs has changed since it was shown; look again");
    };
    for path in adopt::take(&agent.root, agent.clock, &look, restart)? {
        output::note(&format!("wrote {path}"));
    }
    // The settings may name the assignment only now, for the daemon too.
    person::wake(common).await;
    apply::with_lock(common.agent()?, lock).await
}

fn as_json(look: &Look) -> serde_json::Value {
    let rows: Vec<_> = look
        .rows
        .iter()
        .map(|row| json!({"path": row.path, "old": row.old, "new": has_plan(look).then_some(&row.new)}))
        .collect();
    let differences: Vec<_> = look
        .differences
        .iter()
        .map(|one| json!({"key": one.key, "old": one.old, "new": one.new, "words": one.words}))
        .collect();
    json!({
        "schema": 1,
        "unit": look.found.installed.path,
        "role": look.found.installed.role,
        "assignment": look.proposed.as_ref().map(|_| &look.assignment_path),
        "rows": rows,
        "differences": differences,
        "refusals": look.refusals,
        "changes": look.changes,
    })
}

fn text(look: &Look, restart: bool) -> String {
    let installed = &look.found.installed;
    let mut out = format!("k3s {} of others, from {}\n", installed.role, installed.path);
    let mut path = "";
    for row in &look.rows {
        if row.path != path {
            path = &row.path;
            let _ = writeln!(out, "\n{path}");
        }
        let _ = match has_plan(look) {
            true => writeln!(out, "  {:COLUMN$} -> {}", row.old, row.new),
            false => writeln!(out, "  {}", row.old),
        };
    }
    if !has_plan(look) {
        return out;
    }
    for name in look.found.carried.iter().map(|(name, _)| name) {
        let _ = writeln!(out, "  {name:COLUMN$} -> kept in {}.env", installed.unit);
    }
    for directive in &look.left_out {
        let _ = writeln!(
            out,
            "  {directive:COLUMN$} -> not carried over: put it into a drop-in (systemctl edit {})",
            installed.unit
        );
    }
    differences(&mut out, &look.differences, restart);
    further(&mut out, look, restart);
    out
}

/// Without a plan nobody can say where a setting goes.
fn has_plan(look: &Look) -> bool {
    look.plan.generation.is_some()
}

fn differences(out: &mut String, all: &[Difference], restart: bool) {
    if all.is_empty() {
        out.push_str("\nequal in effect: k3s reads the same values as before\n");
        return;
    }
    let when = if restart { "by the restart that you ask for" } else { "at k3s's next start, not before" };
    let _ = writeln!(out, "\ndiffers, {when}:");
    for one in all {
        let (old, new) = (shown(&one.key, &one.old), shown(&one.key, &one.new));
        let word = |text: String| if text.is_empty() { "not set".to_owned() } else { text };
        let _ = writeln!(out, "  {}: {} -> {}", one.key, word(old), word(new));
        if let Some(words) = one.words {
            let _ = writeln!(out, "    {words}");
        }
    }
}

/// What is done beside the configuration.
fn further(out: &mut String, look: &Look, restart: bool) {
    let _ = writeln!(out, "\nand:");
    let _ = writeln!(out, "  the files as they are now are kept below {}", paths::ADOPTED_FILES);
    if look.proposed.is_some() {
        let _ = writeln!(out, "  write a local assignment of what runs: {}", look.assignment_path);
    }
    let changes = &look.changes;
    if let Some(hostname) = &changes.hostname {
        let _ = writeln!(out, "  set hostname {hostname}");
    }
    for file in &changes.files {
        let _ = writeln!(out, "  {} {}", file.action, file.path);
    }
    for link in &changes.links {
        let _ = writeln!(out, "  link {link}");
    }
    for unit in adopt::unit_changes(look, restart) {
        let _ = writeln!(out, "  {} {}: {}", unit.action, unit.name, unit.reason);
    }
    if !restart {
        let _ = writeln!(out, "  restart nothing");
    }
}
