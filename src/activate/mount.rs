//! Whether a unit went down because a mount that it needs went away.
//!
//! Owns the one rule: systemd stops in one go what requires a mount and the
//! mount itself, so that the mount leaves in the moment in which the unit is
//! down. That was done by nobody who wants the unit down. A mount that a person
//! takes away, with the unit or by itself, keeps it down until it is back.

use super::Host;
use super::person::{LeftAlone, Why};
use super::record::Record;
use crate::sys::systemd::{Systemd, UnitState};

/// Longest time between two steps of one transaction, in microseconds. systemd
/// takes them one after the other; on a busy host 20 ms were seen.
const AT_ONCE_US: u64 = 500_000;

/// Takes in the state of a unit that shall run; what a person did to it, if
/// anything. One that a mount took down counts as not started yet.
pub(super) async fn note(host: Host<'_>, record: &mut Record, now: &UnitState) -> Option<LeftAlone> {
    let person = record.note(now, host.clock)?;
    if person.why != Why::Stopped || !took_down(host.systemd, now).await {
        return Some(person);
    }
    record.note_taken_down(&now.name);
    None
}

/// Whether a mount took `unit` down. Asks for nothing where the unit needs none;
/// what cannot be asked took nothing down.
async fn took_down(systemd: &Systemd, unit: &UnitState) -> bool {
    for name in unit.requires.iter().filter(|name| name.ends_with(".mount") && *name != "-.mount") {
        let Ok(mount) = systemd.unit(name).await else { continue };
        if !left_with(unit, &mount) {
            continue;
        }
        if mount.is_up() || lost_its_disk(systemd, &mount, unit).await {
            return true;
        }
    }
    false
}

/// Whether both went in one transaction. umount(8) leaves no time between active
/// and inactive: systemd only sees that the mount is gone.
fn left_with(unit: &UnitState, mount: &UnitState) -> bool {
    let unmounted_by_systemd = mount.inactive_since_us != mount.active_until_us;
    unmounted_by_systemd && follows(unit.inactive_since_us, mount.active_until_us)
}

/// A disk that is pulled goes first, and its mount with it; `systemctl stop` of a
/// mount leaves the disk as it is.
async fn lost_its_disk(systemd: &Systemd, mount: &UnitState, unit: &UnitState) -> bool {
    for name in &mount.binds_to {
        if systemd.unit(name).await.is_ok_and(|disk| follows(disk.active_until_us, unit.active_until_us)) {
            return true;
        }
    }
    false
}

fn follows(first_us: u64, then_us: u64) -> bool {
    first_us > 0 && then_us >= first_us && then_us - first_us <= AT_ONCE_US
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Up until `until`, and inactive since `since`, in microseconds.
    fn unit(active: &str, until: u64, since: u64) -> UnitState {
        UnitState {
            active: active.to_owned(),
            active_until_us: until,
            inactive_since_us: since,
            ..UnitState::default()
        }
    }

    const S: u64 = 1_000_000;

    #[test]
    fn a_mount_that_leaves_as_soon_as_the_unit_is_down_took_it_along() {
        let containerd = unit("inactive", 100 * S, 101 * S);
        assert!(left_with(&containerd, &unit("inactive", 101 * S + 900, 101 * S + 9_000)));
        assert!(left_with(&containerd, &unit("active", 101 * S + 900, 101 * S + 9_000)), "it is back");
    }

    #[test]
    fn a_person_who_stops_first_and_unmounts_then_is_a_person() {
        let containerd = unit("inactive", 100 * S, 101 * S);
        let mounts = [
            // Typed one after the other.
            unit("inactive", 104 * S, 104 * S + 9_000),
            // One script, with umount(8).
            unit("inactive", 101 * S + 20_000, 101 * S + 20_000),
            // Never touched, or gone and back long before.
            unit("active", 0, 0),
            unit("active", 50 * S, 51 * S),
        ];
        for mount in mounts {
            assert!(!left_with(&containerd, &mount), "{mount:?}");
        }
        assert!(!left_with(&unit("inactive", 0, 0), &unit("inactive", 900, 9_000)), "it never was up");
    }
}
