//! A clock that jumps, as after a long pause of a virtual machine or with a wrong time server. libfaketime sets the
//! server's wall clock from a file; its monotonic clock is not changed.

use std::time::Duration;

use jiff::Timestamp;
use pilothouse_testbed::workloads;
use serde_json::json;
use tokio::time::timeout;

use super::RESPONSE_TIMEOUT;
use crate::support::{
    Client, FakeClock, Install, PASSWORD, RECOVERY_TIMEOUT, Server, apply, control_plane, register_cluster,
    within,
};

async fn scale(admin: &Client, cluster: i64, replicas: u32) {
    let body = json!({
        "cluster_id": cluster, "namespace": "default", "type": "deployment", "name": "web", "replicas": replicas,
    });
    let response = admin.post("/api/k8s/workloads/scale", body);
    timeout(RESPONSE_TIMEOUT, response).await.expect("response before the timeout").data();
}

/// Signs in again: a session that starts in the future is invalid, and an old one may have expired.
async fn signed_in(server: &Server) -> Client {
    timeout(RESPONSE_TIMEOUT, server.admin()).await.expect("a session before the timeout")
}

#[tokio::test]
async fn clock_jump_of_ten_minutes_loses_no_operation() {
    let Some(clock) = FakeClock::start() else { return };
    let plane = control_plane().await;
    apply(&plane.client(), &[workloads::deployment("default", "web", 1)]).await;
    let server = Install::new().set("PROBE_INTERVAL", "1s").with_clock(&clock).start().await;
    let mut admin = server.admin().await;
    let id = register_cluster(&admin, "steady", &plane).await;
    scale(&admin, id, 1).await;
    let connected = async |admin: &Client| {
        let rows = admin.rows("/api/k8s/clusters", "clusters").await;
        (rows[0]["status"] == "online").then(|| rows[0]["last_connected_at"].clone())
    };
    let list = format!("/api/k8s/workloads?cluster_id={id}&namespace=default");
    let grant = json!({
        "subject": {"type": "user", "id": admin.add_user("ann", "none").await}, "role": "viewer",
        "clusters": {"ids": [id]}, "namespaces": ["default"], "until": Timestamp::now() + Duration::from_secs(300),
    });
    admin.post("/api/access/grants", grant).await.data();

    for (replicas, offset) in (2..).zip(["+600", "+0", "-600", "+0"]) {
        let before = connected(&admin).await;
        clock.set(offset);
        admin = signed_in(&server).await;
        // a grant holds between its start and its end, by the clock of that moment
        let ann = timeout(RESPONSE_TIMEOUT, server.client().sign_in("ann", PASSWORD)).await;
        let ann = ann.expect("a session before the timeout");
        let listed = timeout(RESPONSE_TIMEOUT, ann.get(&list)).await.expect("response before the timeout");
        assert_eq!(listed.status, if offset == "+0" { 200 } else { 404 }, "{offset}: {listed}");
        scale(&admin, id, replicas).await;
        let listed = within(RECOVERY_TIMEOUT, "a current list", async || {
            let data = timeout(RESPONSE_TIMEOUT, admin.get(&list))
                .await
                .expect("response before the timeout")
                .data();
            (data["stale"] == false).then_some(data)
        })
        .await;
        assert_eq!(listed["workloads"][0]["replicas"], replicas, "read-your-writes at {offset}");
        within(3 * RECOVERY_TIMEOUT, "the next probe", async || {
            connected(&admin).await.filter(|now| Some(now) != before.as_ref())
        })
        .await;
    }

    let operations = admin.operations("operation_type=scale").await;
    let replicas_details: Vec<_> = operations.iter().map(|row| row["details"].as_str().unwrap()).collect();
    let expected = ["replicas=5", "replicas=4", "replicas=3", "replicas=2", "replicas=1"];
    assert_eq!(replicas_details, expected, "newest first, in the order of the changes");
    assert!(operations.iter().all(|row| row["status"] == "success"), "{operations:?}");
    let verified = admin.get("/api/k8s/audit/verify").await.data();
    assert_eq!(verified["valid"], true, "{verified}");
}
