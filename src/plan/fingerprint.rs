//! Whether this is the machine that the identity was pinned on (invariant 3).
//!
//! Owns the classes of hardware, how two sets of them are compared, and how
//! much must differ before a disk counts as copied; `docs/identity.md` shows it
//! with examples. Pure: reads no hardware, records nothing.

use std::collections::BTreeSet;

use super::refusal::Refusal;
use crate::facts::HostFacts;
use crate::facts::network::Interface;
use crate::facts::runtime::{Fingerprint, PinnedIdentity};

/// What one class of hardware says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// Known on both sides, and something is the same.
    Same,
    /// Known on both sides, and nothing is the same.
    Contradicts,
    /// Not known on one side: speaks neither for nor against.
    Unknown,
}

/// What all classes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Comparison {
    /// The board's UUID.
    pub board: Said,
    /// Permanent MACs of physical network cards.
    pub nic: Said,
    /// Serial numbers of built-in disks.
    pub disk: Said,
}

/// What follows from a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// At least two classes are known, and none contradicts.
    Same,
    /// Something was replaced, as repairs do; accepted.
    Replaced,
    /// Fewer than two classes are known; accepted, because nothing can be told.
    TooFew,
    /// Board and one more class are others: the disk of another machine.
    Copied,
}

impl Comparison {
    /// Compares what was pinned with what is there. The order does not matter.
    #[must_use]
    pub fn of(pinned: &Fingerprint, seen: &Fingerprint) -> Self {
        Self {
            board: match (uuid(pinned), uuid(seen)) {
                (Some(one), Some(other)) if is_same_uuid(one, other) => Said::Same,
                (Some(_), Some(_)) => Said::Contradicts,
                _ => Said::Unknown,
            },
            nic: overlap(&pinned.nics, &seen.nics),
            disk: overlap(&pinned.disks, &seen.disks),
        }
    }

    /// What follows. Only the board with one more class makes a copy: cards and
    /// disks alone are replaced too often, and together.
    #[must_use]
    pub fn verdict(self) -> Verdict {
        let all = [self.board, self.nic, self.disk];
        let count = |said: Said| all.iter().filter(|one| **one == said).count();
        match count(Said::Contradicts) {
            2.. if self.board == Said::Contradicts => Verdict::Copied,
            1.. => Verdict::Replaced,
            0 if count(Said::Unknown) > 1 => Verdict::TooFew,
            0 => Verdict::Same,
        }
    }
}

fn overlap(pinned: &[String], seen: &[String]) -> Said {
    let set = |values: &[String]| -> BTreeSet<String> {
        let values = values.iter().map(|value| value.trim().to_lowercase());
        values.filter(|value| !value.is_empty()).collect()
    };
    let (pinned, seen) = (set(pinned), set(seen));
    match pinned.is_disjoint(&seen) {
        _ if pinned.is_empty() || seen.is_empty() => Said::Unknown,
        true => Said::Contradicts,
        false => Said::Same,
    }
}

/// The UUID. Identities of the first versions kept it among the serials.
fn uuid(print: &Fingerprint) -> Option<&str> {
    let among_serials = || print.board.iter().map(String::as_str).find(|text| fields(text).is_some());
    print.uuid.as_deref().or_else(among_serials)
}

/// The five fields of a UUID.
fn fields(text: &str) -> Option<[&str; 5]> {
    let fields: [&str; 5] = text.split('-').collect::<Vec<_>>().try_into().ok()?;
    let is_hex = |field: &str| field.bytes().all(|byte| byte.is_ascii_hexdigit());
    let fits = fields.iter().zip([8, 4, 4, 4, 12]).all(|(field, length)| field.len() == length);
    (fits && fields.iter().all(|field| is_hex(field))).then_some(fields)
}

/// The same UUID, also when a firmware or kernel update changed the byte order
/// of its first three fields, as SMBIOS 2.6 did.
fn is_same_uuid(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other) || swapped(one).is_some_and(|swapped| swapped.eq_ignore_ascii_case(other))
}

fn swapped(uuid: &str) -> Option<String> {
    let [low, middle, high, rest, node] = fields(uuid)?;
    let turned = |field: &str| -> String {
        let bytes = field.as_bytes().chunks(2).rev();
        bytes.flatten().map(|byte| char::from(*byte)).collect()
    };
    Some(format!("{}-{}-{}-{rest}-{node}", turned(low), turned(middle), turned(high)))
}

/// Hardware facts in classes, sorted; what is unknown does not count.
#[must_use]
pub fn of(facts: &HostFacts) -> Fingerprint {
    let board = &facts.identity.board;
    let serials = [&board.product_serial, &board.board_serial, &board.chassis_serial];
    let nics = facts.network.interfaces.known().into_iter().flatten();
    let nics = nics.filter(|nic| is_physical(nic)).filter_map(|nic| nic.permanent_mac.known());
    let disks = facts.hardware.disks.known().into_iter().flatten();
    let disks = disks.filter(|disk| disk.removable.known() != Some(&true));
    let sorted = |values: BTreeSet<String>| values.into_iter().collect();
    Fingerprint {
        uuid: board.uuid.known().cloned(),
        board: serials.into_iter().filter_map(|serial| serial.known().cloned()).collect(),
        nics: sorted(nics.cloned().collect()),
        disks: sorted(disks.filter_map(|disk| disk.serial.known().cloned()).collect()),
    }
}

/// Bridges, bonds and the like have no driver of a device, and addresses that come and go.
fn is_physical(nic: &Interface) -> bool {
    nic.driver.known().is_some()
}

/// What to record on a machine that is accepted: classes that are known now
/// replace the recorded ones, the others stay.
#[must_use]
pub fn recorded_anew(pinned: &Fingerprint, seen: &Fingerprint) -> Fingerprint {
    let newer = |seen: &[String], pinned: &[String]| if seen.is_empty() { pinned } else { seen }.to_vec();
    let seen_uuid = seen.uuid.clone();
    Fingerprint {
        uuid: seen_uuid.or_else(|| uuid(pinned).map(str::to_owned)),
        board: newer(&seen.board, &pinned.board),
        nics: newer(&seen.nics, &pinned.nics),
        disks: newer(&seen.disks, &pinned.disks),
    }
}

/// A copied disk must not start as its original (invariant 3).
#[must_use]
pub fn fits(seen: &Fingerprint, identity: &PinnedIdentity) -> Option<Refusal> {
    let comparison = Comparison::of(&identity.fingerprint, seen);
    (comparison.verdict() == Verdict::Copied).then(|| {
        Refusal::new(
            "EB-copied-disk",
            format!("the identity of {} was pinned on another machine: {}", identity.node_name, differences(&identity.fingerprint, seen)),
            "if this is the machine, because its board was replaced or its disk moved here for good: edge-bootstrap identity accept --reason TEXT; if the disk was copied: install this host anew",
        )
    })
}

/// What is worth saying about a machine that is accepted all the same.
#[must_use]
pub fn remark(seen: &Fingerprint, identity: &PinnedIdentity) -> Option<Refusal> {
    match Comparison::of(&identity.fingerprint, seen).verdict() {
        Verdict::Same | Verdict::Copied => None,
        Verdict::Replaced => Some(Refusal::new(
            "EB-hardware-changed",
            format!("hardware was replaced: {}", differences(&identity.fingerprint, seen)),
            "nothing; it is recorded when the node is healthy",
        )),
        Verdict::TooFew => Some(Refusal::new(
            "EB-hardware-unknown",
            "fewer than two of board UUID, network cards and disks can be compared, so a copied disk would not be noticed",
            "give the virtual machine a UUID and serial numbers for its disks, where it has none",
        )),
    }
}

/// Old and new of each class that contradicts, shortened.
#[must_use]
pub fn differences(pinned: &Fingerprint, seen: &Fingerprint) -> String {
    let comparison = Comparison::of(pinned, seen);
    // Whole: vendors give the boards of one series UUIDs with a common begin.
    let one = |print: &Fingerprint| uuid(print).unwrap_or_default().to_owned();
    let classes = [
        (comparison.board, "board UUID", one(pinned), one(seen)),
        (comparison.nic, "network cards", few(&pinned.nics), few(&seen.nics)),
        (comparison.disk, "disks", few(&pinned.disks), few(&seen.disks)),
    ];
    let told = classes.into_iter().filter(|(said, ..)| *said == Said::Contradicts);
    told.map(|(_, what, old, new)| format!("{what} {old} then, {new} now")).collect::<Vec<_>>().join("; ")
}

/// What is recorded differently in `after`, one line each.
#[must_use]
pub fn changes(before: &Fingerprint, after: &Fingerprint) -> Vec<String> {
    let word = |print: &Fingerprint| uuid(print).unwrap_or("unknown").to_owned();
    let words = |values: &[String]| if values.is_empty() { "unknown".to_owned() } else { values.join(" ") };
    let classes = [
        ("board UUID", word(before), word(after)),
        ("board serials", words(&before.board), words(&after.board)),
        ("network cards", words(&before.nics), words(&after.nics)),
        ("disks", words(&before.disks), words(&after.disks)),
    ];
    let other = classes.into_iter().filter(|(_, old, new)| old != new);
    other.map(|(what, old, new)| format!("{what} {old} then, {new} now")).collect()
}

fn few(values: &[String]) -> String {
    const SHOWN: usize = 2;
    let mut text = values.iter().take(SHOWN).map(|value| shortened(value)).collect::<Vec<_>>().join(" ");
    if values.len() > SHOWN {
        text.push_str(&format!(" and {} more", values.len() - SHOWN));
    }
    text
}

fn shortened(text: &str) -> String {
    const LONGEST: usize = 20;
    let mut short: String = text.chars().take(LONGEST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
#[path = "fingerprint_tests.rs"]
mod tests;
