//! `node retire`, and the half of `approve` that replaces a host.
//!
//! Owns a person's word that a host is gone for good: its key loses its place, the
//! live servers are told to let its member and Node go, and what comes in its
//! place waits until they said that this is done.

use anyhow::bail;
use clap::Args;
use edge_bootstrap::role::Role;
use sqlx::SqliteConnection;

use super::node::{find, node_json};
use super::{Context, output};
use crate::clock::{self, Seconds};
use crate::retire;
use crate::store::audit::Entry;
use crate::store::nodes::{self, Node, NodeState};
use crate::store::sites::{self, Site};
use crate::store::{audit, commit, retired};

#[derive(Debug, Args)]
pub(super) struct Retire {
    /// Node id or name.
    node: String,
    /// It is off for good, although it reported in the last minutes.
    #[arg(long)]
    force: bool,
}

pub(super) async fn run(context: &Context, command: Retire) -> anyhow::Result<()> {
    let store = context.store().await?;
    let mut tx = store.write().await?;
    let mut node = find(&mut tx, &command.node).await?;
    if node.state == NodeState::Pending {
        bail!("{} never had a place; `edge-central node revoke {}` refuses it", node.name, node.id);
    }
    let now = clock::now();
    let since = if command.force { Seconds::MAX } else { retire::lately(now) };
    let site = site_of(&mut tx, &node).await?;
    let room = nodes::of_site(&mut tx, &node.site).await?;
    if let Some(objection) = retire::objection(&site, &room, &node, since) {
        bail!(objection);
    }
    let detail = order(&mut tx, &site, (&mut node, None), now).await?;
    let entry = Entry {
        site: Some(node.site.clone()),
        node: Some(node.id.clone()),
        ..context.entry("node-retire", detail.clone())
    };
    audit::add(&mut tx, &entry).await?;
    commit(tx).await?;
    output::outcome(context.json, node_json(&node), &format!("{} ({}): {detail}", node.name, node.id));
    Ok(())
}

/// Takes the place of `old` away and orders that it leaves; says what that means.
async fn order(
    conn: &mut SqliteConnection,
    site: &Site,
    (old, successor): (&mut Node, Option<&Node>),
    now: Seconds,
) -> anyhow::Result<String> {
    let order = retire::order(site, old, successor, now);
    let holds_lease = site.ca_hash.is_none() && site.lease.as_ref() == Some(&old.id);
    (old.state, old.pending) = (NodeState::Revoked, None);
    nodes::save(conn, old).await?;
    if let Some(order) = &order {
        retired::add(conn, order).await?;
    }
    sites::touch(conn, &site.name).await?;
    let leaves = if order.is_some() {
        "retired; a live server lets its member and Node go"
    } else {
        "retired; it was in no cluster"
    };
    let lease =
        if holds_lease { "; it holds the init lease, which only `site reinit` frees now" } else { "" };
    Ok(format!("{leaves}{lease}"))
}

async fn site_of(conn: &mut SqliteConnection, node: &Node) -> anyhow::Result<Site> {
    match sites::get(conn, &node.site).await? {
        Some(site) => Ok(site),
        None => bail!("there is no site {}", node.site),
    }
}

/// Puts the waiting `node` in the place of the one that it replaces; `None` when
/// it replaces nobody who has a place.
pub(super) async fn replace(
    conn: &mut SqliteConnection,
    node: &mut Node,
    (agent_only, force): (bool, bool),
) -> anyhow::Result<Option<String>> {
    if retired::is_retired(conn, &node.id).await? {
        bail!(
            "{} was retired; its host needs a new key: `edge-bootstrap reset --forget --yes` there",
            node.id
        );
    }
    let Some(name) = node.pending.as_ref().and_then(|pending| pending.of.clone()) else { return Ok(None) };
    let site = site_of(conn, node).await?;
    let room = nodes::of_site(conn, &node.site).await?;
    let is_old =
        |other: &&Node| other.name == name && other.state == NodeState::Claimed && other.id != node.id;
    let Some(mut old) = room.iter().find(is_old).cloned() else { return Ok(None) };
    if let Some(objection) = retire::given_meanwhile(&old, node).filter(|_| !force) {
        bail!(objection);
    }
    // A report after the new key showed itself: two machines are on.
    let since = if force { Seconds::MAX } else { node.up_since };
    if let Some(objection) = retire::objection(&site, &room, &old, since) {
        bail!(objection);
    }
    retire::take_over(node, &old);
    if agent_only {
        (node.server_ok, node.forced_role) = (false, None);
        node.role = node.role.map(|role| if role == Role::Server { Role::Agent } else { role });
    }
    let detail = order(conn, &site, (&mut old, Some(node)), clock::now()).await?;
    let as_whom = if node.name == old.name {
        "gets its identity back".to_owned()
    } else {
        format!("comes as {}", node.name)
    };
    Ok(Some(format!("approved, {as_whom}; {} ({}): {detail}", old.name, old.id)))
}
