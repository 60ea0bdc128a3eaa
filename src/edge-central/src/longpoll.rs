//! `GET /v1/nodes/{id}/assignment?generation=N&wait=S`: what a host shall be.
//!
//! Owns the waiting. What there is to give is [`crate::issue`]'s business.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::time::Instant;

use crate::clock;
use crate::http::{self, Peer};
use crate::issue::{self, Issued};
use crate::refusal::{Code, Refusal};
use crate::service::Service;
use crate::store::nodes::{self, Node, NodeState};
use crate::store::{commit, sites};

/// Longest wait in seconds: shorter than a host counts as up without a word.
const MOST_WAIT: u64 = 120;
/// How long further changes are waited for after the first.
const BURST: Duration = Duration::from_millis(200);

/// What the host asks with.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct Ask {
    /// Generation that the host has; 0 when it has none.
    #[serde(default)]
    pub generation: u64,
    /// Seconds to wait for something newer.
    #[serde(default)]
    pub wait: u64,
}

/// Answers the request, after waiting when there is nothing yet.
///
/// # Errors
/// 400, 401, 403, 404, 410, 503 with their codes.
pub async fn handle(
    Extension(service): Extension<Arc<Service>>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
    ask: Result<Query<Ask>, QueryRejection>,
) -> Result<Response, Refusal> {
    http::own_id(peer, &id)?;
    let bad = |_| Refusal::new(Code::BadRequest, "generation and wait are numbers");
    let Query(ask) = ask.map_err(bad)?;
    let deadline = Instant::now() + Duration::from_secs(ask.wait.min(MOST_WAIT));
    loop {
        // Before the look, so that no change falls between; each time, because
        // the host may be moved to another site while it waits.
        let mut site = service.changes.subscribe(&look_up(&service, &id).await?.site);
        site.borrow_and_update();
        let issued = look(&service, &id, ask.generation).await?;
        if let Issued::Newer(envelope) = issued {
            return Ok(http::json_bytes(StatusCode::OK, envelope));
        }
        // Cancel safe: a change that comes with the deadline is seen by the next request.
        let changed = tokio::time::timeout_at(deadline, site.changed()).await;
        if matches!(changed, Ok(Ok(()))) {
            // Changes come in bursts, for example when a room is powered on.
            tokio::time::sleep(BURST).await;
        } else {
            let status =
                if issued == Issued::Undecided { StatusCode::NO_CONTENT } else { StatusCode::NOT_MODIFIED };
            return Ok(status.into_response());
        }
    }
}

async fn look_up(service: &Service, id: &str) -> Result<Node, Refusal> {
    let mut tx = service.store.read().await?;
    let node = nodes::get(&mut tx, id).await?.ok_or_else(Refusal::node_unknown)?;
    if node.state == NodeState::Revoked {
        return Err(Refusal::node_revoked());
    }
    Ok(node)
}

/// Reads, and writes only when there is something to write: a room of hosts
/// that wake together must not queue for the one writer.
async fn look(service: &Service, id: &str, asked: u64) -> Result<Issued, Refusal> {
    let now = clock::now();
    let node = look_up(service, id).await?;
    if !node.needs_meeting(now) {
        if node.role.is_none() {
            return Ok(Issued::Undecided);
        }
        if is_current(service, &node, asked).await? {
            return Ok(Issued::Unchanged);
        }
    }
    let mut tx = service.store.write().await?;
    let mut node = nodes::get(&mut tx, id).await?.ok_or_else(Refusal::node_unknown)?;
    node.meet(now);
    let issued = issue::issue(&mut tx, service, &mut node, (asked, now)).await?;
    commit(tx).await?;
    service.changes.nudge();
    Ok(issued)
}

/// Whether the host has what was last computed, and nothing changed since.
async fn is_current(service: &Service, node: &Node, asked: u64) -> Result<bool, Refusal> {
    let mut tx = service.store.read().await?;
    let site = sites::get(&mut tx, &node.site).await?;
    let is_same = site.is_some_and(|site| site.revision == node.issued_revision);
    Ok(is_same && asked == node.generation)
}
