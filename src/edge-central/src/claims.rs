//! `POST /v1/claims`: a host asks for its place.
//!
//! Owns who gets a place, who waits for a person, and who is refused. A claim
//! that is repeated after a lost reply gets the same answer: the key is the
//! host, and a token counts once per key.

use std::sync::Arc;

use axum::Extension;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use edge_bootstrap::role::words::{NodeName, SiteName};
use edge_bootstrap::wire::PROTOCOL;
use edge_bootstrap::wire::claim::{ClaimAnswer, ClaimRequest};
use sqlx::SqliteConnection;
use tracing::{info, warn};

use crate::clock::{self, Seconds};
use crate::contact::CONTACT;
use crate::hardware::Hardware;
use crate::http::{self, Peer};
use crate::refusal::{Code, Refusal};
use crate::service::Service;
use crate::store::audit::Entry;
use crate::store::nodes::{self, Document, Node, NodeState, Pending};
use crate::store::sites::{self, Site};
use crate::store::tokens::{self, Token};
use crate::store::{StoreError, audit, commit, retired};
use crate::{ids, issue};

/// Seconds until a waiting host asks again.
const RETRY_PENDING: u64 = 30;
/// Waiting hosts of one site: anybody can ask, nobody may fill the database.
const MOST_PENDING: u64 = 200;

/// What the service knows when it judges a claim.
#[derive(Debug)]
struct Known {
    site: Option<Site>,
    own: Option<Node>,
    others: Vec<Node>,
    token: Option<Token>,
    pending: u64,
    /// It came in the place of a retired host, whose name and address it was given.
    is_successor: bool,
}

/// What becomes of a claim.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It has its place already.
    Keep,
    /// It gets its place by a token.
    Claim(Token),
    /// A person must approve: reason and the name of the node that it would replace.
    Wait(&'static str, Option<String>),
}

/// A claim of the host with key `id`.
#[derive(Debug)]
struct Claim {
    id: String,
    request: ClaimRequest,
    hardware: Hardware,
    now: Seconds,
}

/// Answers the request.
///
/// # Errors
/// 400, 401, 403, 408, 409, 413, 429, 503 with their codes.
pub async fn handle(
    Extension(service): Extension<Arc<Service>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Result<Response, Refusal> {
    let id = http::key_of(peer)?;
    let request: ClaimRequest = http::body(request, service.options.deadlines.body).await?;
    check_words(&request)?;
    let hardware = Hardware::from_facts(&request.facts);
    let claim = Claim { id, request, hardware, now: clock::now() };
    let node = take(&service, &claim).await?;
    Ok(answer(&service, &node, claim.now))
}

fn check_words(request: &ClaimRequest) -> Result<(), Refusal> {
    let bad = |message: String| Refusal::new(Code::BadRequest, message);
    if request.protocol != PROTOCOL {
        let message = format!("protocol {} is unknown; this service speaks {PROTOCOL}", request.protocol);
        return Err(Refusal::new(Code::ProtocolUnknown, message));
    }
    request.site.parse::<SiteName>().map_err(|error| bad(error.to_string()))?;
    request.node.name.parse::<NodeName>().map_err(|error| bad(error.to_string()))?;
    let ip = request.node.ip;
    if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() {
        return Err(bad(format!("{ip} cannot be the address of a node")));
    }
    Ok(())
}

fn answer(service: &Service, node: &Node, now: Seconds) -> Response {
    let (node_id, time) = (node.id.clone(), clock::rfc3339(now));
    let Some(pending) = node.pending.clone() else {
        let signing_key = service.signer.public().clone().into();
        return http::json(StatusCode::OK, &ClaimAnswer::Claimed { node_id, signing_key, time });
    };
    let Pending { code, reason, of } = pending;
    let answer = ClaimAnswer::Pending { node_id, code, reason, of, retry_after: RETRY_PENDING, time };
    http::with_retry_after(http::json(StatusCode::ACCEPTED, &answer), Some(RETRY_PENDING))
}

/// Judges the claim and writes its outcome.
async fn take(service: &Service, claim: &Claim) -> Result<Node, Refusal> {
    let mut tx = service.store.write().await?;
    let known = look_up(&mut tx, claim).await?;
    let verdict = judge(claim, &known).inspect_err(|refusal| {
        warn!(site = claim.request.site, node = claim.id, code = refusal.code.word(), "claim refused");
    })?;
    let is_new = known.own.is_none();
    let mut node = known.own.clone().unwrap_or_else(|| new_node(claim));
    let changed = enter(&mut node, claim, &verdict).map_err(|_| Refusal::unavailable())?;
    if !known.is_successor {
        adopt_proposal(&mut node, claim, &known.others);
    }
    if is_new {
        nodes::add(&mut tx, &node).await?;
    } else {
        nodes::save(&mut tx, &node).await?;
    }
    let facts = claim.request.facts.to_string();
    nodes::put_document(&mut tx, &node.id, Document::Facts, &facts).await?;
    record(&mut tx, claim, &verdict, changed).await?;
    issue::settle(&mut tx, service, &node.site, claim.now).await?;
    commit(tx).await?;
    service.changes.nudge();
    Ok(node)
}

async fn look_up(conn: &mut SqliteConnection, claim: &Claim) -> Result<Known, StoreError> {
    let request = &claim.request;
    let own = nodes::get(conn, &claim.id).await?;
    let place = place(own.as_ref(), &request.site);
    let site = sites::get(conn, place).await?;
    let nodes = nodes::of_site(conn, place).await?;
    let token = match &request.enrol_token {
        Some(secret) => tokens::by_secret(conn, secret).await?,
        None => None,
    };
    Ok(Known {
        pending: nodes::count_pending(conn, place).await?,
        is_successor: retired::is_successor(conn, &claim.id).await?,
        site,
        own,
        others: nodes.into_iter().filter(|node| node.id != claim.id).collect(),
        token,
    })
}

/// The site that a claim is about. A host that was moved still has its old site
/// in its own settings: its key says where it belongs.
fn place<'a>(own: Option<&'a Node>, asked: &'a str) -> &'a str {
    let moved = own.filter(|own| own.former_sites.iter().any(|site| site == asked));
    moved.map_or(asked, |own| &own.site)
}

fn judge(claim: &Claim, known: &Known) -> Result<Verdict, Refusal> {
    let Some(site) = &known.site else {
        return Err(Refusal::new(Code::SiteUnknown, format!("there is no site {}", claim.request.site)));
    };
    match &known.own {
        Some(own) if own.site != site.name || own.state == NodeState::Revoked => {
            Err(Refusal::new(Code::Denied, format!("this key is {} in site {}", own.state.word(), own.site)))
        }
        Some(own) if own.state == NodeState::Claimed => judge_claimed(claim, own),
        _ => judge_newcomer(claim, known, site),
    }
}

fn judge_claimed(claim: &Claim, own: &Node) -> Result<Verdict, Refusal> {
    if !claim.hardware.contradicts(&own.hardware) {
        return Ok(Verdict::Keep);
    }
    let message = format!(
        "this key belongs to {}, which is another machine; if that was replaced, `edge-central approve {}`",
        own.name, own.name
    );
    Err(Refusal::new(Code::MovedDisk, message))
}

fn judge_newcomer(claim: &Claim, known: &Known, site: &Site) -> Result<Verdict, Refusal> {
    let token = known.token.as_ref().filter(|token| token.is_valid(&site.name, claim.now));
    if claim.request.enrol_token.is_some() && token.is_none() {
        let message = "the enrolment token is wrong, used up, expired, or of another site";
        return Err(Refusal::new(Code::TokenInvalid, message));
    }
    let mut placed = known.others.iter().filter(|node| node.state == NodeState::Claimed);
    if let Some(same) = placed.clone().find(|node| node.hardware.is_same_machine(&claim.hardware)) {
        return wait(known, "replaces", Some(same.name.clone()));
    }
    let wanted = &claim.request.node;
    if let Some(holder) = placed.find(|node| node.ip == wanted.ip || node.name == wanted.name) {
        if claim.now - holder.last_contact > CONTACT {
            // Dead, or re-imaged on a machine whose hardware tells nothing: a person knows.
            return wait(known, "replaces", Some(holder.name.clone()));
        }
        let message =
            format!("{} or {} is taken by node {} ({})", wanted.name, wanted.ip, holder.name, holder.id);
        return Err(Refusal::new(Code::AddressTaken, message));
    }
    match token {
        Some(token) => Ok(Verdict::Claim(token.clone())),
        None => wait(known, "approval", None),
    }
}

fn wait(known: &Known, reason: &'static str, of: Option<String>) -> Result<Verdict, Refusal> {
    if known.own.is_none() && known.pending >= MOST_PENDING {
        let message = "too many hosts wait for approval";
        return Err(Refusal::for_now(Code::TooManyPending, message, RETRY_PENDING));
    }
    Ok(Verdict::Wait(reason, of))
}

fn new_node(claim: &Claim) -> Node {
    let wanted = &claim.request.node;
    Node::new(&claim.id, &claim.request.site, (&wanted.name, wanted.ip), claim.now)
}

/// Writes the verdict into the node; tells whether its state is another now.
fn enter(node: &mut Node, claim: &Claim, verdict: &Verdict) -> Result<bool, ids::RandomError> {
    let before = (node.state, node.pending.clone());
    match verdict {
        // It may have lost the assignment that moved it, and takes one of another
        // site than its settings name only when that one says so.
        Verdict::Keep if node.site != claim.request.site => {
            (node.rejoin, node.issued_revision) = (true, 0);
        }
        Verdict::Keep => {}
        Verdict::Claim(token) => {
            (node.state, node.pending, node.claimed_at) = (NodeState::Claimed, None, Some(claim.now));
            node.server_ok |= token.allow_server;
        }
        Verdict::Wait(reason, of) => {
            let code = node.pending.take().map_or_else(ids::code, |pending| Ok(pending.code))?;
            node.pending = Some(Pending { code, reason: (*reason).to_owned(), of: of.clone() });
        }
    }
    node.hardware.clone_from(&claim.hardware);
    node.agent_version.clone_from(&claim.request.agent_version);
    node.boot_id.clone_from(&claim.request.boot_id);
    node.meet(claim.now);
    // A host that claims again may have lost the number of its last report.
    node.reported.sequence = 0;
    Ok(before != (node.state, node.pending.clone()))
}

/// Until the first assignment the host's own settings name it.
fn adopt_proposal(node: &mut Node, claim: &Claim, others: &[Node]) {
    let wanted = &claim.request.node;
    let mut placed = others.iter().filter(|other| other.state == NodeState::Claimed);
    let is_free = !placed.any(|other| other.name == wanted.name || other.ip == wanted.ip);
    if node.generation == 0 && !node.rejoin && is_free {
        node.name.clone_from(&wanted.name);
        node.ip = wanted.ip;
    }
}

async fn record(
    conn: &mut SqliteConnection,
    claim: &Claim,
    verdict: &Verdict,
    changed: bool,
) -> Result<(), StoreError> {
    if let Verdict::Claim(token) = verdict {
        tokens::use_once(conn, token, &claim.id, claim.now).await?;
    }
    if !changed {
        return Ok(());
    }
    let detail = match verdict {
        Verdict::Keep => String::new(),
        Verdict::Claim(token) => format!("by token {}", token.id),
        Verdict::Wait(reason, of) => format!("waits: {reason} {}", of.as_deref().unwrap_or_default()),
    };
    info!(site = claim.request.site, node = claim.id, name = claim.request.node.name, detail, "claim");
    let entry = Entry {
        at: claim.now,
        actor: "host".to_owned(),
        action: "claim".to_owned(),
        site: Some(claim.request.site.clone()),
        node: Some(claim.id.clone()),
        detail,
    };
    audit::add(conn, &entry).await
}

#[cfg(test)]
#[path = "claims_tests.rs"]
mod tests;
