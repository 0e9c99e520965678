use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;

use super::{MemoryStore, State};
use crate::{
    audit::Cursor,
    coordinator::{Coordinator, LEASE},
    error::Result,
    ids::ClusterId,
};

/// The leases and claims of one replica on a [`MemoryStore`]. Any number of replicas can share the store. Leases are
/// measured by the argument `at`.
pub struct MemoryCoordinator {
    store: Arc<MemoryStore>,
    replica: u64,
}

impl MemoryCoordinator {
    /// A new replica on this store.
    pub fn of(store: Arc<MemoryStore>) -> Self {
        let replica = {
            let mut state = store.lock();
            state.replicas += 1;
            state.replicas
        };
        Self { store, replica }
    }
}

#[async_trait]
impl Coordinator for MemoryCoordinator {
    async fn take_lease(&self, at: Timestamp) -> Result<bool> {
        self.renew_lease(at).await.map(|()| true)
    }

    async fn renew_lease(&self, at: Timestamp) -> Result<()> {
        self.store.lock().leases.insert(self.replica, at + LEASE);
        Ok(())
    }

    async fn end_lease(&self) -> Result<()> {
        self.store.lock().leases.remove(&self.replica);
        Ok(())
    }

    async fn claim_probes(&self, interval: Duration, limit: usize, at: Timestamp) -> Result<Vec<ClusterId>> {
        let mut state = self.store.lock();
        let State { clusters, probe_claims, .. } = &mut *state;
        let last_claims = clusters.iter().map(|(cluster, _)| {
            (probe_claims.get(&cluster.id).copied().unwrap_or(cluster.created_at), cluster.id)
        });
        let is_due = |(last, _): &(Timestamp, ClusterId)| *last <= at - interval || *last > at + interval;
        let mut due: Vec<_> = last_claims.filter(is_due).collect();
        due.sort_unstable();
        due.truncate(limit);
        probe_claims.extend(due.iter().map(|(_, id)| (*id, at)));
        Ok(due.into_iter().map(|(_, id)| id).collect())
    }

    async fn claim_delivery(&self, receiver: &str, at: Timestamp) -> Result<Option<Cursor>> {
        let mut state = self.store.lock();
        let State { leases, receivers, .. } = &mut *state;
        let row = receivers.entry(receiver.to_owned()).or_insert((self.replica, Cursor::default()));
        let (holder, cursor) = *row;
        let is_alive = leases.get(&holder).is_some_and(|expires_at| *expires_at > at);
        if holder != self.replica && is_alive {
            return Ok(None);
        }
        row.0 = self.replica;
        Ok(Some(cursor))
    }

    async fn save_cursor(&self, receiver: &str, cursor: Cursor) -> Result<bool> {
        let mut state = self.store.lock();
        match state.receivers.get_mut(receiver) {
            Some((holder, saved)) if *holder == self.replica => {
                *saved = cursor;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    async fn cursor(&self, receiver: &str) -> Result<Cursor> {
        Ok(self.store.lock().receivers.get(receiver).map(|(_, cursor)| *cursor).unwrap_or_default())
    }
}
