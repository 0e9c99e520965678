//! Windows of watched lists and live streams, against a real control plane.

use serde_json::{Value, json};

use crate::support::{Events, Server, register_cluster, shared_control_plane};

/// The parameter `sub` for a watch.
fn sub(query: &str) -> String {
    format!("sub={}", query.replace('=', "%3D").replace('&', "%26"))
}

/// Reads windows of the first watch until it has these rows, of this total.
async fn wait_for_window(events: &mut Events, names: &[&str], total: u64) {
    loop {
        let event = events.next().await.expect("an event");
        let data: Value = serde_json::from_str(&event.data).expect("JSON");
        if data["sub"] != 0 {
            continue;
        }
        assert_eq!(event.event, "window", "{event:?}");
        let rows = data["rows"].as_array().expect("rows").iter();
        if rows.map(|row| &row["name"]).eq(names) && data["pagination"]["total"] == total {
            return;
        }
    }
}

#[tokio::test]
async fn live_window_shows_the_page_after_each_change() {
    let plane = shared_control_plane().await;
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "windows", plane).await;
    let reader = server.user(&admin, "viewer").await;
    let window =
        format!("kind=configmaps&cluster_id={id}&namespace=default&search=bb-window&per_page=2&sort=-name");
    let nodes = format!("kind=nodes&cluster_id={id}");
    let mut events = reader.follow(&format!("/api/k8s/live?{}&{}", sub(&window), sub(&nodes)), None).await;
    wait_for_window(&mut events, &[], 0).await;
    let body = |name: &str| json!({"cluster_id": id, "namespace": "default", "name": name, "data": {}});
    for name in ["bb-window-1", "bb-window-2", "bb-window-3"] {
        admin.post("/api/k8s/configmaps", body(name)).await.data();
    }
    wait_for_window(&mut events, &["bb-window-3", "bb-window-2"], 3).await;
    // a row that is not on the page changes only the total
    let mut gone = body("bb-window-1");
    gone.as_object_mut().expect("an object").remove("data");
    admin.post("/api/k8s/configmaps/delete", gone).await.data();
    wait_for_window(&mut events, &["bb-window-3", "bb-window-2"], 2).await;
    reader.post("/api/auth/logout", json!({})).await.data();
    // each watch has an end of its own
    let end = loop {
        let event = events.next().await.expect("an end event");
        let data: Value = serde_json::from_str(&event.data).expect("JSON");
        if event.event == "end" && data["sub"].is_null() {
            break event.reason();
        }
    };
    assert_eq!(end, "session_ended");
}
