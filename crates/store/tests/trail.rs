//! The chain, and what is left pending.

#![allow(
    clippy::disallowed_methods,
    reason = "a database has the machine's time, so a test that compares has, too"
)]
#![allow(clippy::unwrap_used, reason = "tests panic")]

mod common;

use std::sync::Arc;

use common::{Place, operation, user, verdict, verify};
use futures_util::future::join_all;
use jiff::Timestamp;
use pilothouse_core::{
    audit::{AuditTrail as _, Checkpoint, Entry, Fault, OperationQuery, Outcome, Status, TrailReader as _},
    clock::Clock as _,
    testing::contract::StorePorts,
    user::UserRegistry as _,
};
use pilothouse_store::{OpenError, Store};

fn ports(store: &Store) -> StorePorts {
    StorePorts::over(Arc::new(store.clone()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chain_has_no_gap_whoever_appends() {
    for place in Place::all() {
        // two processes on one database, each with intents, outcomes, and changes to our own tables, all at once
        let stores = [place.open().await, place.open().await];
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

        let entries = place.entries().await;
        verify(&entries);
        let count = |kind: &str| entries.iter().filter(|entry| entry.entry == kind).count();
        assert_eq!((count("intent"), count("outcome"), count("complete")), (60, 60, 20));
        assert_eq!(place.count("SELECT count(*) AS n FROM operations").await, 80);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_holds_the_operation_to_the_byte() {
    for place in Place::all() {
        let store = place.open().await;
        let ports = ports(&store);
        let (operation, outcome) = (operation(&ports), Outcome::success(ports.now()));
        store.begin(&operation).await.unwrap();
        store.finish(operation.id, &outcome).await.unwrap();
        let entries = place.entries().await;
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
async fn the_chain_is_only_ever_added_to() {
    for place in Place::all() {
        let store = place.open().await;
        let ports = ports(&store);
        store.begin(&operation(&ports)).await.unwrap();
        for change in ["UPDATE audit_log SET body = ''", "DELETE FROM audit_log"] {
            let refused = place.execute(change).await.unwrap_err();
            assert!(refused.contains("only ever added to"), "{refused}");
        }
        verify(&place.entries().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_ended_process_left_pending_is_closed_as_unknown() {
    for place in Place::all() {
        let ended = place.open().await;
        ended.take_lease(place.clock.now()).await.unwrap();
        let ports_of_ended = ports(&ended);
        let (left, done) = (operation(&ports_of_ended), operation(&ports_of_ended));
        for operation in [&left, &done] {
            ended.begin(operation).await.unwrap();
        }
        let outcome = Outcome::success(ports_of_ended.now());
        ended.finish(done.id, &outcome).await.unwrap();

        // as long as its lease runs, it may still be at work
        let other = place.open().await;
        assert_eq!(other.close_orphans(place.clock.now()).await.unwrap(), 0);
        let own = operation(&ports_of_ended);
        other.begin(&own).await.unwrap();
        place.let_leases_run_out().await;
        assert_eq!(other.close_orphans(place.clock.now()).await.unwrap(), 1);
        assert_eq!(other.close_orphans(place.clock.now()).await.unwrap(), 0);

        // it was only slow: what was said of its operation stands
        ended.finish(left.id, &outcome).await.unwrap();
        let rows = ports_of_ended.operations().await;
        let statuses = [&left, &done, &own]
            .map(|one| rows.iter().find(|row| row.operation_id == one.id).unwrap().status);
        assert_eq!(statuses, [Status::Unknown, Status::Success, Status::Pending]);
        verify(&place.entries().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_lease_keeps_what_is_pending() {
    for place in Place::all() {
        let (slow, other) = (place.open().await, place.open().await);
        slow.take_lease(place.clock.now()).await.unwrap();
        slow.begin(&operation(&ports(&slow))).await.unwrap();
        for _ in 0..3 {
            place.let_leases_run_out().await;
            slow.renew_lease(place.clock.now()).await.unwrap();
            assert_eq!(other.close_orphans(place.clock.now()).await.unwrap(), 0);
        }
        slow.end_lease().await.unwrap();
        assert_eq!(other.close_orphans(place.clock.now()).await.unwrap(), 1, "it has said that it ends");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_replica_begins_before_it_renews_its_lease_again_is_no_orphan() {
    let Some(place) = Place::postgres() else { return };
    let (back, other) = (place.open().await, place.open().await);
    back.take_lease(place.clock.now()).await.unwrap();
    place.let_leases_run_out().await;
    let mut fresh = operation(&ports(&back));
    fresh.created_at = Timestamp::now();
    back.begin(&fresh).await.unwrap();
    assert_eq!(other.close_orphans(place.clock.now()).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sqlite_file_is_served_once_and_orphans_are_closed_at_once() {
    let place = Place::sqlite();
    let first = place.open().await;
    first.take_lease(place.clock.now()).await.unwrap();
    first.begin(&operation(&ports(&first))).await.unwrap();
    let second = place.open().await;
    let refused = second.take_lease(place.clock.now()).await.unwrap_err();
    assert!(matches!(refused, OpenError::InUse(_)), "{refused}");
    drop(first);
    second.take_lease(place.clock.now()).await.unwrap();
    assert_eq!(second.close_orphans(place.clock.now()).await.unwrap(), 1, "no lease is waited for");
}

/// Operations of each sort, more than fit between two checkpoints.
async fn filled(place: &Place) -> Store {
    let store = place.open().await;
    let ports = ports(&store);
    let outcome = Outcome::success(ports.now());
    let many = (0..700).map(|_| operation(&ports)).map(async |operation| {
        store.begin(&operation).await.unwrap();
        store.finish(operation.id, &outcome).await.unwrap();
    });
    join_all(many).await;
    store.create(&ports.people(), user(&ports, "somebody")).await.unwrap();
    store.begin(&operation(&ports)).await.unwrap();
    place.clock.advance(Checkpoint::AGE);
    store.checkpoint(Checkpoint::AGE).await.unwrap();
    store
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_cover_every_entry_and_are_signed_once() {
    for place in Place::all() {
        let store = filled(&place).await;
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

/// The core's test makes 10,000; these show that what the store reads is what the rules look at.
#[tokio::test(flavor = "multi_thread")]
async fn edits_of_the_database_are_found() {
    for place in Place::all() {
        let store = filled(&place).await;
        let sqlite = matches!(place.database, pilothouse_store::Database::Sqlite(_));
        let unlock = if sqlite {
            "DROP TRIGGER audit_log_is_never_changed; DROP TRIGGER audit_log_is_never_cut; \
             DROP TRIGGER audit_checkpoints_are_never_changed; DROP TRIGGER audit_checkpoints_are_never_cut;"
        } else {
            "DROP TRIGGER audit_log_is_never_changed ON audit_log; \
             DROP TRIGGER audit_checkpoints_are_never_changed ON audit_checkpoints;"
        };
        place.execute(unlock).await.unwrap();
        let cases = [
            // what is done, how it is undone, and what is found
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
        for (done, undone, sequence, fault) in cases {
            if !sqlite && done.contains("operations SET id") {
                // identities are ALWAYS generated there
                continue;
            }
            place.execute(done).await.unwrap();
            let verdict_ = verdict(&store).await;
            let bad = verdict_.first_bad.unwrap_or_else(|| panic!("{done}: not found"));
            if fault == Fault::CheckpointForged {
                assert!(matches!(bad.fault, Fault::CheckpointForged | Fault::TailCut), "{done}: {bad:?}");
            } else {
                assert_eq!((bad.sequence, bad.fault), (sequence, fault), "{done}: {bad:?}");
            }
            place.execute(undone).await.unwrap();
            assert_eq!(verdict(&store).await.first_bad, None, "{undone}");
        }
        if sqlite {
            place
                .execute(
                    "UPDATE audit_log SET body = CAST(x'ff' AS TEXT), at = 9223372036854775807 WHERE seq = 3",
                )
                .await
                .unwrap();
            assert_eq!(verdict(&store).await.first_bad.map(|bad| bad.fault), Some(Fault::EntryChanged));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_stay_exact_while_rows_come_and_outcomes_are_stored() {
    for place in Place::all() {
        // each with a memory of its own
        let stores = [place.open().await, place.open().await];
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
                // the oldest or the newest of them
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
                let counted = place.count(&sql).await;
                for store in &stores {
                    let total = store.operations(&query).await.unwrap().pagination.total;
                    assert_eq!(i64::try_from(total).unwrap(), counted, "{n}: {pairs:?}");
                }
            }
        }
    }
}
