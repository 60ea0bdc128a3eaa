//! Whether unit, configuration, name, address and hardware are those of the
//! pinned identity.
//!
//! Owns reading them before a start; the comparison is the plan's. A host
//! without a pinned identity passes.

use std::net::IpAddr;

use super::Look;
use crate::facts::Fact;
use crate::facts::runtime::PinnedIdentity;
use crate::plan::{Refusal, rules};
use crate::sys::Root;
use crate::{identity, observe};

/// The pinned identity, and what to say when it cannot be read.
pub(super) fn pinned(root: &Root) -> (Option<PinnedIdentity>, Vec<String>) {
    match identity::load(root) {
        Ok(loaded) => (loaded.value(), Vec::new()),
        Err(error) => (None, vec![format!("{error}; name and address were not checked")]),
    }
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
        Fact::Known(interfaces) => {
            let addresses: Vec<IpAddr> =
                interfaces.iter().flat_map(|nic| nic.addresses.iter().map(|cidr| cidr.address)).collect();
            rules::address_fits(&addresses, identity)
        }
        Fact::Unknown { unknown } => {
            look.notes.push(format!("addresses were not checked: {unknown}"));
            None
        }
    }
}
