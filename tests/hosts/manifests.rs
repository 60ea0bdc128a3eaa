//! The manifests of a site on a real host: applied by k3s, withdrawn through its
//! API, across a power cut.

use edge_lab::room::{LONG, SITE};
use edge_lab::{Host, Room, wait_until};
use serde_json::Value;

use crate::hand::{SOON, invocations, one_steady, status_text};

const FILE: &str = "/var/lib/rancher/k3s/server/manifests/eb-base.yaml";
const ADDON: &str = "/apis/k3s.cattle.io/v1/namespaces/kube-system/addons/eb-base";

/// Gives the site this manifest; none where it is empty.
fn assign(room: &Room, content: &str) {
    let file = room.lab.dir().join("eb-base.yaml");
    std::fs::write(&file, content).unwrap();
    let path = if content.is_empty() { "" } else { file.to_str().unwrap() };
    room.central.run(&["site", "set", SITE, "--manifest", path]).unwrap().ok().unwrap();
}

fn map(name: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\n  namespace: default\n---\n")
}

/// The object at this path of the API, if there is one.
fn object(host: &Host, path: &str) -> Option<Value> {
    let said = host.exec(&["k3s", "kubectl", "get", "--raw", path]).unwrap();
    serde_json::from_str(&said.stdout).ok().filter(|_| said.code == 0)
}

fn is_there(host: &Host, name: &str) -> bool {
    object(host, &format!("/api/v1/namespaces/default/configmaps/{name}")).is_some()
}

fn wait(host: &Host, what: &str, mut is_so: impl FnMut() -> bool) {
    let seen = wait_until(LONG, what, || Ok(is_so().then_some(())));
    assert!(seen.is_ok(), "{what}: {} says\n{}", host.name(), status_text(host));
}

#[test]
fn a_sites_manifest_is_applied_without_a_restart_and_withdrawn_with_its_objects_across_a_power_cut() {
    let room = one_steady("manifests");
    let host = &room.hosts[0];
    let before = invocations(host);
    assign(&room, &(map("one") + &map("two")));
    wait(host, "both objects are there", || is_there(host, "one") && is_there(host, "two"));
    assert_eq!(host.sh(&format!("stat -c %a {FILE}")).unwrap(), "600");
    assign(&room, &map("one"));
    wait(host, "what the manifest does not hold any more is gone", || !is_there(host, "two"));
    assert!(is_there(host, "one"));
    assert_eq!(invocations(host), before, "nothing was restarted");
    assign(&room, "");
    wait(host, "the withdrawal has begun", || {
        host.read_file(FILE).unwrap().is_none_or(|text| text.contains("Withdrawn"))
    });
    room.cut().unwrap();
    room.boot().unwrap();
    room.wait_steady(LONG).unwrap();
    wait(host, "object, file and Addon are gone", || {
        !is_there(host, "one") && object(host, ADDON).is_none() && host.read_file(FILE).unwrap().is_none()
    });
    wait_until(SOON, "and nothing is waited for", || {
        Ok((!status_text(host).contains("EB-manifests")).then_some(()))
    })
    .unwrap();
}
