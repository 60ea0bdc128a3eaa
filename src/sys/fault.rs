//! Named points at which a test can stop or fail the program.
//!
//! Owns the names' meaning only: with the feature `failpoints` the environment
//! variable `EDGE_FAULT=NAME=abort` ends the process at that point as a power
//! cut would, `NAME=error` makes the step fail; `NAME=abort:3` does so the third
//! time that the point is passed. Without the feature a point is nothing.

use std::io;

/// Passes, unless a test named this point.
///
/// # Errors
/// When a test asked for an error here.
#[cfg(feature = "failpoints")]
pub fn point(name: &str) -> io::Result<()> {
    use std::sync::atomic::{AtomicUsize, Ordering};
    /// How often the named point was passed.
    static PASSED: AtomicUsize = AtomicUsize::new(0);

    let Ok(wanted) = std::env::var("EDGE_FAULT") else { return Ok(()) };
    let Some((_, how)) = wanted.split_once('=').filter(|(point, _)| *point == name) else { return Ok(()) };
    let (how, at) = how.split_once(':').map_or((how, Some(1)), |(how, at)| (how, at.parse().ok()));
    if at != Some(PASSED.fetch_add(1, Ordering::Relaxed) + 1) {
        return Ok(());
    }
    match how {
        "abort" => std::process::abort(),
        "error" => Err(io::Error::other(format!("fault at {name}"))),
        _ => Ok(()),
    }
}

/// Passes, unless a test named this point.
///
/// # Errors
/// Never in this build.
#[cfg(not(feature = "failpoints"))]
#[allow(clippy::unnecessary_wraps, reason = "the same signature as with failpoints")]
pub fn point(_name: &str) -> io::Result<()> {
    Ok(())
}
