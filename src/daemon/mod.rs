//! `run`: the daemon.
//!
//! Owns when a pass runs: before READY with what is on disk, after READY at
//! every event, and never twice at once. Owns the promise to systemd: READY
//! within its budget whatever happens, the watchdog fed by the event loop, a
//! clean stop. What a pass does is `boot`'s.

mod copy;
mod images;
mod managed;
mod mirrors;
mod people;
mod room;
mod signals;
mod starts;
mod talk;
mod tidy;

use std::time::Duration;

use thiserror::Error;
use tokio::task::LocalSet;
use tokio::time::{Instant, Interval, sleep_until, timeout};
use tracing::{info, warn};

use crate::boot::summary::{self, Beside};
use crate::boot::{self, Agent, Order, Pass, SetupError, StopKind, Until, host};
use crate::enrol::Waiting;
use crate::error::Chain;
use crate::plan::{CheckedPlan, Refusal, units};
use crate::report::status::{self, Finding, PendingClaim, Status};
use crate::report::{self, Evidence, FindingStatus, Phase};
use crate::role::Role;
use crate::sys::clock_watch::ClockWatch;
use crate::sys::file_watch::FileWatch;
use crate::sys::hostnamed::NameWatch;
use crate::sys::links::LinkWatch;
use crate::sys::systemd::{Event, Watch};
use crate::sys::{Clock, Root, lock, notify};
use crate::{hold, observe, paths, pause, snapshots, sys};
use images::Images;
use mirrors::Mirrors;
use people::People;
use room::{Answer, Room};
use signals::{Signals, attended, feed, feeding};
use starts::Starts;
use talk::{Talk, Word};

/// Everything before READY together.
const PRE_START: Duration = Duration::from_secs(20);
/// How long a hold lasts whose only reason is a late pre-start.
const LATE_HOLD: Duration = Duration::from_secs(60);
/// How long another pass may keep the lock before READY is sent without ours.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// Between passes of a steady host: this finds addresses that were changed by
/// hand, which nothing announces, and what no watch could tell.
const QUIET: Duration = Duration::from_secs(30);
/// Between looks while k3s comes up, or another server of the room restarts.
const SOON: Duration = Duration::from_secs(3);
/// How long a pass may download: names, addresses and units wait for its end.
const SLICE: Duration = Duration::from_secs(20);
/// Between tries of a pass that failed or waits.
const RETRY: Duration = Duration::from_secs(15);
/// From an event to its pass, so that a burst is one pass.
const SETTLE: Duration = Duration::from_millis(300);

/// Why the daemon could not begin.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// The state or run directory cannot be made.
    #[error(transparent)]
    File(#[from] sys::FileError),
    /// Signals cannot be received.
    #[error("listen for signals")]
    Signals(#[source] std::io::Error),
}

/// Runs until systemd says stop.
///
/// # Errors
/// When not even the run directory can be made.
pub async fn run(root: Root, config: Option<String>) -> Result<(), DaemonError> {
    root.make_dir(paths::RUN_DIR, 0o755)?;
    let starts = Starts::begin(&root);
    let mut daemon = Daemon::new(root, config, starts)?;
    if starts.only_observe() {
        warn!(EDGE_STEP = "start", "failed to start twice in this boot, only observing");
    } else {
        daemon.pre_start().await;
    }
    notify::ready();
    if !starts.only_observe() {
        starts.ready(&daemon.root);
    }
    info!(EDGE_STEP = "start", "ready");
    // The conversation runs on this thread too: there is no other.
    daemon.mark_boot(daemon.status.phase == Phase::Quarantined);
    LocalSet::new().run_until(daemon.serve()).await;
    if daemon.boot_is_marked {
        boot::images::end_of_boot(&daemon.root, &sys::systemd::Systemd::new(&daemon.root)).await;
    }
    daemon.stop();
    Ok(())
}

struct Daemon {
    root: Root,
    config: Option<String>,
    agent: Option<Agent>,
    talk: Option<Talk>,
    room: Option<Room>,
    mirrors: Option<Mirrors>,
    images: Option<Images>,
    boot_is_marked: bool,
    status: Status,
    beside: Beside,
    starts: Starts,
    people: People,
    said: Option<(Refusal, Phase)>,
    broken_config: Option<Finding>,
    late_hold_ends: Option<Instant>,
    is_serving: bool,
    next_pass: Instant,
    signals: Signals,
    links: LinkWatch,
    clock_watch: ClockWatch,
    files: FileWatch,
    watchdog: Option<Interval>,
}

/// What woke the daemon.
enum Wake {
    Stop,
    Reload,
    Pass,
    Soon,
    Word(Word),
    Images,
    Fed,
}

impl Daemon {
    fn new(root: Root, config: Option<String>, starts: Starts) -> Result<Self, DaemonError> {
        let agent = status::Agent {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: sys::host::pid(),
            starts_in_boot: starts.begun,
        };
        let host = root.read_kernel("/proc/sys/kernel/hostname").unwrap_or_default();
        let status = Status::starting(host, agent, Clock::System.rfc3339());
        let signals = Signals::new().map_err(DaemonError::Signals)?;
        let beside = Beside { safe_mode: starts.only_observe(), ..Beside::default() };
        let files = FileWatch::new(&root);
        let mut daemon = Self {
            links: LinkWatch::new(&root),
            root,
            config,
            status,
            beside,
            starts,
            people: People::default(),
            signals,
            agent: None,
            talk: None,
            room: None,
            mirrors: None,
            images: None,
            boot_is_marked: false,
            said: None,
            broken_config: None,
            late_hold_ends: None,
            is_serving: false,
            next_pass: Instant::now(),
            clock_watch: ClockWatch::new(),
            files,
            watchdog: notify::watchdog_interval().map(feeding),
        };
        daemon.configure();
        Ok(daemon)
    }

    /// Reads the configuration. A broken one leaves the settings in force; at
    /// the start there are none, and the daemon only observes.
    fn configure(&mut self) {
        match Agent::new(self.root.clone(), self.config.as_deref()) {
            Ok(mut agent) => {
                if let Some(before) = self.agent.take() {
                    agent.confirmed = before.confirmed;
                    agent.time = before.time;
                    agent.containerd = before.containerd;
                    agent.rests = before.rests;
                }
                agent.rests.slice = Some(SLICE);
                self.agent = Some(agent);
                self.talk = None;
                self.images = None;
                self.broken_config = None;
            }
            Err(error) => self.complain(&error),
        }
    }

    fn complain(&mut self, error: &SetupError) {
        warn!(EDGE_STEP = "config", EDGE_REASON = %Chain(error), "configuration cannot be used, ignoring");
        let finding = Finding {
            id: "config".to_owned(),
            code: "EB-config".to_owned(),
            status: FindingStatus::Fail,
            text: format!("{}; correct it, then `systemctl reload edge-bootstrap`", Chain(error)),
        };
        self.broken_config = Some(finding.clone());
        if self.agent.is_none() {
            self.status.findings = vec![finding];
            self.status.enter(Phase::Failed, Clock::System.rfc3339());
            self.publish();
        }
    }

    /// Everything that must be so before k3s starts, from what is on disk.
    async fn pre_start(&mut self) {
        let order = Order { until: Until::Ready, patience: Duration::ZERO, observe_only: self.is_paused() };
        let systemd = self.agent.as_ref().map(|agent| agent.systemd.clone());
        if let Some(systemd) = &systemd {
            systemd.hurry().await;
        }
        let passed = timeout(PRE_START, self.locked_pass(order)).await;
        if let Some(systemd) = &systemd {
            systemd.take_time().await;
        }
        match passed {
            Ok(Some(pass)) => self.after(pass),
            Ok(None) => warn!(EDGE_STEP = "start", "another pass holds the lock, going on without"),
            Err(_) => {
                let late = Refusal::new(
                    "EB-pre-start-late",
                    "checks before the start are not done yet",
                    "it goes on by itself",
                );
                self.hold(&late);
                self.late_hold_ends = Some(Instant::now() + LATE_HOLD);
            }
        }
    }

    fn is_paused(&mut self) -> bool {
        self.beside.pause = pause::current(&self.root, Clock::System);
        self.beside.pause.is_some()
    }

    async fn locked_pass(&mut self, order: Order) -> Option<Pass> {
        let agent = self.agent.as_mut()?;
        let lock = lock::acquire(&agent.root, paths::LOCK, LOCK_PATIENCE).await.ok().flatten()?;
        tidy::sweep(&agent.root);
        let pass = boot::pass(agent, order).await;
        drop(lock);
        Some(pass)
    }

    /// Waits, and runs a pass at every event, until it is time to stop.
    async fn serve(&mut self) {
        let systemd = sys::systemd::Systemd::new(&self.root);
        let mut watch = systemd.watch(&[units::CONTAINERD, units::K3S, units::K3S_AGENT]);
        let mut names = NameWatch::new(&self.root);
        self.is_serving = true;
        self.next_pass = Instant::now();
        loop {
            match self.wake(&mut watch, &mut names).await {
                Wake::Stop => return,
                Wake::Reload => self.reload(),
                Wake::Soon => self.schedule(SETTLE),
                Wake::Word(word) => self.hear(word),
                Wake::Images => {
                    self.show_images();
                    self.publish();
                }
                Wake::Fed => {}
                Wake::Pass => {
                    if self.full_pass().await.is_none() {
                        return;
                    }
                }
            }
        }
    }

    async fn wake(&mut self, watch: &mut Watch, names: &mut NameWatch) -> Wake {
        let next_pass = self.next_pass;
        tokio::select! {
            biased;
            // Each arm is cancel-safe: signals, timers, channels and the
            // watches keep what they have not handed out.
            _ = self.signals.term.recv() => Wake::Stop,
            _ = self.signals.int.recv() => Wake::Stop,
            _ = self.signals.hup.recv() => Wake::Reload,
            () = feed(&mut self.watchdog) => Wake::Fed,
            () = sleep_until(next_pass) => Wake::Pass,
            word = hear(&mut self.talk) => Wake::Word(word),
            () = images::changed(&mut self.images) => Wake::Images,
            () = names.changed() => Wake::Soon,
            () = self.links.changed() => Wake::Soon,
            () = self.clock_watch.changed() => Wake::Soon,
            () = self.files.changed() => Wake::Soon,
            () = mirrors::changed(&self.mirrors) => Wake::Soon,
            event = watch.changed() => match event {
                Event::Unit(_) | Event::Hostname | Event::Missed => Wake::Soon,
            },
        }
    }

    fn schedule(&mut self, delay: Duration) {
        self.next_pass = self.next_pass.min(Instant::now() + delay);
    }

    fn reload(&mut self) {
        info!(EDGE_STEP = "config", "configuration is read again");
        self.configure();
        self.next_pass = Instant::now();
    }

    fn hear(&mut self, word: Word) {
        match word {
            Word::Contact(at) => self.beside.last_contact = Some(at),
            Word::Time(unix) => self.told_time(unix),
            Word::Confirmed(digest) | Word::New(digest) => self.confirmed(digest),
            Word::Waiting(waiting) => self.wait_for(&waiting),
            Word::Trouble(trouble) => self.note_trouble(trouble),
        }
    }

    /// A clock that is far from the service's is looked at soon.
    fn told_time(&mut self, unix: u64) {
        let Some(agent) = &mut self.agent else { return };
        if agent.time.told(unix, agent.clock) {
            self.schedule(SETTLE);
        }
    }

    fn confirmed(&mut self, digest: String) {
        self.said = None;
        self.pending_claim(None);
        let Some(agent) = &mut self.agent else { return };
        if agent.confirmed.as_ref() != Some(&digest) {
            agent.confirmed = Some(digest);
            self.next_pass = Instant::now();
        }
    }

    fn wait_for(&mut self, waiting: &Waiting) {
        let claim = match waiting {
            Waiting::Approval { code, of, .. } => Some(PendingClaim {
                schema: 1,
                code: code.clone(),
                reason: if of.is_some() { "replaces" } else { "approval" }.to_owned(),
                of: of.as_ref().map(ToString::to_string),
                since: Clock::System.rfc3339(),
            }),
            _ => None,
        };
        self.pending_claim(claim);
        let said = match waiting {
            Waiting::Approval { .. } => (
                Refusal::new(
                    waiting.code(),
                    "a person must approve this host",
                    "tell the central service's people the code that `edge-bootstrap status` shows to root",
                ),
                Phase::PendingApproval,
            ),
            _ => (
                Refusal::new(
                    waiting.code(),
                    "central has not decided yet what this host shall be",
                    "it goes on by itself",
                ),
                Phase::Enrolling,
            ),
        };
        self.central_said(said);
    }

    /// What the service said last, as long as there is no assignment.
    fn central_said(&mut self, said: (Refusal, Phase)) {
        self.said = Some(said);
        if self.status.generation == 0 && self.status.role.is_none() {
            self.say_what_central_said();
            self.publish();
        }
    }

    fn say_what_central_said(&mut self) {
        let Some((why, phase)) = &self.said else { return };
        self.status.waiting_on = Some(why.into());
        self.status.enter(phase.clone(), Clock::System.rfc3339());
    }

    fn pending_claim(&mut self, claim: Option<PendingClaim>) {
        let before = report::read_claim(&self.root).ok().flatten();
        // The time of the first wait stays, so that an unchanged claim is no change.
        let claim = claim.map(|claim| match &before {
            Some(before) if before.code == claim.code => {
                PendingClaim { since: before.since.clone(), ..claim }
            }
            _ => claim,
        });
        if let Some(claim) = claim.as_ref().filter(|claim| before.as_ref() != Some(*claim)) {
            sys::notify::console(&self.root, &report::console_line(&self.status, claim));
        }
        if let Err(error) = report::publish_claim(&self.root, claim.as_ref()) {
            warn!(EDGE_STEP = "report", EDGE_REASON = %Chain(&error), "claim code cannot be shown, ignoring");
        }
    }

    fn note_trouble(&mut self, trouble: Refusal) {
        if self.said.as_ref().map(|(said, _)| &said.code) != Some(&trouble.code) {
            info!(EDGE_STEP = "enrol", EDGE_CODE = %trouble.code, EDGE_REASON = %trouble.reason, "no word from central, going on without");
        }
        self.central_said((trouble, Phase::Enrolling));
    }

    /// One pass, with the watchdog fed and a stop heeded meanwhile; `None` when
    /// it is time to stop.
    async fn full_pass(&mut self) -> Option<()> {
        self.next_pass = Instant::now() + RETRY;
        let observe_only = self.is_paused() || self.beside.safe_mode;
        let order = Order { until: Until::Verified, patience: Duration::ZERO, observe_only };
        let Some(mut agent) = self.agent.take() else {
            // Without settings there is nothing to do until a person corrects them.
            self.people.follow(&self.root, Clock::System, &mut self.status);
            self.publish();
            self.next_pass = Instant::now() + QUIET;
            return Some(());
        };
        let work = async {
            let lock = lock::acquire(&agent.root, paths::LOCK, LOCK_PATIENCE).await.ok().flatten();
            match lock {
                Some(_lock) => Some(boot::pass(&mut agent, order).await),
                None => None,
            }
        };
        // A pass that is long itself must not keep k3s down for its time.
        let end = || end_hold(&self.root, &mut self.beside);
        let late = (self.late_hold_ends, end);
        let ended = attended(work, &mut self.signals, &mut self.watchdog, late).await;
        self.agent = Some(agent);
        if let Some(pass) = ended? {
            self.after(pass);
        }
        Some(())
    }

    /// Tells what a pass saw, and sets the time of the next one.
    fn after(&mut self, pass: Pass) {
        match &pass.stop {
            Some(stop) if stop.kind == StopKind::Held => self.hold(&stop.why),
            _ => self.release(),
        }
        self.next_pass = Instant::now() + pause_after(&pass);
        managed::follow(&mut self.files, pass.plan.as_ref().map(CheckedPlan::plan));
        let Some(agent) = &self.agent else { return };
        copy::tell(&self.root, &pass);
        let introduction = host::introduction(&agent.settings, &pass.facts);
        match &self.talk {
            // Of no cluster: it asks for nothing before a person says so.
            _ if pass.is_reset() => (self.talk, self.said) = (None, None),
            Some(talk) if talk.asks() != pass.is_quarantined() => talk.introduce(introduction),
            // Before READY nobody outside is asked anything.
            _ if self.is_serving => {
                let introduction = Some(introduction).filter(|_| !pass.is_quarantined());
                self.talk = Some(Talk::begin(&self.root, agent.clock, &agent.settings, introduction));
            }
            _ => {}
        }
        let before = self.status.phase.clone();
        summary::update(&mut self.status, agent, &pass, &self.beside);
        self.status.findings.extend(self.broken_config.clone());
        self.follow_images(&pass);
        self.people.follow(&self.root, Clock::System, &mut self.status);
        if pass.assignment.is_none() && !pass.is_quarantined() {
            self.say_what_central_said();
        }
        if self.status.phase != before {
            info!(EDGE_STEP = "report", EDGE_PHASE = %self.status.phase, EDGE_REASON = %self.status.line(), "phase changed");
        }
        self.publish();
        self.tell_the_room(&pass);
        mirrors::follow(&mut self.mirrors, &self.root, pass.assignment.as_ref().filter(|_| self.is_serving));
        self.report(&pass);
    }

    /// What the other hosts of the room are answered from now on. A pass that
    /// did not come to an assignment changes nothing about it.
    fn tell_the_room(&mut self, pass: &Pass) {
        if !self.is_serving || (pass.assignment.is_none() && !pass.is_quarantined()) {
            return;
        }
        let duty = pass.assignment.as_ref().and_then(|assignment| assignment.duty.as_ref());
        let answer = duty.zip(pass.told.clone()).map(|(duty, told)| Answer { ip: duty.node.ip, told });
        self.room.get_or_insert_with(Room::begin).tell(answer);
    }

    fn report(&mut self, pass: &Pass) {
        let identity = summary::identity(pass);
        let is_server = identity.is_some_and(|identity| identity.role == Role::Server);
        let snapshots = if is_server { snapshots::known(&self.root) } else { Vec::new() };
        let agents = observe::k3s::agent_token(&self.root).filter(|_| is_server);
        let evidence = Evidence { facts: &pass.facts, identity, snapshots: &snapshots };
        let mut report = report::report(&self.status, evidence, 0);
        report.cluster.retired.clone_from(&pass.retired);
        report.cluster.critical.extend(agents.map(|name| ("agent-token".to_owned(), name)));
        if let Some(talk) = &self.talk {
            talk.report(report);
        }
    }

    fn hold(&mut self, why: &Refusal) {
        self.late_hold_ends = None;
        if let Err(error) = hold::set(&self.root, why) {
            warn!(EDGE_STEP = "start", EDGE_REASON = %Chain(&error), "hold cannot be written, ignoring");
        }
        self.beside.hold = hold::current(&self.root);
    }

    fn release(&mut self) {
        self.late_hold_ends = None;
        end_hold(&self.root, &mut self.beside);
    }

    fn publish(&self) {
        if let Err(error) = report::publish(&self.root, &self.status) {
            warn!(EDGE_STEP = "report", EDGE_REASON = %Chain(&error), "status cannot be written, ignoring");
        }
    }

    fn stop(&mut self) {
        notify::stopping();
        // Whoever stops it in good order has read why it only observed.
        self.starts.ready(&self.root);
        info!(EDGE_STEP = "stop", EDGE_STARTS = self.starts.begun, "stopping");
        self.talk = None;
        self.images = None;
        self.room = None;
        self.mirrors = None;
        // With this process gone the hold means nothing; its file goes too.
        self.release();
    }
}

fn end_hold(root: &Root, beside: &mut Beside) {
    beside.hold = None;
    if let Err(error) = hold::clear(root) {
        warn!(EDGE_STEP = "start", EDGE_REASON = %Chain(&error), "hold cannot be removed, retrying in the next pass");
    }
}

/// When the next pass is due by itself.
fn pause_after(pass: &Pass) -> Duration {
    match &pass.stop {
        _ if pass.again => Duration::ZERO,
        Some(_) => RETRY,
        None if pass.retires || pass.on_trial || pass.turn.as_ref().is_some_and(|wait| wait.soon) => SOON,
        None if pass.is_steady() => QUIET,
        None if pass.verdict.is_none() => Duration::ZERO,
        None if pass.comes_up() => SOON,
        None => RETRY,
    }
}

async fn hear(talk: &mut Option<Talk>) -> Word {
    match talk {
        Some(talk) => talk.word().await,
        None => std::future::pending().await,
    }
}
