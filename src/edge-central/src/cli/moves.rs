//! `node move`: a host goes to another site, or becomes another node of its own.
//!
//! Owns what a move needs and what it would break. The host's key stays; its
//! role in the new site is decided there. The host itself leaves its old life
//! when it has the assignment (`rejoin`), without a login.

use std::net::IpAddr;

use anyhow::bail;
use clap::Args;
use edge_bootstrap::role::Role;
use edge_bootstrap::role::words::NodeName;
use sqlx::SqliteConnection;

use super::node::{find, node_json};
use super::{Context, output};
use crate::clock;
use crate::store::audit::Entry;
use crate::store::nodes::{self, Node, NodeState, Reported};
use crate::store::sites::{self, Site};
use crate::store::{audit, commit};

#[derive(Debug, Args)]
pub(super) struct Move {
    /// Node id or name.
    node: String,
    /// The site that it goes to; its own one for another name or address there.
    #[arg(long, value_name = "SITE")]
    site: String,
    /// Its name there. Left out, it keeps its name, or gets that of the new
    /// address where it is named after its address.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Its address there; left out, it keeps its address.
    #[arg(long, value_name = "IP")]
    ip: Option<IpAddr>,
    /// Move it even when the cluster that it leaves ends, or when it holds the
    /// init lease.
    #[arg(long)]
    force: bool,
}

pub(super) async fn run(context: &Context, command: Move) -> anyhow::Result<()> {
    let store = context.store().await?;
    let mut tx = store.write().await?;
    let mut node = find(&mut tx, &command.node).await?;
    if node.state != NodeState::Claimed {
        bail!("{} is {}; only a host that has its place can be moved", node.name, node.state.word());
    }
    let before = node.clone();
    let (name, ip) = wanted(&command, &node)?;
    if (&command.site, &name, ip) == (&node.site, &node.name, node.ip) {
        output::outcome(context.json, node_json(&node), &format!("{name} {ip} is in {} already", node.site));
        return Ok(());
    }
    check_place(&mut tx, &command.site, (&name, ip), &node).await?;
    let losses = losses(&mut tx, &node, &command.site).await?;
    if let Some(loss) = losses.first().filter(|_| !command.force) {
        bail!("{loss}; --force moves it all the same");
    }
    place(&mut node, &command.site, (&name, ip));
    nodes::save(&mut tx, &node).await?;
    for site in [&before.site, &node.site] {
        sites::touch(&mut tx, site).await?;
    }
    let detail = format!("from {} {} {} to {} {name} {ip}", before.site, before.name, before.ip, node.site);
    let entry = Entry {
        site: Some(node.site.clone()),
        node: Some(node.id.clone()),
        ..context.entry("node-move", detail.clone())
    };
    audit::add(&mut tx, &entry).await?;
    commit(tx).await?;
    output::outcome(context.json, node_json(&node), &told(&detail, &losses));
    Ok(())
}

fn told(detail: &str, losses: &[String]) -> String {
    let losses: String = losses.iter().map(|loss| format!("\n{loss}")).collect();
    format!("moved {detail}; the host leaves its old life when it has its new assignment{losses}")
}

/// Name and address that the host gets.
fn wanted(command: &Move, node: &Node) -> anyhow::Result<(String, IpAddr)> {
    let ip = command.ip.unwrap_or(node.ip);
    if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() {
        bail!("{ip} cannot be the address of a node");
    }
    let dashed = |ip: IpAddr| ip.to_string().replace(['.', ':'], "-");
    let name = match &command.name {
        Some(name) => name.clone(),
        None if node.name == dashed(node.ip) => dashed(ip),
        None => node.name.clone(),
    };
    name.parse::<NodeName>().map_err(|error| anyhow::anyhow!("--name: {error}"))?;
    Ok((name, ip))
}

async fn check_place(
    conn: &mut SqliteConnection,
    site: &str,
    (name, ip): (&str, IpAddr),
    node: &Node,
) -> anyhow::Result<()> {
    if sites::get(conn, site).await?.is_none() {
        bail!("there is no site {site}; `edge-central site list` names them");
    }
    let room = nodes::of_site(conn, site).await?;
    let mut others = room.iter().filter(|other| other.id != node.id && other.state == NodeState::Claimed);
    if let Some(holder) = others.find(|other| other.name == name || other.ip == ip) {
        bail!("{name} or {ip} is taken in {site} by node {} ({})", holder.name, holder.id);
    }
    Ok(())
}

/// What the site that the host leaves loses with it. A server that only gets
/// another name or address is lost to its cluster as a member too.
async fn losses(conn: &mut SqliteConnection, node: &Node, goes_to: &str) -> anyhow::Result<Vec<String>> {
    let Some(site) = sites::get(conn, &node.site).await? else { return Ok(Vec::new()) };
    let room = nodes::of_site(conn, &node.site).await?;
    let lease = lease_loss(&site, node).filter(|_| goes_to != site.name);
    Ok(lease.into_iter().chain(quorum_loss(&site, &room, node)).collect())
}

fn lease_loss(site: &Site, node: &Node) -> Option<String> {
    let holds = site.ca_hash.is_none() && site.lease.as_ref() == Some(&node.id);
    holds.then(|| {
        format!(
            "{} holds the init lease of {}, which nobody else gets before `edge-central site reinit`",
            node.name, site.name
        )
    })
}

/// A server that moves leaves a member behind that never answers again.
fn quorum_loss(site: &Site, room: &[Node], node: &Node) -> Option<String> {
    if site.ca_hash.is_none() || node.role != Some(Role::Server) {
        return None;
    }
    let is_server = |other: &&Node| other.state == NodeState::Claimed && other.role == Some(Role::Server);
    let servers = room.iter().filter(is_server).count();
    let stay = servers.saturating_sub(1);
    (stay * 2 <= servers).then(|| {
        format!(
            "the cluster of {} ends: {stay} of {servers} servers stay, which is no majority; \
             `edge-central site reinit` then begins a new one with the hosts that stay",
            site.name
        )
    })
}

/// What was reported of the old cluster says nothing about the new one.
fn place(node: &mut Node, site: &str, (name, ip): (&str, IpAddr)) {
    if node.site != site {
        node.former_sites.retain(|former| former != site && *former != node.site);
        node.former_sites.push(std::mem::replace(&mut node.site, site.to_owned()));
        (node.role, node.forced_role, node.role_order) = (None, None, 0);
        let Reported { sequence, generation, at, phase, verdict, .. } = std::mem::take(&mut node.reported);
        node.reported = Reported { sequence, generation, at, phase, verdict, ..Reported::default() };
        // It is steady there when it was up there for a while.
        node.up_since = clock::now();
    }
    (node.name, node.ip) = (name.to_owned(), ip);
    (node.rejoin, node.issued_revision) = (true, 0);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::testing::{node, site};

    fn server(number: u8) -> Node {
        Node { role: Some(Role::Server), ..node(number) }
    }

    #[test]
    fn a_server_may_go_while_a_majority_stays() {
        let formed = Site { ca_hash: Some("a".repeat(64)), ..site() };
        let loss = |servers: u8| {
            let room: Vec<Node> = (1..=servers).map(server).collect();
            quorum_loss(&formed, &room, &room[0]).is_some()
        };
        assert_eq!([1, 2, 3, 4, 5].map(loss), [true, true, false, false, false]);
        assert!(quorum_loss(&formed, &[server(1), node(2)], &node(2)).is_none());
        assert!(quorum_loss(&site(), &[server(1)], &server(1)).is_none());
    }

    #[test]
    fn a_former_site_is_remembered_once_and_never_the_present_one() {
        let mut host = node(1);
        for site in ["b", "hz-017", "b", "c"] {
            place(&mut host, site, ("n", "10.0.0.1".parse().unwrap()));
        }
        assert_eq!((host.site.as_str(), host.former_sites), ("c", vec!["hz-017".to_owned(), "b".to_owned()]));
    }
}
