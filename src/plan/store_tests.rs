#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise")]

use super::*;
use crate::facts::devices::{Ahead, Device};
use crate::facts::storage::{Choice, Database};
use crate::facts::store::SetAside;

const OVERLAY: &str = "io.containerd.snapshotter.v1.overlayfs/metadata.db";

/// A store that held three images, with all down.
fn host(states: &[(&str, DatabaseState)]) -> HostFacts {
    let mut facts = HostFacts::default();
    let database = |(name, state): &(&str, DatabaseState)| Database {
        path: format!("{}/{name}", paths::CONTAINERD_ROOT),
        state: state.clone(),
    };
    facts.storage.databases = Fact::Known(states.iter().map(database).collect());
    facts.storage.choice = Fact::Known(Some(choice(Snapshotter::Overlayfs)));
    facts.storage.store = Store {
        images: 3,
        snapshots: 5,
        has_blobs: Fact::Known(true),
        unpacked: Fact::Known(vec!["overlayfs".to_owned()]),
        shims: Fact::Known(Vec::new()),
        mounts: Fact::Known(Vec::new()),
        boot_id: Fact::Known("this".to_owned()),
        past: 10 * TERM,
        ..Store::default()
    };
    facts
}

fn choice(snapshotter: Snapshotter) -> Choice {
    Choice {
        snapshotter,
        pool: Some("vg0-thin".to_owned()),
        base_image_size: None,
        mount_point: "/".to_owned(),
        fs_type: "ext4".to_owned(),
        uuid: None,
        reason: String::new(),
    }
}

fn whole() -> HostFacts {
    host(&[(META, DatabaseState::Whole), (OVERLAY, DatabaseState::Whole)])
}

fn empty_meta() -> HostFacts {
    host(&[(META, DatabaseState::Empty), (OVERLAY, DatabaseState::Whole)])
}

fn nothing_was_there(mut facts: HostFacts) -> HostFacts {
    let store = &mut facts.storage.store;
    (store.images, store.snapshots) = (0, 0);
    (store.has_blobs, store.unpacked) = (Fact::Known(false), Fact::Known(Vec::new()));
    facts
}

fn aside(boot_id: &str, at: u64) -> SetAside {
    SetAside {
        to: format!("/x-{at}"),
        reason: "meta.db is empty".to_owned(),
        boot_id: boot_id.to_owned(),
        at,
    }
}

fn unit(active: &str, sub: &str, main_pid: u32) -> Fact<Unit> {
    Fact::Known(Unit { active: active.to_owned(), sub: sub.to_owned(), main_pid, ..Unit::default() })
}

fn moved(facts: &HostFacts) -> String {
    match decide(facts) {
        Some(Cure::SetAside(item)) => {
            assert_eq!(
                (item.path.as_str(), item.needs_stopped.as_str()),
                ("/var/lib/containerd", "containerd.service")
            );
            item.reason
        }
        other => panic!("{other:?}"),
    }
}

fn stays(facts: &HostFacts) -> Refusal {
    match decide(facts) {
        Some(Cure::Stays(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_whole_store_and_one_that_cannot_be_read_are_left_alone() {
    assert_eq!(decide(&whole()), None);
    let mut facts = empty_meta();
    facts.storage.databases = Fact::unknown("input/output error");
    assert_eq!(decide(&facts), None);
}

#[test]
fn each_damage_of_a_database_sets_the_whole_store_aside() {
    let damaged = || DatabaseState::Damaged("it has 100 bytes".to_owned());
    let rows = [
        (
            vec![(META, DatabaseState::Empty), (OVERLAY, DatabaseState::Whole)],
            "meta.db is empty, and it named 3 images",
        ),
        (vec![(META, damaged()), (OVERLAY, DatabaseState::Whole)], "meta.db is damaged: it has 100 bytes"),
        (vec![(OVERLAY, DatabaseState::Whole)], "meta.db is gone, and it named 3 images"),
        (
            vec![(META, DatabaseState::Whole), (OVERLAY, DatabaseState::Empty)],
            "metadata.db is empty, and snapshots",
        ),
        (
            vec![(META, DatabaseState::Whole), (OVERLAY, damaged())],
            "metadata.db is damaged: it has 100 bytes",
        ),
        (vec![(META, DatabaseState::Whole)], "metadata.db is gone, and snapshots were there"),
    ];
    for (states, words) in rows {
        let reason = moved(&host(&states));
        assert!(reason.contains(words), "{reason}");
    }
}

#[test]
fn an_empty_database_counts_only_where_something_was_there() {
    assert_eq!(decide(&nothing_was_there(empty_meta())), None);
    assert_eq!(decide(&nothing_was_there(host(&[]))), None, "a host before its first start");
    let begun = host(&[(META, DatabaseState::Whole), (OVERLAY, DatabaseState::Empty)]);
    assert_eq!(decide(&nothing_was_there(begun)), None);
    let evidence: [fn(&mut Store); 3] = [
        |store| store.images = 1,
        |store| store.has_blobs = Fact::Known(true),
        |store| store.unpacked = Fact::Known(vec!["overlayfs".to_owned()]),
    ];
    for add in evidence {
        let mut facts = nothing_was_there(empty_meta());
        add(&mut facts.storage.store);
        moved(&facts);
    }
}

#[test]
fn a_snapshotter_that_is_not_in_use_may_be_damaged() {
    let other = "io.containerd.snapshotter.v1.native/metadata.db";
    let states = [
        (META, DatabaseState::Whole),
        (OVERLAY, DatabaseState::Whole),
        (other, DatabaseState::Damaged("x".into())),
    ];
    assert_eq!(decide(&host(&states)), None);
    // Before there is a choice, one counts that holds something.
    let mut facts = host(&states);
    facts.storage.choice = Fact::Known(None);
    assert_eq!(decide(&facts), None);
    facts.storage.store.unpacked = Fact::Known(vec!["native".to_owned()]);
    moved(&facts);
}

#[test]
fn a_move_that_was_interrupted_goes_on_whatever_the_budget_says() {
    let mut facts = nothing_was_there(host(&[]));
    facts.storage.store.half_aside = true;
    facts.storage.store.aside = vec![aside("this", 10 * TERM), aside("this", 10 * TERM)];
    assert!(moved(&facts).contains("when the power went"));
}

#[test]
fn a_store_that_somebody_uses_stays_until_the_next_boot() {
    let users: [fn(&mut HostFacts); 5] = [
        |facts| drop(facts.runtime.units.insert("containerd".into(), unit("active", "running", 7))),
        |facts| drop(facts.runtime.units.insert("containerd".into(), unit("activating", "start", 8))),
        |facts| facts.storage.store.shims = Fact::Known(vec![41, 42]),
        |facts| facts.storage.store.mounts = Fact::Known(vec!["/var/lib/containerd/x".into()]),
        |facts| facts.storage.store.shims = Fact::unknown("permission denied"),
    ];
    for add in users {
        let mut facts = empty_meta();
        add(&mut facts);
        let refusal = stays(&facts);
        assert!(refusal.code == "EB-store-damaged" && refusal.next.contains("reboot"), "{refusal}");
    }
    let mut facts = empty_meta();
    for (name, state) in
        [("containerd", unit("activating", "auto-restart", 0)), ("k3s", unit("inactive", "dead", 0))]
    {
        facts.runtime.units.insert(name.into(), state);
    }
    moved(&facts);
    // k3s that runs without containerd has nothing of the store; what it started counts.
    facts.runtime.units.insert("k3s".into(), unit("active", "running", 9));
    facts.runtime.units.insert("k3s-agent".into(), unit("activating", "start", 10));
    moved(&facts);
    facts.storage.store.shims = Fact::Known(vec![41]);
    assert!(stays(&facts).reason.contains("containers run on (process 41)"));
}

#[test]
fn a_thin_pool_is_never_parted_from_its_store() {
    let mut facts = empty_meta();
    facts.storage.choice = Fact::Known(Some(choice(Snapshotter::Devmapper)));
    let refusal = stays(&facts);
    assert!(refusal.reason.contains("vg0-thin") && refusal.next.contains("lvremove"), "{refusal}");
    // Its third database counts too.
    let pool = "io.containerd.snapshotter.v1.devmapper/vg0-thin.db";
    let devmapper = "io.containerd.snapshotter.v1.devmapper/metadata.db";
    let states = [META, devmapper].map(|name| (name, DatabaseState::Whole));
    let mut facts = host(&[&states[..], &[(pool, DatabaseState::Damaged("x".into()))]].concat());
    facts.storage.choice = Fact::Known(Some(choice(Snapshotter::Devmapper)));
    assert!(stays(&facts).reason.contains("vg0-thin.db is damaged"));
}

#[test]
fn a_database_that_lacks_more_devices_than_a_cut_leaves_is_damage_of_the_store() {
    let mut facts = whole();
    facts.storage.choice = Fact::Known(Some(choice(Snapshotter::Devmapper)));
    let database = format!("{}/io.containerd.snapshotter.v1.devmapper/metadata.db", paths::CONTAINERD_ROOT);
    let databases = facts.storage.databases.known().cloned().unwrap();
    let more = Database { path: database, state: DatabaseState::Whole };
    facts.storage.databases = Fact::Known(databases.into_iter().chain([more]).collect());
    let ahead = |last, numbers: &[u64]| {
        let device = |number: &u64| Device {
            name: format!("vg0-thin-snap-{number}"),
            number: *number,
            id: 9,
            is_final: true,
        };
        Fact::Known(Ahead { last, devices: numbers.iter().map(device).collect() })
    };
    facts.storage.store.ahead = ahead(3, &[4]);
    assert_eq!(decide(&facts), None);
    for (last, numbers) in [(3, &[4, 5, 6][..]), (2, &[6])] {
        facts.storage.store.ahead = ahead(last, numbers);
        let refusal = stays(&facts);
        assert!(refusal.reason.contains("and there is vg0-thin-snap-6"), "{refusal}");
    }
}

#[test]
fn it_is_done_once_in_a_boot_and_twice_in_a_day() {
    let with = |aside: Vec<SetAside>| {
        let mut facts = empty_meta();
        facts.storage.store.aside = aside;
        facts
    };
    moved(&with(vec![aside("before", 10 * TERM)]));
    assert_eq!(stays(&with(vec![aside("this", 0)])).code, "EB-store-again");
    let often = vec![aside("before", 9 * TERM + 1), aside("before", 10 * TERM)];
    assert_eq!(stays(&with(often.clone())).code, "EB-store-again");
    moved(&with(vec![aside("before", 9 * TERM), aside("before", 10 * TERM)]));
    // A clock that stands in the future now did not move what is surely past.
    let mut facts = with(often);
    facts.system.time.now = Fact::Known(1_000 * TERM);
    assert_eq!(stays(&facts).code, "EB-store-again");
}

#[test]
fn a_store_that_was_set_aside_right_before_a_cut_counts_although_nobody_recorded_it() {
    let mut facts = empty_meta();
    let kept = |path: &str, moved_at| Kept { path: path.to_owned(), moved_at, blob_bytes: 3 << 20 };
    facts.storage.store.kept = vec![kept("/a", 10 * TERM), kept("/b", 10 * TERM)];
    assert_eq!(stays(&facts).code, "EB-store-again");
    facts.storage.store.kept[0].moved_at = TERM;
    moved(&facts);
    assert_eq!(unrecorded(&facts.storage.store).count(), 2);
}

#[test]
fn people_are_told_what_was_set_aside_and_what_may_be_deleted() {
    let mut facts = whole();
    assert_eq!((was_set_aside(&facts.storage.store), kept(&facts.storage)), (None, None));
    facts.storage.store.aside = vec![aside("this", 7)];
    assert!(was_set_aside(&facts.storage.store).unwrap().reason.ends_with("it was set aside as /x-7"));
    facts.storage.store.kept = vec![Kept { path: "/x-7".into(), moved_at: 7, blob_bytes: 3 << 20 }];
    let (words, is_short) = kept(&facts.storage).unwrap();
    assert!(words.reason.contains("3 MiB") && words.next.ends_with("rm -rf /x-7") && !is_short);
    let root = crate::facts::storage::StoreRoot { free_bytes: Fact::Known(1 << 30), ..Default::default() };
    facts.storage.root = Fact::Known(root);
    assert!(kept(&facts.storage).unwrap().1);
}
