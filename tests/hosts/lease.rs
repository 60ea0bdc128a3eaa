//! The init lease and the epoch on real hosts: no accident forms a second
//! cluster, and no old one comes back beside a new one.

use edge_lab::room::{self, LONG, SITE, VERSION};
use edge_lab::{Host, Room, Suite, wait_until};
use serde_json::{Value, json};

use crate::hand::{SOON, is_active, number, status, status_text};

const CENTRAL: u16 = edge_lab::central::PORT;
const CA: &str = "/var/lib/rancher/k3s/server/tls/server-ca.crt";

/// The site as the central service shows it.
fn site(room: &Room) -> Value {
    let shown = room.central.run(&["site", "show", SITE, "--json"]).unwrap().ok().unwrap();
    serde_json::from_str(&shown).unwrap()
}

/// A host as the central service shows it; null before its claim.
fn node(room: &Room, host: &Host) -> Value {
    let ip = host.address().to_string();
    let nodes = room.central.nodes().unwrap();
    nodes.into_iter().find(|node| node["ip"] == ip.as_str()).unwrap_or_default()
}

fn central(room: &Room, words: &[&str]) {
    room.central.run(words).unwrap().ok().unwrap();
}

/// Waits until the central service gave `host` the init lease.
fn wait_lease(room: &Room, host: &Host) {
    wait_until(SOON, "the host holds the init lease", || {
        let id = node(room, host)["id"].clone();
        Ok((!id.is_null() && site(room)["lease"] == id).then_some(()))
    })
    .unwrap();
}

/// What the daemon waits for.
fn code(host: &Host) -> String {
    status(host)["waiting_on"]["code"].as_str().unwrap_or_default().to_owned()
}

fn wait_code(host: &Host, wanted: &str) {
    let seen = wait_until(SOON, wanted, || Ok((code(host) == wanted).then_some(())));
    assert!(seen.is_ok(), "{} says\n{}", host.name(), status_text(host));
}

/// Another host of the room, which a person makes a server while the holder of
/// the lease is dark: it waits, and forms nothing.
fn another_server_waits(room: &mut Room, holder: &Value) -> usize {
    room.add("n2", Suite::Trixie).unwrap();
    let host = room.hosts.last().unwrap();
    wait_until(SOON, "the second host has claimed", || {
        Ok((node(room, host)["state"] == "claimed").then_some(()))
    })
    .unwrap();
    central(room, &["assign", node(room, host)["id"].as_str().unwrap(), "--role", "server"]);
    wait_code(host, "EB-wait-first-server");
    assert_eq!(host.exec(&["test", "-e", "/var/lib/rancher/k3s/server/db"]).unwrap().code, 1);
    assert_eq!((&site(room)["lease"], &site(room)["epoch"]), (holder, &json!(1)));
    room.hosts.len() - 1
}

/// Both hosts are in one cluster, and the central service knows it.
fn one_cluster(room: &Room) {
    room.wait_steady(LONG).unwrap();
    let known = wait_until(SOON, "the central service knows the CA of all", || {
        let known = site(room)["ca_hash"].clone();
        let same = |host| node(room, host)["reported"]["ca_hash"] == known;
        Ok((!known.is_null() && room.hosts.iter().all(same)).then_some(known))
    });
    assert!(known.is_ok(), "{:?}", room.central.nodes().unwrap());
    let files: Vec<_> = room.hosts.iter().filter_map(|host| host.read_file(CA).unwrap()).collect();
    assert!(!files.is_empty() && files.windows(2).all(|two| two[0] == two[1]));
}

#[test]
fn a_holder_of_the_lease_that_is_cut_before_its_first_start_keeps_it_and_forms_the_cluster_later() {
    let mut room = Room::open("early").unwrap();
    // k3s must come over this line first.
    room.lab.net().slow("512kbit").unwrap();
    room.add("n1", Suite::Trixie).unwrap();
    wait_lease(&room, &room.hosts[0]);
    room.hosts[0].cut().unwrap();
    room.lab.net().heal().unwrap();
    let holder = node(&room, &room.hosts[0])["id"].clone();
    assert_eq!(room.hosts[0].read_file("/etc/rancher/k3s/config.yaml").unwrap(), None, "nothing was started");
    another_server_waits(&mut room, &holder);
    room.hosts[0].boot().unwrap();
    one_cluster(&room);
    assert_eq!((&site(&room)["lease"], &site(&room)["epoch"]), (&holder, &json!(1)));
}

/// A room whose first host starts k3s and forms its cluster, and whose line to
/// the central service was cut before anything of that was told.
fn dark(name: &str) -> (Room, Value) {
    let mut room = Room::open(name).unwrap();
    let host = room.bare("n1", Suite::Trixie).unwrap();
    host.boot().unwrap();
    // The line is cut between k3s's arrival and its start.
    let slow = "[Service]\nExecStartPre=/bin/sleep 5\n";
    host.write_file("/etc/systemd/system/containerd.service.d/50-slow.conf", slow).unwrap();
    room.configure(&host).unwrap();
    host.install(room.package()).unwrap();
    let binary = format!("/var/lib/edge-bootstrap/k3s/{VERSION}/k3s");
    wait_until(LONG, "k3s has come", || Ok((host.exec(&["test", "-e", &binary])?.code == 0).then_some(())))
        .unwrap();
    room.lab.net().fault(CENTRAL, "drop").unwrap();
    room.hosts.push(host);
    let host = &room.hosts[0];
    wait_until(SOON, "k3s starts", || Ok(host.exec(&["test", "-e", CA])?.code.eq(&0).then_some(()))).unwrap();
    let told = node(&room, host);
    let reported = &told["reported"];
    assert!(
        reported["init_started"].is_null() && reported["ca_hash"].is_null(),
        "the line was cut too late: {told}"
    );
    (room, told["id"].clone())
}

#[test]
fn a_holder_of_the_lease_that_is_cut_after_its_start_and_before_its_report_goes_on_with_its_own_cluster() {
    let (mut room, holder) = dark("unsaid");
    let ca = room.hosts[0].read_file(CA).unwrap();
    room.hosts[0].cut().unwrap();
    room.lab.net().heal().unwrap();
    another_server_waits(&mut room, &holder);
    room.hosts[0].boot().unwrap();
    one_cluster(&room);
    assert_eq!((&site(&room)["lease"], &site(&room)["epoch"]), (&holder, &json!(1)));
    if ca.as_ref().is_some_and(|ca| !ca.is_empty()) {
        assert_eq!(room.hosts[0].read_file(CA).unwrap(), ca, "what it had begun is what it goes on with");
    }
}

#[test]
fn a_cluster_that_formed_while_the_wan_was_cut_goes_on_alone_and_is_taken_over_later() {
    let (mut room, holder) = dark("alone");
    room::steady(&room.hosts[0], LONG).unwrap();
    let ca = room.hosts[0].read_file(CA).unwrap().unwrap();
    room.hosts[0].cut().unwrap();
    room.hosts[0].boot().unwrap();
    room::steady(&room.hosts[0], LONG).unwrap();
    assert_eq!(
        room.hosts[0].read_file(CA).unwrap().unwrap(),
        ca,
        "the same cluster, without a word from central"
    );
    assert_eq!(site(&room)["ca_hash"], json!(null));
    room.lab.net().heal().unwrap();
    wait_until(LONG, "the CA is taken over", || Ok((!site(&room)["ca_hash"].is_null()).then_some(())))
        .unwrap();
    assert_eq!(site(&room)["lease"], holder);
    room.add("n2", Suite::Trixie).unwrap();
    let id = wait_until(SOON, "a claim", || {
        let id = node(&room, &room.hosts[1])["id"].clone();
        Ok(id.as_str().map(str::to_owned))
    });
    central(&room, &["assign", &id.unwrap(), "--role", "server"]);
    one_cluster(&room);
    assert_eq!(room.hosts[0].read_file(CA).unwrap().unwrap(), ca);
}

/// The epoch that the room answered in this boot; `None`: it was not asked yet.
fn asked(host: &Host) -> Option<Value> {
    let text = host.exec(&["cat", "/run/edge-bootstrap/peers.json"]).unwrap();
    serde_json::from_str::<Value>(&text.stdout).ok().map(|answer| answer["epoch"].clone())
}

/// A single server, and a second host of its room that runs nothing yet.
fn server_and_another() -> Room {
    let mut room = Room::open("epoch").unwrap();
    room.add("old", Suite::Trixie).unwrap();
    room.wait_steady(LONG).unwrap();
    room.add("new", Suite::Trixie).unwrap();
    room.hosts[1].sh("edge-bootstrap pause --for 2h --reason law").unwrap();
    wait_until(LONG, "both know of each other", || {
        let [old, new] = [0, 1].map(|index| node(&room, &room.hosts[index]));
        // The first forms the cluster, the second names its CA, the third the other host.
        let taken = old["reported"]["generation"].as_u64() > Some(2);
        Ok((new["role"] == "agent" && taken).then_some(()))
    })
    .unwrap();
    room
}

/// The site begins anew on its second host.
fn begin_anew(room: &Room) {
    let [old, new] = [0, 1].map(|index| node(room, &room.hosts[index])["id"].as_str().unwrap().to_owned());
    central(room, &["assign", &old, "--role", "none"]);
    central(room, &["site", "reinit", "--confirm", SITE]);
    central(room, &["assign", &new, "--role", "server"]);
    room.hosts[1].sh("edge-bootstrap resume").unwrap();
    room::steady(&room.hosts[1], LONG).unwrap();
    wait_until(SOON, "the new cluster is known", || Ok((!site(room)["ca_hash"].is_null()).then_some(())))
        .unwrap();
    assert_eq!(site(room)["epoch"], 2);
}

fn is_held(host: &Host) {
    wait_code(host, "EB-datastore-epoch");
    assert!(!is_active(host, "k3s"));
    assert_eq!(number(host, "k3s", "ActiveEnterTimestampMonotonic"), 0, "it never ran in this boot");
    let text = status_text(host);
    assert!(text.contains("EB-datastore-epoch") && text.contains("epoch 2"), "{text}");
}

#[test]
fn an_old_single_server_asks_its_room_before_it_starts_and_stays_down_when_the_site_began_anew() {
    let mut room = server_and_another();
    room.cut().unwrap();
    room.central.stop().unwrap();

    // Silence starts it.
    let old = &room.hosts[0];
    old.boot().unwrap();
    room::steady(old, LONG).unwrap();
    assert_eq!(asked(old), Some(Value::Null), "{}", status_text(old));
    old.cut().unwrap();

    room.hosts[1].boot().unwrap();
    room.central.start_again().unwrap();
    begin_anew(&room);
    room.central.stop().unwrap();

    let old = &room.hosts[0];
    old.boot().unwrap();
    is_held(old);
    assert_eq!(asked(old), Some(json!(2)));
    // The gate alone says the same, with the daemon dead.
    old.sh("systemctl stop edge-bootstrap").unwrap();
    old.sh("systemctl reset-failed k3s; systemctl start --no-block k3s").unwrap();
    wait_until(SOON, "the gate has refused", || {
        let refused = old.read_file("/run/edge-bootstrap/refused-k3s.json")?.unwrap_or_default();
        Ok(refused.contains("EB-datastore-epoch").then_some(()))
    })
    .unwrap();
    assert!(!is_active(old, "k3s"));

    // It knows for good, also when nobody is there to tell it again.
    room.cut().unwrap();
    let old = &room.hosts[0];
    old.boot().unwrap();
    is_held(old);
    room.hosts[1].boot().unwrap();
    room::steady(&room.hosts[1], LONG).unwrap();

    // The service says what becomes of it, and nobody has to log in.
    room.central.start_again().unwrap();
    let id = node(&room, &room.hosts[0])["id"].as_str().unwrap().to_owned();
    central(&room, &["assign", &id, "--role", "agent"]);
    let old = &room.hosts[0];
    wait_until(LONG, "the old server is an agent of the new cluster", || {
        let now = status(old);
        Ok((now["phase"] == "steady" && now["role"] == "agent" && now["epoch"] == 2).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error}: {}", status_text(old)));
    old.sh("test -d /var/lib/rancher/k3s/server.quarantine-1").unwrap();
}
