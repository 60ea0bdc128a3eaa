//! `pause` and `resume`: a person wins.
//!
//! Owns their words; the records are `pause`'s and `activate`'s.

use clap::Args;

use super::{Common, output};
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
    #[arg(long = "for", value_name = "DURATION")]
    duration: String,
    /// Why, for those who find it
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

pub async fn pause(common: &Common, args: &PauseArgs) -> anyhow::Result<u8> {
    let duration = parse_duration(&args.duration)
        .map_err(|error| anyhow::anyhow!("--for {}: {error}", args.duration))?;
    anyhow::ensure!(!duration.is_zero(), "--for {}: a pause of nothing would pause nothing", args.duration);
    anyhow::ensure!(
        !args.reason.trim().is_empty(),
        "--reason is empty; who finds this later must be told why"
    );
    let since = Clock::System.unix();
    let until = since.saturating_add(duration.as_secs());
    let pause = Pause { since, until, by: name(), reason: one_line(&args.reason) };
    pause::set(&common.root(), &pause)?;
    let line = hatches::pause_line(&pause);
    tell(common, &line).await;
    output::text(&format!(
        "{line}\nnothing is changed meanwhile, the gate still checks; `edge-bootstrap resume` ends it"
    ));
    Ok(0)
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
    output::text(if was_paused {
        "resumed"
    } else {
        "was not paused; units that a person stopped start again"
    });
    Ok(0)
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
