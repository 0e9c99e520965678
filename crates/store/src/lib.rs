//! Storage adapter: implements the storage ports over diesel-async, for SQLite and PostgreSQL from one source.
//!
//! [`Store::open`] migrates the database, checks that the master key matches it, and returns a handle that implements
//! the storage ports: [`AuditWriter`], [`AuditQuery`], [`AuditMaintenance`], [`TrailReader`], [`TrailPruner`],
//! [`UserRegistry`], [`SessionStore`], [`LoginThrottle`], [`RoleRegistry`], [`GrantRegistry`], [`RequestRegistry`],
//! [`RightsSource`], [`IdempotencyStore`], [`ClusterRegistry`], [`Connections`], [`Coordinator`] and [`StoreMonitor`].
//! Each query is written once and compiled for both databases (see `db`).
//!
//! Queries are in functions without where clauses and generic parameters, and the methods of ports call them: rustc
//! then proves each bound of Diesel once per crate instead of once per method (`#[async_trait]` adds where clauses).
//!
//! A change of Pilothouse's own tables and its audit entry are one transaction. Other entries go through one task
//! that commits all waiting entries together (see `audit`).
//!
//! [`AuditWriter`]: pilothouse_core::operation::AuditWriter
//! [`AuditQuery`]: pilothouse_core::audit::AuditQuery
//! [`AuditMaintenance`]: pilothouse_core::audit::AuditMaintenance
//! [`TrailReader`]: pilothouse_core::audit::TrailReader
//! [`TrailPruner`]: pilothouse_core::audit::TrailPruner
//! [`UserRegistry`]: pilothouse_core::user::UserRegistry
//! [`SessionStore`]: pilothouse_core::session::SessionStore
//! [`LoginThrottle`]: pilothouse_core::session::LoginThrottle
//! [`RoleRegistry`]: pilothouse_core::grant::RoleRegistry
//! [`GrantRegistry`]: pilothouse_core::grant::GrantRegistry
//! [`RequestRegistry`]: pilothouse_core::grant::RequestRegistry
//! [`RightsSource`]: pilothouse_core::grant::RightsSource
//! [`IdempotencyStore`]: pilothouse_core::idempotency::IdempotencyStore
//! [`ClusterRegistry`]: pilothouse_core::cluster::ClusterRegistry
//! [`Connections`]: pilothouse_core::cluster::Connections
//! [`Coordinator`]: pilothouse_core::coordinator::Coordinator
//! [`StoreMonitor`]: pilothouse_core::monitor::StoreMonitor

use std::{
    fmt,
    sync::{Arc, atomic::AtomicBool},
};

use diesel::QueryDsl as _;
use diesel_async::RunQueryDsl as _;
use pilothouse_core::{
    Result,
    audit::{Checkpoint, CheckpointSink},
    clock::Clock,
    rng::{Rng, uuid_v7},
    seal::Keyring,
};
use tokio::runtime::Handle;

mod audit;
mod backup;
mod cluster;
mod coordinator;
mod db;
mod disk_reserve;
mod error;
mod grant;
mod idempotency;
mod lease;
mod migrate;
mod postgres;
mod rekey;
mod rights_stamp;
mod schema;
mod scrub;
mod session;
mod stats;
mod throttle;
mod user;

pub use db::Database;
pub use error::OpenError;
pub use migrate::Fingerprints;
pub use postgres::PostgresAddress;

use crate::{
    audit::{CountCache, TrailContext, VerifiedState, Writer},
    db::{Db, read},
    disk_reserve::DiskReserve,
    lease::Lease,
    throttle::RefusedLogins,
};

/// Dependencies of the store.
#[derive(Clone)]
pub struct StoreDeps {
    /// A multi-threaded runtime that drives the connections, independent of the caller's runtime.
    pub runtime: Handle,
    /// Clock for stored times and for the age of checkpoints.
    pub clock: Arc<dyn Clock>,
    /// Random source, for ids and connection versions.
    pub rng: Arc<dyn Rng>,
    /// Seals credentials and idempotency records, and signs checkpoints of the trail.
    pub keyring: Arc<dyn Keyring>,
    /// Checkpoint sink: keeps checkpoints of the trail outside the database. The trail is verified against it before
    /// it is signed.
    pub checkpoint_sink: Arc<dyn CheckpointSink>,
}

/// The open database. A clone is the same store.
#[derive(Clone)]
pub struct Store {
    db: Db,
    deps: StoreDeps,
    trail_context: TrailContext,
    writer: Writer,
    lease: Lease,
    reserve: DiskReserve,
    counts: CountCache,
    refused_logins: RefusedLogins,
    /// Whether the write-ahead log may hold a sealed value that is deleted or replaced.
    scrub_pending: Arc<AtomicBool>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("database", self.lease.database()).finish_non_exhaustive()
    }
}

impl Store {
    /// The fingerprints of the master keys with which a database is sealed; `None` for a new database. To be called
    /// before a key is created, because a database with a fingerprint opens only with the key of that fingerprint.
    /// Creates no file, and no table except diesel's list of migrations.
    ///
    /// # Errors
    /// [`OpenError::Unusable`], [`OpenError::Newer`].
    pub async fn fingerprints(
        database: &Database,
        runtime: &Handle,
    ) -> Result<Option<Fingerprints>, OpenError> {
        migrate::fingerprints(database, runtime).await
    }

    /// Opens a database: creates it if needed, runs pending migrations, and stores the fingerprint of the key.
    ///
    /// # Errors
    /// [`OpenError`]. If the key is not the database's or the tables belong to a newer version, nothing is changed.
    pub async fn open(database: &Database, deps: StoreDeps) -> Result<Self, OpenError> {
        let now = deps.clock.now();
        migrate::prepare(database, &deps.runtime, deps.keyring.clone(), now).await?;
        let db = Db::new(database, deps.runtime.clone())?;
        let lease = Lease::new(database.clone(), uuid_v7(now, &*deps.rng));
        let trail_context = TrailContext {
            instance: lease.instance().into(),
            keyring: deps.keyring.clone(),
            clock: deps.clock.clone(),
            age: Checkpoint::AGE,
            verified_state: VerifiedState::default(),
            checkpoint_sink: deps.checkpoint_sink.clone(),
            next_signer: None,
        };
        let writer = Writer::start(db.clone(), trail_context.clone(), &deps.runtime);
        Ok(Self {
            db,
            deps,
            trail_context,
            writer,
            lease,
            reserve: DiskReserve::default(),
            counts: CountCache::default(),
            refused_logins: RefusedLogins::default(),
            // a killed process may not have truncated the write-ahead log
            scrub_pending: Arc::new(AtomicBool::new(true)),
        })
    }

    /// Sets the disk reserve of a SQLite database, in bytes: with less free space no new operation is begun, so that
    /// the outcomes of running operations can be stored. Ignored for PostgreSQL, whose disk Pilothouse cannot query.
    #[must_use]
    pub fn with_disk_reserve(self, bytes: u64) -> Self {
        Self { reserve: DiskReserve::of(self.lease.database(), bytes), ..self }
    }

    /// Checks that the database responds and that its key is available.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub async fn ping(&self) -> Result<()> {
        let fingerprint: String = read!(self.db, |conn| Ok(schema::install::table
            .find(1)
            .select(schema::install::fingerprint)
            .first(conn)
            .await?))?;
        self.deps.keyring.keys(&fingerprint).map(drop)
    }
}
