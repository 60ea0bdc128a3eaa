//! Rows of artifacts; the files lie beside the database under their digests.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::{StoreError, signed, unsigned};
use crate::clock::Seconds;

/// A file that hosts fetch by digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// SHA-256, 64 hex digits.
    pub sha256: String,
    /// What it is: `k3s`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `amd64` or `arm64`.
    pub arch: String,
    /// Length in bytes.
    pub size: u64,
    /// When it was added.
    pub added_at: Seconds,
}

fn artifact(row: &SqliteRow) -> Result<Artifact, StoreError> {
    Ok(Artifact {
        sha256: row.try_get("sha256")?,
        name: row.try_get("name")?,
        version: row.try_get("version")?,
        arch: row.try_get("arch")?,
        size: unsigned(row.try_get("size")?),
        added_at: row.try_get("added_at")?,
    })
}

/// Adds an artifact, in place of one of the same name, version and architecture.
///
/// # Errors
/// [`StoreError`].
pub async fn put(conn: &mut SqliteConnection, new: &Artifact) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT OR REPLACE INTO artifacts (sha256, name, version, arch, size, added_at) VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(&new.sha256)
    .bind(&new.name)
    .bind(&new.version)
    .bind(&new.arch)
    .bind(signed(new.size))
    .bind(new.added_at)
    .execute(conn)
    .await?;
    Ok(())
}

/// All artifacts, newest first.
///
/// # Errors
/// [`StoreError`].
pub async fn list(conn: &mut SqliteConnection) -> Result<Vec<Artifact>, StoreError> {
    let rows =
        sqlx::query("SELECT * FROM artifacts ORDER BY added_at DESC, rowid DESC").fetch_all(conn).await?;
    rows.iter().map(artifact).collect()
}
