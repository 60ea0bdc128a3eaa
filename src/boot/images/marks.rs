//! Whether a boot ended in good order.
//!
//! Owns the two marks: one at the begin of each boot, and one at its end, which
//! is written only when the whole system stops and after the store was synced.
//! A boot without the second one leaves a store that must be looked at.

use std::time::Duration;

use tracing::{info, warn};

use crate::error::Chain;
use crate::inventory::{self, Boot, Inventory};
use crate::paths::CONTAINERD_ROOT;
use crate::sys::systemd::Systemd;
use crate::sys::{Clock, Root, host};

/// How long the store may take to be synced at the end.
const PATIENCE: Duration = Duration::from_secs(12);

/// Notes that this boot began; what the one before left decides whether the
/// store is looked at.
pub fn begin_of_boot(root: &Root) {
    let Ok(id) = host::boot_id(root) else { return };
    let now = Clock::System.unix();
    if let Err(error) = inventory::update(root, |inventory| inventory.boot = next(&inventory.boot, id, now)) {
        warn!(EDGE_STEP = "images", EDGE_REASON = %Chain(&error), "begin of this boot is not recorded, ignoring");
    }
    if Inventory::load(root).boot.suspect {
        info!(EDGE_STEP = "images", "system was not stopped in good order, images are verified");
    }
}

/// The mark of boot `id` after that of an earlier one, or of this one. Its files
/// have the times of its clock: where that was put back, less counts as verified.
fn next(before: &Boot, id: String, now: u64) -> Boot {
    // Nothing is known of what was before the first record.
    let ended_badly = !before.id.is_empty() && before.id != id && !before.clean;
    let good_until = before.good_until.min(now);
    Boot { id, clean: false, suspect: before.suspect || ended_badly, good_until }
}

/// Notes that this boot ends in good order, if the system is being stopped.
pub async fn end_of_boot(root: &Root, systemd: &Systemd) {
    match tokio::time::timeout(PATIENCE, synced(root, systemd)).await {
        Ok(true) => {}
        _ => return,
    }
    let now = Clock::System.unix();
    let clean = |inventory: &mut Inventory| {
        inventory.boot.clean = true;
        if !inventory.boot.suspect {
            inventory.boot.good_until = now;
        }
    };
    if let Err(error) = inventory::update(root, clean) {
        warn!(EDGE_STEP = "images", EDGE_REASON = %Chain(&error), "end of this boot is not recorded, ignoring");
    }
}

async fn synced(root: &Root, systemd: &Systemd) -> bool {
    if !systemd.is_stopping().await.unwrap_or(false) {
        return false;
    }
    let root = root.clone();
    let sync = move || !root.exists(CONTAINERD_ROOT) || root.sync_fs(CONTAINERD_ROOT).is_ok();
    tokio::task::spawn_blocking(sync).await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(id: &str, clean: bool, suspect: bool) -> Boot {
        Boot { id: id.to_owned(), clean, suspect, good_until: 7 }
    }

    fn next(before: &Boot, id: String) -> Boot {
        super::next(before, id, 8)
    }

    #[test]
    fn a_boot_without_a_good_end_makes_the_store_suspect_until_it_was_verified() {
        assert_eq!(next(&boot("a", true, false), "b".to_owned()), boot("b", false, false));
        assert_eq!(next(&boot("a", false, false), "b".to_owned()), boot("b", false, true));
        assert_eq!(next(&boot("a", false, false), "a".to_owned()), boot("a", false, false));
        assert_eq!(next(&boot("a", true, true), "b".to_owned()), boot("b", false, true));
        assert!(!next(&Boot::default(), "a".to_owned()).suspect, "nothing is known of the first");
    }

    #[test]
    fn a_good_end_that_lies_ahead_of_the_clock_counts_up_to_now() {
        for (now, good_until) in [(6, 6), (7, 7), (8, 7), (0, 0)] {
            assert_eq!(super::next(&boot("a", true, false), "b".to_owned(), now).good_until, good_until);
        }
    }
}
