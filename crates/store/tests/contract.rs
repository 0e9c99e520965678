//! Contract tests of the storage ports, on each database.

mod common;

use std::sync::Arc;

use common::TestDatabase;
use pilothouse_core::testing::contract::{STORE, StorePorts};

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
