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
mod rules;

use std::time::Duration;

use thiserror::Error;

pub use look::{Item, Manifest, is_inside, look};

use super::{Agent, Stop, StopKind};
use crate::error::Chain;
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// End what runs, and remove nothing from disk.
    pub kill_only: bool,
    /// Drop the identity too.
    pub forget: bool,
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

/// Ends what runs of k3s, and gives what is left of it, one line each.
///
/// # Errors
/// When systemd is not reached, or a process or mount cannot be seen.
pub async fn kill(agent: &Agent) -> Result<Vec<String>, ResetError> {
    stop_units(agent, false).await?;
    live::end(agent).await;
    Ok(look::left(agent, true).await)
}

/// Carries the whole reset out, or goes on with one that was cut. Gives what is
/// left, one line each: empty when it is done.
///
/// # Errors
/// When a step fails; the same call goes on there.
pub async fn carry_out(agent: &Agent, forget: bool, by: &str) -> Result<Vec<String>, ResetError> {
    let reset = begin(agent, forget, by)?;
    stop_units(agent, true).await?;
    point("reset-stopped")?;
    live::end(agent).await;
    // What still holds a mount holds what is in it: nothing is removed then.
    let running = look::left(agent, true).await;
    if !running.is_empty() {
        return Ok(running);
    }
    point("reset-ended")?;
    files::move_aside(&agent.root, reset.number)?;
    point("reset-moved")?;
    let met = files::remove(&agent.root)?;
    files::remove_own(&agent.root)?;
    point("reset-removed")?;
    agent.systemd.reload().await?;
    leave_identity(agent, reset.forget)?;
    activate::forget(&agent.root)?;
    point("reset-identity")?;
    let mut left = look::left(agent, false).await;
    left.extend(met.into_iter().map(|point| format!("something is mounted at {point}")));
    if left.is_empty() {
        reset::record(&agent.root, &Reset { finished: true, ..reset })?;
    }
    Ok(left)
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
    for name in plan::UNITS {
        let state = agent.systemd.unit(name).await?;
        if !state.is_down() {
            agent.systemd.run(Verb::Stop, name, STOP).await?;
        }
        if disable && state.file_state == "enabled" {
            agent.systemd.disable(name).await?;
            files::sync_boot_links(&agent.root);
        }
    }
    let pods = agent.systemd.unit(plan::PODS_SLICE).await?;
    if !pods.is_down() {
        agent.systemd.run(Verb::Stop, plan::PODS_SLICE, STOP).await?;
    }
    Ok(())
}

/// The identity of the same host in no cluster, or none at all.
fn leave_identity(agent: &Agent, forget: bool) -> Result<(), ResetError> {
    if forget {
        return Ok(files::forget(&agent.root)?);
    }
    // A damaged one is not made better here, and no reason not to leave.
    if let Some(pinned) = identity::load(&agent.root).ok().and_then(|loaded| loaded.value()) {
        identity::pin(&agent.root, &plan::identity_after(&pinned))?;
    }
    // It knows of the life that was left.
    agent.root.remove_file(&format!("{}.prev", paths::IDENTITY))?;
    Ok(files::drop_assignment(&agent.root)?)
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
