//! Whether k3s's configuration and tokens are whole.
//!
//! Owns the reading of them before a start. Nothing here knows the identity.

use super::{Look, REWRITE};
use crate::facts::Fact;
use crate::paths;
use crate::plan::refusal::MOVE_AWAY;
use crate::plan::{Refusal, rules};
use crate::sys::root::NO_FILE;

pub(super) fn is_whole(look: &mut Look<'_>) -> Option<Refusal> {
    let size = look.root.stat(paths::K3S_CONFIG).ok().map(|stat| stat.map_or(0, |stat| stat.size));
    if size == Some(0) {
        let reason =
            format!("{} is missing or empty, with which k3s would start on defaults", paths::K3S_CONFIG);
        return Some(Refusal::new("EB-config-empty", reason, REWRITE));
    }
    match &look.effective {
        Fact::Known(effective) => rules::token_is_named(effective),
        Fact::Unknown { unknown } => {
            // No pass touches what an operator added.
            let next = match unknown {
                _ if unknown.contains(paths::K3S_CONFIG_DIR) => "correct or remove that file",
                _ if unknown.contains(NO_FILE) => MOVE_AWAY,
                _ => REWRITE,
            };
            let reason = format!("k3s's configuration is damaged: {unknown}");
            Some(Refusal::new("EB-config-damaged", reason, next))
        }
    }
}

pub(super) fn tokens_are_whole(look: &mut Look<'_>) -> Option<Refusal> {
    let effective = look.effective.known()?;
    let paths = ["token-file", "agent-token-file"].into_iter().filter_map(|key| effective.first(key));
    paths.into_iter().find(|path| is_empty(look, path)).map(|path| {
        Refusal::new(
            "EB-token-empty",
            format!("token file {path} is missing or empty, which k3s takes for no token"),
            REWRITE,
        )
    })
}

fn is_empty(look: &Look<'_>, path: &str) -> bool {
    match look.root.read(path) {
        Ok(None) => true,
        Ok(Some(bytes)) => bytes.trim_ascii().is_empty(),
        Err(_) => false,
    }
}
