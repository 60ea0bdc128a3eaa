//! What interrupts the daemon, and the watchdog that it feeds.
//!
//! Owns waiting for both beside a piece of work. Decides nothing.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

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

/// Runs `work` to its end, feeding the watchdog, and does what is due meanwhile at
/// its time; `None` when a stop came first. A pass that is dropped is dropped between
/// its writes: they do not await.
pub(super) async fn attended<T>(
    work: impl Future<Output = T>,
    signals: &mut Signals,
    watchdog: &mut Option<Interval>,
    (mut due, mut act): (Option<Instant>, impl FnMut()),
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
            // Cancel-safe: a timer.
            () = at(due) => {
                due = None;
                act();
            }
            // Pinned outside the loop, so nothing of it is lost.
            done = &mut work => return Some(done),
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use std::cell::Cell;

    use tokio::sync::Notify;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn what_is_due_is_done_once_while_a_long_piece_of_work_goes_on() {
        let mut signals = Signals::new().unwrap();
        let (done, acted) = (Notify::new(), Cell::new(0));
        let act = || {
            acted.set(acted.get() + 1);
            done.notify_one();
        };
        // It does not end before that was done.
        let work = async {
            done.notified().await;
            tokio::task::yield_now().await;
            "ended"
        };
        let (due, mut no_watchdog) = (Some(Instant::now()), None);
        let work = attended(work, &mut signals, &mut no_watchdog, (due, act));
        assert_eq!(timeout(Duration::from_secs(20), work).await.unwrap(), Some("ended"));
        assert_eq!(acted.get(), 1);
        let never = || acted.set(acted.get() + 1);
        assert_eq!(attended(async { 7 }, &mut signals, &mut None, (None, never)).await, Some(7));
        assert_eq!(acted.get(), 1);
    }
}
