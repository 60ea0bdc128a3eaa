//! The invariants as rules over plain values.
//!
//! Owns what gate, lint and plan all ask: does this configuration fit the
//! pinned identity, may this unit run, do networks collide. Pure; each rule
//! says what it saw and what to do.

use super::cidrs::{self, Pair};
use super::keys;
use super::refusal::Refusal;
use super::{Inputs, absence, adopt, fingerprint, pinned, retire, roles, units};
use crate::facts::HostFacts;
use crate::facts::k3s_config::Effective;
use crate::facts::network::{Cidr, Interface};
use crate::facts::runtime::PinnedIdentity;
use crate::role::{Duty, Role};

/// The machine is the one on which the identity was pinned (invariant 3); before
/// this is known, nothing of the original may be taken up.
///
/// # Errors
/// `EB-copied-disk`.
pub fn hardware_fits(facts: &HostFacts) -> Result<(), Refusal> {
    let refusal = pinned(facts).and_then(|pinned| fingerprint::fits(&fingerprint::of(facts), pinned));
    refusal.map_or(Ok(()), Err)
}

/// What must hold before anything is rendered.
pub(super) fn before_planning(inputs: Inputs<'_>, duty: &Duty) -> Result<(), Refusal> {
    let refusals = [
        adopt::is_needed(inputs),
        keeps_identity(inputs, duty),
        keeps_lost_identity(inputs, duty),
        datastore_is_of_this_epoch(inputs, duty),
        local_ip_agrees(inputs, duty),
        cidrs_are_free(inputs, duty),
    ];
    refusals.into_iter().flatten().next().map_or(Ok(()), Err)
}

/// What of a pinned identity the assignment has otherwise: its name, and a
/// phrase for people.
pub(super) fn identity_changes(
    inputs: Inputs<'_>,
    duty: &Duty,
    pinned: &PinnedIdentity,
) -> Vec<(&'static str, String)> {
    let site = inputs.assignment.site.to_string();
    let (role, new_role) = (pinned.role.to_string(), duty.role.to_string());
    [
        ("node name", pinned.node_name.as_str(), duty.node.name.as_str()),
        ("node IP", &pinned.node_ip.to_string(), &duty.node.ip.to_string()),
        ("site", &pinned.site, &site),
        ("cluster", &pinned.cluster, duty.cluster.name.as_str()),
        ("role", &role, &new_role),
    ]
    .into_iter()
    .filter(|(_, old, new)| old != new)
    .map(|(what, old, new)| (what, format!("{what} {old} to {new}")))
    .collect()
}

/// Phrases of changes in one, for people.
pub(super) fn phrase(changes: Vec<(&'static str, String)>) -> String {
    changes.into_iter().map(|(_, phrase)| phrase).collect::<Vec<_>>().join(", ")
}

/// Once joined, name, IP, site, cluster and role stay (invariant 12).
fn keeps_identity(inputs: Inputs<'_>, duty: &Duty) -> Option<Refusal> {
    let pinned = pinned(inputs.facts).filter(|pinned| pinned.joined.is_some())?;
    let changes = identity_changes(inputs, duty, pinned);
    let only_role = changes.iter().all(|(what, _)| *what == "role");
    if only_role && let Some(refusal) = roles::cannot_join(duty, pinned).filter(|_| !changes.is_empty()) {
        return Some(refusal);
    }
    (!changes.is_empty()).then(|| {
        Refusal::new(
            "EB-identity-change",
            format!("the assignment changes {} of a node that has joined", phrase(changes)),
            "put the old values back in the assignment; this node goes on as it is",
        )
    })
}

/// Where nobody can read who this host was, k3s's own files still tell: it does not
/// become another node, or a server an agent (invariants 4 and 12).
fn keeps_lost_identity(inputs: Inputs<'_>, duty: &Duty) -> Option<Refusal> {
    let runtime = &inputs.facts.runtime;
    let (reason, now) = (runtime.identity.reason()?, runtime.k3s.effective.known()?);
    let (name, ip) = (duty.node.name.to_string(), duty.node.ip.to_string());
    let other = |key, new: &str| now.first(key).is_some_and(|old| old != new);
    let leaves = duty.role == Role::Agent && runtime.k3s.has_datastore.known() == Some(&true);
    (leaves || other("node-name", &name) || other("node-ip", &ip)).then(|| {
        Refusal::new(
            "EB-identity-change",
            format!("{reason}, and the assignment makes this host another node than its config.yaml says"),
            "correct the assignment, put identity.json back from a copy, or `edge-bootstrap reset`",
        )
    })
}

/// A datastore of another life of the cluster is never started as this one (invariant 4).
fn datastore_is_of_this_epoch(inputs: Inputs<'_>, duty: &Duty) -> Option<Refusal> {
    let present = inputs.facts.runtime.k3s.has_datastore.known() == Some(&true);
    let pinned = pinned(inputs.facts).filter(|_| present && duty.role == Role::Server)?;
    let (own, told) = (pinned.epoch, duty.cluster.epoch);
    (own != told).then(|| {
        let next = if told < own {
            // A central service that was restored from a backup says so.
            format!("raise the site's epoch to {own} at the central service; nothing is deleted, and k3s is not started before")
        } else {
            "move /var/lib/rancher/k3s/server/db aside and keep it, or correct the epoch at the central service".to_owned()
        };
        let reason = format!("the datastore on this host is of epoch {own}, the assignment of epoch {told}");
        Refusal::new("EB-datastore-epoch", reason, next)
    })
}

/// A local `ip` that disagrees is refused before the first start.
fn local_ip_agrees(inputs: Inputs<'_>, duty: &Duty) -> Option<Refusal> {
    let local = inputs.local.ip.filter(|local| *local != duty.node.ip)?;
    let joined = pinned(inputs.facts).is_some_and(|pinned| pinned.joined.is_some());
    // A host that was moved is where its assignment says.
    let moved = duty.cluster.rejoin || retire::has_left(inputs.facts);
    (!joined && !moved).then(|| {
        Refusal::new(
            "EB-ip-disagrees",
            format!("the assignment gives this host {}, its own configuration says {local}", duty.node.ip),
            "correct [node] ip in /etc/edge-bootstrap/config.toml, or the assignment",
        )
    })
}

/// Cluster networks collide with no route or address of the host (invariant 6).
/// The refusal names a pair that is free.
#[must_use]
pub fn cidrs_are_free(inputs: Inputs<'_>, duty: &Duty) -> Option<Refusal> {
    let facts = inputs.facts;
    let running = facts.runtime.k3s.has_datastore.known() == Some(&true);
    if running || pinned(facts).is_some_and(|pinned| pinned.joined.is_some()) {
        return None;
    }
    let cluster = &duty.cluster;
    let reason = [("cluster_cidr", &cluster.cluster_cidr), ("service_cidr", &cluster.service_cidr)]
        .into_iter()
        .find_map(|(what, text)| {
            collision(facts, what, text).or_else(|| holds_a_node(inputs, duty, (what, text)))
        })
        .or_else(|| overlap(&cluster.cluster_cidr, &cluster.service_cidr))?;
    let next =
        format!("choose another network for the site before its first start{}", free_pair(inputs, duty));
    Some(Refusal::new("EB-cidr-collision", reason, next))
}

/// Addresses of nodes, which need not be on an interface here.
fn holds_a_node(inputs: Inputs<'_>, duty: &Duty, (what, text): (&str, &str)) -> Option<String> {
    let cidr: Cidr = text.parse().ok()?;
    if cidr.contains(duty.node.ip) {
        return Some(format!("{what} {text} holds the node IP {}", duty.node.ip));
    }
    let other = inputs.assignment.room.iter().find(|host| cidr.contains(host.ip))?;
    Some(format!("{what} {text} holds {}, the address of {} in this room", other.ip, other.name))
}

fn overlap(pods: &str, services: &str) -> Option<String> {
    let both: (Cidr, Cidr) = (pods.parse().ok()?, services.parse().ok()?);
    both.0.overlaps(&both.1).then(|| format!("cluster_cidr {pods} and service_cidr {services} overlap"))
}

fn free_pair(inputs: Inputs<'_>, duty: &Duty) -> String {
    let cluster = &duty.cluster;
    let wanted = cluster.cluster_cidr.parse().ok().zip(cluster.service_cidr.parse().ok());
    let taken = cidrs::taken(inputs.facts, inputs.assignment, duty);
    let pair = wanted.and_then(|(pods, services)| cidrs::proposal(Pair { pods, services }, &taken));
    pair.map_or_else(String::new, |Pair { pods, services }| {
        format!("; free here are cluster_cidr {pods} and service_cidr {services}")
    })
}

fn collision(facts: &HostFacts, what: &str, text: &str) -> Option<String> {
    let cidr: Cidr = text.parse().ok()?;
    let nics = facts.network.interfaces.known().into_iter().flatten();
    let addresses =
        nics.flat_map(|nic| nic.addresses.iter().map(move |address| (*address, nic.name.clone())));
    let routes = facts.network.routes.known().into_iter().flatten();
    let routes = routes
        .filter(|route| route.destination.prefix > 0)
        .map(|route| (route.destination, route.interface.clone()));
    let (taken, interface) = addresses.chain(routes).find(|(taken, _)| taken.overlaps(&cidr))?;
    Some(format!("{what} {text} collides with {taken} on {interface}"))
}

/// The configuration carries the pinned name and address (invariant 1).
#[must_use]
pub fn config_fits(effective: &Effective, identity: &PinnedIdentity) -> Option<Refusal> {
    let ip = identity.node_ip.to_string();
    let wanted = [("node-name", identity.node_name.as_str()), ("node-ip", ip.as_str())];
    wanted.into_iter().find_map(|(key, wanted)| {
        let found = effective.first(key).unwrap_or("nothing");
        (found != wanted).then(|| {
            Refusal::new(
                "EB-config-identity",
                format!("config.yaml with its drop-ins says {key} {found}, this host is pinned as {wanted}"),
                "remove the key from /etc/rancher/k3s/config.yaml.d, then `edge-bootstrap apply`",
            )
        })
    })
}

/// The unit is the one of the pinned role.
#[must_use]
pub fn unit_fits(unit: &str, identity: &PinnedIdentity) -> Option<Refusal> {
    let wanted = units::of_role(identity.role);
    (unit != wanted && units::is_k3s(unit)).then(|| {
        Refusal::new(
            "EB-unit-role",
            format!("{unit} does not fit this host, which is pinned as {}", identity.role),
            format!("start {wanted} instead"),
        )
    })
}

/// The kernel's name is the pinned one, where names are ours to keep.
#[must_use]
pub fn hostname_fits(hostname: &str, identity: &PinnedIdentity) -> Option<Refusal> {
    let drifted = identity.manage_hostname && hostname != identity.node_name;
    drifted.then(|| {
        Refusal::new(
            "EB-hostname",
            format!("the hostname is {hostname}, this host is pinned as {}", identity.node_name),
            "edge-bootstrap puts it back by itself; by hand: hostnamectl set-hostname ".to_owned()
                + &identity.node_name,
        )
    })
}

/// The node IP is on this host (invariant 2); else why it is not.
#[must_use]
pub fn address_fits(interfaces: &[Interface], identity: &PinnedIdentity) -> Option<Refusal> {
    let cause = absence::cause(interfaces, identity.nic.as_ref(), identity.node_ip)?;
    Some(Refusal::new(
        "EB-ip-absent",
        format!("node IP {} is on no interface of this host: {cause}", identity.node_ip),
        "check cable and network configuration; k3s starts by itself when the address is there",
    ))
}

/// `server` needs a token: without one k3s starts a private cluster (k3s: pkg/cluster/managed.go).
#[must_use]
pub fn token_is_named(effective: &Effective) -> Option<Refusal> {
    let named =
        ["token-file", "token"].iter().any(|key| effective.first(key).is_some_and(|text| !text.is_empty()));
    (!named).then(|| {
        Refusal::new(
            "EB-token-missing",
            "config.yaml names no token; without one k3s would start a cluster of its own",
            "`edge-bootstrap apply` writes it anew",
        )
    })
}

/// An agent's file has no server-only key (invariant 8).
#[must_use]
pub fn keys_fit(effective: &Effective, role: Role) -> Option<Refusal> {
    if role != Role::Agent {
        return None;
    }
    effective.0.keys().find(|key| keys::is_server_only(key)).map(|key| {
        Refusal::new(
            "EB-server-key",
            format!("{key} is set, which only a server knows: an agent would exit with an error"),
            format!("remove {key} from the files in /etc/rancher/k3s/config.yaml.d"),
        )
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn identity() -> PinnedIdentity {
        PinnedIdentity { role: Role::Agent, ..crate::facts::runtime::pinned_server() }
    }

    fn effective(text: &str) -> Effective {
        let mut effective = Effective::default();
        effective.merge(text).unwrap();
        effective
    }

    #[test]
    fn a_config_without_name_or_address_does_not_fit() {
        assert!(
            config_fits(&effective("node-name: \"172-16-36-1\"\nnode-ip: 172.16.36.1"), &identity())
                .is_none()
        );
        for text in
            ["node-name: \"172-16-36-1\"", "node-ip: 172.16.36.1", "node-name: x\nnode-ip: 172.16.36.1", ""]
        {
            assert_eq!(
                config_fits(&effective(text), &identity()).unwrap().code,
                "EB-config-identity",
                "{text}"
            );
        }
    }

    #[test]
    fn only_the_unit_of_the_role_fits() {
        assert!(unit_fits("k3s-agent.service", &identity()).is_none());
        assert_eq!(unit_fits("k3s.service", &identity()).unwrap().code, "EB-unit-role");
    }

    #[test]
    fn a_hostname_that_is_not_ours_to_keep_may_be_anything() {
        let mut identity = identity();
        assert_eq!(hostname_fits("localhost", &identity).unwrap().code, "EB-hostname");
        identity.manage_hostname = false;
        assert!(hostname_fits("localhost", &identity).is_none());
    }

    #[test]
    fn server_keys_are_found_on_agents_only() {
        let config = effective("cluster-init: true");
        assert_eq!(keys_fit(&config, Role::Agent).unwrap().code, "EB-server-key");
        assert!(keys_fit(&config, Role::Server).is_none());
    }
}
