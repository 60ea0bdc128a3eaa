//! The gate before containerd: each refusal, and everything that is no evidence.

use edge_bootstrap::facts::storage::Choice;
use edge_bootstrap::paths::{
    CONTAINERD_CONFIG, CONTAINERD_DROP_IN, CONTAINERD_ROOT, INVENTORY, STORE_HALF_ASIDE,
};
use edge_bootstrap::role::Snapshotter;
use edge_bootstrap::{gate, inventory};

use crate::tree::Host;

const DISK: &str = "27 25 8:3 / /var/lib/containerd rw - ext4 /dev/sda3 rw\n";
const SYSTEM: &str = "25 1 8:2 / / rw - ext4 /dev/sda2 rw\n";
const META: &str = "/var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db";
const BLOB: &str = "/var/lib/containerd/io.containerd.content.v1.content/blobs/sha256/aa";

/// A host whose containerd is ours, with an image, on a data disk of its own.
fn host() -> Host {
    let host = Host::containerd()
        .with(CONTAINERD_DROP_IN, "[Service]\n")
        .with(CONTAINERD_CONFIG, "version = 2\n")
        .with(META, "bytes of a database")
        .with(BLOB, "layer")
        .mounted(&format!("{SYSTEM}{DISK}"));
    recorded(&host, |_| {});
    host
}

/// Records an image and where the store was, as `change` says.
fn recorded(host: &Host, change: impl FnOnce(&mut Choice)) {
    let mut choice = Choice {
        snapshotter: Snapshotter::Overlayfs,
        pool: None,
        base_image_size: None,
        mount_point: CONTAINERD_ROOT.to_owned(),
        fs_type: "ext4".to_owned(),
        uuid: Some("bbbb-0003".to_owned()),
        reason: "a test".to_owned(),
    };
    change(&mut choice);
    inventory::update(&host.root, |inventory| {
        inventory.images.insert("docker.io/lab/tiny:1".to_owned(), "sha256:aa".to_owned());
        inventory.choice = Some(choice);
    })
    .unwrap();
}

/// Says that `/dev/sda3` has this UUID.
fn with_uuid(host: Host, uuid: &str) -> Host {
    let links = [
        ("/sys/dev/block/8:3", "../../devices/block/sda/sda3"),
        (&format!("/dev/disk/by-uuid/{uuid}"), "../../sda3"),
    ];
    for (path, target) in links {
        let path = host.root.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, path).unwrap();
    }
    host
}

// === our configuration ===

#[test]
fn containerd_without_its_own_configuration_is_refused() {
    host().goes();
    host().without(CONTAINERD_CONFIG).refused("EB-containerd-config");
    for text in ["", "\n", "version = ", "\u{0}\u{0}"] {
        host().with(CONTAINERD_CONFIG, text).refused("EB-containerd-config");
    }
}

#[test]
fn containerd_of_somebody_else_is_never_in_the_way() {
    // No drop-in of ours, whatever else lies there.
    for broken in [CONTAINERD_CONFIG, META] {
        host().with(broken, "").without(CONTAINERD_DROP_IN).goes();
    }
    host().mounted(SYSTEM).without(CONTAINERD_DROP_IN).goes();
    Host::containerd().goes();
}

#[test]
fn containerd_does_not_wait_for_name_address_or_clock() {
    host().with("/proc/sys/kernel/hostname", "localhost\n").with("/.facts/addresses", "").goes();
}

// === where the store lies ===

#[test]
fn a_data_disk_that_is_not_mounted_is_refused_until_it_is() {
    let refusal = host().mounted(SYSTEM).refused("EB-storage-root");
    assert!(refusal.reason.contains(CONTAINERD_ROOT) && refusal.reason.contains("/dev/sda2"), "{refusal}");
    host().mounted(SYSTEM).mounted(&format!("{SYSTEM}{DISK}")).goes();
    let allowed = host().mounted(SYSTEM);
    allowed.allow("EB-storage-root");
    allowed.goes();
}

#[test]
fn another_disk_in_its_place_is_refused_and_the_same_one_is_not() {
    with_uuid(host(), "bbbb-0003").goes();
    with_uuid(host(), "cccc-0004").refused("EB-storage-root");
    // The same disk under another mount point holds the same store.
    with_uuid(host().mounted(&format!("{SYSTEM}27 25 8:3 / /var rw - ext4 /dev/sda3 rw\n")), "bbbb-0003")
        .goes();
}

#[test]
fn a_file_system_of_another_type_is_refused() {
    host()
        .mounted(&format!("{SYSTEM}27 25 8:3 / {CONTAINERD_ROOT} rw - xfs /dev/sda3 rw\n"))
        .refused("EB-storage-root");
}

#[test]
fn what_is_not_known_about_the_disk_is_no_evidence() {
    // A UUID that nobody recorded, or that nothing tells now.
    let unknown = host();
    recorded(&unknown, |choice| choice.uuid = None);
    with_uuid(unknown, "cccc-0004").goes();
    host().goes();
    // Nothing was recorded, or before anybody looked.
    let early = host();
    recorded(&early, |choice| (choice.mount_point, choice.uuid) = (String::new(), None));
    early.mounted(SYSTEM).goes();
    host().mounted(SYSTEM).without(INVENTORY).without(&format!("{INVENTORY}.prev")).goes();
    // Mounted when somebody looks into it.
    let automatic = format!("{SYSTEM}26 25 0:40 / {CONTAINERD_ROOT} rw - autofs systemd-1 rw\n");
    host().mounted(&automatic).goes();
    // No table at all.
    let verdict = host().without("/proc/self/mountinfo").goes();
    assert!(verdict.notes.iter().any(|note| note.contains("mount")), "{:?}", verdict.notes);
}

#[test]
fn a_disk_that_a_person_mounted_over_the_old_place_is_a_move() {
    let moved = host();
    recorded(&moved, |choice| (choice.mount_point, choice.uuid) = ("/".to_owned(), None));
    moved.goes();
}

#[test]
fn a_system_disk_that_was_copied_is_no_missing_disk_and_a_data_disk_that_is_gone_is_one() {
    let system = "25 1 8:3 / / rw - ext4 /dev/sda3 rw\n";
    let copied = with_uuid(host().mounted(system), "cccc-0004");
    recorded(&copied, |choice| choice.mount_point = "/".to_owned());
    copied.goes();
    let records = "28 25 8:4 / /var/lib/edge-bootstrap rw - ext4 /dev/sda4 rw\n";
    copied.mounted(&format!("{system}{records}")).refused("EB-storage-root");
    with_uuid(host().mounted(system), "cccc-0004").refused("EB-storage-root");
}

#[test]
fn a_damaged_record_is_told_and_is_no_evidence() {
    let host =
        host().mounted(SYSTEM).with(META, "").with(INVENTORY, "{").with(&format!("{INVENTORY}.prev"), "{");
    let notes = host.goes().notes;
    assert_eq!(notes.iter().filter(|note| note.contains("inventory")).count(), 1, "{notes:?}");
}

// === the pool ===

fn thin() -> Host {
    let host = host().with("/sys/block/sda/size", "1").with("/sys/block/dm-0/dm/name", "vg0-root\n");
    recorded(&host, |choice| {
        (choice.snapshotter, choice.pool) = (Snapshotter::Devmapper, Some("vg0-thin".to_owned()))
    });
    host
}

#[test]
fn a_thin_pool_that_is_not_active_is_refused_until_it_is() {
    let refusal = thin().refused("EB-pool-inactive");
    assert!(refusal.reason.contains("vg0-thin"), "{refusal}");
    thin().with("/sys/block/dm-3/dm/name", "vg0-thin\n").goes();
    // With overlayfs nobody asks.
    host().with("/sys/block/sda/size", "1").goes();
}

#[test]
fn devices_that_cannot_be_read_are_no_evidence() {
    let host = host();
    recorded(&host, |choice| {
        (choice.snapshotter, choice.pool) = (Snapshotter::Devmapper, Some("vg0-thin".to_owned()))
    });
    host.goes();
    thin().with("/sys/block/dm-3/size", "no name is told").goes();
    let nameless = thin();
    recorded(&nameless, |choice| (choice.snapshotter, choice.pool) = (Snapshotter::Devmapper, None));
    nameless.goes();
}

// === a store that a start would erase ===

#[test]
fn an_empty_database_that_named_images_is_refused() {
    let host = host().with(META, "");
    let refusal = host.refused("EB-store-empty");
    assert!(
        refusal.reason.contains("named 1 images") && refusal.next.contains("edge-bootstrap apply"),
        "{refusal}"
    );
    assert!(gate::allow_command(&refusal.code).contains("--i-accept-data-loss"), "{refusal}");
    host.allow("EB-store-empty");
    host.goes();
}

#[test]
fn a_database_that_is_gone_is_refused_where_its_blobs_are_there() {
    host().without(META).refused("EB-store-empty");
    host().without(META).without(BLOB).goes();
}

#[test]
fn an_empty_database_of_a_host_without_images_starts() {
    let host = host().with(META, "");
    inventory::update(&host.root, |inventory| inventory.images.clear()).unwrap();
    host.goes();
}

#[test]
fn a_damaged_database_is_containerds_own_to_refuse() {
    // It ends at it by itself, and the agent sets it aside; nothing is erased.
    host().with(META, "x").goes();
}

#[test]
fn a_store_that_is_half_set_aside_is_refused() {
    host().with(&format!("{STORE_HALF_ASIDE}/opt/x"), "").refused("EB-store-empty");
    host().with(&format!("{CONTAINERD_ROOT}/.quarantine-1/opt/x"), "").goes();
}
