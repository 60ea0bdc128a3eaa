//! What the rows look at, read once from facts, assignment and settings.
//!
//! Owns the conditions that more than one row needs. Decides nothing.

use std::collections::BTreeMap;

use crate::facts::HostFacts;
use crate::facts::runtime::FileFact;
use crate::facts::storage::{Choice, Look, Named, OverlayTest, Storage, StoreRoot};
use crate::plan::item::{PoolSpace, PoolWish};
use crate::plan::refusal::Refusal;
use crate::plan::{Inputs, Local, store};
use crate::role::{Duty, Snapshotter};

/// File systems on which overlayfs has always worked, when they tell types.
const GOOD: [&str; 5] = ["ext2", "ext3", "ext4", "xfs", "btrfs"];
/// Those that cannot hold an upper directory; `fuse.…` as well.
const NO_UPPER: [&str; 16] = [
    "nfs",
    "nfs4",
    "fuse",
    "fuseblk",
    "overlay",
    "aufs",
    "zfs",
    "cifs",
    "smb3",
    "9p",
    "ceph",
    "glusterfs",
    "vfat",
    "exfat",
    "ntfs3",
    "ecryptfs",
];
/// Those that forget everything.
const VOLATILE: [&str; 2] = ["tmpfs", "ramfs"];

/// What people want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// Facts decide.
    Auto,
    /// This one.
    For(Snapshotter),
}

/// Everything that decides.
pub(super) struct Case<'a> {
    pub storage: &'a Storage,
    pub files: &'a BTreeMap<String, FileFact>,
    pub root: Option<&'a StoreRoot>,
    pub look: Option<&'a Look>,
    pub recorded: Option<&'a Choice>,
    pub by_assignment: Option<Snapshotter>,
    pub by_settings: Option<Snapshotter>,
    pub local: Option<&'a PoolWish>,
    pub kernel: Option<&'a str>,
    pub containerd: Option<(u32, u32, u32)>,
    /// containerd runs.
    pub is_running: bool,
}

impl<'a> Case<'a> {
    pub fn of(inputs: Inputs<'a>, duty: &Duty) -> Self {
        let facts = inputs.facts;
        let storage = &facts.storage;
        Self {
            storage,
            files: &facts.runtime.files,
            root: storage.root.known(),
            look: storage.look.known(),
            recorded: recorded(facts),
            by_assignment: duty.runtime.snapshotter,
            by_settings: inputs.local.snapshotter,
            local: inputs.local.devmapper.as_ref(),
            kernel: facts.system.kernel.known().map(String::as_str),
            containerd: facts.runtime.containerd.version.known().copied(),
            is_running: store::runs(facts),
        }
    }

    /// The assignment stands above the host's settings.
    pub fn asked(&self) -> Asked {
        self.by_assignment.or(self.by_settings).map_or(Asked::Auto, Asked::For)
    }

    /// Snapshots of `snapshotter` in the store; `None`: not known.
    pub fn count(&self, snapshotter: Snapshotter) -> Option<u64> {
        self.content(&snapshotter.to_string())
    }

    fn content(&self, name: &str) -> Option<u64> {
        Some(self.storage.content.known()?.get(name).copied().unwrap_or(0))
    }

    /// Whether the store is known to hold something of `snapshotter`.
    pub fn holds(&self, snapshotter: Snapshotter) -> bool {
        self.count(snapshotter).is_some_and(|count| count > 0)
    }

    pub fn fs_type(&self) -> Option<&'a str> {
        self.root.map(|root| root.fs_type.as_str()).filter(|name| !name.is_empty())
    }

    pub fn is_good(&self) -> bool {
        self.fs_type().is_some_and(|name| GOOD.contains(&name))
    }

    pub fn is_no_upper(&self) -> bool {
        self.fs_type().is_some_and(is_no_upper)
    }

    pub fn is_volatile(&self) -> bool {
        self.fs_type().is_some_and(|name| VOLATILE.contains(&name))
    }

    pub fn lacks_ftype(&self) -> bool {
        self.root.is_some_and(|root| root.xfs_ftype.known() == Some(&Some(false)))
    }

    pub fn lacks_d_type(&self) -> bool {
        self.root.is_some_and(|root| root.d_type.known() == Some(&false))
    }

    pub fn overlay(&self) -> Option<&'a OverlayTest> {
        self.look?.overlay.known()
    }

    /// Kernels before 4.0 mount one lower directory only; the enterprise kernel
    /// learnt more in 3.10.0-693 (containerd: plugins/snapshots/overlay/overlayutils).
    pub fn is_old_kernel(&self) -> bool {
        let Some(kernel) = self.kernel else { return false };
        let mut numbers = kernel.split(|c: char| !c.is_ascii_digit()).map(|text| text.parse::<u64>().ok());
        let mut next = || numbers.next().flatten();
        let (Some(major), Some(minor)) = (next(), next()) else { return false };
        let (patch, release) = (next(), next());
        let backported = (major, minor, patch) == (3, 10, Some(0)) && release.is_some_and(|it| it >= 693);
        major < 4 && !backported
    }

    pub fn is_elsewhere(&self) -> bool {
        let both = self.recorded.zip(self.root);
        both.is_some_and(|(recorded, root)| elsewhere(recorded, root).is_some())
    }

    /// `choice` with the file system as it is now, as far as that is known.
    pub fn here(&self, choice: Choice) -> Choice {
        let Some(root) = self.root else { return choice };
        Choice {
            mount_point: root.mount_point.clone(),
            fs_type: root.fs_type.clone(),
            uuid: root.uuid.known().cloned().or(choice.uuid),
            ..choice
        }
    }
}

fn is_no_upper(fs_type: &str) -> bool {
    NO_UPPER.contains(&fs_type) || fs_type.starts_with("fuse.")
}

fn recorded(facts: &HostFacts) -> Option<&Choice> {
    facts.storage.choice.known()?.as_ref()
}

/// Why containerd's root is not where it was when the snapshotter was chosen:
/// the disk that held it is not mounted, or it is another one. One that a person
/// mounted over the old place is a move, and no loss: a missing mount never
/// makes the path to the root longer. Where the record itself lies on the mount
/// that it names, store and record came together: a disk that was copied whole,
/// and whether this host may be its owner is asked of the identity alone.
#[must_use]
pub fn elsewhere(choice: &Choice, root: &StoreRoot) -> Option<Refusal> {
    // autofs: mounted when somebody looks into it, and no evidence before.
    if choice.mount_point.is_empty() || root.mount_point.is_empty() || root.fs_type == "autofs" {
        return None;
    }
    let same = match (&choice.uuid, root.uuid.known()) {
        (Some(before), Some(now)) => before == now,
        _ => (&choice.mount_point, &choice.fs_type) == (&root.mount_point, &root.fs_type),
    };
    // A memory file system or an overlay hides the place: nothing moved there.
    let holds = !is_no_upper(&root.fs_type) && !VOLATILE.contains(&root.fs_type.as_str());
    let deeper = root.mount_point.len() > choice.mount_point.len()
        && root.mount_point.starts_with(choice.mount_point.as_str());
    let came_along = root.holds_records && choice.mount_point == root.mount_point;
    (!same && !(holds && (deeper || came_along))).then(|| {
        let before = choice.uuid.as_deref().unwrap_or(&choice.fs_type);
        let reason = format!(
            "containerd's root is on {} ({} at {}), expected {before} at {}: is its disk not mounted?",
            root.source, root.fs_type, root.mount_point, choice.mount_point
        );
        Refusal::new("EB-storage-root", reason, NEXT)
    })
}

const NEXT: &str = "mount the file system that holds it (lsblk -f, /etc/fstab); when it was moved on purpose: edge-bootstrap gate allow --code EB-storage-root --for 1h --reason TEXT";

/// What a look at this host's pool shall look for: the pool of its store, or the
/// one that its settings name.
#[must_use]
pub fn named(facts: &HostFacts, local: &Local) -> Named {
    let pool = recorded(facts).and_then(|choice| choice.pool.clone());
    let settings = local.devmapper.as_ref();
    let space = settings.and_then(|devmapper| devmapper.space.as_ref());
    Named {
        pool: pool.or_else(|| settings.map(|devmapper| devmapper.pool.clone())),
        group: match space {
            Some(PoolSpace::VolumeGroup(name)) => Some(name.clone()),
            _ => None,
        },
        device: match space {
            Some(PoolSpace::Device(path)) => Some(path.clone()),
            _ => None,
        },
    }
}
