//! Restarts of servers beside others: one at a time, each in its turn, and the
//! room's API keeps its majority all the while.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use edge_lab::room::{LONG, SITE};
use edge_lab::{Host, Room, Suite, wait_until};
use serde_json::{Value, json};

use crate::forks::three_servers;
use crate::hand::{is_active, number, property, status, status_text};
use crate::upgrade;

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/edge-bootstrap-restart";
const TURN: &str = "var/lib/edge-bootstrap/turn.json";

/// Whether the API of a host answers and has etcd's majority behind it.
pub fn serves(host: &Host) -> bool {
    // Who is down refuses at once, and who has no majority says so: only a stalled disk takes long.
    let ask = ["timeout", "15", "k3s", "kubectl", "get", "--raw", "/readyz"];
    host.exec(&ask).is_ok_and(|answer| answer.success() && answer.stdout.trim() == "ok")
}

/// Says so when work ends, also by a panic.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Asks all servers each second while `work` goes on; how many served at each look.
/// One of them that answers late is asked again, because the machine may have stalled.
pub fn probed<T>(servers: &[Host], work: impl FnOnce() -> T) -> (T, Vec<usize>) {
    let over = AtomicBool::new(false);
    let look = || -> usize {
        std::thread::scope(|scope| {
            let asked: Vec<_> = servers.iter().map(|host| scope.spawn(|| serves(host))).collect();
            asked.into_iter().map(|one| usize::from(one.join().unwrap_or(false))).sum()
        })
    };
    std::thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut seen = Vec::new();
            while !over.load(Ordering::SeqCst) {
                let begun = Instant::now();
                let served = look();
                seen.push(if served < 2 { look().max(served) } else { served });
                std::thread::sleep(Duration::from_secs(1).saturating_sub(begun.elapsed()));
            }
            seen
        });
        let work_ends = Ends(&over);
        let done = work();
        drop(work_ends);
        (done, looks.join().unwrap_or_default())
    })
}

/// Gives the site another value of a key that a running k3s reads.
fn change(room: &Room, pods: u8) {
    want(room, &format!("max-pods={}", 100 + pods));
}

fn want(room: &Room, argument: &str) {
    let file = room.lab.dir().join("k3s.json");
    std::fs::write(&file, json!({"kubelet-arg": [argument]}).to_string()).unwrap();
    let words = ["site", "set", SITE, "--k3s-config-file", file.to_str().unwrap()];
    room.central.run(&words).unwrap().ok().unwrap();
}

/// Identity of what runs: it changes with every start.
fn start_of(host: &Host) -> String {
    property(host, "k3s", "InvocationID")
}

/// Waits until every server runs with what the site wants now.
fn wait_rolled(room: &Room, servers: &[Host], before: &[String]) {
    let rolled = wait_until(LONG, "every server was restarted and is steady", || {
        let is_done = |(host, before): (&Host, &String)| {
            let said = status(host);
            let none_due = said["pending_restarts"].as_array().is_some_and(Vec::is_empty);
            none_due && said["phase"] == "steady" && start_of(host) != *before && is_active(host, "k3s")
        };
        Ok(servers.iter().zip(before).all(is_done).then_some(()))
    });
    let told = || room.hosts.iter().map(status_text).collect::<Vec<_>>().join("\n");
    assert!(rolled.is_ok(), "{}", told());
}

/// Who has the room's Lease; empty: nobody.
fn holder(host: &Host) -> Option<String> {
    let answer = host.exec(&["timeout", "5", "k3s", "kubectl", "get", "--raw", LEASE]).ok()?;
    let lease: Value = serde_json::from_str(&answer.stdout).ok()?;
    Some(lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned())
}

fn wait_free(host: &Host) {
    let free = wait_until(LONG, "the Lease is given back", || {
        Ok((holder(host).is_some_and(|holder| holder.is_empty())).then_some(()))
    });
    assert!(free.is_ok(), "it is held by {:?}", holder(host));
}

/// From the stop of each server's k3s to its READY, on the one clock of all hosts, in microseconds.
pub fn downtimes(servers: &[Host]) -> Vec<(u64, u64)> {
    let at = |host: &Host, name: &str| number(host, "k3s", &format!("{name}TimestampMonotonic"));
    let mut all: Vec<_> =
        servers.iter().map(|host| (at(host, "ActiveExit"), at(host, "ActiveEnter"))).collect();
    all.sort_unstable();
    all
}

/// A value at which the kubelet of a server ends k3s some seconds after READY: whose
/// turn it is goes back by itself, and gives the Lease back. Then it is taken back.
fn gives_way(room: &Room, servers: &[Host]) {
    let before: Vec<String> = servers.iter().map(start_of).collect();
    want(room, "v=1");
    let is_told = |host: &&Host| {
        let said = status(host);
        let mut found = said["findings"].as_array().into_iter().flatten();
        found.any(|finding| finding["code"] == "EB-rolled-back")
    };
    let went_back = wait_until(LONG, "a server goes back", || Ok(servers.iter().find(is_told)));
    let told = || room.hosts.iter().map(status_text).collect::<Vec<_>>().join("\n");
    assert!(went_back.is_ok(), "nobody went back\n{}", told());
    let first = went_back.unwrap();
    let free = wait_until(LONG, "it gives the Lease back", || {
        Ok(in_turn(std::slice::from_ref(first)).is_none().then_some(()))
    });
    assert!(free.is_ok(), "{:?} has the Lease\n{}", holder(first), told());
    assert!(is_active(first, "k3s"), "{}", status_text(first));
    change(room, 3);
    wait_rolled(room, servers, &before);
}

/// The host whose turn it is.
fn in_turn(servers: &[Host]) -> Option<&Host> {
    servers.iter().find(|host| {
        let text = host.seen_from_outside().and_then(|root| std::fs::read_to_string(root.join(TURN)).ok());
        let record: Value = serde_json::from_str(&text.unwrap_or_default()).unwrap_or_default();
        record["body"]["open"] == true
    })
}

#[test]
fn a_change_and_a_version_roll_through_the_room_one_server_at_a_time_and_a_neighbour_restarts_nothing() {
    let mut room = three_servers("r-roll");
    let before: Vec<String> = room.hosts.iter().map(start_of).collect();
    let generation = |host: &Host| status(host)["generation"].as_u64().unwrap_or_default();
    let known: Vec<u64> = room.hosts.iter().map(generation).collect();

    // A neighbour: new generations, new files, no restart and none due.
    room.add("n4", Suite::Trixie).unwrap();
    room.wait_steady(LONG).unwrap();
    let servers = &room.hosts[..3];
    wait_until(LONG, "the servers heard of their neighbour", || {
        Ok(servers.iter().zip(&known).all(|(host, known)| generation(host) > *known).then_some(()))
    })
    .unwrap();
    room.wait_steady(LONG).unwrap();
    assert_eq!(servers.iter().map(start_of).collect::<Vec<_>>(), before, "a neighbour restarted a server");
    assert!(servers.iter().all(|host| status(host)["pending_restarts"] == json!([])));

    // A value that k3s reads: each server in its turn.
    let ((), looks) = probed(servers, || {
        change(&room, 1);
        wait_rolled(&room, servers, &before);
    });
    assert!(looks.iter().all(|served| *served >= 2), "servers that answered, second by second: {looks:?}");
    let down = downtimes(servers);
    assert!(down.windows(2).all(|two| two[0].1 <= two[1].0), "two were down at once: {down:?}");
    wait_free(&room.hosts[0]);

    // A value at which k3s ends.
    let ((), looks) = probed(servers, || gives_way(&room, servers));
    assert!(looks.iter().all(|served| *served >= 2), "servers that answered, second by second: {looks:?}");
    wait_free(&room.hosts[0]);

    // The power of a server goes in its turn: it comes back with the new value,
    // gives the Lease back, and the others follow.
    let before: Vec<String> = servers.iter().map(start_of).collect();
    let (cut, looks) = probed(servers, || {
        change(&room, 2);
        let host = wait_until(LONG, "a server's turn", || Ok(in_turn(servers))).unwrap();
        host.cut().unwrap();
        host.boot_no_wait().unwrap();
        wait_rolled(&room, servers, &before);
        host.name().to_owned()
    });
    // A power cut is no restart in its turn: who stays may need two looks to notice and to agree anew.
    let goes_on = looks.windows(3).all(|three| three.iter().any(|served| *served >= 2));
    assert!(goes_on, "{cut} was cut, and of the servers answered {looks:?}");
    wait_free(&room.hosts[0]);

    upgrade::rolls(&room);
    upgrade::is_tried_by_one(&room);
}
