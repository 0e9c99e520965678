//! Migrations at startup, run by one process at a time, and the check that the master key matches the database.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path, sync::Arc};

use diesel::{
    ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, RunQueryDsl as _, SqliteConnection,
    migration::{MigrationSource, MigrationVersion},
    result::Error as QueryError,
};
use diesel_async::{AsyncPgConnection, async_connection_wrapper::AsyncConnectionWrapper};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use jiff::Timestamp;
use pilothouse_core::seal::Keyring;
use tokio::runtime::Handle;

use crate::{
    db::{Database, connect_sqlite, create_file, path_str},
    error::OpenError,
    schema::{At, audit_checkpoints, audit_log, clusters, idempotency_keys, install, operations, users},
};

const SQLITE: EmbeddedMigrations = embed_migrations!("../../migrations/sqlite");
const POSTGRES: EmbeddedMigrations = embed_migrations!("../../migrations/postgres");

/// Advisory lock that serialises migrations on PostgreSQL: "pilothou" in ASCII.
const ADVISORY_LOCK: i64 = 0x7069_6c6f_7468_6f75;

type PostgresConnection = AsyncConnectionWrapper<AsyncPgConnection>;

/// Fingerprints of the master keys of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprints {
    /// Fingerprint of the active key.
    pub active: String,
    /// Fingerprint of the next key while a key rotation runs.
    pub next: Option<String>,
}

/// Error of a migration step, without the name of the database.
enum MigrateError {
    Open(OpenError),
    Query(QueryError),
    Io(io::Error),
}

impl From<QueryError> for MigrateError {
    fn from(error: QueryError) -> Self {
        Self::Query(error)
    }
}

impl MigrateError {
    fn migration(error: impl ToString) -> Self {
        Self::Open(OpenError::Migration(error.to_string()))
    }

    fn into_open_error(self, database: &Database) -> OpenError {
        match self {
            Self::Open(error) => error,
            Self::Query(error) => database.unusable(&error),
            Self::Io(error) => database.unusable(&error),
        }
    }
}

/// Implements the steps for one type of connection.
macro_rules! impl_steps {
    ($module:ident, $connection:ty, $backend:ty, $migrations:expr) => {
        mod $module {
            use super::*;

            /// The fingerprints in the database; `None` in an empty one.
            pub(super) fn fingerprints(conn: &mut $connection) -> Result<Option<Fingerprints>, MigrateError> {
                let known =
                    MigrationSource::<$backend>::migrations(&$migrations).map_err(MigrateError::migration)?;
                let applied = conn.applied_migrations().map_err(MigrateError::migration)?;
                let is_known = |version: &MigrationVersion<'_>| {
                    known.iter().any(|migration| migration.name().version() == *version)
                };
                if let Some(newer) = applied.iter().find(|version| !is_known(version)) {
                    return Err(MigrateError::Open(OpenError::Newer(newer.to_string())));
                }
                if applied.is_empty() {
                    return Ok(None);
                }
                let columns = (install::fingerprint, install::next_fingerprint);
                match install::table.find(1).select(columns).first(conn).optional()? {
                    Some((active, next)) => Ok(Some(Fingerprints { active, next })),
                    // the first start was killed before it stored the fingerprint
                    None if is_empty(conn)? => Ok(None),
                    None => Err(MigrateError::Open(OpenError::NoInstall)),
                }
            }

            /// Whether the tables hold no data.
            fn is_empty(conn: &mut $connection) -> Result<bool, QueryError> {
                let rows: [i64; 6] = [
                    users::table.count().get_result(conn)?,
                    clusters::table.count().get_result(conn)?,
                    operations::table.count().get_result(conn)?,
                    audit_log::table.count().get_result(conn)?,
                    audit_checkpoints::table.count().get_result(conn)?,
                    idempotency_keys::table.count().get_result(conn)?,
                ];
                Ok(rows.iter().all(|rows| *rows == 0))
            }

            /// Checks the keys before any change, then migrates and stores the fingerprint of the key.
            pub(super) fn prepare(
                conn: &mut $connection,
                keyring: &dyn Keyring,
                at: Timestamp,
            ) -> Result<(), MigrateError> {
                let stored = fingerprints(conn)?;
                if let Some(Fingerprints { active, next }) = &stored {
                    keyring.keys(active).map_err(|_| MigrateError::Open(OpenError::OtherKey))?;
                    if let Some(next) = next {
                        keyring.keys(next).map_err(|_| MigrateError::Open(OpenError::NoNextKey))?;
                    }
                }
                conn.run_pending_migrations($migrations).map_err(MigrateError::migration)?;
                if stored.is_none() {
                    let row = (
                        install::id.eq(1),
                        install::fingerprint.eq(keyring.active()),
                        install::created_at.eq(At(at)),
                    );
                    diesel::insert_into(install::table).values(row).execute(conn)?;
                }
                Ok(())
            }
        }
    };
}

impl_steps!(sqlite, SqliteConnection, diesel::sqlite::Sqlite, SQLITE);
impl_steps!(postgres, PostgresConnection, diesel::pg::Pg, POSTGRES);

/// The fingerprints in the database; `None` when it is empty or does not exist. Creates no file.
pub(crate) async fn fingerprints(
    database: &Database,
    runtime: &Handle,
) -> Result<Option<Fingerprints>, OpenError> {
    match database {
        Database::Sqlite(path) if !path.exists() => Ok(None),
        Database::Sqlite(_) => on_sqlite(database, runtime, sqlite::fingerprints).await,
        Database::Postgres(_) => on_postgres(database, runtime, postgres::fingerprints).await,
    }
}

/// Runs pending migrations, unless the database belongs to another key or a newer version.
pub(crate) async fn prepare(
    database: &Database,
    runtime: &Handle,
    keyring: Arc<dyn Keyring>,
    at: Timestamp,
) -> Result<(), OpenError> {
    match database {
        Database::Sqlite(path) => {
            create_file(path).map_err(|error| database.unusable(&error))?;
            on_sqlite(database, runtime, move |conn| sqlite::prepare(conn, &*keyring, at)).await
        }
        Database::Postgres(_) => {
            on_postgres(database, runtime, move |conn| postgres::prepare(conn, &*keyring, at)).await
        }
    }
}

/// Refuses a file with a second hard link. SQLite would use another journal for that name: a process that opened the
/// file by one name does not read, and overwrites, the data that a process has written by the other. Symbolic links
/// are safe, because SQLite resolves them.
fn check_hard_links(path: &Path) -> Result<(), MigrateError> {
    let links = fs::metadata(path).map_err(MigrateError::Io)?.nlink();
    if links > 1 {
        return Err(MigrateError::Open(OpenError::HardLinks(path.to_owned(), links)));
    }
    Ok(())
}

/// Runs a step in a transaction that takes the write lock before the first read.
async fn on_sqlite<T: Send + 'static>(
    database: &Database,
    runtime: &Handle,
    work: impl FnOnce(&mut SqliteConnection) -> Result<T, MigrateError> + Send + 'static,
) -> Result<T, OpenError> {
    let Database::Sqlite(path) = database else { return Err(OpenError::UnknownAddress) };
    let path = path_str(path)?.to_owned();
    let target = database.clone();
    let task = move || {
        check_hard_links(Path::new(&path)).map_err(|error| error.into_open_error(&target))?;
        let mut conn = connect_sqlite(&path).map_err(|error| target.unusable(&error))?;
        conn.exclusive_transaction(work).map_err(|error| error.into_open_error(&target))
    };
    runtime.spawn_blocking(task).await.map_err(|error| database.unusable(&error))?
}

/// Runs a step under an advisory lock, which is released when the connection closes.
async fn on_postgres<T: Send + 'static>(
    database: &Database,
    runtime: &Handle,
    work: impl FnOnce(&mut PostgresConnection) -> Result<T, MigrateError> + Send + 'static,
) -> Result<T, OpenError> {
    let Database::Postgres(address) = database else { return Err(OpenError::UnknownAddress) };
    let (address, target) = (address.clone(), database.clone());
    let task = async move {
        let conn = address.connect().await.map_err(|error| target.unusable(&error))?;
        let task = move || {
            let mut conn = PostgresConnection::from(conn);
            diesel::sql_query(format!("SELECT pg_advisory_lock({ADVISORY_LOCK})")).execute(&mut conn)?;
            work(&mut conn)
        };
        let done = tokio::task::spawn_blocking(task).await.map_err(|error| target.unusable(&error))?;
        done.map_err(|error| error.into_open_error(&target))
    };
    runtime.spawn(task).await.map_err(|error| database.unusable(&error))?
}
