//! Problems, levels and reasons on a real cluster. Those that need a node are tested with the diagnosis.

use pilothouse_testbed::{shared, workloads};
use serde_json::{Value, json};

use crate::support::{Server, apply, delete_namespace, eventually, names, register_cluster};

#[tokio::test]
async fn deployment_whose_pods_are_refused_is_a_problem_with_its_recent_changes() {
    const NAMESPACE: &str = "bb-problems";
    let plane = shared().await.unwrap();
    let kube = plane.client();
    let metadata = json!({"name": "small", "namespace": NAMESPACE});
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": {"pods": "0"}}});
    apply(&kube, &[workloads::namespace(NAMESPACE), quota]).await;
    let path = format!("/api/v1/namespaces/{NAMESPACE}/resourcequotas/small");
    eventually("the quota is enforced", async || {
        kube.get(&path).await.ok().filter(|quota| quota["status"]["hard"]["pods"] == "0")
    })
    .await;
    let mut idle = workloads::deployment(NAMESPACE, "idle", 0);
    idle["metadata"]["labels"] = json!({"app": "idle"});
    apply(&kube, &[workloads::deployment(NAMESPACE, "web", 2), idle]).await;

    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "problems", plane).await;
    let scale =
        json!({"cluster_id": id, "namespace": NAMESPACE, "type": "deployment", "name": "web", "replicas": 3});
    admin.post("/api/k8s/workloads/scale", scale).await.data();
    let path = format!("/api/k8s/problems?cluster_id={id}&namespace={NAMESPACE}");
    let problems = eventually("the refused pods are a problem", async || {
        let problems = admin.rows(&path, "problems").await;
        problems.first().is_some_and(|problem| problem["rule"] == "quota").then_some(problems)
    })
    .await;
    assert_eq!(problems.len(), 1, "{problems:#?}");
    let problem = &problems[0];
    assert_eq!((&problem["kind"], &problem["name"]), (&json!("deployment"), &json!("web")));
    assert_eq!((&problem["level"], &problem["reason"]), (&json!("bad"), &json!("FailedCreate")));
    assert_eq!((&problem["wanted"], &problem["lost"]), (&json!(3), &json!(3)));
    assert!(problem["since"].is_string() && problem["sample"].is_null(), "{problem:#}");
    let changes = problem["recent_changes"].as_array().unwrap();
    assert_eq!((changes.len(), &changes[0]["operation_type"]), (1, &json!("scale")));

    // a user without a right there sees neither the problem nor the cluster
    let nobody = server.user(&admin, "none").await;
    let data = nobody.get("/api/k8s/problems").await.data();
    assert_eq!((&data["problems"], &data["clusters"]), (&json!([]), &json!([])));
    nobody.get(&path).await.refused("RESOURCE_NOT_FOUND");

    // the row of the deployment, by filters and a label selector
    let list = format!("/api/k8s/workloads?cluster_id={id}&namespace={NAMESPACE}");
    let of = async |filters: &str| -> Vec<String> {
        let rows = admin.rows(format!("{list}{filters}"), "workloads").await;
        names(&rows).into_iter().map(str::to_owned).collect()
    };
    assert_eq!(of("&level=bad,warn").await, ["web"]);
    assert_eq!(of("&level=idle").await, ["idle"]);
    assert_eq!(of("&sort=-level").await, ["web", "idle"]);
    assert_eq!(of("&label=app=idle").await, ["idle"]);
    assert_eq!(of("&type=deployment,statefulset&status=failed,stopped").await, ["idle", "web"]);
    let row = &admin.rows(format!("{list}&level=bad"), "workloads").await[0];
    let object = kube.get(&format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/web")).await.unwrap();
    assert_eq!((&row["uid"], &row["reason"]), (&object["metadata"]["uid"], &json!("FailedCreate")));

    eventually("a search of several kinds finds the quota", async || {
        let data = admin.get("/api/k8s/search?kind=workloads,resource_quotas,services&q=small").await.data();
        let results = data["results"].as_array()?;
        let is_quota = |row: &Value| row["kind"] == "resource_quotas" && row["namespace"] == NAMESPACE;
        results.iter().any(is_quota).then_some(())
    })
    .await;
    delete_namespace(&kube, NAMESPACE).await;
}

#[tokio::test]
async fn unreachable_cluster_is_a_problem_itself() {
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let unreachable = json!({"name": "nowhere", "auth_type": "token", "token": "t", "api_server": "https://127.0.0.1:1", "skip_test": true});
    admin.post("/api/k8s/clusters", unreachable).await.data();
    let data = eventually("the cluster is reported", async || {
        let data = admin.get("/api/k8s/problems").await.data();
        (data["problems"].as_array().is_some_and(|problems| !problems.is_empty())).then_some(data)
    })
    .await;
    let problem = &data["problems"][0];
    assert_eq!(
        (&problem["rule"], &problem["kind"], &problem["name"]),
        (&json!("cluster"), &json!("cluster"), &json!("nowhere"))
    );
    assert_eq!((&problem["level"], &data["clusters"][0]["status"]), (&json!("bad"), &json!("error")));
    let clusters = admin.rows("/api/k8s/clusters?level=bad", "clusters").await;
    assert_eq!(names(&clusters), ["nowhere"]);
}
