//! What interrupts the daemon, and the watchdog that it feeds.
//!
//! Owns waiting for both beside a piece of work. Decides nothing.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::sys::notify;

/// Signals of systemd and of people.
pub(super) struct Signals {
    pub(super) term: Signal,
    pub(super) int: Signal,
    pub(super) hup: Signal,
}

impl Signals {
    /// Receives them from now on.
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }
}

/// Runs `work` to its end, feeding the watchdog; `None` when a stop came first.
/// A pass that is dropped is dropped between its writes: they do not await.
pub(super) async fn attended<T>(
    work: impl Future<Output = T>,
    signals: &mut Signals,
    watchdog: &mut Option<Interval>,
) -> Option<T> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            // Cancel-safe: a signal.
            _ = signals.term.recv() => return None,
            // Cancel-safe: a signal.
            _ = signals.int.recv() => return None,
            // Cancel-safe: a timer.
            () = feed(watchdog) => {}
            // Pinned outside the loop, so nothing of it is lost.
            done = &mut work => return Some(done),
        }
    }
}

pub(super) fn feeding(every: Duration) -> Interval {
    let mut interval = interval(every);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

pub(super) async fn feed(watchdog: &mut Option<Interval>) {
    match watchdog {
        Some(interval) => {
            interval.tick().await;
            notify::watchdog();
        }
        None => std::future::pending().await,
    }
}
