//! Rows of sites, and of what the service remembers about itself.
//!
//! Owns the revision: it rises with every write that may change an assignment
//! of the site, and wakes waiting hosts.

use edge_bootstrap::wire::Secret;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::{StoreError, document, signed, text, unsigned};
use crate::clock::Seconds;
use crate::settings::SiteSettings;

/// One machine room.
#[derive(Debug, Clone)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// What a person set.
    pub settings: SiteSettings,
    /// Number of the datastore's life.
    pub epoch: u64,
    /// Password of the server token.
    pub server_token: Secret,
    /// The one before it, which the servers still hold until they have changed it.
    pub previous_server_token: Option<Secret>,
    /// Password of the agent token.
    pub agent_token: Secret,
    /// Hash of the cluster's CA, once the lease's holder reported it.
    pub ca_hash: Option<String>,
    /// Node id of the holder of the init lease.
    pub lease: Option<String>,
    /// Rises with every change that may change an assignment.
    pub revision: i64,
    /// When it was added.
    pub created_at: Seconds,
}

fn site(row: &SqliteRow) -> Result<Site, StoreError> {
    Ok(Site {
        name: row.try_get("name")?,
        settings: document("site settings", row.try_get("settings")?)?,
        epoch: unsigned(row.try_get("epoch")?),
        server_token: Secret::new(row.try_get::<String, _>("server_token")?),
        previous_server_token: row.try_get::<Option<String>, _>("previous_server_token")?.map(Secret::new),
        agent_token: Secret::new(row.try_get::<String, _>("agent_token")?),
        ca_hash: row.try_get("ca_hash")?,
        lease: row.try_get("lease_node")?,
        revision: row.try_get("revision")?,
        created_at: row.try_get("created_at")?,
    })
}

/// Adds a site.
///
/// # Errors
/// [`StoreError`], also when the name is taken.
pub async fn add(conn: &mut SqliteConnection, new: &Site) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO sites (name, settings, epoch, server_token, agent_token, revision, created_at)
         VALUES (?, ?, ?, ?, ?, (SELECT coalesce(max(revision), 0) + 1 FROM sites), ?)",
    )
    .bind(&new.name)
    .bind(text("site settings", &new.settings)?)
    .bind(signed(new.epoch))
    .bind(new.server_token.expose())
    .bind(new.agent_token.expose())
    .bind(new.created_at)
    .execute(conn)
    .await?;
    Ok(())
}

/// One site by name.
///
/// # Errors
/// [`StoreError`].
pub async fn get(conn: &mut SqliteConnection, name: &str) -> Result<Option<Site>, StoreError> {
    let row = sqlx::query("SELECT * FROM sites WHERE name = ?").bind(name).fetch_optional(conn).await?;
    row.as_ref().map(site).transpose()
}

/// All sites by name.
///
/// # Errors
/// [`StoreError`].
pub async fn list(conn: &mut SqliteConnection) -> Result<Vec<Site>, StoreError> {
    let rows = sqlx::query("SELECT * FROM sites ORDER BY name").fetch_all(conn).await?;
    rows.iter().map(site).collect()
}

/// Writes settings, epoch, CA hash and lease, and raises the revision.
///
/// # Errors
/// [`StoreError`].
pub async fn save(conn: &mut SqliteConnection, changed: &Site) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE sites SET settings = ?, epoch = ?, ca_hash = ?, lease_node = ?, server_token = ?,
         previous_server_token = ? WHERE name = ?",
    )
    .bind(text("site settings", &changed.settings)?)
    .bind(signed(changed.epoch))
    .bind(&changed.ca_hash)
    .bind(&changed.lease)
    .bind(changed.server_token.expose())
    .bind(changed.previous_server_token.as_ref().map(Secret::expose))
    .bind(&changed.name)
    .execute(&mut *conn)
    .await?;
    touch(conn, &changed.name).await
}

/// Raises the revision of a site.
///
/// # Errors
/// [`StoreError`].
pub async fn touch(conn: &mut SqliteConnection, name: &str) -> Result<(), StoreError> {
    sqlx::query("UPDATE sites SET revision = (SELECT max(revision) + 1 FROM sites) WHERE name = ?")
        .bind(name)
        .execute(conn)
        .await?;
    Ok(())
}

/// Raises the revision of every site: an artifact or the service's URL changed.
///
/// # Errors
/// [`StoreError`].
pub async fn touch_all(conn: &mut SqliteConnection) -> Result<(), StoreError> {
    sqlx::query("UPDATE sites SET revision = (SELECT max(revision) + 1 FROM sites)").execute(conn).await?;
    Ok(())
}

/// Name and revision of the sites that changed after `revision`.
///
/// # Errors
/// [`StoreError`].
pub async fn changed_after(
    conn: &mut SqliteConnection,
    revision: i64,
) -> Result<Vec<(String, i64)>, StoreError> {
    let rows = sqlx::query("SELECT name, revision FROM sites WHERE revision > ?")
        .bind(revision)
        .fetch_all(conn)
        .await?;
    rows.iter().map(|row| Ok((row.try_get("name")?, row.try_get("revision")?))).collect()
}

/// Names of sites where time alone may decide something: a host without a role,
/// or an agent that may become a server.
///
/// # Errors
/// [`StoreError`].
pub async fn undecided(conn: &mut SqliteConnection) -> Result<Vec<String>, StoreError> {
    let rows = sqlx::query_scalar(
        "SELECT DISTINCT site FROM nodes
         WHERE state = 'claimed' AND forced_role IS NULL AND (role IS NULL OR (server_ok = 1 AND role = 'agent'))",
    );
    Ok(rows.fetch_all(conn).await?)
}

/// Remembers `value` under `key` and tells whether it differs from before.
///
/// # Errors
/// [`StoreError`].
pub async fn remember(conn: &mut SqliteConnection, key: &str, value: &str) -> Result<bool, StoreError> {
    let written = sqlx::query(
        "INSERT INTO meta (key, value) VALUES (?, ?)
         ON CONFLICT (key) DO UPDATE SET value = excluded.value WHERE value <> excluded.value",
    )
    .bind(key)
    .bind(value)
    .execute(conn)
    .await?;
    Ok(written.rows_affected() > 0)
}

/// What was remembered under `key`.
///
/// # Errors
/// [`StoreError`].
pub async fn remembered(conn: &mut SqliteConnection, key: &str) -> Result<Option<String>, StoreError> {
    Ok(sqlx::query_scalar("SELECT value FROM meta WHERE key = ?").bind(key).fetch_optional(conn).await?)
}
