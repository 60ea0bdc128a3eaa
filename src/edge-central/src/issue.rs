//! From the state of a room to the signed assignment of one host.
//!
//! Owns numbering: a generation rises only when the content changed for that
//! host, or when the host knows a higher number (this service was restored
//! from a backup); the same number never carries other bytes.

use edge_bootstrap::error::Chain;
use edge_bootstrap::role::Role;
use edge_bootstrap::wire::statement::Granted;
use sqlx::SqliteConnection;
use thiserror::Error;
use tracing::{error, info};

use crate::assign::{self, AssignError, Room};
use crate::clock::Seconds;
use crate::policy::{self, Decision};
use crate::retire;
use crate::service::Service;
use crate::store::audit::Entry;
use crate::store::nodes::{self, Document, Node, NodeState};
use crate::store::retired::{self, Retirement};
use crate::store::sites::{self, Site};
use crate::store::{StoreError, artifacts, audit, commit};

/// What there is for a host that has `generation`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Issued {
    /// Something newer: the signed envelope as JSON.
    Newer(String),
    /// Nothing newer.
    Unchanged,
    /// No role yet, or nothing that could be signed.
    Undecided,
}

/// Why nothing could be issued.
#[derive(Debug, Error)]
pub enum IssueError {
    /// The database says no.
    #[error("issue an assignment")]
    Store(#[from] StoreError),
    /// A host asks with a number that leaves none above it.
    #[error("generation {0} leaves no number above it")]
    Exhausted(u64),
}

/// Highest generation that is believed: JSON numbers above are not exact everywhere.
const LAST: u64 = 1 << 53;

/// Lets the policy decide about `site` and writes what it wants. Tells whether
/// anything changed.
///
/// # Errors
/// [`StoreError`].
pub async fn settle(
    conn: &mut SqliteConnection,
    service: &Service,
    site: &str,
    now: Seconds,
) -> Result<bool, StoreError> {
    let Some(mut site) = sites::get(conn, site).await? else { return Ok(false) };
    let mut nodes = nodes::of_site(conn, &site.name).await?;
    let leavers = retired::open(conn, &site.name).await?;
    let decisions = decisions(service, (&site, &nodes, &leavers), now);
    if decisions.is_empty() {
        return Ok(false);
    }
    for decision in &decisions {
        take_over(decision, &mut site, &mut nodes);
        audit::add(conn, &entry(decision, &site.name, now)).await?;
    }
    for node in &nodes {
        nodes::save(conn, node).await?;
    }
    sites::save(conn, &site).await?;
    Ok(true)
}

/// What the policy wants now. Nobody becomes a server while a member that is dead
/// for good still counts in etcd's majority.
fn decisions(
    service: &Service,
    (site, nodes, leavers): (&Site, &[Node], &[Retirement]),
    now: Seconds,
) -> Vec<Decision> {
    let mut decisions = policy::decide(site, nodes, service.rules(now));
    if retire::keeps_servers(leavers) {
        decisions.retain(|decision| !matches!(decision, Decision::Role(_, Role::Server)));
    }
    decisions
}

fn take_over(decision: &Decision, site: &mut Site, nodes: &mut [Node]) {
    match decision {
        Decision::Lease(id) => site.lease = Some(id.clone()),
        Decision::Role(id, role) => {
            let next = nodes.iter().map(|node| node.role_order).max().unwrap_or(0) + 1;
            if let Some(node) = nodes.iter_mut().find(|node| node.id == *id) {
                (node.role, node.role_order) = (Some(*role), next);
            }
        }
    }
}

fn entry(decision: &Decision, site: &str, now: Seconds) -> Entry {
    let (action, node, detail) = match decision {
        Decision::Role(id, role) => ("role", id, role.to_string()),
        Decision::Lease(id) => ("lease-grant", id, String::new()),
    };
    info!(site, node, action, detail, "policy decided");
    Entry {
        at: now,
        actor: "policy".to_owned(),
        action: action.to_owned(),
        site: Some(site.to_owned()),
        node: Some(node.clone()),
        detail,
    }
}

/// Like [`settle`], writing only when the policy wants something.
///
/// # Errors
/// [`StoreError`].
pub async fn settle_if_due(service: &Service, site: &str, now: Seconds) -> Result<(), StoreError> {
    let mut tx = service.store.read().await?;
    let Some(found) = sites::get(&mut tx, site).await? else { return Ok(()) };
    let nodes = nodes::of_site(&mut tx, site).await?;
    let leavers = retired::open(&mut tx, site).await?;
    drop(tx);
    if decisions(service, (&found, &nodes, &leavers), now).is_empty() {
        return Ok(());
    }
    let mut tx = service.store.write().await?;
    settle(&mut tx, service, site, now).await?;
    commit(tx).await?;
    service.changes.nudge();
    Ok(())
}

/// Lets the policy decide where something changed since the last look, and
/// gives what there is for the host of `node`, which has generation `asked`.
///
/// # Errors
/// [`IssueError`].
pub async fn issue(
    conn: &mut SqliteConnection,
    service: &Service,
    node: &mut Node,
    (asked, now): (u64, Seconds),
) -> Result<Issued, IssueError> {
    nodes::save(conn, node).await?;
    let Some(mut site) = sites::get(conn, &node.site).await? else { return Ok(Issued::Undecided) };
    let is_seen = node.issued_revision == site.revision && node.role.is_some();
    if !is_seen && settle(conn, service, &site.name, now).await? {
        (site, *node) = reload(conn, node).await?;
    }
    if node.state != NodeState::Claimed || node.role.is_none() {
        return Ok(Issued::Undecided);
    }
    if retire::is_held(&retired::open(conn, &site.name).await?, node) {
        return Ok(Issued::Undecided);
    }
    if node.issued_revision == site.revision && asked <= node.generation && node.body_digest.is_some() {
        return stored(conn, node, asked).await;
    }
    match renew(conn, service, &site, (node, asked, now)).await? {
        Ok(()) => stored(conn, node, asked).await,
        Err(reason) => {
            error!(site = site.name, node = node.id, reason = %Chain(&reason), "no assignment can be issued");
            Ok(Issued::Undecided)
        }
    }
}

async fn reload(conn: &mut SqliteConnection, node: &Node) -> Result<(Site, Node), StoreError> {
    let site = sites::get(conn, &node.site).await?.ok_or(StoreError::Damaged("site of a node"))?;
    let node = nodes::get(conn, &node.id).await?.ok_or(StoreError::Damaged("node"))?;
    Ok((site, node))
}

async fn stored(conn: &mut SqliteConnection, node: &Node, asked: u64) -> Result<Issued, IssueError> {
    if asked >= node.generation {
        return Ok(Issued::Unchanged);
    }
    let envelope = nodes::document_of(conn, &node.id, Document::Envelope).await?;
    Ok(Issued::Newer(envelope.ok_or(StoreError::Damaged("envelope"))?))
}

/// Computes the content anew and signs it when it changed or must be numbered
/// above `asked`.
async fn renew(
    conn: &mut SqliteConnection,
    service: &Service,
    site: &Site,
    (node, asked, now): (&mut Node, u64, Seconds),
) -> Result<Result<(), AssignError>, IssueError> {
    let nodes = nodes::of_site(conn, &site.name).await?;
    let artifacts = artifacts::list(conn).await?;
    let leavers = retired::open(conn, &site.name).await?;
    let public_url = &service.options.public_url;
    let room = Room { site, nodes: &nodes, leavers: &leavers, artifacts: &artifacts, public_url };
    let last = node.generation.max(asked);
    let generation = if last < LAST { last + 1 } else { return Err(IssueError::Exhausted(last)) };
    let content = match content(&room, node, (generation, now)) {
        Ok(content) => content,
        Err(error) => return Ok(Err(error)),
    };
    if asked > node.generation || node.body_digest.as_ref() != Some(&content.digest) {
        let statement = Some(service.signer.sign(&content.statement));
        let granted = Granted { envelope: service.signer.sign(&content.bytes), statement };
        let envelope = serde_json::to_string(&granted).map_err(|_| StoreError::Damaged("envelope"))?;
        nodes::put_document(conn, &node.id, Document::Envelope, &envelope).await?;
        (node.generation, node.body_digest) = (generation, Some(content.digest));
        info!(site = site.name, node = node.id, generation, "assignment signed");
    }
    node.issued_revision = site.revision;
    nodes::save(conn, node).await?;
    Ok(Ok(()))
}

struct Content {
    digest: String,
    bytes: Vec<u8>,
    /// What may be shown to anybody. Not part of the digest: it says nothing
    /// that the assignment does not say.
    statement: Vec<u8>,
}

fn content(room: &Room<'_>, node: &Node, (generation, now): (u64, Seconds)) -> Result<Content, AssignError> {
    let Some(role) = node.role else { return Err(AssignError::NoVersion) };
    let payload = room.payload(node, role)?;
    Ok(Content {
        digest: assign::digest(&payload)?,
        bytes: assign::bytes(payload, generation, now)?,
        statement: room.statement(now)?,
    })
}
