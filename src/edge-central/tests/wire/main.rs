//! The host-facing contract over real TLS on loopback, with the command line
//! as a second process on the same database.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test may stop at the first surprise, and starts programs and reads files itself"
)]

mod artifacts;
mod assignments;
mod claims;
mod common;
mod contract;
mod copies;
mod critical;
mod lease;
mod limits;
mod moves;
mod replacement;
mod rotation;
mod secrets;
