//! The store keeps the contract of its ports, on each database.

mod common;

use std::sync::Arc;

use common::Place;
use pilothouse_core::testing::contract::{STORE, StorePorts};

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite() {
    for case in STORE {
        eprintln!("{}", case.name);
        let place = Place::sqlite();
        let store = place.open().await;
        (case.run)(StorePorts::over(Arc::new(store.clone()))).await;
        common::verify(&place.entries().await);
        assert_eq!(common::verdict(&store).await.first_bad, None, "lists say what the chain says");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres() {
    for case in STORE {
        let Some(place) = Place::postgres() else { return };
        eprintln!("{}", case.name);
        let store = place.open().await;
        (case.run)(StorePorts::over(Arc::new(store.clone()))).await;
        common::verify(&place.entries().await);
        assert_eq!(common::verdict(&store).await.first_bad, None, "lists say what the chain says");
    }
}
