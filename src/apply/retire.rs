//! Leaving an old life: the effects, in their order.
//!
//! Owns three steps. [`begin`] pins that a leave has begun: from then on the gate
//! lets nothing of k3s start, whatever happens to this program. [`carry_out`]
//! moves the old life's files aside, each by one rename on its own file system;
//! what is gone already was moved before a cut. The normal apply that follows
//! pins the new identity, still as leaving, and ends the leave after its commit.
//! Deletes nothing.

use super::aside::move_aside_as;
use super::{ApplyError, point};
use crate::facts::runtime::{PinnedIdentity, Retiring};
use crate::identity;
use crate::plan::{Plan, PlannedRetirement};
use crate::sys::{Change, Root};

/// Pins that the leave has begun, in the identity that is left.
///
/// # Errors
/// When it cannot be stored; nothing has begun then.
pub fn begin(
    root: &Root,
    pinned: &PinnedIdentity,
    retirement: &PlannedRetirement,
) -> Result<Change, ApplyError> {
    let leaving = PinnedIdentity { retiring: Some(retiring(retirement)), ..pinned.clone() };
    let change = identity::pin(root, &leaving)?;
    point("retiring-pinned")?;
    Ok(change)
}

/// Moves the old life's files aside; gives their new places. k3s must be down.
///
/// # Errors
/// When one cannot be moved: it is then still in its place, and the next pass
/// goes on from there.
pub fn carry_out(root: &Root, retirement: &PlannedRetirement) -> Result<Vec<String>, ApplyError> {
    let mut moved = Vec::new();
    for path in &retirement.paths {
        moved.extend(move_aside_as(root, path, retirement.number)?);
    }
    point("retired")?;
    Ok(moved)
}

/// The new identity as it is pinned before the commit: `config.yaml` is still of
/// the old life, so the gate stays closed.
pub(super) fn until_committed(plan: &Plan) -> Option<PinnedIdentity> {
    let retiring = plan.retirement.as_ref().map(retiring);
    plan.identity.clone().map(|identity| PinnedIdentity { retiring, ..identity })
}

/// Ends the leave after the commit: the gate is open for the new life.
pub(super) fn end(root: &Root, plan: &Plan) -> Result<(), ApplyError> {
    let Some(identity) = plan.identity.as_ref().filter(|_| plan.retirement.is_some()) else { return Ok(()) };
    identity::pin(root, identity)?;
    point("leave-ended")
}

fn retiring(retirement: &PlannedRetirement) -> Retiring {
    Retiring { number: retirement.number, reason: retirement.reason.clone() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::sys::atomic;

    #[test]
    fn a_leave_that_was_cut_goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let data = "/var/lib/rancher/k3s";
        for name in ["server", "agent"] {
            root.make_dir(&format!("{data}/{name}"), 0o700).unwrap();
            atomic::write(&root, &format!("{data}/{name}/client-ca.crt"), name.as_bytes(), 0o600).unwrap();
        }
        let paths = vec![format!("{data}/server"), format!("{data}/agent/client-ca.crt")];
        let retirement = PlannedRetirement { number: 4, reason: "it moves".to_owned(), paths: paths.clone() };
        // The cut came after the first rename.
        let first = PlannedRetirement { paths: paths[..1].to_vec(), ..retirement.clone() };
        assert_eq!(carry_out(&root, &first).unwrap(), [format!("{data}/server.quarantine-4")]);
        assert_eq!(
            carry_out(&root, &retirement).unwrap(),
            [format!("{data}/agent/client-ca.crt.quarantine-4")]
        );
        assert!(carry_out(&root, &retirement).unwrap().is_empty());
        let kept = root.read(&format!("{data}/server.quarantine-4/client-ca.crt")).unwrap();
        assert_eq!(kept.as_deref(), Some(b"server".as_slice()));
    }
}
