//! Layer checks.
