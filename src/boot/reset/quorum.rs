//! Who else is in the cluster of a server that is reset, and how it is.
//!
//! Owns whom to ask: the own API, which may be down, and every other server that
//! the newest assignment names. What that means is `plan::reset::quorum`'s.

use futures_util::future::join_all;

use crate::boot::turn::{ask, seen};
use crate::enrol::cache;
use crate::facts::runtime::PinnedIdentity;
use crate::kube::{Kube, Nodes};
use crate::plan::reset::quorum::Members;
use crate::plan::turn::{self, Seen};
use crate::role::Role;
use crate::sys::Root;

/// The members of its cluster.
pub(super) async fn members(root: &Root, identity: &PinnedIdentity) -> Members {
    let others = servers(root, identity);
    let kube = Kube::own_admin(root);
    let bases: Vec<String> = others.iter().flatten().map(|server| format!("https://{server}")).collect();
    let asked = bases.iter().map(|base| Kube::admin_at(root, base));
    let told =
        join_all(std::iter::once(kube).chain(asked).map(|kube| async move { kube.members().await })).await;
    match told.into_iter().find_map(Result::ok) {
        Some(nodes) => by_nodes(kube, &identity.node_name, &nodes).await,
        // Nobody is left to be asked.
        None if others.is_some_and(|others| others.is_empty()) => Members::With(Vec::new()),
        None => Members::Unknown,
    }
}

async fn by_nodes(kube: Kube<'_>, own: &str, nodes: &Nodes) -> Members {
    let nodes: Vec<Seen> = nodes.iter().map(seen).collect();
    if !nodes.is_empty() && nodes.iter().all(|node| node.name != own) {
        return Members::Without;
    }
    let mut others = turn::others(own, &[], &nodes);
    join_all(others.iter_mut().filter(|other| other.trouble.is_none()).map(|other| ask(kube, other))).await;
    Members::With(others)
}

/// Where the other servers serve, by the newest assignment; `None` where that
/// cannot be read.
fn servers(root: &Root, identity: &PinnedIdentity) -> Option<Vec<String>> {
    let assignment = cache::in_force(root, identity.node_id.as_deref()?)?;
    let room = assignment.room.iter().filter(|host| host.role == Role::Server && host.ip != identity.node_ip);
    let mut all: Vec<String> =
        room.map(|host| std::net::SocketAddr::new(host.ip, 6443).to_string()).collect();
    let listed = assignment.duty.iter().flat_map(|duty| &duty.cluster.servers);
    let own = std::net::SocketAddr::new(identity.node_ip, 6443).to_string();
    for server in
        listed.map(|url| url.as_str().trim_start_matches("https://").trim_end_matches('/').to_owned())
    {
        if server != own && !all.contains(&server) {
            all.push(server);
        }
    }
    Some(all)
}
