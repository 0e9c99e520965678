//! Of all replicas, one visits a cluster at a time.

#![allow(clippy::unwrap_used, reason = "tests panic")]

mod common;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use common::{Place, cluster};
use futures_util::future::join_all;
use pilothouse_core::{
    access::{AccessRequest, Resource, Verb},
    clock::Clock as _,
    cluster::{ClusterId, Credential},
    testing::contract::StorePorts,
};
use pilothouse_store::Store;

const EVERY: Duration = Duration::from_secs(30);

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
async fn each_is_claimed_by_one_replica_an_interval() {
    for place in Place::all() {
        let replicas = [place.open().await, place.open().await, place.open().await];
        let all = register(&replicas[0], 30).await;
        let claim =
            async |store: &Store, limit| store.claim_probes(EVERY, limit, place.clock.now()).await.unwrap();
        assert!(claim(&replicas[0], 100).await.is_empty(), "it was tried when it was registered");
        for _ in 0..3 {
            place.clock.advance(EVERY);
            let claimed = join_all(replicas.iter().cycle().take(12).map(|store| claim(store, 4))).await;
            let mut claimed = claimed.concat();
            while claimed.len() < all.len() {
                let more = claim(&replicas[0], 4).await;
                assert!(!more.is_empty() && more.len() <= 4, "{more:?} after {}", claimed.len());
                claimed.extend(more);
            }
            assert_eq!(claimed.len(), all.len(), "none twice");
            assert_eq!(claimed.into_iter().collect::<BTreeSet<_>>(), all);
            assert!(claim(&replicas[1], 100).await.is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn those_that_have_waited_longest_come_first() {
    for place in Place::all() {
        let store = place.open().await;
        register(&store, 6).await;
        place.clock.advance(EVERY);
        let first: BTreeSet<_> =
            store.claim_probes(EVERY, 3, place.clock.now()).await.unwrap().into_iter().collect();
        place.clock.advance(EVERY);
        let second: BTreeSet<_> =
            store.claim_probes(EVERY, 3, place.clock.now()).await.unwrap().into_iter().collect();
        assert!(first.len() == 3 && second.len() == 3 && first.is_disjoint(&second), "{first:?} {second:?}");
    }
}

/// A visit of the future was noted before the clock was set back. Replicas' clocks may differ a little.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_back_stops_no_visits() {
    for place in Place::all() {
        let store = place.open().await;
        let all = register(&store, 3).await;
        let claim = async |at| -> BTreeSet<_> {
            store.claim_probes(EVERY, 100, at).await.unwrap().into_iter().collect()
        };
        let now = place.clock.now();
        assert!(claim(now - EVERY).await.is_empty(), "a little");
        let before = now - 20 * EVERY;
        assert_eq!(claim(before).await, all);
        assert!(claim(before).await.is_empty(), "once");
        assert_eq!(claim(before + EVERY).await, all);
    }
}
