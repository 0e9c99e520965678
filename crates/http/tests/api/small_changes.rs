//! Changes of jobs, pods, autoscalers and nodes: responses, warnings, refusals and repetitions.

use serde_json::{Value, json};

use crate::test_app::{POD_UID, TestApp};

impl TestApp {
    /// A body for an object in `shop`.
    fn in_shop(&self, more: Value) -> Value {
        let mut body = json!({"cluster_id": self.cluster, "namespace": "shop"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    }
}

#[actix_web::test]
async fn run_is_repeated_under_its_key_without_a_second_job() {
    let api = TestApp::new().await;
    let ops = api.login("ops").await;
    let body = api.in_shop(json!({"name": "nightly", "reason": "missed tonight"})).to_string();
    let run = async |key: &'static str| api.keyed(&ops, &[key], "/api/k8s/cronjobs/run", &body).await;
    let first = run("night").await;
    let name = first.data()["workload"]["name"].clone();
    assert!(name.as_str().unwrap().starts_with("nightly-"), "{name}");
    let again = run("night").await;
    assert_eq!((again.status, &again.text), (first.status, &first.text));
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    let query = format!("cluster_id={}&namespace=shop&type=job&search=nightly-", api.cluster);
    let jobs =
        async || api.get(&ops, "/api/k8s/workloads", &query).await.data()["pagination"]["total"].clone();
    assert_eq!(jobs().await, 1, "one job under one key");
    assert_ne!(run("another").await.data()["workload"]["name"], name);
    assert_eq!(jobs().await, 2);
}

#[actix_web::test]
async fn changes_answer_with_the_object_and_name_what_should_be_known() {
    let api = TestApp::new().await;
    let ops = api.login("ops").await;
    let post = async |path: &str, body: Value| api.post(&ops, &format!("/api/k8s/{path}"), body).await.data();
    let nightly = api.in_shop(json!({"name": "nightly"}));
    let suspended = post("cronjobs/suspend", nightly.clone()).await;
    assert_eq!((&suspended["workload"]["status"], suspended.get("warnings")), (&json!("suspended"), None));
    let again = post("cronjobs/suspend", nightly.clone()).await;
    assert_eq!(again["warnings"].as_array().unwrap().len(), 1, "it already was: {again}");
    let resumed = post("cronjobs/resume", nightly).await;
    assert_eq!(resumed["workload"]["status"], "idle");

    let twice = post("jobs/rerun", api.in_shop(json!({"name": "once", "job_name": "twice"}))).await;
    assert_eq!(twice["workload"]["name"], "twice");
    let job = post("jobs/suspend", api.in_shop(json!({"name": "twice"}))).await;
    assert_eq!(job["workload"]["status"], "suspended");
    let job = post("jobs/suspend", api.in_shop(json!({"name": "twice", "suspend": false}))).await;
    assert_eq!(job["workload"]["status"], "running");

    let limits = api.in_shop(json!({"name": "web", "min": 2, "max": 8}));
    let autoscaler = post("autoscalers/update", limits).await["autoscaler"].take();
    assert_eq!([&autoscaler["min_replicas"], &autoscaler["max_replicas"]], [2, 8]);

    let node =
        post("nodes/cordon", json!({"cluster_id": api.cluster, "name": "node-1"})).await["node"].take();
    assert_eq!((&node["unschedulable"], &node["pods"]), (&json!(true), &json!(null)));
    let query = format!("cluster_id={}", api.cluster);
    let nodes = api.get(&ops, "/api/k8s/nodes", &query).await.data()["nodes"].take();
    assert_eq!(nodes[0]["unschedulable"], true);

    let pod = json!({"pod_name": "web-0", "uid": POD_UID, "container": "app", "limits": {"memory": "64Mi"}});
    let resized = post("pods/resize", api.in_shop(pod)).await;
    assert_eq!(
        (&resized["pod"]["name"], resized["warnings"].as_array().unwrap().len()),
        (&json!("web-0"), 1)
    );
    let evicted = post("pods/evict", api.in_shop(json!({"pod_name": "web-0", "uid": POD_UID}))).await;
    assert_eq!(evicted, json!({}));
    let query = format!("cluster_id={}&namespace=shop", api.cluster);
    let pods = api.get(&ops, "/api/k8s/pods", &query).await.data();
    assert_eq!(pods["pagination"]["total"], 0);
}

#[actix_web::test]
async fn what_is_wrong_in_a_body_is_named() {
    let api = TestApp::new().await;
    let ops = api.login("ops").await;
    let pod = |more: Value| {
        let mut body = api.in_shop(json!({"pod_name": "web-0", "uid": POD_UID}));
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let resize = |more: Value| {
        let mut body = pod(json!({"container": "app"}));
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for (path, body, field) in [
        ("pods/delete", pod(json!({"uid": null})), "uid=invalid_type"),
        ("pods/delete", pod(json!({"uid": "a/b"})), "uid=invalid_name"),
        ("pods/delete", pod(json!({"grace_seconds": 86_401})), "grace_seconds=out_of_range"),
        ("pods/delete", api.in_shop(json!({"pod_name": "web-0"})), "uid=required"),
        ("pods/evict", pod(json!({"reason": "why"})), "reason=too_short"),
        ("pods/resize", resize(json!({})), "requests=required"),
        ("pods/resize", resize(json!({"requests": {}, "limits": {"memory": null}})), "requests=required"),
        ("pods/resize", resize(json!({"requests": {"cpu": "-1"}})), "requests.cpu=malformed"),
        ("pods/resize", resize(json!({"limits": {"memory": "all"}})), "limits.memory=malformed"),
        ("pods/resize", resize(json!({"limits": {"gpu": "1"}})), "limits.gpu=unknown"),
        ("autoscalers/update", api.in_shop(json!({"name": "web", "min": 3, "max": 2})), "max=out_of_range"),
        ("autoscalers/update", api.in_shop(json!({"name": "web", "min": 0, "max": 2})), "min=out_of_range"),
        ("autoscalers/update", api.in_shop(json!({"name": "web", "min": 1})), "max=required"),
        (
            "cronjobs/run",
            api.in_shop(json!({"name": "nightly", "job_name": "j".repeat(64)})),
            "job_name=too_long",
        ),
        ("cronjobs/suspend", api.in_shop(json!({"name": "nightly", "suspend": true})), "suspend=unknown"),
    ] {
        let reply = api.post(&ops, &format!("/api/k8s/{path}"), body.clone()).await;
        assert_eq!(reply.fields(), [field], "{path} {body}");
    }
    assert!(api.fake.clusters.calls().is_empty());
}

#[actix_web::test]
async fn deletion_of_an_earlier_pod_is_a_conflict() {
    let api = TestApp::new().await;
    let ops = api.login("ops").await;
    for path in ["/api/k8s/pods/delete", "/api/k8s/pods/evict"] {
        let body = api.in_shop(json!({"pod_name": "web-0", "uid": "an-earlier-pod"}));
        let reply = api.post(&ops, path, body).await;
        assert_eq!(reply.error(), (409, "CONFLICT_ERROR".into(), "modified".into()));
    }
}
