//! Tells when somebody sets the clock.
//!
//! Owns one timer of the kernel that is cancelled whenever the wall clock is
//! set. Slewing by a time service is no setting and wakes nobody.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::hostnamed::register;

/// Seconds since 1970 at which the timer would end by itself: the year 2255,
/// near the end of what the kernel can count.
const NEVER: i64 = 9_000_000_000;

/// A running watch.
#[derive(Debug)]
pub struct ClockWatch {
    timer: Option<AsyncFd<File>>,
}

impl ClockWatch {
    /// Watches the machine's clock; where the kernel has no such timer it never
    /// tells anything.
    #[must_use]
    pub fn new() -> Self {
        Self { timer: armed().and_then(|timer| register(timer, Interest::READABLE)) }
    }

    /// The clock was set. May be dropped at any time.
    pub async fn changed(&mut self) {
        let Some(timer) = &mut self.timer else { return std::future::pending().await };
        while let Ok(mut ready) = timer.ready_mut(Interest::READABLE).await {
            // `ECANCELED` is the news, anything else is none.
            match ready.try_io(|timer| timer.get_mut().read(&mut [0; 8]).map(|_| ())) {
                Ok(Err(error)) if error.raw_os_error() == Some(nix::libc::ECANCELED) => return,
                Ok(_) => break,
                Err(_) => {}
            }
        }
        self.timer = None;
        std::future::pending().await
    }
}

impl Default for ClockWatch {
    fn default() -> Self {
        Self::new()
    }
}

fn armed() -> Option<File> {
    let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
    let timer = TimerFd::new(ClockId::CLOCK_REALTIME, flags).ok()?;
    let cancelled = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
    timer.set(Expiration::OneShot(TimeSpec::new(NEVER, 0)), cancelled).ok()?;
    Some(File::from(OwnedFd::from(timer)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_clock_that_nobody_sets_wakes_nobody() {
        let mut watch = ClockWatch::new();
        assert!(watch.timer.is_some(), "this kernel has the timer");
        tokio::time::timeout(Duration::from_millis(200), watch.changed()).await.unwrap_err();
        assert!(watch.timer.is_some(), "it goes on watching");
    }
}
