//! Probe scheduler: probes every cluster at an interval and updates its status. Each probe is its own task, so an
//! unreachable cluster delays no other. Replicas share the probes: each claims due ones in the database.

use std::{sync::Arc, time::Duration};

use pilothouse_core::{clock::Clock, cluster::Clusters, ids::ClusterId};
use pilothouse_store::Store;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

/// Limit of concurrent probes. A probe takes at most the deadline of a connection test, so 500 unreachable clusters are
/// probed within 40 s.
const MAX_CONCURRENT_PROBES: usize = 64;

/// Interval of polling for due probes.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The probe scheduler.
pub(crate) struct Prober {
    pub(crate) clusters: Clusters,
    pub(crate) store: Store,
    pub(crate) clock: Arc<dyn Clock>,
    /// Interval between two probes of a cluster. At least the deadline of a probe, or the next one would join the
    /// running one.
    pub(crate) interval: Duration,
}

impl Prober {
    /// Probes every due cluster, until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let slots = Arc::new(Semaphore::new(MAX_CONCURRENT_PROBES));
        let mut ticks = tokio::time::interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.start_due_probes(&slots).await,
                () = stop.cancelled() => return,
            }
        }
    }

    /// Claims only as many due probes as there are free slots; the others stay due, for any replica.
    async fn start_due_probes(&self, slots: &Arc<Semaphore>) {
        let free: Vec<_> = std::iter::from_fn(|| slots.clone().try_acquire_owned().ok()).collect();
        if free.is_empty() {
            return;
        }
        match self.store.claim_probes(self.interval, free.len(), self.clock.now()).await {
            Ok(due) => due.into_iter().zip(free).for_each(|(id, slot)| self.start_probe(id, slot)),
            Err(error) => tracing::warn!(%error, "cannot read which clusters to probe"),
        }
    }

    fn start_probe(&self, id: ClusterId, slot: OwnedSemaphorePermit) {
        let clusters = self.clusters.clone();
        tokio::spawn(async move {
            if let Err(error) = clusters.refresh(id).await {
                tracing::warn!(cluster = %id, %error, "cannot probe");
            }
            drop(slot);
        });
    }
}
