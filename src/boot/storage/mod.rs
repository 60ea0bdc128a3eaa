//! Storage for containerd: the look with privileges, and the work on thin pools.
//!
//! Owns the moments of both in a pass. Decides nothing about content.

pub mod look;
pub mod pool;
mod prepare;
mod turn;

pub(super) use prepare::{prepare, restart};
pub use turn::Memory;
pub(super) use turn::{look, record, tell};
