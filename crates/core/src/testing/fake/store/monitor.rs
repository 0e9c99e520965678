use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::MemoryStore;
use crate::{
    error::Result,
    monitor::{PoolStats, StoreMonitor, StoreStats},
};

#[async_trait]
impl StoreMonitor for MemoryStore {
    async fn stats(&self, now: Timestamp) -> Result<StoreStats> {
        let state = self.lock();
        let (newest, last) = (state.head().sequence, state.last_checkpoint());
        let unsigned = (last.sequence < newest).then(|| now.duration_since(last.time).unsigned_abs());
        let live = state.sessions.iter().filter(|(session, _)| session.expires_at > now);
        Ok(StoreStats {
            clusters: state.clusters.iter().map(|(cluster, _)| (cluster.id, cluster.status)).collect(),
            sessions: live.count() as u64,
            audit_sequence: newest.unsigned_abs(),
            audit_unsigned: unsigned.unwrap_or(Duration::ZERO),
        })
    }

    fn pools(&self) -> Vec<PoolStats> {
        Vec::new()
    }

    fn is_audit_signed(&self) -> bool {
        true
    }

    fn failed_audit_entries(&self) -> u64 {
        0
    }
}
