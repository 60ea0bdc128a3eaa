//! JSON by way of its own values.
//!
//! Owns the one way to read a document whose place of an error nobody needs: what
//! is read for each type is then one copy of code, whatever it is read from. Never
//! knows a shape.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Reads a whole document.
///
/// # Errors
/// What is no JSON, or has another shape.
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    T::deserialize(serde_json::from_slice::<Value>(bytes)?)
}
