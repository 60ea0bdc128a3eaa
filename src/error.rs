//! What kind of failure something is, and how a chain of causes is printed.
//!
//! Owns the closed list of categories and their meaning for retries and exit
//! codes. Never logs, never exits: `cli` prints a chain once, `daemon` decides
//! when to try again.

use std::error::Error;
use std::fmt;
use std::io;

/// Why a step could not do its work. Decides retry and exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The host is not as it must be: a disk is full, a file is unreadable.
    Environment,
    /// Somebody wrote something wrong: configuration, assignment, command line.
    Input,
    /// The other side said no. Asking again at once changes nothing.
    Refused,
    /// May go away by itself: network, a peer that starts later.
    Transient,
    /// A fault of this program.
    Bug,
}

impl ErrorKind {
    /// Whether trying the same again later can help without a person.
    #[must_use]
    pub fn can_retry(self) -> bool {
        matches!(self, Self::Environment | Self::Transient)
    }

    /// Exit code of a foreground command that failed with this kind (DESIGN 5).
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Transient => 75,
            Self::Input => 78,
            Self::Environment | Self::Refused | Self::Bug => 1,
        }
    }
}

/// The error of the system that is of one of `kinds`, wherever it stands in the chain.
#[must_use]
pub fn io_cause<'a>(error: &'a (dyn Error + 'static), kinds: &[io::ErrorKind]) -> Option<&'a io::Error> {
    let mut cause = Some(error);
    while let Some(now) = cause {
        if let Some(found) = now.downcast_ref().filter(|error: &&io::Error| kinds.contains(&error.kind())) {
            return Some(found);
        }
        cause = now.source();
    }
    None
}

/// Prints an error and all its causes in one line, outermost first.
///
/// `Display` of every error in this program says only its own layer's fact, so
/// the chain repeats nothing.
#[derive(Debug, Clone, Copy)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(out, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
