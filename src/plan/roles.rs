//! Another role for a node that has joined: an agent becomes a server, a server
//! becomes an agent or runs nothing any more.
//!
//! Owns when a server must leave etcd first, and what must hold before it does:
//! another server stays, and the new life could begin. The rest is a leave as any
//! other ([`super::retire`]). Pure; who is healthy in the room is asked by
//! [`crate::boot`]. Never plans to remove a Node (invariant 7).

use std::net::IpAddr;

use serde::Serialize;

use super::config::others;
use super::refusal::{Refusal, WaitingOn};
use super::turn::Wait;
use super::{
    Inputs, Plan, PlannedRetirement, PlannedUnit, Wanted, address, empty, lint, members, pinned, retire,
    rules, units,
};
use crate::facts::HostFacts;
use crate::facts::runtime::{Departure, PinnedIdentity};
use crate::role::{Duty, Role};

/// A server leaves etcd: this comes before its files go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedDeparture {
    /// Why, for people.
    pub reason: String,
    /// Other servers of the cluster, `HOST:PORT`: one of them is asked to remove the member.
    pub servers: Vec<String>,
}

/// The departure that is due, or that has begun.
///
/// # Errors
/// `EB-leave-server` when nobody would stay; what the new role waits for.
pub(super) fn departure(inputs: Inputs<'_>) -> Result<Option<PlannedDeparture>, WaitingOn> {
    let Some(pinned) = pinned(inputs.facts).filter(|pinned| must_leave(inputs, pinned)) else {
        return Ok(None);
    };
    let servers = servers(inputs, pinned);
    if servers.is_empty() {
        return Err(nobody_stays(pinned).into());
    }
    let role = inputs.assignment.role();
    let reason = match role {
        Role::None => "the assignment gives this server no role".to_owned(),
        Role::Agent => "the assignment makes this server an agent".to_owned(),
        Role::Server => "etcd has removed this server, which then joins anew".to_owned(),
    };
    Ok(Some(PlannedDeparture { reason, servers }))
}

fn must_leave(inputs: Inputs<'_>, pinned: &PinnedIdentity) -> bool {
    // With a leave that has begun this is over.
    let is_member = pinned.role == Role::Server && pinned.joined.is_some() && pinned.retiring.is_none();
    let is_due = match pinned.departing.as_ref().map(|departing| departing.step) {
        None | Some(Departure::Asked) => inputs.assignment.role() != Role::Server,
        Some(Departure::Left) => true,
        Some(Departure::Tidied) => false,
    };
    is_member && is_due && stays(inputs, pinned)
}

/// Whether the assignment changes the role of this node and nothing else.
fn stays(inputs: Inputs<'_>, pinned: &PinnedIdentity) -> bool {
    let Some(duty) = &inputs.assignment.duty else { return true };
    let changes = rules::identity_changes(inputs, duty, pinned);
    duty.cluster.epoch == pinned.epoch && changes.iter().all(|(what, _)| *what == "role")
}

/// Other servers, as the assignment has them, or this host's own configuration.
fn servers(inputs: Inputs<'_>, pinned: &PinnedIdentity) -> Vec<String> {
    let named = inputs.assignment.duty.iter().flat_map(|duty| others(duty).map(ToString::to_string));
    let effective = inputs.facts.runtime.k3s.effective.known();
    let own = effective.and_then(|effective| effective.first("server")).map(str::to_owned);
    let own = own.filter(|url| !super::forks::names_host(url, &pinned.node_name, pinned.node_ip));
    let room = inputs.assignment.room.iter().filter(|host| host.role == Role::Server);
    let room = room.map(|host| std::net::SocketAddr::new(host.ip, 6443).to_string());
    let mut all: Vec<String> = Vec::new();
    for server in named.chain(own).chain(room) {
        let address = server.trim_start_matches("https://").trim_end_matches('/').to_owned();
        if !all.contains(&address) {
            all.push(address);
        }
    }
    all
}

fn nobody_stays(pinned: &PinnedIdentity) -> Refusal {
    if has_left(pinned) {
        return Refusal::new(
            "EB-leave-server",
            format!(
                "etcd has removed {}, and no other server of the cluster is known that would take its Node off the list of servers",
                pinned.node_name
            ),
            "name a server of the cluster in the assignment; until then k3s stays down here, and nothing is deleted",
        );
    }
    Refusal::new(
        "EB-leave-server",
        format!(
            "the assignment takes the server role from {}, and names no other server of its cluster; \
             the last server never leaves",
            pinned.node_name
        ),
        "bring another server up and name it in the assignment, or give this host the server role back; \
         until then k3s goes on as it is",
    )
}

/// What a server does that leaves etcd: it goes on, until etcd has removed it.
pub(super) fn while_departing(inputs: Inputs<'_>, departure: PlannedDeparture) -> Result<Plan, WaitingOn> {
    let Some(pinned) = pinned(inputs.facts) else { return Ok(Plan::default()) };
    let plan = match &inputs.assignment.duty {
        // Before the way back is closed the new life is seen to be one that can begin.
        Some(duty) if pinned.departing.is_none() => after(inputs, duty, &departure)?,
        _ => Plan::default(),
    };
    let is_member = !has_left(pinned);
    let running = is_member.then(|| [units::CONTAINERD, units::K3S].map(running));
    // Without them its k3s does not come up, and nobody can be asked.
    let restores = is_member.then(|| members::restores_while_leaving(inputs, pinned));
    Ok(Plan {
        restores: restores.unwrap_or_default(),
        empty: is_member.then(|| empty::while_leaving(inputs)).flatten(),
        identity: Some(pinned.clone()),
        hostname: super::hostname(inputs, &pinned.node_name),
        address: address::decide(inputs, pinned.node_ip)?,
        units: running.into_iter().flatten().collect(),
        departure: Some(departure),
        ..plan
    })
}

/// What of the plan of the new life is wanted before it begins: what must be
/// fetched. The rest is only looked at.
fn after(inputs: Inputs<'_>, duty: &Duty, departure: &PlannedDeparture) -> Result<Plan, WaitingOn> {
    let plan = super::after_leaving(inputs, duty, retire::numbered(inputs.facts, &departure.reason))?;
    let checked = lint::check(plan, inputs).map_err(first)?;
    let Plan { artifacts, storage, .. } = checked.plan().clone();
    Ok(Plan { artifacts, storage, ..Plan::default() })
}

pub(super) fn first(broken: Vec<Refusal>) -> WaitingOn {
    let lint =
        || Refusal::new("EB-lint", "the plan of what comes next breaks an invariant", "please report it");
    broken.into_iter().next().unwrap_or_else(lint).into()
}

fn running(name: &str) -> PlannedUnit {
    PlannedUnit {
        name: name.to_owned(),
        wanted: Wanted::Running,
        manage_boot: true,
        restart: None,
        restart_pending: None,
        reason: "this host is a server until etcd has removed it".to_owned(),
    }
}

/// Whether etcd has removed this server: what of its k3s starts is no part of a
/// cluster any more.
#[must_use]
pub fn has_left(identity: &PinnedIdentity) -> bool {
    identity.departing.as_ref().is_some_and(|departing| departing.step >= Departure::Left)
}

/// Why the files of the old role go now; `None` where the role stays, and where
/// the new one cannot begin.
pub(super) fn change(inputs: Inputs<'_>, duty: &Duty, pinned: &PinnedIdentity) -> Option<String> {
    let departed = pinned.departing.as_ref().is_some_and(|departing| departing.step == Departure::Tidied);
    let becomes_server = pinned.role == Role::Agent && duty.role == Role::Server;
    if pinned.joined.is_none() || !stays(inputs, pinned) || !(departed || becomes_server) {
        return None;
    }
    if duty.role == Role::Server && cannot_join(duty, pinned).is_some() {
        return None;
    }
    let anew = pinned.role == duty.role;
    Some(if anew {
        "etcd has removed this server, and it joins anew".to_owned()
    } else {
        format!("role {} to {}", pinned.role, duty.role)
    })
}

/// Why a joined node may not become a server: it would form a cluster of its own,
/// or join another one.
pub(super) fn cannot_join(duty: &Duty, pinned: &PinnedIdentity) -> Option<Refusal> {
    let known = pinned.joined.as_ref().and_then(|joined| joined.ca_hash.as_deref());
    let told = duty.cluster.ca_hash.as_ref().map(ToString::to_string);
    let reason = match (&told, known) {
        _ if others(duty).next().is_none() => "names no other server that it could join",
        (None, _) => "does not name the CA of its cluster",
        (Some(told), Some(known)) if told != known => "names another CA than that of its cluster",
        _ => return None,
    };
    Some(Refusal::new(
        "EB-role-change",
        format!("the assignment makes {} a {}, and {reason}", pinned.node_name, duty.role),
        "correct the assignment; until then this node goes on as it is",
    ))
}

/// What is left to do on a host that left etcd and has no role any more.
pub(super) fn rest(inputs: Inputs<'_>, pinned: &PinnedIdentity) -> Option<PlannedRetirement> {
    let is_over = pinned.retiring.is_some() || has_left(pinned);
    let reason = "the assignment gives this server no role";
    let retirement = match &pinned.retiring {
        Some(begun) => retire::begun(inputs.facts, begun),
        None => retire::numbered(inputs.facts, reason),
    };
    (is_over && !retirement.paths.is_empty()).then_some(retirement)
}

/// Full name of the etcd member that this host is.
#[must_use]
pub fn member(facts: &HostFacts, pinned: &PinnedIdentity) -> Option<String> {
    let begun = pinned.departing.as_ref().map(|departing| departing.member.clone());
    let on_disk = || facts.runtime.k3s.etcd_member.known().cloned().flatten();
    begun.or_else(on_disk).or_else(|| pinned.joined.as_ref()?.etcd_member.clone())
}

/// Whether the Node of this host names this host's member: k3s removes the one
/// that it names, which may be another, living one (invariant 7).
///
/// # Errors
/// What it names.
pub fn is_own(member: &str, ip: IpAddr, named: (Option<&str>, Option<&str>)) -> Result<(), Wait> {
    let address = named.1.map(|address| address.parse::<IpAddr>() == Ok(ip));
    if named.0 == Some(member) && address == Some(true) {
        return Ok(());
    }
    let (name, address) = (named.0.unwrap_or("no member"), named.1.unwrap_or("no address"));
    Err(Wait::long(format!(
        "the Node of this host names {name} at {address} in etcd, and this host is {member} at {ip}: \
         nothing is removed before they agree"
    )))
}

#[cfg(test)]
#[path = "roles_tests.rs"]
mod tests;
