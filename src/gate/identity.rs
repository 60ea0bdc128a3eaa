//! Whether unit, configuration, name, address and hardware are those of the
//! pinned identity.
//!
//! Owns reading them before a start; the comparison is the plan's. A host
//! without a pinned identity passes.

use super::Look;
use crate::facts::runtime::PinnedIdentity;
use crate::facts::{Fact, HostFacts};
use crate::plan::fingerprint::{self, Comparison, Said};
use crate::plan::{Refusal, rules};
use crate::sys::Root;
use crate::{identity, observe};

/// The pinned identity, and what to say when it cannot be read.
pub(super) fn pinned(root: &Root) -> (Option<PinnedIdentity>, Vec<String>) {
    match identity::load(root) {
        Ok(loaded) => {
            let fallback = |damage| format!("identity.json: {damage}; its earlier copy is in force");
            let notes = loaded.damage().map(fallback).into_iter().collect();
            (loaded.value(), notes)
        }
        Err(error) => (None, vec![format!("{error}; name and address were not checked")]),
    }
}

/// A disk that was copied or moved must not start as its original. The board
/// alone decides whether anything else is read: without its contradiction
/// nothing is refused, and a start must not wait for a disk that hangs.
pub(super) fn hardware_fits(look: &mut Look<'_>) -> Option<Refusal> {
    let identity = look.identity.as_ref()?;
    let mut facts = HostFacts::default();
    facts.identity.board = observe::identity::board(look.root);
    let board = Comparison::of(&identity.fingerprint, &fingerprint::of(&facts)).board;
    if board != Said::Contradicts {
        return None;
    }
    facts.network.interfaces = observe::network::interfaces(look.root);
    let refusal = fingerprint::fits(&fingerprint::of(&facts), identity);
    refusal.or_else(|| {
        facts.hardware.disks = observe::disks::observe(look.root);
        fingerprint::fits(&fingerprint::of(&facts), identity)
    })
}

pub(super) fn unit_fits(look: &mut Look<'_>) -> Option<Refusal> {
    rules::unit_fits(look.unit, look.identity.as_ref()?)
}

pub(super) fn config_fits(look: &mut Look<'_>) -> Option<Refusal> {
    let (identity, effective) = (look.identity.as_ref()?, look.effective.known()?);
    rules::config_fits(effective, identity).or_else(|| rules::keys_fit(effective, identity.role))
}

pub(super) fn name_fits(look: &mut Look<'_>) -> Option<Refusal> {
    let identity = look.identity.as_ref()?;
    let hostname = look.root.read_kernel("/proc/sys/kernel/hostname").ok()?;
    rules::hostname_fits(&hostname, identity)
}

pub(super) fn address_fits(look: &mut Look<'_>) -> Option<Refusal> {
    let identity = look.identity.as_ref()?;
    match observe::network::interfaces(look.root) {
        Fact::Known(interfaces) => rules::address_fits(&interfaces, identity),
        Fact::Unknown { unknown } => {
            look.notes.push(format!("addresses were not checked: {unknown}"));
            None
        }
    }
}
