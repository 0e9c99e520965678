//! Responses of the diagnosis: texts in the caller's language, steps with calls, and its parameters.

use pilothouse_core::{ids::ClusterId, kind::Kind};
use serde_json::{Value, json};

use crate::test_app::TestApp;

const PATH: &str = "/api/k8s/diagnose";

/// Puts a pod whose container was killed for its memory.
fn put_sick_pod(api: &TestApp) {
    let ended = json!({"terminated": {"reason": "OOMKilled", "exitCode": 137,
        "message": "password=canary-data in \u{1b}[31mred", "finishedAt": "2026-01-01T00:00:00Z"}});
    let pod = json!({
        "metadata": {"name": "sick", "namespace": "shop", "uid": "sick"},
        "spec": {"nodeName": "node-0",
            "containers": [{"name": "app", "resources": {"limits": {"memory": "64Mi"}}}]},
        "status": {"phase": "Running", "containerStatuses": [{"name": "app", "restartCount": 4,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ended}]},
    });
    api.fake.clusters.put(ClusterId(api.cluster), Kind::Pod, pod);
}

#[actix_web::test]
async fn finding_has_text_evidence_and_steps() {
    let api = TestApp::new().await;
    put_sick_pod(&api);
    let viewer = api.login("viewer").await;
    let query = format!("cluster_id={}&namespace=shop&type=pod&name=sick", api.cluster);
    let data = api.get(&viewer, PATH, &query).await.data();
    let finding = &data["findings"][0];
    assert_eq!(data["findings"].as_array().unwrap().len(), 1, "{data}");
    assert_eq!(
        (&finding["rule"], &finding["variant"], &finding["severity"], &finding["count"]),
        (&json!("oom"), &Value::Null, &json!("bad"), &json!(1))
    );
    assert_eq!(finding["object"], json!({"kind": "Pod", "namespace": "shop", "name": "sick"}));
    assert_eq!(
        finding["text"],
        "The container app was killed because it used more memory than its limit of 64Mi"
    );
    assert_eq!((&finding["since"], &finding["until"]), (&json!("2026-01-01T00:00:00Z"), &Value::Null));
    let quotes: Vec<_> = finding["evidence"].as_array().unwrap().iter().map(|quote| &quote["text"]).collect();
    let expected =
        ["OOMKilled, exit code 137, 4 restarts", "password=*** in [31mred", "resources.limits.memory: 64Mi"];
    assert_eq!(quotes, expected.map(|text| json!(text)).iter().collect::<Vec<_>>());
    let steps = finding["steps"].as_array().unwrap();
    let call = &steps[1]["call"];
    assert_eq!((&call["method"], &call["path"]), (&json!("GET"), &json!("/api/k8s/pods/logs")));
    let params = json!({"cluster_id": api.cluster.to_string(), "namespace": "shop", "pod_name": "sick",
        "container": "app", "previous": "true"});
    assert_eq!(call["params"], params);
    // the call works as it is
    let query: Vec<_> =
        params.as_object().unwrap().iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap())).collect();
    api.get(&viewer, "/api/k8s/pods/logs", &query.join("&")).await.data();
    // a bare pod has no revision to return to
    assert!(steps.iter().all(|step| step["call"]["path"] != "/api/k8s/workloads/undo"), "{steps:?}");
}

#[actix_web::test]
async fn call_of_a_change_is_accepted_as_it_is() {
    let api = TestApp::new().await;
    let failed = json!({"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded",
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let job = json!({"metadata": {"name": "once", "namespace": "shop", "uid": "once"},
        "spec": {"selector": {"matchLabels": {"job": "once"}}}, "status": {"failed": 3, "conditions": [failed]}});
    api.fake.clusters.put(ClusterId(api.cluster), Kind::Job, job);
    let ops = api.login("ops").await;
    let query = format!("cluster_id={}&namespace=shop&type=job&name=once", api.cluster);
    let data = api.get(&ops, PATH, &query).await.data();
    let steps = data["findings"][0]["steps"].as_array().unwrap();
    let call = steps.iter().map(|step| &step["call"]).find(|call| call["method"] == "POST").unwrap();
    assert_eq!(call["path"], "/api/k8s/jobs/rerun");
    api.post(&ops, "/api/k8s/jobs/rerun", call["params"].clone()).await.data();
}

#[actix_web::test]
async fn texts_are_in_the_language_of_the_caller() {
    let api = TestApp::new().await;
    put_sick_pod(&api);
    let viewer = api.login("viewer").await;
    let query = format!("cluster_id={}&namespace=shop&type=pod&name=sick", api.cluster);
    let chinese = api.call_in("zh", &viewer.credentials, "GET", PATH, &query).await.data();
    let finding = &chinese["findings"][0];
    assert_eq!(finding["text"], "容器 app 使用的内存超过其限制 64Mi，已被终止");
    let of = async |language: &str| {
        let data = api.call_in(language, &viewer.credentials, "GET", PATH, &query).await.data();
        data["findings"][0]["steps"][0]["text"].as_str().unwrap().to_owned()
    };
    assert!(of("zh").await.contains("resources.limits.memory") && of("zh").await != of("en").await);
}

#[actix_web::test]
async fn namespace_is_required_exactly_for_kinds_with_namespaces() {
    let api = TestApp::new().await;
    let node = json!({"metadata": {"name": "node-0", "uid": "n"}, "status": {"conditions": [
        {"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": "PLEG is not healthy"}]}});
    api.fake.clusters.put(ClusterId(api.cluster), Kind::Node, node);
    let viewer = api.login("viewer").await;
    let get =
        async |query: &str| api.get(&viewer, PATH, &format!("cluster_id={}&{query}", api.cluster)).await;
    for (query, field) in [
        ("type=pod&name=web-0", "namespace=required"),
        ("type=node&name=node-0&namespace=shop", "namespace=unknown"),
        ("type=secret&name=pass&namespace=shop", "type=not_one_of"),
        ("type=pod&namespace=shop", "name=required"),
        ("type=pod&namespace=shop&name=web-0&container=app", "container=unknown"),
    ] {
        let reply = get(query).await;
        assert_eq!((reply.status.as_u16(), reply.fields()), (400, vec![field.to_owned()]), "{query}");
    }
    let data = get("type=node&name=node-0").await.data();
    let finding = &data["findings"][0];
    assert_eq!((&finding["rule"], &finding["variant"]), (&json!("node"), &json!("not_ready")));
    assert_eq!(finding["object"]["namespace"], Value::Null);
    let reply = get("type=node&name=absent").await;
    assert_eq!(reply.error(), (404, "RESOURCE_NOT_FOUND".into(), "not_found_in_cluster".into()));
}

#[actix_web::test]
async fn every_type_is_diagnosed() {
    let api = TestApp::new().await;
    let object = |name: &str| json!({"metadata": {"name": name, "namespace": "shop", "uid": name}, "spec": {}, "status": {}});
    let kinds = [
        Kind::Deployment,
        Kind::StatefulSet,
        Kind::DaemonSet,
        Kind::Job,
        Kind::CronJob,
        Kind::Pod,
        Kind::Service,
        Kind::Ingress,
        Kind::PersistentVolumeClaim,
    ];
    let viewer = api.login("viewer").await;
    for kind in kinds {
        let name = format!("new-{kind}");
        api.fake.clusters.put(ClusterId(api.cluster), kind, object(&name));
        let query = format!("cluster_id={}&namespace=shop&type={kind}&name={name}", api.cluster);
        let data = api.get(&viewer, PATH, &query).await.data();
        assert!(data["unreadable"].as_array().unwrap().is_empty(), "{kind}: {data}");
        let checked = data["checked"].as_array().unwrap();
        assert!(checked.contains(&json!(kind.info().plural)) && checked.contains(&json!("events")), "{data}");
    }
}
