//! Which server processes live. What a process that has ended left pending is an orphan, and must be told from what
//! another replica is doing right now.
//!
//! On SQLite there is one server: it holds a lock on a file beside the database, so whatever another instance left is
//! an orphan at once. The lock's path is the database's after symbolic links; a database file with further hard links is
//! not opened at all ([`OpenError::HardLinks`]). On PostgreSQL each replica renews a lease, by the database's clock, since theirs may differ. An
//! orphan is an operation older than a lease whose instance has none: a replica that could not reach the database for
//! that long loses what it had under way, but nothing of what it begins once it is back and has not renewed yet.

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

/// This process, as the database knows it.
#[derive(Clone)]
pub(crate) struct Lease {
    database: Database,
    instance: Arc<str>,
    /// The lock on a SQLite database, once it is served; let go when the store is dropped.
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

    /// Since when an operation without a lease must be there to be an orphan.
    pub(crate) fn orphaned_before(&self, now: Timestamp) -> Timestamp {
        match self.database {
            // there is nobody else
            Database::Sqlite(_) => Timestamp::MAX,
            Database::Postgres(_) => now - Store::LEASE,
        }
    }
}

/// The clock that leases run by.
pub(crate) trait LeaseClock {
    /// The database's time where replicas share it; ours where nobody else looks.
    async fn lease_time(&mut self, ours: Timestamp) -> Result<At, StoreError>;
}

impl LeaseClock for Sqlite {
    async fn lease_time(&mut self, ours: Timestamp) -> Result<At, StoreError> {
        Ok(At(ours))
    }
}

impl LeaseClock for Postgres {
    async fn lease_time(&mut self, _ours: Timestamp) -> Result<At, StoreError> {
        Ok(diesel::select(sql::<Instant>("now()")).get_result(self).await?)
    }
}

impl Store {
    /// How long a lease lasts. To be renewed well before.
    pub const LEASE: Duration = Duration::from_secs(15);

    /// Declares this process to be a server. To be called once, before orphans are closed; commands that only read or
    /// change our own tables leave nothing pending and need no lease.
    ///
    /// # Errors
    /// [`OpenError::InUse`] when another process serves the same SQLite file; [`OpenError::Unusable`].
    pub async fn take_lease(&self, at: Timestamp) -> Result<(), OpenError> {
        if let Database::Sqlite(path) = self.lease.database() {
            let unusable = |error| self.lease.database().unusable(&error);
            // one lock for one file, whatever symbolic links lead to it
            let beside = path.canonicalize().map_err(unusable)?.with_added_extension("lock");
            create_file(&beside).map_err(unusable)?;
            let file = File::open(&beside).map_err(unusable)?;
            match file.try_lock() {
                Ok(()) => *self.lease.lock.lock().unwrap_or_else(PoisonError::into_inner) = Some(file),
                Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(path.clone())),
                Err(TryLockError::Error(error)) => return Err(unusable(error)),
            }
            self.forget_leases().await.map_err(|error| self.lease.database().unusable(&error))?;
        }
        self.renew_lease(at).await.map_err(|error| self.lease.database().unusable(&error))
    }

    /// Says that this process lives; several times in [`Store::LEASE`], by a server, until nothing of it runs any more.
    ///
    /// # Errors
    /// `StoreUnavailable`. A server that cannot renew may go on: what it finishes after others took it for dead
    /// stays `unknown`.
    pub async fn renew_lease(&self, at: Timestamp) -> Result<()> {
        self.forget_what_is_left().await;
        let (instance, keyring) = (self.lease.instance().to_owned(), self.deps.keyring.clone());
        transact!(self.db, |conn| {
            let next: Option<String> =
                install::table.find(1).select(install::next_fingerprint).first(conn).await?;
            let held = next.filter(|next| keyring.keys(next).is_ok());
            let At(now) = conn.lease_time(at).await?;
            diesel::delete(leases::table.filter(leases::expires_at.le(At(now)))).execute(conn).await?;
            let expires_at = At(now + Self::LEASE);
            diesel::insert_into(leases::table)
                .values((
                    leases::instance.eq(instance),
                    leases::expires_at.eq(expires_at),
                    leases::next_fingerprint.eq(&held),
                ))
                .on_conflict(leases::instance)
                .do_update()
                .set((leases::expires_at.eq(expires_at), leases::next_fingerprint.eq(&held)))
                .execute(conn)
                .await?;
            Ok(())
        })
    }

    /// Says that this process is about to end: what it leaves pending nobody will finish.
    ///
    /// # Errors
    /// `StoreUnavailable`; then the lease runs out.
    pub async fn end_lease(&self) -> Result<()> {
        let instance = self.lease.instance().to_owned();
        change!(self.db, |conn| {
            diesel::delete(leases::table.find(instance)).execute(conn).await?;
            Ok(())
        })
    }

    /// Whoever holds the file's lock knows that no other instance lives.
    async fn forget_leases(&self) -> Result<()> {
        change!(self.db, |conn| {
            diesel::delete(leases::table).execute(conn).await?;
            Ok(())
        })
    }
}
