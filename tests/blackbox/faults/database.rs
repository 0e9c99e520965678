//! A database that hangs or has no room. Restarted: `replicas.rs`; locked: `crates/store/tests/faults.rs`.

use pilothouse_testbed::{Postgres, Signal, workloads};
use serde_json::json;
use tokio::time::timeout;

use super::{LATEST, RECOVERY};
use crate::support::{Answer, Client, Install, PASSWORD, apply, cluster, light, within};

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
    within(RECOVERY, "and changes", async || (add(&admin, "after").await.status == 200).then_some(())).await;
    assert_eq!(admin.get("/api/k8s/audit/verify").await.data()["valid"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_refuses_changes_and_nothing_is_sent() {
    let Some(install) = Install::on_small_disk() else { return };
    let plane = light().await;
    apply(&plane.client(), &[workloads::deployment("default", "web", 1)]).await;
    let server = install.start().await;
    let admin = server.admin().await;
    let id = cluster(&admin, "well", &plane).await;
    let scale = async |replicas: u32| {
        let body = json!({
            "cluster_id": id, "namespace": "default", "type": "deployment", "name": "web", "replicas": replicas,
        });
        timeout(LATEST, admin.post("/api/k8s/workloads/scale", body)).await.expect("an answer in time")
    };
    scale(2).await.data();
    server.fill_disk();
    // what is left in the database's own files takes a few
    let mut sent = 2;
    let refused = loop {
        let answer = scale(sent + 1).await;
        if answer.status != 200 {
            break answer;
        }
        sent += 1;
        assert!(sent < 5_000, "the disk is never full");
    };
    refused.refused("SERVICE_UNAVAILABLE");
    let object = plane.client().get("/apis/apps/v1/namespaces/default/deployments/web").await.unwrap();
    assert_eq!(object["spec"]["replicas"], sent, "what was refused was not sent");
    let path = format!("/api/k8s/workloads?cluster_id={id}&namespace=default");
    admin.get(path).await.data();

    server.free_disk();
    within(RECOVERY, "changes are made again", async || (scale(1).await.status == 200).then_some(())).await;
    assert_eq!(admin.get("/api/k8s/audit/verify").await.data()["valid"], true);
    assert!(admin.operations("status=pending").await.is_empty());
}
