//! `pause` and `resume`: a person wins.
//!
//! Owns their words; the records are `pause`'s and `activate`'s.

use std::time::Duration;

use clap::Args;

use super::{Common, output, status};
use crate::config::units::parse_duration;
use crate::error::Chain;
use crate::hatches;
use crate::pause::{self, Pause};
use crate::report::status::one_line;
use crate::sys::{Clock, host, journal, systemd};
use crate::{activate, ledger};

const DAEMON: &str = "edge-bootstrap.service";

#[derive(Debug, Args)]
pub struct PauseArgs {
    /// For how long, for example 2h
    #[arg(long = "for", value_name = "DURATION", value_parser = span)]
    duration: Duration,
    /// Why, for those who find it
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: String,
}

/// Parses `--for`.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    let span = parse_duration(text).map_err(|error| error.to_string())?;
    // What is counted in whole seconds would end as it begins.
    if span.as_secs() == 0 { Err("it would end as it begins".to_owned()) } else { Ok(span) }
}

/// Parses `--reason`.
pub(super) fn reason(text: &str) -> Result<String, &'static str> {
    let is_empty = text.trim().is_empty();
    if is_empty { Err("who finds this later must be told why") } else { Ok(text.to_owned()) }
}

pub async fn pause(common: &Common, args: &PauseArgs) -> anyhow::Result<u8> {
    let since = Clock::System.unix();
    let until = since.saturating_add(args.duration.as_secs());
    let pause = Pause { since, until, by: name(), reason: one_line(&args.reason) };
    pause::set(&common.root(), &pause)?;
    let line = hatches::pause_line(&pause);
    tell(common, &line).await;
    let words = "nothing is changed meanwhile, the gate still checks; `edge-bootstrap resume` ends it";
    done(common, &format!("{line}\n{words}"))
}

/// Login of the person who typed the command.
pub(super) fn name() -> String {
    let name = host::environment("SUDO_USER").or_else(|| host::environment("USER"));
    name.unwrap_or_else(|| "root".to_owned())
}

/// Everybody sees what a person did: the journal, the next login, the daemon.
pub(super) async fn tell(common: &Common, line: &str) {
    let root = common.root();
    journal::tell(&root, DAEMON, line);
    let now = hatches::look(&root, Clock::System);
    if let Err(error) = hatches::tell_logins(&root, &now) {
        output::note(&format!("{}; logins are not told", Chain(&error)));
    }
    wake(common).await;
}

pub async fn resume(common: &Common) -> anyhow::Result<u8> {
    let root = common.root();
    let was_paused = pause::clear(&root)?;
    activate::forget(&root)?;
    let now = ledger::load(&root)?.value();
    ledger::record(&root, now.as_ref(), ledger::Event::Forgiven)?;
    tell(common, &format!("resumed by {}", name())).await;
    let words =
        if was_paused { "resumed" } else { "was not paused; units that a person stopped start again" };
    done(common, words)
}

/// Says what was done; with `--json` how the host is after it.
pub(super) fn done(common: &Common, words: &str) -> anyhow::Result<u8> {
    if !common.json {
        output::text(words);
    }
    answer(common)?;
    Ok(0)
}

/// What a verb that changes the host answers to `--json`: what `status --json` says after it.
pub(super) fn answer(common: &Common) -> anyhow::Result<()> {
    if common.json {
        output::json(&status::look(&common.root(), Clock::System).0)?;
    }
    Ok(())
}

/// The daemon reads its settings and looks again at once. Without one there is nobody to wake.
pub(super) async fn wake(common: &Common) {
    let systemd = systemd::Systemd::new(&common.root());
    if let Ok(unit) = systemd.unit(DAEMON).await
        && unit.main_pid != 0
    {
        host::hang_up(unit.main_pid);
    }
}
