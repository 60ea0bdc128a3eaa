//! Copied disks, moved disks and replaced hardware, each with a power cut.
//!
//! The boards and disks are fixtures below `/sys`: see `docs/testing.md`.

use edge_lab::room::{LONG, steady, wait_phase};
use edge_lab::{Hardware, Host, HostSpec, Room, Suite, wait_until};
use serde_json::Value;

use crate::hand::{SOON, further_pass, is_active, property, status, status_text, told};

const BOARD: &str = "8d3b6d2e-7a4f-4c39-9b1e-3f6a5d0c2b71";
/// The same in the byte order of another firmware.
const TURNED: &str = "2e6d3b8d-4f7a-394c-9b1e-3f6a5d0c2b71";
const OTHER_BOARD: &str = "11111111-2222-4333-8444-555555555555";

/// A host with a board and disks of its own, off and without our package.
fn bare(room: &Room, name: &str, hardware: &Hardware) -> Host {
    let spec = if room.k3s.real {
        HostSpec::with_kubelet(name, Suite::Trixie)
    } else {
        HostSpec::new(name, Suite::Trixie)
    };
    room.lab.host(HostSpec { hardware: Some(hardware.clone()), ..spec }).unwrap()
}

/// A room whose hosts have hardware of their own: `n1` with the first and so on; all are steady.
fn room_of(name: &str, hardware: &[&Hardware]) -> Room {
    let mut room = Room::open(name).unwrap();
    for (at, hardware) in hardware.iter().enumerate() {
        let host = bare(&room, &format!("n{}", at + 1), hardware);
        host.boot().unwrap();
        room.configure(&host).unwrap();
        host.install(room.package()).unwrap();
        room.hosts.push(host);
    }
    room.wait_steady(LONG).unwrap();
    // What the first steady pass learnt is pinned.
    room.hosts.iter().for_each(further_pass);
    room
}

fn original() -> Hardware {
    Hardware::new(BOARD, &["WD-1", "WD-2"])
}

/// A host that came up on a copy of `n1`'s disk, which nobody named yet.
fn copy_of(room: &Room, hardware: &Hardware) -> Host {
    let copy = bare(room, "copy", hardware);
    copy.copy_disk_of(&room.hosts[0]).unwrap();
    copy.edit("rm ./etc/hostname").unwrap();
    copy
}

/// Digests of all files that tell who the host is and what it runs. Not among
/// them: what observation keeps of programs it asked for their version.
fn files(host: &Host) -> String {
    let places = "var/lib/edge-bootstrap var/lib/rancher etc/rancher etc/hosts etc/systemd etc/containerd etc/sysctl.d etc/edge-bootstrap";
    host.edit(&format!(
        "find {places} -type f ! -name 'versions.json*' -exec sha256sum {{}} + | sort -k2; ls etc/hostname 2>&1 || true"
    ))
    .unwrap()
}

fn identity(host: &Host) -> Value {
    serde_json::from_str(&host.sh("edge-bootstrap identity show --json").unwrap()).unwrap()
}

fn boot_id(host: &Host) -> String {
    host.sh("cat /proc/sys/kernel/random/boot_id").unwrap()
}

/// The one node that the central service knows.
fn node(room: &Room) -> Value {
    let nodes = room.central.nodes().unwrap();
    assert_eq!(nodes.len(), 1, "{nodes:?}");
    nodes[0].clone()
}

fn wait_quarantined(host: &Host) {
    wait_phase(host, "quarantined", LONG).unwrap();
    wait_until(SOON, "k3s is refused", || Ok((told(host, "k3s", "EB-copied-disk") > 0).then_some(())))
        .unwrap();
    assert!(!is_active(host, "k3s"), "k3s runs on a copy");
}

#[test]
fn a_copied_disk_comes_up_in_quarantine_and_its_original_is_undisturbed() {
    let mut room = room_of("c-copy", &[&original()]);
    room.hosts[0].cut().unwrap();
    let copy = copy_of(&room, &Hardware::new(OTHER_BOARD, &["SG-9"]));
    let before = files(&copy);
    room.hosts[0].boot().unwrap();
    copy.boot().unwrap();
    wait_quarantined(&copy);
    assert_eq!(copy.sh("hostname").unwrap(), "copy", "the copy took its original's name");
    let address = room.hosts[0].address().to_string();
    assert!(!copy.sh("ip -o address").unwrap().contains(&format!(" {address}/")), "and its address");
    let shown = status_text(&copy);
    for word in ["quarantined", "EB-copied-disk", "8d3b6d2e", "11111111", "identity accept"] {
        assert!(shown.contains(word), "status does not say {word}:\n{shown}");
    }
    assert_eq!(told(&copy, "edge-bootstrap", "host is in quarantine"), 1, "the journal's lines in this boot");
    the_gate_refuses_without_the_daemon(&copy);
    steady(&room.hosts[0], LONG).unwrap();
    central_shows_the_original(&room, &copy);
    copy.cut().unwrap();
    copy.boot().unwrap();
    wait_quarantined(&copy);
    copy.off().unwrap();
    assert_eq!(files(&copy), before, "the copy wrote files");
    assert_eq!(status(&room.hosts[0])["phase"], "steady");
    room.hosts.push(copy);
}

fn the_gate_refuses_without_the_daemon(copy: &Host) {
    copy.sh("systemctl stop edge-bootstrap; systemctl reset-failed k3s || true").unwrap();
    let by_hand = copy.exec(&["systemctl", "start", "k3s"]).unwrap();
    assert!(!by_hand.success(), "k3s started on a copy whose daemon is dead");
    let gate = copy.exec(&["edge-bootstrap", "gate", "--unit", "k3s.service"]).unwrap();
    assert_eq!(gate.code, 1, "{}", gate.stderr);
    copy.sh("systemctl start edge-bootstrap").unwrap();
    wait_quarantined(copy);
}

fn central_shows_the_original(room: &Room, copy: &Host) {
    let (boot, copied) = (boot_id(&room.hosts[0]), boot_id(copy));
    wait_until(SOON, "central has heard of the copy", || {
        Ok((node(room)["copy"]["boot_id"] == copied.as_str()).then_some(()))
    })
    .unwrap();
    // Reports of both go on coming meanwhile.
    wait_until(SOON, "central shows the original", || {
        let node = node(room);
        let is_original = node["boot_id"] == boot.as_str() && node["reported"]["phase"] == "steady";
        Ok((is_original && node["reported"]["etcd_member"].is_string()).then_some(()))
    })
    .unwrap();
    let audit = room.central.run(&["audit", "--limit", "1000"]).unwrap().ok().unwrap();
    assert_eq!(audit.matches("copy-seen").count(), 1, "{audit}");
    assert!(audit.contains(&copied), "{audit}");
}

#[test]
fn a_disk_that_moved_for_good_runs_again_after_a_persons_word_also_across_a_power_cut() {
    let mut room = room_of("c-moved", &[&original()]);
    let address = room.hosts[0].address();
    let before = identity(&room.hosts[0]);
    room.hosts[0].cut().unwrap();
    let moved = copy_of(&room, &Hardware::new(OTHER_BOARD, &["SG-9"]));
    // The old machine is gone, and its kernel with it, which the lab keeps; the new one has its place in the network.
    room.lab.net().unplug("n1").unwrap();
    let unit = format!(
        "[Unit]\nDefaultDependencies=no\nBefore=edge-bootstrap.service\n[Service]\nType=oneshot\nExecStart=ip address add {address}/16 dev eth0\n[Install]\nWantedBy=sysinit.target\n"
    );
    moved.write_file("/etc/systemd/system/address.service", unit).unwrap();
    moved.edit("mkdir -p ./etc/systemd/system/sysinit.target.wants; ln -s ../address.service ./etc/systemd/system/sysinit.target.wants/").unwrap();
    moved.boot().unwrap();
    wait_quarantined(&moved);
    let nothing = moved.exec(&["edge-bootstrap", "identity", "accept", "--reason", " "]).unwrap();
    assert_eq!(nothing.code, 64, "an empty reason was taken");
    wait_quarantined(&moved);
    moved.sh("systemctl stop edge-bootstrap").unwrap();
    let said = moved.sh("edge-bootstrap identity accept --reason 'moved to rack 7'").unwrap();
    for word in ["moved to rack 7", BOARD, OTHER_BOARD, "WD-1 WD-2 then, SG-9 now"] {
        assert!(said.contains(word), "accept does not say {word}: {said}");
    }
    moved.cut().unwrap();
    moved.boot().unwrap();
    steady(&moved, LONG).unwrap();
    let after = identity(&moved);
    assert_eq!(
        (&after["node_name"], &after["node_id"], &after["epoch"]),
        (&before["node_name"], &before["node_id"], &before["epoch"])
    );
    assert_eq!(after["fingerprint"]["uuid"], OTHER_BOARD);
    wait_until(SOON, "central sees it steady", || {
        Ok((node(&room)["boot_id"] == boot_id(&moved).as_str()).then_some(()))
    })
    .unwrap();
    room.hosts.push(moved);
}

#[test]
fn a_persons_word_wakes_the_daemon_of_a_quarantined_host() {
    let mut room = room_of("c-wake", &[&original()]);
    room.hosts[0].cut().unwrap();
    let other = Hardware::new(OTHER_BOARD, &["SG-9"]);
    room.hosts[0].set_hardware(&other).unwrap();
    room.hosts[0].boot().unwrap();
    let host = room.hosts.remove(0);
    wait_quarantined(&host);
    let pid = property(&host, "edge-bootstrap", "MainPID");
    host.sh("edge-bootstrap identity accept --reason 'board and disks replaced'").unwrap();
    steady(&host, LONG).unwrap();
    assert_eq!(property(&host, "edge-bootstrap", "MainPID"), pid, "the daemon was restarted");
    assert!(host.read_file("/run/edge-bootstrap/hold.json").unwrap().is_none(), "the hold is still there");
    assert!(told(&host, "edge-bootstrap", "accepted by") > 0, "the journal does not know who accepted");
}

#[test]
fn replaced_parts_are_accepted_one_after_another_and_recorded() {
    let room = room_of("c-parts", &[&original()]);
    let host = &room.hosts[0];
    let steps = [
        ("the board is replaced", Hardware::new(OTHER_BOARD, &["WD-1", "WD-2"]), 1),
        ("then the disks", Hardware::new(OTHER_BOARD, &["SG-1", "SG-2"]), 1),
        ("then one of them", Hardware::new(OTHER_BOARD, &["SG-1", "SG-3"]), 0),
        ("the first board comes back", Hardware::new(BOARD, &["SG-1", "SG-3"]), 1),
        ("its firmware turns the UUID", Hardware::new(TURNED, &["SG-1", "SG-3"]), 0),
        ("its driver tells no disks", Hardware::new(TURNED, &[]), 0),
        ("and tells them again", Hardware::new(TURNED, &["SG-3"]), 0),
    ];
    for (what, hardware, findings) in steps {
        host.cut().unwrap();
        host.set_hardware(&hardware).unwrap();
        host.boot().unwrap();
        steady(host, LONG).unwrap_or_else(|error| panic!("{what}: {error:#}"));
        further_pass(host);
        let print = identity(host)["fingerprint"].clone();
        assert_eq!(print["uuid"], hardware.uuid.as_str(), "{what}");
        if !hardware.disks.is_empty() {
            assert_eq!(print["disks"], serde_json::json!(hardware.disks), "{what}");
        }
        let told = told(host, "edge-bootstrap", "hardware is recorded anew");
        assert!(told >= findings, "{what}: the journal says nothing");
        assert!(!told_codes(host).contains(&"EB-hardware-changed".to_owned()), "{what}: it is recorded");
    }
    assert_eq!(property(host, "k3s", "NRestarts"), "0");
}

/// Codes of the findings in force.
fn told_codes(host: &Host) -> Vec<String> {
    let findings = status(host)["findings"].as_array().cloned().unwrap_or_default();
    findings.iter().filter_map(|finding| finding["code"].as_str().map(str::to_owned)).collect()
}

#[test]
fn another_machine_id_is_another_nothing() {
    let room = room_of("c-machine-id", &[&original()]);
    let host = &room.hosts[0];
    let before = identity(host);
    for power_goes in [true, false] {
        host.sh("tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id; sync /etc/machine-id /etc").unwrap();
        if power_goes {
            host.cut().unwrap();
        } else {
            host.off().unwrap();
        }
        host.boot().unwrap();
        steady(host, LONG).unwrap();
        assert_eq!(identity(host), before);
        assert_eq!(node(&room)["name"], before["node_name"]);
    }
}

#[test]
fn two_hosts_whose_names_were_swapped_come_back_under_their_own() {
    let other = Hardware::new(OTHER_BOARD, &["SG-9"]);
    let room = room_of("c-swap", &[&original(), &other]);
    let names: Vec<String> = room.hosts.iter().map(|host| host.sh("hostname").unwrap()).collect();
    let swap = |host: &Host, name: &str| host.write_file("/etc/hostname", format!("{name}\n")).unwrap();
    swap(&room.hosts[0], &names[1]);
    swap(&room.hosts[1], &names[0]);
    room.cut().unwrap();
    room.boot().unwrap();
    for (host, name) in room.hosts.iter().zip(&names) {
        steady(host, LONG).unwrap();
        assert_eq!(&host.sh("hostname").unwrap(), name);
        assert_eq!(host.read_file("/etc/hostname").unwrap().unwrap().trim(), name);
    }
    let shown = room.central.nodes().unwrap();
    for (node, name) in shown.iter().zip(&names) {
        assert_eq!(node["name"], name.as_str());
        assert_eq!(node["copy"], Value::Null, "a renamed host was taken for a copy");
    }
}

#[test]
fn a_damaged_identity_falls_back_to_its_previous_copy_and_the_gate_says_so() {
    let room = room_of("c-damage", &[&original()]);
    let host = &room.hosts[0];
    let path = "/var/lib/edge-bootstrap/identity.json";
    assert!(host.read_file(&format!("{path}.prev")).unwrap().is_some(), "there is no previous copy");
    host.sh(&format!("systemctl stop edge-bootstrap k3s; : >{path}; hostname drifted")).unwrap();
    let gate = host.exec(&["edge-bootstrap", "gate", "--unit", "k3s.service"]).unwrap();
    assert_eq!(gate.code, 1, "the earlier copy was not heeded: {}", gate.stderr);
    assert!(gate.stderr.contains("EB-hostname") && gate.stderr.contains("earlier copy"), "{}", gate.stderr);
    host.sh(&format!(": >{path}.prev")).unwrap();
    let gate = host.exec(&["edge-bootstrap", "gate", "--unit", "k3s.service"]).unwrap();
    assert_eq!(gate.code, 0, "what could not be read is no evidence: {}", gate.stderr);
    assert!(gate.stderr.contains("identity.json"), "{}", gate.stderr);
}
