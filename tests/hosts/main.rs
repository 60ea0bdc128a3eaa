//! Laws that hold on real hosts: one function per law, one file per theme.
//!
//! Needs root; a run as somebody else fails and says so.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may stop at the first surprise")]

mod address;
mod adopt;
mod campaign;
mod clock;
mod copies;
mod daemon;
mod emptied;
mod forks;
mod gate;
mod hand;
mod hatches;
mod health;
mod hostname;
mod images;
mod incident;
mod lab;
mod lease;
mod line;
mod manifests;
mod mirrors;
mod moves;
mod reset;
mod reset_verb;
mod retired;
mod roles;
mod rolling;
mod router;
mod secrets;
mod storage;
mod store;
mod suites;
mod tokens;
mod upgrade;
