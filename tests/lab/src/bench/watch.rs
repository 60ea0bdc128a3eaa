//! What the agent takes from a host on which nothing happens.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::table::{Row, Table};
use super::{UNIT, mib, property};
use crate::host::Host;

/// The largest resident memory.
const MEMORY: u64 = 12 * 1024 * 1024;
/// The largest part of a processor.
const PROCESSOR: f64 = 0.001;
/// Clock ticks in a second, as `/proc` counts them.
const TICKS: f64 = 100.0;

/// Watches the agent watch.
pub(super) fn watch(host: &Host, table: &mut Table) -> Result<()> {
    let long = std::env::var_os("EDGE_BENCH_LONG").is_some();
    let pid = property(host, UNIT, "MainPID")?;
    let (begin, before) = (Instant::now(), ticks(host, pid)?);
    // The measurement itself: there is nothing to wait for.
    std::thread::sleep(Duration::from_secs(if long { 3600 } else { 120 }));
    let (taken, watched) = (ticks(host, pid)?.saturating_sub(before), begin.elapsed());
    let part = f64::from(u32::try_from(taken)?) / TICKS / watched.as_secs_f64();
    table.push(Row {
        what: format!("processor while steady, {:.0} s", watched.as_secs_f64()),
        bar: "at most 0.1 % of one".to_owned(),
        measured: format!("{:.3} %", part * 100.0),
        held: part <= PROCESSOR,
    });
    memory(host, pid, watched, table)
}

fn memory(host: &Host, pid: u64, watched: Duration, table: &mut Table) -> Result<()> {
    let status = host.sh(&format!("cat /proc/{pid}/status"))?;
    let [all, own] = ["VmRSS:", "RssAnon:"].map(|key| kib(&status, key));
    let (all, own) = (all? * 1024, own? * 1024);
    table.push(Row {
        what: format!("resident memory after {:.0} s of watching", watched.as_secs_f64()),
        bar: "at most 12 MiB (after an hour)".to_owned(),
        measured: format!("{:.1} MiB, of it {:.1} MiB its own", mib(all), mib(own)),
        held: all <= MEMORY,
    });
    Ok(())
}

fn kib(status: &str, key: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("no {key}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Processor time of all its threads, also of those that ended.
fn ticks(host: &Host, pid: u64) -> Result<u64> {
    let stat = host.sh(&format!("cat /proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("no process state")?;
    // Fields 14 and 15 of proc(5); the first two are cut off.
    let times = fields.split(' ').skip(11).take(2).map(str::parse::<u64>);
    Ok(times.sum::<Result<u64, _>>()?)
}
