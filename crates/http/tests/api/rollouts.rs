//! Responses of rollouts: history, differences, progress, and changes with a reason.

use serde_json::{Value, json};

use crate::test_app::{SignedIn, TestApp};

fn query(api: &TestApp) -> String {
    format!("cluster_id={}&namespace=shop&type=deployment&name=web", api.cluster)
}

async fn post(api: &TestApp, user: &SignedIn, path: &str, more: Value) -> Value {
    let mut body =
        json!({"cluster_id": api.cluster, "namespace": "shop", "type": "deployment", "name": "web"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    api.post(user, &format!("/api/k8s/workloads/{path}"), body).await.data()
}

/// The newest row of the audit trail.
async fn newest_operation(api: &TestApp, user: &SignedIn) -> Value {
    api.get(user, "/api/k8s/audit/operations", "per_page=1").await.data()["logs"][0].take()
}

#[actix_web::test]
async fn reason_of_a_change_is_in_its_audit_row() {
    let api = TestApp::new().await;
    let ops = api.login("ops").await;
    let data = post(&api, &ops, "undo", json!({"to_revision": 1, "reason": " 回滚到上一版本 "})).await;
    assert_eq!(data["workload"]["images"], json!(["web:0"]));
    let row = newest_operation(&api, &ops).await;
    assert_eq!(
        (&row["operation_type"], &row["reason"], &row["status"]),
        (&json!("undo"), &json!("回滚到上一版本"), &json!("success"))
    );
    post(&api, &ops, "pause", json!({})).await;
    assert_eq!(newest_operation(&api, &ops).await["reason"], Value::Null);
    let body = json!({"cluster_id": api.cluster, "namespace": "shop", "type": "deployment", "name": "web", "reason": "why"});
    let reply = api.post(&ops, "/api/k8s/workloads/resume", body).await;
    assert_eq!(reply.fields(), ["reason=too_short"]);
}

#[actix_web::test]
async fn history_and_differences_of_revisions() {
    let api = TestApp::new().await;
    let (ops, viewer) = (api.login("ops").await, api.login("viewer").await);
    let history =
        async |user: &SignedIn| api.get(user, "/api/k8s/workloads/history", &query(&api)).await.data();
    let revisions = history(&viewer).await["revisions"].take();
    let short = |row: &Value| (row["revision"].clone(), row["current"].clone(), row["images"].clone());
    let rows: Vec<_> = revisions.as_array().unwrap().iter().map(short).collect();
    assert_eq!(rows, [(json!(2), json!(true), json!(["web:1"])), (json!(1), json!(false), json!(["web:0"]))]);

    let diff = async |user: &SignedIn| {
        let query = format!("{}&from=1&to=2", query(&api));
        api.get(user, "/api/k8s/workloads/history/diff", &query).await.data()["changes"].take()
    };
    let path = |field: &str| format!("/spec/template/spec/containers/0/{field}");
    let image = json!({"path": path("image"), "from": "web:0", "to": "web:1"});
    let env = |from: &str, to: &str| json!({"path": path("env/0/value"), "from": from, "to": to});
    assert_eq!(diff(&ops).await, json!([env("canary-env-0", "canary-env"), image]));
    assert_eq!(diff(&viewer).await, json!([env("***", "***"), image]));
    let query = format!("{}&from=1&to=7", query(&api));
    let reply = api.get(&viewer, "/api/k8s/workloads/history/diff", &query).await;
    assert_eq!(reply.error(), (404, "RESOURCE_NOT_FOUND".into(), "not_found_in_cluster".into()));
}

#[actix_web::test]
async fn progress_is_read_and_streamed() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    let data = api.get(&viewer, "/api/k8s/workloads/rollout", &query(&api)).await.data();
    assert_eq!(
        (&data["state"], &data["updated"], &data["wanted"]),
        (&json!("progressing"), &json!(0), &json!(2))
    );
    let reply = api.get(&viewer, "/api/k8s/workloads/rollout/watch", &query(&api)).await;
    let events: Vec<_> = reply.text.split("\n\n").filter(|event| event.starts_with("event: ")).collect();
    let first = events[0].strip_prefix("event: rollout\ndata: ").unwrap();
    assert_eq!(serde_json::from_str::<Value>(first).unwrap(), data);
    assert!(events[1].starts_with("event: end\ndata: ") && events.len() == 2, "{}", reply.text);
}

#[actix_web::test]
async fn changes_that_are_not_needed_answer_with_a_warning() {
    let api = TestApp::new().await;
    let ops = api.login("ops").await;
    let unchanged = json!(["Nothing was changed: it already is as requested"]);
    assert_eq!(post(&api, &ops, "resume", json!({})).await["warnings"], unchanged);
    assert_eq!(post(&api, &ops, "undo", json!({"to_revision": 2})).await["warnings"], unchanged);
    let image = json!({"images": {"app": "web:1"}});
    assert_eq!(post(&api, &ops, "set-image", image).await["warnings"], unchanged);
    let data = post(&api, &ops, "set-image", json!({"images": {"app": "web:2"}})).await;
    assert_eq!((&data["workload"]["images"], data.get("warnings")), (&json!(["web:2"]), None));
}
