//! `gate allow` and `gate revoke`: a person answers for one refusal.
//!
//! Owns their words; the record and what may be given are `allow`'s.

use std::time::Duration;

use clap::Args;

use super::{Common, person};
use crate::allow::{self, Allowance};
use crate::report::status::one_line;
use crate::sys::Clock;
use crate::{gate, hatches, hold};

#[derive(Debug, Args)]
pub struct AllowArgs {
    /// The code of the refusal, as the gate and `status` print it
    #[arg(long, value_name = "CODE")]
    code: String,
    /// For how long, for example 1h; at most 30 days
    #[arg(long = "for", value_name = "DURATION", value_parser = person::span)]
    duration: Duration,
    /// Why, for those who find it
    #[arg(long, value_name = "TEXT", value_parser = person::reason)]
    reason: String,
    /// Accept what may be lost; needed for refusals that stand before a second cluster or lost data
    #[arg(long)]
    i_accept_data_loss: bool,
}

#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// The code that shall be refused with again
    #[arg(long, value_name = "CODE")]
    code: String,
}

pub async fn allow(common: &Common, args: &AllowArgs) -> anyhow::Result<u8> {
    let (root, clock) = (common.root(), Clock::System);
    let since = clock.unix();
    let allowance = Allowance {
        code: args.code.clone(),
        since,
        until: since.saturating_add(args.duration.as_secs()),
        by: person::name(),
        reason: one_line(&args.reason),
    };
    let mut refused: Vec<String> = gate::all_refused(&root).into_iter().map(|(_, why)| why.code).collect();
    refused.extend(hold::current(&root).map(|hold| hold.code));
    allow::may_be_given(&allowance, &refused, args.i_accept_data_loss)?;
    allow::add(&root, clock, allowance.clone())?;
    let line = hatches::allow_line(&allowance);
    person::tell(common, &line).await;
    person::done(common, &format!("{line}\n{}", next_steps(&allowance.code, &refused)))
}

fn next_steps(code: &str, refused: &[String]) -> String {
    let end = format!("`edge-bootstrap gate revoke --code {code}` ends it before");
    if refused.iter().any(|refused| refused == code) {
        return format!("systemd tries the refused unit again within seconds; {end}");
    }
    format!("nothing on this host is refused with {code} now; {end}")
}

pub async fn revoke(common: &Common, args: &RevokeArgs) -> anyhow::Result<u8> {
    if !allow::revoke(&common.root(), Clock::System, &args.code)? {
        return person::done(common, &format!("{} was not let pass", args.code));
    }
    let line = format!("{} is not let pass any more, by {}", args.code, person::name());
    person::tell(common, &line).await;
    person::done(common, &line)
}
