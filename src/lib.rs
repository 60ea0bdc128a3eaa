//! `edge-bootstrap`: turns a bare host into a healthy k3s node, and brings it
//! back by itself after every power cut.
//!
//! One pass is a straight line of seven steps: [`observe`], [`enrol`],
//! [`plan`], [`apply`], [`activate`], [`verify`], [`report`]. [`boot`] calls
//! them in this order and is the only one that does; the daemon, `apply` and
//! every boot run the same line.
//!
//! | layer | modules | may use | never |
//! |---|---|---|---|
//! | L0 words | `facts`, `wire`, `role`, `paths`, `error`, `ordered` | each other | I/O, async, clock |
//! | L1 decisions | `config`, `plan` | L0 | I/O, async, clock, `sys` |
//! | L2 hands | `sys` | nothing of ours | roles, k3s, settings |
//! | L3 steps | `observe`, `enrol`, `apply`, `activate`, `verify`, `report`, and the records `allow`, `binary`, `containerd`, `inventory`, `kube`, `ledger`, `identity`, `hold`, `lease`, `mirrors`, `floor`, `pause`, `renames`, `reset`, `rotation`, `snapshots`, `upgrade` | L0 to L2 | each other; decisions about content |
//! | L4 assembly | `boot`, `daemon`, `gate`, `hatches` | all above | arguments, printing |
//! | L5 surface | `cli`, `logging` | all above | decisions about a host |
//!
//! `tests/layers.rs` checks these edges. Without the feature `agent` only L0
//! and L1 compile: that is what programs that run elsewhere use.

pub mod error;
pub mod facts;
pub mod ordered;
pub mod paths;
pub mod role;
pub mod wire;

pub mod config;
pub mod plan;

#[cfg(feature = "agent")]
pub mod sys;

#[cfg(feature = "agent")]
pub mod activate;
#[cfg(feature = "agent")]
pub mod allow;
#[cfg(feature = "agent")]
pub mod apply;
#[cfg(feature = "agent")]
pub mod binary;
#[cfg(feature = "agent")]
pub mod containerd;
#[cfg(feature = "agent")]
pub mod enrol;
#[cfg(feature = "agent")]
pub mod floor;
#[cfg(feature = "agent")]
pub mod hold;
#[cfg(feature = "agent")]
pub mod identity;
#[cfg(feature = "agent")]
pub mod inventory;
#[cfg(feature = "agent")]
pub mod kube;
#[cfg(feature = "agent")]
pub mod lease;
#[cfg(feature = "agent")]
pub mod ledger;
#[cfg(feature = "agent")]
pub mod mirrors;
#[cfg(feature = "agent")]
pub mod observe;
#[cfg(feature = "agent")]
pub mod pause;
#[cfg(feature = "agent")]
pub mod renames;
#[cfg(feature = "agent")]
pub mod report;
#[cfg(feature = "agent")]
pub mod reset;
#[cfg(feature = "agent")]
pub mod rotation;
#[cfg(feature = "agent")]
pub mod snapshots;
#[cfg(feature = "agent")]
pub mod upgrade;
#[cfg(feature = "agent")]
pub mod verify;

#[cfg(feature = "agent")]
pub mod boot;
#[cfg(feature = "agent")]
pub mod daemon;
#[cfg(feature = "agent")]
pub mod gate;
#[cfg(feature = "agent")]
pub mod hatches;

#[cfg(feature = "agent")]
pub mod cli;
#[cfg(feature = "agent")]
mod logging;
