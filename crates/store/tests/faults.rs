//! What goes wrong around a database.

#![allow(clippy::unwrap_used, reason = "tests panic")]

mod common;

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{Batch as _, Place, cluster, operation, user, verify};
use diesel_async::SimpleAsyncConnection as _;
use futures_util::{future::join_all, poll};
use pilothouse_core::{
    Cause,
    access::{AccessRequest, Resource, Verb},
    audit::AuditTrail as _,
    cluster::{Connections as _, Credential},
    session::{LoginThrottle as _, ThrottleKey},
    testing::contract::StorePorts,
    user::{UserRegistry as _, Username},
};
use secrecy::SecretString;

#[tokio::test(flavor = "multi_thread")]
async fn a_file_locked_from_outside_is_unavailable_until_it_is_free() {
    let place = Place::sqlite();
    let store = place.open().await;
    let ports = StorePorts::over(Arc::new(store.clone()));
    store.create(&ports.people(), user(&ports, "admin")).await.unwrap();

    let mut outside = place.sqlite_connection();
    outside.batch("BEGIN IMMEDIATE").unwrap();
    let started = Instant::now();
    let (operation, permit) = (operation(&ports), ports.people());
    let admin = Username::new("admin").unwrap();
    let (begun, created, read) = tokio::join!(
        store.begin(&operation),
        store.create(&permit, user(&ports, "second")),
        store.credentials(&admin),
    );
    assert!(started.elapsed() < Duration::from_secs(9), "{:?}", started.elapsed());
    let (begun, created) = (begun.unwrap_err(), created.unwrap_err());
    assert_eq!((begun.cause, created.cause), (Cause::AuditUnavailable, Cause::StoreUnavailable));
    assert_eq!(created.context.retry_after, Some(Duration::from_secs(5)));
    assert!(read.unwrap().is_some(), "readers are not held up");

    outside.batch("ROLLBACK").unwrap();
    store.begin(&operation).await.unwrap();
    store.create(&permit, user(&ports, "second")).await.unwrap();
    assert_eq!(ports.operations().await.len(), 3, "what was refused left nothing");
    verify(&place.entries().await);
}

/// Whoever is refused unheard, however often, takes no change its turn at the database.
#[tokio::test(flavor = "multi_thread")]
async fn of_all_attempts_refused_in_a_minute_one_is_written() {
    let place = Place::sqlite();
    let store = place.open().await;
    let ports = StorePorts::over(Arc::new(store.clone()));
    let key = ThrottleKey::account(&Username::new("admin").unwrap());
    let at = |minute: u64| ports.now() + Duration::from_secs(60 * minute);
    assert_eq!(store.refused(&key, at(0)).await.unwrap(), Some(0));

    let mut outside = place.sqlite_connection();
    outside.batch("BEGIN IMMEDIATE").unwrap();
    for _ in 0..10 {
        assert_eq!(store.refused(&key, at(0)).await.unwrap(), None);
    }
    assert_eq!(store.refused(&key, at(1)).await.unwrap_err().cause, Cause::StoreUnavailable);
    outside.batch("ROLLBACK").unwrap();
    assert_eq!(store.refused(&key, at(1)).await.unwrap(), Some(12), "the one that was not written, too");

    // another process has a minute's first of its own, which is not the minute's
    let other = place.open().await;
    for _ in 0..3 {
        assert_eq!(other.refused(&key, at(1)).await.unwrap(), None);
    }
    assert_eq!(store.refused(&key, at(2)).await.unwrap(), Some(2), "what the other has written");
    assert_eq!(other.refused(&key, at(3)).await.unwrap(), Some(3), "and what it had not");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trail_locked_by_a_session_that_hangs_is_unavailable_until_it_is_free() {
    let Some(place) = Place::postgres() else { return };
    let store = place.open().await;
    let ports = StorePorts::over(Arc::new(store.clone()));
    let mut outside = place.postgres_connection().await;
    outside.batch_execute("BEGIN; UPDATE audit_head SET seq = seq").await.unwrap();
    let started = Instant::now();
    let (operation, permit) = (operation(&ports), ports.people());
    let (begun, created, read) =
        tokio::join!(store.begin(&operation), store.create(&permit, user(&ports, "refused")), store.list(),);
    assert!(started.elapsed() < Duration::from_secs(9), "{:?}", started.elapsed());
    let (begun, created) = (begun.unwrap_err(), created.unwrap_err());
    assert_eq!((begun.cause, created.cause), (Cause::AuditUnavailable, Cause::AuditUnavailable));
    assert!(read.unwrap().is_empty(), "readers are not held up, and what was refused left nothing");

    outside.batch_execute("ROLLBACK").await.unwrap();
    store.begin(&operation).await.unwrap();
    verify(&place.entries().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_killed_are_replaced() {
    let Some(place) = Place::postgres() else { return };
    let store = place.open().await;
    for _ in 0..3 {
        let busy = join_all((0..8).map(|_| store.ping())).await;
        assert!(busy.iter().all(Result::is_ok), "{busy:?}");
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
            WHERE datname = current_database() AND application_name = 'pilothouse'";
        place.execute(kill).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        while join_all((0..8).map(|_| store.ping())).await.iter().any(Result::is_err) {
            assert!(Instant::now() < deadline, "still broken");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_gives_up_leaves_whole_changes_only() {
    for place in Place::all() {
        let store = place.open().await;
        let ports = StorePorts::over(Arc::new(store.clone()));
        for n in 0..40 {
            let permit = ports.people();
            let mut change = Box::pin(store.create(&permit, user(&ports, &format!("user-{n}"))));
            // begun, then dropped somewhere in the middle
            for _ in 0..n {
                let _ = poll!(&mut change);
                tokio::task::yield_now().await;
            }
        }
        // the writer is one: after this change nothing of the others is on its way on SQLite
        store.create(&ports.people(), user(&ports, "last")).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let (users, recorded) = tokio::join!(
                place.count("SELECT count(*) AS n FROM users"),
                place.count("SELECT count(*) AS n FROM operations"),
            );
            let bound = place.count("SELECT count(*) AS n FROM bindings").await;
            if users == recorded && users == bound {
                break;
            }
            assert!(Instant::now() < deadline, "{users} users, {bound} bindings, {recorded} operations");
        }
        verify(&place.entries().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_credential_is_readable_in_the_files() {
    let place = Place::sqlite();
    let store = place.open().await;
    let ports = StorePorts::over(Arc::new(store.clone()));
    let secret = |text: &str| SecretString::from(text);
    let certificate = Credential::Certificate { chain: "canary-chain".to_owned(), key: secret("canary-key") };
    for (name, credential) in [("a", Credential::Token(secret("canary-token"))), ("b", certificate)] {
        let permit = ports.permit(AccessRequest::to(Verb::Create, Resource::Cluster).new_cluster(name));
        ports.clusters.create(&permit, cluster(&ports, name, credential)).await.unwrap();
    }
    let files: Vec<_> = fs::read_dir(place.folder.path()).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() >= 2, "the database and its log");
    for file in files {
        let bytes = fs::read(&file).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"canary"), "{}", file.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_moved_to_another_row_does_not_open() {
    for place in Place::all() {
        let store = place.open().await;
        let ports = StorePorts::over(Arc::new(store.clone()));
        let mut ids = Vec::new();
        for name in ["a", "b"] {
            let permit = ports.permit(AccessRequest::to(Verb::Create, Resource::Cluster).new_cluster(name));
            let record = cluster(&ports, name, Credential::Token(SecretString::from("canary")));
            ids.push(ports.clusters.create(&permit, record).await.unwrap().id);
        }
        assert!(store.connection(ids[1]).await.unwrap().is_some());
        let swap = "UPDATE clusters SET credential = (SELECT credential FROM clusters WHERE name = 'a') WHERE name = 'b'";
        place.execute(swap).await.unwrap();
        let refused = store.connection(ids[1]).await.unwrap_err();
        assert_eq!(refused.cause, Cause::Internal);
        assert!(!refused.to_string().contains("canary"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_tried_once_are_forgotten() {
    for place in Place::all() {
        let store = place.open().await;
        let ports = StorePorts::over(Arc::new(store.clone()));
        let key = |name: &str| ThrottleKey::account(&Username::new(name).unwrap());
        for n in 0..20 {
            store.failed(&[key(&format!("spray-{n}"))], ports.now()).await.unwrap();
        }
        let later = ports.now() + 2 * ThrottleKey::WINDOW + Duration::from_secs(1);
        store.failed(&[key("admin")], later).await.unwrap();
        assert_eq!(place.count("SELECT count(*) AS n FROM throttles").await, 1);
    }
}
