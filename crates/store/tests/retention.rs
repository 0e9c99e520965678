//! Retention: removing the oldest part of the trail, on each database.

#![allow(clippy::unwrap_used, reason = "tests panic")]

mod common;

use std::sync::Arc;

use common::{FINGERPRINT, FakeKeyring, TestDatabase, operation, user, verdict};
use pilothouse_core::{
    Cause,
    access::Permit,
    audit::{AuditMaintenance as _, Checkpoint, Fault, TrailPruner as _, TrailReader as _, TrailStart},
    clock::Clock as _,
    monitor::StoreMonitor as _,
    operation::{AuditWriter as _, Outcome},
    testing::contract::StorePorts,
    user::UserRegistry as _,
};
use pilothouse_store::Store;

/// A store with 200 operations and a checkpoint after every 50.
async fn filled_store(db: &TestDatabase) -> (Store, StorePorts) {
    let store = db.open().await;
    let ports = StorePorts::over(Arc::new(store.clone()));
    for n in 1..=200 {
        let one = operation(&ports);
        store.begin(&one).await.unwrap();
        store.finish(one.id, &Outcome::success(ports.now())).await.unwrap();
        if n % 50 == 0 {
            db.clock.advance(Checkpoint::AGE);
            store.checkpoint(Checkpoint::AGE).await.unwrap();
        }
    }
    (store, ports)
}

fn pruning(ports: &StorePorts, start: &TrailStart) -> Permit {
    ports.permit(TrailStart::access(1, start.head().sequence))
}

/// The start of a trail after the checkpoint with this index.
async fn trail_start(db: &TestDatabase, store: &Store, index: usize) -> TrailStart {
    let stored = store.checkpoints(0, 100).await.unwrap().remove(index);
    let checkpoint = Checkpoint::parse(&stored.line).unwrap();
    TrailStart::after(&checkpoint, &FakeKeyring::signer(FINGERPRINT), db.clock.now())
}

#[tokio::test(flavor = "multi_thread")]
async fn oldest_part_is_removed_and_the_rest_verifies() {
    for db in TestDatabase::all() {
        let (store, ports) = filled_store(&db).await;
        let checkpoints = store.checkpoints(0, 100).await.unwrap();
        let first = trail_start(&db, &store, 0).await;
        let through = first.head().sequence;
        assert_eq!(store.remove(&pruning(&ports, &first), &first).await.unwrap(), through.unsigned_abs());
        let after_removal = verdict(&store).await;
        assert_eq!((after_removal.first_bad, after_removal.removed), (None, through.unsigned_abs()));
        let rows = db.count("SELECT count(*) AS n FROM operations").await;
        let began = (through + 1) / 2;
        assert_eq!(rows, 200 - began + 1, "operations that began there are deleted, the removal is added");
        assert_eq!(db.count("SELECT max(id) AS n FROM operations").await, 201, "no id is reused");
        assert_eq!(store.checkpoints(0, 100).await.unwrap(), checkpoints, "no earlier checkpoint to remove");
        assert_eq!(store.trail_start().await.unwrap().as_deref(), Some(&*first.line().unwrap()));

        // a later removal after the first one; neither is repeated
        let later = trail_start(&db, &store, 2).await;
        assert!(store.remove(&pruning(&ports, &later), &later).await.unwrap() > 0);
        for done in [&first, &later] {
            assert_eq!(store.remove(&pruning(&ports, done), done).await.unwrap(), 0);
        }
        assert_eq!(store.checkpoints(0, 100).await.unwrap(), checkpoints[2..]);
        let after_removal = verdict(&store).await;
        assert_eq!(
            (after_removal.first_bad, after_removal.removed),
            (None, later.head().sequence.unsigned_abs())
        );

        // the rest is still protected
        for cut in
            ["DELETE FROM audit_log", "DELETE FROM audit_checkpoints", "UPDATE audit_log SET body = ''"]
        {
            db.execute(cut).await.unwrap_err();
        }
        assert_eq!(store.checkpoints(0, 100).await.unwrap(), checkpoints[2..]);
        assert_eq!(verdict(&store).await.first_bad, None);
        store.create(&ports.people(), user(&ports, "somebody")).await.unwrap();
        db.execute("DELETE FROM audit_beginning").await.unwrap();
        let bad = verdict(&store).await.first_bad.unwrap();
        assert_eq!((bad.sequence, bad.fault), (1, Fault::EntryMissing));
    }
}

/// A replica with an old verified state accepts that entries were removed meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn replica_accepts_entries_removed_by_another() {
    for db in TestDatabase::all() {
        let idle = db.open().await;
        let idle_ports = StorePorts::over(Arc::new(idle.clone()));
        idle.record(&operation(&idle_ports), &Outcome::success(db.clock.now())).await.unwrap();
        idle.checkpoint(Checkpoint::AGE).await.unwrap();
        let (store, ports) = filled_store(&db).await;
        let start = trail_start(&db, &store, 2).await;
        store.remove(&pruning(&ports, &start), &start).await.unwrap();
        db.clock.advance(Checkpoint::AGE);
        idle.checkpoint(Checkpoint::AGE).await.unwrap();
        assert!(idle.is_audit_signed());
        let verdict = verdict(&idle).await;
        assert_eq!((verdict.first_bad, verdict.unsigned), (None, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn removal_with_a_different_hash_is_refused() {
    for db in TestDatabase::all() {
        let (store, ports) = filled_store(&db).await;
        let stored = store.checkpoints(0, 100).await.unwrap().remove(0);
        let mut checkpoint = Checkpoint::parse(&stored.line).unwrap();
        checkpoint.hash.0[0] ^= 1;
        let forged = TrailStart::after(&checkpoint, &FakeKeyring::signer(FINGERPRINT), db.clock.now());
        let refused = store.remove(&pruning(&ports, &forged), &forged).await.unwrap_err();
        assert_eq!(refused.cause, Cause::Internal);
        let verdict = verdict(&store).await;
        assert_eq!((verdict.first_bad, verdict.removed, verdict.entries), (None, 0, 400));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn oldest_pending_returns_the_first_pending_intent() {
    for db in TestDatabase::all() {
        let (store, ports) = filled_store(&db).await;
        assert_eq!(store.oldest_pending().await.unwrap(), None);
        let (slow, slower) = (operation(&ports), operation(&ports));
        for one in [&slow, &slower] {
            store.begin(one).await.unwrap();
        }
        assert_eq!(store.oldest_pending().await.unwrap(), Some(401));
        store.finish(slow.id, &Outcome::success(ports.now())).await.unwrap();
        assert_eq!(store.oldest_pending().await.unwrap(), Some(402));
    }
}
