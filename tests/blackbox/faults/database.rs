//! A database that hangs. A restart is tested in `replicas.rs`; a locked, full or nearly full one in `disk_full.rs`.

use pilothouse_testbed::{Postgres, Signal};
use serde_json::json;
use tokio::time::timeout;

use super::RESPONSE_TIMEOUT;
use crate::support::{ApiResponse, Client, Install, PASSWORD, RECOVERY_TIMEOUT, within};

async fn add_user(admin: &Client, name: &str) -> ApiResponse {
    let user = json!({"username": name, "password": PASSWORD, "role": "viewer"});
    timeout(RESPONSE_TIMEOUT, admin.post("/api/auth/users", user)).await.expect("response before the timeout")
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_database_makes_the_server_unready_until_it_responds() {
    let Some(postgres) = Postgres::builder().start_or_skip().unwrap() else { return };
    let server = Install::on_postgres(&postgres.database().unwrap()).start().await;
    let admin = server.admin().await;
    add_user(&admin, "before").await.data();
    postgres.signal(Signal::Stop).unwrap();
    let ready = timeout(RESPONSE_TIMEOUT, admin.get("/readyz")).await.expect("response before the timeout");
    ready.refused("SERVICE_UNAVAILABLE");
    assert_eq!(admin.get("/livez").await.status, 200);
    add_user(&admin, "meanwhile").await.refused("SERVICE_UNAVAILABLE");
    postgres.signal(Signal::Cont).unwrap();
    within(RECOVERY_TIMEOUT, "the server is ready", async || {
        (admin.get("/readyz").await.status == 200).then_some(())
    })
    .await;
    // a request without a response may have been applied
    within(RECOVERY_TIMEOUT, "changes are accepted", async || {
        matches!(add_user(&admin, "after").await.status, 200 | 409).then_some(())
    })
    .await;
    assert_eq!(admin.get("/api/k8s/audit/verify").await.data()["valid"], true);
}
