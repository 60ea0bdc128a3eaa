//! How often the daemon was started in this boot, and how often it came up.
//!
//! Owns the rule that the third start after two that never reached READY sends
//! READY at once and only observes: a sick agent must not delay k3s for ever.

use serde::{Deserialize, Serialize};

use crate::paths;
use crate::sys::{Root, atomic};
use crate::wire::json;

/// Starts that may fail before the daemon only observes.
const FAILURES: u32 = 2;

/// The volatile record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Starts {
    /// Starts in this boot, this one included.
    pub begun: u32,
    /// Starts in a row that did not reach READY, this one not included.
    pub failed: u32,
}

impl Starts {
    /// Counts this start as failed until [`Starts::ready`] says otherwise.
    #[must_use]
    pub fn begin(root: &Root) -> Self {
        let before = load(root);
        store(root, Self { begun: before.begun + 1, failed: before.failed + 1 });
        Self { begun: before.begun + 1, failed: before.failed }
    }

    /// This start reached READY by its own work.
    pub fn ready(self, root: &Root) {
        store(root, Self { failed: 0, ..self });
    }

    /// Whether this start may only observe.
    #[must_use]
    pub fn only_observe(self) -> bool {
        self.failed >= FAILURES
    }
}

fn load(root: &Root) -> Starts {
    let bytes = root.read(paths::STARTS).ok().flatten().unwrap_or_default();
    json::read(&bytes).unwrap_or_default()
}

/// A record that cannot be written costs this protection, nothing else.
fn store(root: &Root, starts: Starts) {
    let bytes = serde_json::to_vec(&starts).unwrap_or_default();
    let _ = atomic::write_volatile(root, paths::STARTS, &bytes, 0o600);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn the_third_start_after_two_failures_only_observes() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        root.make_dir(paths::RUN_DIR, 0o755).unwrap();
        assert!(!Starts::begin(&root).only_observe());
        assert!(!Starts::begin(&root).only_observe());
        let third = Starts::begin(&root);
        assert!(third.only_observe());
        third.ready(&root);
        assert!(!Starts::begin(&root).only_observe());
        assert_eq!(Starts::begin(&root).begun, 5);
    }
}
