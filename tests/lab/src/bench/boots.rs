//! How long the agent holds up a boot in which nothing changed.

use std::time::Duration;

use anyhow::Result;

use super::table::{Row, Series, Table};
use super::{UNIT, cycle, moment};
use crate::host::Host;
use crate::say;

/// The time that half of all boots may take.
const HALF: Duration = Duration::from_millis(100);

/// Cuts the power and boots again, many times; the central service does not answer.
pub(super) fn boots(host: &Host, table: &mut Table) -> Result<()> {
    let count = std::env::var("EDGE_BENCH_BOOTS").ok().and_then(|text| text.parse().ok()).unwrap_or(30_u32);
    let (mut ready, mut k3s) = (Vec::new(), Vec::new());
    for number in 1..=count {
        cycle(host)?;
        let begin = moment(host, UNIT, "ExecMainStart")?;
        ready.push(moment(host, UNIT, "ActiveEnter")?.saturating_sub(begin));
        k3s.push(moment(host, "k3s.service", "InactiveExit")?.saturating_sub(begin));
        say(&format!("boot {number}/{count}: ready after {:?}", ready.last()));
    }
    let (ready, k3s) = (Series::new(ready), Series::new(k3s));
    table.push(Row {
        what: "warm boot, central unreachable: process start to READY".to_owned(),
        bar: "p50 at most 100 ms, p99 at most 3 × p50".to_owned(),
        held: ready.percentile(50) <= HALF && ready.percentile(99) <= 3 * ready.percentile(50),
        measured: ready.to_string(),
    });
    table.push(Row {
        what: "the same boots: process start to the start of k3s's unit".to_owned(),
        bar: "none".to_owned(),
        held: true,
        measured: k3s.to_string(),
    });
    Ok(())
}
