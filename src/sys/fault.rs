//! Named points at which a test can stop or fail the program.
//!
//! Owns the names' meaning only: with the feature `failpoints` the environment
//! variable `EDGE_FAULT=NAME=abort` ends the process at that point as a power
//! cut would, `NAME=error` makes the step fail. Without the feature a point is
//! nothing.

use std::io;

/// Passes, unless a test named this point.
///
/// # Errors
/// When a test asked for an error here.
#[cfg(feature = "failpoints")]
pub fn point(name: &str) -> io::Result<()> {
    let Ok(wanted) = std::env::var("EDGE_FAULT") else { return Ok(()) };
    match wanted.split_once('=') {
        Some((point, "abort")) if point == name => std::process::abort(),
        Some((point, "error")) if point == name => Err(io::Error::other(format!("fault at {name}"))),
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
