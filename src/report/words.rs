//! The closed lists of words in status and reports.
//!
//! Owns spelling and meaning (`docs/codes.md` lists them for people). A word of
//! another version is kept as it came, so that a newer daemon's status can be
//! read by an older command, and the other way round.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $word:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        pub enum $name {
            $($(#[$word_doc])* $word,)+
            /// A word of another version.
            Other(String),
        }

        impl $name {
            /// Every word that this version uses.
            pub const ALL: &'static [Self] = &[$(Self::$word),+];

            /// The word.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$word => $text,)+
                    Self::Other(word) => word,
                }
            }
        }

        impl From<String> for $name {
            fn from(word: String) -> Self {
                match word.as_str() {
                    $($text => Self::$word,)+
                    _ => Self::Other(word),
                }
            }
        }

        impl From<$name> for String {
            fn from(word: $name) -> Self {
                word.as_str().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// Where the boot line stands.
    Phase {
        /// The daemon has begun and knows nothing yet.
        Starting = "starting",
        /// Neither a central service nor an assignment file is configured.
        NotConfigured = "not-configured",
        /// Claiming, or asking for an assignment, and none is cached.
        Enrolling = "enrolling",
        /// A person must approve the claim.
        PendingApproval = "pending-approval",
        /// Something outside must happen before there can be a plan.
        Waiting = "waiting",
        /// Files are being made true.
        Applying = "applying",
        /// Units are being made true.
        Activating = "activating",
        /// Units run; whether the node is up is being looked at.
        Verifying = "verifying",
        /// The host is what it shall be, and was seen to be.
        Steady = "steady",
        /// It runs, and something that was found needs attention.
        Degraded = "degraded",
        /// k3s must not start, for a reason that the daemon wrote down.
        Held = "held",
        /// The identity was pinned on another machine: this is a copy until a person says otherwise.
        Quarantined = "quarantined",
        /// A person stopped all changes.
        Paused = "paused",
        /// The last pass failed; it is tried again.
        Failed = "failed",
        /// The daemon has said nothing in this boot; what is shown was read from disk.
        Silent = "silent",
    }
}

words! {
    /// How a host is, in one word.
    Verdict {
        /// Seen to be as it shall be.
        Healthy = "healthy",
        /// It runs, with something to attend to.
        Degraded = "degraded",
        /// It does not do its work.
        Failed = "failed",
        /// Not looked at yet.
        Unknown = "unknown",
    }
}

words! {
    /// The result of one check.
    FindingStatus {
        /// As it should be.
        Ok = "ok",
        /// Worth knowing.
        Info = "info",
        /// Will need attention.
        Warn = "warn",
        /// Wrong.
        Fail = "fail",
        /// Could not be looked at.
        Unknown = "unknown",
        /// Does not apply to this host.
        Skipped = "skipped",
    }
}

words! {
    /// How a pass ended.
    Outcome {
        /// The host is what it shall be.
        Converged = "converged",
        /// Something outside must happen first.
        Waiting = "waiting",
        /// A step failed; what it had begun was left in one piece.
        Failed = "failed",
        /// The new generation did not come up; the one before is in force again.
        RolledBack = "rolled-back",
        /// Nothing was to be changed: paused, or a start that only observes.
        Observed = "observed",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn every_word_reads_back_and_others_pass_through() {
        for phase in Phase::ALL {
            let text = serde_json::to_string(phase).unwrap();
            assert_eq!(&serde_json::from_str::<Phase>(&text).unwrap(), phase);
            assert!(!matches!(serde_json::from_str(&text).unwrap(), Phase::Other(_)), "{text}");
        }
        let later: Phase = serde_json::from_str("\"hibernating\"").unwrap();
        assert_eq!(serde_json::to_string(&later).unwrap(), "\"hibernating\"");
    }
}
