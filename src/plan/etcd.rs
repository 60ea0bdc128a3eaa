//! How patient etcd is with the disk that it lies on.
//!
//! Owns the intervals that follow from a measured disk, and the damping that
//! keeps them from changing to and fro. A person's own values stand. Measures
//! nothing.

use super::keys;
use super::refusal::Refusal;
use super::yaml::Value;
use crate::facts::k3s_config::Effective;
use crate::facts::runtime::DataDisk;
use crate::role::{Duty, Role};

const KEY: &str = "etcd-arg";
const HEARTBEAT: &str = "heartbeat-interval=";
const ELECTION: &str = "election-timeout=";

const REPLACED: &str = "the disk of etcd is slow, and a file in /etc/rancher/k3s/config.yaml.d replaces the list etcd-arg: \
     etcd keeps its short intervals; write `etcd-arg+` there, which adds to the list";

/// From which 99th percentile on, in microseconds, which heartbeat and election
/// intervals are set, in milliseconds. Below the first k3s's own stand: 500 and
/// 5000 (k3s: pkg/etcd/etcd.go), five writes of 100 ms for a heartbeat. etcd
/// wants a heartbeat to be at most a fifth of an election (etcd:
/// server/embed/config.go): as the neighbours of a slow disk may keep 5000, none
/// is longer than 1000.
const LEVELS: [(u64, u32, u32); 2] = [(100_000, 1000, 10_000), (200_000, 1000, 20_000)];

/// The level of a disk that was measured: 0 leaves k3s's own intervals. It rises
/// when this measurement and the one before both say so, and falls when both are
/// below half of what raised it.
#[must_use]
pub fn level(before: Option<&DataDisk>, p99_us: u64) -> u8 {
    let Some(before) = before else { return of(p99_us) };
    let up = of(p99_us.min(before.p99_us));
    let down = of(p99_us.max(before.p99_us).saturating_mul(2));
    if up > before.level { up } else { down.min(before.level) }
}

fn of(p99_us: u64) -> u8 {
    let reached = LEVELS.iter().filter(|(from, ..)| p99_us >= *from).count();
    u8::try_from(reached).unwrap_or(u8::MAX)
}

fn intervals(disk: &DataDisk) -> Option<(u32, u32)> {
    let index = usize::from(disk.level).checked_sub(1)?;
    LEVELS.get(index.min(LEVELS.len() - 1)).map(|(_, heartbeat, election)| (*heartbeat, *election))
}

/// Adds the intervals to what k3s gives etcd; a note for people where somebody
/// has set one, which then stands. `now` is what k3s would read without them.
pub(super) fn tune(
    entries: &mut Vec<(String, Value)>,
    now: &Effective,
    disk: Option<&DataDisk>,
    duty: &Duty,
) -> Option<String> {
    let (heartbeat, election) = intervals(disk?)?;
    if duty.role != Role::Server || !keys::of(&duty.k3s.version).has(KEY, Role::Server) {
        return None;
    }
    if now.all(KEY).iter().any(|value| is_interval(value)) {
        return Some("etcd's intervals are set by hand: those for the measured disk are not used".to_owned());
    }
    let ours = [format!("{HEARTBEAT}{heartbeat}"), format!("{ELECTION}{election}")];
    match entries.iter_mut().find(|(key, _)| key == KEY) {
        Some((_, Value::List(list))) => list.extend(ours),
        Some((_, Value::Text(text) | Value::Bare(text))) => {
            let all = [std::mem::take(text)].into_iter().chain(ours).collect();
            entries.retain(|(key, _)| key != KEY);
            entries.push((KEY.to_owned(), Value::List(all)));
        }
        None => entries.push((KEY.to_owned(), Value::List(ours.into()))),
    }
    Some(format!(
        "the disk of etcd is slow: from k3s's next start on its heartbeat interval is {heartbeat} ms and its election timeout {election} ms"
    ))
}

/// What [`tune`] says, where that comes true: a file of an operator's may replace the
/// whole list. `effective` is what k3s reads with it.
pub(super) fn told(note: Option<String>, effective: &Effective) -> Option<String> {
    let comes_true = effective.all(KEY).iter().any(|value| is_interval(value));
    note.map(|note| if comes_true { note } else { REPLACED.to_owned() })
}

/// Whether this `etcd-arg` sets one of the intervals: that matters at the next
/// start, and restarts nothing.
#[must_use]
pub fn is_interval(value: &str) -> bool {
    value.starts_with(HEARTBEAT) || value.starts_with(ELECTION)
}

/// A disk on which etcd needs patience, for people.
#[must_use]
pub fn slow(disk: &DataDisk) -> Option<Refusal> {
    intervals(disk)?;
    let p99 = disk.p99_us / 1000;
    Some(Refusal::new(
        "EB-disk-slow",
        format!(
            "one of a hundred small writes to the disk of etcd took {p99} ms or more; etcd wants less than 10 ms"
        ),
        "give /var/lib/rancher a faster disk; until then etcd is told to wait longer",
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn disk(level: u8, p99_ms: u64) -> DataDisk {
        DataDisk { p99_us: p99_ms * 1000, level, ..DataDisk::default() }
    }

    #[test]
    fn the_first_measurement_decides_alone() {
        for (p99_ms, expected) in [(0, 0), (9, 0), (99, 0), (100, 1), (199, 1), (200, 2), (9999, 2)] {
            assert_eq!(level(None, p99_ms * 1000), expected, "{p99_ms}");
        }
    }

    #[test]
    fn one_measurement_alone_moves_nothing_and_two_do() {
        for (before, p99_ms, expected) in [
            // A boot with much to do.
            (disk(0, 12), 500, 0),
            (disk(0, 500), 12, 0),
            (disk(0, 500), 150, 1),
            (disk(0, 500), 300, 2),
            // Around a threshold.
            (disk(1, 101), 99, 1),
            (disk(1, 60), 60, 1),
            (disk(1, 49), 60, 1),
            (disk(1, 49), 49, 0),
            (disk(2, 99), 99, 1),
            (disk(2, 10), 10, 0),
            (disk(2, 10), 500, 2),
        ] {
            assert_eq!(level(Some(&before), p99_ms * 1000), expected, "{before:?} {p99_ms}");
        }
    }

    #[test]
    fn no_disk_at_all_makes_the_level_go_to_and_fro() {
        // Any two values in turn: after the second boot nothing moves any more.
        for one in (0..400).step_by(7) {
            for other in (0..400).step_by(11) {
                let mut now = disk(level(None, one * 1000), one);
                let mut seen = Vec::new();
                for round in 0..8 {
                    let p99_ms = if round % 2 == 0 { other } else { one };
                    now = disk(level(Some(&now), p99_ms * 1000), p99_ms);
                    seen.push(now.level);
                }
                assert!(seen[1..].iter().all(|level| *level == seen[1]), "{one} {other} {seen:?}");
            }
        }
    }

    #[test]
    fn a_list_that_somebody_replaces_is_told_as_what_it_is() {
        let said = |text: &str| {
            let mut effective = Effective::default();
            effective.merge(text).unwrap();
            told(Some("tuned".to_owned()), &effective).unwrap()
        };
        assert_eq!(said("etcd-arg: [a=b, heartbeat-interval=1000]"), "tuned");
        assert!(said("etcd-arg: [a=b]").contains("`etcd-arg+`"));
        assert_eq!(told(None, &Effective::default()), None);
    }

    #[test]
    fn a_heartbeat_fits_a_neighbour_that_keeps_k3ss_own_election() {
        for (_, heartbeat, election) in LEVELS {
            assert!(heartbeat * 5 <= 5000 && heartbeat * 5 <= election && election <= 50_000);
        }
    }
}
