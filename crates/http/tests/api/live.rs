//! Windows of watched lists, and live streams of several watches.

use pilothouse_core::{
    inventory::{List, ListEvent},
    kind::Kind,
    rows::Change,
};
use pilothouse_http::HttpSettings;
use serde_json::{Value, json, value::to_raw_value};

use crate::{
    socket::Running,
    stream::{Event, event, events, lines},
    test_app::TestApp,
};

/// The parameter `sub` for a watch.
fn sub(query: &str) -> String {
    format!("sub={}", query.replace('=', "%3D").replace('&', "%26"))
}

fn data(event: &Event) -> Value {
    serde_json::from_str(&event.data).unwrap()
}

fn pods(cluster: i64) -> String {
    format!("kind=pods&cluster_id={cluster}&namespace=shop")
}

#[actix_web::test]
async fn window_is_the_page_of_the_list() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    let page = "page=1&per_page=1&sort=-name";
    let query = format!("kind=workloads&cluster_id={}&namespace=shop&{page}", api.cluster);
    let stream = events(&api.get(&viewer, "/api/k8s/watch", &query).await.text);
    assert_eq!(stream.iter().map(|event| &*event.event).collect::<Vec<_>>(), ["window", "end"]);
    let list = format!("cluster_id={}&namespace=shop&{page}", api.cluster);
    let list = api.get(&viewer, "/api/k8s/workloads", &list).await.data();
    let window = data(&stream[0]);
    assert_eq!(window["rows"], list["workloads"]);
    for field in ["pagination", "as_of", "stale", "scope"] {
        assert_eq!(window[field], list[field], "{field}");
    }
    assert_eq!(window["warnings"], json!([]));
    let refused = api.get(&viewer, "/api/k8s/watch", &query.replace("per_page=1", "per_page=501")).await;
    assert_eq!(refused.fields(), ["per_page=out_of_range"]);
}

#[actix_web::test]
async fn live_stream_has_the_events_of_each_watch() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    let query = [sub(&pods(api.cluster)), sub(&pods(999_999)), sub(&format!("{}&page=1", pods(api.cluster)))];
    let reply = api.get(&viewer, "/api/k8s/live", &query.join("&")).await;
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    let events = events(&reply.text);
    let of = |sub: u64| -> Vec<_> {
        let of_sub = events.iter().filter(|event| data(event)["sub"] == sub);
        of_sub.map(|event| event.event.as_str()).collect()
    };
    assert_eq!(of(0), ["added", "synced", "end"]);
    assert_eq!(of(1), ["end"]);
    assert_eq!(of(2), ["window", "end"]);
    let refused = events.iter().find(|event| data(event)["sub"] == 1).unwrap();
    assert_eq!(
        (refused.reason(), &data(refused)["error_code"]),
        ("not_found".to_owned(), &json!("RESOURCE_NOT_FOUND"))
    );
    let last = events.last().unwrap();
    assert!(data(last)["sub"].is_null(), "{last:?}");
    assert_eq!(last.reason(), data(&events[events.len() - 2])["reason"]);
    let added = events.iter().find(|event| event.event == "added").unwrap();
    assert_eq!(data(added)["name"], "web-0");
}

#[actix_web::test]
async fn live_stream_refuses_queries_that_no_watch_accepts() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    let pods = pods(api.cluster);
    let many = (0..17).map(|n| sub(&format!("{pods}&search={n}"))).collect::<Vec<_>>().join("&");
    let cases = [
        (String::new(), "sub=required"),
        (sub(""), "sub=required"),
        (sub("kind=nothing"), "sub=not_one_of"),
        (sub("kind=pods&cluster_id=1"), "sub=required"),
        (sub(&format!("{pods}&per_page=0")), "sub=out_of_range"),
        (sub(&format!("{pods}&nope=1")), "sub=unknown"),
        (format!("{}&{}", sub(&pods), sub(&pods)), "sub=duplicate"),
        (format!("{}&kind=pods", sub(&pods)), "kind=unknown"),
        (many, "sub=too_long"),
    ];
    for (query, refused) in cases {
        assert_eq!(api.get(&viewer, "/api/k8s/live", &query).await.fields(), [refused], "{query}");
    }
}

#[test]
fn live_stream_sends_changes_as_they_happen() {
    let running = Running::start(HttpSettings::default());
    let watch = running.fake.clusters.next_watch();
    let target = format!("/api/k8s/live?{}", sub(&pods(running.cluster)));
    let mut lines = lines(running.open("viewer", &target));
    assert_eq!(event(&mut lines).unwrap().event, "added");
    assert_eq!(event(&mut lines).unwrap().event, "synced");
    let pod = to_raw_value(&json!({"metadata": {"name": "new", "namespace": "shop"}})).unwrap();
    let row = List::Pods.info().project.unwrap()(Kind::Pod, &pod).unwrap().remove(0);
    watch.unbounded_send(ListEvent::Changes(vec![Change::Added(row)].into())).unwrap();
    let added = event(&mut lines).unwrap();
    assert_eq!((&data(&added)["sub"], &data(&added)["name"]), (&json!(0), &json!("new")));
    running.app.streams.close();
    let end = event(&mut lines).unwrap();
    assert_eq!((end.reason(), data(&end)["sub"].is_null()), ("server_stopping".to_owned(), true));
}
