//! The ports towards the database, over diesel-async: SQLite and PostgreSQL from one text.
//!
//! [`Store::open`] makes the tables, knows the master key again, and gives a handle that implements every port of
//! what we keep ourselves: [`AuditTrail`], [`TrailReader`], [`Retention`], [`UserRegistry`], [`SessionStore`], [`LoginThrottle`],
//! [`IdempotencyStore`], [`ClusterRegistry`] and [`Connections`]. A query is written once and compiled for both databases
//! (see `db`).
//!
//! A change of our own tables and its audit entry are one transaction. Entries that stand alone go through one task
//! that commits as many at once as wait (see `audit`).
//!
//! [`AuditTrail`]: pilothouse_core::audit::AuditTrail
//! [`TrailReader`]: pilothouse_core::audit::TrailReader
//! [`Retention`]: pilothouse_core::audit::Retention
//! [`UserRegistry`]: pilothouse_core::user::UserRegistry
//! [`SessionStore`]: pilothouse_core::session::SessionStore
//! [`LoginThrottle`]: pilothouse_core::session::LoginThrottle
//! [`IdempotencyStore`]: pilothouse_core::idempotency::IdempotencyStore
//! [`ClusterRegistry`]: pilothouse_core::cluster::ClusterRegistry
//! [`Connections`]: pilothouse_core::cluster::Connections

use std::{
    fmt,
    sync::{Arc, atomic::AtomicBool},
};

use diesel::QueryDsl as _;
use diesel_async::RunQueryDsl as _;
use pilothouse_core::{
    Result,
    audit::{Checkpoint, CheckpointSink},
    clock::{Clock, Rng, uuid_v7},
    seal::Keyring,
};
use tokio::runtime::Handle;

mod audit;
mod backup;
mod cluster;
mod db;
mod disk_reserve;
mod error;
mod idempotency;
mod lease;
mod migrate;
mod postgres;
mod probe_schedule;
mod rekey;
mod schema;
mod scrub;
mod session;
mod stats;
mod throttle;
mod user;
mod webhook_cursor;

pub use db::Database;
pub use error::OpenError;
pub use migrate::Fingerprints;
pub use postgres::PostgresAddress;
pub use stats::{PoolStats, StoreStats};

use crate::{
    audit::{Counts, TrailContext, VerifiedState, Writer},
    db::{Db, read},
    disk_reserve::DiskReserve,
    lease::Lease,
    throttle::RefusedLogins,
};

/// What the store needs from outside.
#[derive(Clone)]
pub struct StoreDeps {
    /// A multi-threaded runtime that drives the connections, whoever calls.
    pub runtime: Handle,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness, for ids.
    pub rng: Arc<dyn Rng>,
    /// What seals credentials and what idempotency keys stand for, and signs checkpoints of the trail.
    pub keyring: Arc<dyn Keyring>,
    /// Where checkpoints of the trail are kept outside the database: what it knows is verified before the trail is signed.
    pub witness: Arc<dyn CheckpointSink>,
}

/// The open database. A clone is the same store.
#[derive(Clone)]
pub struct Store {
    db: Db,
    deps: StoreDeps,
    author: TrailContext,
    writer: Writer,
    lease: Lease,
    reserve: DiskReserve,
    counts: Counts,
    refusals: RefusedLogins,
    /// Whether the write-ahead log may hold a sealed value that is deleted or replaced.
    overwritten: Arc<AtomicBool>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("database", self.lease.database()).finish_non_exhaustive()
    }
}

impl Store {
    /// The fingerprint of the master key that a database is sealed with; none when it is new. To be asked before a key
    /// is made: a database that has a fingerprint needs the key it belongs to. Makes no file, and no table but diesel's
    /// list of migrations.
    ///
    /// # Errors
    /// [`OpenError::Unusable`], [`OpenError::Newer`].
    pub async fn fingerprints(
        database: &Database,
        runtime: &Handle,
    ) -> Result<Option<Fingerprints>, OpenError> {
        migrate::fingerprints(database, runtime).await
    }

    /// Opens a database: makes what is not there, brings tables up to date, keeps the key's fingerprint.
    ///
    /// # Errors
    /// [`OpenError`] but `InUse`. With another key than the database's, or tables of a newer version, nothing is changed.
    pub async fn open(database: &Database, deps: StoreDeps) -> Result<Self, OpenError> {
        let now = deps.clock.now();
        migrate::prepare(database, &deps.runtime, deps.keyring.clone(), now).await?;
        let db = Db::new(database, deps.runtime.clone())?;
        let lease = Lease::new(database.clone(), uuid_v7(now, &*deps.rng));
        let author = TrailContext {
            instance: lease.instance().into(),
            keyring: deps.keyring.clone(),
            clock: deps.clock.clone(),
            age: Checkpoint::AGE,
            memory: VerifiedState::default(),
            witness: deps.witness.clone(),
            successor: None,
        };
        let writer = Writer::start(db.clone(), author.clone(), &deps.runtime);
        Ok(Self {
            db,
            deps,
            author,
            writer,
            lease,
            reserve: DiskReserve::default(),
            counts: Counts::default(),
            refusals: RefusedLogins::default(),
            // a process that was killed may not have emptied the write-ahead log
            overwritten: Arc::new(AtomicBool::new(true)),
        })
    }

    /// Keeps so many bytes free where a SQLite database lies: with fewer left no new operation is begun, so that the
    /// outcomes of those under way find room. None are kept for a PostgreSQL, whose disk is not ours to look at.
    #[must_use]
    pub fn with_disk_reserve(self, bytes: u64) -> Self {
        Self { reserve: DiskReserve::of(self.lease.database(), bytes), ..self }
    }

    /// Whether the database answers, and its key is held.
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
