//! Probe schedule: one replica at a time claims the probe of a cluster.

#![allow(clippy::unwrap_used, reason = "tests panic")]

mod common;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use common::{TestDatabase, cluster};
use futures_util::future::join_all;
use pilothouse_core::{
    access::{AccessRequest, Resource, Verb},
    clock::Clock as _,
    connection::Credential,
    ids::ClusterId,
    testing::contract::StorePorts,
};
use pilothouse_store::Store;

const INTERVAL: Duration = Duration::from_secs(30);

async fn register(store: &Store, count: usize) -> BTreeSet<ClusterId> {
    let ports = StorePorts::over(Arc::new(store.clone()));
    let mut ids = BTreeSet::new();
    for n in 0..count {
        let name = format!("cluster-{n}");
        let permit = ports.permit(AccessRequest::to(Verb::Create, Resource::Cluster).new_cluster(&name));
        let record = cluster(&ports, &name, Credential::Token("canary".into()));
        ids.insert(ports.clusters.create(&permit, record).await.unwrap().id);
    }
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn each_cluster_is_claimed_once_per_interval() {
    for db in TestDatabase::all() {
        let replicas = [db.open().await, db.open().await, db.open().await];
        let all = register(&replicas[0], 30).await;
        let claim =
            async |store: &Store, limit| store.claim_probes(INTERVAL, limit, db.clock.now()).await.unwrap();
        assert!(claim(&replicas[0], 100).await.is_empty(), "a cluster is probed at registration");
        for _ in 0..3 {
            db.clock.advance(INTERVAL);
            let claimed = join_all(replicas.iter().cycle().take(12).map(|store| claim(store, 4))).await;
            let mut claimed = claimed.concat();
            while claimed.len() < all.len() {
                let more = claim(&replicas[0], 4).await;
                assert!(!more.is_empty() && more.len() <= 4, "{more:?} after {}", claimed.len());
                claimed.extend(more);
            }
            assert_eq!(claimed.len(), all.len(), "no cluster is claimed twice");
            assert_eq!(claimed.into_iter().collect::<BTreeSet<_>>(), all);
            assert!(claim(&replicas[1], 100).await.is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_with_the_oldest_claim_come_first() {
    for db in TestDatabase::all() {
        let store = db.open().await;
        register(&store, 6).await;
        db.clock.advance(INTERVAL);
        let first: BTreeSet<_> =
            store.claim_probes(INTERVAL, 3, db.clock.now()).await.unwrap().into_iter().collect();
        db.clock.advance(INTERVAL);
        let second: BTreeSet<_> =
            store.claim_probes(INTERVAL, 3, db.clock.now()).await.unwrap().into_iter().collect();
        assert!(first.len() == 3 && second.len() == 3 && first.is_disjoint(&second), "{first:?} {second:?}");
    }
}

/// A claim in the future was stored before the clock was set back. The clocks of replicas may differ a little.
#[tokio::test(flavor = "multi_thread")]
async fn clock_set_back_does_not_stop_probes() {
    for db in TestDatabase::all() {
        let store = db.open().await;
        let all = register(&store, 3).await;
        let claim = async |at| -> BTreeSet<_> {
            store.claim_probes(INTERVAL, 100, at).await.unwrap().into_iter().collect()
        };
        let now = db.clock.now();
        assert!(claim(now - INTERVAL).await.is_empty(), "a small clock difference");
        let before = now - 20 * INTERVAL;
        assert_eq!(claim(before).await, all);
        assert!(claim(before).await.is_empty(), "claimed once");
        assert_eq!(claim(before + INTERVAL).await, all);
    }
}
