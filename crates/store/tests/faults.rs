//! Faults of a database: locks, killed connections, cancelled callers, moved values.

#![allow(clippy::unwrap_used, reason = "tests panic")]

mod common;

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{Batch as _, TestDatabase, cluster, operation, user, verify};
use diesel_async::SimpleAsyncConnection as _;
use futures_util::{future::join_all, poll};
use pilothouse_core::{
    Cause,
    access::{AccessRequest, Resource, Verb},
    cluster::Connections as _,
    connection::Credential,
    operation::AuditWriter as _,
    session::{LoginThrottle as _, ThrottleKey},
    testing::contract::StorePorts,
    user::{UserRegistry as _, Username},
};
use secrecy::SecretString;

#[tokio::test(flavor = "multi_thread")]
async fn locked_sqlite_file_is_unavailable_until_unlocked() {
    let db = TestDatabase::sqlite();
    let store = db.open().await;
    let ports = StorePorts::over(Arc::new(store.clone()));
    store.create(&ports.people(), user(&ports, "admin")).await.unwrap();

    let mut outside = db.sqlite_connection();
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
    assert!(read.unwrap().is_some(), "readers are not blocked");

    outside.batch("ROLLBACK").unwrap();
    store.begin(&operation).await.unwrap();
    store.create(&permit, user(&ports, "second")).await.unwrap();
    assert_eq!(ports.operations().await.len(), 3, "a refused change leaves nothing");
    verify(&db.entries().await);
}

/// Logins that are refused without a password check do not wait for the writer of the database.
#[tokio::test(flavor = "multi_thread")]
async fn refused_logins_are_written_once_per_minute() {
    let db = TestDatabase::sqlite();
    let store = db.open().await;
    let ports = StorePorts::over(Arc::new(store.clone()));
    let key = ThrottleKey::account(&Username::new("admin").unwrap());
    let at = |minute: u64| ports.now() + Duration::from_secs(60 * minute);
    assert_eq!(store.refused(&key, at(0)).await.unwrap(), Some(0));

    let mut outside = db.sqlite_connection();
    outside.batch("BEGIN IMMEDIATE").unwrap();
    for _ in 0..10 {
        assert_eq!(store.refused(&key, at(0)).await.unwrap(), None);
    }
    assert_eq!(store.refused(&key, at(1)).await.unwrap_err().cause, Cause::StoreUnavailable);
    outside.batch("ROLLBACK").unwrap();
    assert_eq!(
        store.refused(&key, at(1)).await.unwrap(),
        Some(12),
        "includes the refusal that was not written"
    );

    // another process counts its own first refusal of the minute, which is not the first in the database
    let other = db.open().await;
    for _ in 0..3 {
        assert_eq!(other.refused(&key, at(1)).await.unwrap(), None);
    }
    assert_eq!(
        store.refused(&key, at(2)).await.unwrap(),
        Some(2),
        "includes refusals that the other process wrote"
    );
    assert_eq!(
        other.refused(&key, at(3)).await.unwrap(),
        Some(3),
        "includes refusals that the other process had not written"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn locked_audit_head_is_unavailable_until_unlocked() {
    let Some(db) = TestDatabase::postgres() else { return };
    let store = db.open().await;
    let ports = StorePorts::over(Arc::new(store.clone()));
    let mut outside = db.postgres_connection().await;
    outside.batch_execute("BEGIN; UPDATE audit_head SET seq = seq").await.unwrap();
    let started = Instant::now();
    let (operation, permit) = (operation(&ports), ports.people());
    let (begun, created, read) =
        tokio::join!(store.begin(&operation), store.create(&permit, user(&ports, "refused")), store.list(),);
    assert!(started.elapsed() < Duration::from_secs(9), "{:?}", started.elapsed());
    let (begun, created) = (begun.unwrap_err(), created.unwrap_err());
    assert_eq!((begun.cause, created.cause), (Cause::AuditUnavailable, Cause::AuditUnavailable));
    assert!(read.unwrap().is_empty(), "readers are not blocked, and a refused change leaves nothing");

    outside.batch_execute("ROLLBACK").await.unwrap();
    store.begin(&operation).await.unwrap();
    verify(&db.entries().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_connections_are_replaced() {
    let Some(db) = TestDatabase::postgres() else { return };
    let store = db.open().await;
    for _ in 0..3 {
        let busy = join_all((0..8).map(|_| store.ping())).await;
        assert!(busy.iter().all(Result::is_ok), "{busy:?}");
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
            WHERE datname = current_database() AND application_name = 'pilothouse'";
        db.execute(kill).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        while join_all((0..8).map(|_| store.ping())).await.iter().any(Result::is_err) {
            assert!(Instant::now() < deadline, "connections are not replaced");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_caller_leaves_no_partial_change() {
    for db in TestDatabase::all() {
        let store = db.open().await;
        let ports = StorePorts::over(Arc::new(store.clone()));
        for n in 0..40 {
            let permit = ports.people();
            let mut change = Box::pin(store.create(&permit, user(&ports, &format!("user-{n}"))));
            // polled `n` times, then dropped
            for _ in 0..n {
                let _ = poll!(&mut change);
                tokio::task::yield_now().await;
            }
        }
        // SQLite has one writer: after this change, no earlier one is running
        store.create(&ports.people(), user(&ports, "last")).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let (users, recorded) = tokio::join!(
                db.count("SELECT count(*) AS n FROM users"),
                db.count("SELECT count(*) AS n FROM operations"),
            );
            if users == recorded {
                break;
            }
            assert!(Instant::now() < deadline, "{users} users, {recorded} operations");
        }
        verify(&db.entries().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_files_contain_no_plaintext_credential() {
    let db = TestDatabase::sqlite();
    let store = db.open().await;
    let ports = StorePorts::over(Arc::new(store.clone()));
    let secret = |text: &str| SecretString::from(text);
    let certificate = Credential::Certificate { chain: "canary-chain".to_owned(), key: secret("canary-key") };
    for (name, credential) in [("a", Credential::Token(secret("canary-token"))), ("b", certificate)] {
        let permit = ports.permit(AccessRequest::to(Verb::Create, Resource::Cluster).new_cluster(name));
        ports.clusters.create(&permit, cluster(&ports, name, credential)).await.unwrap();
    }
    let files: Vec<_> = fs::read_dir(db.directory.path()).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() >= 2, "the database and its write-ahead log");
    for file in files {
        let bytes = fs::read(&file).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"canary"), "{}", file.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credential_moved_to_another_row_does_not_open() {
    for db in TestDatabase::all() {
        let store = db.open().await;
        let ports = StorePorts::over(Arc::new(store.clone()));
        let mut ids = Vec::new();
        for name in ["a", "b"] {
            let permit = ports.permit(AccessRequest::to(Verb::Create, Resource::Cluster).new_cluster(name));
            let record = cluster(&ports, name, Credential::Token(SecretString::from("canary")));
            ids.push(ports.clusters.create(&permit, record).await.unwrap().id);
        }
        assert!(store.connection(ids[1]).await.unwrap().is_some());
        let swap = "UPDATE clusters SET credential = (SELECT credential FROM clusters WHERE name = 'a') WHERE name = 'b'";
        db.execute(swap).await.unwrap();
        let refused = store.connection(ids[1]).await.unwrap_err();
        assert_eq!(refused.cause, Cause::Internal);
        assert!(!refused.to_string().contains("canary"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn throttle_rows_of_old_names_are_deleted() {
    for db in TestDatabase::all() {
        let store = db.open().await;
        let ports = StorePorts::over(Arc::new(store.clone()));
        let key = |name: &str| ThrottleKey::account(&Username::new(name).unwrap());
        for n in 0..20 {
            store.failed(&[key(&format!("spray-{n}"))], ports.now()).await.unwrap();
        }
        let later = ports.now() + 2 * ThrottleKey::WINDOW + Duration::from_secs(1);
        store.failed(&[key("admin")], later).await.unwrap();
        assert_eq!(db.count("SELECT count(*) AS n FROM throttles").await, 1);
    }
}
