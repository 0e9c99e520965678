//! The connections, and how a query runs on them: each body is written once and compiled for both databases.
//!
//! [`read!`], [`change!`] and [`transact!`] take a body of diesel queries, move it to where the connections are driven,
//! and run it there to its end, whatever becomes of the caller. A body moves what it needs: it cannot borrow `self`.
//! What differs between the databases is a local trait implemented for both [`Sqlite`] and [`Postgres`].

use std::{
    error::Error,
    fmt,
    fs::OpenOptions,
    future::{Future, ready},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use diesel::{
    Connection as _, ConnectionResult, SqliteConnection, connection::SimpleConnection as _,
    result::ConnectionError,
};
use diesel_async::{
    AsyncConnection, AsyncPgConnection, SimpleAsyncConnection as _,
    pooled_connection::{
        AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod, SetupCallback,
        deadpool::{Pool, PoolError},
    },
    sync_connection_wrapper::{SpawnBlocking, SyncConnectionWrapper},
};
use futures_util::{FutureExt, future::BoxFuture};
use pilothouse_core::Result;
use tokio::runtime::Handle;

use crate::{
    error::{OpenError, StoreError, in_one_line},
    postgres::PostgresAddress,
};

pub(crate) type Sqlite = SyncConnectionWrapper<SqliteConnection, Inline>;
pub(crate) type Postgres = AsyncPgConnection;

/// `busy_timeout` is first: a connection opened while the last one closes must wait for it, too.
const PRAGMAS: &str = "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; \
    PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;";
const SQLITE_READERS: usize = 4;
const POSTGRES_CONNECTIONS: usize = 16;

/// How long to wait for a free connection.
const ACQUIRE: Duration = Duration::from_secs(2);
/// How long to wait for PostgreSQL; SQLite waits five seconds for a lock, and for nothing else.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the data is.
#[derive(Clone)]
pub enum Database {
    /// A file, made when it is not there.
    Sqlite(PathBuf),
    /// A database of a PostgreSQL.
    Postgres(Box<PostgresAddress>),
}

impl Database {
    /// Reads an address: `sqlite:<path>`, `postgres://…` or `postgresql://…`, and the certificates that one names.
    ///
    /// # Errors
    /// [`OpenError::UnknownAddress`], [`OpenError::Address`].
    pub fn parse(address: &str) -> Result<Self, OpenError> {
        if address.starts_with("postgres://") || address.starts_with("postgresql://") {
            return Ok(Self::Postgres(Box::new(PostgresAddress::parse(address)?)));
        }
        match address.strip_prefix("sqlite:") {
            Some(path) if !path.is_empty() => {
                Ok(Self::Sqlite(path.strip_prefix("//").unwrap_or(path).into()))
            }
            _ => Err(OpenError::UnknownAddress),
        }
    }

    /// The sockets it may be reached at, as hosts (names or addresses) and ports; none of a file.
    pub fn sockets(&self) -> Vec<(String, u16)> {
        match self {
            Self::Sqlite(_) => Vec::new(),
            Self::Postgres(address) => address.sockets(),
        }
    }

    pub(crate) fn unusable(&self, error: &dyn Error) -> OpenError {
        OpenError::Unusable { database: self.to_string(), reason: in_one_line(error) }
    }
}

/// Without user, password and parameters.
impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "{}", path.display()),
            Self::Postgres(address) => address.fmt(f),
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The open database.
#[derive(Clone)]
pub(crate) enum Db {
    /// One writer: SQLite has one anyway, and in our queue it waits in order.
    Sqlite {
        runtime: Handle,
        readers: Pool<Sqlite>,
        writer: Pool<Sqlite>,
    },
    Postgres {
        runtime: Handle,
        pool: Pool<Postgres>,
    },
}

impl Db {
    /// The pools; nothing is connected yet.
    pub(crate) fn new(database: &Database, runtime: Handle) -> Result<Self, OpenError> {
        match database {
            Database::Sqlite(path) => {
                let path = text_of(path)?;
                let open = || -> SetupCallback<Sqlite> { Box::new(open_sqlite) };
                let pool = |size| Pool::builder(manager(path, open())).max_size(size).build();
                let failed = |error| database.unusable(&error);
                let readers = pool(SQLITE_READERS).map_err(failed)?;
                Ok(Self::Sqlite { runtime, readers, writer: pool(1).map_err(failed)? })
            }
            Database::Postgres(address) => {
                let address = address.clone();
                let open: SetupCallback<Postgres> = Box::new(move |_| open_postgres(address.clone()).boxed());
                let pool = Pool::builder(manager("", open)).max_size(POSTGRES_CONNECTIONS).build();
                Ok(Self::Postgres { runtime, pool: pool.map_err(|error| database.unusable(&error))? })
            }
        }
    }
}

/// A path as SQLite takes it.
pub(crate) fn text_of(path: &Path) -> Result<&str, OpenError> {
    path.to_str().ok_or(OpenError::UnknownAddress)
}

/// Makes the file of a SQLite database, readable by its owner only; SQLite gives its companions the same mode.
pub(crate) fn create_file(path: &Path) -> std::io::Result<()> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path).map(drop)
}

/// A SQLite connection, on this thread.
pub(crate) fn connect_sqlite(path: &str) -> ConnectionResult<SqliteConnection> {
    let mut connection = SqliteConnection::establish(path)?;
    connection.batch_execute(PRAGMAS).map_err(ConnectionError::CouldntSetupConfiguration)?;
    Ok(connection)
}

fn open_sqlite(path: &str) -> BoxFuture<'_, ConnectionResult<Sqlite>> {
    let path = path.to_owned();
    async move {
        let opened = tokio::task::spawn_blocking(move || connect_sqlite(&path)).await;
        opened.map_err(|error| ConnectionError::BadConnection(error.to_string()))?.map(Sqlite::new)
    }
    .boxed()
}

async fn open_postgres(address: Box<PostgresAddress>) -> ConnectionResult<Postgres> {
    let mut connection = address.connect().await?;
    let settings = "SET statement_timeout = '8s'; SET lock_timeout = '5s';";
    connection.batch_execute(settings).await.map_err(ConnectionError::CouldntSetupConfiguration)?;
    Ok(connection)
}

fn manager<C: AsyncConnection + 'static>(
    url: &str,
    open: SetupCallback<C>,
) -> AsyncDieselConnectionManager<C> {
    let mut config = ManagerConfig::default();
    // a broken connection is noticed when it is used; no query to find out before
    config.recycling_method = RecyclingMethod::Fast;
    config.custom_setup = open;
    AsyncDieselConnectionManager::new_with_config(url, config)
}

/// Runs a blocking call where it stands: the whole operation is on a blocking thread already. The wrapper's own way
/// panics when a query is dropped on a single-threaded runtime, which every actix worker is.
pub(crate) struct Inline;

impl SpawnBlocking for Inline {
    fn spawn_blocking<'a, R: Send + 'static>(
        &mut self,
        task: impl FnOnce() -> R + Send + 'static,
    ) -> BoxFuture<'a, Result<R, Box<dyn Error + Send + Sync>>> {
        ready(Ok(task())).boxed()
    }

    fn get_runtime() -> Self {
        Self
    }
}

/// Waits for a connection, but not for long.
pub(crate) async fn acquire<T>(
    connection: impl Future<Output = Result<T, PoolError>>,
) -> Result<T, StoreError> {
    Ok(tokio::time::timeout(ACQUIRE, connection).await.map_err(|_| StoreError::Busy)??)
}

/// One hop to a blocking thread for the whole operation.
pub(crate) async fn blocking<T: Send + 'static>(
    runtime: &Handle,
    operation: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T> {
    let handle = runtime.clone();
    let done = runtime.spawn_blocking(move || handle.block_on(operation)).await;
    Ok(done.map_err(StoreError::from)??)
}

/// A task of its own, on the runtime that drives the connections.
pub(crate) async fn detached<T: Send + 'static>(
    runtime: &Handle,
    operation: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T> {
    let operation =
        async { tokio::time::timeout(PATIENCE, operation).await.unwrap_or(Err(StoreError::Busy)) };
    let done = runtime.spawn(operation).await;
    Ok(done.map_err(StoreError::from)??)
}

/// Takes the write lock at once: a transaction that reads first and writes later fails with "locked".
pub(crate) async fn begin(conn: &mut Sqlite) -> Result<(), StoreError> {
    let begin = |conn: &mut SqliteConnection| {
        diesel::connection::AnsiTransactionManager::begin_transaction_sql(conn, "BEGIN IMMEDIATE")
    };
    Ok(conn.spawn_blocking(begin).await?)
}

/// Commits a success, rolls back a failure.
pub(crate) async fn end<T>(conn: &mut Sqlite, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
    use diesel::connection::{AnsiTransactionManager, TransactionManager};
    let end = if outcome.is_ok() {
        <AnsiTransactionManager as TransactionManager<SqliteConnection>>::commit_transaction
    } else {
        <AnsiTransactionManager as TransactionManager<SqliteConnection>>::rollback_transaction
    };
    let ended = conn.spawn_blocking(end).await;
    // the first failure is the one to tell; a connection left in a transaction leaves the pool
    outcome.and_then(|value| Ok(ended.map(|()| value)?))
}

/// Runs queries that only read.
macro_rules! read {
    ($db:expr, |$conn:ident| $body:expr) => {
        $crate::db::on_backend!($db, readers, |$conn| $body, $body)
    };
}

/// Runs one statement that writes.
macro_rules! change {
    ($db:expr, |$conn:ident| $body:expr) => {
        $crate::db::on_backend!($db, writer, |$conn| $body, $body)
    };
}

/// Runs statements that all happen, or none.
macro_rules! transact {
    ($db:expr, |$conn:ident| $body:expr) => {
        $crate::db::on_backend!(
            $db,
            writer,
            |$conn| {
                $crate::db::begin($conn).await?;
                let outcome = async { $body }.await;
                $crate::db::end($conn, outcome).await
            },
            $conn
                .transaction(
                    async move |$conn: &mut $crate::db::Postgres| -> Result<_, $crate::error::StoreError> {
                        $body
                    },
                )
                .await
        )
    };
}

/// As [`transact!`], and once more where PostgreSQL ended the first attempt as the victim of a deadlock. The body runs
/// twice then, so it must not use up what it captures.
macro_rules! transact_retried {
    ($db:expr, |$conn:ident| $body:expr) => {
        $crate::db::on_backend!(
            $db,
            writer,
            |$conn| {
                $crate::db::begin($conn).await?;
                let outcome = async { $body }.await;
                $crate::db::end($conn, outcome).await
            },
            {
                let first = $conn
                    .transaction(
                        async |$conn: &mut $crate::db::Postgres| -> Result<_, $crate::error::StoreError> {
                            $body
                        },
                    )
                    .await;
                match first {
                    Err(error) if error.is_deadlock() => $conn
                        .transaction(
                            async |$conn: &mut $crate::db::Postgres| -> Result<_, $crate::error::StoreError> {
                                $body
                            },
                        )
                        .await,
                    ended => ended,
                }
            }
        )
    };
}

macro_rules! on_backend {
    ($db:expr, $lane:ident, |$conn:ident| $sqlite:expr, $postgres:expr) => {
        match &$db {
            $crate::db::Db::Sqlite { runtime, $lane: pool, .. } => {
                // out here, so that a caller that gives up leaves the queue
                let mut connection = $crate::db::acquire(pool.get()).await?;
                let operation = async move {
                    let $conn = &mut *connection;
                    $sqlite
                };
                $crate::db::blocking(runtime, operation).await
            }
            $crate::db::Db::Postgres { runtime, pool } => {
                let pool = pool.clone();
                let operation = async move {
                    // in here, so that a new connection is driven by `runtime`, not by the caller's
                    let mut connection = $crate::db::acquire(pool.get()).await?;
                    let $conn = &mut *connection;
                    $postgres
                };
                $crate::db::detached(runtime, operation).await
            }
        }
    };
}

pub(crate) use {change, on_backend, read, transact, transact_retried};
