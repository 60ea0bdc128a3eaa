//! The database: all SQL of this service.
//!
//! Owns connections, transactions and the mapping of rows. Decides nothing:
//! callers load, decide by pure functions, and save inside one write
//! transaction. Commits are durable before anything is answered: a lost init
//! lease would fork a cluster.

pub mod artifacts;
pub mod audit;
pub mod nodes;
pub mod retired;
mod schema;
pub mod sites;
pub mod tokens;

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Sqlite, SqliteConnection, Transaction};
use thiserror::Error;

use crate::files::{self, FileError};

/// File of the database inside the data directory.
pub const FILE: &str = "central.db";
/// How long a writer waits for another one, for example the command line.
const BUSY: Duration = Duration::from_secs(15);
/// Connections that read.
const READERS: u32 = 4;

/// A failure of the database.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The file of the database cannot be made.
    #[error("prepare the database")]
    File(#[from] FileError),
    /// SQLite says no.
    #[error("database")]
    Sql(#[from] sqlx::Error),
    /// A stored value is not of its shape.
    #[error("the database holds a damaged {0}")]
    Damaged(&'static str),
    /// The database was written by a newer version.
    #[error("the database has schema {0}, which is newer than this program; run the newer edge-central")]
    Newer(i64),
}

/// The database.
#[derive(Debug, Clone)]
pub struct Store {
    readers: SqlitePool,
    /// One connection: the writers of this process queue here, in order, and
    /// only other processes meet SQLite's lock.
    writer: SqlitePool,
}

/// One write transaction; dropping it without commit changes nothing.
pub type Tx = Transaction<'static, Sqlite>;

impl Store {
    /// Opens the database in `dir`, making or upgrading it.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be opened or is of a newer version.
    pub async fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        files::private_file(&path)?;
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY);
        let writer = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
        let readers = SqlitePoolOptions::new().max_connections(READERS).connect_with(options).await?;
        let store = Self { readers, writer };
        schema::upgrade(&store).await?;
        Ok(store)
    }

    /// Begins a transaction that may write; waits for other writers.
    ///
    /// # Errors
    /// [`StoreError`] when another writer does not end in time.
    pub async fn write(&self) -> Result<Tx, StoreError> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// Begins a transaction that only reads, all of it at one moment.
    ///
    /// # Errors
    /// [`StoreError`] when there is no connection.
    pub async fn read(&self) -> Result<Tx, StoreError> {
        Ok(self.readers.begin().await?)
    }

    /// A counter that moves when anybody else, also another process, wrote.
    ///
    /// Only comparable between calls on the same connection.
    ///
    /// # Errors
    /// [`StoreError`] when SQLite says no.
    pub async fn data_version(conn: &mut SqliteConnection) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar("PRAGMA data_version").fetch_one(conn).await?)
    }

    /// A connection of one's own.
    ///
    /// # Errors
    /// [`StoreError`] when there is none.
    pub async fn connection(&self) -> Result<sqlx::pool::PoolConnection<Sqlite>, StoreError> {
        Ok(self.readers.acquire().await?)
    }

    /// Ends all connections; SQLite then folds the WAL into the database.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Commits a transaction.
///
/// # Errors
/// [`StoreError`] when it could not be made durable; nothing has changed then.
pub async fn commit(tx: Tx) -> Result<(), StoreError> {
    Ok(tx.commit().await?)
}

/// For SQLite, whose integers are signed.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// From SQLite, whose integers are signed.
pub(crate) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// Parses a stored JSON document.
pub(crate) fn document<T: serde::de::DeserializeOwned>(
    what: &'static str,
    text: &str,
) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|_| StoreError::Damaged(what))
}

/// Prints a value for storing it as a JSON document.
pub(crate) fn text<T: serde::Serialize>(what: &'static str, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|_| StoreError::Damaged(what))
}
