//! Errors of the store, and their mapping to [`Error`] of the core crate.

use std::{path::PathBuf, time::Duration};

use diesel::result::{DatabaseErrorKind, Error as QueryError};
use diesel_async::pooled_connection::deadpool::PoolError;
use pilothouse_core::{Cause, Error};
use tokio::task::JoinError;

/// `Retry-After` of errors that a database outage causes.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Reason why a database cannot be opened. Each text is one sentence with the next step, and contains no password.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The scheme of the address is not supported.
    #[error("the database address is neither postgres://… nor sqlite:<path>: correct it")]
    UnknownAddress,
    /// The PostgreSQL address is invalid. The text gives the reason and quotes nothing of the address.
    #[error("the database address {0}; correct it, see docs/configure.md")]
    Address(String),
    /// The database cannot be reached, read or written.
    #[error(
        "the database {database} cannot be opened ({reason}): check that it exists, runs and is writable"
    )]
    Unusable {
        /// The database, without its password.
        database: String,
        /// The message of the system or of the database.
        reason: String,
    },
    /// A newer version of Pilothouse has migrated the tables.
    #[error(
        "the database was written by a newer Pilothouse (migration {0}): start that version, or restore a backup"
    )]
    Newer(String),
    /// The database is sealed with another master key.
    #[error(
        "the database is sealed with another master key: set key_file to the key file that it is sealed with"
    )]
    OtherKey,
    /// A master key rotation is running, and its next key is not in the key files.
    #[error(
        "the database is being resealed: put the file of the next key, which `pilothouse rekey` made, beside the key file"
    )]
    NoNextKey,
    /// The database holds data, but its `install` row, which names the master key, is missing.
    #[error(
        "the database has data but no record of its master key (table install): restore a backup, or set database_url \
         or data_dir to the right database"
    )]
    NoInstall,
    /// The SQLite file has more than one hard link.
    #[error(
        "the database file {0} has {1} hard links, and SQLite keeps a journal beside each name: remove the other names"
    )]
    HardLinks(PathBuf, u64),
    /// A migration failed.
    #[error("the tables of the database cannot be migrated ({0}): restore a backup, or report this")]
    Migration(String),
}

/// Error of an operation of the store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// No connection became free, or the database did not respond, before the deadline.
    #[error("the database did not respond in time: check its load and the network")]
    Busy,
    /// No connection could be opened.
    #[error("{0}")]
    Pool(#[from] PoolError),
    /// The database rejected a query.
    #[error("{0}")]
    Query(#[from] QueryError),
    /// The task that ran the query panicked or was cancelled.
    #[error("{0}")]
    Task(#[from] JoinError),
    /// A business rule refused the operation. The error is returned unchanged.
    #[error("{0}")]
    Refused(#[from] Error),
}

impl StoreError {
    /// Whether the error is a defect of Pilothouse rather than a state of the database.
    fn is_defect(&self) -> bool {
        use DatabaseErrorKind::{CheckViolation, ForeignKeyViolation, NotNullViolation, UniqueViolation};
        match self {
            Self::Busy | Self::Pool(_) | Self::Refused(_) => false,
            Self::Task(error) => error.is_panic(),
            Self::Query(QueryError::DatabaseError(kind, info)) => match kind {
                CheckViolation | ForeignKeyViolation | NotNullViolation | UniqueViolation => true,
                // SQLite reports "locked", "full" and "no such table" with one code; only the text differs
                _ => ["no such ", "syntax error", "does not exist"]
                    .iter()
                    .any(|text| info.message().contains(text)),
            },
            Self::Query(QueryError::BrokenTransactionManager | QueryError::RollbackErrorOnCommit { .. }) => {
                false
            }
            Self::Query(_) => true,
        }
    }

    /// Whether a unique index rejected a row.
    pub(crate) fn is_duplicate(&self) -> bool {
        matches!(self, Self::Query(QueryError::DatabaseError(DatabaseErrorKind::UniqueViolation, _)))
    }

    /// Whether PostgreSQL ended the transaction to resolve a deadlock (40P01). diesel does not expose the code, and
    /// the language of the text is that of the server's `lc_messages`; for any other than English this is false.
    pub(crate) fn is_deadlock(&self) -> bool {
        matches!(self, Self::Query(QueryError::DatabaseError(_, info)) if info.message() == "deadlock detected")
    }

    /// Converts the error to one of the audit trail, see [`audit_error`].
    pub(crate) fn into_audit(self) -> Self {
        Self::Refused(audit_error(self.into()))
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(refusal) => refusal,
            error if error.is_defect() => Self::internal(format!("database: {error}")),
            error => {
                // the text of the error is only logged
                tracing::warn!(%error, "the database cannot be used: check that it runs, is reachable and has disk space");
                Self::new(Cause::StoreUnavailable).retry_after(RETRY_AFTER)
            }
        }
    }
}

/// Replaces the cause `StoreUnavailable` by `AuditUnavailable`.
pub(crate) fn audit_error(mut error: Error) -> Error {
    if error.cause == Cause::StoreUnavailable {
        error.cause = Cause::AuditUnavailable;
    }
    error
}

/// The error for a stored value that cannot be parsed, because something else than Pilothouse changed the tables.
pub(crate) fn corrupt(column: &str) -> Error {
    Error::internal(format!("the database holds an unreadable {column}"))
}

/// The text of an error and of its sources, in one line.
pub(crate) fn in_one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
