//! Changes to a cluster: the response, and the state of the cluster afterwards.

use pilothouse_testbed::{shared, workloads};
use serde_json::{Value, json};

use crate::support::{
    Server, apply, create_namespace, delete_namespace, eventually, names, register_cluster, strings,
};

#[tokio::test]
async fn scale_returns_the_new_row_and_the_list_shows_it() {
    let plane = shared().await.unwrap();
    let kube = plane.client();
    create_namespace(&kube, "bb-scale").await;
    apply(&kube, &[workloads::deployment("bb-scale", "web", 1), workloads::daemon_set("bb-scale", "agent")])
        .await;
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "scale", plane).await;
    let scale = |r#type: &str, name: &str, replicas: Value| {
        let body = json!({"cluster_id": id, "namespace": "bb-scale", "type": r#type, "name": name, "replicas": replicas});
        admin.post("/api/k8s/workloads/scale", body)
    };

    let row = scale("deployment", "web", json!(3)).await.data()["workload"].take();
    assert_eq!((&row["name"], &row["replicas"]), (&json!("web"), &json!(3)));
    let object = kube.get("/apis/apps/v1/namespaces/bb-scale/deployments/web").await.unwrap();
    assert_eq!(object["spec"]["replicas"], 3);
    let rows =
        admin.rows(format!("/api/k8s/workloads?cluster_id={id}&namespace=bb-scale&search=web"), "workloads");
    assert_eq!(rows.await[0]["replicas"], 3, "the list shows the write");
    let row = scale("deployment", "web", json!(0)).await.data()["workload"].take();
    assert_eq!((&row["replicas"], &row["status"]), (&json!(0), &json!("stopped")));

    scale("daemonset", "agent", json!(1)).await.refused("VALIDATION_ERROR");
    scale("deployment", "web", json!(10_001)).await.refused("VALIDATION_ERROR");
    scale("deployment", "web", json!("3")).await.refused("VALIDATION_ERROR");
    scale("deployment", "nobody", json!(1)).await.refused("RESOURCE_NOT_FOUND");
    scale("deployment", "a/../web", json!(1)).await.refused("VALIDATION_ERROR");
    let object = kube.get("/apis/apps/v1/namespaces/bb-scale/deployments/web").await.unwrap();
    assert_eq!(object["spec"]["replicas"], 0);
    delete_namespace(&plane.client(), "bb-scale").await;
}

#[tokio::test]
async fn scaling_an_autoscaled_workload_succeeds_with_a_warning() {
    let plane = shared().await.unwrap();
    let kube = plane.client();
    create_namespace(&kube, "bb-hpa").await;
    let autoscaler = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "web", "namespace": "bb-hpa"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}, "maxReplicas": 3,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}],
        },
    });
    apply(
        &kube,
        &[workloads::deployment("bb-hpa", "web", 1), workloads::deployment("bb-hpa", "free", 1), autoscaler],
    )
    .await;
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "hpa", plane).await;
    let scale = |name: &str| {
        let body = json!({"cluster_id": id, "namespace": "bb-hpa", "type": "deployment", "name": name, "replicas": 2});
        admin.post("/api/k8s/workloads/scale", body)
    };
    let data = scale("web").await.data();
    assert_eq!(data["workload"]["replicas"], 2);
    assert_eq!(strings(&data["warnings"]).len(), 1, "{data}");
    assert_eq!(scale("free").await.data().get("warnings"), None);
    delete_namespace(&plane.client(), "bb-hpa").await;
}

#[tokio::test]
async fn restart_sets_kubectl_annotation_and_paused_deployment_conflicts() {
    let plane = shared().await.unwrap();
    let kube = plane.client();
    create_namespace(&kube, "bb-restart").await;
    let mut paused = workloads::deployment("bb-restart", "paused", 1);
    paused["spec"]["paused"] = json!(true);
    apply(
        &kube,
        &[
            workloads::deployment("bb-restart", "web", 1),
            workloads::stateful_set("bb-restart", "db", 1),
            workloads::daemon_set("bb-restart", "agent"),
            workloads::cron_job("bb-restart", "report"),
            paused,
        ],
    )
    .await;
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "restart", plane).await;
    let restart = |r#type: &str, name: &str| {
        let body = json!({"cluster_id": id, "namespace": "bb-restart", "type": r#type, "name": name});
        admin.post("/api/k8s/workloads/restart", body)
    };
    for (r#type, name) in [("deployment", "web"), ("statefulset", "db"), ("daemonset", "agent")] {
        let row = restart(r#type, name).await.data()["workload"].take();
        let path = format!("/apis/apps/v1/namespaces/bb-restart/{type}s/{name}");
        let object = kube.get(&path).await.unwrap();
        let at = &object["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"];
        assert!(at.is_string(), "{object}");
        assert_eq!(&row["restarted_at"], at);
    }
    let refused = restart("deployment", "paused").await.refused("CONFLICT_ERROR");
    assert_eq!(refused["context"]["cause"], "rollout_paused");
    let path = "/apis/apps/v1/namespaces/bb-restart/deployments/paused";
    let annotations = &kube.get(path).await.unwrap()["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations, &Value::Null);
    restart("cronjob", "report").await.refused("VALIDATION_ERROR");
    delete_namespace(&plane.client(), "bb-restart").await;
}

#[tokio::test]
async fn namespaces_are_created_and_deleted_except_protected_ones() {
    let plane = shared().await.unwrap();
    let kube = plane.client();
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "namespaces", plane).await;
    let body = json!({"cluster_id": id, "name": "bb-made"});
    assert_eq!(admin.post("/api/k8s/namespaces", body.clone()).await.data()["namespace"]["name"], "bb-made");
    assert_eq!(kube.get("/api/v1/namespaces/bb-made").await.unwrap()["status"]["phase"], "Active");
    admin.post("/api/k8s/namespaces", body).await.refused("CONFLICT_ERROR");
    admin
        .post("/api/k8s/namespaces", json!({"cluster_id": id, "name": "No_Name"}))
        .await
        .refused("VALIDATION_ERROR");

    let delete =
        |name: &str| admin.post("/api/k8s/namespaces/delete", json!({"cluster_id": id, "namespace": name}));
    assert_eq!(delete("bb-made").await.data(), json!({}));
    eventually("the namespace is deleted", async || {
        kube.try_get("/api/v1/namespaces/bb-made").await.unwrap().is_none().then_some(())
    })
    .await;
    delete("bb-made").await.refused("RESOURCE_NOT_FOUND");
    for protected in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        let refused = delete(protected).await.refused("PERMISSION_DENIED");
        assert_eq!(refused["context"]["cause"], "protected_namespace");
    }
    assert!(kube.try_get("/api/v1/namespaces/default").await.unwrap().is_some());
}

#[tokio::test]
async fn configmaps_are_created_and_deleted() {
    let plane = shared().await.unwrap();
    let kube = plane.client();
    create_namespace(&kube, "bb-config").await;
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "config", plane).await;
    let data = json!({"key1": "value1", "empty": "", "unicode": "驾驶舱"});
    let body = json!({"cluster_id": id, "namespace": "bb-config", "name": "app", "data": data, "labels": {"a": "b"}});
    let row = admin.post("/api/k8s/configmaps", body.clone()).await.data()["configmap"].take();
    assert_eq!(names(row["keys"].as_array().unwrap()), ["empty", "key1", "unicode"]);
    let object = kube.get("/api/v1/namespaces/bb-config/configmaps/app").await.unwrap();
    assert_eq!((&object["data"], &object["metadata"]["labels"]["a"]), (&data, &json!("b")));
    admin.post("/api/k8s/configmaps", body).await.refused("CONFLICT_ERROR");
    let missing_namespace = json!({"cluster_id": id, "namespace": "bb-nowhere", "name": "app", "data": {}});
    admin.post("/api/k8s/configmaps", missing_namespace).await.refused("RESOURCE_NOT_FOUND");

    let which = json!({"cluster_id": id, "namespace": "bb-config", "name": "app"});
    assert_eq!(admin.post("/api/k8s/configmaps/delete", which.clone()).await.data(), json!({}));
    assert!(kube.try_get("/api/v1/namespaces/bb-config/configmaps/app").await.unwrap().is_none());
    admin.post("/api/k8s/configmaps/delete", which).await.refused("RESOURCE_NOT_FOUND");
}

#[tokio::test]
async fn change_over_the_quota_is_a_conflict() {
    let plane = shared().await.unwrap();
    let kube = plane.client();
    create_namespace(&kube, "bb-full").await;
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none", "namespace": "bb-full"},
        "spec": {"hard": {"configmaps": "0"}},
    });
    apply(&kube, &[quota]).await;
    let path = "/api/v1/namespaces/bb-full/resourcequotas/none";
    let counted = |quota: &Value| quota["status"]["hard"]["configmaps"] == "0";
    kube.wait_until(path, counted, std::time::Duration::from_secs(60)).await.unwrap();
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "full", plane).await;
    let body = json!({"cluster_id": id, "namespace": "bb-full", "name": "app", "data": {}});
    let refused = admin.post("/api/k8s/configmaps", body).await.refused("CONFLICT_ERROR");
    assert_eq!(refused["context"]["cause"], "quota_exceeded");
}
