//! Rows of retirements: hosts whose Node and member shall leave their cluster.
//!
//! Owns the mapping only. A row is added once for a node id and then only
//! confirmed: it says for good that nothing of that host is left.

use std::net::IpAddr;

use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::StoreError;
use crate::clock::Seconds;

/// A host that shall leave, or has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retirement {
    /// Its node id.
    pub node_id: String,
    /// Its machine room.
    pub site: String,
    /// Its node name.
    pub name: String,
    /// Its node IP.
    pub ip: IpAddr,
    /// It was a server.
    pub is_server: bool,
    /// Its etcd member, as it reported it last; empty when it reported none.
    pub member: String,
    /// Node id of the host that comes in its place.
    pub successor: Option<String>,
    /// When a person said so.
    pub ordered_at: Seconds,
    /// When a live server said that nothing of it is left.
    pub confirmed_at: Option<Seconds>,
}

fn retirement(row: &SqliteRow) -> Result<Retirement, StoreError> {
    let ip: &str = row.try_get("ip")?;
    Ok(Retirement {
        node_id: row.try_get("node")?,
        site: row.try_get("site")?,
        name: row.try_get("name")?,
        ip: ip.parse().map_err(|_| StoreError::Damaged("address"))?,
        is_server: row.try_get("is_server")?,
        member: row.try_get("member")?,
        successor: row.try_get("successor")?,
        ordered_at: row.try_get("ordered_at")?,
        confirmed_at: row.try_get("confirmed_at")?,
    })
}

/// Adds a retirement; one of the same node id stays as it is.
///
/// # Errors
/// [`StoreError`].
pub async fn add(conn: &mut SqliteConnection, new: &Retirement) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT OR IGNORE INTO retired (node, site, name, ip, is_server, member, successor, ordered_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&new.node_id)
    .bind(&new.site)
    .bind(&new.name)
    .bind(new.ip.to_string())
    .bind(new.is_server)
    .bind(&new.member)
    .bind(&new.successor)
    .bind(new.ordered_at)
    .execute(conn)
    .await?;
    Ok(())
}

/// Retirements of a site that nobody has confirmed, the oldest first.
///
/// # Errors
/// [`StoreError`].
pub async fn open(conn: &mut SqliteConnection, site: &str) -> Result<Vec<Retirement>, StoreError> {
    let rows = sqlx::query(
        "SELECT * FROM retired WHERE site = ? AND confirmed_at IS NULL ORDER BY ordered_at, node",
    )
    .bind(site)
    .fetch_all(conn)
    .await?;
    rows.iter().map(retirement).collect()
}

/// Whether a node came in the place of a retired one.
///
/// # Errors
/// [`StoreError`].
pub async fn is_successor(conn: &mut SqliteConnection, node_id: &str) -> Result<bool, StoreError> {
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM retired WHERE successor = ?")
        .bind(node_id)
        .fetch_one(conn)
        .await?;
    Ok(count > 0)
}

/// Whether the host of this key was retired: its life in the cluster is over.
///
/// # Errors
/// [`StoreError`].
pub async fn is_retired(conn: &mut SqliteConnection, node_id: &str) -> Result<bool, StoreError> {
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM retired WHERE node = ?")
        .bind(node_id)
        .fetch_one(conn)
        .await?;
    Ok(count > 0)
}

/// Confirms the open retirement of `node_id` in `site`; tells whether there was one.
///
/// # Errors
/// [`StoreError`].
pub async fn confirm(
    conn: &mut SqliteConnection,
    site: &str,
    node_id: &str,
    now: Seconds,
) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE retired SET confirmed_at = ? WHERE site = ? AND node = ? AND confirmed_at IS NULL",
    )
    .bind(now)
    .bind(site)
    .bind(node_id)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Ends all open retirements of a site: its cluster is no more.
///
/// # Errors
/// [`StoreError`].
pub async fn end_all(conn: &mut SqliteConnection, site: &str, now: Seconds) -> Result<(), StoreError> {
    sqlx::query("UPDATE retired SET confirmed_at = ? WHERE site = ? AND confirmed_at IS NULL")
        .bind(now)
        .bind(site)
        .execute(conn)
        .await?;
    Ok(())
}
