//! Board, disks and network card as real firmware and real drivers tell them,
//! changed between the boots of one machine one by one and together.

use std::net::Ipv4Addr;
use std::time::Duration;

use edge_lab::{Lab, Machine, MachineSpec, Profile, Suite, programs, wait_until};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 7);
const NAME: &str = "10-77-1-7";
const GATE: [&str; 4] = ["edge-bootstrap", "gate", "--unit", "k3s-agent.service"];

/// What a machine is made of; the letters name its board, its disks and its card.
fn make(spec: &mut MachineSpec, parts: [char; 3]) {
    let [board, disks, card] = parts;
    let uuid = format!("8d3b6d2e-7a4f-4c39-9b1e-{}", board.to_string().repeat(12));
    spec.qemu = vec!["-smbios".to_owned(), format!("type=1,uuid={uuid},serial=BOARD-{board}")];
    spec.serials = vec![format!("ROOT-{disks}"), format!("DATA-{disks}")];
    spec.mac = Some(format!("52:54:00:00:00:{card}{card}"));
}

/// A machine with the package and the pinned identity of an agent, whose hardware is recorded.
fn pinned(lab: &Lab) -> Machine {
    let package = programs::package(Profile::Dev, "").unwrap();
    let mut spec =
        MachineSpec { disks: vec![64], address: Some(ADDRESS), ..MachineSpec::new("m1", Suite::Bookworm) };
    make(&mut spec, ['a', 'a', 'a']);
    let machine = lab.machine(spec).unwrap();
    machine.boot_and_install(&package).unwrap();
    let identity = json!({
        "node_id": null, "site": "hz-017", "cluster": "hz-017", "role": "agent", "node_name": NAME,
        "node_ip": ADDRESS, "manage_hostname": true, "epoch": 1,
    });
    write_state(&machine, "/var/lib/edge-bootstrap/identity.json", &identity);
    let config = format!(
        "node-name: \"{NAME}\"\nnode-ip: \"{ADDRESS}\"\nserver: \"https://10.77.1.1:6443\"\ntoken-file: \"/etc/rancher/k3s/token\"\n"
    );
    machine.write_file("/etc/rancher/k3s/config.yaml", config.as_bytes()).unwrap();
    machine.write_file("/etc/rancher/k3s/token", b"K10aa::node:x\n").unwrap();
    // The daemon has nobody to ask, so the name stays what the disk says.
    machine.write_file("/etc/hostname", format!("{NAME}\n").as_bytes()).unwrap();
    machine.sh(&format!("hostname {NAME}; systemctl enable edge-bootstrap; edge-bootstrap identity accept --reason racked; sync -f /")).unwrap();
    machine
}

/// A state file as the agent writes it.
fn write_state(machine: &Machine, path: &str, body: &Value) {
    // Fields of a fingerprint that nobody knows yet.
    let mut body = body.clone();
    body["fingerprint"] = json!({"board": [], "nics": [], "disks": []});
    let text = body.to_string();
    let digest: String = Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    machine
        .write_file(path, format!("{{\"schema\":1,\"sha256\":\"{digest}\",\"body\":{text}}}").as_bytes())
        .unwrap();
}

/// Cuts the power, works on the hardware, and boots.
fn rebuilt(machine: &Machine, parts: [char; 3], kernel: &str) {
    machine.cut().unwrap();
    machine.change(|spec| {
        make(spec, parts);
        kernel.clone_into(&mut spec.kernel);
    });
    machine.boot().unwrap();
}

/// What the gate says: its code, or nothing when it lets the unit go. A repeated
/// refusal is quiet, its record is not.
fn refusal(machine: &Machine) -> Option<String> {
    let gate = machine.exec(&GATE).unwrap();
    if gate.code == 0 {
        return None;
    }
    assert_eq!(gate.code, 1, "{}", gate.stderr);
    let record = machine.sh("cat /run/edge-bootstrap/refused-k3s-agent.json").unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    record["code"].as_str().map(str::to_owned)
}

/// Phase and codes of the findings, once the daemon has made a pass.
fn told(machine: &Machine) -> (String, Vec<String>) {
    let status = wait_until(Duration::from_secs(60), "a pass", || {
        let shown = machine.exec(&["edge-bootstrap", "status", "--json"])?;
        let status: Value = serde_json::from_str(&shown.stdout).unwrap_or_default();
        Ok(status["last_pass"].is_object().then_some(status))
    })
    .unwrap();
    let findings = status["findings"].as_array().cloned().unwrap_or_default();
    let codes = findings.iter().filter_map(|finding| finding["code"].as_str().map(str::to_owned));
    (status["phase"].as_str().unwrap_or_default().to_owned(), codes.collect())
}

fn is_accepted(machine: &Machine, what: &str, finding: Option<&str>) {
    assert_eq!(refusal(machine), None, "{what}");
    let (phase, findings) = told(machine);
    assert_ne!(phase, "quarantined", "{what}");
    let hardware: Vec<&str> =
        findings.iter().map(String::as_str).filter(|code| code.starts_with("EB-hardware-")).collect();
    assert_eq!(hardware, finding.into_iter().collect::<Vec<_>>(), "{what}");
}

fn is_quarantined(machine: &Machine, what: &str) {
    assert_eq!(refusal(machine).as_deref(), Some("EB-copied-disk"), "{what}");
    assert_eq!(told(machine).0, "quarantined", "{what}");
    let console = std::fs::read_to_string(machine.console()).unwrap_or_default();
    assert_eq!(
        console.matches("this host is in quarantine").count(),
        1,
        "{what}: the console says\n{console}"
    );
}

#[test]
fn board_disks_and_card_are_replaced_one_by_one_and_together() {
    let lab = Lab::open("hardware").unwrap();
    let machine = pinned(&lab);
    rebuilt(&machine, ['a', 'a', 'a'], "");
    is_accepted(&machine, "nothing was replaced", None);
    let changed = Some("EB-hardware-changed");
    for (parts, what) in [
        (['b', 'a', 'a'], "the board"),
        (['a', 'b', 'a'], "the disks"),
        (['a', 'a', 'b'], "the card"),
        (['a', 'b', 'b'], "disks and card"),
    ] {
        rebuilt(&machine, parts, "");
        is_accepted(&machine, what, changed);
    }
    for (parts, what) in [
        (['b', 'a', 'b'], "board and card: the disk moved, or the board came with its ports"),
        (['b', 'b', 'a'], "board and disks"),
        (['b', 'b', 'b'], "everything: a copy"),
    ] {
        rebuilt(&machine, parts, "");
        is_quarantined(&machine, what);
    }
    machine.sh("edge-bootstrap identity accept --reason 'this is the machine now'").unwrap();
    // The daemon, which was woken, takes its hold away.
    wait_until(Duration::from_secs(60), "the gate lets it go", || {
        Ok(refusal(&machine).is_none().then_some(()))
    })
    .unwrap();
    rebuilt(&machine, ['b', 'b', 'b'], "");
    is_accepted(&machine, "after a person's word and a power cut", None);
    rebuilt(&machine, ['a', 'a', 'a'], "");
    is_quarantined(&machine, "the old machine is the copy now");
}

#[test]
fn a_card_whose_driver_comes_late_is_unknown_until_then() {
    let lab = Lab::open("late").unwrap();
    let machine = pinned(&lab);
    let late = "modprobe.blacklist=virtio_net";
    rebuilt(&machine, ['a', 'a', 'a'], late);
    assert_eq!(refusal(&machine).as_deref(), Some("EB-ip-absent"), "the same machine without its card");
    card_comes(&machine);
    is_accepted(&machine, "the same machine with its card", None);
    rebuilt(&machine, ['b', 'a', 'b'], late);
    assert_eq!(refusal(&machine).as_deref(), Some("EB-ip-absent"), "a moved disk, as far as one can tell");
    assert_eq!(told(&machine).1.iter().filter(|code| *code == "EB-hardware-changed").count(), 1);
    card_comes(&machine);
    wait_until(Duration::from_secs(60), "quarantine", || {
        Ok((told(&machine).0 == "quarantined").then_some(()))
    })
    .unwrap();
    is_quarantined(&machine, "a moved disk with the card of its new host");
}

/// Loads the driver and waits for the address that hangs on the card.
fn card_comes(machine: &Machine) {
    machine.sh("modprobe virtio_net").unwrap();
    wait_until(Duration::from_secs(60), "the address is there", || {
        let shown = machine.exec(&["ip", "-o", "-4", "address", "show", "dev", "eth0"])?.stdout;
        Ok(shown.contains(&format!(" {ADDRESS}/")).then_some(()))
    })
    .unwrap();
}
