//! `gate --unit UNIT`, and the verbs with which a person answers for a refusal.
//!
//! Owns the exit code and the one line. The check never starts a runtime: it has
//! milliseconds.

use clap::{Args, Subcommand};
use serde_json::json;

use super::allow::{self, AllowArgs, RevokeArgs};
use super::{Common, on_runtime, output};
use crate::gate::{self, Verdict};
use crate::report::status::one_line;
use crate::sys::{Clock, Root};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct GateArgs {
    /// The unit that is about to start
    #[arg(long, value_name = "UNIT", required = true)]
    unit: Option<String>,
    #[command(subcommand)]
    verb: Option<GateVerb>,
}

#[derive(Debug, Subcommand)]
enum GateVerb {
    /// Let exactly one refusal pass for a while, across reboots, with the daemon dead
    Allow(AllowArgs),
    /// End what `allow` began
    Revoke(RevokeArgs),
}

pub fn run(common: &Common, args: &GateArgs) -> anyhow::Result<u8> {
    match &args.verb {
        Some(GateVerb::Allow(args)) => on_runtime(allow::allow(common, args)),
        Some(GateVerb::Revoke(args)) => on_runtime(allow::revoke(common, args)),
        None => Ok(check(common, args.unit.as_deref().unwrap_or_default())),
    }
}

fn check(common: &Common, unit: &str) -> u8 {
    gate::arm();
    let root = common.root();
    let verdict = gate::check(&root, Clock::System, unit);
    let line = refusal_line(&root, unit, &verdict);
    // A refusal that was told already is quiet as a whole.
    if verdict.refusal.is_none() || line.is_some() {
        tell_beside(unit, &verdict);
    }
    if let Some(line) = line {
        output::note(&line);
    }
    if common.json {
        // Who asked for it looks at the exit code too, and nothing printed may change that.
        let _ = output::json(&json!({"schema": 1, "unit": unit, "refusal": verdict.refusal}));
    }
    u8::from(verdict.refusal.is_some())
}

fn refusal_line(root: &Root, unit: &str, verdict: &Verdict) -> Option<String> {
    let refusal = verdict.refusal.as_ref()?;
    let line = gate::line(root, Clock::System, unit, refusal);
    line.or_else(|| output::is_watched().then(|| one_line(&refusal.to_string())))
}

fn tell_beside(unit: &str, verdict: &Verdict) {
    for note in &verdict.notes {
        output::note(&format!("{unit}: {note}, ignoring"));
    }
    for (refusal, allowance) in &verdict.allowed {
        let line = format!("{unit}: let pass by {} ({}): {refusal}", allowance.by, allowance.reason);
        output::note(&one_line(&line));
    }
}
