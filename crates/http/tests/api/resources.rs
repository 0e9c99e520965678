//! Responses of changes and of single reads.

use serde_json::json;

use crate::test_app::TestApp;

#[actix_web::test]
async fn changes_return_the_changed_object() {
    let api = TestApp::new().await;
    let ops = api.login("ops").await;
    let cluster = api.cluster;
    let workload = json!({"cluster_id": cluster, "namespace": "shop", "type": "deployment", "name": "web"});
    let mut scale = workload.clone();
    scale["replicas"] = json!(5);
    let data = api.post(&ops, "/api/k8s/workloads/scale", scale).await.data();
    assert_eq!(data["workload"]["replicas"], 5);
    let data = api.post(&ops, "/api/k8s/workloads/restart", workload).await.data();
    assert_eq!(data["workload"]["restarted_at"], "2026-01-01T00:00:00Z");
    let data =
        api.post(&ops, "/api/k8s/namespaces", json!({"cluster_id": cluster, "name": "fresh"})).await.data();
    assert_eq!(data["namespace"]["name"], "fresh");
    let new = json!({"cluster_id": cluster, "namespace": "shop", "name": "c", "data": {"k": "", "l": "äöü"}});
    let data = api.post(&ops, "/api/k8s/configmaps", new).await.data();
    assert_eq!(data["configmap"]["keys"], json!([{"name": "k", "bytes": 0}, {"name": "l", "bytes": 6}]));
    let delete = json!({"cluster_id": cluster, "namespace": "shop", "name": "c"});
    assert_eq!(api.post(&ops, "/api/k8s/configmaps/delete", delete).await.data(), json!({}));
    let update = json!({"id": cluster, "name": "renamed", "labels": {"env": "prod"}});
    let data = api.post(&ops, "/api/k8s/clusters/update", update).await.data();
    assert_eq!(
        (&data["cluster"]["name"], &data["cluster"]["labels"]["env"]),
        (&json!("renamed"), &json!("prod"))
    );
}

#[actix_web::test]
async fn configmap_update_replaces_all_text_values() {
    let api = TestApp::new().await;
    let ops = api.login("ops").await;
    let query = format!("cluster_id={}&namespace=shop&name=plain", api.cluster);
    let detail = async || api.get(&ops, "/api/k8s/configmaps/detail", &query).await.data();
    let before = detail().await;
    assert_eq!(
        (&before["data"], &before["binary_data"]),
        (&json!({"key": "value"}), &json!({"bytes": "/wA="}))
    );
    assert_eq!(before["configmap"]["name"], "plain");
    let update = json!({"cluster_id": api.cluster, "namespace": "shop", "name": "plain",
        "data": {"new": "x"}, "resource_version": before["resource_version"]});
    let data = api.post(&ops, "/api/k8s/configmaps/update", update.clone()).await.data();
    let keys = json!([{"name": "bytes", "bytes": 2}, {"name": "new", "bytes": 1}]);
    assert_eq!(data["configmap"]["keys"], keys);
    assert_eq!(detail().await["data"], json!({"new": "x"}));
    let reply = api.post(&ops, "/api/k8s/configmaps/update", update).await;
    assert_eq!(reply.error(), (409, "CONFLICT_ERROR".into(), "conflict_in_cluster".into()));
    let nothing = json!({"cluster_id": api.cluster, "namespace": "shop", "name": "plain"});
    let reply = api.post(&ops, "/api/k8s/configmaps/update", nothing).await;
    assert_eq!(reply.fields(), ["data=required"]);
}

#[actix_web::test]
async fn secret_update_keeps_null_keys_and_reveal_returns_values() {
    let api = TestApp::new().await;
    let ops = api.login("ops").await;
    let which = json!({"cluster_id": api.cluster, "namespace": "shop", "name": "pass"});
    let mut update = which.clone();
    update["data"] = json!({"bytes": null, "user": "ann"});
    let data = api.post(&ops, "/api/k8s/secrets/update", update.clone()).await.data();
    let keys = json!([{"name": "bytes", "bytes": 2}, {"name": "user", "bytes": 3}]);
    assert_eq!((&data["secret"]["keys"], &data["secret"]["type"]), (&keys, &json!("Opaque")));
    let data = api.post(&ops, "/api/k8s/secrets/reveal", which).await.data();
    let revealed = json!({"secret": {"name": "pass", "namespace": "shop", "type": "Opaque",
        "data": {"user": "ann"}, "binary_data": {"bytes": "/wA="}}});
    assert_eq!(data, revealed);

    update["data"] = json!({"absent": null});
    let reply = api.post(&ops, "/api/k8s/secrets/update", update.clone()).await;
    assert_eq!((reply.status.as_u16(), reply.fields()), (400, vec!["data.absent=required".to_owned()]));
    update["data"] = json!({"user": 7});
    let reply = api.post(&ops, "/api/k8s/secrets/update", update).await;
    assert_eq!(reply.fields(), ["data.user=invalid_type"]);
}

#[actix_web::test]
async fn endpoints_list_contains_only_the_named_service() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    let endpoints = async |query: &str| {
        let query = format!("cluster_id={}&namespace=shop{query}", api.cluster);
        api.get(&viewer, "/api/k8s/services/endpoints", &query).await
    };
    let data = endpoints("&name=web&sort=-ip").await.data();
    let ips: Vec<_> = data["endpoints"].as_array().unwrap().iter().map(|row| row["ip"].clone()).collect();
    assert_eq!((ips, &data["pagination"]["total"]), (vec![json!("10.0.0.2"), json!("10.0.0.1")], &json!(2)));
    assert_eq!(endpoints("&name=idle").await.data()["endpoints"], json!([]));
    assert_eq!(endpoints("&name=none").await.error().1, "RESOURCE_NOT_FOUND");
    assert_eq!(endpoints("").await.fields(), ["name=required"]);
    assert_eq!(endpoints("&name=a/b").await.fields(), ["name=invalid_name"]);
}

#[actix_web::test]
async fn stale_update_is_a_conflict() {
    let api = TestApp::new().await;
    let ops = api.login("ops").await;
    let update = json!({"id": api.cluster, "description": "x", "updated_at": "2020-01-01T00:00:00Z"});
    let reply = api.post(&ops, "/api/k8s/clusters/update", update).await;
    assert_eq!(reply.error(), (409, "CONFLICT_ERROR".into(), "modified".into()));
}

#[actix_web::test]
async fn viewer_sees_no_environment_literals() {
    let api = TestApp::new().await;
    let query = format!("cluster_id={}&namespace=shop&type=deployment&name=web", api.cluster);
    let detail = async |user: &str| {
        let signed_in = api.login(user).await;
        api.get(&signed_in, "/api/k8s/workloads/detail", &query).await.text
    };
    assert!(detail("ops").await.contains("canary-env"));
    assert!(!detail("viewer").await.contains("canary-env"));
}

#[actix_web::test]
async fn logs_accept_all_options() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    let query = format!("cluster_id={}&namespace=shop&pod_name=web-0", api.cluster);
    let logs = api.get(&viewer, "/api/k8s/pods/logs", &query).await.data();
    assert_eq!(
        (&logs["tail_lines"], &logs["logs"], &logs["truncated"]),
        (&json!(100), &json!("a line\n"), &json!(false))
    );
    let all =
        format!("{query}&container=side&tail_lines=10000&previous=true&since_seconds=1&timestamps=false");
    let logs = api.get(&viewer, "/api/k8s/pods/logs", &all).await.data();
    assert_eq!((&logs["container"], &logs["tail_lines"]), (&json!("side"), &json!(10_000)));
}

#[actix_web::test]
async fn status_reports_an_unreachable_cluster_as_offline() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    api.fake.clusters.fail(Some(pilothouse_core::Cause::Unreachable));
    let status = api.get(&viewer, "/api/k8s/clusters/status", &format!("id={}", api.cluster)).await.data();
    assert_eq!(
        (&status["cluster"]["status"], &status["cluster"]["status_reason"]),
        (&json!("offline"), &json!("unreachable"))
    );
    assert_eq!(status["latency_ms"], json!(null));
}

#[actix_web::test]
async fn viewer_reads_only_own_audit_rows() {
    let api = TestApp::new().await;
    let (viewer, admin) = (api.login("viewer").await, api.login("super").await);
    let path = "/api/k8s/audit/operations";
    let rows = api.get(&viewer, path, "").await.data();
    let users: Vec<_> = rows["logs"].as_array().unwrap().iter().map(|row| row["username"].clone()).collect();
    assert!(!users.is_empty() && users.iter().all(|user| user == "viewer"), "{users:?}");
    let all = api.get(&admin, path, "").await.data();
    assert!(all["pagination"]["total"].as_u64() > rows["pagination"]["total"].as_u64());
    let logins = api.get(&admin, path, "operation_type=login&status=success&sort=id").await.data();
    assert_eq!(logins["logs"][0]["username"], "viewer");
}

#[actix_web::test]
async fn change_is_refused_while_the_audit_trail_is_unavailable() {
    let api = TestApp::new().await;
    let ops = api.login("ops").await;
    api.fake.store.fail_audit_writes(true);
    let body = json!({"cluster_id": api.cluster, "namespace": "shop", "type": "deployment", "name": "web", "replicas": 5});
    let reply = api.post(&ops, "/api/k8s/workloads/scale", body).await;
    assert_eq!(reply.error(), (503, "SERVICE_UNAVAILABLE".into(), "audit_unavailable".into()));
    assert!(reply.header("retry-after").is_some());
    assert!(api.fake.clusters.calls().is_empty());
}
