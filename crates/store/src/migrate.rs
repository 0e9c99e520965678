//! The tables are made and brought up to date at the start, by one process at a time; and the database knows its
//! master key again.

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
    db::{Database, connect_sqlite, create_file, text_of},
    error::OpenError,
    schema::{At, audit_checkpoints, audit_log, clusters, idempotency_keys, install, operations, users},
};

const SQLITE: EmbeddedMigrations = embed_migrations!("../../migrations/sqlite");
const POSTGRES: EmbeddedMigrations = embed_migrations!("../../migrations/postgres");

/// The advisory lock that serialises migrations on PostgreSQL: "pilothou" in ASCII.
const LOCK: i64 = 0x7069_6c6f_7468_6f75;

type PostgresConnection = AsyncConnectionWrapper<AsyncPgConnection>;

/// By what a database knows its master keys again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprints {
    /// Of the key in use.
    pub current: String,
    /// Of the key that all is being sealed with anew, while that goes on.
    pub next: Option<String>,
}

/// What stands in the way, before it is known of which database.
enum Failure {
    Cursor(OpenError),
    Query(QueryError),
    Io(io::Error),
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        Self::Query(error)
    }
}

impl Failure {
    fn migration(error: impl ToString) -> Self {
        Self::Cursor(OpenError::Migration(error.to_string()))
    }

    fn of(self, database: &Database) -> OpenError {
        match self {
            Self::Cursor(error) => error,
            Self::Query(error) => database.unusable(&error),
            Self::Io(error) => database.unusable(&error),
        }
    }
}

/// The same steps for each kind of connection.
macro_rules! steps {
    ($module:ident, $connection:ty, $backend:ty, $migrations:expr) => {
        mod $module {
            use super::*;

            /// The fingerprints that the database holds; none in an empty one.
            pub(super) fn fingerprints(conn: &mut $connection) -> Result<Option<Fingerprints>, Failure> {
                let known =
                    MigrationSource::<$backend>::migrations(&$migrations).map_err(Failure::migration)?;
                let applied = conn.applied_migrations().map_err(Failure::migration)?;
                let is_known = |version: &MigrationVersion<'_>| {
                    known.iter().any(|migration| migration.name().version() == *version)
                };
                if let Some(newer) = applied.iter().find(|version| !is_known(version)) {
                    return Err(Failure::Cursor(OpenError::Newer(newer.to_string())));
                }
                if applied.is_empty() {
                    return Ok(None);
                }
                let columns = (install::fingerprint, install::next_fingerprint);
                match install::table.find(1).select(columns).first(conn).optional()? {
                    Some((current, next)) => Ok(Some(Fingerprints { current, next })),
                    // a first start was killed before it said which key it uses
                    None if is_empty(conn)? => Ok(None),
                    None => Err(Failure::Cursor(OpenError::NoInstall)),
                }
            }

            /// Whether nothing was ever stored.
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

            /// Checks the keys before anything is changed, makes the tables, and keeps the key's fingerprint.
            pub(super) fn prepare(
                conn: &mut $connection,
                keyring: &dyn Keyring,
                at: Timestamp,
            ) -> Result<(), Failure> {
                let theirs = fingerprints(conn)?;
                if let Some(Fingerprints { current, next }) = &theirs {
                    keyring.keys(current).map_err(|_| Failure::Cursor(OpenError::OtherKey))?;
                    if let Some(next) = next {
                        keyring.keys(next).map_err(|_| Failure::Cursor(OpenError::NoNextKey))?;
                    }
                }
                conn.run_pending_migrations($migrations).map_err(Failure::migration)?;
                if theirs.is_none() {
                    let row = (
                        install::id.eq(1),
                        install::fingerprint.eq(keyring.current()),
                        install::created_at.eq(At(at)),
                    );
                    diesel::insert_into(install::table).values(row).execute(conn)?;
                }
                Ok(())
            }
        }
    };
}

steps!(sqlite, SqliteConnection, diesel::sqlite::Sqlite, SQLITE);
steps!(postgres, PostgresConnection, diesel::pg::Pg, POSTGRES);

/// The fingerprints that the database holds, none when it holds none or is not there yet; makes no file.
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

/// Makes the tables or brings them up to date, unless the database belongs to another key or a newer version.
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

/// A second name of the file would have a journal of its own: what one process has written, another one that opened the
/// file under the other name does not see, and overwrites. Symbolic links do no harm, SQLite resolves them.
fn check_hard_links(path: &Path) -> Result<(), Failure> {
    let links = fs::metadata(path).map_err(Failure::Io)?.nlink();
    if links > 1 {
        return Err(Failure::Cursor(OpenError::HardLinks(path.to_owned(), links)));
    }
    Ok(())
}

/// Under the write lock, taken before anything is looked at.
async fn on_sqlite<T: Send + 'static>(
    database: &Database,
    runtime: &Handle,
    work: impl FnOnce(&mut SqliteConnection) -> Result<T, Failure> + Send + 'static,
) -> Result<T, OpenError> {
    let Database::Sqlite(path) = database else { return Err(OpenError::UnknownAddress) };
    let path = text_of(path)?.to_owned();
    let of = database.clone();
    let task = move || {
        check_hard_links(Path::new(&path)).map_err(|failure| failure.of(&of))?;
        let mut conn = connect_sqlite(&path).map_err(|error| of.unusable(&error))?;
        conn.exclusive_transaction(work).map_err(|failure| failure.of(&of))
    };
    runtime.spawn_blocking(task).await.map_err(|error| database.unusable(&error))?
}

/// Under an advisory lock, which goes when the connection closes.
async fn on_postgres<T: Send + 'static>(
    database: &Database,
    runtime: &Handle,
    work: impl FnOnce(&mut PostgresConnection) -> Result<T, Failure> + Send + 'static,
) -> Result<T, OpenError> {
    let Database::Postgres(address) = database else { return Err(OpenError::UnknownAddress) };
    let (address, of) = (address.clone(), database.clone());
    let task = async move {
        let conn = address.connect().await.map_err(|error| of.unusable(&error))?;
        let task = move || {
            let mut conn = PostgresConnection::from(conn);
            diesel::sql_query(format!("SELECT pg_advisory_lock({LOCK})")).execute(&mut conn)?;
            work(&mut conn)
        };
        let done = tokio::task::spawn_blocking(task).await.map_err(|error| of.unusable(&error))?;
        done.map_err(|failure| failure.of(&of))
    };
    runtime.spawn(task).await.map_err(|error| database.unusable(&error))?
}
