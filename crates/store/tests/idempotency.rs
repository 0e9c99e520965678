//! Claims of idempotency keys, past the contract: what the tables hold, and whose process is gone.

#![allow(clippy::unwrap_used, reason = "tests panic")]

mod common;

use std::{sync::Arc, time::Duration};

use common::Place;
use futures_util::future::join_all;
use jiff::Timestamp;
use pilothouse_core::{
    clock::{Clock as _, uuid_v7},
    idempotency::{
        Claim, End, IdempotencyKey, IdempotencyStore as _, NewClaim, Progress, Reply, RequestDigest,
    },
    user::UserId,
};
use pilothouse_store::Store;

fn claim(place: &Place, key: &str, at: Timestamp) -> NewClaim {
    NewClaim {
        id: uuid_v7(at, &*place.deps.rng),
        user: UserId(1),
        key: IdempotencyKey::new(key).unwrap(),
        request: RequestDigest(*b"canary-digest-of-what-was-asked."),
        request_id: None,
        at,
        expires_at: at + Duration::from_secs(24 * 3600),
    }
}

/// How far the claim of `key` is, as another claimer is told.
async fn progress(place: &Place, store: &Store, key: &str) -> Progress {
    match store.claim(&claim(place, key, place.clock.now())).await.unwrap() {
        Claim::Taken(earlier) => earlier.progress,
        made => panic!("{made:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_and_answered_is_sealed() {
    let place = Place::sqlite();
    let store = place.open().await;
    let kept = claim(&place, "key", place.clock.now());
    store.claim(&kept).await.unwrap();
    let reply = Reply { status: 200, body: b"canary-answer".to_vec() };
    store.end(kept.id, &End::Answered(reply.clone())).await.unwrap();
    for file in std::fs::read_dir(place.folder.path()).unwrap() {
        let (path, bytes) = (file.as_ref().unwrap().path(), std::fs::read(file.unwrap().path()).unwrap());
        let plain = bytes.windows(7).any(|window| window == b"canary-");
        assert!(!plain, "{} shows what was asked or answered", path.display());
    }
    assert_eq!(progress(&place, &store, "key").await, Progress::Answered(reply));
    // an answer moved to another row does not open there
    let other = claim(&place, "other", place.clock.now());
    store.claim(&other).await.unwrap();
    let moved = "UPDATE idempotency_keys SET reply = (SELECT reply FROM idempotency_keys WHERE key = 'key') \
        WHERE key = 'other'";
    place.execute(moved).await.unwrap();
    assert!(store.claim(&claim(&place, "other", place.clock.now())).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_claims_in_several_processes_one_is_made() {
    for place in Place::all() {
        let stores = join_all((0..4).map(|_| place.open())).await;
        let claims: Vec<_> = (0..32).map(|_| claim(&place, "key", place.clock.now())).collect();
        let made = claims.iter().enumerate().map(|(i, claim)| stores[i % stores.len()].claim(claim));
        let made = join_all(made).await.into_iter().map(Result::unwrap);
        assert_eq!(made.filter(|made| matches!(made, Claim::Made { .. })).count(), 1);
        drop(stores);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_gone_leaves_its_claims_unknown() {
    for place in Place::all() {
        let (first, second) = (place.open().await, place.open().await);
        let now = place.clock.now();
        first.renew_lease(now).await.unwrap();
        first.claim(&claim(&place, "key", now)).await.unwrap();
        assert_eq!(progress(&place, &first, "key").await, Progress::Running);
        assert_eq!(progress(&place, &second, "key").await, Progress::Running, "its lease says that it lives");
        place.let_leases_run_out().await;
        assert_eq!(progress(&place, &second, "key").await, Progress::Unknown);
        assert_eq!(progress(&place, &first, "key").await, Progress::Running, "it knows itself");
        drop((first, second));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_is_removed_in_passing() {
    for place in Place::all() {
        let store = Arc::new(place.open().await);
        let old = place.clock.now();
        for key in 0..40 {
            store.claim(&claim(&place, &format!("old-{key}"), old)).await.unwrap();
        }
        place.clock.advance(Duration::from_secs(24 * 3600));
        let rows = async || place.count("SELECT count(*) AS n FROM idempotency_keys").await;
        let now = place.clock.now();
        assert_eq!(rows().await, 40);
        let last = claim(&place, "old-39", now);
        assert!(matches!(store.claim(&last).await.unwrap(), Claim::Made { .. }), "expired, swept or not");
        assert!(rows().await < 30, "a claim removes more than it adds");
        for key in 0..3 {
            store.claim(&claim(&place, &format!("new-{key}"), now)).await.unwrap();
        }
        assert_eq!(rows().await, 4);
        drop(store);
    }
}
