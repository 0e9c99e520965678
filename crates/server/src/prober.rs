//! Keeps every cluster's status fresh. Each cluster is visited on its own: a dead one delays nothing. Replicas share the
//! visits: the database gives each to one of them.

use std::{sync::Arc, time::Duration};

use pilothouse_core::{
    clock::Clock,
    cluster::{ClusterId, Clusters},
};
use pilothouse_store::Store;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

/// Visits at once. Each takes as long as a test may take at most, so 500 clusters, all of them dead, are visited
/// within 40 s.
const AT_ONCE: usize = 64;

/// How often to look which visits are due.
const LOOK: Duration = Duration::from_secs(1);

/// Visits clusters.
pub(crate) struct Prober {
    pub(crate) clusters: Clusters,
    pub(crate) store: Store,
    pub(crate) clock: Arc<dyn Clock>,
    /// The time between two visits of a cluster. A visit must be over in it, or the next one would join it.
    pub(crate) interval: Duration,
}

impl Prober {
    /// Visits every cluster that is due, until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.start_visits(&places).await,
                () = stop.cancelled() => return,
            }
        }
    }

    /// Claims no more than can start now: the rest is for another replica, or for later.
    async fn start_visits(&self, places: &Arc<Semaphore>) {
        let free: Vec<_> = std::iter::from_fn(|| places.clone().try_acquire_owned().ok()).collect();
        if free.is_empty() {
            return;
        }
        match self.store.claim_probes(self.interval, free.len(), self.clock.now()).await {
            Ok(due) => due.into_iter().zip(free).for_each(|(id, place)| self.start_visit(id, place)),
            Err(error) => tracing::warn!(%error, "cannot read which clusters to probe"),
        }
    }

    fn start_visit(&self, id: ClusterId, place: OwnedSemaphorePermit) {
        let clusters = self.clusters.clone();
        tokio::spawn(async move {
            if let Err(error) = clusters.refresh(id).await {
                tracing::warn!(cluster = %id, %error, "cannot probe");
            }
            drop(place);
        });
    }
}
