//! `edge-bootstrap`: turns a bare host into a healthy k3s node, and brings it
//! back by itself after every power cut.
#![cfg_attr(not(feature = "agent"), allow(dead_code))]

pub mod config;
pub mod error;
pub mod paths;
pub mod wire;
pub mod facts;
pub mod role;
#[cfg(feature = "agent")]
pub mod sys;
pub mod plan;
