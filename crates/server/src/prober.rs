//! Keeps every cluster's status fresh. Each cluster is visited on its own: a dead one delays nothing.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use pilothouse_core::cluster::{ClusterId, Clusters};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Visits at once. Each takes as long as a test may take at most, so 500 clusters, all of them dead, are visited
/// within 40 s.
const AT_ONCE: usize = 64;

/// Visits all clusters every `interval`, until `stop`.
pub(crate) async fn run(clusters: Clusters, interval: Duration, stop: CancellationToken) {
    let visits = Arc::new(Semaphore::new(AT_ONCE));
    let under_way = Arc::new(Mutex::new(HashSet::new()));
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        match clusters.ids().await {
            Ok(ids) => ids.into_iter().for_each(|id| visit(&clusters, id, &visits, &under_way)),
            Err(error) => tracing::warn!(%error, "cannot read the clusters to probe"),
        }
    }
}

fn visit(clusters: &Clusters, id: ClusterId, visits: &Arc<Semaphore>, under_way: &Arc<Mutex<HashSet<ClusterId>>>) {
    let lock = |set: &Mutex<HashSet<ClusterId>>, change: fn(&mut HashSet<ClusterId>, ClusterId) -> bool| {
        change(&mut set.lock().unwrap_or_else(PoisonError::into_inner), id)
    };
    if !lock(under_way, HashSet::insert) {
        return; // the last visit is not over
    }
    let (clusters, visits, under_way) = (clusters.clone(), visits.clone(), under_way.clone());
    tokio::spawn(async move {
        if let Ok(_place) = visits.acquire().await
            && let Err(error) = clusters.refresh(id).await
        {
            tracing::warn!(cluster = %id, %error, "cannot probe");
        }
        lock(&under_way, |set, id| set.remove(&id));
    });
}
