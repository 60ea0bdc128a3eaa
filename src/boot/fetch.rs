//! Whether a plan may be put in force, once what it needs by digest was brought.
//!
//! Owns that a node which is in force goes on as it is otherwise: a host keeps
//! its name and address, and its units, while a binary cannot be had, or while the
//! assignment names a token that k3s would not start with.

use super::{Agent, Downloader, Order, Pass, Severity, Stop, StopKind, Until, containerd, steps};
use crate::apply;
use crate::enrol::Source;
use crate::error::Chain;
use crate::plan::{CheckedPlan, Refusal, tokens};

/// Brings it; `false` when nothing of the plan's generation may be put in force.
///
/// # Errors
/// Where there is no earlier generation that could go on.
pub(super) async fn bring(
    agent: &Agent,
    order: Order,
    checked: &CheckedPlan,
    pass: &mut Pass,
) -> Result<bool, Stop> {
    // Told already; the generation in force has the token that k3s holds.
    let duty = pass.assignment.as_ref().and_then(|assignment| assignment.duty.as_ref());
    if duty.is_some_and(|duty| tokens::is_unknown(&pass.facts, duty)) && containerd::goes_on(checked, pass) {
        pass.blocked = true;
        return Ok(false);
    }
    let Some((stop, severity)) = missing(agent, order, checked, pass).await else { return Ok(true) };
    if !containerd::goes_on(checked, pass) {
        return Err(stop);
    }
    pass.find(severity, stop.why);
    pass.blocked = true;
    Ok(false)
}

/// Why something is still missing.
async fn missing(
    agent: &Agent,
    order: Order,
    checked: &CheckedPlan,
    pass: &mut Pass,
) -> Option<(Stop, Severity)> {
    if order.until == Until::Ready && !checked.plan().artifacts.is_empty() {
        let why =
            Refusal::new("EB-wait-k3s", "k3s's binary must be fetched first", "it is fetched after the boot");
        return Some((Stop { why, kind: StopKind::Waiting }, Severity::Info));
    }
    let source = Source::from(&agent.settings);
    let downloader = Downloader::new(&source, agent.watcher.as_ref()).resting(&agent.rests);
    let fetched = steps::timed(pass, "apply", apply::fetch(&agent.root, checked, &downloader)).await;
    let error = fetched.err()?;
    if let Some(why) = agent.rests.goes_on() {
        pass.again = true;
        return Some((Stop { why, kind: StopKind::Waiting }, Severity::Info));
    }
    let why = Refusal::new(error.code(), Chain(&error).to_string(), "it is tried again by itself");
    Some((Stop { why, kind: StopKind::Failed }, Severity::Fail))
}
