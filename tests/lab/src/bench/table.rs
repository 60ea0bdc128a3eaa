//! The table of what was measured, and the numbers that stand for many.

use std::fmt;
use std::time::Duration;

/// One line of the table.
#[derive(Debug)]
pub(super) struct Row {
    /// What was measured.
    pub what: String,
    /// What the design allows.
    pub bar: String,
    /// What it was.
    pub measured: String,
    /// Whether it is inside the bar.
    pub held: bool,
}

/// All lines, shown as Markdown.
#[derive(Debug, Default)]
pub(super) struct Table(Vec<Row>);

impl Table {
    pub fn push(&mut self, row: Row) {
        crate::say(&format!("{}: {}", row.what, row.measured));
        self.0.push(row);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "| what | bar | measured | held |\n|---|---|---|---|")?;
        self.0.iter().try_for_each(|row| {
            let held = if row.held { "yes" } else { "NO" };
            writeln!(out, "| {} | {} | {} | {held} |", row.what, row.bar, row.measured)
        })
    }
}

/// Many measurements of the same thing.
#[derive(Debug)]
pub(super) struct Series(Vec<Duration>);

impl Series {
    pub fn new(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        Self(all)
    }

    /// The value that `percent` of all do not exceed (nearest rank).
    pub fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Display for Series {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (p50, p99) = (self.percentile(50), self.percentile(99));
        write!(out, "p50 {}, p99 {} (n = {})", ms(p50), ms(p99), self.count())
    }
}

/// A duration in milliseconds, for people.
pub(super) fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_members_of_the_series() {
        let series = Series::new((1..=200).rev().map(Duration::from_millis).collect());
        assert_eq!(series.percentile(50), Duration::from_millis(100));
        assert_eq!(series.percentile(99), Duration::from_millis(198));
        assert_eq!(Series::new(vec![Duration::from_millis(7)]).percentile(99), Duration::from_millis(7));
    }
}
