//! The one clock of this service.
//!
//! Owns reading the time and printing it. Decisions never look at the clock:
//! they take `now` as a parameter.
#![allow(clippy::disallowed_methods, reason = "the one place that reads the clock")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since 1970, UTC.
pub type Seconds = i64;

/// The current time.
#[must_use]
pub fn now() -> Seconds {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// RFC 3339 UTC, to the second.
#[must_use]
pub fn rfc3339(at: Seconds) -> String {
    let since = Duration::from_secs(u64::try_from(at).unwrap_or(0));
    UNIX_EPOCH
        .checked_add(since)
        .map_or_else(String::new, |time| humantime::format_rfc3339_seconds(time).to_string())
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_print_as_utc_to_the_second() {
        assert_eq!(super::rfc3339(1_795_255_200), "2026-11-21T10:00:00Z");
    }
}
