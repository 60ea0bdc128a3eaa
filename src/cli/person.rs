//! `pause` and `resume`: a person wins.
//!
//! Owns their words; the records are `pause`'s and `activate`'s.

use clap::Args;

use super::{Common, output};
use crate::config::units::parse_duration;
use crate::pause::{self, Pause};
use crate::sys::clock::rfc3339;
use crate::sys::{Clock, host, systemd};
use crate::{activate, ledger};

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
    let clock = Clock::System;
    let by = host::environment("SUDO_USER")
        .or_else(|| host::environment("USER"))
        .unwrap_or_else(|| "root".to_owned());
    let pause =
        Pause { until: clock.unix().saturating_add(duration.as_secs()), by, reason: args.reason.clone() };
    pause::set(&common.root(), &pause)?;
    wake(common).await;
    output::text(&format!(
        "paused until {}: nothing is changed, the gate still checks; `edge-bootstrap resume` ends it",
        rfc3339(pause.until)
    ));
    Ok(0)
}

pub async fn resume(common: &Common) -> anyhow::Result<u8> {
    let root = common.root();
    let was_paused = pause::clear(&root)?;
    activate::forget(&root)?;
    let now = ledger::load(&root)?.value();
    ledger::record(&root, now.as_ref(), ledger::Event::Forgiven)?;
    wake(common).await;
    output::text(if was_paused {
        "resumed"
    } else {
        "was not paused; units that a person stopped start again"
    });
    Ok(0)
}

/// The daemon looks again at once. Without one there is nobody to wake.
async fn wake(common: &Common) {
    let systemd = systemd::Systemd::new(&common.root());
    if let Ok(unit) = systemd.unit("edge-bootstrap.service").await
        && unit.main_pid != 0
    {
        host::hang_up(unit.main_pid);
    }
}
