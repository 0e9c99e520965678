//! What the database and our use of it look like at this moment, for whoever watches over the process.

use std::time::Duration;

use diesel::{ExpressionMethods as _, QueryDsl as _};
use diesel_async::RunQueryDsl as _;
use jiff::Timestamp;
use pilothouse_core::{
    Result,
    audit::LastCheckpoint,
    cluster::{ClusterId, Health},
};

use crate::{
    Store,
    db::{Db, read},
    error::corrupt,
    schema::{At, audit_head, clusters, sessions},
};

/// What is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreStats {
    /// Every cluster as its last probe found it.
    pub clusters: Vec<(ClusterId, Health)>,
    /// Sessions that have not expired.
    pub sessions: u64,
    /// The number of the audit chain's newest entry: how many there are.
    pub audit_sequence: u64,
    /// For how long entries have been waiting to be signed: since the last checkpoint that this process knows of. Zero when
    /// none waits.
    pub audit_unsigned: Duration,
}

/// A pool of connections. Of SQLite there are two, `read` and `write`; of PostgreSQL one, `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolStats {
    /// What it is for.
    pub name: &'static str,
    /// The most connections it may have.
    pub max: usize,
    /// How many it has.
    pub open: usize,
    /// How many of these nobody uses.
    pub idle: usize,
    /// How many callers wait for one.
    pub waiting: usize,
}

impl Store {
    /// Counts what is stored.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub async fn stats(&self, now: Timestamp) -> Result<StoreStats> {
        let last = self.author.memory.last_checkpoint();
        read!(self.db, |conn| {
            let health: Vec<(i64, String)> =
                clusters::table.select((clusters::id, clusters::status)).load(conn).await?;
            let valid = sessions::table.filter(sessions::expires_at.gt(At(now)));
            let sessions: i64 = valid.count().get_result(conn).await?;
            let newest: i64 = audit_head::table.select(audit_head::seq).first(conn).await?;
            let read = |(id, status): (i64, String)| {
                let known = [Health::Online, Health::Offline, Health::Unknown];
                let health = known.into_iter().find(|health| health.as_str() == status);
                Ok((ClusterId(id), health.ok_or_else(|| corrupt("clusters.status"))?))
            };
            let clusters = health.into_iter().map(read).collect::<Result<_>>()?;
            let waiting = last.filter(|last| last.sequence < newest);
            let since = |last: LastCheckpoint| now.duration_since(last.time).unsigned_abs();
            Ok(StoreStats {
                clusters,
                sessions: sessions.unsigned_abs(),
                audit_sequence: newest.unsigned_abs(),
                audit_unsigned: waiting.map_or(Duration::ZERO, since),
            })
        })
    }

    /// The pools of connections.
    pub fn pools(&self) -> Vec<PoolStats> {
        // a macro, for deadpool's type of a status has no name here
        macro_rules! look {
            ($name:literal, $pool:ident) => {{
                let status = $pool.status();
                PoolStats {
                    name: $name,
                    max: status.max_size,
                    open: status.size,
                    idle: status.available,
                    waiting: status.waiting,
                }
            }};
        }
        match &self.db {
            Db::Sqlite { readers, writer, .. } => vec![look!("read", readers), look!("write", writer)],
            Db::Postgres { pool, .. } => vec![look!("all", pool)],
        }
    }

    /// Whether the audit trail follows from what this process has verified of it, and so is signed.
    pub fn is_audit_signed(&self) -> bool {
        self.author.memory.reason().is_none()
    }

    /// How many entries of the audit trail this process could not store when it wanted to; those that were tried again
    /// count each time.
    pub fn failed_audit_entries(&self) -> u64 {
        self.writer.failed()
    }
}
