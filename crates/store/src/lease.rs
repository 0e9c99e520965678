//! Leases of server processes. A pending operation of a process that has ended is an orphan, in contrast to one that
//! another replica is executing.
//!
//! SQLite allows one server, which holds a lock on a file beside the database. So a pending operation of another
//! instance is an orphan at once. The path of the lock is that of the database with symbolic links resolved; a
//! database file with further hard links is not opened ([`OpenError::HardLinks`]). On PostgreSQL each replica renews
//! a lease by the database's clock, because the clocks of replicas may differ. An orphan is an operation older than a
//! lease whose instance has no lease. If a replica cannot reach the database for that long, its running operations
//! are closed as orphans. Operations that it begins after reconnecting, before it renews its lease, are not.
//!
//! [`OpenError::HardLinks`]: crate::OpenError::HardLinks

use std::{
    fs::{File, TryLockError},
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use diesel::dsl::sql;
use diesel_async::RunQueryDsl as _;
use jiff::Timestamp;
use pilothouse_core::{Error, Result, coordinator::LEASE};
use uuid::Uuid;

use crate::{
    db::{Database, Postgres, Sqlite, create_file},
    error::StoreError,
    schema::{At, Instant},
};

/// The identity of this process in the database.
#[derive(Clone)]
pub(crate) struct Lease {
    database: Database,
    instance: Arc<str>,
    /// The lock on a SQLite database, held from [`Lease::try_lock`] until the store is dropped.
    lock: Arc<Mutex<Option<File>>>,
}

impl Lease {
    pub(crate) fn new(database: Database, instance: Uuid) -> Self {
        Self { database, instance: instance.to_string().into(), lock: Arc::default() }
    }

    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    /// Locks the SQLite file at `path`. Returns false if another process holds the lock.
    pub(crate) fn try_lock(&self, path: &Path) -> Result<bool> {
        let unusable = |error: io::Error| Error::internal(self.database.unusable(&error).to_string());
        // one lock per file: symbolic links are resolved
        let lock_path = path.canonicalize().map_err(unusable)?.with_added_extension("lock");
        create_file(&lock_path).map_err(unusable)?;
        let file = File::open(&lock_path).map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => {
                *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
                Ok(true)
            }
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(unusable(error)),
        }
    }

    /// An operation without a lease is an orphan if it was created at or before this time.
    pub(crate) fn orphaned_before(&self, now: Timestamp) -> Timestamp {
        match self.database {
            // no other server runs
            Database::Sqlite(_) => Timestamp::MAX,
            Database::Postgres(_) => now - LEASE,
        }
    }
}

/// The clock of leases.
pub(crate) trait LeaseClock {
    /// The time of the database on PostgreSQL, which replicas share; `local_time` on SQLite.
    async fn lease_time(&mut self, local_time: Timestamp) -> Result<At, StoreError>;
}

impl LeaseClock for Sqlite {
    async fn lease_time(&mut self, local_time: Timestamp) -> Result<At, StoreError> {
        Ok(At(local_time))
    }
}

impl LeaseClock for Postgres {
    async fn lease_time(&mut self, _local_time: Timestamp) -> Result<At, StoreError> {
        Ok(diesel::select(sql::<Instant>("now()")).get_result(self).await?)
    }
}
