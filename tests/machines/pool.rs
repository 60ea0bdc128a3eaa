//! Thin pools on real disks with a real device-mapper: what is never touched,
//! what is made, and what comes back after kills, cuts, full space and damage.
//!
//! The acts are run as the daemon has systemd run them; their programs are LVM's.

mod damage;
mod empty;
mod made;

use edge_lab::{Lab, Machine, MachineSpec, Output, Profile, Suite, programs};

/// A machine with the package and blank disks of these sizes in MiB.
fn with_disks(lab: &Lab, disks: &[u32]) -> Machine {
    let package = programs::package(Profile::Dev, "").unwrap();
    let spec = MachineSpec { disks: disks.to_vec(), ..MachineSpec::new("m1", Suite::Bookworm) };
    let machine = lab.machine(spec).unwrap();
    machine.boot_and_install(&package).unwrap();
    machine
}

/// Runs an act on a pool in a unit of its own, as the daemon does.
fn act(machine: &Machine, words: &str) -> Output {
    let name = words.split_whitespace().next().unwrap();
    let unit = format!("edge-bootstrap-act-{name}");
    let run = format!(
        "systemd-run --quiet --wait --collect --pipe --unit={unit} -p DefaultDependencies=no \
         /usr/bin/edge-bootstrap act {words}"
    );
    machine.exec(&["sh", "-c", &run]).unwrap()
}

/// An act that must succeed; what it said.
fn done(machine: &Machine, words: &str) -> String {
    act(machine, words).ok().unwrap()
}

/// An act that must be refused: its code, and all that it left for the daemon.
fn refused(machine: &Machine, words: &str) -> (String, String) {
    let output = act(machine, words);
    assert_ne!(output.code, 0, "`{words}` was done: {}", output.stdout);
    let name = words.split_whitespace().next().unwrap();
    let text = machine.sh(&format!("cat /run/edge-bootstrap/act-{name}.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&text).unwrap();
    let refusal = &record["refusal"];
    let words = format!("{}; {}", refusal["reason"].as_str().unwrap(), refusal["next"].as_str().unwrap());
    (refusal["code"].as_str().unwrap().to_owned(), words)
}

/// One column of one volume group or volume.
fn lvm(machine: &Machine, report: &str, column: &str, object: &str) -> String {
    let script = format!("{report} --noheadings --nosuffix --units m -o {column} {object}");
    machine.sh(&script).unwrap().trim().to_owned()
}

fn status(machine: &Machine, pool: &str) -> String {
    machine.sh(&format!("dmsetup status {pool}")).unwrap()
}

/// Makes and opens thin device `id` of a pool.
fn thin(machine: &Machine, pool: &str, (id, mib): (u32, u32)) {
    let sectors = mib * 2048;
    machine
        .sh(&format!(
            "dmsetup message /dev/mapper/{pool} 0 'create_thin {id}'
             dmsetup create thin{id} --table '0 {sectors} thin /dev/mapper/{pool} {id}'"
        ))
        .unwrap();
}
