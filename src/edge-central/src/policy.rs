//! Who is server, who is agent, who may initialise (DESIGN 12).
//!
//! Owns the role policy and the grant of the init lease. Pure: the state of a
//! room and the time go in, decisions come out. Never takes a role away that
//! it gave; a person's word wins.

use edge_bootstrap::role::Role;

use crate::clock::Seconds;
use crate::store::nodes::{Node, NodeState};
use crate::store::sites::Site;

/// What the policy goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The current time.
    pub now: Seconds,
    /// How long a host must be up before it counts, in seconds.
    pub steady: Seconds,
    /// How long a host counts as up after its last request, in seconds.
    pub contact: Seconds,
}

/// One change that the policy wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// This node gets this role.
    Role(String, Role),
    /// This node gets the init lease.
    Lease(String),
}

/// One claimed host and the role that it has, or is about to get.
struct Seat<'a> {
    node: &'a Node,
    role: Option<Role>,
    is_up: bool,
    is_steady: bool,
}

impl Seat<'_> {
    /// May become a server by policy.
    fn is_candidate(&self) -> bool {
        self.is_up
            && self.node.server_ok
            && self.node.forced_role.is_none()
            && self.role != Some(Role::Server)
    }

    fn is_undecided(&self) -> bool {
        self.role.is_none() && self.is_up
    }
}

/// The room while it is being decided.
struct Room<'a> {
    site: &'a Site,
    seats: Vec<Seat<'a>>,
}

/// What the policy wants changed in `site` now; empty when all is as it shall be.
#[must_use]
pub fn decide(site: &Site, nodes: &[Node], rules: Rules) -> Vec<Decision> {
    let mut room = Room::new(site, nodes, rules);
    room.obey_people();
    room.first_server();
    room.grow();
    room.give_the_rest();
    let lease = room.lease();
    let changed = room.seats.iter().filter(|seat| seat.role != seat.node.role);
    let roles = changed.filter_map(|seat| Some(Decision::Role(seat.node.id.clone(), seat.role?)));
    roles.chain(lease).collect()
}

/// Servers that a room of `hosts` hosts shall have.
fn target(hosts: usize) -> usize {
    match hosts {
        0..3 => 1,
        3..20 => 3,
        _ => 5,
    }
}

/// The largest odd number of servers within reach; an even one only adds risk.
fn goal(hosts: usize, reach: usize) -> usize {
    let most = target(hosts).min(reach);
    if most.is_multiple_of(2) { most.saturating_sub(1) } else { most }
}

impl<'a> Room<'a> {
    fn new(site: &'a Site, nodes: &'a [Node], rules: Rules) -> Self {
        let claimed = nodes.iter().filter(|node| node.state == NodeState::Claimed);
        let seats = claimed.map(|node| {
            let is_up = rules.now - node.last_contact <= rules.contact;
            let is_steady = is_up && rules.now - node.up_since >= rules.steady;
            Seat { node, role: node.role, is_up, is_steady }
        });
        Self { site, seats: seats.collect() }
    }

    fn servers(&self) -> usize {
        self.seats.iter().filter(|seat| seat.role == Some(Role::Server)).count()
    }

    /// Hosts that count; one that shall run nothing does not.
    fn count(&self, counts: impl Fn(&Seat<'_>) -> bool) -> usize {
        self.seats.iter().filter(|seat| seat.role != Some(Role::None) && counts(seat)).count()
    }

    /// No lease was given and no host has seen a cluster in this epoch.
    fn is_untouched(&self) -> bool {
        let seen = |seat: &Seat<'_>| seat.node.reported.ca_hash.is_some();
        self.site.ca_hash.is_none() && self.site.lease.is_none() && !self.seats.iter().any(seen)
    }

    fn obey_people(&mut self) {
        for seat in &mut self.seats {
            seat.role = seat.node.forced_role.or(seat.role);
        }
    }

    /// A room with one host must work at once, so the first server waits for nobody.
    fn first_server(&mut self) {
        if self.servers() > 0 || !self.is_untouched() {
            return;
        }
        if let Some(&first) = self.candidates(|_| true).first() {
            self.promote(&[first]);
        }
    }

    /// Further servers join the first, so they wait until it is up, and come
    /// together: two servers are worse than one.
    fn grow(&mut self) {
        let (servers, candidates) = (self.servers(), self.candidates(|seat| seat.is_steady));
        if servers == 0 || self.site.ca_hash.is_none() {
            return;
        }
        let goal = goal(self.count(|seat| seat.is_steady), servers + candidates.len());
        let chosen: Vec<usize> = candidates.into_iter().take(goal.saturating_sub(servers)).collect();
        self.promote(&chosen);
    }

    /// Who cannot become a server is an agent. Who can waits while it may still
    /// be needed as one.
    fn give_the_rest(&mut self) {
        let (servers, held) = (self.servers(), self.held_back());
        let knows_ca = self.site.ca_hash.is_some();
        for (index, seat) in self.seats.iter_mut().enumerate() {
            let is_early = !knows_ca || held.contains(&index) || (servers < 3 && !seat.is_steady);
            if seat.is_undecided() && !(seat.is_candidate() && is_early) {
                seat.role = Some(Role::Agent);
            }
        }
    }

    /// Candidates that become servers once they are steady.
    fn held_back(&self) -> Vec<usize> {
        let (servers, candidates) = (self.servers(), self.candidates(|_| true));
        let goal = goal(self.count(|seat| seat.is_up), servers + candidates.len());
        candidates.into_iter().take(goal.saturating_sub(servers)).collect()
    }

    /// Who may become a server, best first: hosts without a role, then agents.
    fn candidates(&self, fits: impl Fn(&Seat<'_>) -> bool) -> Vec<usize> {
        let seats = self.seats.iter().enumerate();
        let mut found: Vec<(bool, usize)> = seats
            .filter(|(_, seat)| seat.is_candidate() && fits(seat))
            .map(|(index, seat)| (seat.role.is_some(), index))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, index)| index).collect()
    }

    fn promote(&mut self, chosen: &[usize]) {
        for (index, seat) in self.seats.iter_mut().enumerate() {
            if chosen.contains(&index) {
                seat.role = Some(Role::Server);
            }
        }
    }

    /// The lease goes to the first server that is up, and only when nobody has
    /// it and nobody has seen a cluster.
    fn lease(&self) -> Option<Decision> {
        if !self.is_untouched() {
            return None;
        }
        let servers = self.seats.iter().filter(|seat| seat.role == Some(Role::Server) && seat.is_up);
        // A role that is given now comes after all that were given before.
        let first =
            servers.min_by_key(|seat| (seat.node.role != Some(Role::Server), seat.node.role_order))?;
        Some(Decision::Lease(first.node.id.clone()))
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
