//! k3s's binary at its start.
//!
//! Owns one refusal: a binary of our store that is gone or shorter than recorded
//! cannot be whole, nor one that nobody touched and of which the daemon found another digest.
//! Any other difference is told and lets it go; the daemon hashes it. Hashes
//! nothing itself.

use super::Look;
use crate::plan::Refusal;
use crate::plan::binary::{self as rules, changed, damaged};
use crate::{binary, paths};

pub(super) fn is_whole(look: &mut Look<'_>) -> Option<Refusal> {
    let target = look.root.read_link(paths::K3S_LINK).ok()??;
    let version = target.strip_prefix(paths::K3S_STORE)?.strip_prefix('/')?.strip_suffix("/k3s")?;
    let Some((record, found)) = binary::look_at(look.root, version) else {
        return binary::is_condemned(look.root, version).then(|| changed(&target));
    };
    match found {
        rules::Look::Short { size } => Some(damaged(&target, &record, size)),
        rules::Look::Other if record.seen.is_some() => {
            look.notes
                .push(format!("{target} is not as it was when it was verified; the daemon looks at it"));
            None
        }
        rules::Look::Other | rules::Look::Same => None,
    }
}
