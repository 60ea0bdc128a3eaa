//! The daemon is killed in the middle of work that it has given to systemd: the
//! work goes on, and the next daemon finds it and ends well.

use std::time::Instant;

use edge_lab::{RootFs, say};

use super::room::Room;

/// Waits for an act, kills the daemon, waits until systemd knows, and says
/// whether a process of the act lives on. A file of a cgroup has no size: it is read.
const KILL: &str = r#"
act=/sys/fs/cgroup/system.slice/edge-bootstrap-act-$1.service/cgroup.procs
at=0
until { read -r first <"$act"; } 2>/dev/null; do
  at=$((at + 1))
  [ "$at" -lt 6000 ]
  sleep 0.02
done
pid=$(systemctl show -P MainPID edge-bootstrap)
kill -9 "$pid"
until [ "$(systemctl show -P MainPID edge-bootstrap)" != "$pid" ]; do sleep 0.02; done
cat "$act" 2>/dev/null || true
"#;

#[test]
fn a_daemon_killed_while_a_pool_is_made_and_while_an_image_is_imported_ends_both() {
    let room = Room::bare("kill-acts", RootFs::XfsNoFtype);
    room.give_assignment();
    // Containers are run from the start, as after a boot.
    room.machine.sh("systemctl restart --no-block edge-bootstrap lab-pods").unwrap();
    for act in ["create-pool", "import-images"] {
        let lives = room.machine.sh(&format!("set -- {act}\n{KILL}")).unwrap_or_else(|error| {
            panic!("{act}: {error:#}\n{}", room.journal());
        });
        say(&format!(
            "killed the daemon during {act}; of the act live on: {:?}",
            lives.lines().collect::<Vec<_>>()
        ));
        assert!(!lives.is_empty(), "{act} died with the daemon, or ended too early to be seen");
    }
    let well = room.wait_well(Instant::now()).unwrap();
    say(&format!(
        "all well {:.1?} after the second kill; {}; failed: {:?}",
        well.after,
        well.said.acts(),
        well.said.failures()
    ));
    let failed = well.said.failures();
    assert!(
        failed.iter().all(|unit| unit.starts_with("edge-bootstrap.service: ")),
        "more than the daemon: {failed:#?}"
    );
    assert_eq!(failed.len(), 2, "the daemon was killed twice: {failed:#?}");
    assert_eq!(room.machine.sh("lvs --noheadings -o lv_name | wc -l").unwrap(), "1", "one pool was made");
}
