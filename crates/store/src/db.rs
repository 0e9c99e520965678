//! Connection pools and the macros that run queries on them. Each query body is written once and compiled for both
//! databases.
//!
//! [`read!`], [`change!`] and [`transact!`] take a body of diesel queries, move it to the runtime that drives the
//! connections, and run it to its end, also if the caller is cancelled. A body owns what it uses: it cannot borrow
//! `self`. Differences between the databases are in local traits, implemented for [`Sqlite`] and for [`Postgres`].

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

pub(crate) type Sqlite = SyncConnectionWrapper<SqliteConnection, InlineExecutor>;
pub(crate) type Postgres = AsyncPgConnection;

/// Settings of every SQLite connection. `busy_timeout` comes first, because opening a connection must wait while
/// another one closes, too.
/// `secure_delete` overwrites deleted data with zeros, so no page holds a sealed value that was deleted or replaced
/// (see `scrub`).
const PRAGMAS: &str = "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; \
    PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON;";
/// Settings of every PostgreSQL connection. A commit is acknowledged only after PostgreSQL has flushed it. If the
/// server, the role or the database sets `synchronous_commit = off`, a crash loses the last commits, so that value is
/// replaced. Other values flush first, and differ only in how long they wait for standbys; they are kept.
const POSTGRES_SETTINGS: &str = "SET statement_timeout = '8s'; SET lock_timeout = '5s'; \
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';";
const MAX_SQLITE_READERS: usize = 4;
const MAX_POSTGRES_CONNECTIONS: usize = 16;

/// Maximum wait for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum duration of an operation on PostgreSQL. SQLite waits at most five seconds for a lock, and for nothing
/// else.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(10);

/// The location of the database.
#[derive(Clone)]
pub enum Database {
    /// A SQLite file, created if it does not exist.
    Sqlite(PathBuf),
    /// A PostgreSQL database.
    Postgres(Box<PostgresAddress>),
}

impl Database {
    /// Parses an address: `sqlite:<path>`, `postgres://…` or `postgresql://…`. Loads the certificates that a
    /// PostgreSQL address names.
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

    /// Hosts (names or addresses) and ports of the database server. Empty for SQLite.
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

/// Shows no user, password or parameters.
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

/// The connection pools of an open database.
#[derive(Clone)]
pub(crate) enum Db {
    /// One writer connection: SQLite allows one writer at a time, and the pool's queue is fair.
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
    /// Creates the pools. Connections are opened on demand.
    pub(crate) fn new(database: &Database, runtime: Handle) -> Result<Self, OpenError> {
        match database {
            Database::Sqlite(path) => {
                let path = path_str(path)?;
                let open = || -> SetupCallback<Sqlite> { Box::new(open_sqlite) };
                let pool = |size| Pool::builder(manager(path, open())).max_size(size).build();
                let failed = |error| database.unusable(&error);
                let readers = pool(MAX_SQLITE_READERS).map_err(failed)?;
                Ok(Self::Sqlite { runtime, readers, writer: pool(1).map_err(failed)? })
            }
            Database::Postgres(address) => {
                let address = address.clone();
                let open: SetupCallback<Postgres> = Box::new(move |_| open_postgres(address.clone()).boxed());
                let pool = Pool::builder(manager("", open)).max_size(MAX_POSTGRES_CONNECTIONS).build();
                Ok(Self::Postgres { runtime, pool: pool.map_err(|error| database.unusable(&error))? })
            }
        }
    }
}

/// A path as UTF-8, as SQLite requires it.
pub(crate) fn path_str(path: &Path) -> Result<&str, OpenError> {
    path.to_str().ok_or(OpenError::UnknownAddress)
}

/// Creates the file of a SQLite database if it does not exist, readable by its owner only. SQLite gives the files
/// beside it the same mode.
pub(crate) fn create_file(path: &Path) -> std::io::Result<()> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path).map(drop)
}

/// Opens a SQLite connection on this thread.
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
    connection.batch_execute(POSTGRES_SETTINGS).await.map_err(ConnectionError::CouldntSetupConfiguration)?;
    Ok(connection)
}

fn manager<C: AsyncConnection + 'static>(
    url: &str,
    open: SetupCallback<C>,
) -> AsyncDieselConnectionManager<C> {
    let mut config = ManagerConfig::default();
    // a broken connection is detected on use; a check query before each use would cost a round trip
    config.recycling_method = RecyclingMethod::Fast;
    config.custom_setup = open;
    AsyncDieselConnectionManager::new_with_config(url, config)
}

/// Runs blocking calls on the current thread, because the whole operation is on a blocking thread already. The
/// default executor of the wrapper panics when a query is dropped on a single-threaded runtime, which every actix
/// worker is.
pub(crate) struct InlineExecutor;

impl SpawnBlocking for InlineExecutor {
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

/// Waits for a connection, at most [`ACQUIRE_TIMEOUT`].
pub(crate) async fn acquire<T>(
    connection: impl Future<Output = Result<T, PoolError>>,
) -> Result<T, StoreError> {
    Ok(tokio::time::timeout(ACQUIRE_TIMEOUT, connection).await.map_err(|_| StoreError::Busy)??)
}

/// Runs a whole operation on one blocking thread. The operation is boxed, so that this function and Tokio's are compiled
/// once per result type instead of once per query.
pub(crate) async fn run_blocking<T: Send + 'static>(
    runtime: &Handle,
    operation: BoxFuture<'static, Result<T, StoreError>>,
) -> Result<T> {
    let handle = runtime.clone();
    let done = runtime.spawn_blocking(move || handle.block_on(operation)).await;
    Ok(done.map_err(StoreError::from)??)
}

/// Runs an operation as a task on the runtime that drives the connections. The operation is boxed as in
/// [`run_blocking`].
pub(crate) async fn run_detached<T: Send + 'static>(
    runtime: &Handle,
    operation: BoxFuture<'static, Result<T, StoreError>>,
) -> Result<T> {
    let operation =
        async { tokio::time::timeout(OPERATION_TIMEOUT, operation).await.unwrap_or(Err(StoreError::Busy)) };
    let done = runtime.spawn(operation).await;
    Ok(done.map_err(StoreError::from)??)
}

/// Begins a transaction with the write lock. A transaction that reads first and writes later would fail with
/// "locked".
pub(crate) async fn begin(conn: &mut Sqlite) -> Result<(), StoreError> {
    let begin = |conn: &mut SqliteConnection| {
        diesel::connection::AnsiTransactionManager::begin_transaction_sql(conn, "BEGIN IMMEDIATE")
    };
    Ok(conn.spawn_blocking(begin).await?)
}

/// Commits if the outcome is `Ok`, otherwise rolls back.
pub(crate) async fn end<T>(conn: &mut Sqlite, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
    use diesel::connection::{AnsiTransactionManager, TransactionManager};
    let end = if outcome.is_ok() {
        <AnsiTransactionManager as TransactionManager<SqliteConnection>>::commit_transaction
    } else {
        <AnsiTransactionManager as TransactionManager<SqliteConnection>>::rollback_transaction
    };
    let ended = conn.spawn_blocking(end).await;
    // the first error is returned; the pool drops a connection that is left in a transaction
    outcome.and_then(|value| Ok(ended.map(|()| value)?))
}

/// Runs read-only queries.
macro_rules! read {
    ($db:expr, |$conn:ident| $body:expr) => {
        $crate::db::on_backend!($db, readers, |$conn| $body, $body)
    };
}

/// Runs one write statement.
macro_rules! change {
    ($db:expr, |$conn:ident| $body:expr) => {
        $crate::db::on_backend!($db, writer, |$conn| $body, $body)
    };
}

/// Runs statements in one transaction.
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

/// Like [`transact!`], and retries once if PostgreSQL ended the first attempt to resolve a deadlock. The body then
/// runs twice, so it must not consume what it captures.
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
                let mut is_retry = false;
                loop {
                    let ended = $conn
                        .transaction(
                            async |$conn: &mut $crate::db::Postgres| -> Result<_, $crate::error::StoreError> {
                                $body
                            },
                        )
                        .await;
                    match ended {
                        Err(error) if error.is_deadlock() && !is_retry => is_retry = true,
                        ended => break ended,
                    }
                }
            }
        )
    };
}

/// Runs an operation on a connection of the open database, with one expression per kind of database.
macro_rules! on_backend {
    ($db:expr, $role:ident, |$conn:ident| $sqlite:expr, $postgres:expr) => {
        match &$db {
            $crate::db::Db::Sqlite { runtime, $role: pool, .. } => {
                // outside the operation, so that a cancelled caller leaves the queue
                let mut connection = $crate::db::acquire(pool.get()).await?;
                let operation = Box::pin(async move {
                    let $conn = &mut *connection;
                    $sqlite
                });
                $crate::db::run_blocking(runtime, operation).await
            }
            $crate::db::Db::Postgres { runtime, pool } => {
                let pool = pool.clone();
                let operation = Box::pin(async move {
                    // inside the operation, so that a new connection is driven by `runtime`, not by the caller's
                    // runtime
                    let mut connection = $crate::db::acquire(pool.get()).await?;
                    let $conn = &mut *connection;
                    $postgres
                });
                $crate::db::run_detached(runtime, operation).await
            }
        }
    };
}

pub(crate) use {change, on_backend, read, transact, transact_retried};
