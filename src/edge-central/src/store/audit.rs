//! The audit log: who changed what, when. Rows are only ever added.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::{StoreError, signed};
use crate::clock::Seconds;

/// One entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// When.
    pub at: Seconds,
    /// `host`, `policy`, or the login name of a person.
    pub actor: String,
    /// What was done, for example `claim`, `lease-grant`.
    pub action: String,
    /// The site, when it concerns one.
    pub site: Option<String>,
    /// The node id, when it concerns one.
    pub node: Option<String>,
    /// For people; never a secret.
    pub detail: String,
}

fn entry(row: &SqliteRow) -> Result<Entry, StoreError> {
    Ok(Entry {
        at: row.try_get("at")?,
        actor: row.try_get("actor")?,
        action: row.try_get("action")?,
        site: row.try_get("site")?,
        node: row.try_get("node")?,
        detail: row.try_get("detail")?,
    })
}

/// Adds an entry.
///
/// # Errors
/// [`StoreError`].
pub async fn add(conn: &mut SqliteConnection, new: &Entry) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO audit (at, actor, action, site, node, detail) VALUES (?, ?, ?, ?, ?, ?)")
        .bind(new.at)
        .bind(&new.actor)
        .bind(&new.action)
        .bind(&new.site)
        .bind(&new.node)
        .bind(&new.detail)
        .execute(conn)
        .await?;
    Ok(())
}

/// The newest `limit` entries, oldest of them first.
///
/// # Errors
/// [`StoreError`].
pub async fn newest(conn: &mut SqliteConnection, limit: u64) -> Result<Vec<Entry>, StoreError> {
    let rows = sqlx::query("SELECT * FROM (SELECT * FROM audit ORDER BY id DESC LIMIT ?) ORDER BY id")
        .bind(signed(limit))
        .fetch_all(conn)
        .await?;
    rows.iter().map(entry).collect()
}
