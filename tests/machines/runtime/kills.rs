//! The daemon is killed in the middle of work that it has given to systemd: the
//! work goes on, and the next daemon finds it and ends well.

use std::time::Instant;

use edge_lab::{RootFs, say};

use super::room::Room;

/// Waits for an act, kills the daemon, waits until systemd knows, and says
/// whether a process of the act lives on.
const KILL: &str = r#"
act=/sys/fs/cgroup/system.slice/edge-bootstrap-act-$1.service
at=0
until [ -s "$act/cgroup.procs" ] && [ -n "$(cat "$act/cgroup.procs")" ]; do
  at=$((at + 1))
  [ "$at" -lt 6000 ]
  sleep 0.02
done
pid=$(systemctl show -P MainPID edge-bootstrap)
kill -9 "$pid"
until [ "$(systemctl show -P MainPID edge-bootstrap)" != "$pid" ]; do sleep 0.02; done
cat "$act/cgroup.procs" 2>/dev/null || true
"#;

#[test]
fn a_daemon_killed_while_a_pool_is_made_and_while_an_image_is_imported_ends_both() {
    let room = Room::bare("kill-acts", RootFs::XfsNoFtype);
    room.give_assignment();
    let began = Instant::now();
    room.machine.sh("systemctl restart edge-bootstrap --no-block").unwrap();
    for act in ["create-pool", "import-images"] {
        let lives = room.machine.sh(&format!("set -- {act}\n{KILL}")).unwrap_or_else(|error| {
            panic!("{act}: {error:#}\n{}", room.journal());
        });
        say(&format!("killed the daemon during {act}; of the act live on: {:?}", lives.split_whitespace()));
        assert!(!lives.is_empty(), "{act} died with the daemon, or ended too early to be seen");
    }
    let well = room.wait_well(began).unwrap();
    say(&format!("all well after {:.1?};{}", well.after, well.acts));
    let ends = room.machine.sh(
        "journalctl -b -o cat --no-pager _PID=1 | grep -E 'edge-bootstrap-act-.*(Failed|killed)' || true",
    );
    assert_eq!(ends.unwrap(), "", "an act did not end by itself");
    assert_eq!(room.machine.sh("lvs --noheadings -o lv_name | wc -l").unwrap(), "1", "one pool was made");
}
