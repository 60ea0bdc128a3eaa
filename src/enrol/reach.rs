//! How the central service is reached: who must answer, where, and with what
//! token.
//!
//! Owns the files beside the assignment: the authority, the enrolment token
//! (read, and deleted once it has served) and the addresses that answered.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::client::Met;
use super::credential::Credential;
use super::trust::Trust;
use super::{CentralSettings, EnrolError, local};
use crate::floor;
use crate::paths::CENTRAL;
use crate::plan::time;
use crate::sys::http::{self, Proof};
use crate::sys::{Root, statefile};
use crate::wire::Secret;

/// Addresses that answered, by name.
type Addresses = BTreeMap<String, IpAddr>;

/// Prepares the client for whom this host believes now.
pub(super) fn http_client(
    root: &Root,
    central: &CentralSettings,
    credential: &Credential,
    trust: &Trust,
) -> Result<http::Client, EnrolError> {
    let proof =
        Proof { pins: trust.pins(&central.pins), authorities: authorities(root, central)?, anybody: false };
    let mut addresses = central.addresses.clone();
    addresses.extend(known_addresses(root).into_values());
    http::Client::new(&http::Settings {
        proof,
        identity: Some(credential.identity()),
        resolvers: central.resolvers.clone(),
        addresses,
        proxy: central.proxy.as_ref().map(|proxy| proxy.expose().to_owned()),
        believable: Some(time::believable(floor::known(root))),
    })
    .map_err(EnrolError::Client)
}

/// Remembers from where a name was answered. A disk that takes no write is no
/// reason to throw the answer away: this is a short cut for later.
pub(super) fn remember(root: &Root, central: &CentralSettings, met: &Met) {
    let Some((name, address)) = met.address.clone().filter(|_| central.proxy.is_none()) else { return };
    let mut known = known_addresses(root);
    if known.insert(name, address) != Some(address) {
        let _ = statefile::store(root, CENTRAL, &known);
    }
}

/// The enrolment token; `None` when the settings name none or its file is gone.
pub(super) fn token(root: &Root, central: &CentralSettings) -> Result<Option<Secret>, EnrolError> {
    let Some(file) = &central.token_file else { return Ok(None) };
    let text = local::read_secret(root, file)?;
    Ok(text.map(|text| Secret::new(text.trim())).filter(|token| !token.is_empty()))
}

/// Deletes the enrolment token, durably, once the service knows this host.
pub(super) fn forget_token(root: &Root, central: &CentralSettings) -> Result<(), EnrolError> {
    let Some(file) = &central.token_file else { return Ok(()) };
    if root.remove_file(file)?
        && let Some((directory, _)) = file.rsplit_once('/')
    {
        root.sync_dir(directory)?;
    }
    Ok(())
}

fn authorities(root: &Root, central: &CentralSettings) -> Result<Option<String>, EnrolError> {
    let Some(file) = &central.ca_file else { return Ok(None) };
    match root.read_text(file)? {
        Some(pem) => Ok(Some(pem)),
        None => Err(EnrolError::Unusable {
            path: file.clone(),
            problem: "is not there, and central.ca-file names it".to_owned(),
        }),
    }
}

/// A damaged file costs a short cut, nothing else.
fn known_addresses(root: &Root) -> Addresses {
    statefile::load(root, CENTRAL).ok().and_then(statefile::Loaded::value).unwrap_or_default()
}
