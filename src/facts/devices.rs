//! What containerd's devmapper snapshotter has written of its thin devices.
//!
//! Owns the two databases' buckets and the thing that a power cut can leave
//! in them: the snapshotter commits a new device to `POOL.db` before its snapshot
//! to `metadata.db` (containerd: snapshots/devmapper/snapshotter.go `Prepare`),
//! so that a device may lie under the next number, which then is taken for good
//! (metadata.go `AddDevice`). Pure; writes nothing.

use serde::{Deserialize, Serialize};

use super::bolt::tree::{Bucket, Item};
use crate::ordered::sort_by;
use crate::paths;
use crate::wire::json;

/// The bucket of snapshots in `metadata.db`; its sequence numbers them
/// (containerd: snapshots/storage/bolt.go).
pub const SNAPSHOTS: [&str; 2] = ["v1", "snapshots"];
/// The bucket of devices in `POOL.db`.
pub const DEVICES: [&str; 1] = ["devices"];

/// The path of a database of the devmapper snapshotter, by its name without `.db`.
#[must_use]
pub fn database(name: &str) -> String {
    format!("{}/io.containerd.snapshotter.v1.devmapper/{name}.db", paths::CONTAINERD_ROOT)
}

/// A device whose number no snapshot has had yet, and whose name containerd gives
/// to no other (metadata.go `AddDevice`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its name for device-mapper.
    pub name: String,
    /// Number of the snapshot that it was made for.
    pub number: u64,
    /// Its number in the pool.
    pub id: u64,
    /// Its state is one that containerd's next start leaves as it is.
    pub is_final: bool,
}

/// What of the pool's devices is ahead of the snapshots.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ahead {
    /// Number of the newest snapshot.
    pub last: u64,
    /// The devices after it, lowest number first.
    pub devices: Vec<Device>,
}

impl Ahead {
    /// The device that a cut between the two commits left: the next one, alone.
    #[must_use]
    pub fn left_over(&self) -> Option<&Device> {
        match self.devices.as_slice() {
            [device] if Some(device.number) == self.last.checked_add(1) => Some(device),
            _ => None,
        }
    }
}

/// One byte of a database that says that work on a device was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Where it lies in the file.
    pub at: u64,
    /// What is there.
    pub from: u8,
    /// What is to be there.
    pub to: u8,
}

/// Devices of `pool` that are numbered after the last snapshot and are not faulty.
#[must_use]
pub fn ahead(devices: &Bucket, pool: &str, last: u64) -> Ahead {
    let mut ahead: Vec<Device> = devices.items.iter().filter_map(|item| device(item, pool)).collect();
    ahead.retain(|device| device.number > last);
    sort_by(&mut ahead, |one, other| one.number < other.number);
    Ahead { last, devices: ahead }
}

fn device(item: &Item, pool: &str) -> Option<Device> {
    const FAULTY: u64 = 13;
    let name = String::from_utf8(item.key.clone()).ok()?;
    let number = name.strip_prefix(pool)?.strip_prefix("-snap-")?.parse().ok()?;
    let record: serde_json::Value = json::read(&item.value).ok()?;
    let id = record.get("device_id")?.as_u64()?;
    (record.get("state")?.as_u64()? != FAULTY).then_some(())?;
    Some(Device { name, number, id, is_final: mark(item).is_some() })
}

/// How the device with this name is marked as cut off.
#[must_use]
pub fn mark_of(devices: &Bucket, name: &str) -> Option<Mark> {
    devices.items.iter().find(|item| item.key == name.as_bytes()).and_then(mark)
}

/// A state that is final becomes the one of its beginning, which containerd
/// takes for faulty at its next start, and a faulty device gives its name back
/// (containerd: snapshots/devmapper/pool_device.go `ensureDeviceStates`,
/// device_info.go `DeviceState`). `None`: it is not final, or not readable.
fn mark(item: &Item) -> Option<Mark> {
    const STATE: &[u8] = b"\"state\":";
    // In a text the quotes would be escaped.
    let from = item.value.windows(STATE.len()).position(|part| part == STATE)? + STATE.len();
    let digits = item.value.get(from..)?.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (offset, to) = match item.value.get(from..from + digits)? {
        // Activated, suspended, resumed: activating, suspending, resuming.
        [state @ (b'4' | b'6' | b'8')] => (from, state - 1),
        // Deactivated, removed: removing.
        [b'1', b'0' | b'2'] => (from + 1, b'1'),
        _ => return None,
    };
    Some(Mark { at: item.at.checked_add(offset as u64)?, from: *item.value.get(offset)?, to })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn item(name: &str, state: u32) -> Item {
        let value = format!(
            r#"{{"device_id":7,"size":1,"name":"{name}","parent_name":"","state":{state},"error":"\"state\":4"}}"#
        );
        Item { key: name.into(), value: value.into(), at: 1000, is_bucket: false }
    }

    fn bucket(names: &[(&str, u32)]) -> Bucket {
        Bucket { sequence: 0, items: names.iter().map(|(name, state)| item(name, *state)).collect() }
    }

    #[test]
    fn only_devices_after_the_last_snapshot_are_ahead_by_number_and_not_by_name() {
        let devices = bucket(&[("p-snap-10", 4), ("p-snap-9", 9), ("p-snap-8", 4), ("other-snap-99", 4)]);
        let told = |last| {
            let found = ahead(&devices, "p", last);
            found.devices.iter().map(|it| (it.number, it.id, it.is_final)).collect::<Vec<_>>()
        };
        assert_eq!(told(8), [(9, 7, false), (10, 7, true)]);
        assert_eq!(told(9), [(10, 7, true)]);
        assert_eq!(told(10), []);
        let faulty = bucket(&[("p-snap-10", 13)]);
        assert_eq!(ahead(&faulty, "p", 9).devices, [], "containerd gives its name away");
    }

    #[test]
    fn a_cut_leaves_the_next_device_and_no_other() {
        let left = |names: &[(&str, u32)], last| ahead(&bucket(names), "p", last).left_over().cloned();
        assert_eq!(left(&[("p-snap-10", 4)], 9).unwrap().number, 10);
        assert_eq!(left(&[("p-snap-10", 4)], 8), None, "an older database of snapshots");
        assert_eq!(left(&[("p-snap-10", 4), ("p-snap-11", 4)], 9), None);
        assert_eq!(left(&[], 9), None);
    }

    #[test]
    fn a_final_state_becomes_one_that_containerd_takes_for_cut_off_in_one_byte() {
        let states = 0..=14;
        for state in states {
            let devices = bucket(&[("p-snap-3", state)]);
            let Some(mark) = mark_of(&devices, "p-snap-3") else {
                assert!(![4, 6, 8, 10, 12].contains(&state), "{state}");
                continue;
            };
            let mut value = devices.items[0].value.clone();
            let at = usize::try_from(mark.at - 1000).unwrap();
            assert_eq!(value[at], mark.from);
            value[at] = mark.to;
            let value: serde_json::Value = serde_json::from_slice(&value).unwrap();
            let now = value["state"].as_u64().unwrap();
            assert!([0, 1, 2, 3, 5, 7, 9, 11].contains(&now), "{state} -> {now}");
            assert_eq!(value["error"], "\"state\":4");
        }
    }

    #[test]
    fn values_that_are_none_have_no_mark() {
        for value in ["", "{}", "{\"state\":", "{\"state\":\"4\"}", "{\"state\":444}"] {
            let item = Item { key: b"a".to_vec(), value: value.into(), at: u64::MAX, is_bucket: false };
            assert_eq!(mark(&item), None, "{value}");
        }
    }
}
