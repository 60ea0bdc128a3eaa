//! A new server token: the servers of a room take it one after the other, each
//! restarts for it in its turn, and whatever is cut in between.

use std::time::Duration;

use edge_lab::room::{LONG, SITE};
use edge_lab::{Host, Room, Suite, wait_until};

use crate::forks::three_servers;
use crate::hand::{is_active, property, status, status_text, told};
use crate::roles::{assign, wait_role};
use crate::rolling::{downtimes, probed, serves};

const HELD: &str = "/var/lib/rancher/k3s/server/token";
const RECORD: &str = "/var/lib/edge-bootstrap/rotation.json";

/// The password that k3s holds.
fn held(host: &Host) -> String {
    host.sh(&format!("sed s/.*:// {HELD}")).unwrap().trim().to_owned()
}

/// The password that the next start will read.
fn in_force(host: &Host) -> String {
    let read = r#"sed s/.*:// "$(sed -n 's/^token-file: "\(.*\)"/\1/p' /etc/rancher/k3s/config.yaml)""#;
    host.sh(read).unwrap().trim().to_owned()
}

/// Every server holds another token than `before`, the same, and runs since a start
/// with it: not since that of `starts`.
fn wait_taken(room: &Room, before: &str, starts: &[String]) {
    // Three starts one after the other, of a real k3s each up to a minute.
    let limit = if room.k3s.real { Duration::from_secs(600) } else { LONG };
    let taken = wait_until(limit, "every server runs with the new token", || {
        let new = held(&room.hosts[0]);
        let has_it = |(host, start): (&Host, &String)| {
            let said = status(host);
            let none_due = said["pending_restarts"].as_array().is_some_and(Vec::is_empty);
            said["phase"] == "steady"
                && none_due
                && held(host) == new
                && in_force(host) == new
                && start_of(host) != *start
                && host.exec(&["test", "!", "-e", RECORD]).unwrap().success()
        };
        Ok((new != before && room.hosts.iter().zip(starts).all(has_it)).then_some(()))
    });
    let told = || room.hosts.iter().map(status_text).collect::<Vec<_>>().join("\n");
    assert!(taken.is_ok(), "{}", told());
}

fn start_of(host: &Host) -> String {
    property(host, "k3s", "InvocationID")
}

fn starts(room: &Room) -> Vec<String> {
    room.hosts.iter().map(start_of).collect()
}

/// How often the agent of each host restarted k3s in its turn.
fn turns(room: &Room) -> Vec<usize> {
    room.hosts.iter().map(|host| told(host, "edge-bootstrap", "turn to restart")).collect()
}

/// The power went after k3s had taken the new token and before the record in the
/// datastore was written anew: that needs etcd's majority, which is not there.
fn cut_in_between(host: &Host, new: &str) {
    let old = held(host);
    let ask = format!(
        "curl -sS -m 20 -o /dev/null -w '%{{http_code}}' --cacert /var/lib/rancher/k3s/server/tls/server-ca.crt \
         -u server:{old} -X PUT -H 'Content-Type: application/json' -d '{{\"newToken\":\"{new}\"}}' \
         https://127.0.0.1:6443/v1-k3s/token || true"
    );
    let answer = host.sh(&ask).unwrap();
    assert!(["500", "000"].contains(&answer.trim()), "{answer}");
    assert_eq!(held(host), new, "k3s took it itself, before the datastore");
    let record = format!(
        "body=\"{{\\\"former\\\":\\\"sha256:$(printf %s {old} | sha256sum | cut -c1-12)\\\"}}\"; \
         sum=$(printf %s \"$body\" | sha256sum | cut -d' ' -f1); \
         printf '{{\"schema\":1,\"sha256\":\"%s\",\"body\":%s}}\\n' \"$sum\" \"$body\" > {RECORD}; chmod 600 {RECORD}"
    );
    host.sh(&record).unwrap();
}

/// Makes `holder` the one whose turn it is, also where nobody had one yet.
fn hand_lease_to(host: &Host, holder: &str) {
    let tls = "/var/lib/rancher/k3s/server/tls";
    host.sh(&format!(
        "ask() {{ curl -sS -m 10 -o /dev/null --cacert {tls}/server-ca.crt --cert {tls}/client-admin.crt --key {tls}/client-admin.key \
           -H \"Content-Type: application/$1\" https://127.0.0.1:6443/apis/coordination.k8s.io/v1/namespaces/kube-system/leases$2 \
           -X $3 -d \"$4\" ${{5-}}; }}
         ask json '' POST '{{\"apiVersion\":\"coordination.k8s.io/v1\",\"kind\":\"Lease\",\
           \"metadata\":{{\"name\":\"edge-bootstrap-restart\",\"namespace\":\"kube-system\"}},\"spec\":{{}}}}'
         ask merge-patch+json /edge-bootstrap-restart PATCH '{{\"spec\":{{\"holderIdentity\":\"{holder}\"}}}}' -f"
    ))
    .unwrap();
}

/// The server token that the site has now, as the central service told `host`.
fn assigned(host: &Host) -> String {
    let read = "grep -o '\"payload\":\"[^\"]*' /var/lib/edge-bootstrap/assignment.json | head -n 1 | cut -d'\"' -f4 | base64 -d";
    let payload: serde_json::Value = serde_json::from_str(&host.sh(read).unwrap()).unwrap();
    payload["join"]["server_token"].as_str().unwrap().to_owned()
}

fn ends_at_users(host: &Host) -> bool {
    let ends = host.sh("journalctl -u k3s -b --no-pager | grep -c 'newer than datastore' || true").unwrap();
    ends.trim().parse::<u32>().unwrap() > 1
}

#[test]
fn a_new_server_token_brings_each_server_one_restart_in_its_turn_whatever_is_cut_in_between() {
    let mut room = three_servers("tk-room");
    let (cut, others) = room.hosts.split_first().unwrap();
    let former = held(cut);
    // Nobody's turn comes before the first server was cut within the change.
    hand_lease_to(cut, "somebody");
    room.central.run(&["site", "rotate-token", SITE]).unwrap().ok().unwrap();
    wait_until(LONG, "the host is told", || Ok((assigned(cut) != former).then_some(()))).unwrap();
    room.on_each(|host| drop(host.sh("systemctl stop edge-bootstrap").unwrap()));
    assert!(room.hosts.iter().all(|host| held(host) == former), "it waits for its turn");
    others.iter().for_each(|host| drop(host.sh("systemctl stop k3s").unwrap()));
    cut_in_between(cut, &assigned(cut));
    // Its next start may meet users that are newer than those of the datastore.
    for host in &room.hosts {
        host.sh("systemctl restart --no-block k3s").unwrap();
    }
    let two_serve = || Ok(others.iter().all(serves).then_some(()));
    wait_until(LONG, "the API is back", two_serve).unwrap();
    // A real one ends there until a pass mends it.
    let started = || Ok((serves(cut) || ends_at_users(cut)).then_some(()));
    wait_until(LONG, "the first one has started", started).unwrap();
    hand_lease_to(&others[0], "");
    let before = starts(&room);
    let ((), looks) = probed(&room.hosts, || {
        room.on_each(|host| drop(host.sh("systemctl start edge-bootstrap").unwrap()));
        wait_taken(&room, &former, &before);
    });
    assert!(looks.iter().all(|served| *served >= 2), "servers that answered, second by second: {looks:?}");
    assert_eq!(turns(&room), [1; 3], "one restart each");
    let down = downtimes(&room.hosts);
    assert!(down.windows(2).all(|two| two[0].1 <= two[1].0), "two were down at once: {down:?}");

    // Whoever joins now shows the new token.
    room.add("n4", Suite::Trixie).unwrap();
    room.wait_steady(LONG).unwrap();
    let (new, servers) = room.hosts.split_last().unwrap();
    assign(&room, new, "server");
    wait_role(new, "server", "k3s");
    assert_eq!(held(new), held(&servers[0]), "it joined with another token");
    room.wait_steady(LONG).unwrap();
    assert_eq!(turns(&room)[..3], [1; 3], "a neighbour restarted a server");
    assert!(room.hosts.iter().all(|host| is_active(host, "k3s")));
}
