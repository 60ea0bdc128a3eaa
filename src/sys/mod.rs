//! Thin wrappers of the operating system; the only code that touches files,
//! processes, the environment, the clock, D-Bus and the network.
//!
//! Owns mechanisms, never policy: nothing here knows roles, k3s or settings.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this is the one layer that these bans point to"
)]

pub mod answers;
pub mod arp;
pub mod atomic;
pub mod block;
pub mod clock;
pub mod clock_watch;
pub mod datagram;
mod dbus;
pub mod entries;
pub mod exec;
pub mod fault;
pub mod file_watch;
pub mod fsync;
pub mod grpc;
pub mod host;
pub mod hostnamed;
pub mod http;
pub mod interfaces;
pub mod journal;
pub mod links;
pub mod local;
pub mod lock;
pub mod machine;
pub mod netfilter;
pub mod netlink;
pub mod notify;
pub mod overlay;
pub mod packed;
pub mod part;
pub mod patch;
pub mod processes;
pub mod random;
pub mod root;
pub mod sink;
pub mod sockets;
pub mod space;
pub mod statefile;
pub mod systemd;
pub mod timedate;
pub mod trees;

pub use atomic::Change;
pub use clock::Clock;
pub use root::{FileError, Root};
