//! Faults in one table of docs/operate.md: the responses during a fault, and recovery soon after it. This file covers
//! API servers that hang or do not run while another cluster is used.

mod callers;
mod clock;
mod database;
mod proxied;
mod slow;

use pilothouse_testbed::{Component, Signal, workloads};
use serde_json::json;
use tokio::time::{Duration, timeout};

use crate::support::{Install, RECOVERY_TIMEOUT, apply, control_plane, eventually, register_cluster, within};

/// Longer than all deadlines that the tests set, so that a busy machine does not make a response late.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximal memory growth of a server under a fault, in bytes.
const MAX_MEMORY_GROWTH_BYTES: u64 = 256 << 20;

/// Disables the list cache, so that each list is read from its cluster.
fn without_list_cache(install: Install) -> Install {
    install.set("LIST_CACHE_MEMORY_MIB", "0")
}

#[tokio::test]
async fn hanging_and_killed_clusters_do_not_affect_a_healthy_one() {
    let (stopped, killed, healthy) = tokio::join!(control_plane(), control_plane(), control_plane());
    let deadlines =
        Install::new().set("READ_DEADLINE", "5s").set("WRITE_DEADLINE", "6s").set("TEST_DEADLINE", "4s");
    let server = without_list_cache(deadlines.set("PROBE_INTERVAL", "1s")).start().await;
    let admin = server.admin().await;
    let mut ids = Vec::new();
    for (name, plane) in [("stopped", &stopped), ("killed", &killed), ("healthy", &healthy)] {
        apply(&plane.client(), &[workloads::deployment("default", "web", 1)]).await;
        ids.push(register_cluster(&admin, name, plane).await);
    }
    let list = async |id: i64| {
        let path = format!("/api/k8s/workloads?cluster_id={id}&namespace=default");
        timeout(RESPONSE_TIMEOUT, admin.get(&path)).await.expect("response before the timeout")
    };
    let scale = async |id: i64| {
        let body = json!({"cluster_id": id, "namespace": "default", "type": "deployment", "name": "web", "replicas": 2});
        let response = admin.post("/api/k8s/workloads/scale", body);
        timeout(RESPONSE_TIMEOUT, response).await.expect("response before the timeout")
    };
    for id in &ids {
        list(*id).await.data();
    }

    stopped.signal(Component::ApiServer, Signal::Stop).unwrap();
    killed.signal(Component::ApiServer, Signal::Kill).unwrap();
    let [hanging_id, killed_id, healthy_id] = ids[..] else { panic!("three clusters") };
    // Many requests wait for the hanging cluster; the healthy one responds meanwhile.
    let waiting = (0..20).map(|_| {
        tokio::spawn({
            let admin = admin.clone();
            async move {
                admin
                    .get(format!("/api/k8s/workloads?cluster_id={hanging_id}&namespace=default"))
                    .await
                    .status
            }
        })
    });
    let waiting: Vec<_> = waiting.collect();
    for _ in 0..10 {
        list(healthy_id).await.data();
        scale(healthy_id).await.data();
    }
    for response in waiting {
        let status = timeout(RESPONSE_TIMEOUT, response).await.expect("response before the timeout").unwrap();
        assert!(status == 503 || status == 504, "{status}");
    }
    for id in [hanging_id, killed_id] {
        for response in [list(id).await, scale(id).await] {
            let code = response.body["error_code"].as_str().unwrap_or_default().to_owned();
            assert!(code == "CONNECTION_ERROR" || code == "TIMEOUT_ERROR", "{response}");
            assert_eq!(response.body["context"]["source"], "cluster", "{response}");
        }
    }
    list(killed_id).await.refused("CONNECTION_ERROR");
    assert_eq!(admin.get("/readyz").await.status, 200, "a cluster fault does not affect readiness");
    let rows = eventually("both clusters are offline", async || {
        let rows = admin.rows("/api/k8s/clusters?sort=id", "clusters").await;
        (rows[0]["status"] == "offline" && rows[1]["status"] == "offline").then_some(rows)
    });
    assert_eq!(rows.await[2]["status"], "online");

    stopped.signal(Component::ApiServer, Signal::Cont).unwrap();
    killed.restart(Component::ApiServer).await.unwrap();
    for id in [hanging_id, killed_id] {
        within(RECOVERY_TIMEOUT, "the cluster responds again", async || {
            (list(id).await.status == 200).then_some(())
        })
        .await;
        scale(id).await.data();
    }
    assert!(admin.operations("status=pending").await.is_empty());
}
