//! Which server processes live. What a process that has ended left pending is an orphan, and must be told from what
//! another replica is doing right now.
//!
//! On SQLite there is one server: it holds a lock on a file beside the database, so whatever another instance left is
//! an orphan at once. On PostgreSQL each replica renews a lease; an orphan is one whose instance's lease has run out.

use std::{
    fs::{File, TryLockError},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use diesel::{ExpressionMethods as _, QueryDsl as _};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use jiff::Timestamp;
use pilothouse_core::Result;
use uuid::Uuid;

use crate::{
    Store,
    db::{Database, change, create_file, transact},
    error::OpenError,
    schema::{At, leases},
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
}

impl Store {
    /// How long a lease lasts. To be renewed well before.
    pub const LEASE: Duration = Duration::from_secs(30);

    /// Declares this process to be a server. To be called once, before orphans are closed; commands that only read or
    /// change our own tables leave nothing pending and need no lease.
    ///
    /// # Errors
    /// [`OpenError::InUse`] when another process serves the same SQLite file; [`OpenError::Unusable`].
    pub async fn take_lease(&self, at: Timestamp) -> Result<(), OpenError> {
        if let Database::Sqlite(path) = self.lease.database() {
            let unusable = |error| self.lease.database().unusable(&error);
            let beside = path.with_added_extension("lock");
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

    /// Says that this process lives; every ten seconds, by a server.
    ///
    /// # Errors
    /// `StoreUnavailable`. A server that cannot renew may go on: what it finishes after others took it for dead
    /// stays `unknown`.
    pub async fn renew_lease(&self, at: Timestamp) -> Result<()> {
        let instance = self.lease.instance().to_owned();
        let expires_at = At(at + Self::LEASE);
        transact!(self.db, |conn| {
            diesel::delete(leases::table.filter(leases::expires_at.le(At(at)))).execute(conn).await?;
            diesel::insert_into(leases::table)
                .values((leases::instance.eq(instance), leases::expires_at.eq(expires_at)))
                .on_conflict(leases::instance)
                .do_update()
                .set(leases::expires_at.eq(expires_at))
                .execute(conn)
                .await?;
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
