//! The contract with the central service, version 1 (DESIGN 7).
//!
//! Owns the shapes of requests, answers and the signed assignment, and the
//! check of a signature. No I/O, no clock: both sides of the wire use it.

pub mod assignment;
pub mod claim;
pub mod envelope;
pub mod fields;
pub mod json;
pub mod report;
pub mod secret;
pub mod statement;
pub mod written;

pub use secret::Secret;

use serde::{Deserialize, Serialize};

/// Version of this contract, sent as `protocol`.
pub const PROTOCOL: u32 = 1;
/// Largest request body in bytes.
pub const MAX_REQUEST: usize = 64 * 1024;
/// Largest assignment envelope in bytes.
pub const MAX_ASSIGNMENT: usize = 1024 * 1024;

/// Body of every answer that says no.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// The inside of [`ErrorBody`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// One of the closed list in `docs/openapi.yaml`, for example
    /// `token_invalid`; unknown ones from another version pass through.
    pub code: String,
    /// For people.
    pub message: String,
}
