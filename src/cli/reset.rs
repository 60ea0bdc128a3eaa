//! `reset`: this host leaves its cluster.
//!
//! Owns what a person is shown before and after. Without `--yes` nothing is
//! changed.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;

use super::{Common, output, person};
use crate::boot::Agent;
use crate::boot::reset::{self, Item, Manifest, Outcome, Wish};
use crate::paths;
use crate::sys::{clock, host, lock};

/// How long a pass of the daemon may hold the lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(120);
/// Lines of one kind that are shown; `--json` has all.
const SHOWN: usize = 12;

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
    /// Do it although the cluster ends or loses its majority with this server
    #[arg(long, conflicts_with = "kill_only")]
    break_cluster: bool,
}

impl ResetArgs {
    fn wish(&self) -> Wish {
        Wish { kill_only: self.kill_only, forget: self.forget, break_cluster: self.break_cluster }
    }
}

/// What a person types for this wish.
fn command(wish: Wish) -> String {
    let mut words = String::from("edge-bootstrap reset");
    let flags = [
        (wish.kill_only, " --kill-only"),
        (wish.forget, " --forget"),
        (wish.break_cluster, " --break-cluster"),
    ];
    flags.iter().filter(|(is_set, _)| *is_set).for_each(|(_, flag)| words.push_str(flag));
    words + " --yes"
}

pub async fn run(common: &Common, args: &ResetArgs) -> anyhow::Result<u8> {
    anyhow::ensure!(common.root().is_host(), "a reset changes the running host: not with --root");
    anyhow::ensure!(host::is_root(), "only root may do this; run: sudo edge-bootstrap reset");
    let mut agent = common.agent()?;
    let wish = args.wish();
    if !args.yes {
        show(common, &agent, wish).await?;
        return Ok(0);
    }
    let began = clock::monotonic();
    agent.watcher = Box::new(output::Terminal);
    agent.root.make_dir(paths::RUN_DIR, 0o755)?;
    may_begin(&agent, wish).await?;
    let _lock = locked(&agent).await?;
    // The daemon ends its talk with the service: an answer that is on its way could
    // bring back what is dropped here. It begins anew after a pass, which needs the lock.
    person::wake(common).await;
    let outcome = if wish.kill_only {
        reset::kill(&agent).await?
    } else {
        reset::carry_out(&agent, wish.forget, &person::name()).await?
    };
    conclude(common, wish, &outcome, clock::monotonic().saturating_sub(began)).await
}

/// Nobody else changes this host meanwhile.
async fn locked(agent: &Agent) -> anyhow::Result<lock::Lock> {
    if let Some(lock) = lock::acquire(&agent.root, paths::LOCK, Duration::ZERO).await? {
        return Ok(lock);
    }
    let seconds = LOCK_PATIENCE.as_secs();
    output::note(&format!("waiting for the end of a pass that is running, for at most {seconds} s"));
    let lock = lock::acquire(&agent.root, paths::LOCK, LOCK_PATIENCE).await?;
    lock.ok_or_else(|| {
        anyhow::anyhow!(
            "another pass is running and did not end within {seconds} s; nothing was changed, try again"
        )
    })
}

/// Says what the cluster loses, and stops where something is in the way.
async fn may_begin(agent: &Agent, wish: Wish) -> anyhow::Result<()> {
    let (warning, obstacles) = reset::may_begin(agent, wish).await;
    if let Some(warning) = warning {
        output::note(&format!("WARNING: {warning}"));
    }
    anyhow::ensure!(obstacles.is_empty(), "refused, nothing was changed: {}", obstacles.join("; "));
    Ok(())
}

async fn conclude(common: &Common, wish: Wish, outcome: &Outcome, took: Duration) -> anyhow::Result<u8> {
    for reason in &outcome.unseen {
        output::note(&format!("not looked at: {reason}"));
    }
    if outcome.left.is_empty() {
        let done = if wish.kill_only { "k3s and its pods are down" } else { "this host was reset" };
        person::tell(common, &format!("{done}, by {}", person::name())).await;
        return person::done(common, &ending(wish, outcome, took));
    }
    for line in &outcome.left {
        output::note(&format!("left: {line}"));
    }
    let meanwhile = if wish.kill_only {
        ""
    } else {
        " Until it is finished nothing of k3s starts here, also not after a reboot."
    };
    anyhow::bail!(
        "not finished: {} left, see above.{meanwhile} Next: end or unmount what is named, then run the same command again: {}",
        counted(outcome.left.len(), "thing"),
        command(wish)
    );
}

/// What a person reads when it is done.
fn ending(wish: Wish, outcome: &Outcome, took: Duration) -> String {
    let seconds = took.as_secs().max(1);
    if wish.kill_only {
        return format!(
            "k3s and its pods are down (took {seconds} s): no process, mount, interface or chain of them is left; \
             nothing was removed from disk\nnext: `edge-bootstrap resume` starts them again\n"
        );
    }
    let mut out = format!(
        "this host was reset (took {seconds} s): no process, mount, interface, chain or file of k3s is left\n"
    );
    if let Some(backup) = &outcome.backup {
        let _ = writeln!(
            out,
            "backup: {backup} has what was moved, secrets and a server's datastore among it: only root reads it"
        );
    }
    out.push_str(if wish.forget {
        "next: it has no identity any more; `edge-bootstrap enrol` claims a place for it as a new host\n"
    } else {
        "next: it stays out of the cluster, over reboots too; `edge-bootstrap apply` makes it claim its place again\n"
    });
    out
}

async fn show(common: &Common, agent: &Agent, wish: Wish) -> anyhow::Result<()> {
    let manifest = reset::look(agent, wish).await;
    if common.json {
        return output::json(&manifest.to_json(wish));
    }
    output::text(&text(&manifest, wish));
    Ok(())
}

/// The manifest for people, in the order in which it would be done. What matters
/// most comes last: there a person's eyes are when a long list has scrolled by.
fn text(manifest: &Manifest, wish: Wish) -> String {
    let mut out = String::from("This is what would be done; nothing was changed.\n");
    if let Some(identity) = &manifest.identity {
        let _ = writeln!(
            out,
            "This host: {} {} of site {}, cluster {}",
            identity.role, identity.node_name, identity.site, identity.cluster
        );
    }
    let before = out.len();
    sections(&mut out, manifest, wish);
    if out.len() == before {
        out.push_str("Nothing of k3s runs here\n");
    }
    if !wish.kill_only {
        section(&mut out, "keep", manifest.kept.iter().map(line));
        out.push_str(
            "Afterwards this host is in no cluster until a person says `edge-bootstrap apply` or `enrol`\n",
        );
    }
    for warning in &manifest.warnings {
        let _ = writeln!(out, "WARNING: {warning}");
    }
    for reason in &manifest.refused {
        let _ = writeln!(out, "It would be REFUSED now: {reason}");
    }
    if manifest.refused.is_empty() {
        let _ = writeln!(out, "To do it: {}", command(wish));
    }
    out
}

fn sections(out: &mut String, manifest: &Manifest, wish: Wish) {
    let process = |(process, why): &(crate::plan::reset::processes::Process, &str)| {
        format!("{} {} ({why})", process.pid, process.name)
    };
    let stop = if wish.kill_only { "stop" } else { "stop, and take out of the boot" };
    section(out, stop, manifest.units.iter().map(|(name, state)| format!("{name} ({state})")));
    section(out, "end processes", manifest.processes.iter().map(process));
    section(out, "unmount (what is in it is not touched)", manifest.mounts.iter().cloned());
    section(out, "remove network name spaces", manifest.namespaces.iter().cloned());
    section(out, "remove interfaces", manifest.interfaces.iter().map(|link| link.name.clone()));
    section(out, "remove chains, rules and sets", manifest.rules.lines());
    if !wish.kill_only {
        let place = format!("move to {}/reset-{}", paths::BACKUP, manifest.number);
        section(out, &place, manifest.moved.iter().map(line));
        section(out, "remove", manifest.removed.iter().map(line));
    }
}

fn section(out: &mut String, title: &str, lines: impl IntoIterator<Item = String>) {
    let lines: Vec<String> = lines.into_iter().collect();
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(out, "{title}:");
    // One that is left over takes no more room than the word that it is.
    let shown = if lines.len() > SHOWN + 1 { SHOWN } else { lines.len() };
    lines.iter().take(shown).for_each(|line| out.push_str(&format!("  {line}\n")));
    if lines.len() > shown {
        let _ = writeln!(out, "  and {} more (--json names all)", lines.len() - shown);
    }
}

fn counted(count: usize, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}

fn line(item: &Item) -> String {
    let why = if item.why.is_empty() { String::new() } else { format!(": {}", item.why) };
    // Of what another host would have to tell no size is known.
    let size = if item.bytes == 0 { String::new() } else { format!(" ({})", size(item.bytes)) };
    format!("{}{size}{why}", item.path)
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
        let shown = text(&manifest, Wish::default());
        assert_eq!(
            shown,
            "This is what would be done; nothing was changed.\n\
             stop, and take out of the boot:\n  k3s.service (active/running)\n\
             unmount (what is in it is not touched):\n  /var/lib/kubelet/pods/1/x\n\
             move to /var/lib/edge-bootstrap/backup/reset-3:\n  /var/lib/rancher/k3s/server (5 MiB)\n\
             keep:\n  /var/lib/containerd (1 KiB): images\n\
             Afterwards this host is in no cluster until a person says `edge-bootstrap apply` or `enrol`\n\
             WARNING: the only server\nTo do it: edge-bootstrap reset --yes\n"
        );
        let refused = Manifest { refused: vec!["paused".into()], ..Manifest::default() };
        assert!(text(&refused, Wish::default()).ends_with("It would be REFUSED now: paused\n"));
        assert!(!text(&manifest, Wish { kill_only: true, ..Wish::default() }).contains("keep"));
    }

    #[test]
    fn a_hundred_pods_do_not_push_the_warning_off_the_screen() {
        let mounts = (0..100).map(|pod| format!("/var/lib/kubelet/pods/{pod}/x")).collect();
        let shown =
            text(&Manifest { mounts, ..Manifest::default() }, Wish { kill_only: true, ..Wish::default() });
        assert_eq!(shown.lines().count(), 1 + 1 + SHOWN + 1 + 1, "{shown}");
        assert!(shown.contains("  and 88 more (--json names all)\n"), "{shown}");
        let nothing = text(&Manifest::default(), Wish { kill_only: true, ..Wish::default() });
        assert!(nothing.contains("Nothing of k3s runs here\n"), "{nothing}");
    }

    #[test]
    fn the_end_says_where_the_secrets_are_and_what_comes_next() {
        let outcome = Outcome { backup: Some("/b/reset-1".into()), ..Outcome::default() };
        let took = Duration::from_millis(300);
        let said = ending(Wish::default(), &outcome, took);
        for word in ["took 1 s", "/b/reset-1", "secrets", "edge-bootstrap apply"] {
            assert!(said.contains(word), "{word} is not in {said}");
        }
        assert!(
            ending(Wish { forget: true, ..Wish::default() }, &outcome, took).contains("edge-bootstrap enrol")
        );
        let wish = Wish { forget: true, break_cluster: true, ..Wish::default() };
        assert_eq!(command(wish), "edge-bootstrap reset --forget --break-cluster --yes");
    }
}
