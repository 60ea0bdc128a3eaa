//! Which registry mirrors answered, as the daemon's own looks saw it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What is known of every mirror of the assignment, by its URL.
pub type Mirrors = BTreeMap<String, Seen>;

/// How a mirror answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// With HTTP, whatever the status.
    Answers,
    /// It fails at once (refused, reset, no HTTP): containerd goes on to the
    /// next host by itself within half a second.
    Fails,
    /// It keeps whoever asks waiting: containerd waits 30 s for each request
    /// (1.x), or for ever.
    Stalls,
}

/// How a mirror answers, and since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// How it answers.
    pub state: State,
    /// RFC 3339 UTC: when that was seen first.
    pub since: String,
    /// In plain words, empty while it answers.
    pub why: String,
}

impl Seen {
    /// Whether pulls are better off without it.
    #[must_use]
    pub fn is_withdrawn(&self) -> bool {
        self.state == State::Stalls
    }
}
