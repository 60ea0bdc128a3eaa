//! Where log lines go.
//!
//! Owns one decision: to the journal with its fields when systemd started this
//! process, to standard error otherwise. The fields are `EDGE_STEP`,
//! `EDGE_GENERATION`, `EDGE_ROLE`, `EDGE_UNIT`, `EDGE_REASON`; message texts
//! are constant.

use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::sys;

/// Begins to log; `verbose` counts `-v`.
pub fn begin(level: Level, verbose: u8) {
    let level = match verbose {
        0 => level,
        1 => Level::DEBUG,
        _ => Level::TRACE,
    };
    // Libraries speak only when something is wrong.
    let filter = Targets::new().with_default(Level::WARN).with_target("edge_bootstrap", level);
    let registry = tracing_subscriber::registry().with(filter);
    let journal = sys::host::environment("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    let result = match journal {
        Some(layer) => registry.with(layer.with_field_prefix(None)).try_init(),
        None => {
            let layer = tracing_subscriber::fmt::layer()
                .without_time()
                .with_target(false)
                .with_writer(std::io::stderr);
            registry.with(layer).try_init()
        }
    };
    // A second beginning in one process keeps the first.
    drop(result);
}
