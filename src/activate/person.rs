//! Whether a person wants a unit to be as it is.
//!
//! Owns the one rule: what was up in this boot and is down now without a stop
//! of ours, what we had enabled and is disabled now, and what is masked, was
//! done by somebody. Pure; the effects are in `units`.

use serde::{Deserialize, Serialize};

use super::record::Seen;
use crate::sys::systemd::UnitState;

/// What a person did to a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// Stopped it while it was up.
    Stopped,
    /// Removed its boot links.
    Disabled,
    /// Made it impossible to start.
    Masked,
}

/// A unit that stays as a person left it, until `resume`, `apply` or a reboot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftAlone {
    /// Unit name.
    pub unit: String,
    /// Seconds since 1970: when it stopped, or when this was first noticed.
    pub since: u64,
    /// What was done.
    pub why: Why,
}

/// What a person did to this unit, if anything.
#[must_use]
pub fn left_alone(seen: &Seen, now: &UnitState) -> Option<Why> {
    if now.load == "masked" || now.file_state.starts_with("masked") {
        return Some(Why::Masked);
    }
    if seen.enabled && now.file_state == "disabled" {
        return Some(Why::Disabled);
    }
    let stopped = seen.up && !seen.stopped_by_us && now.is_down() && !failed_by_itself(now);
    stopped.then_some(Why::Stopped)
}

/// A unit that systemd restarts whatever happens ends as `failed` by itself
/// only at the start limit or when systemd lacks resources; any other failure
/// is the exit code of a process that was told to stop.
fn failed_by_itself(now: &UnitState) -> bool {
    now.active == "failed" && (now.restart != "always" || now.hit_start_limit() || now.result == "resources")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(active: &str, result: &str, file_state: &str) -> UnitState {
        UnitState {
            load: "loaded".into(),
            active: active.into(),
            result: result.into(),
            file_state: file_state.into(),
            restart: "always".into(),
            ..UnitState::default()
        }
    }

    const UP: Seen = Seen { up: true, enabled: true, stopped_by_us: false, synced: true, left_alone: None };

    #[test]
    fn dead_after_having_been_up_is_a_persons_stop() {
        let dead = unit("inactive", "success", "enabled");
        assert_eq!(left_alone(&UP, &dead), Some(Why::Stopped));
        assert_eq!(left_alone(&Seen::default(), &dead), None, "never seen up in this boot");
        assert_eq!(left_alone(&Seen { stopped_by_us: true, ..UP }, &dead), None, "our own stop");
        assert_eq!(left_alone(&UP, &UnitState { job: Some(1), ..dead }), None, "on its way");
    }

    #[test]
    fn a_stop_that_ends_with_an_exit_code_is_still_a_stop() {
        assert_eq!(left_alone(&UP, &unit("failed", "exit-code", "enabled")), Some(Why::Stopped));
    }

    #[test]
    fn a_unit_that_failed_by_itself_is_ours_to_start() {
        for result in ["start-limit-hit", "start-limit", "resources"] {
            assert_eq!(left_alone(&UP, &unit("failed", result, "enabled")), None, "{result}");
        }
        let once = UnitState { restart: "on-failure".into(), ..unit("failed", "exit-code", "enabled") };
        assert_eq!(left_alone(&UP, &once), None);
    }

    #[test]
    fn up_and_activating_are_never_left_alone() {
        for active in ["active", "activating", "reloading", "deactivating"] {
            assert_eq!(left_alone(&UP, &unit(active, "success", "enabled")), None, "{active}");
        }
    }

    #[test]
    fn disabled_counts_only_after_it_was_enabled_and_masked_always() {
        let disabled = unit("inactive", "success", "disabled");
        assert_eq!(left_alone(&UP, &disabled), Some(Why::Disabled));
        assert_eq!(left_alone(&Seen::default(), &disabled), None);
        assert_eq!(left_alone(&Seen::default(), &unit("active", "success", "masked")), Some(Why::Masked));
        assert_eq!(
            left_alone(&Seen::default(), &unit("active", "success", "masked-runtime")),
            Some(Why::Masked)
        );
    }
}
