//! Statistics of the store, for metrics.

use std::time::Duration;

use diesel::{ExpressionMethods as _, QueryDsl as _};
use diesel_async::RunQueryDsl as _;
use jiff::Timestamp;
use pilothouse_core::{Result, audit::LastCheckpoint, cluster::Health, ids::ClusterId};

use crate::{
    Store,
    db::{Db, read},
    error::corrupt,
    schema::{At, audit_head, clusters, sessions},
};

/// Counts of stored objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreStats {
    /// Every cluster with the health found by its last probe.
    pub clusters: Vec<(ClusterId, Health)>,
    /// Number of sessions that have not expired.
    pub sessions: u64,
    /// Sequence number of the newest audit entry, which is the number of entries.
    pub audit_sequence: u64,
    /// Time since the last checkpoint known to this process, if newer entries are unsigned. Zero when none is
    /// unsigned.
    pub audit_unsigned: Duration,
}

/// A connection pool. SQLite has two, `read` and `write`; PostgreSQL has one, `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolStats {
    /// Name of the pool.
    pub name: &'static str,
    /// Maximum number of connections.
    pub max: usize,
    /// Number of open connections.
    pub open: usize,
    /// Number of open connections that are idle.
    pub idle: usize,
    /// Number of callers that wait for a connection.
    pub waiting: usize,
}

impl Store {
    /// Reads the counts.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub async fn stats(&self, now: Timestamp) -> Result<StoreStats> {
        let last = self.trail_context.verified_state.last_checkpoint();
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

    /// Status of the connection pools.
    pub fn pools(&self) -> Vec<PoolStats> {
        // a macro, because the status type of deadpool is not exported here
        macro_rules! pool_stats {
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
            Db::Sqlite { readers, writer, .. } => {
                vec![pool_stats!("read", readers), pool_stats!("write", writer)]
            }
            Db::Postgres { pool, .. } => vec![pool_stats!("all", pool)],
        }
    }

    /// Whether the audit trail matches the part that this process has verified, and so is signed.
    pub fn is_audit_signed(&self) -> bool {
        self.trail_context.verified_state.mismatch_reason().is_none()
    }

    /// Number of audit entries that this process failed to store. Each retry counts.
    pub fn failed_audit_entries(&self) -> u64 {
        self.writer.failed()
    }
}
