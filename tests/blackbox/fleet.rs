//! Lists over all clusters at once, and lists as they go on, of real clusters.

use pilothouse_testbed::{Component, Signal, workloads};
use serde_json::{Value, json};

use crate::support::{Server, apply, cluster, eventually, light};

/// Cluster and name of every row found.
fn found(data: &Value) -> Vec<(String, String)> {
    let text = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    let rows = data["results"].as_array().unwrap();
    rows.iter().map(|row| (text(row, "cluster_name"), text(row, "name"))).collect()
}

#[tokio::test]
async fn every_cluster_is_searched_and_counted_and_one_that_is_gone_is_told_as_it_was() {
    let (one, two) = tokio::join!(light(), light());
    let server = Server::fresh().await;
    let admin = server.admin().await;
    for (name, plane) in [("one", &one), ("two", &two)] {
        apply(&plane.client(), &[workloads::deployment("default", "web", 1)]).await;
        cluster(&admin, name, plane).await;
    }
    let nowhere = json!({"name": "nowhere", "auth_type": "token", "token": "t", "api_server": "https://127.0.0.1:1", "skip_test": true});
    admin.post("/api/k8s/clusters", nowhere).await.data();

    let search = async |statuses: [&str; 3]| {
        eventually("each cluster's part", async || {
            let data = admin.get("/api/k8s/search?kind=workloads&q=WEB").await.data();
            let parts = data["clusters"].as_array().unwrap().clone();
            let told: Vec<_> = parts.iter().map(|part| part["status"].as_str().unwrap_or_default()).collect();
            (told == statuses).then_some(data)
        })
        .await
    };
    let both = [("one".to_owned(), "web".to_owned()), ("two".to_owned(), "web".to_owned())];
    let data = search(["ok", "ok", "error"]).await;
    assert_eq!((found(&data), &data["pagination"]["total"]), (both.to_vec(), &json!(2)));
    assert_eq!(data["clusters"][2]["error_code"], "CONNECTION_ERROR");
    let counts = eventually("the counts", async || {
        let data = admin.get("/api/k8s/overview?kind=workloads").await.data();
        (data["totals"]["workloads"]["total"] == 2).then_some(data)
    });
    assert_eq!(counts.await["totals"]["workloads"]["by_status"], json!({"progressing": 2}));

    two.signal(Component::ApiServer, Signal::Kill).unwrap();
    let data = search(["ok", "stale", "error"]).await;
    assert_eq!(found(&data), both);
}

#[tokio::test]
async fn a_list_that_is_watched_tells_what_happens_until_its_session_ends() {
    let plane = light().await;
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = cluster(&admin, "watched", &plane).await;
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
    assert_eq!(events.end().await, "session_ended");
}
