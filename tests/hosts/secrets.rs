//! Secrets are found nowhere but where they belong, after everything that a
//! host and a person do with them.

use std::path::PathBuf;

use edge_lab::room::{LONG, SITE, steady};
use edge_lab::{Host, Room, Suite, canary, wait_until};
use serde_json::{Value, json};

use crate::hand::{further_pass, wait_active, wait_told};

const S3_ACCESS: &str = "canary-access-9f21c4d7";
const S3_SECRET: &str = "canary-secret-5be07a3c81";

/// Gives the site snapshots with S3 keys before its first host comes.
fn plant(room: &Room) {
    let file: PathBuf = room.lab.dir().join("snapshots.json");
    let snapshots = json!({
        "schedule": "0 */6 * * *", "retention": 5,
        "s3": {
            "endpoint": "172.16.36.9:9000", "bucket": "etcd", "folder": "hz-017", "region": "cn",
            "access_key": S3_ACCESS, "secret_key": S3_SECRET,
        },
    });
    std::fs::write(&file, snapshots.to_string()).unwrap();
    let path = file.display().to_string();
    room.central.run(&["site", "set", SITE, "--snapshots-file", &path]).unwrap().ok().unwrap();
    std::fs::remove_file(file).unwrap();
}

/// The secrets that the service made: everything after the last colon of a token.
fn passwords(host: &Host) -> Vec<String> {
    let files = host.sh("cat /var/lib/edge-bootstrap/generations/*/*token*").unwrap();
    let mut all: Vec<String> =
        files.lines().filter_map(|line| line.rsplit(':').next()).map(str::to_owned).collect();
    all.sort();
    all.dedup();
    assert!(all.len() >= 2 && all.iter().all(|password| password.len() >= 16), "{} passwords", all.len());
    all
}

/// One full line of the node's private key.
fn private_key(host: &Host) -> String {
    let key = host.read_file("/var/lib/edge-bootstrap/node.key").unwrap().unwrap();
    key.lines().nth(1).unwrap().to_owned()
}

/// All that people and machines let it say; both outputs are secrets' way out too.
fn says_everything(host: &Host) -> String {
    let verbs = [
        "apply",
        "plan",
        "plan --json",
        "facts",
        "facts --json",
        "status",
        "status --json",
        "config show",
        "identity show",
        "-v plan",
    ];
    let said = verbs.map(|words| {
        let output = host.sh(&format!("edge-bootstrap {words} 2>&1 || test $? -lt 64")).unwrap();
        assert!(!output.is_empty(), "`{words}` says nothing");
        output
    });
    said.join("\n")
}

/// A refusal of the gate, whose words are about the token's file.
fn is_refused(host: &Host) {
    host.sh("systemctl stop edge-bootstrap; chmod 600 /etc/rancher/k3s/config.yaml").unwrap();
    host.sh("cp -p /etc/rancher/k3s/config.yaml /root/config.yaml; echo '  torn: [' >>/etc/rancher/k3s/config.yaml").unwrap();
    assert!(!host.exec(&["systemctl", "restart", "k3s"]).unwrap().success());
    wait_told(host, "k3s", "EB-config-damaged");
    // What a plan says about such a file.
    host.sh("edge-bootstrap plan >/root/plan-of-damage 2>&1 || true; systemctl start edge-bootstrap")
        .unwrap();
    wait_active(host, "k3s");
    host.sh("rm /root/config.yaml").unwrap();
}

/// Where secrets may lie, for root alone: by their beginnings.
const HOME: [&str; 6] = [
    // The tokens by which k3s starts, of the generation in force and the one before.
    "/var/lib/edge-bootstrap/generations/",
    // Server tokens of old: a snapshot can be read only with the token of its time.
    "/var/lib/edge-bootstrap/backup/server-token-",
    // The assignment as it was signed, and its copy.
    "/var/lib/edge-bootstrap/assignment.json",
    "/var/lib/edge-bootstrap/node.key",
    // S3 keys, for which k3s has no other place.
    "/etc/rancher/k3s/config.yaml",
    // What k3s itself keeps of its tokens.
    "/var/lib/rancher/k3s/",
];

/// A snapshot of etcd reaches the service as a digest, with that of the token that
/// opens it; the agents' token as a name by which servers can be compared.
fn snapshot_is_reported(room: &Room) {
    let host = &room.hosts[0];
    let directory = "/var/lib/rancher/k3s/server/db/snapshots";
    host.sh(&format!("mkdir -p {directory} && printf abc >{directory}/etcd-snapshot-n1-1")).unwrap();
    further_pass(host);
    let token = "cut -d: -f4 /var/lib/rancher/k3s/server/token | tr -d '\\n' | sha256sum | cut -d' ' -f1";
    let token = host.sh(token).unwrap();
    let wanted = json!([{
        "name": "etcd-snapshot-n1-1", "token_sha256": token,
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    }]);
    let id = room.central.nodes().unwrap()[0]["id"].as_str().unwrap().to_owned();
    wait_until(LONG, "the service knows the snapshot", || {
        let shown = room.central.run(&["node", "show", &id, "--json"])?.ok()?;
        let node: Value = serde_json::from_str(&shown)?;
        let cluster = &node["report"]["cluster"];
        let name = cluster["critical"]["agent-token"].as_str().unwrap_or_default();
        Ok((cluster["snapshots"] == wanted && name.starts_with("sha256:")).then_some(()))
    })
    .unwrap();
}

/// A secret's places by name, each with its mode.
fn places(host: &Host, secrets: &[&str]) -> Vec<(String, String)> {
    let found = canary::everywhere(host, secrets).unwrap();
    let paths = found.iter().filter_map(|line| line.split_once(" in "));
    paths.map(|(_, path)| (path.to_owned(), host.sh(&format!("stat -c %a '{path}'")).unwrap())).collect()
}

#[test]
fn no_secret_is_where_others_see_it_and_each_lies_only_where_it_belongs() {
    let mut room = Room::open("x-secrets").unwrap();
    plant(&room);
    room.add("n1", Suite::Trixie).unwrap();
    room.wait_steady(LONG).unwrap();
    let host = &room.hosts[0];
    let mut secrets = passwords(host);
    secrets.extend([private_key(host), room.token().to_owned(), S3_ACCESS.to_owned(), S3_SECRET.to_owned()]);
    let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
    snapshot_is_reported(&room);
    let mut said = says_everything(host);
    is_refused(host);
    said += &says_everything(host);
    said += &host.read_file("/root/plan-of-damage").unwrap().unwrap();
    // A cut loses what the journal and the log on the console did not sync.
    assert_eq!(canary::scan(host, &secrets).unwrap(), Vec::<String>::new());
    host.cut().unwrap();
    host.boot().unwrap();
    steady(host, LONG).unwrap();
    said += &says_everything(host);
    for (at, secret) in secrets.iter().enumerate() {
        assert!(!said.contains(secret), "secret {at} is printed");
    }
    assert_eq!(canary::scan(host, &secrets).unwrap(), Vec::<String>::new());
    let places = places(host, &secrets);
    let strays: Vec<_> =
        places.iter().filter(|(path, _)| !HOME.iter().any(|home| path.starts_with(home))).collect();
    assert!(strays.is_empty(), "{strays:#?}");
    let open: Vec<_> = places
        .iter()
        .filter(|(path, mode)| mode != "600" && !path.starts_with("/var/lib/rancher/"))
        .collect();
    assert!(open.is_empty(), "{open:#?}");
    for wanted in ["generations/", "assignment.json", "node.key", "config.yaml"] {
        assert!(
            places.iter().any(|(path, _)| path.contains(wanted)),
            "no secret in {wanted}: the search is blind"
        );
    }
}
