//! `apply`: one pass in the foreground, until the host is what it shall be.
//!
//! Owns progress on a terminal and the exit code: 0 converged, 1 failed, 75
//! waiting.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Common, output, person};
use crate::boot::images::{self, Hands, Work};
use crate::boot::summary::{self, Beside};
use crate::boot::{self, Agent, Downloader, Order, Pass, StopKind, Until};
use crate::enrol::Source;
use crate::report::status::{self, Status};
use crate::report::{self};
use crate::sys::lock::Lock;
use crate::sys::{Root, host, lock};
use crate::{activate, hatches, hold, ledger, paths, pause, reset, upgrade};

/// How long the central service may be asked in one pass.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the daemon's own pass may hold the lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(120);
/// How long k3s may take to come up. A first server with slow disks needs minutes.
const BUDGET: Duration = Duration::from_secs(600);
/// Between two looks.
const PAUSE: Duration = Duration::from_secs(2);
/// `EX_TEMPFAIL` of sysexits.
pub(super) const WAITING: u8 = 75;

pub async fn run(common: &Common) -> anyhow::Result<u8> {
    let mut agent = common.agent()?;
    agent.watcher = Box::new(output::Terminal);
    agent.root.make_dir(paths::RUN_DIR, 0o755)?;
    agent.root.make_dir(paths::STATE_DIR, 0o700)?;
    if let Some(pause) = pause::current(&agent.root, agent.clock) {
        anyhow::bail!("paused by {}: {}; `edge-bootstrap resume` ends it", pause.by, pause.reason);
    }
    let code = match lock(&agent.root).await? {
        Some(lock) => with_lock(common, agent, lock).await?,
        None => WAITING,
    };
    person::answer(common)?;
    Ok(code)
}

/// Waits for the end of another pass; `None`, and said so, when there is none.
pub(super) async fn lock(root: &Root) -> anyhow::Result<Option<Lock>> {
    root.make_dir(paths::RUN_DIR, 0o755)?;
    let lock = lock::acquire(root, paths::LOCK, LOCK_PATIENCE).await?;
    if lock.is_none() {
        output::note("another pass is running and did not end within 120 s; nothing was changed, try again");
    }
    Ok(lock)
}

/// Passes until the host is what it shall be, under a lock that is held already.
/// With `--json` the answer is the caller's.
pub(super) async fn with_lock(common: &Common, mut agent: Agent, lock: Lock) -> anyhow::Result<u8> {
    start_afresh(&agent)?;
    let pass = converge(&mut agent).await;
    publish(&agent, &pass);
    // Archives take their time, and the daemon has passes to make meanwhile.
    drop(lock);
    let images = bring_images(&agent, &pass).await;
    Ok(conclude(common, &pass).max(images))
}

/// Brings the assigned images here and now, as the daemon would do it beside
/// its passes; 75 when some are still missing.
async fn bring_images(agent: &Agent, pass: &Pass) -> u8 {
    let work = Work::of(pass).filter(|_| pass.stop.is_none() && agent.root.is_host());
    let Some(work) = work else { return 0 };
    let source = Source::from(&agent.settings);
    let watcher = agent.watcher.as_ref();
    let downloader = Downloader::new(&source, watcher);
    let (root, systemd) = (&agent.root, &agent.systemd);
    let hands = Hands { root, systemd, clock: agent.clock, downloader: &downloader, watcher };
    let standing = images::round(&hands, &work).await;
    for refusal in standing.troubles.iter().map(|(why, _)| why).chain(&standing.found) {
        output::note(&refusal.to_string());
    }
    if standing.wanted > 0 {
        output::note(&format!("images: {} of {} archives are imported", standing.imported, standing.wanted));
    }
    if standing.troubles.is_empty() { 0 } else { WAITING }
}

/// A person asks: what was left alone and what failed is tried again.
fn start_afresh(agent: &Agent) -> anyhow::Result<()> {
    activate::forget(&agent.root)?;
    reset::end(&agent.root)?;
    let now = ledger::load(&agent.root)?.value();
    ledger::record(&agent.root, now.as_ref(), ledger::Event::Forgiven)?;
    boot::containerd::forget(&agent.root);
    upgrade::forgive(&agent.root)?;
    Ok(())
}

async fn converge(agent: &mut Agent) -> Pass {
    let until = if agent.root.is_host() { Until::Verified } else { Until::Written };
    let deadline = Instant::now() + BUDGET;
    let mut last = String::new();
    loop {
        let pass = boot::pass(agent, Order { until, patience: PATIENCE, observe_only: false }).await;
        tell(&pass, &mut last);
        let goes_on = pass.stop.is_none() && !pass.is_steady() && until == Until::Verified;
        if !goes_on || Instant::now() >= deadline {
            return pass;
        }
        sleep(PAUSE).await;
    }
}

/// One line per news, on a terminal or in a log alike.
fn tell(pass: &Pass, last: &mut String) {
    for path in pass.applied.iter().flat_map(|applied| &applied.changed) {
        output::note(&format!("wrote {path}"));
    }
    for job in pass.activated.iter().flat_map(|activated| &activated.jobs) {
        output::note(&format!("{} {}: {}", job.verb, job.unit, job.reason));
    }
    let cause = pass.verdict.as_ref().and_then(|verdict| verdict.cause.clone()).unwrap_or_default();
    if !cause.is_empty() && cause != *last {
        output::note(&format!("waiting: {cause}"));
    }
    *last = cause;
}

fn conclude(common: &Common, pass: &Pass) -> u8 {
    for (finding, _) in &pass.findings {
        output::note(&finding.to_string());
    }
    if let Some(stop) = &pass.stop {
        let failed = stop.kind == StopKind::Failed;
        output::error(&stop.why.to_string());
        return if failed { 1 } else { WAITING };
    }
    for trouble in pass.activated.iter().flat_map(|activated| &activated.troubles) {
        output::error(&format!("{}: {}", trouble.object, trouble.what));
    }
    let written = pass.verdict.is_none() && pass.activated.is_none();
    if written || pass.is_steady() {
        if !common.json {
            output::text(if written { "files are written" } else { "steady" });
        }
        return 0;
    }
    let cause = pass.verdict.as_ref().and_then(|verdict| verdict.cause.clone());
    output::error(&cause.unwrap_or_else(|| "the node is not healthy".to_owned()));
    let waits = pass.verdict.as_ref().is_some_and(|verdict| verdict.waiting);
    if waits { WAITING } else { 1 }
}

/// Leaves the status behind where no daemon does. What cannot be written is
/// told on the screen already.
fn publish(agent: &Agent, pass: &Pass) {
    let before = report::read_status(&agent.root).ok().flatten();
    let daemon =
        before.as_ref().is_some_and(|status| host::process_start(&agent.root, status.agent.pid).is_some());
    if daemon || !agent.root.is_host() {
        return;
    }
    let me =
        status::Agent { version: env!("CARGO_PKG_VERSION").to_owned(), pid: host::pid(), starts_in_boot: 0 };
    let mut status = before.unwrap_or_else(|| Status::starting("", me, agent.clock.rfc3339()));
    let beside = Beside { hold: hold::current(&agent.root), ..Beside::default() };
    summary::update(&mut status, agent, pass, &beside);
    hatches::look(&agent.root, agent.clock).fill(&mut status);
    let _ = report::publish(&agent.root, &status);
}
