//! Audit trail: chain, checkpoints, orphans and totals.

#![allow(
    clippy::disallowed_methods,
    reason = "the database uses the system clock, so a test that compares with it does, too"
)]
#![allow(clippy::unwrap_used, reason = "tests panic")]

mod common;

use std::sync::Arc;

use common::{TestDatabase, operation, user, verdict, verify};
use futures_util::future::join_all;
use jiff::Timestamp;
use pilothouse_core::{
    audit::{AuditMaintenance as _, AuditQuery as _, Checkpoint, Fault, OperationQuery, TrailReader as _},
    clock::Clock as _,
    coordinator::Coordinator as _,
    operation::{AuditWriter as _, Entry, Outcome, Status},
    testing::contract::StorePorts,
    user::UserRegistry as _,
};
use pilothouse_store::Store;

fn ports(store: &Store) -> StorePorts {
    StorePorts::over(Arc::new(store.clone()))
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writers_leave_no_gap_in_the_chain() {
    for db in TestDatabase::all() {
        // two processes on one database, each with intents, outcomes and changes to Pilothouse's own tables, all
        // concurrent
        let stores = [db.open().await, db.open().await];
        let ports = ports(&stores[0]);
        let outcome = Outcome::success(ports.now());
        let alone = (0..60).map(|n| (operation(&ports), &stores[n % 2])).map(async |(operation, store)| {
            store.begin(&operation).await.unwrap();
            store.finish(operation.id, &outcome).await.unwrap();
        });
        let own = (0..20).map(async |n: usize| {
            stores[n % 2].create(&ports.people(), user(&ports, &format!("user-{n}"))).await.unwrap();
        });
        tokio::join!(join_all(alone), join_all(own));

        let entries = db.entries().await;
        verify(&entries);
        let count = |kind: &str| entries.iter().filter(|entry| entry.entry == kind).count();
        assert_eq!((count("intent"), count("outcome"), count("complete")), (60, 60, 20));
        assert_eq!(db.count("SELECT count(*) AS n FROM operations").await, 80);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn entry_body_equals_canonical_operation() {
    for db in TestDatabase::all() {
        let store = db.open().await;
        let ports = ports(&store);
        let (operation, outcome) = (operation(&ports), Outcome::success(ports.now()));
        store.begin(&operation).await.unwrap();
        store.finish(operation.id, &outcome).await.unwrap();
        let entries = db.entries().await;
        let expected = [
            Entry::Intent { operation: operation.clone() },
            Entry::Outcome { operation_id: operation.id, outcome },
        ];
        for (entry, expected) in entries.iter().zip(&expected) {
            assert_eq!(entry.body, expected.canonical().unwrap());
            assert_eq!(serde_json::from_str::<Entry>(&entry.body).unwrap(), *expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chain_is_append_only() {
    for db in TestDatabase::all() {
        let store = db.open().await;
        let ports = ports(&store);
        store.begin(&operation(&ports)).await.unwrap();
        let before = db.entries().await.len();
        for change in ["UPDATE audit_log SET body = ''", "DELETE FROM audit_log"] {
            db.execute(change).await.unwrap_err();
        }
        let entries = db.entries().await;
        assert_eq!(entries.len(), before);
        verify(&entries);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pending_operations_of_an_ended_process_become_unknown() {
    for db in TestDatabase::all() {
        let ended = db.open().await;
        ended.take_lease(db.clock.now()).await.unwrap();
        let ports_of_ended = ports(&ended);
        let (left, done) = (operation(&ports_of_ended), operation(&ports_of_ended));
        for operation in [&left, &done] {
            ended.begin(operation).await.unwrap();
        }
        let outcome = Outcome::success(ports_of_ended.now());
        ended.finish(done.id, &outcome).await.unwrap();

        // while the lease is valid, its process may be running
        let other = db.open().await;
        assert_eq!(other.close_orphans(db.clock.now()).await.unwrap(), 0);
        let own = operation(&ports_of_ended);
        other.begin(&own).await.unwrap();
        db.expire_leases().await;
        assert_eq!(other.close_orphans(db.clock.now()).await.unwrap(), 1);
        assert_eq!(other.close_orphans(db.clock.now()).await.unwrap(), 0);

        // the process was slow and had not ended: the outcome `unknown` stays
        ended.finish(left.id, &outcome).await.unwrap();
        let rows = ports_of_ended.operations().await;
        let statuses = [&left, &done, &own]
            .map(|one| rows.iter().find(|row| row.operation_id == one.id).unwrap().status);
        assert_eq!(statuses, [Status::Unknown, Status::Success, Status::Pending]);
        verify(&db.entries().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn renewed_lease_keeps_operations_pending() {
    for db in TestDatabase::all() {
        let (slow, other) = (db.open().await, db.open().await);
        slow.take_lease(db.clock.now()).await.unwrap();
        slow.begin(&operation(&ports(&slow))).await.unwrap();
        for _ in 0..3 {
            db.expire_leases().await;
            slow.renew_lease(db.clock.now()).await.unwrap();
            assert_eq!(other.close_orphans(db.clock.now()).await.unwrap(), 0);
        }
        slow.end_lease().await.unwrap();
        assert_eq!(other.close_orphans(db.clock.now()).await.unwrap(), 1, "the process has ended its lease");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_operation_before_lease_renewal_is_no_orphan() {
    let Some(db) = TestDatabase::postgres() else { return };
    let (back, other) = (db.open().await, db.open().await);
    back.take_lease(db.clock.now()).await.unwrap();
    db.expire_leases().await;
    let mut fresh = operation(&ports(&back));
    fresh.created_at = Timestamp::now();
    back.begin(&fresh).await.unwrap();
    assert_eq!(other.close_orphans(db.clock.now()).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_has_one_server_and_closes_orphans_at_once() {
    let db = TestDatabase::sqlite();
    let first = db.open().await;
    first.take_lease(db.clock.now()).await.unwrap();
    first.begin(&operation(&ports(&first))).await.unwrap();
    let second = db.open().await;
    assert!(!second.take_lease(db.clock.now()).await.unwrap());
    drop(first);
    assert!(second.take_lease(db.clock.now()).await.unwrap());
    assert_eq!(second.close_orphans(db.clock.now()).await.unwrap(), 1, "without waiting for a lease");
}

/// A store with operations of each sort, more than fit between two checkpoints.
async fn filled_store(db: &TestDatabase) -> Store {
    let store = db.open().await;
    let ports = ports(&store);
    let outcome = Outcome::success(ports.now());
    let many = (0..700).map(|_| operation(&ports)).map(async |operation| {
        store.begin(&operation).await.unwrap();
        store.finish(operation.id, &outcome).await.unwrap();
    });
    join_all(many).await;
    store.create(&ports.people(), user(&ports, "somebody")).await.unwrap();
    store.begin(&operation(&ports)).await.unwrap();
    db.clock.advance(Checkpoint::AGE);
    store.checkpoint(Checkpoint::AGE).await.unwrap();
    store
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_cover_every_entry_and_are_signed_once() {
    for db in TestDatabase::all() {
        let store = filled_store(&db).await;
        store.checkpoint(Checkpoint::AGE).await.unwrap();
        let checkpoints = store.checkpoints(0, 100).await.unwrap();
        let covered: Vec<_> = checkpoints.iter().map(|stored| stored.sequence).collect();
        let gaps = covered.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(gaps.into_iter().all(|gap| (1..=Checkpoint::EVERY).contains(&gap)), "{covered:?}");
        assert_eq!(covered.last(), Some(&1402), "the last entry was signed when it was a minute old");
        let verdict = verdict(&store).await;
        assert_eq!((verdict.first_bad, verdict.entries), (None, 1402));
        assert_eq!(verdict.checkpoints, covered.len() as u64);
    }
}

/// The core crate tests 10,000 random edits. These cases show that verification reads every column and row of the
/// database.
#[tokio::test(flavor = "multi_thread")]
async fn edits_of_the_database_are_detected() {
    for db in TestDatabase::all() {
        let store = filled_store(&db).await;
        let sqlite = matches!(db.database, pilothouse_store::Database::Sqlite(_));
        let unlock = if sqlite {
            "DROP TRIGGER audit_log_is_never_changed; DROP TRIGGER audit_log_is_never_cut; \
             DROP TRIGGER audit_checkpoints_are_never_changed; DROP TRIGGER audit_checkpoints_are_never_cut;"
        } else {
            "DROP TRIGGER audit_log_is_never_changed ON audit_log; \
             DROP TRIGGER audit_checkpoints_are_never_changed ON audit_checkpoints;"
        };
        db.execute(unlock).await.unwrap();
        let cases = [
            // statement, statement that reverts it, and the expected finding
            (
                "UPDATE audit_log SET operation_id = 'x' || operation_id WHERE seq = 900",
                "UPDATE audit_log SET operation_id = substr(operation_id, 2) WHERE seq = 900",
                900,
                Fault::EntryColumn,
            ),
            (
                "UPDATE audit_log SET body = replace(body, 'entry', 'Entry') WHERE seq = 701",
                "UPDATE audit_log SET body = replace(body, 'Entry', 'entry') WHERE seq = 701",
                701,
                Fault::EntryChanged,
            ),
            (
                "UPDATE audit_log SET seq = 9999 WHERE seq = 1300",
                "UPDATE audit_log SET seq = 1300 WHERE seq = 9999",
                1300,
                Fault::EntryMissing,
            ),
            (
                "UPDATE audit_head SET seq = 1401",
                "UPDATE audit_head SET seq = 1402",
                1401,
                Fault::HeadDiffers,
            ),
            (
                "UPDATE operations SET username = 'mallory' WHERE id = 702",
                "UPDATE operations SET username = 'system' WHERE id = 702",
                1402,
                Fault::RowChanged,
            ),
            (
                "UPDATE operations SET searched = 'Web' WHERE id = 702",
                "UPDATE operations SET searched = 'web' WHERE id = 702",
                1402,
                Fault::RowChanged,
            ),
            (
                "UPDATE operations SET status = 'success' WHERE id = 702",
                "UPDATE operations SET status = 'pending' WHERE id = 702",
                1402,
                Fault::RowChanged,
            ),
            (
                "UPDATE operations SET id = 5000 WHERE id = 701",
                "UPDATE operations SET id = 701 WHERE id = 5000",
                1401,
                Fault::RowMissing,
            ),
            (
                "UPDATE audit_checkpoints SET line = line || ' ' WHERE seq = 1402",
                "UPDATE audit_checkpoints SET line = substr(line, 1, length(line) - 1) WHERE seq = 1402",
                1402,
                Fault::CheckpointForged,
            ),
            (
                "UPDATE audit_checkpoints SET seq = 1403 WHERE seq = 1402",
                "UPDATE audit_checkpoints SET seq = 1402 WHERE seq = 1403",
                1402,
                Fault::CheckpointForged,
            ),
        ];
        for (edit, revert, sequence, fault) in cases {
            if !sqlite && edit.contains("operations SET id") {
                // PostgreSQL refuses updates of GENERATED ALWAYS columns
                continue;
            }
            db.execute(edit).await.unwrap();
            let after_edit = verdict(&store).await;
            let bad = after_edit.first_bad.unwrap_or_else(|| panic!("{edit}: not found"));
            if fault == Fault::CheckpointForged {
                assert!(matches!(bad.fault, Fault::CheckpointForged | Fault::TailCut), "{edit}: {bad:?}");
            } else {
                assert_eq!((bad.sequence, bad.fault), (sequence, fault), "{edit}: {bad:?}");
            }
            db.execute(revert).await.unwrap();
            assert_eq!(verdict(&store).await.first_bad, None, "{revert}");
        }
        if sqlite {
            db.execute(
                "UPDATE audit_log SET body = CAST(x'ff' AS TEXT), at = 9223372036854775807 WHERE seq = 3",
            )
            .await
            .unwrap();
            assert_eq!(verdict(&store).await.first_bad.map(|bad| bad.fault), Some(Fault::EntryChanged));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_stay_exact_while_rows_and_outcomes_are_added() {
    for db in TestDatabase::all() {
        // each store has its own cached counts
        let stores = [db.open().await, db.open().await];
        let ports = ports(&stores[0]);
        let mut pending = Vec::new();
        for n in 0..40 {
            let (store, operation) = (&stores[n % 2], operation(&ports));
            let outcome = Outcome::success(ports.now());
            match n % 4 {
                0 | 1 => {
                    store.begin(&operation).await.unwrap();
                    pending.push(operation.id);
                }
                2 => store.record(&operation, &outcome).await.unwrap(),
                // finishes an older or a newer operation
                _ => {
                    let id = pending.swap_remove((n / 4) % pending.len());
                    store.finish(id, &outcome).await.unwrap();
                }
            }
            let middle = (n / 2 + 1).to_string();
            let cases: [(&[(&str, &str)], String); 6] = [
                (&[], "TRUE".into()),
                (&[("status", "pending")], "status = 'pending'".into()),
                (&[("status", "success")], "status = 'success'".into()),
                (&[("status", "failed")], "status = 'failed'".into()),
                (&[("before", &middle)], format!("id < {middle}")),
                (
                    &[("status", "success"), ("before", &middle)],
                    format!("status = 'success' AND id < {middle}"),
                ),
            ];
            for (pairs, condition) in cases {
                let pairs: Vec<_> =
                    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
                let query = OperationQuery::parse(&pairs).unwrap();
                let sql = format!("SELECT count(*) AS n FROM operations WHERE {condition}");
                let counted = db.count(&sql).await;
                for store in &stores {
                    let total = store.operations(&query).await.unwrap().pagination.total;
                    assert_eq!(i64::try_from(total).unwrap(), counted, "{n}: {pairs:?}");
                }
            }
        }
    }
}
