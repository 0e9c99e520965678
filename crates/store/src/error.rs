//! What goes wrong with a database, and what the rest of the product is told of it.

use std::{path::PathBuf, time::Duration};

use diesel::result::{DatabaseErrorKind, Error as QueryError};
use diesel_async::pooled_connection::deadpool::PoolError;
use pilothouse_core::{Cause, Error};
use tokio::task::JoinError;

/// When to try again after the database could not be used.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Why a database cannot be opened. Each text is one sentence that says what to do, and shows no password.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The address is none that this build knows.
    #[error("the database address is neither postgres://… nor sqlite:<path>: correct it")]
    UnknownAddress,
    /// The address of a PostgreSQL cannot be used; why, without anything of it.
    #[error("the database address {0}; correct it, see docs/configure.md")]
    Address(String),
    /// The database cannot be reached, read or written.
    #[error(
        "the database {database} cannot be opened ({reason}): check that it exists, runs and is writable"
    )]
    Unusable {
        /// Which, without its password.
        database: String,
        /// What the system or the database says.
        reason: String,
    },
    /// A newer Pilothouse has changed the tables.
    #[error(
        "the database was written by a newer Pilothouse (migration {0}): start that version, or restore a backup"
    )]
    Newer(String),
    /// The database belongs to another master key.
    #[error(
        "the database is sealed with another master key: set key_file to the key file that it is sealed with"
    )]
    OtherKey,
    /// The database is being sealed anew with a key that is not held.
    #[error(
        "the database is being resealed: put the file of the next key, which `pilothouse rekey` made, beside the key file"
    )]
    NoNextKey,
    /// The database holds data, and no row that says which master key it is sealed with.
    #[error(
        "the database has data but no record of its master key (table install): restore a backup, or set database_url \
         or data_dir to the right database"
    )]
    NoInstall,
    /// Another server uses the same SQLite file.
    #[error("another pilothouse already serves the database {0}: stop it, or use another data directory")]
    InUse(PathBuf),
    /// The SQLite file has more than one name in the file system.
    #[error(
        "the database file {0} has {1} hard links, and SQLite keeps a journal beside each name: remove the other names"
    )]
    HardLinks(PathBuf, u64),
    /// The tables cannot be brought up to date.
    #[error("the tables of the database cannot be migrated ({0}): restore a backup, or report this")]
    Migration(String),
}

/// What a query can end with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// No connection became free, or no answer came, in time.
    #[error("the database did not respond in time")]
    Busy,
    /// No connection.
    #[error("{0}")]
    Pool(#[from] PoolError),
    /// The database refuses.
    #[error("{0}")]
    Query(#[from] QueryError),
    /// The task that ran the query is gone.
    #[error("{0}")]
    Task(#[from] JoinError),
    /// A rule refuses; already in the words of the product.
    #[error("{0}")]
    Refused(#[from] Error),
}

impl StoreError {
    /// Whether it is a defect of ours, and not the state of the database.
    fn is_defect(&self) -> bool {
        use DatabaseErrorKind::{CheckViolation, ForeignKeyViolation, NotNullViolation, UniqueViolation};
        match self {
            Self::Busy | Self::Pool(_) | Self::Refused(_) => false,
            Self::Task(error) => error.is_panic(),
            Self::Query(QueryError::DatabaseError(kind, info)) => match kind {
                CheckViolation | ForeignKeyViolation | NotNullViolation | UniqueViolation => true,
                // SQLite says "locked", "full" and "no such table" alike; only the text tells
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

    /// Whether a unique index refused a row.
    pub(crate) fn is_duplicate(&self) -> bool {
        matches!(self, Self::Query(QueryError::DatabaseError(DatabaseErrorKind::UniqueViolation, _)))
    }

    /// Whether PostgreSQL ended the transaction to resolve a deadlock (40P01). diesel does not hand on the code, and the text
    /// is in the language that the server's `lc_messages` says; in another one than English this is false.
    pub(crate) fn is_deadlock(&self) -> bool {
        matches!(self, Self::Query(QueryError::DatabaseError(_, info)) if info.message() == "deadlock detected")
    }

    /// As an error of the audit trail.
    pub(crate) fn of_audit(self) -> Self {
        Self::Refused(audit(self.into()))
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(refusal) => refusal,
            error if error.is_defect() => Self::internal(format!("database: {error}")),
            error => {
                // callers are told only that the database cannot be used
                tracing::warn!(%error, "the database cannot be used");
                Self::new(Cause::StoreUnavailable).retry_after(RETRY_AFTER)
            }
        }
    }
}

/// An error of the store as one of the audit trail.
pub(crate) fn audit(mut error: Error) -> Error {
    if error.cause == Cause::StoreUnavailable {
        error.cause = Cause::AuditUnavailable;
    }
    error
}

/// A stored value that does not read: the tables were changed by another hand.
pub(crate) fn corrupt(column: &str) -> Error {
    Error::internal(format!("the database holds an unreadable {column}"))
}

/// An error with its sources, in one line.
pub(crate) fn in_one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
