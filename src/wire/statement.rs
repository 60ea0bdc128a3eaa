//! What is known of a site without trust in who tells it: the signed statement,
//! and the question that hosts of one room ask each other.
//!
//! Owns both shapes. A statement holds no secret and may be shown to anybody; an
//! assignment holds join tokens and may not. No I/O, no clock.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::envelope::{Envelope, EnvelopeError, SigningKey};
use super::json;

/// UDP port on which a host answers a [`Question`], on its node IP.
pub const PORT: u16 = 6446;
/// Size of a question in bytes, padding included: more than any answer has, so
/// that a forged sender address gains nothing.
pub const QUESTION_SIZE: usize = 1024;
/// The one schema of both.
const SCHEMA: u32 = 1;

/// What the central service says about a site, to anybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// 1; another value is refused.
    pub schema: u32,
    /// The machine room.
    pub site: String,
    /// Its cluster's name.
    pub cluster: String,
    /// Number of the datastore's life.
    pub epoch: u64,
    /// RFC 3339 UTC.
    pub issued_at: String,
}

/// Why a statement does not count.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StatementError {
    /// Not signed by a key that this host trusts.
    #[error("statement of the site")]
    Envelope(#[from] EnvelopeError),
    /// Signed, and no statement of a known schema.
    #[error("statement of the site is not of schema {SCHEMA}")]
    Shape,
    /// About another site.
    #[error("statement is about site {theirs}, this host is in {ours}")]
    Foreign {
        /// The site that it is about.
        theirs: String,
        /// The site of this host.
        ours: String,
    },
}

impl Statement {
    /// A statement of today's schema.
    #[must_use]
    pub fn new(site: &str, cluster: &str, epoch: u64, issued_at: String) -> Self {
        Self { schema: SCHEMA, site: site.to_owned(), cluster: cluster.to_owned(), epoch, issued_at }
    }

    /// Opens `envelope` with the trusted `keys`; only a statement about `site` counts.
    ///
    /// # Errors
    /// [`StatementError`].
    pub fn open(envelope: &Envelope, keys: &[SigningKey], site: &str) -> Result<Self, StatementError> {
        let bytes = envelope.open(keys)?;
        // `cluster` is a text here and a table in an assignment, which therefore is none.
        let statement: Self = json::read(&bytes).map_err(|_| StatementError::Shape)?;
        if statement.schema != SCHEMA {
            return Err(StatementError::Shape);
        }
        if statement.site != site {
            return Err(StatementError::Foreign { theirs: statement.site, ours: site.to_owned() });
        }
        Ok(statement)
    }
}

/// An assignment as it is given out: its envelope, and beside it the site's
/// statement. A service that signs none leaves it out; older hosts ignore it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// The assignment.
    #[serde(flatten)]
    pub envelope: Envelope,
    /// The statement of the site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement: Option<Envelope>,
}

/// One host asks another of its room for the statement of their site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// 1; another value is not answered.
    pub schema: u32,
    /// The site; another one is not answered.
    pub site: String,
    /// Fills the question up.
    #[serde(default)]
    pub pad: String,
}

impl Question {
    /// The bytes to send: [`QUESTION_SIZE`] of them.
    #[must_use]
    pub fn bytes(site: &str) -> Vec<u8> {
        let question = |pad| Self { schema: SCHEMA, site: site.to_owned(), pad };
        let bare = serde_json::to_vec(&question(String::new())).unwrap_or_default().len();
        serde_json::to_vec(&question(" ".repeat(QUESTION_SIZE.saturating_sub(bare)))).unwrap_or_default()
    }

    /// Whether `bytes` ask for `site`, and an answer of `size` bytes is no
    /// larger than they are.
    #[must_use]
    pub fn is_asked(bytes: &[u8], site: &str, size: usize) -> bool {
        let fits = bytes.len() <= QUESTION_SIZE && size <= bytes.len();
        let question = || json::read::<Self>(bytes).ok();
        fits && question().is_some_and(|question| question.schema == SCHEMA && question.site == site)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::wire::envelope::tests::signed;

    fn of(site: &str, epoch: u64) -> (Envelope, SigningKey) {
        let statement = Statement::new(site, site, epoch, "2026-11-21T10:00:00Z".to_owned());
        signed(&serde_json::to_vec(&statement).unwrap())
    }

    #[test]
    fn a_signed_statement_about_the_own_site_counts_and_no_other() {
        let (envelope, key) = of("hz-017", 2);
        assert_eq!(Statement::open(&envelope, std::slice::from_ref(&key), "hz-017").unwrap().epoch, 2);
        assert!(matches!(Statement::open(&envelope, &[key], "hz-018"), Err(StatementError::Foreign { .. })));
        let (_, stranger) = of("hz-017", 2);
        assert!(matches!(
            Statement::open(&envelope, &[stranger], "hz-017"),
            Err(StatementError::Envelope(_))
        ));
    }

    #[test]
    fn neither_an_assignment_nor_another_schema_is_a_statement() {
        let assignment = br#"{"schema":1,"site":"hz-017","cluster":{"name":"hz-017","epoch":9},"epoch":9,"issued_at":"x"}"#;
        let later = br#"{"schema":2,"site":"hz-017","cluster":"hz-017","epoch":9,"issued_at":"x"}"#;
        for bytes in [&assignment[..], later] {
            let (envelope, key) = signed(bytes);
            assert_eq!(Statement::open(&envelope, &[key], "hz-017"), Err(StatementError::Shape));
        }
    }

    #[test]
    fn a_statement_is_no_assignment() {
        let (envelope, key) = of("hz-017", 2);
        assert!(crate::role::parse_payload(&envelope.open(&[key]).unwrap()).is_err());
    }

    #[test]
    fn an_older_answer_has_no_statement_and_an_older_reader_sees_an_envelope() {
        let (envelope, _) = of("hz-017", 2);
        let older = serde_json::to_string(&envelope).unwrap();
        assert_eq!(serde_json::from_str::<Granted>(&older).unwrap().statement, None);
        let granted = Granted { envelope: envelope.clone(), statement: Some(envelope.clone()) };
        let newer = serde_json::to_string(&granted).unwrap();
        assert_eq!(serde_json::from_str::<Envelope>(&newer).unwrap(), envelope);
        assert_eq!(serde_json::from_str::<Granted>(&newer).unwrap(), granted);
    }

    #[test]
    fn only_a_question_of_full_size_for_the_own_site_is_answered() {
        let longest = "a".repeat(63);
        let (answer, _) = of(&longest, u64::MAX);
        let size = serde_json::to_vec(&answer).unwrap().len();
        assert_eq!(Question::bytes(&longest).len(), QUESTION_SIZE);
        assert!(Question::is_asked(&Question::bytes(&longest), &longest, size), "{size} bytes");
        assert!(!Question::is_asked(&Question::bytes("hz-018"), &longest, size));
        assert!(!Question::is_asked(br#"{"schema":1,"site":"hz-017"}"#, "hz-017", size), "it would amplify");
        assert!(!Question::is_asked(br#"{"schema":2,"site":"hz-017"}"#, "hz-017", 1));
        assert!(!Question::is_asked(b"\xff\xff", "hz-017", 1));
    }
}
