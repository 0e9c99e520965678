//! Prober: probes every cluster at an interval and updates its status. Each probe runs in a separate task, so
//! an unreachable cluster does not delay the probes of others. Replicas share the probes: each claims due ones.

use std::{sync::Arc, time::Duration};

use pilothouse_core::{clock::Clock, cluster::Clusters, coordinator::Coordinator, ids::ClusterId};
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

/// The prober.
pub(crate) struct Prober {
    pub(crate) clusters: Clusters,
    pub(crate) coordinator: Arc<dyn Coordinator>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Interval between two probes of a cluster. At least the deadline of a probe, because a probe that starts during
    /// another one joins it.
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
        match self.coordinator.claim_probes(self.interval, free.len(), self.clock.now()).await {
            Ok(due) => due.into_iter().zip(free).for_each(|(id, slot)| self.start_probe(id, slot)),
            Err(error) => {
                tracing::warn!(%error, "cannot claim the due probes of clusters: check the database; retried every second");
            }
        }
    }

    fn start_probe(&self, id: ClusterId, slot: OwnedSemaphorePermit) {
        let clusters = self.clusters.clone();
        tokio::spawn(async move {
            if let Err(error) = clusters.refresh(id).await {
                tracing::warn!(
                    cluster = %id, %error, "cannot probe the cluster; the next probe follows after the probe interval"
                );
            }
            drop(slot);
        });
    }
}

#[cfg(test)]
mod tests {
    use pilothouse_core::{
        Cause, Error,
        access::Caller,
        app::{App, AppSettings},
        cluster::{ClusterRegistry as _, Health},
        coordinator::MockCoordinator,
        testing::{
            fake::{Fake, MemoryCoordinator},
            new_cluster,
        },
    };

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(30);

    struct Fixture {
        fake: Fake,
        app: App,
    }

    impl Fixture {
        /// An application with `count` clusters whose probe is due.
        async fn with_due_clusters(count: usize) -> Self {
            let fake = Fake::default();
            let app = App::new(fake.ports(), AppSettings::default());
            for n in 0..count {
                app.clusters.create(&Caller::system(), new_cluster(&format!("cluster-{n}"))).await.unwrap();
            }
            fake.clusters.calls();
            fake.runtime.clock.advance(INTERVAL);
            Self { fake, app }
        }

        /// The prober of a new replica.
        fn prober(&self) -> Prober {
            self.prober_over(MemoryCoordinator::of(self.fake.store.clone()))
        }

        fn prober_over(&self, coordinator: impl Coordinator + 'static) -> Prober {
            Prober {
                clusters: self.app.clusters.clone(),
                coordinator: Arc::new(coordinator),
                clock: self.fake.runtime.clock.clone(),
                interval: INTERVAL,
            }
        }

        /// Number of probes since the previous call.
        fn probes(&self) -> usize {
            self.fake.clusters.calls().len()
        }

        async fn health(&self) -> Vec<Health> {
            self.fake.store.list().await.unwrap().into_iter().map(|cluster| cluster.status).collect()
        }
    }

    fn slots(count: usize) -> Arc<Semaphore> {
        Arc::new(Semaphore::new(count))
    }

    /// Waits until no probe holds one of these slots.
    async fn all_free(slots: &Semaphore, count: u32) {
        drop(slots.acquire_many(count).await.unwrap());
    }

    #[tokio::test]
    async fn each_due_cluster_is_probed_by_one_replica() {
        let fixture = Fixture::with_due_clusters(5).await;
        let (one, two) = (fixture.prober(), fixture.prober());
        for _ in 0..2 {
            let slots = slots(8);
            for prober in [&one, &two, &one] {
                prober.start_due_probes(&slots).await;
            }
            all_free(&slots, 8).await;
            assert_eq!(fixture.probes(), 5);
            fixture.fake.runtime.clock.advance(INTERVAL);
        }
    }

    #[tokio::test]
    async fn no_more_probes_are_claimed_than_slots_are_free() {
        let fixture = Fixture::with_due_clusters(5).await;
        let slots = slots(3);
        let running = slots.clone().try_acquire_owned().unwrap();
        fixture.prober().start_due_probes(&slots).await;
        all_free(&slots, 2).await;
        assert_eq!(fixture.probes(), 2);
        drop(running);
        fixture.prober().start_due_probes(&slots).await;
        all_free(&slots, 3).await;
        assert_eq!(fixture.probes(), 3, "the other probes stay due, for any replica");
    }

    #[tokio::test]
    async fn no_probe_is_claimed_without_a_free_slot() {
        let fixture = Fixture::with_due_clusters(1).await;
        let slots = slots(1);
        let _running = slots.clone().try_acquire_owned().unwrap();
        // a mock without expectations panics when it is called
        fixture.prober_over(MockCoordinator::new()).start_due_probes(&slots).await;
    }

    #[tokio::test]
    async fn failed_probes_release_their_slots() {
        let fixture = Fixture::with_due_clusters(2).await;
        let slots = slots(4);
        let mut unavailable = MockCoordinator::new();
        unavailable.expect_claim_probes().returning(|_, _, _| Err(Error::new(Cause::StoreUnavailable)));
        fixture.prober_over(unavailable).start_due_probes(&slots).await;
        assert_eq!((slots.available_permits(), fixture.probes()), (4, 0), "the claim failed");

        let mut absent = MockCoordinator::new();
        absent.expect_claim_probes().returning(|_, _, _| Ok(vec![ClusterId(99)]));
        fixture.prober_over(absent).start_due_probes(&slots).await;
        all_free(&slots, 4).await;
        assert_eq!(fixture.probes(), 0, "the cluster was deleted meanwhile");

        assert_eq!(fixture.health().await, [Health::Online; 2]);
        fixture.fake.clusters.fail(Some(Cause::Unreachable));
        fixture.prober().start_due_probes(&slots).await;
        all_free(&slots, 4).await;
        assert_eq!(
            fixture.health().await,
            [Health::Offline; 2],
            "a cluster that does not respond is no error"
        );
    }
}
