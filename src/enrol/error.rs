//! Why there is no assignment from who should give one.
//!
//! Owns the closed list of codes of this step. No text here can hold a token,
//! a key or a proxy password.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

use crate::error::ErrorKind;
use crate::role::AssignmentErrors;
use crate::sys::FileError;
use crate::sys::http::HttpError;
use crate::sys::statefile::StateError;
use crate::wire::envelope::EnvelopeError;

/// Longest text of the service that is repeated to people, in characters.
const MAX_WORDS: usize = 200;

/// Between questions while the service decides what a claimed host shall be.
const UNDECIDED_WAIT: Duration = Duration::from_secs(10);

/// What the service itself said, cut and without control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words(String);

impl Words {
    /// Takes over foreign text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.chars().filter(|char| !char.is_control()).take(MAX_WORDS).collect())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Words {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// What a host without an assignment waits for; not a fault.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Waiting {
    /// Neither a service nor a local file is configured.
    #[error(
        "nobody says what this host shall be; set central.endpoints or central.assignment-file in /etc/edge-bootstrap/config.toml"
    )]
    NotConfigured,
    /// A person must approve this host.
    #[error("central waits for a person to approve this host: code {code}{}", replaces(.of))]
    Approval {
        /// Shown on the console, told to the approver: letters and digits.
        code: String,
        /// The node that this host would replace.
        of: Option<Words>,
        /// When to ask again.
        retry_after: Duration,
    },
    /// The host has its place; what it shall do is not decided.
    #[error("central knows this host and has not decided yet what it shall be")]
    Undecided,
    /// Nothing is stored, and the service was not asked in this call.
    #[error("no assignment is stored and central was not asked yet")]
    NotAsked,
}

fn replaces(of: &Option<Words>) -> String {
    of.as_ref().map(|of| format!(", to replace {of}")).unwrap_or_default()
}

/// Why there is no assignment from who should give one.
#[derive(Debug, Error)]
pub enum EnrolError {
    /// Not a fault: the host waits.
    #[error(transparent)]
    Waiting(Waiting),
    /// A setting that enrolment needs is missing.
    #[error("{0}")]
    Setting(&'static str),
    /// A person takes this host out of its cluster, or has done so.
    #[error(
        "this host was reset, or is being reset, and asks for nothing; `edge-bootstrap apply` or `edge-bootstrap enrol` makes it claim its place again"
    )]
    Reset,
    /// The node's key or certificate cannot be used.
    #[error("{path} {problem}")]
    Key {
        /// The file.
        path: &'static str,
        /// What is wrong, and the next step.
        problem: String,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A state file could not be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// Others than its owner can use a file with secrets.
    #[error(
        "others can read or change {path} (mode {mode:04o}, owner {owner}); run: chown root {path} && chmod 600 {path}"
    )]
    Exposed {
        /// The file.
        path: String,
        /// Its permission bits.
        mode: u32,
        /// Its owner's number.
        owner: u32,
    },
    /// A file that the settings name cannot be used.
    #[error("{path} {problem}")]
    Unusable {
        /// The file.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// The client could not be prepared.
    #[error("prepare the connection to central")]
    Client(#[source] HttpError),
    /// No whole answer came.
    #[error("no answer from central at {endpoint}")]
    Unreachable {
        /// Where.
        endpoint: String,
        /// Why.
        #[source]
        source: HttpError,
    },
    /// Somebody else answered.
    #[error(
        "who answers at {endpoint} is not central; compare central.pins or central.ca-file with the service, or a proxy opens the connection"
    )]
    Untrusted {
        /// Where.
        endpoint: String,
        /// Why.
        #[source]
        source: HttpError,
    },
    /// A web page or a redirect instead of an answer.
    #[error(
        "a web page answers at {endpoint} (status {status}): a captive portal or proxy stands between this host and central"
    )]
    CaptivePortal {
        /// Where.
        endpoint: String,
        /// HTTP status.
        status: u16,
    },
    /// 5xx or 429.
    #[error("central at {endpoint} cannot answer now (status {status})")]
    Unavailable {
        /// Where.
        endpoint: String,
        /// HTTP status.
        status: u16,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// An answer that the contract does not know.
    #[error("central at {endpoint} gave an answer that this version does not understand: {problem}")]
    Answer {
        /// Where.
        endpoint: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The claim was refused: 401, 403 or 409.
    #[error("central refuses this host ({reason}): {message}")]
    ClaimRefused {
        /// `token_invalid`, `site_unknown`, `denied`, `address_taken`, `moved_disk` or a newer word.
        reason: Words,
        /// For people.
        message: Words,
    },
    /// A claimed host is refused: 401 or 403.
    #[error("central refuses to talk to this host ({reason}): {message}")]
    NodeRefused {
        /// The service's word.
        reason: Words,
        /// For people.
        message: Words,
    },
    /// 404 although the host has just claimed.
    #[error("central does not know this host, also after a new claim")]
    Unknown,
    /// 410.
    #[error("central revoked this host; what runs goes on, ask who runs central why")]
    Revoked,
    /// The signature of an assignment is not good.
    #[error("assignment is not trusted")]
    Signature(#[source] EnvelopeError),
    /// The assignment cannot be used.
    #[error("assignment is not for use")]
    Invalid(#[source] AssignmentErrors),
    /// The assignment belongs to another host or site.
    #[error("assignment is for {field} {theirs}, and this host has {ours}")]
    Foreign {
        /// `node_id` or `site`.
        field: &'static str,
        /// What it says.
        theirs: String,
        /// What would be right.
        ours: String,
    },
    /// A generation below the one in force.
    #[error(
        "central gave generation {theirs}, below generation {ours} that is in force; a backup was restored there, and it goes on above {ours} by itself"
    )]
    GenerationLower {
        /// In force here.
        ours: u64,
        /// Given.
        theirs: u64,
    },
    /// The generation in force with other content.
    #[error(
        "central gave other content for generation {0} that is in force; it must give a change a higher number"
    )]
    GenerationConflict(u64),
}

impl EnrolError {
    /// Decides retry and exit code.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Waiting(Waiting::NotConfigured)
            | Self::Setting(_)
            | Self::Reset
            | Self::Exposed { .. }
            | Self::Unusable { .. }
            | Self::Client(_) => ErrorKind::Input,
            Self::Key { .. } | Self::File(_) | Self::State(_) => ErrorKind::Environment,
            Self::Waiting(_)
            | Self::Unreachable { .. }
            | Self::CaptivePortal { .. }
            | Self::Unavailable { .. }
            | Self::Answer { .. }
            | Self::GenerationLower { .. } => ErrorKind::Transient,
            Self::Untrusted { .. }
            | Self::ClaimRefused { .. }
            | Self::NodeRefused { .. }
            | Self::Unknown
            | Self::Revoked
            | Self::Signature(_)
            | Self::Invalid(_)
            | Self::Foreign { .. }
            | Self::GenerationConflict(_) => ErrorKind::Refused,
        }
    }

    /// The stable code; the list is in the module's documentation.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Waiting(waiting) => waiting.code(),
            Self::Setting(_) => "EB-not-configured",
            Self::Reset => "EB-reset",
            Self::Key { .. } => "EB-node-key",
            Self::File(_) | Self::State(_) => "EB-state-file",
            Self::Exposed { .. } => "EB-secret-exposed",
            Self::Unusable { .. } | Self::Client(_) => "EB-central-settings",
            Self::Unreachable { .. } => "EB-central-unreachable",
            Self::Untrusted { .. } => "EB-central-untrusted",
            Self::CaptivePortal { .. } => "EB-captive-portal",
            Self::Unavailable { .. } => "EB-central-unavailable",
            Self::Answer { .. } => "EB-central-answer",
            Self::ClaimRefused { reason, .. } => refusal_code(reason.as_str()),
            Self::NodeRefused { .. } => "EB-node-refused",
            Self::Unknown => "EB-node-unknown",
            Self::Revoked => "EB-node-revoked",
            Self::Signature(_) => "EB-assignment-signature",
            Self::Invalid(_) => "EB-assignment-invalid",
            Self::Foreign { .. } => "EB-assignment-foreign",
            Self::GenerationLower { .. } => "EB-generation-lower",
            Self::GenerationConflict(_) => "EB-generation-conflict",
        }
    }

    /// When the service wants to be asked again, if it said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Waiting(Waiting::Approval { retry_after, .. }) => Some(*retry_after),
            Self::Waiting(Waiting::Undecided) => Some(UNDECIDED_WAIT),
            Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

impl Waiting {
    /// The stable code; the list is in the module's documentation.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotConfigured => "EB-not-configured",
            Self::Approval { .. } => "EB-claim-pending",
            Self::Undecided | Self::NotAsked => "EB-assignment-pending",
        }
    }
}

fn refusal_code(reason: &str) -> &'static str {
    match reason {
        "token_invalid" => "EB-token-invalid",
        "site_unknown" => "EB-site-unknown",
        "address_taken" => "EB-address-taken",
        "moved_disk" => "EB-moved-disk",
        _ => "EB-claim-denied",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_words_are_cut_and_cannot_move_the_cursor() {
        let words = Words::new(&format!("\x1b[2Jno\r\n{}", "x".repeat(1000)));
        assert_eq!(words.as_str().chars().count(), MAX_WORDS);
        assert!(words.as_str().starts_with("[2Jnoxxx"));
    }
}
