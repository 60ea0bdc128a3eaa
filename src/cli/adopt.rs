//! `adopt`: take over a k3s that install.sh or a person put on this host.
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
use crate::plan::Refusal;
use crate::plan::adopt::{Difference, Row, shown};
use crate::role::words::SiteName;
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
    /// Keys that may differ at the next start of k3s, as shown without --yes
    #[arg(long, value_name = "KEY,...", value_delimiter = ',')]
    accept: Vec<String>,
    /// Restart k3s and containerd where the new configuration differs in effect
    #[arg(long, requires = "yes")]
    restart: bool,
    /// Site of the assignment that is written where this host has none
    #[arg(long, value_name = "NAME")]
    site: Option<SiteName>,
}

pub async fn run(common: &Common, args: &AdoptArgs) -> anyhow::Result<u8> {
    let mut agent = agent(common, args)?;
    let Some(mut look) = adopt::look(&mut agent, PATIENCE).await? else {
        if common.json {
            output::json(&json!({"schema": 1, "unit": null}))?;
        } else {
            output::text("nothing to take over: there is no k3s of others on this host");
        }
        return Ok(0);
    };
    if args.yes && look.refusals.is_empty() {
        look.refusals.extend(not_accepted(&look, args));
    }
    if common.json {
        output::json(&as_json(&look))?;
    } else {
        output::text(&text(&look, args));
    }
    if !look.refusals.is_empty() {
        look.refusals.iter().for_each(|refusal| output::error(&refusal.to_string()));
        return Ok(1);
    }
    if !args.yes {
        return Ok(SHOWN);
    }
    take(common, &agent, args).await
}

fn agent(common: &Common, args: &AdoptArgs) -> anyhow::Result<Agent> {
    let mut agent = common.agent()?;
    if let Some(site) = &args.site {
        agent.settings.node.site = Some(site.clone());
    }
    Ok(agent)
}

/// What differs takes effect some day, at whatever start comes next: nobody shall
/// have said yes to it unseen.
fn not_accepted(look: &Look, args: &AdoptArgs) -> Option<Refusal> {
    let keys = look.differences.iter().map(|one| one.key.as_str());
    let unseen: Vec<&str> = keys.filter(|key| !args.accept.iter().any(|accepted| accepted == key)).collect();
    (!unseen.is_empty()).then(|| {
        Refusal::new(
            "EB-adopt-refused",
            format!(
                "{} would differ at the next start of k3s, and nobody has accepted that",
                unseen.join(", ")
            ),
            format!("where that is right: {}", command(look, args)),
        )
    })
}

/// The command line that takes this host over.
fn command(look: &Look, args: &AdoptArgs) -> String {
    let mut line = "edge-bootstrap adopt --yes".to_owned();
    if let Some(site) = &args.site {
        line += &format!(" --site {site}");
    }
    let keys: Vec<&str> = look.differences.iter().map(|one| one.key.as_str()).collect();
    if !keys.is_empty() {
        line += &format!(" --accept {}", keys.join(","));
    }
    line + if args.restart { " --restart" } else { "" }
}

/// Looks again under the lock, so that what is written is what is there.
async fn take(common: &Common, before: &Agent, args: &AdoptArgs) -> anyhow::Result<u8> {
    if let Some(pause) = pause::current(&before.root, before.clock) {
        anyhow::bail!("paused by {}: {}; `edge-bootstrap resume` ends it", pause.by, pause.reason);
    }
    let Some(lock) = apply::lock(&before.root).await? else { return Ok(apply::WAITING) };
    let mut fresh = agent(common, args)?;
    let is_right = |look: &Look| look.refusals.is_empty() && not_accepted(look, args).is_none();
    let Some(look) = adopt::look(&mut fresh, PATIENCE).await?.filter(is_right) else {
        anyhow::bail!("what runs has changed since it was shown; look again");
    };
    let acts = adopt::script(&fresh.root, fresh.clock, &look, args.restart)?;
    for path in adopt::carry_out(&fresh.root, &fresh.systemd, &acts).await? {
        output::note(&format!("changed {path}"));
    }
    // The settings may name the assignment only now, for the daemon too.
    person::wake(common).await;
    apply::with_lock(common, common.agent()?, lock).await
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
        .map(|one| {
            let (old, new) = (shown(&one.key, &one.old), shown(&one.key, &one.new));
            json!({"key": one.key, "old": old, "new": new, "words": one.words})
        })
        .collect();
    json!({
        "schema": 1,
        "unit": look.found.installed.path,
        "role": look.found.installed.role,
        "assignment": look.proposed.as_ref().map(|_| &look.assignment_path),
        "rows": rows,
        "differences": differences,
        "refusals": look.refusals,
        "changes": changes(look),
    })
}

/// Without the content of files: that of others may hold what nobody knows to be a
/// secret. `plan` shows what becomes of ours.
fn changes(look: &Look) -> serde_json::Value {
    let mut changes = serde_json::to_value(&look.changes).unwrap_or_default();
    for file in changes.get_mut("files").and_then(|files| files.as_array_mut()).into_iter().flatten() {
        if let Some(file) = file.as_object_mut() {
            file.remove("diff");
        }
    }
    changes
}

fn text(look: &Look, args: &AdoptArgs) -> String {
    let (installed, restart) = (&look.found.installed, args.restart);
    let version = installed.version.as_ref().map(|version| format!(" {version}")).unwrap_or_default();
    let mut out = format!("k3s{version} as {}, installed by others: {}\n", installed.role, installed.path);
    let mut path = "";
    for row in &look.rows {
        if row.path != path {
            path = &row.path;
            let _ = writeln!(out, "\n{path}");
        }
        out += &line(row, has_plan(look));
    }
    if !has_plan(look) {
        return out;
    }
    who(&mut out, look);
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
    further(&mut out, look, args);
    out
}

/// One row; what is too long for its column has a line of its own.
fn line(row: &Row, has_plan: bool) -> String {
    let Row { old, new, .. } = row;
    match has_plan {
        false => format!("  {old}\n"),
        true if old.chars().count() > COLUMN => format!("  {old}\n  {:COLUMN$} -> {new}\n", ""),
        true => format!("  {old:COLUMN$} -> {new}\n"),
    }
}

/// What is pinned for good.
fn who(out: &mut String, look: &Look) {
    let Some(identity) = &look.plan.identity else { return };
    let _ = writeln!(
        out,
        "\npinned for good: node {} at {}, {} of cluster {} in site {}",
        identity.node_name, identity.node_ip, identity.role, identity.cluster, identity.site
    );
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
fn further(out: &mut String, look: &Look, args: &AdoptArgs) {
    let restart = args.restart;
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
    if !args.yes && look.refusals.is_empty() {
        let _ = writeln!(out, "\nto take it over: {}", command(look, args));
    }
}
