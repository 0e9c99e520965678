//! Removing the oldest part of a trail, in both databases.

#![allow(clippy::unwrap_used, reason = "tests panic")]

mod common;

use std::sync::Arc;

use common::{FINGERPRINT, Place, Ring, operation, user, verdict};
use pilothouse_core::{
    Cause,
    access::Permit,
    audit::{
        AuditTrail as _, Checkpoint, Cursor, Fault, Outcome, Retention as _, TrailReader as _, TrailStart,
    },
    clock::Clock as _,
    testing::contract::StorePorts,
    user::UserRegistry as _,
};
use pilothouse_store::Store;

/// Two hundred operations, a checkpoint after each fifty.
async fn filled(place: &Place) -> (Store, StorePorts) {
    let store = place.open().await;
    let ports = StorePorts::over(Arc::new(store.clone()));
    for n in 1..=200 {
        let one = operation(&ports);
        store.begin(&one).await.unwrap();
        store.finish(one.id, &Outcome::success(ports.now())).await.unwrap();
        if n % 50 == 0 {
            place.clock.advance(Checkpoint::AGE);
            store.checkpoint(Checkpoint::AGE).await.unwrap();
        }
    }
    (store, ports)
}

fn pruning(ports: &StorePorts, beginning: &TrailStart) -> Permit {
    ports.permit(TrailStart::access(1, beginning.head().sequence))
}

/// The beginning after the checkpoint in this place.
async fn beginning(place: &Place, store: &Store, which: usize) -> TrailStart {
    let stored = store.checkpoints(0, 100).await.unwrap().remove(which);
    let checkpoint = Checkpoint::parse(&stored.line).unwrap();
    TrailStart::after(&checkpoint, &Ring::signer(FINGERPRINT), place.clock.now())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_part_goes_whole_and_the_rest_verifies() {
    for place in Place::all() {
        let (store, ports) = filled(&place).await;
        let checkpoints = store.checkpoints(0, 100).await.unwrap();
        let first = beginning(&place, &store, 0).await;
        let through = first.head().sequence;
        assert_eq!(store.remove(&pruning(&ports, &first), &first).await.unwrap(), through.unsigned_abs());
        let verdict_ = verdict(&store).await;
        assert_eq!((verdict_.first_bad, verdict_.removed), (None, through.unsigned_abs()));
        let rows = place.count("SELECT count(*) AS n FROM operations").await;
        let began = (through + 1) / 2;
        assert_eq!(rows, 200 - began + 1, "what began there is gone, the removal is new");
        assert_eq!(place.count("SELECT max(id) AS n FROM operations").await, 201, "no id is used again");
        assert_eq!(store.checkpoints(0, 100).await.unwrap(), checkpoints, "nothing before it to remove");
        assert_eq!(store.beginning().await.unwrap().as_deref(), Some(&*first.line().unwrap()));

        // a later one, over the first; and neither again
        let later = beginning(&place, &store, 2).await;
        assert!(store.remove(&pruning(&ports, &later), &later).await.unwrap() > 0);
        for done in [&first, &later] {
            assert_eq!(store.remove(&pruning(&ports, done), done).await.unwrap(), 0);
        }
        assert_eq!(store.checkpoints(0, 100).await.unwrap(), checkpoints[2..]);
        let verdict_ = verdict(&store).await;
        assert_eq!((verdict_.first_bad, verdict_.removed), (None, later.head().sequence.unsigned_abs()));

        // what is left is as safe as before
        for cut in
            ["DELETE FROM audit_log", "DELETE FROM audit_checkpoints", "UPDATE audit_log SET body = ''"]
        {
            let refused = place.execute(cut).await.unwrap_err();
            assert!(refused.contains("only ever added to"), "{refused}");
        }
        assert_eq!(verdict(&store).await.first_bad, None);
        store.create(&ports.people(), user(&ports, "somebody")).await.unwrap();
        place.execute("DELETE FROM audit_beginning").await.unwrap();
        let bad = verdict(&store).await.first_bad.unwrap();
        assert_eq!((bad.sequence, bad.fault), (1, Fault::EntryMissing));
    }
}

/// A replica that has not looked for a while remembers what was removed meanwhile: it does not miss it.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_does_not_miss_what_another_one_removed() {
    for place in Place::all() {
        let idle = place.open().await;
        let idle_ports = StorePorts::over(Arc::new(idle.clone()));
        idle.record(&operation(&idle_ports), &Outcome::success(place.clock.now())).await.unwrap();
        idle.checkpoint(Checkpoint::AGE).await.unwrap();
        let (store, ports) = filled(&place).await;
        let beginning = beginning(&place, &store, 2).await;
        store.remove(&pruning(&ports, &beginning), &beginning).await.unwrap();
        place.clock.advance(Checkpoint::AGE);
        idle.checkpoint(Checkpoint::AGE).await.unwrap();
        assert!(idle.is_audit_signed());
        let verdict = verdict(&idle).await;
        assert_eq!((verdict.first_bad, verdict.unsigned), (None, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_chain_than_the_one_that_was_kept_stays() {
    for place in Place::all() {
        let (store, ports) = filled(&place).await;
        let stored = store.checkpoints(0, 100).await.unwrap().remove(0);
        let mut checkpoint = Checkpoint::parse(&stored.line).unwrap();
        checkpoint.hash.0[0] ^= 1;
        let forged = TrailStart::after(&checkpoint, &Ring::signer(FINGERPRINT), place.clock.now());
        let refused = store.remove(&pruning(&ports, &forged), &forged).await.unwrap_err();
        assert_eq!(refused.cause, Cause::Internal);
        let verdict = verdict(&store).await;
        assert_eq!((verdict.first_bad, verdict.removed, verdict.entries), (None, 0, 400));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_pending_is_known() {
    for place in Place::all() {
        let (store, ports) = filled(&place).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn of_those_who_live_one_tells() {
    for place in Place::all() {
        let (one, two) = (place.open().await, place.open().await);
        one.take_lease(place.clock.now()).await.unwrap();
        let at = || place.clock.now();
        let nothing = Cursor::default();
        assert_eq!(one.claim_delivery("webhook", at()).await.unwrap(), Some(nothing));
        assert_eq!(two.claim_delivery("webhook", at()).await.unwrap(), None);
        let told = Cursor { sequence: 7, checkpoint: 5 };
        assert!(one.save_cursor("webhook", told).await.unwrap());
        assert!(!two.save_cursor("webhook", Cursor { sequence: 9, checkpoint: 9 }).await.unwrap());
        assert_eq!(two.cursor("webhook").await.unwrap(), told);
        assert_eq!(two.cursor("another").await.unwrap(), nothing);
        place.let_leases_run_out().await;
        assert_eq!(
            two.claim_delivery("webhook", at()).await.unwrap(),
            Some(told),
            "it goes on where the other was"
        );
        assert!(!one.save_cursor("webhook", Cursor { sequence: 8, checkpoint: 5 }).await.unwrap());
    }
}
