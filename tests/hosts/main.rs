//! Laws that hold on real hosts: one function per law, one file per theme.
//!
//! Needs root; a run as somebody else fails and says so.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may stop at the first surprise")]

mod campaign;
mod daemon;
mod gate;
mod hand;
mod incident;
mod lab;
mod line;
mod secrets;
mod suites;
