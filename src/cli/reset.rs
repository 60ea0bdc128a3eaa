//! `reset`: this host leaves its cluster.
//!
//! Owns what a person is shown before and after. Without `--yes` nothing is
//! changed.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;

use super::{Common, output, person};
use crate::boot::Agent;
use crate::boot::reset::{self, Item, Manifest, Wish};
use crate::sys::{host, lock};
use crate::{paths, pause};

/// How long a pass of the daemon may hold the lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Args)]
pub struct ResetArgs {
    /// Do it; without this it is only shown
    #[arg(long)]
    yes: bool,
    /// Drop this host's identity too: it claims as a new one
    #[arg(long)]
    forget: bool,
    /// End what runs of k3s and its pods, and remove nothing from disk
    #[arg(long, conflicts_with = "forget")]
    kill_only: bool,
}

impl ResetArgs {
    fn wish(&self) -> Wish {
        Wish { kill_only: self.kill_only, forget: self.forget }
    }
}

pub async fn run(common: &Common, args: &ResetArgs) -> anyhow::Result<u8> {
    anyhow::ensure!(common.root().is_host(), "a reset changes the running host: not with --root");
    anyhow::ensure!(host::is_root(), "only root may do this; run: sudo edge-bootstrap reset");
    let agent = common.agent()?;
    if !args.yes {
        show(common, &agent, args).await?;
        return Ok(0);
    }
    may_begin(&agent, args)?;
    let Some(_lock) = lock::acquire(&agent.root, paths::LOCK, LOCK_PATIENCE).await? else {
        anyhow::bail!("another pass is running and did not end within 120 s; try again");
    };
    let left = if args.kill_only {
        reset::kill(&agent).await?
    } else {
        reset::carry_out(&agent, args.forget, &person::name()).await?
    };
    conclude(common, args, &left).await
}

fn may_begin(agent: &Agent, args: &ResetArgs) -> anyhow::Result<()> {
    agent.root.make_dir(paths::RUN_DIR, 0o755)?;
    if reset::is_inside(&agent.root) {
        anyhow::bail!(
            "this shell runs in a pod or in k3s's unit and would end with it; log in to the host itself"
        );
    }
    // Ending k3s by hand is what a person may do on a paused host.
    if let Some(pause) = pause::current(&agent.root, agent.clock).filter(|_| !args.kill_only) {
        anyhow::bail!("paused by {}: {}; `edge-bootstrap resume` ends it", pause.by, pause.reason);
    }
    Ok(())
}

async fn conclude(common: &Common, args: &ResetArgs, left: &[String]) -> anyhow::Result<u8> {
    if left.is_empty() {
        let (done, next) = match (args.kill_only, args.forget) {
            (true, _) => ("k3s and its pods are down", "`edge-bootstrap resume` starts them again"),
            (_, true) => {
                ("this host was reset and has no identity", "`edge-bootstrap enrol` claims a place for it")
            }
            _ => ("this host was reset", "`edge-bootstrap apply` or `enrol` makes it claim its place again"),
        };
        person::tell(common, &format!("{done}, by {}", person::name())).await;
        output::text(&format!("{done}: nothing of k3s is left running; {next}"));
        return Ok(0);
    }
    for line in left {
        output::note(&format!("left: {line}"));
    }
    let again = if args.kill_only { "" } else { "; k3s does not start before it is finished" };
    anyhow::bail!("{} things are left{again}; see above, then run the same command again", left.len());
}

async fn show(common: &Common, agent: &Agent, args: &ResetArgs) -> anyhow::Result<()> {
    let manifest = reset::look(agent, args.wish()).await;
    if common.json {
        return output::json(&manifest.to_json(args.wish()));
    }
    output::text(&text(&manifest, args.wish()));
    Ok(())
}

/// The manifest for people, in the order in which it would be done.
fn text(manifest: &Manifest, wish: Wish) -> String {
    let mut out = String::from("nothing is changed without --yes\n");
    if let Some(identity) = &manifest.identity {
        let _ = writeln!(
            out,
            "{} {} of site {}, cluster {}",
            identity.role, identity.node_name, identity.site, identity.cluster
        );
    }
    for warning in &manifest.warnings {
        let _ = writeln!(out, "WARNING: {warning}");
    }
    let process = |(process, why): &(crate::plan::reset::processes::Process, &str)| {
        format!("{} {} ({why})", process.pid, process.name)
    };
    section(&mut out, "stop", manifest.units.iter().map(|(name, state)| format!("{name} ({state})")));
    section(&mut out, "end", manifest.processes.iter().map(process));
    section(&mut out, "unmount", manifest.mounts.iter().cloned());
    section(&mut out, "remove network name spaces", manifest.namespaces.iter().cloned());
    section(&mut out, "remove interfaces", manifest.interfaces.iter().map(|link| link.name.clone()));
    section(&mut out, "remove chains", manifest.rules.lines());
    if !wish.kill_only {
        let place = format!("move to {}/reset-{}", paths::BACKUP, manifest.number);
        section(&mut out, &place, manifest.moved.iter().map(line));
        section(&mut out, "remove", manifest.removed.iter().map(line));
        section(&mut out, "keep", manifest.kept.iter().map(line));
    }
    out
}

fn section(out: &mut String, title: &str, lines: impl IntoIterator<Item = String>) {
    let lines: Vec<String> = lines.into_iter().collect();
    if !lines.is_empty() {
        let _ = writeln!(out, "{title}:");
        lines.iter().for_each(|line| out.push_str(&format!("  {line}\n")));
    }
}

fn line(item: &Item) -> String {
    let why = if item.why.is_empty() { String::new() } else { format!(": {}", item.why) };
    format!("{} ({}){why}", item.path, size(item.bytes))
}

fn size(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    if bytes >= MIB {
        format!("{} MiB", bytes.div_ceil(MIB))
    } else {
        format!("{} KiB", bytes.div_ceil(1024))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_names_what_goes_where_and_what_stays() {
        let item = |path: &str, bytes, why: &str| Item { path: path.into(), bytes, why: why.into() };
        let manifest = Manifest {
            number: 3,
            warnings: vec!["the only server".into()],
            units: vec![("k3s.service".into(), "active/running".into())],
            mounts: vec!["/var/lib/kubelet/pods/1/x".into()],
            moved: vec![item("/var/lib/rancher/k3s/server", 5 << 20, "")],
            kept: vec![item("/var/lib/containerd", 1, "images")],
            ..Manifest::default()
        };
        let shown = text(&manifest, Wish { kill_only: false, forget: false });
        assert_eq!(
            shown,
            "nothing is changed without --yes\nWARNING: the only server\nstop:\n  k3s.service (active/running)\n\
             unmount:\n  /var/lib/kubelet/pods/1/x\nmove to /var/lib/edge-bootstrap/backup/reset-3:\n  \
             /var/lib/rancher/k3s/server (5 MiB)\nkeep:\n  /var/lib/containerd (1 KiB): images\n"
        );
        assert!(!text(&manifest, Wish { kill_only: true, forget: false }).contains("keep"));
    }
}
