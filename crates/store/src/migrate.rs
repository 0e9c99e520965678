//! The tables are made and brought up to date at the start, by one process at a time; and the database knows its
//! master key again.

use diesel::{
    ExpressionMethods as _, QueryDsl as _, RunQueryDsl as _, SqliteConnection,
    migration::{MigrationSource, MigrationVersion},
    result::Error as QueryError,
};
use diesel_async::{AsyncPgConnection, async_connection_wrapper::AsyncConnectionWrapper};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use jiff::Timestamp;
use tokio::runtime::Handle;

use crate::{
    db::{Database, connect_sqlite, create_file, text_of},
    error::OpenError,
    schema::{At, install},
};

const SQLITE: EmbeddedMigrations = embed_migrations!("../../migrations/sqlite");
const POSTGRES: EmbeddedMigrations = embed_migrations!("../../migrations/postgres");

/// The advisory lock that serialises migrations on PostgreSQL: "pilothou" in ASCII.
const LOCK: i64 = 0x7069_6c6f_7468_6f75;

type PostgresConnection = AsyncConnectionWrapper<AsyncPgConnection>;

/// What stands in the way, before it is known of which database.
enum Failure {
    Told(OpenError),
    Query(QueryError),
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        Self::Query(error)
    }
}

impl Failure {
    fn migration(error: impl ToString) -> Self {
        Self::Told(OpenError::Migration(error.to_string()))
    }

    fn of(self, database: &Database) -> OpenError {
        match self {
            Self::Told(error) => error,
            Self::Query(error) => database.unusable(&error),
        }
    }
}

/// The same steps for each kind of connection.
macro_rules! steps {
    ($module:ident, $connection:ty, $backend:ty, $migrations:expr) => {
        mod $module {
            use super::*;

            /// The fingerprint of the key that the database was made with; none in an empty database.
            pub(super) fn fingerprint(conn: &mut $connection) -> Result<Option<String>, Failure> {
                let known =
                    MigrationSource::<$backend>::migrations(&$migrations).map_err(Failure::migration)?;
                let applied = conn.applied_migrations().map_err(Failure::migration)?;
                let is_known = |version: &MigrationVersion<'_>| {
                    known.iter().any(|migration| migration.name().version() == *version)
                };
                if let Some(newer) = applied.iter().find(|version| !is_known(version)) {
                    return Err(Failure::Told(OpenError::Newer(newer.to_string())));
                }
                if applied.is_empty() {
                    return Ok(None);
                }
                Ok(Some(install::table.find(1).select(install::fingerprint).first(conn)?))
            }

            /// Checks the key before anything is changed, makes the tables, and keeps the key's fingerprint.
            pub(super) fn prepare(conn: &mut $connection, ours: &str, at: Timestamp) -> Result<(), Failure> {
                let theirs = fingerprint(conn)?;
                if theirs.as_ref().is_some_and(|theirs| theirs != ours) {
                    return Err(Failure::Told(OpenError::OtherKey));
                }
                conn.run_pending_migrations($migrations).map_err(Failure::migration)?;
                if theirs.is_none() {
                    let row =
                        (install::id.eq(1), install::fingerprint.eq(ours), install::created_at.eq(At(at)));
                    diesel::insert_into(install::table).values(row).execute(conn)?;
                }
                Ok(())
            }
        }
    };
}

steps!(sqlite, SqliteConnection, diesel::sqlite::Sqlite, SQLITE);
steps!(postgres, PostgresConnection, diesel::pg::Pg, POSTGRES);

/// The fingerprint that the database holds, none when it holds none or is not there yet; makes no file.
pub(crate) async fn fingerprint(database: &Database, runtime: &Handle) -> Result<Option<String>, OpenError> {
    match database {
        Database::Sqlite(path) if !path.exists() => Ok(None),
        Database::Sqlite(_) => on_sqlite(database, runtime, sqlite::fingerprint).await,
        Database::Postgres(_) => on_postgres(database, runtime, postgres::fingerprint).await,
    }
}

/// Makes the tables or brings them up to date, unless the database belongs to another key or a newer version.
pub(crate) async fn prepare(
    database: &Database,
    runtime: &Handle,
    fingerprint: &str,
    at: Timestamp,
) -> Result<(), OpenError> {
    let ours = fingerprint.to_owned();
    match database {
        Database::Sqlite(path) => {
            create_file(path).map_err(|error| database.unusable(&error))?;
            on_sqlite(database, runtime, move |conn| sqlite::prepare(conn, &ours, at)).await
        }
        Database::Postgres(_) => {
            on_postgres(database, runtime, move |conn| postgres::prepare(conn, &ours, at)).await
        }
    }
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
