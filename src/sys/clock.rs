//! The one clock.
//!
//! Owns wall time and boot-relative time. Async code waits with tokio's timers,
//! which tests pause; a fixed clock serves tests and `plan` for another host.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

/// Tells the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Clock {
    /// The machine's own.
    #[default]
    System,
    /// Stands still at this many seconds since 1970.
    Fixed(u64),
}

impl Clock {
    /// Seconds since 1970.
    #[must_use]
    pub fn unix(self) -> u64 {
        match self {
            Self::Fixed(seconds) => seconds,
            Self::System => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        }
    }

    /// Now as RFC 3339 in UTC, to the second.
    #[must_use]
    pub fn rfc3339(self) -> String {
        rfc3339(self.unix())
    }
}

/// Seconds since 1970 as RFC 3339 in UTC.
#[must_use]
pub fn rfc3339(unix: u64) -> String {
    // Beyond the year 9999 there is no RFC 3339 form.
    let time = UNIX_EPOCH + Duration::from_secs(unix.min(253_402_300_799));
    humantime::format_rfc3339_seconds(time).to_string()
}

/// How far before its begin a term still counts: clocks are corrected backwards.
const CORRECTION_S: u64 = 24 * 3600;

/// Whether a term from `since` to `until` runs at `now`, all in seconds since
/// 1970. A clock far before the begin is wrong; the term then does not count, so
/// that one which ran out does not come back with a dead clock battery.
#[must_use]
pub fn runs(now: u64, since: u64, until: u64) -> bool {
    now < until && now.saturating_add(CORRECTION_S) >= since
}

/// Time since boot, suspend included: what a wall-clock step cannot change.
#[must_use]
pub fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// Monotonic time as systemd stamps it.
#[must_use]
pub fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// Sets the machine's wall clock. The hardware clock is not written.
///
/// # Errors
/// `EPERM` without `CAP_SYS_TIME`, `EINVAL` for a time that the kernel cannot keep.
pub fn set(unix: u64) -> Result<(), Errno> {
    let seconds = i64::try_from(unix).map_err(|_| Errno::EINVAL)?;
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::new(seconds, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_runs_between_its_ends_and_not_at_a_dead_clock() {
        let now = 1_800_000_000;
        assert!(runs(now, now, now + 1) && runs(now - 60, now, now + 1) && runs(now, 0, now + 1));
        assert!(!runs(now + 1, now, now + 1) && !runs(0, now, now + 1) && !runs(now, now, now));
    }

    #[test]
    fn far_times_do_not_panic() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
