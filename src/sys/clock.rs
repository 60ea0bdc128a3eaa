//! The one clock.
//!
//! Owns wall time and boot-relative time. Async code waits with tokio's timers,
//! which tests pause; a fixed clock serves tests and `plan` for another host.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_times_do_not_panic() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
