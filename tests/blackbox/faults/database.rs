//! A database that hangs. Restarted: `replicas.rs`; locked, full and nearly full: `room.rs`.

use pilothouse_testbed::{Postgres, Signal};
use serde_json::json;
use tokio::time::timeout;

use super::LATEST;
use crate::support::{Answer, Client, Install, PASSWORD, RECOVERY, within};

async fn add(admin: &Client, name: &str) -> Answer {
    let user = json!({"username": name, "password": PASSWORD, "role": "viewer"});
    timeout(LATEST, admin.post("/api/auth/users", user)).await.expect("an answer in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_hangs_is_told_and_used_again() {
    let Some(postgres) = Postgres::builder().start_or_skip().unwrap() else { return };
    let server = Install::on(&postgres.database().unwrap()).start().await;
    let admin = server.admin().await;
    add(&admin, "before").await.data();
    postgres.signal(Signal::Stop).unwrap();
    let ready = timeout(LATEST, admin.get("/readyz")).await.expect("an answer in time");
    ready.refused("SERVICE_UNAVAILABLE");
    assert_eq!(admin.get("/livez").await.status, 200);
    add(&admin, "meanwhile").await.refused("SERVICE_UNAVAILABLE");
    postgres.signal(Signal::Cont).unwrap();
    within(RECOVERY, "it is ready", async || (admin.get("/readyz").await.status == 200).then_some(())).await;
    // one that was not answered may have been made
    within(RECOVERY, "and changes", async || {
        matches!(add(&admin, "after").await.status, 200 | 409).then_some(())
    })
    .await;
    assert_eq!(admin.get("/api/k8s/audit/verify").await.data()["valid"], true);
}
