//! An API that comes and goes.
//!
//! Owns which failures of a call pass by themselves, as while k3s starts or etcd
//! has no majority, and how long that is believed before a person is told. All who
//! ask the cluster judge by it; what they do meanwhile is theirs.

use std::time::Duration;

use super::KubeError;
use crate::sys::local::LocalError;

/// How long an API may be silent, or busy with itself, before that is worth a word:
/// its storage begins anew after each start of k3s, and a majority may have to come
/// up first.
pub const A_WHILE: Duration = Duration::from_secs(60);

impl KubeError {
    /// Whether it passes by itself: nobody answers, or who answers cannot serve now.
    /// 429 is also what an API server says whose storage is not initialised yet
    /// (kubernetes: apiserver/pkg/storage/cacher).
    #[must_use]
    pub fn passes(&self) -> bool {
        match self {
            Self::NoCredentials { .. } | Self::Conflict { .. } => true,
            Self::Unreachable(error) => matches!(error, LocalError::Request { .. }),
            Self::Refused { status, .. } => *status == 429 || *status >= 500,
            Self::File(_) | Self::Answer { .. } => false,
        }
    }
}

/// Since when calls have failed.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silence {
    since: Option<Duration>,
}

impl Silence {
    /// Since `begun`, a time since boot.
    #[must_use]
    pub fn since(begun: Duration) -> Self {
        Self { since: Some(begun) }
    }

    /// A call was answered, or none was made.
    pub fn ends(&mut self) {
        self.since = None;
    }

    /// How long it has lasted; from now on, where it had not begun.
    pub fn lasts(&mut self, now: Duration) -> Duration {
        now.saturating_sub(*self.since.get_or_insert(now))
    }

    /// Whether a person should know of `error`.
    pub fn is_told(&mut self, error: &KubeError, now: Duration) -> bool {
        let lasted = self.lasts(now);
        !error.passes() || lasted >= A_WHILE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16) -> KubeError {
        KubeError::Refused { path: "/p".to_owned(), status, message: String::new() }
    }

    #[test]
    fn an_api_that_starts_is_told_only_when_that_lasts_and_a_refusal_at_once() {
        let at = Duration::from_secs;
        let mut silence = Silence::default();
        for status in [429, 500, 503] {
            assert!(refused(status).passes(), "{status}");
            assert!(!silence.is_told(&refused(status), at(100)), "{status}");
        }
        assert!(!silence.is_told(&refused(429), at(159)) && silence.is_told(&refused(503), at(160)));
        silence.ends();
        assert!(!silence.is_told(&refused(503), at(161)), "it answered meanwhile");
        for status in [400, 401, 403, 422] {
            assert!(silence.is_told(&refused(status), at(161)), "{status}");
        }
        assert!(KubeError::NoCredentials { path: "/c".to_owned() }.passes());
    }
}
