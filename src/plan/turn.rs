//! Whether a server that runs beside others may be restarted now.
//!
//! Owns the rule of invariant 10: every other recorded voter is healthy, a
//! majority stays without this one, and the room's Lease is this host's. Pure:
//! no clock, no I/O. How long a Lease has not changed is measured by who looks
//! (as client-go does), because clocks of two hosts are never compared.

use std::time::Duration;

/// What a restart that is due waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// What is waited for, for people.
    pub reason: String,
    /// It is another host's turn, so that it is worth to look again soon; what a
    /// person or a repair must end is not.
    pub soon: bool,
}

impl Wait {
    /// For something that lasts.
    #[must_use]
    pub fn long(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), soon: false }
    }

    /// For another host's turn.
    #[must_use]
    pub fn soon(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), soon: true }
    }
}

/// A Node that is, or may be, a voter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its name.
    pub name: String,
    /// Its addresses inside the room.
    pub addresses: Vec<String>,
    /// Its host is a member of etcd.
    pub is_member: bool,
    /// Its kubelet says that it is ready.
    pub is_ready: bool,
    /// Nothing says that it has no vote.
    pub votes: bool,
}

/// Another recorded voter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// Node name, or the address where there is no Node.
    pub name: String,
    /// Where it serves the API, without `https://`.
    pub address: String,
    /// Why it may not be counted on now.
    pub trouble: Option<String>,
}

/// The room's Lease in another hand or in ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Who holds it, as [`holder`] words it.
    pub by: String,
    /// How long this process has seen it unchanged.
    pub watched: Duration,
    /// How long its holder meant to hold it.
    pub term: Duration,
}

/// Who a host is in the Lease: its Node's name, which has no underscore, and the
/// node id, so that a host that took another's name is not taken for it.
#[must_use]
pub fn holder(node: &str, id: Option<&str>) -> String {
    id.map_or_else(|| node.to_owned(), |id| format!("{node}_{id}"))
}

/// The other recorded voters: the servers of the assignment, and every Node that
/// is a member of etcd, whatever the assignment says.
#[must_use]
pub fn others(own: &str, servers: &[String], nodes: &[Seen]) -> Vec<Other> {
    let of = |server: &String| {
        let host = host(server);
        // `/etc/hosts` knows the room by name too.
        let is_there = |node: &&Seen| {
            node.name.eq_ignore_ascii_case(host) || node.addresses.iter().any(|address| address == host)
        };
        nodes.iter().find(is_there)
    };
    let mut all: Vec<Other> = servers
        .iter()
        .filter(|server| of(server).is_none_or(|node| node.name != own))
        .map(|server| other(server.clone(), of(server)))
        .collect();
    let unnamed = nodes.iter().filter(|node| {
        node.is_member && node.name != own && !all.iter().any(|other| other.name == node.name)
    });
    let unnamed: Vec<Other> = unnamed.map(|node| other(address(node), Some(node))).collect();
    all.extend(unnamed);
    all
}

/// The host of `HOST:PORT`, without the brackets of IPv6.
fn host(server: &str) -> &str {
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
    host.trim_matches(['[', ']'])
}

fn address(node: &Seen) -> String {
    let first = node.addresses.first().map_or("", String::as_str);
    if first.contains(':') { format!("[{first}]:6443") } else { format!("{first}:6443") }
}

fn other(address: String, node: Option<&Seen>) -> Other {
    let trouble = match node {
        None => Some("it has not joined yet"),
        Some(node) if !node.is_member => Some("it is no member of etcd yet"),
        Some(node) if !node.is_ready => Some("its Node is not Ready"),
        Some(node) if !node.votes => Some("it has no vote in etcd yet"),
        Some(_) => None,
    };
    Other {
        name: node.map_or_else(|| host(&address).to_owned(), |node| node.name.clone()),
        trouble: trouble.map(str::to_owned),
        address,
    }
}

/// Whether `me` may take the Lease and restart, or go on with one that it holds.
///
/// # Errors
/// What it waits for.
pub fn may_restart(me: &str, others: &[Other], lease: Option<&Held>) -> Result<(), Wait> {
    // Of n voters n - 1 must still be more than half.
    if others.len() < 2 {
        return Err(Wait::long(
            "with two servers etcd has no majority while one of them restarts, so a person decides when: \
             run `systemctl restart k3s` on this host",
        ));
    }
    all_are_well(me, others, lease)
}

/// Whether `me` may leave etcd for good, or go on with that: who stays is healthy,
/// and nobody restarts meanwhile. Of one that stays it is the majority.
///
/// # Errors
/// What it waits for.
pub fn may_leave(me: &str, others: &[Other], lease: Option<&Held>) -> Result<(), Wait> {
    if others.is_empty() {
        return Err(Wait::long("no other server is known; the last one never leaves etcd"));
    }
    all_are_well(me, others, lease)
}

/// Whether `me` may change what all servers share while nobody is down: who is
/// would come back with what was before.
///
/// # Errors
/// What it waits for.
pub fn may_change(me: &str, others: &[Other], lease: Option<&Held>) -> Result<(), Wait> {
    all_are_well(me, others, lease)
}

fn all_are_well(me: &str, others: &[Other], lease: Option<&Held>) -> Result<(), Wait> {
    if let Some(held) = lease.filter(|held| held.by != me && !is_over(held, others)) {
        return Err(anothers_turn(held));
    }
    match others.iter().find_map(|other| Some((&other.name, other.trouble.as_ref()?))) {
        Some((name, trouble)) => Err(Wait::long(format!("server {name} must be healthy first: {trouble}"))),
        None => Ok(()),
    }
}

/// Whether the Lease may be this host's at all: worth a look at the room.
///
/// # Errors
/// Whose turn it is.
pub fn is_free(me: &str, lease: Option<&Held>) -> Result<(), Wait> {
    let held = lease.filter(|held| held.by != me && held.watched < held.term);
    held.map_or(Ok(()), |held| Err(anothers_turn(held)))
}

fn anothers_turn(held: &Held) -> Wait {
    let node = node_of(&held.by);
    Wait::soon(format!("{node} has the room's Lease, to restart, to leave etcd or to change the token"))
}

/// Whether a Lease that nobody gave back may be taken. One whose holder is a
/// voter of this room ends with its term, because the holder must be healthy
/// again in any case; of any other holder nothing is known, and twice its term
/// must have passed.
fn is_over(held: &Held, others: &[Other]) -> bool {
    let is_known = others.iter().any(|other| other.name == node_of(&held.by) && other.trouble.is_none());
    held.watched >= if is_known { held.term } else { held.term.saturating_mul(2) }
}

/// Name of the Node of a holder.
#[must_use]
pub fn node_of(holder: &str) -> &str {
    holder.split_once('_').map_or(holder, |(node, _)| node)
}

#[cfg(test)]
#[path = "turn_tests.rs"]
mod tests;
