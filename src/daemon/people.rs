//! What people's hands overrode, as the daemon follows it.
//!
//! Owns what was in force at the last look, so that the end of a pause or an
//! allowance is told once, and keeps the text at login. Ends none of them.

use tracing::{info, warn};

use crate::error::Chain;
use crate::hatches::{self, Hatches};
use crate::report::status::Status;
use crate::sys::{Clock, Root};

/// What was in force at the last look.
#[derive(Debug, Default)]
pub(super) struct People {
    before: Option<Hatches>,
}

impl People {
    /// Looks again: status, text at login and journal say what is in force.
    pub(super) fn follow(&mut self, root: &Root, clock: Clock, status: &mut Status) {
        let now = hatches::look(root, clock);
        match &self.before {
            // Whoever set it has told the journal; a daemon that starts says what it found.
            None => now.in_force().iter().for_each(|line| {
                info!(EDGE_STEP = "people", EDGE_REASON = %line, "a person's pause or allowance is in force");
            }),
            Some(before) => now.ended(before).iter().for_each(|line| {
                info!(EDGE_STEP = "people", EDGE_REASON = %line, "a person's pause or allowance ended");
            }),
        }
        if let Err(error) = hatches::tell_logins(root, &now) {
            warn!(EDGE_STEP = "people", EDGE_REASON = %Chain(&error), "text at login cannot be written, ignoring");
        }
        now.fill(status);
        self.before = Some(now);
    }
}
