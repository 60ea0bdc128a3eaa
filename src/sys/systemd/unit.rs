//! What systemd says about one unit.
//!
//! Owns the reading of properties. One that this systemd does not have is
//! absent, never an error: `NRestarts` is there since 235, `NeedDaemonReload`
//! and the timestamps since long before 219.

use std::collections::HashMap;

use zbus::{OwnedVariant, Variant};

/// Properties of one interface, as `GetAll` gave them.
pub(super) type Properties = HashMap<String, OwnedVariant>;

/// State of one unit at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitState {
    /// Its name.
    pub name: String,
    /// `loaded`, `not-found`, `masked`, …
    pub load: String,
    /// `active`, `activating`, `inactive`, `failed`, …
    pub active: String,
    /// `running`, `start-pre`, `auto-restart`, `dead`, …
    pub sub: String,
    /// `enabled`, `disabled`, `masked`, `static`; empty when there is no file.
    pub file_state: String,
    /// The unit file in force; empty when there is none.
    pub fragment: String,
    /// Drop-ins in force, by path.
    pub drop_ins: Vec<String>,
    /// Whether files changed since systemd read them.
    pub need_reload: bool,
    /// Whether its conditions held at the last start; `None` when not told.
    pub condition: Option<bool>,
    /// Number of the job that is queued or running for it.
    pub job: Option<u32>,
    /// Main process, 0 when there is none.
    pub main_pid: u32,
    /// Restarts by systemd; `None` before 235.
    pub restarts: Option<u32>,
    /// `success`, `exit-code`, `start-limit-hit`, …; empty when it is no service.
    pub result: String,
    /// `always`, `on-failure`, `no`, …; empty when it is no service.
    pub restart: String,
    /// Whether one of its `ExecStartPre` asks our gate; `None` when not told.
    pub has_gate: Option<bool>,
    /// Program of the first `ExecStart`.
    pub exec: Option<String>,
    /// The first `ExecStart` with its arguments, the program first.
    pub command: Option<Vec<String>>,
    /// Exit status of the last main process, or the number of the signal that
    /// ended it; `None` when none has run.
    pub exit_status: Option<i32>,
    /// What the service says about itself (`STATUS=`).
    pub status: String,
    /// Units that must be up for it.
    pub requires: Vec<String>,
    /// Units that it goes down with at once.
    pub binds_to: Vec<String>,
    /// When it last left `active`, monotonic microseconds; 0 when never.
    pub active_until_us: u64,
    /// When it last became `inactive` or `failed`, monotonic microseconds; 0 when never.
    pub inactive_since_us: u64,
    /// When it entered its state, monotonic microseconds; 0 when never.
    pub since_monotonic_us: u64,
    /// When it entered its state, microseconds since 1970; 0 when never.
    pub since_unix_us: u64,
}

impl UnitState {
    pub(super) fn from_properties(name: &str, unit: &Properties, service: &Properties) -> Self {
        Self {
            name: name.to_owned(),
            load: text(unit, "LoadState"),
            active: text(unit, "ActiveState"),
            sub: text(unit, "SubState"),
            file_state: text(unit, "UnitFileState"),
            fragment: text(unit, "FragmentPath"),
            drop_ins: texts(unit, "DropInPaths"),
            need_reload: value(unit, "NeedDaemonReload").unwrap_or(false),
            condition: value(unit, "ConditionResult"),
            job: first_of_pair(unit, "Job").filter(|id| *id != 0),
            main_pid: value(service, "MainPID").unwrap_or(0),
            restarts: value(service, "NRestarts"),
            result: text(service, "Result"),
            restart: text(service, "Restart"),
            has_gate: asks_gate(service),
            exec: first_program(service),
            command: first_command(service),
            exit_status: value(service, "ExecMainStatus"),
            status: text(service, "StatusText"),
            requires: texts(unit, "Requires"),
            binds_to: texts(unit, "BindsTo"),
            active_until_us: value(unit, "ActiveExitTimestampMonotonic").unwrap_or(0),
            inactive_since_us: value(unit, "InactiveEnterTimestampMonotonic").unwrap_or(0),
            since_monotonic_us: value(unit, "StateChangeTimestampMonotonic").unwrap_or(0),
            since_unix_us: value(unit, "StateChangeTimestamp").unwrap_or(0),
        }
    }

    /// Up: `active`, or `reloading` with its process alive.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.active.as_str(), "active" | "reloading")
    }

    /// On its way up, a wait for the next automatic restart included.
    #[must_use]
    pub fn is_activating(&self) -> bool {
        self.active == "activating"
    }

    /// Down, with nothing queued that would change it.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.job.is_none() && matches!(self.active.as_str(), "inactive" | "failed")
    }

    /// systemd refuses more starts until the failure is reset. `start-limit`
    /// is the word before systemd 234.
    #[must_use]
    pub fn hit_start_limit(&self) -> bool {
        self.active == "failed" && matches!(self.result.as_str(), "start-limit-hit" | "start-limit")
    }
}

fn value<'a, T: TryFrom<&'a Variant<'a>>>(from: &'a Properties, name: &str) -> Option<T> {
    T::try_from(from.get(name)?).ok()
}

fn text(from: &Properties, name: &str) -> String {
    value::<&str>(from, name).unwrap_or_default().to_owned()
}

fn texts(from: &Properties, name: &str) -> Vec<String> {
    from.get(name).and_then(|list| Vec::<String>::try_from(list.clone()).ok()).unwrap_or_default()
}

fn first_of_pair(from: &Properties, name: &str) -> Option<u32> {
    let Variant::Structure(pair) = &**from.get(name)? else { return None };
    u32::try_from(pair.fields().first()?).ok()
}

/// Each command is program, arguments, flags, times: only the arguments matter.
fn asks_gate(service: &Properties) -> Option<bool> {
    let Variant::Array(commands) = &**service.get("ExecStartPre")? else { return None };
    let asks = |command: &Variant<'_>| {
        let Variant::Structure(command) = command else { return false };
        let Some(Variant::Array(words)) = command.fields().get(1) else { return false };
        words.iter().any(|word| <&str>::try_from(word).is_ok_and(|word| word.contains("edge-bootstrap gate")))
    };
    Some(commands.iter().any(asks))
}

fn first_program(service: &Properties) -> Option<String> {
    <&str>::try_from(first_exec(service)?.first()?).ok().map(str::to_owned)
}

fn first_command(service: &Properties) -> Option<Vec<String>> {
    let Variant::Array(words) = first_exec(service)?.get(1)? else { return None };
    words.iter().map(|word| <&str>::try_from(word).ok().map(str::to_owned)).collect()
}

/// Fields of the first `ExecStart`: program, arguments, flags, times.
fn first_exec(service: &Properties) -> Option<&[Variant<'_>]> {
    let Variant::Array(commands) = &**service.get("ExecStart")? else { return None };
    let Variant::Structure(first) = commands.iter().next()? else { return None };
    Some(first.fields())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_systemd_without_a_property_leaves_it_unknown() {
        let state = UnitState::from_properties("a.service", &Properties::new(), &Properties::new());
        assert_eq!(state.restarts, None);
        assert_eq!(state.condition, None);
        assert_eq!(state, UnitState { name: "a.service".into(), ..UnitState::default() });
    }

    #[test]
    fn a_job_keeps_a_dead_unit_from_counting_as_down() {
        let dead = UnitState { active: "inactive".into(), ..UnitState::default() };
        assert!(dead.is_down());
        assert!(!UnitState { job: Some(7), ..dead }.is_down());
    }

    #[test]
    fn the_start_limit_has_two_spellings() {
        for result in ["start-limit-hit", "start-limit"] {
            let state = UnitState { active: "failed".into(), result: result.into(), ..UnitState::default() };
            assert!(state.hit_start_limit());
        }
    }
}
