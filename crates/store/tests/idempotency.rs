//! Idempotency claims beyond the contract tests: contents of the tables, and claims of processes that have ended.

#![allow(clippy::unwrap_used, reason = "tests panic")]

mod common;

use std::{sync::Arc, time::Duration};

use common::TestDatabase;
use futures_util::future::join_all;
use jiff::Timestamp;
use pilothouse_core::{
    access::Principal,
    clock::Clock as _,
    coordinator::Coordinator as _,
    idempotency::{
        Claim, End, IdempotencyKey, IdempotencyStore as _, NewClaim, Progress, Reply, RequestDigest,
    },
    ids::UserId,
    rng::uuid_v7,
};
use pilothouse_store::Store;

fn claim(db: &TestDatabase, key: &str, at: Timestamp) -> NewClaim {
    NewClaim {
        id: uuid_v7(at, &*db.deps.rng),
        owner: Principal::User(UserId(1)),
        key: IdempotencyKey::new(key).unwrap(),
        request: RequestDigest(*b"canary-digest-of-what-was-asked."),
        request_id: None,
        at,
        expires_at: at + Duration::from_secs(24 * 3600),
    }
}

/// The progress of the claim of `key`, as another claim reads it.
async fn progress(db: &TestDatabase, store: &Store, key: &str) -> Progress {
    match store.claim(&claim(db, key, db.clock.now())).await.unwrap() {
        Claim::Taken(earlier) => earlier.progress,
        made => panic!("{made:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn request_and_reply_are_sealed() {
    let db = TestDatabase::sqlite();
    let store = db.open().await;
    let kept = claim(&db, "key", db.clock.now());
    store.claim(&kept).await.unwrap();
    let reply = Reply { status: 200, body: b"canary-answer".to_vec() };
    store.end(kept.id, &End::Answered(reply.clone())).await.unwrap();
    for file in std::fs::read_dir(db.directory.path()).unwrap() {
        let (path, bytes) = (file.as_ref().unwrap().path(), std::fs::read(file.unwrap().path()).unwrap());
        let plain = bytes.windows(7).any(|window| window == b"canary-");
        assert!(!plain, "{} contains a plaintext request or reply", path.display());
    }
    assert_eq!(progress(&db, &store, "key").await, Progress::Answered(reply));
    // a reply moved to another row does not open
    let other = claim(&db, "other", db.clock.now());
    store.claim(&other).await.unwrap();
    let moved = "UPDATE idempotency_keys SET reply = (SELECT reply FROM idempotency_keys WHERE key = 'key') \
        WHERE key = 'other'";
    db.execute(moved).await.unwrap();
    assert!(store.claim(&claim(&db, "other", db.clock.now())).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_concurrent_claims_is_made() {
    for db in TestDatabase::all() {
        let stores = join_all((0..4).map(|_| db.open())).await;
        let claims: Vec<_> = (0..32).map(|_| claim(&db, "key", db.clock.now())).collect();
        let made = claims.iter().enumerate().map(|(i, claim)| stores[i % stores.len()].claim(claim));
        let made = join_all(made).await.into_iter().map(Result::unwrap);
        assert_eq!(made.filter(|made| matches!(made, Claim::Made { .. })).count(), 1);
        drop(stores);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_of_an_ended_process_are_unknown() {
    for db in TestDatabase::all() {
        let (first, second) = (db.open().await, db.open().await);
        let now = db.clock.now();
        first.renew_lease(now).await.unwrap();
        first.claim(&claim(&db, "key", now)).await.unwrap();
        assert_eq!(progress(&db, &first, "key").await, Progress::Running);
        assert_eq!(
            progress(&db, &second, "key").await,
            Progress::Running,
            "the lease of the claiming process is valid"
        );
        db.expire_leases().await;
        assert_eq!(progress(&db, &second, "key").await, Progress::Unknown);
        assert_eq!(progress(&db, &first, "key").await, Progress::Running, "a claim of this process");
        drop((first, second));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_remove_expired_claims() {
    for db in TestDatabase::all() {
        let store = Arc::new(db.open().await);
        let old = db.clock.now();
        for key in 0..40 {
            store.claim(&claim(&db, &format!("old-{key}"), old)).await.unwrap();
        }
        db.clock.advance(Duration::from_secs(24 * 3600));
        let rows = async || db.count("SELECT count(*) AS n FROM idempotency_keys").await;
        let now = db.clock.now();
        assert_eq!(rows().await, 40);
        let last = claim(&db, "old-39", now);
        assert!(
            matches!(store.claim(&last).await.unwrap(), Claim::Made { .. }),
            "an expired claim is replaced"
        );
        assert!(rows().await < 30, "a claim removes more than it adds");
        for key in 0..3 {
            store.claim(&claim(&db, &format!("new-{key}"), now)).await.unwrap();
        }
        assert_eq!(rows().await, 4);
        drop(store);
    }
}
