//! Whether a start could fork the cluster.
//!
//! Owns reading the datastore, the lease and the token state before a start; the
//! rules are the plan's ([`crate::plan::forks`]). One check per code, so that a
//! person who lets one pass has let the others stand.

use super::{Look, overrides};
use crate::facts::Fact;
use crate::facts::k3s_config::Effective;
use crate::observe::k3s;
use crate::plan::forks::{self, Datastore, Server};
use crate::plan::{Refusal, units};
use crate::sys::Root;
use crate::{lease, plan::rules, reset};

/// Nothing of k3s starts while a person resets this host.
pub(super) fn not_resetting(look: &mut Look<'_>) -> Option<Refusal> {
    reset::unfinished(look.root).map(|reset| reset.refusal())
}

/// Nothing of k3s starts before a leave that has begun is done.
pub(super) fn not_leaving(look: &mut Look<'_>) -> Option<Refusal> {
    forks::is_not_leaving(look.identity.as_ref()?)
}

pub(super) fn epoch_holds(look: &mut Look<'_>) -> Option<Refusal> {
    judge(look, forks::epoch_holds)
}

pub(super) fn is_a_member(look: &mut Look<'_>) -> Option<Refusal> {
    judge(look, forks::is_a_member)
}

pub(super) fn begins_rightly(look: &mut Look<'_>) -> Option<Refusal> {
    judge(look, forks::begins_rightly)
}

pub(super) fn name_fits(look: &mut Look<'_>) -> Option<Refusal> {
    judge(look, forks::name_fits)
}

pub(super) fn ca_fits(look: &mut Look<'_>) -> Option<Refusal> {
    judge(look, forks::ca_fits)
}

/// An agent has a server to ask.
pub(super) fn has_server(look: &mut Look<'_>) -> Option<Refusal> {
    let config = look.effective.known().filter(|_| look.unit == units::K3S_AGENT)?.clone();
    forks::agent_has_server(&forks::with_overrides(&config, overrides::of(look)))
}

/// A pinned agent asks only servers of its own cluster.
pub(super) fn joins_its_own(look: &mut Look<'_>) -> Option<Refusal> {
    let config = look.effective.known().filter(|_| look.unit == units::K3S_AGENT)?.clone();
    look.identity.as_ref()?;
    forks::pins_ca(is_pinned(look.root, &forks::with_overrides(&config, overrides::of(look))))
}

/// Asks `rule` about the start as it would be, and about one without the
/// settings of others, to name the one that is to blame.
fn judge(look: &mut Look<'_>, rule: fn(&Server<'_>) -> Option<Refusal>) -> Option<Refusal> {
    let config = look.effective.known().filter(|_| look.unit == units::K3S)?.clone();
    let overrides = overrides::of(look).to_vec();
    let root = look.root;
    let datastore = look.datastore.get_or_insert_with(|| datastore(root));
    let identity = look.identity.as_ref();
    let ask = |effective: &Effective| {
        let (has_token, has_lease) = (has_token(root, effective), lease::is_confirmed(root, identity));
        let is_pinned = is_pinned(root, effective);
        rule(&Server { identity, effective, datastore, has_token, is_pinned, has_lease })
    };
    let refusal = ask(&forks::with_overrides(&config, &overrides))?;
    Some(forks::blamed(refusal, ask(&config).as_ref(), &overrides))
}

fn datastore(root: &Root) -> Datastore {
    let empty = k3s::etcd_name_empty(root) == Fact::Known(true);
    let name = k3s::etcd_member(root).known().cloned().flatten();
    Datastore {
        present: k3s::has_datastore(root).known().copied(),
        tombstone: k3s::tombstone(root).known().copied(),
        name: if empty { Some(String::new()) } else { name },
        ca_hash: k3s::ca_hash(root).known().cloned().flatten(),
    }
}

/// Whether the token names the cluster's CA; ours lies always in a file, and one
/// that cannot be read is no evidence.
fn is_pinned(root: &Root, effective: &Effective) -> bool {
    let path = effective.all("token-file").last().filter(|path| !path.is_empty());
    path.is_some_and(|path| match root.read(path) {
        Ok(bytes) => bytes.is_some_and(|bytes| bytes.trim_ascii_start().starts_with(b"K10")),
        Err(_) => true,
    })
}

/// The file's content takes the place of a plain token (k3s:
/// pkg/cli/server/server.go); one that cannot be read is no evidence.
fn has_token(root: &Root, effective: &Effective) -> bool {
    match effective.all("token-file").last().filter(|path| !path.is_empty()) {
        Some(path) => match root.read(path) {
            Ok(bytes) => !bytes.unwrap_or_default().trim_ascii().is_empty(),
            Err(_) => true,
        },
        None => rules::token_is_named(effective).is_none(),
    }
}
