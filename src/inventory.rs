//! What containerd's store holds, and what was decided about it.
//!
//! Owns the record, which lies outside the store so that it outlives it: the
//! choice of the snapshotter, the images and layers that were there, the
//! archives that were imported, and how often the store was set aside and its
//! thin pool repaired. Survives a power cut. Decides nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::facts::storage::Choice;
use crate::facts::store::{Kept, SetAside};
use crate::paths;
use crate::sys::statefile::{self, StateError};
use crate::sys::{Change, Root, lock};

/// How many times of setting the store aside, and of repairing, are remembered.
const KEPT: usize = 10;

/// The record. One that is damaged in both copies counts as empty: what it said
/// is found again, and until then nothing is refused for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Inventory {
    /// The snapshotter in force, and the file system of its store.
    pub choice: Option<Choice>,
    /// Images of the namespace `k8s.io` as last seen: digest by name.
    pub images: BTreeMap<String, String>,
    /// Snapshots of the chosen snapshotter as last seen.
    pub snapshots: u64,
    /// Archives that were imported and synced, by SHA-256.
    pub archives: BTreeMap<String, Archive>,
    /// Archives whose import began and was not seen to end, or whose images are
    /// damaged: what is in the store of them goes before they are imported
    /// again. Each with the boot in which that was recorded.
    pub unfinished: BTreeMap<String, String>,
    /// How the newest boot ended, as far as it has.
    pub boot: Boot,
    /// The store was set aside, newest last; every time of which the store lies
    /// there still.
    pub aside: Vec<SetAside>,
    /// Repairs of the thin pool that were begun and have not brought it up, newest last.
    pub repairs: Vec<Repair>,
}

/// A repair of the thin pool that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// Its device-mapper name.
    pub pool: String,
    /// Boot in which it was.
    pub boot_id: String,
    /// Seconds since 1970.
    pub at: u64,
}

/// One boot, and whether what it wrote can be trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Boot {
    /// Its id; empty before the first one was recorded.
    pub id: String,
    /// The system was stopped in good order, after the store was synced.
    pub clean: bool,
    /// An earlier boot ended otherwise, and the store was not verified since.
    pub suspect: bool,
    /// Seconds since 1970 of the newest good end; 0 when there was none.
    pub good_until: u64,
}

/// One archive that was imported to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archive {
    /// Names of the images that it brought.
    pub images: Vec<String>,
    /// RFC 3339 UTC: when the store was synced after it.
    pub at: String,
}

impl Inventory {
    /// Loads it.
    #[must_use]
    pub fn load(root: &Root) -> Self {
        statefile::load(root, paths::INVENTORY).ok().and_then(statefile::Loaded::value).unwrap_or_default()
    }

    /// A repair is begun. Recorded before it is, so that one that is cut off counts.
    pub fn begin_repair(&mut self, repair: Repair) {
        self.repairs.push(repair);
        let old = self.repairs.len().saturating_sub(KEPT);
        self.repairs.drain(..old);
    }

    /// The store was set aside: nothing that was in it is there any more, and
    /// every archive is to be imported again. What is remembered of the stores in
    /// `kept` stays: one of them that nobody recorded would be taken for the
    /// newest.
    pub fn set_aside(&mut self, aside: SetAside, kept: &[Kept]) {
        self.images.clear();
        self.snapshots = 0;
        self.archives.clear();
        self.unfinished.clear();
        self.aside.push(aside);
        let mut old = self.aside.len().saturating_sub(KEPT);
        self.aside.retain(|aside| {
            let stays = old == 0 || kept.iter().any(|kept| kept.path == aside.to);
            old = old.saturating_sub(1);
            stays
        });
    }
}

/// Loads the record, changes it and stores it, durably, when that changed
/// anything.
///
/// # Errors
/// When it cannot be stored.
pub fn update(root: &Root, change: impl FnOnce(&mut Inventory)) -> Result<Change, StateError> {
    root.make_dir(paths::RUN_DIR, 0o755)?;
    let _lock = lock::hold(root, paths::INVENTORY_LOCK)?;
    let before = match statefile::load(root, paths::INVENTORY) {
        Ok(loaded) => loaded.value().unwrap_or_default(),
        // What is damaged in both copies says nothing; what cannot be read may say all.
        Err(StateError::File(error)) => return Err(error.into()),
        Err(_) => Inventory::default(),
    };
    let mut after = before.clone();
    change(&mut after);
    if after == before {
        return Ok(Change::Unchanged);
    }
    root.make_dir(paths::STATE_DIR, 0o700)?;
    statefile::store(root, paths::INVENTORY, &after)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::facts::store::Store;
    use crate::plan::store::unrecorded;

    #[test]
    fn a_change_is_kept_and_none_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert!(!update(&root, |_| {}).unwrap().is_change());
        assert!(!root.exists(paths::INVENTORY));
        let add = |inventory: &mut Inventory| {
            inventory.images.insert("docker.io/lab/tiny:1".into(), "sha256:aa".into());
        };
        assert!(update(&root, add).unwrap().is_change());
        assert!(!update(&root, add).unwrap().is_change());
        assert_eq!(Inventory::load(&root).images.len(), 1);
    }

    #[test]
    fn every_store_that_is_kept_is_remembered_and_of_others_the_newest() {
        let path = |number: u64| format!("/var/lib/containerd.quarantine-{number}");
        let kept: Vec<Kept> =
            (1..=14_u64).map(|number| Kept { path: path(number), moved_at: number, blob_bytes: 0 }).collect();
        let mut inventory = Inventory::default();
        for number in 1..=14 {
            let aside =
                SetAside { to: path(number), reason: String::new(), boot_id: String::new(), at: number };
            inventory.set_aside(aside, &kept);
        }
        let store = |kept: &[Kept], inventory: &Inventory| Store {
            kept: kept.to_vec(),
            aside: inventory.aside.clone(),
            ..Store::default()
        };
        assert_eq!(unrecorded(&store(&kept, &inventory)).count(), 0, "{:?}", inventory.aside);
        // A person deleted all but two: the next one forgets what is neither there nor new.
        let aside = SetAside { to: path(15), reason: String::new(), boot_id: String::new(), at: 15 };
        inventory.set_aside(aside, &kept[..2]);
        let times: Vec<u64> = inventory.aside.iter().map(|aside| aside.at).collect();
        assert_eq!(times, [1, 2, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
        assert_eq!(unrecorded(&store(&kept[..2], &inventory)).count(), 0);
    }
}
