//! How long the gate keeps k3s waiting.

use std::time::Duration;

use anyhow::{Context, Result};

use super::table::{Row, Series, Table, ms};
use crate::cmd::run;
use crate::host::Host;

/// Runs of each program, one after the other in turn.
const RUNS: usize = 500;
/// Calls with an empty page cache.
const COLD: usize = 10;
/// Over `/bin/true`, warm.
const WARM: Duration = Duration::from_millis(10);
/// The first call after a boot.
const FIRST: Duration = Duration::from_millis(150);

/// Prints the microseconds that `/bin/true` and the gate take, from fork to
/// wait, in turn and as often as its argument says.
const CLOCK: &str = r#"
for ((i = 0; i < $1; i++)); do
  a=$EPOCHREALTIME
  /bin/true
  b=$EPOCHREALTIME
  /usr/bin/edge-bootstrap gate --unit k3s.service || exit
  c=$EPOCHREALTIME
  echo $((${b/./} - ${a/./})) $((${c/./} - ${b/./}))
done
"#;

/// The gate of a host that is steady, beside a program that does nothing.
pub(super) fn warm(host: &Host, table: &mut Table) -> Result<()> {
    // The first ones fill the caches.
    clock(host, 20)?;
    let (nothing, gate) = clock(host, RUNS)?;
    let (nothing, gate) = (Series::new(nothing), Series::new(gate));
    let over = gate.percentile(50).saturating_sub(nothing.percentile(50));
    let held = over <= WARM && gate.percentile(99) <= 3 * gate.percentile(50);
    table.push(Row {
        what: "gate, warm, beside `/bin/true`".to_owned(),
        bar: "p50 at most 10 ms over `/bin/true`, p99 at most 3 × p50".to_owned(),
        measured: format!("gate {gate}; `/bin/true` {nothing}; p50 over it {}", ms(over)),
        held,
    });
    Ok(())
}

/// The gate when nothing of it is in memory.
pub(super) fn cold(host: &Host, table: &mut Table) -> Result<()> {
    let mut all = Vec::new();
    for _ in 0..COLD {
        run(&["sh", "-c", "sync; echo 3 >/proc/sys/vm/drop_caches"])?;
        all.extend(clock(host, 1)?.1);
    }
    let series = Series::new(all);
    table.push(Row {
        what: "gate, page cache dropped".to_owned(),
        bar: "at most 150 ms".to_owned(),
        measured: format!(
            "p50 {}, slowest {} (n = {COLD})",
            ms(series.percentile(50)),
            ms(series.percentile(100))
        ),
        held: series.percentile(100) <= FIRST,
    });
    Ok(())
}

/// What `/bin/true` and the gate took.
fn clock(host: &Host, runs: usize) -> Result<(Vec<Duration>, Vec<Duration>)> {
    let output = host.exec(&["bash", "-c", CLOCK, "clock", &runs.to_string()])?.ok()?;
    let times = output.lines().map(|line| {
        let mut words = line.split_whitespace().map(|word| word.parse().map(Duration::from_micros));
        let first = words.next().context("no time of /bin/true")??;
        Ok((first, words.next().context("no time of the gate")??))
    });
    times.collect::<Result<Vec<_>>>().map(|times| times.into_iter().unzip())
}
