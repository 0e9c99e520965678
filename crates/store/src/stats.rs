//! Statistics of the store, for metrics.

use std::time::Duration;

use async_trait::async_trait;
use diesel::{ExpressionMethods as _, QueryDsl as _};
use diesel_async::RunQueryDsl as _;
use jiff::Timestamp;
use pilothouse_core::{
    Result,
    audit::LastCheckpoint,
    cluster::Health,
    ids::ClusterId,
    monitor::{PoolStats, StoreMonitor, StoreStats},
};

use crate::{
    Store,
    db::{Db, read},
    error::corrupt,
    schema::{At, audit_head, clusters, sessions},
};

impl Store {
    async fn store_stats(&self, now: Timestamp) -> Result<StoreStats> {
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
}

#[async_trait]
impl StoreMonitor for Store {
    async fn stats(&self, now: Timestamp) -> Result<StoreStats> {
        self.store_stats(now).await
    }

    fn pools(&self) -> Vec<PoolStats> {
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

    fn is_audit_signed(&self) -> bool {
        self.trail_context.verified_state.mismatch_reason().is_none()
    }

    fn failed_audit_entries(&self) -> u64 {
        self.writer.failed()
    }
}
