//! Responses with usage of CPU and memory: pages, windows and series.

use std::sync::Arc;

use jiff::Timestamp;
use pilothouse_core::{
    clock::Clock as _,
    gate::Warning,
    ids::ClusterId,
    usage::{KnownUsage, Subject, Usage, UsageTableBuilder},
};
use serde_json::{Value, json};

use crate::{stream::events, test_app::TestApp};

const SERIES: &str = "/api/k8s/metrics/series";

/// Usage of the pod, of a workload and of the node, at the time of the fake clock.
fn measure(api: &TestApp, cpu_millis: i64) -> Usage {
    let at = Timestamp::from_second(api.fake.runtime.clock.now().as_second()).unwrap();
    let usage = Usage { cpu_millis, memory_bytes: 73_400_320, at };
    let mut table = UsageTableBuilder::default();
    table.add(Subject::Pod { namespace: "shop", name: "web-0" }, usage);
    table.add(Subject::Workload { namespace: "shop", r#type: "deployment", name: "web" }, usage);
    table.add(Subject::Node { name: "node-1" }, usage);
    let known = KnownUsage { table: Arc::new(table.finish()), warning: None };
    api.fake.clusters.measure(ClusterId(api.cluster), known);
    usage
}

#[actix_web::test]
async fn rows_of_pods_workloads_and_nodes_have_usage() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    let expected = serde_json::to_value(measure(&api, 35)).unwrap();
    for (list, scope, name) in [
        ("pods", "&namespace=shop", "web-0"),
        ("workloads", "&namespace=shop", "web"),
        ("nodes", "", "node-1"),
    ] {
        for sort in ["name", "-usage_cpu", "usage_memory"] {
            let query = format!("cluster_id={}{scope}&sort={sort}", api.cluster);
            let data = api.get(&viewer, &format!("/api/k8s/{list}"), &query).await.data();
            let rows = data[list].as_array().unwrap();
            let row = rows.iter().find(|row| row["name"] == name).unwrap();
            assert_eq!(row["usage"], expected, "{list} by {sort}");
            let others = rows.iter().filter(|row| row["name"] != name);
            assert!(others.map(|row| &row["usage"]).all(Value::is_null), "{list} by {sort}");
            assert!(sort == "name" || rows[0]["name"] == name, "rows without usage are last: {data}");
        }
    }
    let refused = format!("cluster_id={}&namespace=shop&sort=usage", api.cluster);
    assert_eq!(api.get(&viewer, "/api/k8s/pods", &refused).await.fields(), ["sort=not_one_of"]);
    let refused = api.get(&viewer, "/api/k8s/search", "kind=pods&q=web&sort=usage_cpu").await;
    assert_eq!(refused.fields(), ["sort=not_one_of"]);
}

#[actix_web::test]
async fn etag_changes_with_the_usage() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    let query = format!("cluster_id={}&namespace=shop", api.cluster);
    let tag = async || {
        let page = api.get(&viewer, "/api/k8s/pods", &query).await;
        page.header("etag").unwrap().to_owned()
    };
    let without = tag().await;
    measure(&api, 35);
    let with = tag().await;
    assert_eq!(with, tag().await);
    measure(&api, 36);
    assert!(without != with && with != tag().await);
}

#[actix_web::test]
async fn window_has_usage_and_a_plain_watch_has_none() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    let expected = serde_json::to_value(measure(&api, 35)).unwrap();
    let query = format!("kind=pods&cluster_id={}&namespace=shop", api.cluster);
    let first = async |query: &str| -> Value {
        let stream = events(&api.get(&viewer, "/api/k8s/watch", query).await.text);
        serde_json::from_str(&stream[0].data).unwrap()
    };
    assert_eq!(first(&format!("{query}&page=1")).await["rows"][0]["usage"], expected);
    assert_eq!(first(&query).await["usage"], Value::Null);
}

#[actix_web::test]
async fn absent_api_is_a_warning_in_the_language_of_the_caller() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    let warning = Some(Warning::NotServed("metrics.k8s.io"));
    api.fake.clusters.measure(ClusterId(api.cluster), KnownUsage { warning, ..KnownUsage::default() });
    let query = format!("cluster_id={}&namespace=shop", api.cluster);
    let mut texts = Vec::new();
    for language in ["en", "zh"] {
        let data = api.call_in(language, &viewer.credentials, "GET", "/api/k8s/pods", &query).await.data();
        let warnings = data["warnings"].as_array().unwrap().clone();
        assert_eq!((warnings.len(), &data["pods"][0]["usage"]), (1, &Value::Null), "{data}");
        assert!(warnings[0].as_str().unwrap().contains("metrics.k8s.io"), "{warnings:?}");
        texts.extend(warnings);
    }
    assert_ne!(texts[0], texts[1]);
}

#[actix_web::test]
async fn series_has_the_points_of_a_pod_or_a_node() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    let usage = serde_json::to_value(measure(&api, 35)).unwrap();
    let get =
        async |query: &str| api.get(&viewer, SERIES, &format!("cluster_id={}&{query}", api.cluster)).await;
    for query in ["kind=pod&namespace=shop&name=web-0", "kind=node&name=node-1&minutes=1"] {
        assert_eq!(get(query).await.data()["points"], json!([usage]), "{query}");
    }
    for (query, refused) in [
        ("kind=pod&name=web-0", "namespace=required"),
        ("kind=node&name=node-1&namespace=shop", "namespace=unknown"),
        ("kind=service&name=web&namespace=shop", "kind=not_one_of"),
        ("kind=pod&name=web-0&namespace=shop&minutes=61", "minutes=out_of_range"),
        ("kind=pod&name=web-0&namespace=shop&minutes=0", "minutes=out_of_range"),
    ] {
        assert_eq!(get(query).await.fields(), [refused], "{query}");
    }
    let absent = get("kind=pod&namespace=shop&name=absent").await;
    assert_eq!(absent.error(), (404, "RESOURCE_NOT_FOUND".into(), "not_found_in_cluster".into()));
}
