//! What no single value can say: pairs of keys that exclude or need each other,
//! and the step from merged values to settings. Owns those rules; the form of
//! single values is checked where they are read.

use std::net::IpAddr;

use super::error::{ConfigError, Origin};
use super::fragment::Fragment;
use super::keys::{self, Key};
use super::reader::Placed;
use super::{
    AssignmentSource, Central, Devmapper, Node, NodeAddress, PoolSpace, Relay, ServerProof, Settings,
    Storage, Transport, Trust,
};
use crate::role::Snapshotter;

/// Adds every broken rule to `errors`.
pub(super) fn check(merged: &Fragment, errors: &mut Vec<ConfigError>) {
    errors.extend(exclusions(merged));
    if errors.is_empty() {
        errors.extend([proof(merged), name(merged)].into_iter().flatten());
        errors.extend(pool(merged));
    }
}

/// A key, and its place where it is set to something.
type Side<'a> = (&'static Key, Option<&'a Origin>);

fn exclusions(merged: &Fragment) -> impl Iterator<Item = ConfigError> {
    let rivals: [(Side<'_>, Side<'_>); 4] = [
        (
            (keys::ENDPOINTS, filled(merged.endpoints.as_ref())),
            (keys::ASSIGNMENT_FILE, set(merged.assignment_file.as_ref())),
        ),
        ((keys::CA_FILE, set(merged.ca_file.as_ref())), (keys::PINS, filled(merged.pins.as_ref()))),
        ((keys::IP, set(merged.ip.as_ref())), (keys::IP_NETWORKS, filled(merged.ip_networks.as_ref()))),
        (
            (keys::VOLUME_GROUP, set(merged.volume_group.as_ref())),
            (keys::DEVICE, set(merged.device.as_ref())),
        ),
    ];
    rivals.into_iter().filter_map(|(left, right)| rivalry(left, right))
}

fn rivalry((left, first): Side<'_>, (right, second): Side<'_>) -> Option<ConfigError> {
    let message = format!(
        "cannot stand beside `{}` ({}); keep one, or empty the other in a later file",
        left.name, first?
    );
    Some(ConfigError::new(second?.clone(), right.name, message))
}

fn proof(merged: &Fragment) -> Option<ConfigError> {
    let endpoints = merged.endpoints.as_ref()?;
    let proven = filled(merged.pins.as_ref()).or(set(merged.ca_file.as_ref())).is_some();
    let open = endpoints.value.iter().all(super::Endpoint::is_plain);
    (!proven && !open).then(|| {
        let message = "needs `central.pins` or `central.ca-file`: by one of them the service proves itself";
        ConfigError::new(endpoints.origin.clone(), keys::ENDPOINTS.name, message.to_owned())
    })
}

/// The longest name that any host of the room gets: what fails here, fails for some host.
fn name(merged: &Fragment) -> Option<ConfigError> {
    let template = merged.name_template.as_ref()?;
    let site = merged.site.as_ref().and_then(|site| site.value.as_ref());
    let error = template.value.render(longest_address(merged), site).err()?;
    Some(ConfigError::new(template.origin.clone(), keys::NAME_TEMPLATE.name, error.to_string()))
}

fn longest_address(merged: &Fragment) -> IpAddr {
    let mut networks = merged.ip_networks.iter().flat_map(|networks| &networks.value);
    match merged.ip.as_ref().and_then(|ip| ip.value) {
        Some(ip) => ip,
        None if networks.any(|network| network.address.is_ipv6()) => [u16::MAX; 8].into(),
        None => [u8::MAX; 4].into(),
    }
}

fn pool(merged: &Fragment) -> Vec<ConfigError> {
    let pool = set(merged.pool.as_ref());
    let space = set(merged.volume_group.as_ref()).or(set(merged.device.as_ref()));
    let create = merged.create.as_ref().filter(|create| create.value).map(|create| &create.origin);
    let chosen = merged.snapshotter.as_ref();
    let chosen =
        chosen.filter(|chosen| chosen.value == Some(Snapshotter::Devmapper)).map(|chosen| &chosen.origin);
    let pool_name = "needs `storage.devmapper.pool`";
    let room = "needs `storage.devmapper.volume-group` or `storage.devmapper.device`";
    let rules = [
        (keys::SNAPSHOTTER, chosen, pool, pool_name),
        (keys::VOLUME_GROUP, set(merged.volume_group.as_ref()), pool, pool_name),
        (keys::DEVICE, set(merged.device.as_ref()), pool, pool_name),
        (keys::CREATE, create, pool, pool_name),
        (keys::CREATE, create, space, room),
    ];
    let broken = rules.into_iter().filter(|(_, _, needed, _)| needed.is_none());
    broken
        .filter_map(|(key, origin, _, message)| {
            Some(ConfigError::new(origin?.clone(), key.name, message.to_owned()))
        })
        .collect()
}

/// The place of a list with elements.
fn filled<T>(list: Option<&Placed<Vec<T>>>) -> Option<&Origin> {
    list.filter(|list| !list.value.is_empty()).map(|list| &list.origin)
}

/// The place of a text that is not empty.
fn set<T>(value: Option<&Placed<Option<T>>>) -> Option<&Origin> {
    value.filter(|value| value.value.is_some()).map(|value| &value.origin)
}

/// The settings of a fragment in which [`check`] found nothing.
pub(super) fn settings(merged: Fragment) -> Settings {
    let source = source(&merged);
    let storage = storage(&merged);
    let none = Node::default();
    let address = match (plain(merged.ip).flatten(), plain(merged.ip_networks)) {
        (Some(ip), _) => NodeAddress::Exact(ip),
        (None, Some(networks)) if !networks.is_empty() => NodeAddress::Within(networks),
        _ => NodeAddress::Undecided,
    };
    Settings {
        source,
        transport: Transport {
            resolvers: plain(merged.resolvers).unwrap_or_default(),
            proxy: plain(merged.proxy).flatten(),
        },
        relay: Relay {
            listen: plain(merged.listen).unwrap_or(Relay::default().listen),
            peers: plain(merged.peers).unwrap_or_default(),
        },
        node: Node {
            site: plain(merged.site).flatten(),
            address,
            manage_ip: plain(merged.manage_ip).unwrap_or(none.manage_ip),
            interface: plain(merged.interface).flatten(),
            name_template: plain(merged.name_template).unwrap_or(none.name_template),
            manage_hostname: plain(merged.manage_hostname).unwrap_or(none.manage_hostname),
        },
        storage,
        trust: Trust {
            release_keys: plain(merged.release_keys).unwrap_or_default(),
            allow_keys: plain(merged.allow_keys).unwrap_or_default(),
        },
        repair: plain(merged.policy).unwrap_or_default(),
    }
}

fn source(merged: &Fragment) -> AssignmentSource {
    let endpoints = copy(merged.endpoints.as_ref()).unwrap_or_default();
    if endpoints.is_empty() {
        let file = copy(merged.assignment_file.as_ref()).flatten();
        return file.map_or(AssignmentSource::None, AssignmentSource::File);
    }
    let ca_file = copy(merged.ca_file.as_ref()).flatten();
    let proof = match (ca_file, copy(merged.pins.as_ref())) {
        (Some(file), _) => ServerProof::CaFile(file),
        (None, Some(pins)) if !pins.is_empty() => ServerProof::Pins(pins),
        _ => ServerProof::Loopback,
    };
    AssignmentSource::Central(Central {
        endpoints,
        addresses: copy(merged.addresses.as_ref()).unwrap_or_default(),
        proof,
        enrol_token_file: copy(merged.enrol_token_file.as_ref()).flatten(),
    })
}

fn storage(merged: &Fragment) -> Storage {
    let group = copy(merged.volume_group.as_ref()).flatten().map(PoolSpace::VolumeGroup);
    let device = copy(merged.device.as_ref()).flatten().map(PoolSpace::Device);
    let create = copy(merged.create.as_ref()).unwrap_or_default();
    let pool = copy(merged.pool.as_ref()).flatten();
    Storage {
        snapshotter: copy(merged.snapshotter.as_ref()).unwrap_or_default(),
        devmapper: pool.map(|pool| Devmapper { pool, space: group.or(device), create }),
    }
}

fn plain<T>(placed: Option<Placed<T>>) -> Option<T> {
    placed.map(|placed| placed.value)
}

fn copy<T: Clone>(placed: Option<&Placed<T>>) -> Option<T> {
    placed.map(|placed| placed.value.clone())
}
