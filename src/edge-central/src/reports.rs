//! `POST /v1/nodes/{id}/reports`: how a host is.
//!
//! Owns what a report may change: the site's CA hash, by the holder of the
//! init lease only, and the lease itself, when its holder says that it never
//! started. Everything else is kept for people.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, Request};
use axum::http::StatusCode;
use axum::response::Response;
use edge_bootstrap::role::Role;
use edge_bootstrap::role::words::Sha256Hex;
use edge_bootstrap::wire::report::{QUARANTINED, Report, ReportAnswer, ReportedCluster, ReportedNode};
use sqlx::SqliteConnection;
use tracing::{info, warn};

use crate::clock::{self, Seconds};
use crate::http::{self, Peer};
use crate::issue::{self, Issued};
use crate::refusal::Refusal;
use crate::service::Service;
use crate::store::audit::Entry;
use crate::store::nodes::{self, CopySeen, Document, Node, NodeState};
use crate::store::sites::{self, Site};
use crate::store::{StoreError, audit, commit, retired};

/// Something that a report brought about.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Effect {
    /// The holder of the lease joined: the site's cluster is this one.
    CaHash(String),
    /// The host is in another cluster than the site's.
    CaMismatch(String),
    /// The holder of the lease never started and will not: the lease is free.
    LeaseFree,
}

/// Answers the request.
///
/// # Errors
/// 400, 401, 403, 404, 408, 410, 413, 503 with their codes.
pub async fn handle(
    Extension(service): Extension<Arc<Service>>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    http::own_id(peer, &id)?;
    let report: Report = http::body(request, service.options.deadlines.body).await?;
    let now = clock::now();
    let generation = take(&service, &id, &report, now).await?;
    service.changes.nudge();
    let answer =
        ReportAnswer { generation, next_report_s: service.options.report_every, time: clock::rfc3339(now) };
    Ok(http::json(StatusCode::OK, &answer))
}

/// Takes the report over; gives the newest generation for the host.
async fn take(service: &Service, id: &str, report: &Report, now: Seconds) -> Result<u64, Refusal> {
    let mut tx = service.store.write().await?;
    let mut node = nodes::get(&mut tx, id).await?.ok_or_else(Refusal::node_unknown)?;
    if node.state == NodeState::Revoked {
        return Err(Refusal::node_revoked());
    }
    if report.phase == QUARANTINED {
        copy_seen(&mut tx, &node, report, now).await?;
        commit(tx).await?;
        return Ok(node.generation);
    }
    node.meet(now);
    // Before the report is judged: it must be seen beside the newest assignment.
    let issued = issue::issue(&mut tx, service, &mut node, (report.generation, now)).await?;
    if report.sequence > node.reported.sequence {
        keep(&mut tx, &mut node, report, &issued).await?;
        issue::issue(&mut tx, service, &mut node, (report.generation, now)).await?;
    }
    commit(tx).await?;
    Ok(node.generation)
}

/// A copy of the node's disk has its key. That there is one is told to people;
/// what it says is not about the node, which goes on reporting by itself.
async fn copy_seen(
    conn: &mut SqliteConnection,
    node: &Node,
    report: &Report,
    now: Seconds,
) -> Result<(), StoreError> {
    let boot_id: String = report.boot_id.chars().filter(|letter| !letter.is_control()).take(36).collect();
    let seen = CopySeen { boot_id, at: now };
    if !nodes::note_copy(conn, &node.id, &seen).await? {
        return Ok(());
    }
    warn!(site = node.site, node = node.id, boot_id = seen.boot_id, "a copy of this node's disk was seen");
    let entry = Entry {
        at: now,
        actor: "host".to_owned(),
        action: "copy-seen".to_owned(),
        site: Some(node.site.clone()),
        node: Some(node.id.clone()),
        detail: format!("another machine runs on a copy of its disk, boot {}", seen.boot_id),
    };
    audit::add(conn, &entry).await
}

async fn keep(
    conn: &mut SqliteConnection,
    node: &mut Node,
    report: &Report,
    issued: &Issued,
) -> Result<(), StoreError> {
    let Some(mut site) = sites::get(conn, &node.site).await? else { return Ok(()) };
    let before = node.reported.ca_mismatch.take();
    let of_old_life;
    // What it says of a cluster that it left, or has not left yet, is not about this site.
    let report = if is_about(&site, report) {
        report
    } else {
        of_old_life = Report { cluster: ReportedCluster::default(), ..report.clone() };
        &of_old_life
    };
    let effects = judge(&site, node, report, issued);
    remember(&site, node, report);
    if node.rejoin && has_arrived(&site, node, report) {
        // The assignment is made anew without the permission to change.
        (node.rejoin, node.issued_revision) = (false, 0);
        audit::add(conn, &arrived(node)).await?;
    }
    for effect in &effects {
        apply(effect, &mut site, node);
        let is_news = before.is_none() || before != node.reported.ca_mismatch;
        if is_news || !matches!(effect, Effect::CaMismatch(_)) {
            audit::add(conn, &entry(effect, node)).await?;
        }
    }
    confirm_retired(conn, &site, node, report).await?;
    if effects.iter().any(|effect| !matches!(effect, Effect::CaMismatch(_))) {
        sites::save(conn, &site).await?;
    }
    nodes::save(conn, node).await?;
    let text = super::store::text("report", report)?;
    nodes::put_document(conn, &node.id, Document::Report, &text).await
}

/// A server of this site's cluster says of whom nothing is left there.
async fn confirm_retired(
    conn: &mut SqliteConnection,
    site: &Site,
    node: &Node,
    report: &Report,
) -> Result<(), StoreError> {
    let is_in_it = site.ca_hash.is_some() && reported_hash(site, report) == site.ca_hash;
    if node.role != Some(Role::Server) || !is_in_it {
        return Ok(());
    }
    for id in &report.cluster.retired {
        if !retired::confirm(conn, &site.name, id, node.last_contact).await? {
            continue;
        }
        info!(site = site.name, node = node.id, retired = id, "retired host has left the cluster");
        sites::touch(conn, &site.name).await?;
        let entry = Entry {
            at: node.last_contact,
            actor: "host".to_owned(),
            action: "node-retired".to_owned(),
            site: Some(site.name.clone()),
            node: Some(id.clone()),
            detail: format!("nothing of it is left, says {}", node.name),
        };
        audit::add(conn, &entry).await?;
    }
    Ok(())
}

/// Whether the host that reports is pinned in this site. A version that does not
/// say so is taken at its word.
fn is_about(site: &Site, report: &Report) -> bool {
    report.node.as_ref().is_none_or(|node| node.site == site.name)
}

/// A host that was moved runs as what it was moved to, by its newest assignment.
fn has_arrived(site: &Site, node: &Node, report: &Report) -> bool {
    let is_it = |pinned: &ReportedNode| {
        (pinned.name.as_str(), pinned.ip) == (node.name.as_str(), node.ip)
            && pinned.site == site.name
            && pinned.cluster == site.settings.cluster_name
    };
    report.node.as_ref().is_some_and(is_it)
        && (report.epoch, report.phase.as_str()) == (site.epoch, "steady")
        && report.generation >= node.generation
}

fn arrived(node: &Node) -> Entry {
    info!(site = node.site, node = node.id, name = node.name, "host has arrived where it was moved to");
    Entry {
        at: node.last_contact,
        actor: "host".to_owned(),
        action: "node-arrived".to_owned(),
        site: Some(node.site.clone()),
        node: Some(node.id.clone()),
        detail: format!("{} {}", node.name, node.ip),
    }
}

/// What the report brings about. Reports of another epoch are about another
/// datastore and bring nothing about.
fn judge(site: &Site, node: &Node, report: &Report, issued: &Issued) -> Vec<Effect> {
    let is_holder = site.lease.as_ref() == Some(&node.id);
    let cluster = match (&site.ca_hash, reported_hash(site, report)) {
        (_, None) => None,
        (None, Some(hash)) if is_holder => Some(Effect::CaHash(hash)),
        (Some(known), Some(hash)) if *known == hash => None,
        (_, Some(hash)) => Some(Effect::CaMismatch(hash)),
    };
    let gave_back = is_holder && *issued == Issued::Unchanged && gave_the_lease_back(site, node, report);
    cluster.into_iter().chain(gave_back.then_some(Effect::LeaseFree)).collect()
}

fn reported_hash(site: &Site, report: &Report) -> Option<String> {
    let hash = report.cluster.ca_hash.as_ref().filter(|_| report.epoch == site.epoch)?;
    hash.parse::<Sha256Hex>().ok().map(String::from)
}

/// The holder shall not be a server any more, has taken that assignment over,
/// and says that it never started with the lease: it cannot start later either.
fn gave_the_lease_back(site: &Site, node: &Node, report: &Report) -> bool {
    // A report about another site says nothing about this one's lease either.
    let never_started = is_about(site, report)
        && !report.cluster.init_unknown
        && report.cluster.init_started != Some(site.epoch)
        && node.reported.init_started != Some(site.epoch)
        && report.cluster.ca_hash.is_none();
    site.ca_hash.is_none() && node.role != Some(Role::Server) && never_started
}

fn remember(site: &Site, node: &mut Node, report: &Report) {
    node.boot_id.clone_from(&report.boot_id);
    let reported = &mut node.reported;
    reported.sequence = report.sequence;
    reported.generation = report.generation;
    reported.at = Some(node.last_contact);
    reported.phase = Some(report.phase.clone());
    reported.verdict = Some(report.verdict.clone());
    reported.etcd_member.clone_from(&report.cluster.etcd_member);
    // Once said, both stay said: a host that forgot is no reason to start anew.
    reported.init_started = report.cluster.init_started.max(reported.init_started);
    reported.ca_hash = reported_hash(site, report).or_else(|| reported.ca_hash.take());
}

fn apply(effect: &Effect, site: &mut Site, node: &mut Node) {
    match effect {
        Effect::CaHash(hash) => site.ca_hash = Some(hash.clone()),
        Effect::CaMismatch(hash) => node.reported.ca_mismatch = Some(hash.clone()),
        Effect::LeaseFree => site.lease = None,
    }
}

fn entry(effect: &Effect, node: &Node) -> Entry {
    let (action, detail) = match effect {
        Effect::CaHash(hash) => ("ca-hash", hash.clone()),
        Effect::CaMismatch(hash) => ("ca_mismatch", hash.clone()),
        Effect::LeaseFree => ("lease-free", "its holder never started with it".to_owned()),
    };
    match effect {
        Effect::CaMismatch(_) => {
            warn!(site = node.site, node = node.id, detail, "host is in another cluster")
        }
        _ => info!(site = node.site, node = node.id, action, detail, "report"),
    }
    Entry {
        at: node.last_contact,
        actor: "host".to_owned(),
        action: action.to_owned(),
        site: Some(node.site.clone()),
        node: Some(node.id.clone()),
        detail,
    }
}

#[cfg(test)]
#[path = "reports_tests.rs"]
mod tests;
