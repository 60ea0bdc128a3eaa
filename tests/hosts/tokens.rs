//! A new server token: the servers of a room take it one after the other, while
//! k3s runs, and whatever is cut in between.

use edge_lab::room::{LONG, SITE};
use edge_lab::{Host, Room, wait_until};

use crate::forks::three_servers;
use crate::hand::{is_active, property, status, status_text, wait_active};
use crate::rolling::serves;

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

/// Every server holds another token than `before`, the same, and will start with it.
fn wait_taken(room: &Room, before: &str) {
    let taken = wait_until(LONG, "every server holds the new token", || {
        let new = held(&room.hosts[0]);
        let has_it = |host: &Host| {
            let is_steady = status(host)["phase"] == "steady";
            is_steady
                && held(host) == new
                && in_force(host) == new
                && host.exec(&["test", "!", "-e", RECORD]).unwrap().success()
        };
        Ok((new != before && room.hosts.iter().all(has_it)).then_some(()))
    });
    let told = || room.hosts.iter().map(status_text).collect::<Vec<_>>().join("\n");
    assert!(taken.is_ok(), "{}", told());
}

fn starts(room: &Room) -> Vec<String> {
    room.hosts.iter().map(|host| property(host, "k3s", "InvocationID")).collect()
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

/// Makes `holder` the one whose turn it is.
fn hand_lease_to(host: &Host, holder: &str) {
    let tls = "/var/lib/rancher/k3s/server/tls";
    host.sh(&format!(
        "curl -fsS -m 10 -o /dev/null --cacert {tls}/server-ca.crt --cert {tls}/client-admin.crt --key {tls}/client-admin.key \
         -X PATCH -H 'Content-Type: application/merge-patch+json' -d '{{\"spec\":{{\"holderIdentity\":\"{holder}\"}}}}' \
         https://127.0.0.1:6443/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/edge-bootstrap-restart"
    ))
    .unwrap();
}

/// The server token that the site has now, as the central service told `host`.
fn assigned(host: &Host) -> String {
    let read = "grep -o '\"payload\":\"[^\"]*' /var/lib/edge-bootstrap/assignment.json | head -n 1 | cut -d'\"' -f4 | base64 -d";
    let payload: serde_json::Value = serde_json::from_str(&host.sh(read).unwrap()).unwrap();
    payload["join"]["server_token"].as_str().unwrap().to_owned()
}

#[test]
fn a_new_server_token_reaches_every_server_without_a_restart_and_whatever_is_cut_in_between() {
    let room = three_servers("tk-room");
    let (first, before) = (held(&room.hosts[0]), starts(&room));
    let change = || room.central.run(&["site", "rotate-token", SITE]).unwrap().ok().unwrap();
    change();
    wait_taken(&room, &first);
    assert_eq!(starts(&room), before, "nothing restarted");

    // k3s knows who asks by the token of its start.
    for host in &room.hosts {
        host.sh("systemctl restart k3s").unwrap();
        wait_active(host, "k3s");
    }
    wait_taken(&room, &first);

    // Nobody's turn comes before the first server was cut within the next change.
    let (cut, others) = room.hosts.split_first().unwrap();
    let second = held(cut);
    hand_lease_to(cut, "somebody");
    wait_until(LONG, "the central service lets the token change again", || {
        Ok(room.central.run(&["site", "rotate-token", SITE])?.success().then_some(()))
    })
    .unwrap();
    wait_until(LONG, "the host is told", || Ok((assigned(cut) != second).then_some(()))).unwrap();
    room.on_each(|host| drop(host.sh("systemctl stop edge-bootstrap").unwrap()));
    assert!(room.hosts.iter().all(|host| held(host) == second), "it waits for its turn");
    others.iter().for_each(|host| drop(host.sh("systemctl stop k3s").unwrap()));
    cut_in_between(cut, &assigned(cut));
    others.iter().for_each(|host| drop(host.sh("systemctl start k3s").unwrap()));
    wait_until(LONG, "the API is back", || Ok(serves(cut).then_some(()))).unwrap();
    hand_lease_to(cut, "");
    room.on_each(|host| drop(host.sh("systemctl start edge-bootstrap").unwrap()));
    wait_taken(&room, &second);

    // The record in the datastore opens with what the files say.
    room.hosts[0].sh("systemctl restart k3s").unwrap();
    wait_active(&room.hosts[0], "k3s");
    assert!(room.hosts.iter().all(|host| is_active(host, "k3s")));
}
