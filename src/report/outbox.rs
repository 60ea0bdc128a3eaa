//! Reports that could not be sent, and the numbers of all reports.
//!
//! Owns `/var/lib/edge-bootstrap/outbox`: one checksummed file per report and
//! the counter. Never sends. The service takes a report only when its number is
//! higher than every one before, so what waits goes out first, oldest first,
//! and a number never comes back: not after a cut, a lost counter or a clock
//! that was set back.

use thiserror::Error;

use crate::paths::{OUTBOX, QUARANTINE};
use crate::sys::root::FileError;
use crate::sys::statefile::{self, Loaded, StateError};
use crate::sys::{Clock, Root};
use crate::wire::report::Report;

/// Newest reports that are kept.
pub const KEEP: usize = 32;
/// Numbers that one durable write of the counter covers.
const BLOCK: u64 = 64;

/// The outbox did not do what it should.
#[derive(Debug, Error)]
pub enum OutboxError {
    /// Its directory cannot be used.
    #[error("look into the outbox")]
    Directory(#[from] FileError),
    /// A report was not kept; it is lost when it is not sent.
    #[error("keep report {sequence} for later")]
    Keep {
        /// Its number.
        sequence: u64,
        /// Why.
        #[source]
        source: StateError,
    },
}

/// What waits to be sent.
#[derive(Debug, Default)]
pub struct Pending {
    /// Oldest first.
    pub reports: Vec<Report>,
    /// Files that held no report.
    pub damaged: Vec<Damaged>,
}

/// A file of the outbox that held no report.
#[derive(Debug, PartialEq, Eq)]
pub struct Damaged {
    /// The file.
    pub path: String,
    /// What is wrong with it.
    pub damage: String,
    /// Where it lies now; absent when it could not be moved.
    pub moved_to: Option<String>,
}

/// The outbox of this host.
#[derive(Debug)]
pub struct Outbox {
    root: Root,
    clock: Clock,
    /// The next number.
    next: u64,
    /// Highest number that the counter on disk covers, as we wrote it.
    reserved: Option<u64>,
}

impl Outbox {
    /// The outbox below `root`; touches nothing yet.
    #[must_use]
    pub fn new(root: &Root, clock: Clock) -> Self {
        Self { root: root.clone(), clock, next: 1, reserved: None }
    }

    /// A number that no report of this host has had.
    ///
    /// A counter that cannot be written (a full disk) does not silence the
    /// host: the clock then keeps the numbers of the next start above these.
    pub fn number(&mut self) -> u64 {
        let stored = self.stored();
        // Another process of ours took numbers, or this one has just begun.
        let is_ours = self.reserved.is_some() && self.reserved == stored;
        if !is_ours {
            self.next = self.first_free(stored);
        }
        if !is_ours || stored < Some(self.next) {
            self.reserved = self.reserve(self.next.saturating_add(BLOCK - 1));
        }
        let number = self.next;
        self.next = number.saturating_add(1);
        number
    }

    /// Keeps a report for later; what is too old goes.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn push(&self, report: &Report) -> Result<(), OutboxError> {
        self.root.make_dir(OUTBOX, 0o700)?;
        let sequence = report.sequence;
        statefile::store(&self.root, &file(sequence), report)
            .map_err(|source| OutboxError::Keep { sequence, source })?;
        self.prune()
    }

    /// What waits to be sent. What is damaged is moved to quarantine.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub fn pending(&self) -> Result<Pending, OutboxError> {
        let mut pending = Pending::default();
        for sequence in self.sequences()? {
            match self.load(sequence) {
                Ok(Some(report)) => pending.reports.push(report),
                Ok(None) => {}
                Err(damage) => pending.damaged.push(self.set_aside(sequence, damage)),
            }
        }
        Ok(pending)
    }

    /// Forgets a report that the service has. A cut before this sends it once
    /// more, which the service ignores.
    ///
    /// # Errors
    /// When its file cannot be removed.
    pub fn sent(&self, sequence: u64) -> Result<(), OutboxError> {
        self.root.remove_file(&file(sequence))?;
        Ok(())
    }

    /// Numbers of the files, ascending.
    fn sequences(&self) -> Result<Vec<u64>, OutboxError> {
        let names = self.root.list(OUTBOX)?;
        let mut numbers: Vec<u64> =
            names.iter().filter_map(|name| name.strip_suffix(".json")?.parse().ok()).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn load(&self, sequence: u64) -> Result<Option<Report>, String> {
        match statefile::load::<Report>(&self.root, &file(sequence)) {
            Ok(Loaded::Absent) => Ok(None),
            // Under a wrong name it would be sent for ever.
            Ok(Loaded::Good(report)) if report.sequence != sequence => {
                Err(format!("it holds report {}", report.sequence))
            }
            Ok(Loaded::Good(report)) => Ok(Some(report)),
            Ok(Loaded::Previous { damage, .. }) => Err(damage),
            Err(error) => Err(crate::error::Chain(&error).to_string()),
        }
    }

    fn set_aside(&self, sequence: u64, damage: String) -> Damaged {
        let path = file(sequence);
        let moved_to = self.quarantine(sequence).ok();
        Damaged { path, damage, moved_to }
    }

    fn quarantine(&self, sequence: u64) -> Result<String, FileError> {
        self.root.make_dir(QUARANTINE, 0o700)?;
        let stem = format!("{QUARANTINE}/outbox-{sequence:010}.json");
        let mut place = stem.clone();
        let mut copy = 1;
        while self.root.exists(&place) {
            place = format!("{stem}.{copy}");
            copy += 1;
        }
        self.root.rename(&file(sequence), &place)?;
        Ok(place)
    }

    /// Drops the oldest, except those that alone say what the host knows of
    /// its cluster; twice [`KEEP`] is the end in any case.
    fn prune(&self) -> Result<(), OutboxError> {
        if self.sequences()?.len() <= KEEP {
            return Ok(());
        }
        let mut said = Vec::new();
        for (age, report) in self.pending()?.reports.iter().rev().enumerate() {
            let news = cluster_facts(report).filter(|facts| !said.contains(facts));
            if age >= KEEP && (news.is_none() || age >= 2 * KEEP) {
                self.sent(report.sequence)?;
            }
            said.extend(news);
        }
        Ok(())
    }

    /// Highest number that may have been used; `None` when there is no counter.
    fn stored(&self) -> Option<u64> {
        match statefile::load::<u64>(&self.root, &counter()) {
            Ok(Loaded::Good(reserved)) => Some(reserved),
            // The newer counter covered at most one block more.
            Ok(Loaded::Previous { value, .. }) => Some(value.saturating_add(BLOCK)),
            Ok(Loaded::Absent) | Err(_) => None,
        }
    }

    fn first_free(&self, stored: Option<u64>) -> u64 {
        let waiting = self.sequences().ok().and_then(|numbers| numbers.last().copied());
        let used = [stored, waiting, Some(self.clock.unix()), Some(self.next - 1)];
        used.into_iter().flatten().max().unwrap_or_default().saturating_add(1)
    }

    fn reserve(&self, highest: u64) -> Option<u64> {
        self.root.make_dir(OUTBOX, 0o700).ok()?;
        statefile::store(&self.root, &counter(), &highest).ok().map(|_| highest)
    }
}

fn file(sequence: u64) -> String {
    format!("{OUTBOX}/{sequence:010}.json")
}

fn counter() -> String {
    format!("{OUTBOX}/counter.json")
}

/// What a report says about its cluster that the service must not miss.
fn cluster_facts(report: &Report) -> Option<(u64, &Option<String>, Option<u64>)> {
    let cluster = &report.cluster;
    let says = cluster.ca_hash.is_some() || cluster.init_started.is_some();
    says.then_some((report.epoch, &cluster.ca_hash, cluster.init_started))
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
