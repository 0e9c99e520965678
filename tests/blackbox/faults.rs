//! Faults, one table of docs/operate.md: what callers see, and that it is over soon after the fault's end.
//! Here clusters that stand still or are gone, while another is used.

mod callers;
mod clock;
mod database;
mod proxied;
mod slow;

use pilothouse_testbed::{Component, Signal, workloads};
use serde_json::json;
use tokio::time::{Duration, timeout};

use crate::support::{Install, RECOVERY, apply, cluster, eventually, light, within};

/// Far beyond every deadline set here: an answer that comes is not late because the machine is busy.
const LATEST: Duration = Duration::from_secs(60);

/// The most that a server may grow by under a fault, in bytes.
const MEMORY: u64 = 256 << 20;

/// Every list is read from its cluster, so that what the cluster does is seen.
fn reading_through(install: Install) -> Install {
    install.set("LIST_CACHE_MEMORY_MIB", "0")
}

#[tokio::test]
async fn one_cluster_stopped_and_one_killed_do_not_touch_a_third() {
    let (stopped, killed, well) = tokio::join!(light(), light(), light());
    let deadlines =
        Install::new().set("READ_DEADLINE", "5s").set("WRITE_DEADLINE", "6s").set("TEST_DEADLINE", "4s");
    let server = reading_through(deadlines.set("PROBE_INTERVAL", "1s")).start().await;
    let admin = server.admin().await;
    let mut ids = Vec::new();
    for (name, plane) in [("stopped", &stopped), ("killed", &killed), ("well", &well)] {
        apply(&plane.client(), &[workloads::deployment("default", "web", 1)]).await;
        ids.push(cluster(&admin, name, plane).await);
    }
    let list = async |id: i64| {
        let path = format!("/api/k8s/workloads?cluster_id={id}&namespace=default");
        timeout(LATEST, admin.get(&path)).await.expect("an answer within the deadlines")
    };
    let scale = async |id: i64| {
        let body = json!({"cluster_id": id, "namespace": "default", "type": "deployment", "name": "web", "replicas": 2});
        let answer = admin.post("/api/k8s/workloads/scale", body);
        timeout(LATEST, answer).await.expect("an answer within the deadlines")
    };
    for id in &ids {
        list(*id).await.data();
    }

    stopped.signal(Component::ApiServer, Signal::Stop).unwrap();
    killed.signal(Component::ApiServer, Signal::Kill).unwrap();
    let [hangs, gone, fine] = ids[..] else { panic!("three clusters") };
    // Many wait for the one that hangs; the one that is well answers meanwhile.
    let waiting = (0..20).map(|_| {
        tokio::spawn({
            let admin = admin.clone();
            async move {
                admin.get(format!("/api/k8s/workloads?cluster_id={hangs}&namespace=default")).await.status
            }
        })
    });
    let waiting: Vec<_> = waiting.collect();
    for _ in 0..10 {
        list(fine).await.data();
        scale(fine).await.data();
    }
    for answer in waiting {
        let status = timeout(LATEST, answer).await.expect("an answer within the deadlines").unwrap();
        assert!(status == 503 || status == 504, "{status}");
    }
    for id in [hangs, gone] {
        for answer in [list(id).await, scale(id).await] {
            let code = answer.body["error_code"].as_str().unwrap_or_default().to_owned();
            assert!(code == "CONNECTION_ERROR" || code == "TIMEOUT_ERROR", "{answer}");
            assert_eq!(answer.body["context"]["source"], "cluster", "{answer}");
        }
    }
    list(gone).await.refused("CONNECTION_ERROR");
    assert_eq!(admin.get("/readyz").await.status, 200, "a cluster never makes us unready");
    let rows = eventually("both offline", async || {
        let rows = admin.rows("/api/k8s/clusters?sort=id", "clusters").await;
        (rows[0]["status"] == "offline" && rows[1]["status"] == "offline").then_some(rows)
    });
    assert_eq!(rows.await[2]["status"], "online");

    stopped.signal(Component::ApiServer, Signal::Cont).unwrap();
    killed.restart(Component::ApiServer).await.unwrap();
    for id in [hangs, gone] {
        within(RECOVERY, "it is used again", async || (list(id).await.status == 200).then_some(())).await;
        scale(id).await.data();
    }
    assert!(admin.operations("status=pending").await.is_empty());
}
