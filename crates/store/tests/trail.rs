//! The chain, and what is left pending.

mod common;

use std::{sync::Arc, time::Duration};

use common::{Place, operation, user, verify};
use futures_util::future::join_all;
use pilothouse_core::{
    audit::{AuditTrail as _, Entry, Outcome, Status},
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
    for place in Place::all().await {
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
        place.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_holds_the_operation_to_the_byte() {
    for place in Place::all().await {
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
        place.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chain_is_only_ever_added_to() {
    for place in Place::all().await {
        let store = place.open().await;
        let ports = ports(&store);
        store.begin(&operation(&ports)).await.unwrap();
        for change in ["UPDATE audit_log SET body = ''", "DELETE FROM audit_log"] {
            let refused = place.execute(change).await.unwrap_err();
            assert!(refused.contains("only ever added to"), "{refused}");
        }
        verify(&place.entries().await);
        place.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_ended_process_left_pending_is_closed_as_unknown() {
    for place in Place::all().await {
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
        place.clock.advance(Store::LEASE);
        assert_eq!(other.close_orphans(place.clock.now()).await.unwrap(), 1);
        assert_eq!(other.close_orphans(place.clock.now()).await.unwrap(), 0);

        // it was only slow: what was said of its operation stands
        ended.finish(left.id, &outcome).await.unwrap();
        let rows = ports_of_ended.operations().await;
        let statuses = [&left, &done, &own]
            .map(|one| rows.iter().find(|row| row.operation_id == one.id).unwrap().status);
        assert_eq!(statuses, [Status::Unknown, Status::Success, Status::Pending]);
        verify(&place.entries().await);
        place.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_lease_keeps_what_is_pending() {
    for place in Place::all().await {
        let (slow, other) = (place.open().await, place.open().await);
        slow.take_lease(place.clock.now()).await.unwrap();
        slow.begin(&operation(&ports(&slow))).await.unwrap();
        for _ in 0..5 {
            place.clock.advance(Duration::from_secs(10));
            slow.renew_lease(place.clock.now()).await.unwrap();
            assert_eq!(other.close_orphans(place.clock.now()).await.unwrap(), 0);
        }
        place.remove().await;
    }
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
