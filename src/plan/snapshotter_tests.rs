//! Laws of the decision, over any facts.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::facts::devices::{Ahead, Device as ThinDevice};
use crate::facts::runtime::Unit;
use crate::facts::storage::{Device, Look, Named, OverlayTest, Pool, Storage, StoreRoot, VolumeGroup};
use crate::facts::{Fact, HostFacts};
use crate::plan::{Local, PoolSpace, PoolWish};
use crate::role::{self, Assignment};

const POOL: &str = "edge-thinpool";

fn assignment(asked: &str) -> Assignment {
    let payload = json!({
        "schema": 1, "generation": 7, "site": "hz-017", "role": "agent", "join": {"agent_token": "abcdef"},
        "node": {"name": "172-16-36-4", "ip": "172.16.36.4"},
        "cluster": {"name": "hz-017", "epoch": 1, "cluster_cidr": "10.253.0.0/16", "service_cidr": "10.254.0.0/16",
            "init": false, "ca_hash": "5d".repeat(32), "servers": ["https://172.16.36.1:6443"]},
        "k3s": {"version": "v1.36.2+k3s1"}, "runtime": {"snapshotter": asked},
    });
    role::parse_payload(payload.to_string().as_bytes()).unwrap()
}

/// A host, what is asked of it, and its settings.
#[derive(Debug, Clone)]
struct World {
    storage: Storage,
    kernel: Fact<String>,
    asked: &'static str,
    settings: Option<Snapshotter>,
    pool: Option<(bool, bool)>,
}

impl World {
    fn decide(&self) -> Result<Decided, WaitingOn> {
        let mut facts = HostFacts { storage: self.storage.clone(), ..HostFacts::default() };
        facts.system.kernel = self.kernel.clone();
        let local = self.local();
        let assignment = assignment(self.asked);
        let inputs = Inputs { facts: &facts, assignment: &assignment, local: &local, confirmed: true };
        decide(inputs, assignment.duty.as_ref().unwrap())
    }

    fn local(&self) -> Local {
        let devmapper = self.pool.map(|(create, device)| {
            let space = if device {
                PoolSpace::Device("/dev/sdb".to_owned())
            } else {
                PoolSpace::VolumeGroup("edge".to_owned())
            };
            PoolWish { pool: POOL.to_owned(), space: Some(space), create }
        });
        Local { snapshotter: self.settings, devmapper, ..Local::default() }
    }
}

fn fact<T: Clone + std::fmt::Debug>(known: impl Strategy<Value = T>) -> impl Strategy<Value = Fact<T>> {
    prop_oneof![3 => known.prop_map(Fact::Known), 1 => Just(Fact::unknown("not seen"))]
}

fn choice() -> impl Strategy<Value = Choice> {
    let snapshotter = prop_oneof![Just(Snapshotter::Overlayfs), Just(Snapshotter::Devmapper)];
    (snapshotter, prop::sample::select(vec!["/", "/var/lib/containerd", ""]), prop::option::of("[ab]"))
        .prop_map(|(snapshotter, mount_point, uuid)| Choice {
            snapshotter,
            pool: (snapshotter == Snapshotter::Devmapper).then(|| POOL.to_owned()),
            base_image_size: None,
            mount_point: mount_point.to_owned(),
            fs_type: "ext4".to_owned(),
            uuid,
            reason: "before".to_owned(),
        })
}

fn root() -> impl Strategy<Value = StoreRoot> {
    let fs_type =
        prop::sample::select(vec!["ext4", "xfs", "btrfs", "nfs4", "overlay", "tmpfs", "f2fs", "autofs", ""]);
    let numbers = (fact(any::<u64>()), fact(any::<u64>()), fact(prop::option::of(any::<u64>())));
    let flags = (fact(any::<bool>()), fact(prop::option::of(any::<bool>())), any::<bool>());
    let place = (prop::sample::select(vec!["/", "/var", "/var/lib/containerd"]), any::<bool>());
    (fs_type, numbers, flags, place, fact("[ab]")).prop_map(
        |(fs_type, (free, total, inodes), (d_type, ftype, read_only), (place, holds), uuid)| StoreRoot {
            mount_point: place.to_owned(),
            holds_records: holds,
            fs_type: fs_type.to_owned(),
            source: "/dev/sda2".to_owned(),
            uuid,
            d_type,
            xfs_ftype: ftype,
            read_only,
            free_bytes: free,
            total_bytes: total,
            free_inodes: inodes,
        },
    )
}

fn pool() -> impl Strategy<Value = Option<Pool>> {
    let mode = prop::sample::select(vec!["rw", "ro", "out_of_data_space", "fail", "strange"]);
    let share = || (0..5_u64, 0..5_u64);
    prop::option::of((any::<bool>(), mode, any::<bool>(), share(), share()).prop_map(
        |(active, mode, needs_check, data, metadata)| Pool {
            name: POOL.to_owned(),
            active,
            mode: mode.to_owned(),
            needs_check,
            data,
            metadata,
            volume: None,
        },
    ))
}

fn looked() -> impl Strategy<Value = Look> {
    let errno = prop::sample::select(vec!["EPERM", "ENODEV", "EINVAL"]);
    let overlay = prop_oneof![
        Just(OverlayTest::Works),
        errno.prop_map(|errno| OverlayTest::Fails { step: "mount".to_owned(), errno: errno.to_owned() }),
    ];
    let group = prop::option::of((any::<u64>(), any::<bool>()).prop_map(|(free, is_partial)| VolumeGroup {
        name: "edge".to_owned(),
        size: free,
        free,
        is_partial,
    }));
    let device = prop::option::of((any::<u64>(), any::<bool>()).prop_map(|(size, used)| Device {
        path: "/dev/sdb".to_owned(),
        size,
        in_use: used.then(|| "ext4".to_owned()).into_iter().collect(),
    }));
    let named = prop::option::of(Just(POOL.to_owned())).prop_map(|pool| Named { pool, ..Named::default() });
    let targets = prop::collection::vec(Just("thin-pool".to_owned()), 0..2);
    let tools = prop::collection::vec(Just("dmsetup".to_owned()), 0..2);
    (fact(overlay), fact(pool()), fact(group), fact(device), named, fact(targets), tools).prop_map(
        |(overlay, pool, group, device, named, targets, missing_tools)| Look {
            overlay,
            pool,
            group,
            device,
            named,
            targets,
            missing_tools,
            ..Look::default()
        },
    )
}

prop_compose! {
    fn worlds()(
        root in fact(root()), look in fact(looked()), recorded in fact(prop::option::of(choice())),
        content in fact(prop::collection::btree_map(
            prop::sample::select(vec!["overlayfs".to_owned(), "devmapper".to_owned(), "native".to_owned()]), 0..4_u64, 0..3)),
        kernel in fact(prop_oneof![Just("3.10.0-514.el7.x86_64".to_owned()), Just("6.1.0".to_owned()), "[0-9.-]{0,12}"]),
        asked in prop::sample::select(vec!["auto", "overlayfs", "devmapper"]),
        settings in prop::option::of(prop_oneof![Just(Snapshotter::Overlayfs), Just(Snapshotter::Devmapper)]),
        pool in prop::option::of((any::<bool>(), any::<bool>())),
    ) -> World {
        let storage = Storage { root, look, content, choice: recorded, ..Storage::default() };
        World { storage, kernel, asked, settings, pool }
    }
}

fn recorded(world: &World) -> Option<&Choice> {
    world.storage.choice.known().and_then(Option::as_ref)
}

fn content(world: &World, snapshotter: Snapshotter) -> Option<u64> {
    Some(world.storage.content.known()?.get(&snapshotter.to_string()).copied().unwrap_or(0))
}

fn creates(decided: &Decided) -> bool {
    decided.storage.acts.iter().any(|act| matches!(act, PoolAct::Create { .. }))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_seen_a_store_never_gets_the_other_snapshotter(world in worlds()) {
        let decided = world.decide();
        if let Some(recorded) = recorded(&world) {
            if content(&world, recorded.snapshotter) != Some(0) {
                let decided = decided.unwrap();
                prop_assert_eq!(decided.storage.choice.snapshotter, recorded.snapshotter);
                prop_assert_eq!(&decided.storage.choice.pool, &recorded.pool);
            }
        } else if let Ok(decided) = decided {
            let taken = decided.storage.choice.snapshotter;
            for other in [Snapshotter::Overlayfs, Snapshotter::Devmapper] {
                let alone = content(&world, other) > Some(0) && content(&world, taken) == Some(0);
                prop_assert!(other == taken || !alone, "{taken} in place of {other}");
            }
        }
    }

    #[test]
    fn a_pool_is_made_only_as_told_on_space_that_is_known_and_never_under_data(world in worlds()) {
        let Ok(decided) = world.decide() else { return Ok(()) };
        if creates(&decided) {
            let look = world.storage.look.known().unwrap();
            let (create, device) = world.pool.unwrap();
            prop_assert!(create && look.pool == Fact::Known(None));
            // What a host with no record holds is asked in another row.
            let data = content(&world, Snapshotter::Devmapper);
            prop_assert!(data == Some(0) || (recorded(&world).is_none() && data.is_none()));
            if device {
                prop_assert!(look.device.known().unwrap().as_ref().unwrap().in_use.is_empty());
            } else {
                prop_assert!(!look.group.known().unwrap().as_ref().unwrap().is_partial);
            }
        }
    }

    #[test]
    fn nothing_unknown_leads_to_devmapper(world in worlds()) {
        let bare = World { storage: Storage { choice: Fact::Known(None), ..Storage::default() }, ..world };
        if let Ok(decided) = bare.decide() {
            prop_assert_eq!(decided.storage.choice.snapshotter, Snapshotter::Overlayfs);
        }
    }

    #[test]
    fn what_was_decided_is_decided_again(world in worlds()) {
        let Ok(decided) = world.decide() else { return Ok(()) };
        let choice = decided.storage.choice;
        let storage = Storage { choice: Fact::Known(Some(choice.clone())), ..world.storage.clone() };
        let again = World { storage, ..world }.decide().unwrap().storage.choice;
        prop_assert_eq!(again.snapshotter, choice.snapshotter);
        if !choice.mount_point.is_empty() {
            prop_assert_eq!(again, choice);
        }
    }
}

/// A host with a pool that is up, some devices without snapshots, and containerd
/// as it is: its acts, and what is found.
fn with_devices(ahead: &[u64], containerd: &str) -> (Vec<PoolAct>, Vec<Finding>) {
    let choice = Choice {
        snapshotter: Snapshotter::Devmapper,
        pool: Some(POOL.to_owned()),
        base_image_size: None,
        mount_point: "/".to_owned(),
        fs_type: "xfs".to_owned(),
        uuid: None,
        reason: String::new(),
    };
    let pool = Pool { name: POOL.to_owned(), active: true, mode: "rw".to_owned(), ..Pool::default() };
    let named = Named { pool: Some(POOL.to_owned()), ..Named::default() };
    let mut facts = HostFacts::default();
    let look = Look { named, pool: Fact::Known(Some(pool)), ..Look::default() };
    facts.storage.look = Fact::Known(look);
    facts.storage.choice = Fact::Known(Some(choice.clone()));
    let device = |number: &u64| ThinDevice {
        name: format!("{POOL}-snap-{number}"),
        number: *number,
        id: 3,
        is_final: true,
    };
    facts.storage.store.ahead = Fact::Known(Ahead { last: 6, devices: ahead.iter().map(device).collect() });
    let unit = Unit { active: containerd.to_owned(), ..Unit::default() };
    facts.runtime.units.insert("containerd".to_owned(), Fact::Known(unit));
    let assignment = assignment("auto");
    let local = Local::default();
    let inputs = Inputs { facts: &facts, assignment: &assignment, local: &local, confirmed: true };
    let duty = assignment.duty.as_ref().unwrap();
    (decide(inputs, duty).unwrap().storage.acts, findings(inputs, duty, &choice))
}

#[test]
fn one_device_without_its_snapshot_is_let_go_where_containerd_does_not_run_and_told_where_it_does() {
    let code = |found: &[Finding]| found.iter().any(|finding| finding.refusal.code == "EB-pool-device");
    let (acts, found) = with_devices(&[7], "inactive");
    let device = format!("{POOL}-snap-7");
    assert_eq!(acts, [PoolAct::Release { pool: POOL.to_owned(), device }]);
    assert!(code(&found));
    let (acts, found) = with_devices(&[7], "active");
    assert!(acts.is_empty() && code(&found), "{acts:?}");
    for ahead in [&[][..], &[8], &[7, 8]] {
        let (acts, found) = with_devices(ahead, "inactive");
        assert!(acts.is_empty() && !code(&found), "{acts:?}");
    }
}

#[test]
fn every_row_is_in_the_document_in_the_same_order() {
    let document = include_str!("../../docs/snapshotter.md");
    let named = document.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|it| it.0));
    let named: Vec<&str> = named.filter(|name| rows().contains(name)).collect();
    assert_eq!(named, rows());
}

#[test]
fn a_store_is_elsewhere_by_its_uuid_or_by_its_place_and_not_where_a_disk_was_mounted_over_it() {
    let choice = |mount_point: &str, uuid: Option<&str>| Choice {
        snapshotter: Snapshotter::Overlayfs,
        pool: None,
        base_image_size: None,
        mount_point: mount_point.to_owned(),
        fs_type: "ext4".to_owned(),
        uuid: uuid.map(str::to_owned),
        reason: String::new(),
    };
    let root = |mount_point: &str, fs_type: &str, uuid: Option<&str>| StoreRoot {
        mount_point: mount_point.to_owned(),
        fs_type: fs_type.to_owned(),
        uuid: uuid.map_or_else(Fact::default, |uuid| Fact::Known(uuid.to_owned())),
        ..StoreRoot::default()
    };
    let data = "/var/lib/containerd";
    let table = [
        (choice(data, Some("a")), root(data, "ext4", Some("a")), false),
        (choice(data, Some("a")), root(data, "ext4", Some("b")), true),
        (choice(data, Some("a")), root("/", "ext4", Some("b")), true),
        (choice(data, None), root("/", "ext4", Some("b")), true),
        (choice(data, None), root(data, "xfs", None), true),
        (choice(data, Some("a")), root(data, "ext4", None), false),
        (choice("/", Some("a")), root(data, "xfs", Some("b")), false),
        (choice("/", Some("a")), root(data, "overlay", None), true),
        (choice("/", Some("a")), root(data, "tmpfs", None), true),
        (choice("/", None), root("/", "ext4", None), false),
        (choice("", None), root("/", "ext4", None), false),
        (choice(data, Some("a")), root(data, "autofs", None), false),
    ];
    for (choice, root, is_elsewhere) in table {
        assert_eq!(elsewhere(&choice, &root).is_some(), is_elsewhere, "{choice:?} {root:?}");
    }
    // The record lies on the same mount: the system disk was copied, or its data disk is missing.
    let table = [
        (choice("/", Some("a")), root("/", "ext4", Some("b")), false),
        (choice("/", None), root("/", "xfs", None), false),
        (choice("/var", Some("a")), root("/var", "ext4", Some("b")), false),
        (choice(data, Some("a")), root("/", "ext4", Some("b")), true),
        (choice("/var", Some("a")), root("/", "ext4", Some("b")), true),
        (choice("/", Some("a")), root("/", "tmpfs", None), true),
        (choice("/", Some("a")), root("/", "overlay", None), true),
    ];
    for (choice, root, is_elsewhere) in table {
        let root = StoreRoot { holds_records: true, ..root };
        assert_eq!(elsewhere(&choice, &root).is_some(), is_elsewhere, "{choice:?} {root:?}");
        let root = StoreRoot { holds_records: false, ..root };
        assert!(elsewhere(&choice, &root).is_some(), "{choice:?} {root:?}");
    }
}

#[test]
fn the_kernels_that_mount_several_lower_directories_are_told_apart() {
    let case = |kernel: &str| {
        let root =
            StoreRoot { fs_type: "ext4".to_owned(), mount_point: "/".to_owned(), ..StoreRoot::default() };
        let storage = Storage { root: Fact::Known(root), choice: Fact::Known(None), ..Storage::default() };
        let kernel = Fact::Known(kernel.to_owned());
        World { storage, kernel, asked: "auto", settings: None, pool: None }.decide().is_ok()
    };
    for kernel in ["3.10.0-514.el7.x86_64", "3.10.0-327.36.3.el7.x86_64", "3.10.1", "3.19.0-80-generic"] {
        assert!(!case(kernel), "{kernel}");
    }
    for kernel in
        ["3.10.0-693.el7.x86_64", "3.10.0-1160.119.1.el7.x86_64", "4.4.0-210-generic", "6.12.48", "next"]
    {
        assert!(case(kernel), "{kernel}");
    }
}

#[test]
fn content_is_counted_by_name() {
    let content = BTreeMap::from([("overlayfs".to_owned(), 3)]);
    let storage = Storage { content: Fact::Known(content), choice: Fact::Known(None), ..Storage::default() };
    let world = World { storage, kernel: Fact::default(), asked: "auto", settings: None, pool: None };
    assert!(world.decide().unwrap().storage.reason.contains("existing data (3 snapshots)"));
    let refused = World { asked: "devmapper", ..world }.decide().unwrap_err();
    assert_eq!(refused.code(), "EB-snapshotter-switch");
}
