//! `gate --unit UNIT`.
//!
//! Owns the exit code and the one line. Never starts a runtime: it has
//! milliseconds.

use clap::Args;

use super::{Common, output};
use crate::gate;
use crate::sys::Clock;

#[derive(Debug, Args)]
pub struct GateArgs {
    /// The unit that is about to start
    #[arg(long, value_name = "UNIT")]
    unit: String,
}

pub fn run(common: &Common, args: &GateArgs) -> u8 {
    gate::arm();
    let root = common.root();
    let verdict = gate::check(&root, Clock::System, &args.unit);
    for note in &verdict.notes {
        output::note(&format!("{}: {note}, ignoring", args.unit));
    }
    for (refusal, allowance) in &verdict.allowed {
        output::note(&format!(
            "{}: let pass by {} ({}): {refusal}",
            args.unit, allowance.by, allowance.reason
        ));
    }
    let Some(refusal) = verdict.refusal else { return 0 };
    let line = gate::line(&root, Clock::System, &args.unit, &refusal);
    if let Some(line) = line.or_else(|| output::is_watched().then(|| refusal.to_string())) {
        output::note(&line);
    }
    1
}
