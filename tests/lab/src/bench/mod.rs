//! The benchmarks: what the agent costs on a host, beside the bars of its design.
//!
//! Owns the order of the measurements and the table. A number that misses its
//! bar is shown as such and fails nothing: machines differ. Everything is
//! measured on a host with the release build, in one run.
//!
//! Variables: `EDGE_BENCH_LONG` makes the watch an hour long instead of a
//! minute, `EDGE_BENCH_BOOTS` the number of boots another one than 30.

mod boots;
mod gate;
mod table;
mod trace;
mod watch;

use std::time::Duration;

use anyhow::{Context, Result};

use crate::host::Host;
use crate::programs::Profile;
use crate::room::{LONG, Room};
use crate::root::Suite;
use crate::{central, room, say};
use table::{Row, Table};

/// The agent's unit.
const UNIT: &str = "edge-bootstrap.service";
/// The largest stripped binary, in bytes.
const SIZE: u64 = 6 * 1024 * 1024;

/// Runs all benchmarks and prints the table, in Markdown, on standard output.
///
/// # Errors
/// A host does not come up, or the agent waits for the network before k3s.
pub fn run() -> Result<()> {
    let mut room = Room::with_profile("bench", Profile::Release, "")?;
    room.add("b1", Suite::Trixie)?;
    room.wait_steady(LONG)?;
    report_as_elsewhere(&mut room)?;
    let host = room.hosts.first().context("a host was just added")?;
    let mut table = Table::default();
    say("the gate");
    gate::warm(host, &mut table)?;
    gate::cold(host, &mut table)?;
    size(host, &mut table)?;
    say("watching");
    watch::watch(host, &mut table)?;
    say("boots without the central service");
    room.lab.net().fault(central::PORT, "drop")?;
    boots::boots(host, &mut table)?;
    let lines = trace::trace(host, &mut table)?;
    println!("{table}\nThe agent's traced system calls around its first look outside:\n\n{lines}");
    Ok(())
}

/// The host reports as often as outside of a lab; what the change costs it is over afterwards.
fn report_as_elsewhere(room: &mut Room) -> Result<()> {
    room.central.stop()?;
    room.central.report_seconds = 60;
    room.central.start_again()?;
    std::thread::sleep(Duration::from_secs(30));
    room.wait_steady(LONG)
}

/// Power off, power on, until the host is steady again.
fn cycle(host: &Host) -> Result<()> {
    host.cut()?;
    host.boot()?;
    room::steady(host, LONG)
}

fn size(host: &Host, table: &mut Table) -> Result<()> {
    let bytes = host.sh("stat -c %s /usr/bin/edge-bootstrap")?.parse()?;
    table.push(Row {
        what: "stripped binary".to_owned(),
        bar: "at most 6 MiB".to_owned(),
        measured: format!("{:.2} MiB", mib(bytes)),
        held: bytes <= SIZE,
    });
    Ok(())
}

/// Bytes as MiB, for people.
fn mib(bytes: u64) -> f64 {
    let kib = u32::try_from(bytes / 1024).unwrap_or(u32::MAX);
    f64::from(kib) / 1024.0
}

/// A property of a unit that is a number.
fn property(host: &Host, unit: &str, name: &str) -> Result<u64> {
    let text = host.sh(&format!("systemctl show -P {name} {unit}"))?;
    text.parse().with_context(|| format!("{name} of {unit} is `{text}`"))
}

/// The same for a monotonic time stamp.
fn moment(host: &Host, unit: &str, name: &str) -> Result<Duration> {
    Ok(Duration::from_micros(property(host, unit, &format!("{name}TimestampMonotonic"))?))
}
