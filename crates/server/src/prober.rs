//! Keeps every cluster's status fresh. Each cluster is visited on its own: a dead one delays nothing.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use pilothouse_core::cluster::{ClusterId, Clusters};
use tokio::{sync::Semaphore, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// Visits at once. Each takes as long as a test may take at most, so 500 clusters, all of them dead, are visited
/// within 40 s.
const AT_ONCE: usize = 64;

/// Visits all clusters every `interval`, until `stop`.
pub(crate) async fn run(clusters: Clusters, interval: Duration, stop: CancellationToken) {
    let prober = Prober { clusters, places: Arc::new(Semaphore::new(AT_ONCE)), under_way: Arc::default() };
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        match prober.clusters.ids().await {
            Ok(ids) => ids.into_iter().for_each(|id| prober.start_visit(id)),
            Err(error) => tracing::warn!(%error, "cannot read the clusters to probe"),
        }
    }
}

#[derive(Clone)]
struct Prober {
    clusters: Clusters,
    places: Arc<Semaphore>,
    under_way: Arc<Mutex<HashSet<ClusterId>>>,
}

impl Prober {
    /// Visits a cluster, unless the last visit is not over.
    fn start_visit(&self, id: ClusterId) {
        if self.under_way().insert(id) {
            let prober = self.clone();
            tokio::spawn(async move { prober.visit(id).await });
        }
    }

    async fn visit(self, id: ClusterId) {
        if let Ok(_place) = self.places.acquire().await
            && let Err(error) = self.clusters.refresh(id).await
        {
            tracing::warn!(cluster = %id, %error, "cannot probe");
        }
        self.under_way().remove(&id);
    }

    fn under_way(&self) -> MutexGuard<'_, HashSet<ClusterId>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
