//! Why there is no plan yet, or why something must not start.
//!
//! Owns the words for people: code, reason, next step. Codes are a closed list
//! (`docs/codes.md`).

use serde::{Deserialize, Serialize};

/// Next step where a directory lies in the place of a file of ours.
pub const MOVE_AWAY: &str = "move away what lies there; then it goes on by itself";

/// A rule that says no, on positive evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {reason}; {next}")]
pub struct Refusal {
    /// `EB-…`.
    pub code: String,
    /// What was seen.
    pub reason: String,
    /// What to do.
    pub next: String,
}

impl Refusal {
    /// Words for one refusal.
    pub fn new(code: &str, reason: impl Into<String>, next: impl Into<String>) -> Self {
        Self { code: code.to_owned(), reason: reason.into(), next: next.into() }
    }
}

/// What a pass waits for before there can be a plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WaitingOn {
    /// The first server has not formed the cluster yet.
    #[error(
        "EB-wait-first-server: the cluster's CA is not known yet; the first server of the site must form it"
    )]
    FirstServer,
    /// The init lease must be confirmed in this boot.
    #[error(
        "EB-wait-init-lease: this host may form the cluster only after the central service confirmed it in this boot"
    )]
    InitLease,
    /// A server that could be joined.
    #[error("EB-wait-server: the assignment names no server to join")]
    Server,
    /// containerd is not installed, or of a version that is not known.
    #[error("EB-wait-containerd: {0}")]
    Containerd(String),
    /// There is no k3s binary and no place to get one.
    #[error("EB-wait-k3s: {0}")]
    K3s(String),
    /// The assignment cannot be followed.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl WaitingOn {
    /// The code alone.
    #[must_use]
    pub fn code(&self) -> String {
        match self {
            Self::Refused(refusal) => refusal.code.clone(),
            other => other.to_string().split(':').next().unwrap_or_default().to_owned(),
        }
    }

    /// Code, reason and next step.
    #[must_use]
    pub fn words(&self) -> Refusal {
        let next = match self {
            Self::Refused(refusal) => return refusal.clone(),
            Self::FirstServer => "nothing here; look at the first server of the site",
            Self::InitLease => "nothing here; it goes on when the central service answers",
            Self::Server => "nothing here; it goes on when a server of the site is up",
            Self::Containerd(_) | Self::K3s(_) => "then it goes on by itself",
        };
        let text = self.to_string();
        let reason = text.split_once(": ").map_or(text.as_str(), |(_, reason)| reason);
        Refusal::new(&self.code(), reason, next)
    }

    /// Whether k3s must not start while this lasts: starting could form a
    /// second cluster. Everything else leaves the generation in force alone.
    #[must_use]
    pub fn holds_k3s(&self) -> bool {
        match self {
            Self::InitLease => true,
            Self::Refused(refusal) => {
                refusal.code == "EB-copied-disk" || refusal.code.starts_with("EB-datastore-")
            }
            _ => false,
        }
    }
}
