//! Tables, and how an older database becomes a newer one.
//!
//! Owns the list of steps; step N takes `user_version` N-1 to N. Steps are
//! only ever added.

use sqlx::SqliteConnection;

use super::{Store, StoreError, commit};

/// One step per schema version.
const STEPS: &[&str] = &[FIRST, COPIES, MOVES, RETIRED, FORMER_TOKEN];

const FIRST: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE sites (
    name TEXT PRIMARY KEY,
    settings TEXT NOT NULL,
    epoch INTEGER NOT NULL DEFAULT 1,
    server_token TEXT NOT NULL,
    agent_token TEXT NOT NULL,
    ca_hash TEXT,
    lease_node TEXT,
    revision INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX sites_by_revision ON sites (revision);
CREATE TABLE nodes (
    id TEXT PRIMARY KEY,
    ordinal INTEGER NOT NULL UNIQUE,
    site TEXT NOT NULL REFERENCES sites (name),
    state TEXT NOT NULL CHECK (state IN ('pending', 'claimed', 'revoked')),
    name TEXT NOT NULL,
    ip TEXT NOT NULL,
    server_ok INTEGER NOT NULL,
    forced_role TEXT,
    role TEXT,
    role_order INTEGER NOT NULL,
    code TEXT,
    pending_reason TEXT,
    pending_of TEXT,
    hardware TEXT NOT NULL,
    agent_version TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    claimed_at INTEGER,
    up_since INTEGER NOT NULL,
    last_contact INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    body_digest TEXT,
    issued_revision INTEGER NOT NULL,
    report_sequence INTEGER NOT NULL,
    report_generation INTEGER NOT NULL,
    reported_at INTEGER,
    phase TEXT,
    verdict TEXT,
    ca_hash TEXT,
    ca_mismatch TEXT,
    init_started INTEGER,
    etcd_member TEXT
) STRICT;
CREATE INDEX nodes_by_site ON nodes (site, ordinal);
CREATE UNIQUE INDEX nodes_by_code ON nodes (code) WHERE code IS NOT NULL;
CREATE TABLE documents (
    node TEXT PRIMARY KEY REFERENCES nodes (id),
    facts TEXT,
    report TEXT,
    envelope TEXT
) STRICT;
CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    site TEXT NOT NULL REFERENCES sites (name),
    hash TEXT NOT NULL UNIQUE,
    uses INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    allow_server INTEGER NOT NULL,
    revoked INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL
) STRICT;
CREATE TABLE token_uses (
    token TEXT NOT NULL REFERENCES tokens (id),
    node TEXT NOT NULL,
    used_at INTEGER NOT NULL,
    PRIMARY KEY (token, node)
) STRICT;
CREATE TABLE artifacts (
    sha256 TEXT NOT NULL,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    arch TEXT NOT NULL,
    size INTEGER NOT NULL,
    added_at INTEGER NOT NULL,
    PRIMARY KEY (name, version, arch)
) STRICT;
CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    site TEXT,
    node TEXT,
    detail TEXT NOT NULL
) STRICT;
";

/// Hosts that run on a copy of a node's disk, each boot once, and the newest of them.
const COPIES: &str = "
CREATE TABLE copies (
    node TEXT NOT NULL REFERENCES nodes (id),
    boot_id TEXT NOT NULL,
    PRIMARY KEY (node, boot_id)
) STRICT, WITHOUT ROWID;
ALTER TABLE nodes ADD COLUMN copy_boot_id TEXT;
ALTER TABLE nodes ADD COLUMN copy_seen_at INTEGER;
";

/// A node that a person moved to another site.
const MOVES: &str = "
ALTER TABLE nodes ADD COLUMN rejoin INTEGER NOT NULL DEFAULT 0;
ALTER TABLE nodes ADD COLUMN former_sites TEXT NOT NULL DEFAULT '[]';
";

/// Hosts whose Node and member shall leave their cluster, or have left it.
const RETIRED: &str = "
CREATE TABLE retired (
    node TEXT PRIMARY KEY REFERENCES nodes (id),
    site TEXT NOT NULL REFERENCES sites (name),
    name TEXT NOT NULL,
    ip TEXT NOT NULL,
    is_server INTEGER NOT NULL,
    member TEXT NOT NULL,
    successor TEXT REFERENCES nodes (id),
    ordered_at INTEGER NOT NULL,
    confirmed_at INTEGER
) STRICT;
CREATE INDEX retired_by_site ON retired (site, confirmed_at);
";

/// The server token that a site had before the one that it has.
const FORMER_TOKEN: &str = "
ALTER TABLE sites ADD COLUMN previous_server_token TEXT;
";

/// Brings the database to this program's schema; one that has it is only read.
pub(super) async fn upgrade(store: &Store) -> Result<(), StoreError> {
    if missing_steps(&mut *store.read().await?).await?.is_empty() {
        return Ok(());
    }
    let mut tx = store.write().await?;
    let steps = missing_steps(&mut tx).await?;
    for step in steps {
        sqlx::raw_sql(*step).execute(&mut *tx).await?;
    }
    set_version(&mut tx).await?;
    commit(tx).await
}

async fn missing_steps(conn: &mut SqliteConnection) -> Result<&'static [&'static str], StoreError> {
    let found: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(conn).await?;
    let done = usize::try_from(found).map_err(|_| StoreError::Newer(found))?;
    STEPS.get(done..).ok_or(StoreError::Newer(found))
}

/// A pragma takes no bound values; the number is ours.
async fn set_version(tx: &mut super::Tx) -> Result<(), StoreError> {
    let statement = format!("PRAGMA user_version = {}", STEPS.len());
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut **tx).await?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_newer_database_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        sqlx::raw_sql("PRAGMA user_version = 99")
            .execute(&mut *store.connection().await.unwrap())
            .await
            .unwrap();
        store.close().await;
        assert!(matches!(Store::open(dir.path()).await, Err(StoreError::Newer(99))));
    }
}
