//! Leases of server processes. A pending operation of a process that has ended is an orphan, in contrast to one that
//! another replica is executing.
//!
//! SQLite allows one server, which holds a lock on a file beside the database. So a pending operation of another
//! instance is an orphan at once. The path of the lock is that of the database with symbolic links resolved; a
//! database file with further hard links is not opened ([`OpenError::HardLinks`]). On PostgreSQL each replica renews
//! a lease by the database's clock, because the clocks of replicas may differ. An orphan is an operation older than a
//! lease whose instance has no lease. A replica that could not reach the database for that long loses the operations
//! that were running, but not those that it begins after it is back and before it renews its lease.

use std::{
    fs::{File, TryLockError},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use diesel::{ExpressionMethods as _, QueryDsl as _, dsl::sql};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use jiff::Timestamp;
use pilothouse_core::Result;
use uuid::Uuid;

use crate::{
    Store,
    db::{Database, Postgres, Sqlite, change, create_file, transact},
    error::{OpenError, StoreError},
    schema::{At, Instant, install, leases},
};

/// The identity of this process in the database.
#[derive(Clone)]
pub(crate) struct Lease {
    database: Database,
    instance: Arc<str>,
    /// The lock on a SQLite database, held from [`Store::take_lease`] until the store is dropped.
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

    /// An operation without a lease is an orphan if it was created at or before this time.
    pub(crate) fn orphaned_before(&self, now: Timestamp) -> Timestamp {
        match self.database {
            // no other server runs
            Database::Sqlite(_) => Timestamp::MAX,
            Database::Postgres(_) => now - Store::LEASE,
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

impl Store {
    /// Duration of a lease. A server renews it several times in this period.
    pub const LEASE: Duration = Duration::from_secs(15);

    /// Registers this process as a server. To be called once, before orphans are closed. Commands that only read or
    /// change Pilothouse's own tables leave nothing pending and need no lease.
    ///
    /// # Errors
    /// [`OpenError::InUse`] when another process serves the same SQLite file; [`OpenError::Unusable`].
    pub async fn take_lease(&self, at: Timestamp) -> Result<(), OpenError> {
        if let Database::Sqlite(path) = self.lease.database() {
            let unusable = |error| self.lease.database().unusable(&error);
            // one lock per file, whatever symbolic links are used
            let lock_path = path.canonicalize().map_err(unusable)?.with_added_extension("lock");
            create_file(&lock_path).map_err(unusable)?;
            let file = File::open(&lock_path).map_err(unusable)?;
            match file.try_lock() {
                Ok(()) => *self.lease.lock.lock().unwrap_or_else(PoisonError::into_inner) = Some(file),
                Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(path.clone())),
                Err(TryLockError::Error(error)) => return Err(unusable(error)),
            }
            self.delete_all_leases().await.map_err(|error| self.lease.database().unusable(&error))?;
        }
        self.renew_lease(at).await.map_err(|error| self.lease.database().unusable(&error))
    }

    /// Renews the lease. A server calls this several times per [`Store::LEASE`], until all of its tasks have ended.
    ///
    /// # Errors
    /// `StoreUnavailable`. A server that cannot renew may continue: an operation that others have closed as an orphan
    /// stays `unknown`.
    pub async fn renew_lease(&self, at: Timestamp) -> Result<()> {
        self.retry_scrub().await;
        let (instance, keyring) = (self.lease.instance().to_owned(), self.deps.keyring.clone());
        transact!(self.db, |conn| {
            let next: Option<String> =
                install::table.find(1).select(install::next_fingerprint).first(conn).await?;
            let next_held = next.filter(|next| keyring.keys(next).is_ok());
            let At(now) = conn.lease_time(at).await?;
            diesel::delete(leases::table.filter(leases::expires_at.le(At(now)))).execute(conn).await?;
            let expires_at = At(now + Self::LEASE);
            diesel::insert_into(leases::table)
                .values((
                    leases::instance.eq(instance),
                    leases::expires_at.eq(expires_at),
                    leases::next_fingerprint.eq(&next_held),
                ))
                .on_conflict(leases::instance)
                .do_update()
                .set((leases::expires_at.eq(expires_at), leases::next_fingerprint.eq(&next_held)))
                .execute(conn)
                .await?;
            Ok(())
        })
    }

    /// Ends the lease, because this process is about to exit. Operations that it leaves pending become orphans.
    ///
    /// # Errors
    /// `StoreUnavailable`. The lease then expires.
    pub async fn end_lease(&self) -> Result<()> {
        let instance = self.lease.instance().to_owned();
        change!(self.db, |conn| {
            diesel::delete(leases::table.find(instance)).execute(conn).await?;
            Ok(())
        })
    }

    /// Deletes all leases. The holder of the file lock is the only server.
    async fn delete_all_leases(&self) -> Result<()> {
        change!(self.db, |conn| {
            diesel::delete(leases::table).execute(conn).await?;
            Ok(())
        })
    }
}
