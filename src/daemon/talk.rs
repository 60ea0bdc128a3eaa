//! The conversation with the central service, beside the passes.
//!
//! Owns two tasks: one claims and long-polls, one sends reports. Neither can
//! hold up a pass; what they learn comes back as a [`Word`]. Dropping the
//! conversation ends both.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::boot::host;
use crate::config::Settings;
use crate::enrol::{EnrolError, Enrolment, Introduction, Outcome, Source, Waiting};
use crate::error::Chain;
use crate::plan::Refusal;
use crate::report::Outbox;
use crate::sys::{Clock, Root};
use crate::wire::report::{QUARANTINED, Report};

/// How long one question may stay open.
const LONG_POLL: Duration = Duration::from_secs(50);
/// Seconds between reports when the service names none.
const REPORT_S: u64 = 60;

/// What the conversation learnt.
#[derive(Debug, Clone)]
pub enum Word {
    /// The service confirmed the assignment with this digest.
    Confirmed(String),
    /// A new assignment is on disk, with this digest.
    New(String),
    /// The host waits for somebody.
    Waiting(Waiting),
    /// No word from the service.
    Trouble(Refusal),
    /// The service answered, at this time (seconds since 1970).
    Contact(u64),
    /// The service's own clock, seconds since 1970, told over TLS.
    Time(u64),
}

/// The running conversation.
#[derive(Debug)]
pub struct Talk {
    words: mpsc::Receiver<Word>,
    introductions: watch::Sender<Introduction>,
    reports: watch::Sender<Option<Report>>,
    tasks: Vec<JoinHandle<()>>,
    asks: bool,
}

impl Talk {
    /// Begins to talk, when the settings name a service. Without an
    /// introduction it only reports: a copied disk asks for nothing in the name
    /// of its original.
    #[must_use]
    pub fn begin(root: &Root, clock: Clock, settings: &Settings, introduction: Option<Introduction>) -> Self {
        let asks = introduction.is_some();
        let (sender, words) = mpsc::channel(16);
        let (introductions, introduced) = watch::channel(introduction.unwrap_or_default());
        let (reports, reported) = watch::channel(None);
        let mut tasks = Vec::new();
        if matches!(Source::from(settings), Source::Central(_)) {
            let asking = Asking {
                enrolment: host::enrolment(root, settings),
                clock,
                introduced,
                words: sender.clone(),
            };
            if asks {
                tasks.push(tokio::task::spawn_local(asking.run()));
            }
            let enrolment = host::enrolment(root, settings);
            let reporting =
                Reporting { enrolment, outbox: Outbox::new(root, clock), clock, reported, words: sender };
            tasks.push(tokio::task::spawn_local(reporting.run()));
        }
        Self { words, introductions, reports, tasks, asks }
    }

    /// Whether it asks for an assignment, beside reporting.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.asks
    }

    /// The next word. Never ends; cancel-safe.
    pub async fn word(&mut self) -> Word {
        match self.words.recv().await {
            Some(word) => word,
            None => std::future::pending().await,
        }
    }

    /// Newer facts about the host.
    pub fn introduce(&self, introduction: Introduction) {
        self.introductions.send_if_modified(|now| {
            let changed = now.site != introduction.site || now.node != introduction.node;
            *now = introduction;
            changed
        });
    }

    /// The newest report; sent when it differs, and from time to time.
    pub fn report(&self, report: Report) {
        self.reports.send_replace(Some(report));
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Claims and long-polls.
struct Asking {
    enrolment: Enrolment,
    clock: Clock,
    introduced: watch::Receiver<Introduction>,
    words: mpsc::Sender<Word>,
}

impl Asking {
    async fn run(mut self) {
        // The first question must not wait: it confirms what is on disk.
        let mut wait = Duration::ZERO;
        loop {
            let introduction = self.introduced.borrow_and_update().clone();
            self.enrolment.introduce(introduction);
            let pause = match self.enrolment.poll(wait).await {
                Ok(Some(enrolled)) => {
                    if let Some(time) = enrolled.time {
                        self.tell(Word::Time(time)).await;
                    }
                    self.said(Word::New(enrolled.assignment.digest)).await
                }
                Ok(None) => self.confirmed().await,
                Err(error) => self.trouble(&error).await,
            };
            wait = if pause.is_zero() { LONG_POLL } else { Duration::ZERO };
            tokio::select! {
                // Cancel-safe: a timer.
                () = sleep(pause) => {}
                // Cancel-safe: a watch. New facts may be what the claim lacked.
                _ = self.introduced.changed() => {}
            }
            if pause.is_zero() {
                continue;
            }
        }
    }

    async fn said(&self, word: Word) -> Duration {
        self.tell(word).await;
        self.tell(Word::Contact(self.clock.unix())).await;
        Duration::ZERO
    }

    async fn confirmed(&mut self) -> Duration {
        let digest = match self.enrolment.assignment(Duration::ZERO).await {
            Ok(Outcome::Enrolled(enrolled)) => enrolled.assignment.digest,
            _ => return Duration::ZERO,
        };
        self.said(Word::Confirmed(digest)).await
    }

    async fn trouble(&mut self, error: &EnrolError) -> Duration {
        let pause = self.enrolment.delay(error);
        match error {
            EnrolError::Waiting(waiting) => {
                self.tell(Word::Contact(self.clock.unix())).await;
                self.tell(Word::Waiting(waiting.clone())).await;
            }
            error => {
                let next = format!("asked again in {} s", pause.as_secs().max(1));
                let trouble = Refusal::new(error.code(), Chain(error).to_string(), next);
                self.tell(Word::Trouble(trouble)).await;
            }
        }
        pause
    }

    async fn tell(&self, word: Word) {
        // The daemon has gone: this task is ended with it.
        let _ = self.words.send(word).await;
    }
}

/// Sends reports, oldest first.
struct Reporting {
    enrolment: Enrolment,
    outbox: Outbox,
    clock: Clock,
    reported: watch::Receiver<Option<Report>>,
    words: mpsc::Sender<Word>,
}

impl Reporting {
    async fn run(mut self) {
        let mut last: Option<Report> = None;
        let mut due = Instant::now();
        loop {
            tokio::select! {
                // Cancel-safe: a watch.
                changed = self.reported.changed() => if changed.is_err() { return },
                // Cancel-safe: a timer.
                () = sleep_until(due) => {}
            }
            let Some(report) = self.reported.borrow_and_update().clone() else {
                due = Instant::now() + Duration::from_secs(REPORT_S);
                continue;
            };
            let news = last.as_ref().is_none_or(|last| differs(last, &report));
            if news || Instant::now() >= due {
                let next = self.deliver(report.clone(), news).await;
                due = Instant::now() + Duration::from_secs(next);
                last = Some(report);
            }
        }
    }

    /// Sends what waits and then `report`; keeps it when that fails and it says
    /// something new.
    async fn deliver(&mut self, mut report: Report, news: bool) -> u64 {
        if report.phase == QUARANTINED {
            // What waits on a copied disk, and its numbers, are the original's.
            report.sequence = self.clock.unix();
            return self.send(&report).await.unwrap_or(REPORT_S);
        }
        let drained = self.drain().await;
        report.sequence = self.outbox.number();
        if drained && let Some(next) = self.send(&report).await {
            return next;
        }
        if news && let Err(error) = self.outbox.push(&report) {
            tracing::warn!(EDGE_STEP = "report", EDGE_REASON = %Chain(&error), "report is lost, ignoring");
        }
        REPORT_S
    }

    async fn drain(&mut self) -> bool {
        let Ok(pending) = self.outbox.pending() else { return true };
        for damaged in &pending.damaged {
            tracing::warn!(EDGE_STEP = "report", EDGE_REASON = ?damaged, "waiting report is damaged, ignoring");
        }
        for report in pending.reports {
            if self.send(&report).await.is_none() {
                return false;
            }
            // Sent twice is harmless: the service knows the sequence.
            let _ = self.outbox.sent(report.sequence);
        }
        true
    }

    /// Seconds until the next report; `None` when this one must wait. One that
    /// the service refuses for good is given up, or it would block all others.
    async fn send(&mut self, report: &Report) -> Option<u64> {
        let client = self.enrolment.client().ok()?;
        let (next, time) = match client.report(report).await {
            Ok(answer) => (answer.next_report_s.clamp(1, 3600), client.told(&answer.time)),
            Err(error) if error.kind().can_retry() => return None,
            Err(error) => {
                tracing::warn!(EDGE_STEP = "report", EDGE_REASON = %Chain(&error), "report is refused, ignoring");
                return Some(REPORT_S);
            }
        };
        // The daemon may have gone; then nobody needs to know.
        if let Some(time) = time {
            let _ = self.words.send(Word::Time(time)).await;
        }
        let _ = self.words.send(Word::Contact(self.clock.unix())).await;
        Some(next)
    }
}

/// Whether two reports differ in more than clock and number.
fn differs(old: &Report, new: &Report) -> bool {
    let plain = |report: &Report| Report {
        sequence: 0,
        clock: crate::wire::report::ReportedClock::default(),
        ..report.clone()
    };
    plain(old) != plain(new)
}
