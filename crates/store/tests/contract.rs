//! Contract tests of the storage ports, on each database.

mod common;

use std::sync::Arc;

use common::TestDatabase;
use futures_util::FutureExt as _;
use pilothouse_core::testing::contract::{COORDINATION, Replicas, STORE, StorePorts};

#[tokio::test(flavor = "multi_thread")]
async fn storage_ports_meet_contract_on_sqlite() {
    for case in STORE {
        eprintln!("{}", case.name);
        let db = TestDatabase::sqlite();
        let store = db.open().await;
        (case.run)(StorePorts::over(Arc::new(store.clone()))).await;
        common::verify(&db.entries().await);
        assert_eq!(common::verdict(&store).await.first_bad, None, "lists match the chain");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_ports_meet_contract_on_postgres() {
    for case in STORE {
        let Some(db) = TestDatabase::postgres() else { return };
        eprintln!("{}", case.name);
        let store = db.open().await;
        (case.run)(StorePorts::over(Arc::new(store.clone()))).await;
        common::verify(&db.entries().await);
        assert_eq!(common::verdict(&store).await.first_bad, None, "lists match the chain");
    }
}

/// Two stores on one database, as two processes open it.
async fn replicas(db: TestDatabase) -> Replicas {
    let db = Arc::new(db);
    let (one, two) = (Arc::new(db.open().await), Arc::new(db.open().await));
    let ports = StorePorts::over(one.clone());
    let expire = move || {
        let db = db.clone();
        async move { db.expire_leases().await }.boxed()
    };
    Replicas::new(ports, [one, two], expire)
}

#[tokio::test(flavor = "multi_thread")]
async fn coordination_meets_contract_on_sqlite() {
    for case in COORDINATION {
        eprintln!("{}", case.name);
        (case.run)(replicas(TestDatabase::sqlite()).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn coordination_meets_contract_on_postgres() {
    for case in COORDINATION {
        let Some(db) = TestDatabase::postgres() else { return };
        eprintln!("{}", case.name);
        (case.run)(replicas(db).await).await;
    }
}
