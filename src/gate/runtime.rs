//! Whether containerd may start.
//!
//! Owns the refusals for containerd: only for its own damaged configuration, and
//! only where our drop-in made it ours. Never for identity or clock.

use super::{Check, Look, REWRITE};
use crate::paths;
use crate::plan::Refusal;

pub(super) const CHECKS: &[Check] = &[config_is_whole];

fn config_is_whole(look: &mut Look<'_>) -> Option<Refusal> {
    let damage = match look.root.read_text(paths::CONTAINERD_CONFIG) {
        Ok(Some(text)) if text.trim().is_empty() => Some("is empty".to_owned()),
        Ok(Some(text)) => {
            text.parse::<toml::Table>().err().map(|error| format!("is damaged: {}", error.message()))
        }
        Ok(None) => Some("is missing".to_owned()),
        Err(_) => None,
    };
    damage.map(|damage| {
        Refusal::new("EB-containerd-config", format!("{} {damage}", paths::CONTAINERD_CONFIG), REWRITE)
    })
}
