//! Images beside the passes.
//!
//! Owns the task that brings them round after round, how long it rests between
//! two, and how that is shown. Dropping it ends it at any moment: what it had
//! begun is taken up again, and a pause stops it the same way. What a round
//! does is `boot`'s.

use std::cell::RefCell;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::Daemon;
use crate::apply::Progress;
use crate::boot::images::{self, Hands, Standing, Work};
use crate::boot::summary::finding;
use crate::boot::{Downloader, Pass, Severity, Watcher};
use crate::config::Settings;
use crate::enrol::Source;
use crate::enrol::retry::Backoff;
use crate::report::status;
use crate::sys::systemd::Systemd;
use crate::sys::{Clock, Root, random};

/// Between two looks when everything is there.
const QUIET: Duration = Duration::from_secs(600);
/// Progress is told this often at most.
const OFTEN: Duration = Duration::from_secs(2);

/// What there is to tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Shown {
    standing: Standing,
    now: Option<String>,
}

/// The running task.
#[derive(Debug)]
pub(super) struct Images {
    work: watch::Sender<Option<Work>>,
    shown: watch::Receiver<Shown>,
    task: JoinHandle<()>,
}

impl Images {
    fn begin(root: &Root, systemd: &Systemd, clock: Clock, settings: &Settings) -> Self {
        let (work, given) = watch::channel(None);
        let (shown, told) = watch::channel(Shown::default());
        let source = Source::from(settings);
        let (root, systemd) = (root.clone(), systemd.clone());
        let task = tokio::task::spawn_local(async move {
            let teller = Teller { shown, told: RefCell::default() };
            let downloader = Downloader::new(&source, &teller);
            let hands =
                Hands { root: &root, systemd: &systemd, clock, downloader: &downloader, watcher: &teller };
            rounds(&hands, &teller, given).await;
        });
        Self { work, shown: told, task }
    }

    /// Gives the next word; never ends without one. Cancel-safe.
    async fn changed(&mut self) {
        if self.shown.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Waits until there is something to tell.
pub(super) async fn changed(images: &mut Option<Images>) {
    match images {
        Some(images) => images.changed().await,
        None => std::future::pending().await,
    }
}

/// Another work than before breaks a round off.
async fn rounds(hands: &Hands<'_>, teller: &Teller, mut given: watch::Receiver<Option<Work>>) {
    let mut backoff = Backoff::new(random::number());
    loop {
        let work = given.borrow_and_update().clone();
        let round = async {
            let Some(work) = &work else { return std::future::pending().await };
            let standing = images::round(hands, work).await;
            let is_good = standing.troubles.is_empty();
            teller.shown.send_replace(Shown { standing, now: None });
            if is_good {
                backoff.succeeded();
                QUIET
            } else {
                backoff.next(None)
            }
        };
        let rest = async {
            let pause = round.await;
            sleep(pause).await;
        };
        tokio::select! {
            // What it was at is taken up by the next round.
            () = rest => {}
            // Cancel-safe: a watch.
            changed = given.changed() => if changed.is_err() { return },
        }
    }
}

/// Puts progress into words.
#[derive(Debug)]
struct Teller {
    shown: watch::Sender<Shown>,
    told: RefCell<Option<Told>>,
}

/// A download that was told of.
#[derive(Debug, Clone)]
struct Told {
    title: String,
    begun: Instant,
    from: u64,
    last: Instant,
}

impl Watcher for Teller {
    fn progress(&self, title: &str, progress: Progress) {
        let now = Instant::now();
        let mut told = self.told.borrow_mut();
        match told.as_mut().filter(|told| told.title == title && told.from <= progress.done) {
            Some(told) if now - told.last < OFTEN => return,
            Some(told) => told.last = now,
            None => {
                *told = Some(Told { title: title.to_owned(), begun: now, from: progress.done, last: now });
            }
        }
        let rate = told.as_ref().map_or(0, |told| rate(progress.done - told.from, now - told.begun));
        self.doing(&words(title, progress, rate));
    }

    fn doing(&self, what: &str) {
        self.shown.send_modify(|shown| shown.now = Some(what.to_owned()));
    }
}

/// Bytes in a second.
fn rate(bytes: u64, taken: Duration) -> u64 {
    let milliseconds = u64::try_from(taken.as_millis()).unwrap_or(u64::MAX);
    bytes.saturating_mul(1000).checked_div(milliseconds).unwrap_or(0)
}

/// `airgap.tar 61 % (12.3 MB/s)`.
fn words(title: &str, progress: Progress, rate: u64) -> String {
    let tenths = |bytes: u64| format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000);
    let done = match progress.total {
        Some(total) if total > 0 => format!("{} %", progress.done.saturating_mul(100) / total),
        _ => tenths(progress.done),
    };
    format!("{title} {done} ({}/s)", tenths(rate))
}

impl Daemon {
    /// Notes that this boot began. A copy writes nothing on its original's disk,
    /// until a person says that it is the machine.
    pub(super) fn mark_boot(&mut self, is_copy: bool) {
        if !is_copy && !self.boot_is_marked {
            images::begin_of_boot(&self.root);
            self.boot_is_marked = true;
        }
    }

    /// Gives the task what a pass left to do, and takes over what it tells. A
    /// pause stops it, and so does a disk that is a copy.
    pub(super) fn follow_images(&mut self, pass: &Pass) {
        if self.is_serving {
            self.mark_boot(pass.is_quarantined());
        }
        let (true, Some(agent)) = (self.is_serving, &self.agent) else { return };
        let may = self.beside.pause.is_none() && !self.beside.safe_mode && !pass.is_quarantined();
        let work = Work::of(pass).filter(|_| may);
        let begin = || Images::begin(&agent.root, &agent.systemd, agent.clock, &agent.settings);
        let images = self.images.get_or_insert_with(begin);
        images.work.send_if_modified(|now| {
            let is_other = *now != work;
            *now = work;
            is_other
        });
        self.show_images();
    }

    /// Takes over what the task tells; the caller publishes it.
    pub(super) fn show_images(&mut self) {
        let Some(images) = &mut self.images else { return };
        let Shown { standing, now } = images.shown.borrow_and_update().clone();
        self.status.findings.retain(|finding| !finding.id.starts_with("image-"));
        let troubles = standing.troubles.iter().map(|(why, severity)| finding(why, *severity));
        self.status.findings.extend(troubles);
        self.status.findings.extend(standing.found.iter().map(|what| finding(what, Severity::Warn)));
        let wanted = images.work.borrow().as_ref().map_or(0, |work| work.archives.len());
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        self.status.images = (wanted > 0).then(|| status::Images {
            wanted: count(wanted),
            imported: count(standing.imported.min(wanted)),
            now,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_in_words() {
        let half = Progress { done: 61_000_000, total: Some(100_000_000) };
        assert_eq!(words("airgap.tar", half, 12_340_000), "airgap.tar 61 % (12.3 MB/s)");
        assert_eq!(words("a", Progress { done: 1_500_000, total: None }, 0), "a 1.5 MB (0.0 MB/s)");
        assert_eq!(rate(5_000_000, Duration::from_millis(500)), 10_000_000);
        assert_eq!(rate(5, Duration::ZERO), 0);
    }
}
