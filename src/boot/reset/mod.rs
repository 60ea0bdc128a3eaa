//! `reset`: this host leaves its cluster at a person's word.
//!
//! Owns the order, and that each step may be done again. The record comes first
//! ([`crate::reset`]) and closes the gate; then the units stop, what of k3s is
//! left ends, mounts leave their places before anything is removed, and the
//! gate line goes last. What is still there afterwards is named, and the record
//! then stays unfinished. What goes is decided by [`crate::plan::reset`].

mod files;
mod live;
mod look;
mod may;
mod quorum;
mod rules;

use std::time::Duration;

use thiserror::Error;

pub use look::{Item, Manifest, look};

use super::{Agent, Stop, StopKind};
use crate::error::Chain;
use crate::observe::strangers;
use crate::plan::reset::{self as plan};
use crate::reset::{self, Reset};
use crate::sys::fault;
use crate::sys::root::FileError;
use crate::sys::statefile::StateError;
use crate::sys::systemd::{SystemdError, Verb};
use crate::{activate, identity, paths};

/// How long one unit may take to stop; what is left of it then is ended.
const STOP: Duration = Duration::from_secs(30);

/// What a person asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wish {
    /// End what runs, and remove nothing from disk.
    pub kill_only: bool,
    /// Drop the identity too.
    pub forget: bool,
    /// Do it although the cluster ends or loses its majority with this host.
    pub break_cluster: bool,
}

/// What became of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What is still there, one line each: empty when it is done.
    pub left: Vec<String>,
    /// What could not be looked at.
    pub unseen: Vec<String>,
    /// Directory with what was moved.
    pub backup: Option<String>,
}

/// Why a reset could not be carried on; what was done stays done.
#[derive(Debug, Error)]
pub enum ResetError {
    /// A unit could not be stopped or taken out of the boot.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    /// A record could not be stored.
    #[error(transparent)]
    State(#[from] StateError),
    /// A file could not be moved or removed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A test asked for a fault.
    #[error("fault point {0}")]
    Fault(&'static str, #[source] std::io::Error),
}

/// Whether a wish may be carried out now: what its cluster loses, in words, and
/// why not, one line each.
pub async fn may_begin(agent: &Agent, wish: Wish) -> (Option<String>, Vec<String>) {
    let pinned = look::pinned(&agent.root).filter(|_| !wish.kill_only);
    let loss = look::loss_of(&agent.root, pinned.as_ref()).await;
    let obstacles = may::obstacles(agent, wish, loss.as_ref());
    (loss.map(|loss| loss.warning), obstacles)
}

/// Ends what runs of k3s, and gives what is left of it.
///
/// # Errors
/// When systemd is not reached.
pub async fn kill(agent: &Agent) -> Result<Outcome, ResetError> {
    stop_units(agent, false).await?;
    live::end(agent).await;
    Ok(look::left(agent, true).await)
}

/// Carries the whole reset out, or goes on with one that was cut.
///
/// # Errors
/// When a step fails; the same call goes on there.
pub async fn carry_out(agent: &Agent, forget: bool, by: &str) -> Result<Outcome, ResetError> {
    let reset = begin(agent, forget, by)?;
    stop_units(agent, true).await?;
    point("reset-stopped")?;
    live::end(agent).await;
    // What still holds a mount holds what is in it: nothing is removed then.
    let running = look::left(agent, true).await;
    if !running.left.is_empty() {
        return Ok(running);
    }
    point("reset-ended")?;
    let met = clear_disk(agent, &reset)?;
    agent.systemd.reload().await?;
    leave_identity(agent, &reset)?;
    activate::forget(&agent.root)?;
    point("reset-identity")?;
    agent.watcher.doing("looking for what is left");
    let mut outcome = look::left(agent, false).await;
    outcome.left.extend(met.into_iter().map(|point| format!("something is mounted at {point}")));
    outcome.backup = Some(files::backup(reset.number)).filter(|backup| agent.root.exists(backup));
    if outcome.left.is_empty() {
        reset::record(&agent.root, &Reset { finished: true, ..reset })?;
    }
    Ok(outcome)
}

/// Gives mounts that were in the way.
fn clear_disk(agent: &Agent, reset: &Reset) -> Result<Vec<String>, ResetError> {
    agent.watcher.doing(&format!("moving what a person may need again to {}", files::backup(reset.number)));
    files::move_aside(&agent.root, reset.number)?;
    point("reset-moved")?;
    agent.watcher.doing("removing what is left of k3s on disk");
    let met = files::remove(&agent.root)?;
    files::remove_own(&agent.root)?;
    point("reset-removed")?;
    Ok(met)
}

/// Records what begins, or takes up what has begun. Once it was said that the
/// identity goes it does, also when the second call does not say so again.
fn begin(agent: &Agent, forget: bool, by: &str) -> Result<Reset, ResetError> {
    let root = &agent.root;
    let reset = match reset::unfinished(root) {
        Some(begun) => Reset { forget: begun.forget || forget, ..begun },
        None => Reset {
            number: files::next_number(root)?,
            forget,
            by: by.to_owned(),
            at: agent.clock.rfc3339(),
            finished: false,
        },
    };
    reset::record(root, &reset)?;
    point("reset-begun")?;
    Ok(reset)
}

/// Stops k3s, and the slice of pods with all that is in it.
async fn stop_units(agent: &Agent, disable: bool) -> Result<(), ResetError> {
    for name in look::unit_names(agent, &strangers::processes(&agent.root)).await {
        let state = agent.systemd.unit(&name).await?;
        if !state.is_down() {
            agent.watcher.doing(&format!("stopping {name}, for at most {} s", STOP.as_secs()));
            agent.systemd.run(Verb::Stop, &name, STOP).await?;
        }
        if disable && state.file_state == "enabled" {
            agent.systemd.disable(&name).await?;
            files::sync_boot_links(&agent.root);
        }
    }
    let pods = agent.systemd.unit(plan::PODS_SLICE).await?;
    if !pods.is_down() {
        agent.watcher.doing("stopping the pods");
        agent.systemd.run(Verb::Stop, plan::PODS_SLICE, STOP).await?;
    }
    Ok(())
}

/// The identity of the same host in no cluster, or none at all.
fn leave_identity(agent: &Agent, reset: &Reset) -> Result<(), ResetError> {
    if reset.forget {
        return Ok(files::forget(&agent.root)?);
    }
    // A damaged one is not made better here, and no reason not to leave.
    if let Some(pinned) = look::pinned(&agent.root) {
        identity::pin(&agent.root, &plan::identity_after(&pinned))?;
    }
    // It knows of the life that was left.
    agent.root.remove_file(&format!("{}.prev", paths::IDENTITY))?;
    Ok(files::drop_assignment(&agent.root, reset.number)?)
}

/// A pass of a host that is being reset, or was: it changes nothing.
pub(super) fn stands(agent: &Agent) -> Result<(), Stop> {
    match reset::current(&agent.root) {
        Some(reset) => Err(Stop { why: reset.refusal(), kind: StopKind::Waiting }),
        None => Ok(()),
    }
}

fn point(name: &'static str) -> Result<(), ResetError> {
    fault::point(name).map_err(|error| ResetError::Fault(name, error))
}

/// An error of one small step, told and gone on with: what it leaves is named
/// at the end.
fn told(what: &str, error: &(dyn std::error::Error + 'static)) {
    tracing::warn!(EDGE_STEP = "reset", EDGE_REASON = %Chain(error), "{what}, going on");
}
