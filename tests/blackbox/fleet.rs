//! Fleet search, fleet overview and list watches on real clusters.

use pilothouse_testbed::{Component, Signal, workloads};
use serde_json::{Value, json};

use crate::support::{Server, apply, control_plane, eventually, register_cluster, shared_control_plane};

/// Cluster and name of each result row.
fn result_names(data: &Value) -> Vec<(String, String)> {
    let text = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    let rows = data["results"].as_array().unwrap();
    rows.iter().map(|row| (text(row, "cluster_name"), text(row, "name"))).collect()
}

#[tokio::test]
async fn search_and_counts_cover_all_clusters_and_mark_an_unreachable_one_stale() {
    let (one, two) = tokio::join!(control_plane(), control_plane());
    let server = Server::fresh().await;
    let admin = server.admin().await;
    for (name, plane) in [("one", &one), ("two", &two)] {
        apply(&plane.client(), &[workloads::deployment("default", "web", 1)]).await;
        register_cluster(&admin, name, plane).await;
    }
    let unreachable = json!({"name": "nowhere", "auth_type": "token", "token": "t", "api_server": "https://127.0.0.1:1", "skip_test": true});
    admin.post("/api/k8s/clusters", unreachable).await.data();

    let search = async |statuses: [&str; 3]| {
        eventually("the status of each cluster", async || {
            let data = admin.get("/api/k8s/search?kind=workloads&q=WEB").await.data();
            let cluster_results = data["clusters"].as_array().unwrap().clone();
            let found_statuses: Vec<_> =
                cluster_results.iter().map(|result| result["status"].as_str().unwrap_or_default()).collect();
            (found_statuses == statuses).then_some(data)
        })
        .await
    };
    let both_results = [("one".to_owned(), "web".to_owned()), ("two".to_owned(), "web".to_owned())];
    let data = search(["ok", "ok", "error"]).await;
    assert_eq!((result_names(&data), &data["pagination"]["total"]), (both_results.to_vec(), &json!(2)));
    assert_eq!(data["clusters"][2]["error_code"], "CONNECTION_ERROR");
    let counts = eventually("the overview counts", async || {
        let data = admin.get("/api/k8s/overview?kind=workloads").await.data();
        (data["totals"]["workloads"]["total"] == 2).then_some(data)
    });
    assert_eq!(counts.await["totals"]["workloads"]["by_status"], json!({"progressing": 2}));

    two.signal(Component::ApiServer, Signal::Kill).unwrap();
    let data = search(["ok", "stale", "error"]).await;
    assert_eq!(result_names(&data), both_results);
}

#[tokio::test]
async fn list_watch_sends_changes_until_the_session_ends() {
    let plane = shared_control_plane().await;
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "watched", plane).await;
    let reader = server.user(&admin, "viewer").await;
    let path = format!("/api/k8s/watch?kind=configmaps&cluster_id={id}&namespace=default&search=settings");
    let mut events = reader.follow(&path, None).await;
    let synced = events.next().await.unwrap();
    assert_eq!(synced.event, "synced");
    let synced: Value = serde_json::from_str(&synced.data).unwrap();
    assert_eq!((&synced["total"], &synced["stale"]), (&json!(0), &json!(false)));

    let mut body = json!({"cluster_id": id, "namespace": "default", "name": "settings", "data": {"a": "1"}});
    admin.post("/api/k8s/configmaps", body.clone()).await.data();
    body["name"] = json!("other");
    admin.post("/api/k8s/configmaps", body.clone()).await.data();
    body["name"] = json!("settings");
    body["data"] = json!({"a": "22"});
    admin.post("/api/k8s/configmaps/update", body.clone()).await.data();
    body.as_object_mut().unwrap().remove("data");
    admin.post("/api/k8s/configmaps/delete", body).await.data();
    for (expected, bytes) in [("added", 1), ("changed", 2), ("removed", 2)] {
        let event = events.next().await.unwrap();
        let row: Value = serde_json::from_str(&event.data).unwrap();
        assert_eq!((event.event.as_str(), &row["name"]), (expected, &json!("settings")));
        assert_eq!(row["keys"], json!([{"name": "a", "bytes": bytes}]), "{expected}");
    }
    reader.post("/api/auth/logout", json!({})).await.data();
    assert_eq!(events.end_reason().await, "session_ended");
}
