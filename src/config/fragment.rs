//! The TOML shape: what one file may say, one line per key. Owns the pairing of
//! each key with its type and the rule that a later file replaces a whole value.
//! Gives no defaults and compares no two keys.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::choices::{RelayListen, RepairPolicy, address_with, host_address, snapshotter};
use super::digests::{Pin, ReleaseKey};
use super::keys;
use super::names::{self, DeviceName, NameTemplate};
use super::network;
use super::reader::{Placed, Reader, Reason};
use super::url::{Endpoint, Proxy};
use crate::facts::network::{Cidr, InterfaceChoice};
use crate::role::Snapshotter;
use crate::role::words::{ConfigKey, SiteName};

/// The DNS port, for resolvers that name none.
const DNS_PORT: u16 = 53;

/// The port of a relay that names none.
pub(super) const RELAY_PORT: u16 = 6446;

macro_rules! fragment {
    ($($field:ident: $type:ty = $how:ident($($argument:expr),+);)*) => {
        /// What one file says, or several merged ones.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub(super) struct Fragment {
            $(pub(super) $field: Option<Placed<$type>>,)*
        }

        impl Fragment {
            /// Takes every known key out of `reader`.
            pub(super) fn read(reader: &mut Reader<'_>) -> Self {
                Self { $($field: reader.$how($($argument),+),)* }
            }

            /// This file's values, replaced by those of `later` where it has one.
            pub(super) fn replaced_by(self, later: Self) -> Self {
                Self { $($field: later.$field.or(self.$field),)* }
            }
        }
    };
}

fragment! {
    endpoints: Vec<Endpoint> = list(keys::ENDPOINTS, Endpoint::parse);
    addresses: Vec<IpAddr> = list(keys::ADDRESSES, address);
    ca_file: Option<PathBuf> = optional(keys::CA_FILE, names::path);
    pins: Vec<Pin> = list(keys::PINS, Pin::parse);
    enrol_token_file: Option<PathBuf> = optional(keys::ENROL_TOKEN_FILE, names::path);
    resolvers: Vec<SocketAddr> = list(keys::RESOLVERS, resolver);
    proxy: Option<Proxy> = optional(keys::PROXY, Proxy::parse);
    assignment_file: Option<PathBuf> = optional(keys::ASSIGNMENT_FILE, names::path);
    listen: RelayListen = text(keys::LISTEN, RelayListen::parse);
    peers: Vec<SocketAddr> = list(keys::PEERS, peer);
    site: Option<SiteName> = optional(keys::SITE, names::word);
    ip: Option<IpAddr> = optional(keys::IP, host_address);
    ip_networks: Vec<Cidr> = list(keys::IP_NETWORKS, network::parse);
    manage_ip: bool = flag(keys::MANAGE_IP);
    interface: Option<InterfaceChoice> = optional(keys::INTERFACE, network::interface);
    name_template: NameTemplate = text(keys::NAME_TEMPLATE, NameTemplate::parse);
    manage_hostname: bool = flag(keys::MANAGE_HOSTNAME);
    snapshotter: Option<Snapshotter> = text(keys::SNAPSHOTTER, snapshotter);
    pool: Option<DeviceName> = optional(keys::POOL, DeviceName::parse);
    volume_group: Option<DeviceName> = optional(keys::VOLUME_GROUP, DeviceName::parse);
    device: Option<PathBuf> = optional(keys::DEVICE, names::device);
    create: bool = flag(keys::CREATE);
    release_keys: Vec<ReleaseKey> = list(keys::RELEASE_KEYS, not_enforced);
    allow_keys: Vec<ConfigKey> = list(keys::ALLOW_KEYS, names::word);
    policy: RepairPolicy = text(keys::POLICY, RepairPolicy::parse);
}

/// A key that nothing is checked with would promise a protection that is not there.
fn not_enforced(text: &str) -> Result<ReleaseKey, Reason> {
    ReleaseKey::parse(text)?;
    Err("this version checks no signed list of digests, so that no key may be set".into())
}

fn address(text: &str) -> Result<IpAddr, Reason> {
    text.parse().map_err(|_| "it is not an IP address".into())
}

fn resolver(text: &str) -> Result<SocketAddr, Reason> {
    address_with(DNS_PORT, text)
}

fn peer(text: &str) -> Result<SocketAddr, Reason> {
    let peer = address_with(RELAY_PORT, text)?;
    host_address(&peer.ip().to_string())?;
    Ok(peer)
}
