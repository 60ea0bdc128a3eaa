//! The record of a change of the server token that was begun on this host.
//!
//! Owns its file, which is written before k3s is asked and goes when k3s has
//! said that it is done. While it is there, `server/token` may be ahead of the
//! record in the datastore (k3s: pkg/server/handlers/token.go writes it first).
//! Holds fingerprints, never a token.

use serde::{Deserialize, Serialize};

use crate::paths;
use crate::sys::statefile::{self, Loaded, StateError};
use crate::sys::{FileError, Root};

/// A change that was begun, and of which nobody knows how far it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// Fingerprint of the token that k3s held before.
    pub former: String,
}

/// What was begun; a record that is damaged in both copies counts as none.
#[must_use]
pub fn load(root: &Root) -> Option<Begun> {
    statefile::load(root, paths::ROTATION).ok().and_then(Loaded::value)
}

/// Notes that a change begins.
///
/// # Errors
/// When it cannot be written: then nothing may be asked.
pub fn begin(root: &Root, former: String) -> Result<(), StateError> {
    statefile::store(root, paths::ROTATION, &Begun { former }).map(|_| ())
}

/// Notes that it is done.
///
/// # Errors
/// When a copy of the record cannot be removed: the change is then made once more.
pub fn end(root: &Root) -> Result<(), FileError> {
    root.remove_file(&format!("{}.prev", paths::ROTATION))?;
    root.remove_file(paths::ROTATION).map(|_| ())
}
