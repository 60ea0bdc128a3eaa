//! How long to wait before the next try.
//!
//! Owns the delays: full jitter from 1 s up to 5 min, seeded per host, so that a
//! region that comes back at once does not come as one herd; what the service
//! asks for is honoured within bounds. Pure, but for [`within`], which waits.

use std::time::Duration;

use super::EnrolError;

/// Shortest delay.
pub const SHORTEST: Duration = Duration::from_secs(1);
/// Longest delay of our own, and the most of `Retry-After` that is honoured.
pub const LONGEST: Duration = Duration::from_secs(5 * 60);

/// Delays of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    state: u64,
    failures: u32,
}

impl Backoff {
    /// Begins with the shortest delay; equal seeds give equal delays.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed, failures: 0 }
    }

    /// After a success the next failure begins with the shortest delay again.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// The delay after one more failure. `asked` is what the service asked for;
    /// up to a quarter is added to it, because it asked all hosts at once.
    #[must_use]
    pub fn next(&mut self, asked: Option<Duration>) -> Duration {
        self.failures = self.failures.saturating_add(1);
        if let Some(asked) = asked {
            let asked = asked.clamp(SHORTEST, LONGEST);
            return asked + self.part_of(asked / 4);
        }
        let ceiling = SHORTEST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        SHORTEST + self.part_of(ceiling - SHORTEST)
    }

    /// Between nothing and all of `span`, evenly.
    fn part_of(&mut self, span: Duration) -> Duration {
        let milliseconds = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.random() % milliseconds.saturating_add(1))
    }

    /// SplitMix64: even enough for jitter, and the same on every machine.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Tries until it works, trying again makes no sense, or `patience` is over.
/// One attempt is always made; the wait before the next must fit.
///
/// # Errors
/// The error of the last attempt.
pub async fn within<T>(
    patience: Duration,
    backoff: &mut Backoff,
    mut attempt: impl AsyncFnMut() -> Result<T, EnrolError>,
) -> Result<T, EnrolError> {
    let end = tokio::time::Instant::now() + patience;
    loop {
        let error = match attempt().await {
            Ok(value) => {
                backoff.succeeded();
                return Ok(value);
            }
            Err(error) => error,
        };
        let next = tokio::time::Instant::now() + backoff.next(error.retry_after());
        if !error.kind().can_retry() || next > end {
            return Err(error);
        }
        tokio::time::sleep_until(next).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn busy() -> EnrolError {
        EnrolError::Unavailable { endpoint: "e".to_owned(), status: 503, retry_after: None }
    }

    #[test]
    fn delays_stay_within_their_bounds_and_differ_between_hosts() {
        let delays = |seed| -> Vec<Duration> {
            let mut backoff = Backoff::new(seed);
            (0..40).map(|_| backoff.next(None)).collect()
        };
        assert!(delays(1).iter().all(|delay| (SHORTEST..=LONGEST).contains(delay)));
        assert_eq!(delays(1), delays(1));
        assert_ne!(delays(1), delays(2));
    }

    #[test]
    fn a_herd_spreads_over_the_whole_span() {
        let tenth: Vec<Duration> = (0..1000)
            .map(|seed| {
                let mut backoff = Backoff::new(seed);
                (0..9).for_each(|_| _ = backoff.next(None));
                backoff.next(None)
            })
            .collect();
        for part in 0..10 {
            let from = LONGEST / 10 * part;
            let share = tenth.iter().filter(|delay| **delay >= from && **delay < from + LONGEST / 10).count();
            assert!((50..200).contains(&share), "{share} of 1000 hosts in part {part}");
        }
    }

    #[test]
    fn what_the_service_asks_for_is_honoured_within_bounds() {
        let mut backoff = Backoff::new(3);
        for (asked, least) in [(0, 1), (30, 30), (300, 300), (86_400, 300)] {
            let delay = backoff.next(Some(Duration::from_secs(asked)));
            let least = Duration::from_secs(least);
            assert!(delay >= least && delay <= least + least / 4, "{asked}: {delay:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_the_tries() {
        let start = tokio::time::Instant::now();
        let mut tries = 0;
        let mut backoff = Backoff::new(5);
        let error = within(Duration::from_secs(60), &mut backoff, async || {
            tries += 1;
            Err::<(), _>(busy())
        });
        assert_eq!(error.await.unwrap_err().code(), "EB-central-unavailable");
        assert!(start.elapsed() <= Duration::from_secs(60));
        assert!((2..60).contains(&tries), "{tries}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_not_tried_again() {
        let mut tries = 0;
        let mut backoff = Backoff::new(5);
        let result = within(LONGEST, &mut backoff, async || {
            tries += 1;
            Err::<(), _>(EnrolError::Revoked)
        });
        assert!(result.await.is_err());
        assert_eq!(tries, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_success_counts() {
        let mut tries = 0;
        let mut backoff = Backoff::new(5);
        let result = within(LONGEST, &mut backoff, async || {
            tries += 1;
            if tries < 4 { Err(busy()) } else { Ok(tries) }
        });
        assert_eq!(result.await.unwrap(), 4);
    }
}
