//! What was seen of our units in this boot.
//!
//! Owns `/run/edge-bootstrap/units.json`: gone at boot, written without fsync,
//! and only when it says something new. Losing it costs one thing: a unit that
//! a person stopped would be started again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::person::{self, LeftAlone};
use crate::paths;
use crate::sys::systemd::UnitState;
use crate::sys::{Clock, FileError, Root, atomic, host};
use crate::wire::json;

/// What was seen of one unit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Seen {
    /// It was up or on its way up.
    pub up: bool,
    /// Its boot links were there.
    pub enabled: bool,
    /// We stopped it ourselves.
    pub stopped_by_us: bool,
    /// Its boot links are durable.
    pub synced: bool,
    /// A person's wish that is in force.
    pub left_alone: Option<LeftAlone>,
}

/// The record of one boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    schema: u32,
    boot_id: String,
    /// `/etc/hostname` is durable with this name.
    pub hostname_synced: Option<String>,
    /// By unit name.
    pub units: BTreeMap<String, Seen>,
}

impl Record {
    /// The record of this boot; an empty one when there is none, when it is of
    /// another boot, or damaged.
    #[must_use]
    pub fn load(root: &Root) -> Self {
        let boot_id = host::boot_id(root).unwrap_or_default();
        let text = root.read(paths::UNITS).ok().flatten().unwrap_or_default();
        let record: Self = json::read(&text).unwrap_or_default();
        if record.boot_id == boot_id && record.schema == 1 {
            return record;
        }
        Self { schema: 1, boot_id, ..Self::default() }
    }

    /// Writes the record when it differs from what is there.
    ///
    /// # Errors
    /// When the run directory cannot be written.
    pub fn store(&self, root: &Root) -> Result<(), FileError> {
        let mut text = serde_json::to_vec(self).unwrap_or_default();
        text.push(b'\n');
        root.ensure_dir(paths::RUN_DIR)?;
        atomic::write_volatile(root, paths::UNITS, &text, 0o600).map(|_| ())
    }

    /// What was seen of `unit`.
    pub fn unit(&mut self, unit: &str) -> &mut Seen {
        self.units.entry(unit.to_owned()).or_default()
    }

    /// It went down without a person's doing, and is to be started as at boot.
    pub fn note_taken_down(&mut self, unit: &str) {
        let seen = self.unit(unit);
        (seen.up, seen.left_alone) = (false, None);
    }

    /// Takes in the state of a unit that shall be down: nobody has to be left alone.
    pub fn note_unwanted(&mut self, now: &UnitState, clock: Clock) {
        self.note(now, clock);
        self.unit(&now.name).left_alone = None;
    }

    /// Takes in the state of a unit; what a person did to it, if anything.
    pub fn note(&mut self, now: &UnitState, clock: Clock) -> Option<LeftAlone> {
        let seen = self.unit(&now.name);
        let why = person::left_alone(seen, now);
        seen.left_alone = why.map(|why| match seen.left_alone.take() {
            Some(known) if known.why == why => known,
            _ => LeftAlone { unit: now.name.clone(), since: since(why, now, clock), why },
        });
        if now.is_up() || now.is_activating() {
            (seen.up, seen.stopped_by_us) = (true, false);
        }
        seen.enabled |= now.file_state == "enabled";
        seen.left_alone.clone()
    }
}

fn since(why: person::Why, now: &UnitState, clock: Clock) -> u64 {
    match why {
        person::Why::Stopped if now.since_unix_us > 0 => now.since_unix_us / 1_000_000,
        _ => clock.unix(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        root.ensure_dir("/proc/sys/kernel/random").unwrap();
        atomic::write_volatile(&root, "/proc/sys/kernel/random/boot_id", b"one\n", 0o644).unwrap();
        (dir, root)
    }

    #[test]
    fn the_record_ends_with_its_boot() {
        let (_dir, root) = root();
        let mut record = Record::load(&root);
        record.unit("k3s.service").up = true;
        record.store(&root).unwrap();
        assert_eq!(Record::load(&root), record);
        atomic::write_volatile(&root, "/proc/sys/kernel/random/boot_id", b"two\n", 0o644).unwrap();
        assert!(Record::load(&root).units.is_empty());
    }

    #[test]
    fn a_damaged_record_is_an_empty_one() {
        let (_dir, root) = root();
        root.ensure_dir(paths::RUN_DIR).unwrap();
        atomic::write_volatile(&root, paths::UNITS, b"{\"schema\":1,\"boo", 0o600).unwrap();
        assert!(Record::load(&root).units.is_empty());
    }

    #[test]
    fn since_is_kept_and_ends_when_the_unit_is_up_again() {
        let (_dir, root) = root();
        let mut record = Record::load(&root);
        let state = |active: &str, at: u64| UnitState {
            name: "k3s.service".into(),
            active: active.into(),
            file_state: "enabled".into(),
            since_unix_us: at * 1_000_000,
            ..UnitState::default()
        };
        assert_eq!(record.note(&state("active", 50), Clock::Fixed(100)), None);
        assert_eq!(record.note(&state("inactive", 200), Clock::Fixed(201)).unwrap().since, 200);
        assert_eq!(record.note(&state("inactive", 0), Clock::Fixed(300)).unwrap().since, 200);
        assert_eq!(record.note(&state("active", 400), Clock::Fixed(400)), None);
        assert_eq!(record.note(&state("inactive", 500), Clock::Fixed(501)).unwrap().since, 500);
    }
}
