//! The snapshotter is decided by what a real host can do, and nothing of the look lasts.

use edge_lab::{Host, wait_until};
use serde_json::Value;

use crate::hand::{SOON, one_steady};

fn facts(host: &Host) -> Value {
    let facts: Value = serde_json::from_str(&host.sh("edge-bootstrap facts --json").unwrap()).unwrap();
    facts["storage"].clone()
}

/// Names below containerd's root that a look could have left.
fn left(host: &Host) -> String {
    host.sh("ls -A /var/lib/containerd | grep edge-probe || true; grep edge-probe /proc/1/mountinfo || true")
        .unwrap()
}

/// Another file system at containerd's root, as a container around this host has one.
const OVERLAY: &str = "systemctl stop edge-bootstrap k3s containerd
    mkdir -p /var/ovl/l /var/ovl/u /var/ovl/w
    mount -t overlay overlay -o lowerdir=/var/ovl/l,upperdir=/var/ovl/u,workdir=/var/ovl/w /var/lib/containerd";

#[test]
fn the_snapshotter_is_decided_by_a_real_mount_that_leaves_nothing_and_what_cannot_carry_it_is_refused() {
    let room = one_steady("h-store");
    let host = &room.hosts[0];
    // A host that has overlayfs is looked at after READY.
    let seen = || Ok(Some(facts(host)).filter(|storage| storage["look"]["overlay"] == "works"));
    let storage = wait_until(SOON, "a look of this boot", seen).unwrap();
    assert_eq!(left(host), "");
    let root = &storage["root"];
    assert_eq!((&root["fs_type"], &root["d_type"]), (&Value::from("ext4"), &Value::from(true)), "{root}");
    assert!(root["free_bytes"].as_u64().unwrap() < root["total_bytes"].as_u64().unwrap(), "{root}");
    // The daemon recorded it from inside its sandbox, where /var/lib is a mount of its own.
    let choice = &storage["choice"];
    assert_eq!(
        (&choice["snapshotter"], &choice["mount_point"]),
        (&Value::from("overlayfs"), &root["mount_point"])
    );
    let real = host.sh("findmnt -no TARGET -T /var/lib/containerd").unwrap();
    assert_eq!(choice["mount_point"], real, "{choice}");

    // A host that has just joined still takes over what it learnt.
    let quiet = || Ok(Some(host.exec(&["edge-bootstrap", "plan"])?).filter(|plan| plan.code == 0));
    let plan = wait_until(SOON, "a plan that changes nothing", quiet).unwrap();
    for told in ["snapshotter overlayfs", "overlay test: works", "d_type: yes", "chosen before: overlayfs"] {
        assert!(plan.stdout.contains(told), "{told}: {}", plan.stdout);
    }

    // What an interrupted look left goes with the next one.
    host.sh(
        "mkdir -p /var/lib/containerd/.edge-probe-1/w/work; edge-bootstrap act look-at-storage --overlay",
    )
    .unwrap();
    assert_eq!(left(host), "");

    // Its disk is another one now: the host keeps its choice and says so; containerd does not start.
    host.sh(OVERLAY).unwrap();
    let told = host.exec(&["edge-bootstrap", "plan"]).unwrap().stdout;
    println!("{told}");
    assert!(told.contains("EB-storage-root") && told.contains("snapshotter overlayfs"), "{told}");
    let start = host.exec(&["systemctl", "start", "containerd"]).unwrap();
    assert_ne!(start.code, 0, "containerd started on an empty store");

    // A host that never chose is refused, with what was tried.
    host.sh("rm /var/lib/edge-bootstrap/inventory.json*; edge-bootstrap act look-at-storage --overlay")
        .unwrap();
    let failed = facts(host)["look"]["overlay"].clone();
    println!("{failed}");
    assert_eq!(failed["fails"]["step"], "mount", "{failed}");
    let refused = host.exec(&["edge-bootstrap", "plan"]).unwrap();
    println!("{}", refused.stderr);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("overlay cannot be an overlay upper directory"), "{}", refused.stderr);
    assert_eq!(left(host), "");
}
