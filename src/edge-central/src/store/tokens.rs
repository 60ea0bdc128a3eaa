//! Rows of enrolment tokens.
//!
//! Owns counting: a token is used once per node, however often a claim is
//! repeated. Only the hash of a token is stored.

use edge_bootstrap::wire::Secret;
use edge_bootstrap::wire::secret::sha256_hex;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::{StoreError, signed, unsigned};
use crate::clock::Seconds;

/// An enrolment token, without its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Public name.
    pub id: String,
    /// The machine room that it is for.
    pub site: String,
    /// How many nodes it may bring in.
    pub uses: u64,
    /// How many it brought in.
    pub used: u64,
    /// When it stops working.
    pub expires_at: Seconds,
    /// Its nodes may become servers.
    pub allow_server: bool,
    /// A person ended it.
    pub revoked: bool,
    /// When it was made.
    pub created_at: Seconds,
}

impl Token {
    /// Whether it may bring in another node of `site` at `now`.
    #[must_use]
    pub fn is_valid(&self, site: &str, now: Seconds) -> bool {
        !self.revoked && self.site == site && now < self.expires_at && self.used < self.uses
    }
}

fn token(row: &SqliteRow) -> Result<Token, StoreError> {
    Ok(Token {
        id: row.try_get("id")?,
        site: row.try_get("site")?,
        uses: unsigned(row.try_get("uses")?),
        used: unsigned(row.try_get("used")?),
        expires_at: row.try_get("expires_at")?,
        allow_server: row.try_get("allow_server")?,
        revoked: row.try_get("revoked")?,
        created_at: row.try_get("created_at")?,
    })
}

/// Adds a token.
///
/// # Errors
/// [`StoreError`], also when there is no such site.
pub async fn add(conn: &mut SqliteConnection, new: &Token, secret: &Secret) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO tokens (id, site, hash, uses, expires_at, allow_server, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&new.id)
    .bind(&new.site)
    .bind(sha256_hex(secret.expose().as_bytes()))
    .bind(signed(new.uses))
    .bind(new.expires_at)
    .bind(new.allow_server)
    .bind(new.created_at)
    .execute(conn)
    .await?;
    Ok(())
}

/// The token with this text.
///
/// # Errors
/// [`StoreError`].
pub async fn by_secret(conn: &mut SqliteConnection, secret: &Secret) -> Result<Option<Token>, StoreError> {
    let row = sqlx::query(
        "SELECT *, (SELECT count(*) FROM token_uses WHERE token = tokens.id) AS used FROM tokens WHERE hash = ?",
    )
    .bind(sha256_hex(secret.expose().as_bytes()))
    .fetch_optional(conn)
    .await?;
    row.as_ref().map(token).transpose()
}

/// All tokens, oldest first.
///
/// # Errors
/// [`StoreError`].
pub async fn list(conn: &mut SqliteConnection) -> Result<Vec<Token>, StoreError> {
    let rows = sqlx::query(
        "SELECT *, (SELECT count(*) FROM token_uses WHERE token = tokens.id) AS used FROM tokens
         ORDER BY created_at, id",
    )
    .fetch_all(conn)
    .await?;
    rows.iter().map(token).collect()
}

/// Records that `node` used the token.
///
/// # Errors
/// [`StoreError`].
pub async fn use_once(
    conn: &mut SqliteConnection,
    token: &Token,
    node: &str,
    now: Seconds,
) -> Result<(), StoreError> {
    sqlx::query("INSERT OR IGNORE INTO token_uses (token, node, used_at) VALUES (?, ?, ?)")
        .bind(&token.id)
        .bind(node)
        .bind(now)
        .execute(conn)
        .await?;
    Ok(())
}

/// Ends a token; `false` when there is none with this id.
///
/// # Errors
/// [`StoreError`].
pub async fn revoke(conn: &mut SqliteConnection, id: &str) -> Result<bool, StoreError> {
    let done = sqlx::query("UPDATE tokens SET revoked = 1 WHERE id = ?").bind(id).execute(conn).await?;
    Ok(done.rows_affected() > 0)
}
