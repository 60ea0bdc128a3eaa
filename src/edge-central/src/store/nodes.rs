//! Rows of nodes and their documents.
//!
//! Owns the mapping only. A node is loaded, changed in memory and saved whole
//! inside one write transaction.

use std::net::IpAddr;

use edge_bootstrap::role::Role;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::{StoreError, document, signed, text, unsigned};
use crate::clock::Seconds;
use crate::hardware::Hardware;

/// Where a node stands with the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// Waits for a person.
    Pending,
    /// Has its place.
    Claimed,
    /// A person took its place away.
    Revoked,
}

/// What a pending node waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Told to the approver.
    pub code: String,
    /// `approval` or `replaces`.
    pub reason: String,
    /// Name of the node that it would replace.
    pub of: Option<String>,
}

/// What the last report said that decisions need.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reported {
    /// Highest sequence so far.
    pub sequence: u64,
    /// Generation in force on the host.
    pub generation: u64,
    /// When it came.
    pub at: Option<Seconds>,
    /// Phase as in `status`.
    pub phase: Option<String>,
    /// Verdict as in `doctor`.
    pub verdict: Option<String>,
    /// CA hash that fits the site's, or was reported before the site had one.
    pub ca_hash: Option<String>,
    /// CA hash that does not fit the site's.
    pub ca_mismatch: Option<String>,
    /// Epoch for which an initialisation was started.
    pub init_started: Option<u64>,
    /// etcd member name.
    pub etcd_member: Option<String>,
}

/// One host.
#[derive(Debug, Clone)]
pub struct Node {
    /// From its key.
    pub id: String,
    /// Order of the first claim.
    pub ordinal: i64,
    /// Its machine room.
    pub site: String,
    /// Where it stands.
    pub state: NodeState,
    /// Node name.
    pub name: String,
    /// Node IP.
    pub ip: IpAddr,
    /// The policy may make it a server.
    pub server_ok: bool,
    /// A person's word.
    pub forced_role: Option<Role>,
    /// In force; `None` means not decided.
    pub role: Option<Role>,
    /// Order in which roles were given: the first server comes first in lists.
    pub role_order: i64,
    /// What it waits for.
    pub pending: Option<Pending>,
    /// From the facts of its claim.
    pub hardware: Hardware,
    /// Version of its program.
    pub agent_version: String,
    /// Boot of its last claim or report.
    pub boot_id: String,
    /// When it got its place.
    pub claimed_at: Option<Seconds>,
    /// In contact without a gap since.
    pub up_since: Seconds,
    /// Last request.
    pub last_contact: Seconds,
    /// Generation of the stored envelope, or the highest that the host asked with.
    pub generation: u64,
    /// Digest of what the stored envelope says, without its number and date.
    pub body_digest: Option<String>,
    /// Revision of the site for which the envelope was last computed.
    pub issued_revision: i64,
    /// A person moved it: it may change who it is, until it was seen to have.
    pub rejoin: bool,
    /// Sites from which it was moved: its own settings may still name one of them.
    pub former_sites: Vec<String>,
    /// What its reports said.
    pub reported: Reported,
    /// The newest host that ran on a copy of its disk.
    pub copy: Option<CopySeen>,
}

/// A host that runs on a copy of a node's disk, with the node's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopySeen {
    /// Its boot.
    pub boot_id: String,
    /// Its last report.
    pub at: Seconds,
}

impl Node {
    /// A host that was never seen before, waiting, with nothing decided.
    #[must_use]
    pub fn new(id: &str, site: &str, (name, ip): (&str, IpAddr), now: Seconds) -> Self {
        Self {
            id: id.to_owned(),
            ordinal: 0,
            site: site.to_owned(),
            state: NodeState::Pending,
            name: name.to_owned(),
            ip,
            server_ok: false,
            forced_role: None,
            role: None,
            role_order: 0,
            pending: None,
            hardware: Hardware::default(),
            agent_version: String::new(),
            boot_id: String::new(),
            claimed_at: None,
            up_since: now,
            last_contact: now,
            generation: 0,
            body_digest: None,
            issued_revision: 0,
            rejoin: false,
            former_sites: Vec::new(),
            reported: Reported::default(),
            copy: None,
        }
    }
}

fn role(text: Option<&str>) -> Result<Option<Role>, StoreError> {
    match text {
        None => Ok(None),
        Some("server") => Ok(Some(Role::Server)),
        Some("agent") => Ok(Some(Role::Agent)),
        Some("none") => Ok(Some(Role::None)),
        Some(_) => Err(StoreError::Damaged("role")),
    }
}

fn state(text: &str) -> Result<NodeState, StoreError> {
    match text {
        "pending" => Ok(NodeState::Pending),
        "claimed" => Ok(NodeState::Claimed),
        "revoked" => Ok(NodeState::Revoked),
        _ => Err(StoreError::Damaged("node state")),
    }
}

impl NodeState {
    /// The word in the database and in output.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Claimed => "claimed",
            Self::Revoked => "revoked",
        }
    }
}

fn pending(row: &SqliteRow) -> Result<Option<Pending>, StoreError> {
    let code: Option<String> = row.try_get("code")?;
    let Some(code) = code else { return Ok(None) };
    let reason: Option<String> = row.try_get("pending_reason")?;
    let reason = reason.ok_or(StoreError::Damaged("pending reason"))?;
    Ok(Some(Pending { code, reason, of: row.try_get("pending_of")? }))
}

fn reported(row: &SqliteRow) -> Result<Reported, StoreError> {
    Ok(Reported {
        sequence: unsigned(row.try_get("report_sequence")?),
        generation: unsigned(row.try_get("report_generation")?),
        at: row.try_get("reported_at")?,
        phase: row.try_get("phase")?,
        verdict: row.try_get("verdict")?,
        ca_hash: row.try_get("ca_hash")?,
        ca_mismatch: row.try_get("ca_mismatch")?,
        init_started: row.try_get::<Option<i64>, _>("init_started")?.map(unsigned),
        etcd_member: row.try_get("etcd_member")?,
    })
}

fn node(row: &SqliteRow) -> Result<Node, StoreError> {
    let ip: &str = row.try_get("ip")?;
    Ok(Node {
        id: row.try_get("id")?,
        ordinal: row.try_get("ordinal")?,
        site: row.try_get("site")?,
        state: state(row.try_get("state")?)?,
        name: row.try_get("name")?,
        ip: ip.parse().map_err(|_| StoreError::Damaged("address"))?,
        server_ok: row.try_get("server_ok")?,
        forced_role: role(row.try_get("forced_role")?)?,
        role: role(row.try_get("role")?)?,
        role_order: row.try_get("role_order")?,
        pending: pending(row)?,
        hardware: document("hardware", row.try_get("hardware")?)?,
        agent_version: row.try_get("agent_version")?,
        boot_id: row.try_get("boot_id")?,
        claimed_at: row.try_get("claimed_at")?,
        up_since: row.try_get("up_since")?,
        last_contact: row.try_get("last_contact")?,
        generation: unsigned(row.try_get("generation")?),
        body_digest: row.try_get("body_digest")?,
        issued_revision: row.try_get("issued_revision")?,
        rejoin: row.try_get("rejoin")?,
        former_sites: document("former sites", row.try_get("former_sites")?)?,
        reported: reported(row)?,
        copy: copy(row)?,
    })
}

fn copy(row: &SqliteRow) -> Result<Option<CopySeen>, StoreError> {
    let (boot_id, at) = (row.try_get("copy_boot_id")?, row.try_get("copy_seen_at")?);
    let seen: (Option<String>, Option<Seconds>) = (boot_id, at);
    Ok(seen.0.zip(seen.1).map(|(boot_id, at)| CopySeen { boot_id, at }))
}

/// One node by id.
///
/// # Errors
/// [`StoreError`].
pub async fn get(conn: &mut SqliteConnection, id: &str) -> Result<Option<Node>, StoreError> {
    let row = sqlx::query("SELECT * FROM nodes WHERE id = ?").bind(id).fetch_optional(conn).await?;
    row.as_ref().map(node).transpose()
}

/// Nodes that a person means: by id, name, or code.
///
/// # Errors
/// [`StoreError`].
pub async fn find(conn: &mut SqliteConnection, word: &str) -> Result<Vec<Node>, StoreError> {
    let rows =
        sqlx::query("SELECT * FROM nodes WHERE id = ?1 OR name = ?1 OR code = upper(?1) ORDER BY ordinal")
            .bind(word)
            .fetch_all(conn)
            .await?;
    rows.iter().map(node).collect()
}

/// All nodes of a site in the order of their claims.
///
/// # Errors
/// [`StoreError`].
pub async fn of_site(conn: &mut SqliteConnection, site: &str) -> Result<Vec<Node>, StoreError> {
    let rows =
        sqlx::query("SELECT * FROM nodes WHERE site = ? ORDER BY ordinal").bind(site).fetch_all(conn).await?;
    rows.iter().map(node).collect()
}

/// All nodes of all sites.
///
/// # Errors
/// [`StoreError`].
pub async fn all(conn: &mut SqliteConnection) -> Result<Vec<Node>, StoreError> {
    let rows = sqlx::query("SELECT * FROM nodes ORDER BY site, ordinal").fetch_all(conn).await?;
    rows.iter().map(node).collect()
}

/// Adds the row of a new node; [`save`] fills the rest.
///
/// # Errors
/// [`StoreError`], also when the id is taken.
pub async fn add(conn: &mut SqliteConnection, new: &Node) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO nodes (id, ordinal, site, state, name, ip, server_ok, role_order, hardware, agent_version,
            boot_id, up_since, last_contact, generation, issued_revision, report_sequence, report_generation)
         VALUES (?, (SELECT coalesce(max(ordinal), 0) + 1 FROM nodes), ?, 'pending', ?, ?, 0, 0, '{}', '', '',
            ?, ?, 0, 0, 0, 0)",
    )
    .bind(&new.id)
    .bind(&new.site)
    .bind(&new.name)
    .bind(new.ip.to_string())
    .bind(new.up_since)
    .bind(new.last_contact)
    .execute(&mut *conn)
    .await?;
    sqlx::query("INSERT INTO documents (node) VALUES (?)").bind(&new.id).execute(&mut *conn).await?;
    save(conn, new).await
}

/// Writes everything of a node but its id and ordinal.
///
/// # Errors
/// [`StoreError`].
pub async fn save(conn: &mut SqliteConnection, node: &Node) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE nodes SET state = ?, name = ?, ip = ?, server_ok = ?, forced_role = ?, role = ?, role_order = ?,
            code = ?, pending_reason = ?, pending_of = ?, hardware = ?, agent_version = ?, boot_id = ?,
            claimed_at = ?, up_since = ?, last_contact = ?, generation = ?, body_digest = ?, issued_revision = ?,
            site = ?, rejoin = ?, former_sites = ?
         WHERE id = ?",
    )
    .bind(node.state.word())
    .bind(&node.name)
    .bind(node.ip.to_string())
    .bind(node.server_ok)
    .bind(node.forced_role.map(|role| role.to_string()))
    .bind(node.role.map(|role| role.to_string()))
    .bind(node.role_order)
    .bind(node.pending.as_ref().map(|pending| &pending.code))
    .bind(node.pending.as_ref().map(|pending| &pending.reason))
    .bind(node.pending.as_ref().and_then(|pending| pending.of.as_ref()))
    .bind(text("hardware", &node.hardware)?)
    .bind(&node.agent_version)
    .bind(&node.boot_id)
    .bind(node.claimed_at)
    .bind(node.up_since)
    .bind(node.last_contact)
    .bind(signed(node.generation))
    .bind(&node.body_digest)
    .bind(node.issued_revision)
    .bind(&node.site)
    .bind(node.rejoin)
    .bind(text("former sites", &node.former_sites)?)
    .bind(&node.id)
    .execute(&mut *conn)
    .await?;
    save_reported(conn, node).await
}

/// Boots of copies of one disk that are told apart; more would fill the database.
const MOST_COPIES: i64 = 100;

/// Notes that a copy of the node's disk was seen, and nothing else about the
/// node. Tells whether this boot of it is news.
///
/// # Errors
/// [`StoreError`].
pub async fn note_copy(conn: &mut SqliteConnection, id: &str, seen: &CopySeen) -> Result<bool, StoreError> {
    sqlx::query("UPDATE nodes SET copy_boot_id = ?, copy_seen_at = ? WHERE id = ?")
        .bind(&seen.boot_id)
        .bind(seen.at)
        .bind(id)
        .execute(&mut *conn)
        .await?;
    let added = sqlx::query(
        "INSERT OR IGNORE INTO copies (node, boot_id)
         SELECT ?1, ?2 WHERE (SELECT count(*) FROM copies WHERE node = ?1) < ?3",
    )
    .bind(id)
    .bind(&seen.boot_id)
    .bind(MOST_COPIES)
    .execute(conn)
    .await?;
    Ok(added.rows_affected() > 0)
}

async fn save_reported(conn: &mut SqliteConnection, node: &Node) -> Result<(), StoreError> {
    let reported = &node.reported;
    sqlx::query(
        "UPDATE nodes SET report_sequence = ?, report_generation = ?, reported_at = ?, phase = ?, verdict = ?,
            ca_hash = ?, ca_mismatch = ?, init_started = ?, etcd_member = ?
         WHERE id = ?",
    )
    .bind(signed(reported.sequence))
    .bind(signed(reported.generation))
    .bind(reported.at)
    .bind(&reported.phase)
    .bind(&reported.verdict)
    .bind(&reported.ca_hash)
    .bind(&reported.ca_mismatch)
    .bind(reported.init_started.map(signed))
    .bind(&reported.etcd_member)
    .bind(&node.id)
    .execute(conn)
    .await?;
    Ok(())
}

/// Which document of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    /// Facts of the last claim.
    Facts,
    /// The last report.
    Report,
    /// The signed envelope in force.
    Envelope,
}

/// Stores a document of a node.
///
/// # Errors
/// [`StoreError`].
pub async fn put_document(
    conn: &mut SqliteConnection,
    id: &str,
    which: Document,
    text: &str,
) -> Result<(), StoreError> {
    let statement = match which {
        Document::Facts => "UPDATE documents SET facts = ? WHERE node = ?",
        Document::Report => "UPDATE documents SET report = ? WHERE node = ?",
        Document::Envelope => "UPDATE documents SET envelope = ? WHERE node = ?",
    };
    sqlx::query(statement).bind(text).bind(id).execute(conn).await?;
    Ok(())
}

/// A document of a node, when it is there.
///
/// # Errors
/// [`StoreError`].
pub async fn document_of(
    conn: &mut SqliteConnection,
    id: &str,
    which: Document,
) -> Result<Option<String>, StoreError> {
    let statement = match which {
        Document::Facts => "SELECT facts FROM documents WHERE node = ?",
        Document::Report => "SELECT report FROM documents WHERE node = ?",
        Document::Envelope => "SELECT envelope FROM documents WHERE node = ?",
    };
    let found: Option<Option<String>> = sqlx::query_scalar(statement).bind(id).fetch_optional(conn).await?;
    Ok(found.flatten())
}

/// Number of pending nodes of a site.
///
/// # Errors
/// [`StoreError`].
pub async fn count_pending(conn: &mut SqliteConnection, site: &str) -> Result<u64, StoreError> {
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM nodes WHERE site = ? AND state = 'pending'")
        .bind(site)
        .fetch_one(conn)
        .await?;
    Ok(unsigned(count))
}
