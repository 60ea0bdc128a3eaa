//! `edge-central`: the reference central service of `edge-bootstrap`.
//!
//! Hosts claim their place, wait for a signed assignment, report, and fetch
//! artifacts (`docs/openapi.yaml`). People use the command line, which works on
//! the same database, also while the service runs.
//!
//! | part | modules |
//! |---|---|
//! | decisions, pure | [`policy`], [`assign`], [`hardware`], [`contact`], [`retire`], [`critical`], the judging halves of [`claims`] and [`reports`] |
//! | state | [`store`], [`settings`], [`files`], [`sign`], [`ca`] |
//! | requests | [`claims`], [`longpoll`], [`reports`], [`artifacts`], [`http`], [`refusal`] |
//! | the running service | [`service`], [`issue`], [`watch`], [`tls`], [`serve`] |
//! | people | [`cli`] |

pub mod artifacts;
pub mod assign;
pub mod ca;
pub mod claims;
pub mod cli;
pub mod clock;
pub mod contact;
pub mod critical;
pub mod files;
pub mod hardware;
pub mod http;
pub mod ids;
pub mod issue;
pub mod longpoll;
pub mod policy;
pub mod refusal;
pub mod reports;
pub mod retire;
pub mod serve;
pub mod service;
pub mod settings;
pub mod sign;
pub mod store;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod watch;
