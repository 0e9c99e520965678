//! Lists and details, compared with the objects in the cluster.

use pilothouse_testbed::{shared, workloads};
use serde_json::{Value, json};

use crate::support::{Server, apply, delete_namespace, eventually, names, register_cluster, strings};

/// The expected row of a workload, computed from the cluster's object, independently of the server's code on purpose.
fn expected(r#type: &str, object: &Value) -> Value {
    let (meta, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
    let number = |value: &Value| json!(value.as_i64().unwrap_or(0));
    let template =
        if r#type == "cronjob" { &spec["jobTemplate"]["spec"]["template"] } else { &spec["template"] };
    let images: Vec<_> = template["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|container| &container["image"])
        .collect();
    let mut row = json!({
        "name": meta["name"], "namespace": meta["namespace"], "type": r#type, "images": images,
        "labels": meta["labels"].as_object().cloned().unwrap_or_default(), "created_at": meta["creationTimestamp"],
    });
    match r#type {
        "deployment" | "statefulset" => {
            row["replicas"] = number(&spec["replicas"]);
            row["ready_replicas"] = number(&status["readyReplicas"]);
            row["selector"] = spec["selector"]["matchLabels"].clone();
        }
        "daemonset" => {
            row["replicas"] = number(&status["desiredNumberScheduled"]);
            row["ready_replicas"] = number(&status["numberReady"]);
            row["selector"] = spec["selector"]["matchLabels"].clone();
        }
        _ => {}
    }
    row
}

/// Reports whether the row contains all expected fields.
fn row_matches(row: &Value, expected: &Value) -> bool {
    expected.as_object().unwrap().iter().all(|(key, value)| &row[key] == value)
}

#[tokio::test]
async fn workload_lists_equal_the_cluster_objects() {
    let plane = shared().await.unwrap();
    let kube = plane.client();
    apply(&kube, &workloads::samples("bb-lists")).await;
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "lists", plane).await;

    let types = ["deployment", "statefulset", "daemonset", "job", "cronjob"];
    for (r#type, plural) in types.iter().zip([
        "apps/v1/namespaces/bb-lists/deployments",
        "apps/v1/namespaces/bb-lists/statefulsets",
        "apps/v1/namespaces/bb-lists/daemonsets",
        "batch/v1/namespaces/bb-lists/jobs",
        "batch/v1/namespaces/bb-lists/cronjobs",
    ]) {
        let path = format!("/api/k8s/workloads?cluster_id={id}&namespace=bb-lists&type={}", r#type);
        // Controllers change the objects, so both are read until they agree.
        eventually(&format!("{} rows equal the cluster's objects", r#type), async || {
            let objects = kube.get(&format!("/apis/{plural}")).await.unwrap();
            let expected: Vec<_> =
                objects["items"].as_array().unwrap().iter().map(|object| expected(r#type, object)).collect();
            let rows = admin.rows(&path, "workloads").await;
            let same = rows.len() == expected.len() && !rows.is_empty();
            (same && rows.iter().zip(&expected).all(|(row, expected)| row_matches(row, expected)))
                .then_some(())
        })
        .await;
    }

    // Without a type: Deployments, StatefulSets and DaemonSets, in one order with one total.
    let path = format!("/api/k8s/workloads?cluster_id={id}&namespace=bb-lists&per_page=2");
    let first = admin.get(&path).await.data();
    assert_eq!(first["pagination"], json!({"page": 1, "per_page": 2, "total": 3, "pages": 2}));
    assert_eq!(names(first["workloads"].as_array().unwrap()), ["agent", "db"]);
    assert_eq!((&first["stale"], first["as_of"].is_string()), (&json!(false), true));
    assert_eq!(names(&admin.rows(format!("{path}&page=2"), "workloads").await), ["web"]);
    assert_eq!(admin.rows(format!("{path}&page=3"), "workloads").await, Vec::<Value>::new());
    let sorted = admin.rows(format!("{path}&sort=-name"), "workloads").await;
    assert_eq!(names(&sorted), ["web", "db"]);
    assert_eq!(names(&admin.rows(format!("{path}&search=E"), "workloads").await), ["agent", "web"]);
    admin.get(format!("{path}&colour=blue")).await.refused("VALIDATION_ERROR");
    admin.get(format!("/api/k8s/workloads?cluster_id={id}")).await.refused("VALIDATION_ERROR");

    // In all namespaces: at least the objects of this one.
    let all_namespaces =
        admin.rows(format!("/api/k8s/workloads?cluster_id={id}&namespace=*&per_page=500"), "workloads");
    let all_namespaces = all_namespaces.await;
    assert_eq!(all_namespaces.iter().filter(|row| row["namespace"] == "bb-lists").count(), 3);
    delete_namespace(&plane.client(), "bb-lists").await;
}

#[tokio::test]
async fn pod_and_configmap_lists_equal_the_cluster_objects() {
    let plane = shared().await.unwrap();
    let kube = plane.client();
    apply(&kube, &workloads::samples("bb-pods")).await;
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "pods", plane).await;

    let path = format!("/api/k8s/pods?cluster_id={id}&namespace=bb-pods&workload=deployment/web");
    let rows = eventually("the pods of the deployment", async || {
        Some(admin.rows(&path, "pods").await).filter(|rows| rows.len() == 2)
    })
    .await;
    for row in &rows {
        let name = row["name"].as_str().unwrap();
        let pod = kube.get(&format!("/api/v1/namespaces/bb-pods/pods/{name}")).await.unwrap();
        assert_eq!(row["namespace"], "bb-pods");
        assert_eq!(row["labels"], pod["metadata"]["labels"]);
        assert_eq!(row["created_at"], pod["metadata"]["creationTimestamp"]);
        assert_eq!(strings(&row["containers"]), ["web"]);
        assert_eq!(
            row["owner"],
            json!({"kind": "ReplicaSet", "name": pod["metadata"]["ownerReferences"][0]["name"]})
        );
    }

    let path = format!("/api/k8s/configmaps?cluster_id={id}&namespace=bb-pods&search=settings");
    let rows = admin.rows(&path, "configmaps").await;
    let object = kube.get("/api/v1/namespaces/bb-pods/configmaps/settings").await.unwrap();
    let keys: Vec<_> = object["data"].as_object().unwrap().iter().collect();
    let keys: Vec<_> = keys
        .iter()
        .map(|(name, value)| json!({"name": name, "bytes": value.as_str().unwrap().len()}))
        .collect();
    assert_eq!((rows.len(), &rows[0]["keys"]), (1, &json!(keys)));
    assert_eq!(rows[0]["created_at"], object["metadata"]["creationTimestamp"]);
    delete_namespace(&plane.client(), "bb-pods").await;
}

#[tokio::test]
async fn namespaces_show_their_quota() {
    let plane = shared().await.unwrap();
    let kube = plane.client();
    let second = {
        let mut quota = workloads::resource_quota("bb-quota", "tighter");
        quota["spec"]["hard"] = json!({"pods": "3"});
        quota
    };
    let quota = workloads::resource_quota("bb-quota", "limits");
    apply(&kube, &[workloads::namespace("bb-quota"), quota, second]).await;
    apply(&kube, &[workloads::deployment("bb-quota", "web", 2)]).await;
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "quota", plane).await;

    let row = eventually("the quota shows usage", async || {
        let rows = admin.rows(format!("/api/k8s/namespaces?cluster_id={id}&search=bb-quota"), "namespaces");
        rows.await.into_iter().find(|row| row["resource_quota"]["used"]["pods"] == "2")
    })
    .await;
    assert_eq!(strings(&row["resource_quota"]["names"]), ["limits", "tighter"]);
    assert_eq!(row["resource_quota"]["hard"]["pods"], "3", "the smallest limit applies");
    assert_eq!(row["resource_quota"]["hard"]["requests.memory"], "1Gi");
    assert_eq!(row["status"], "Active");
    let rows =
        admin.rows(format!("/api/k8s/namespaces?cluster_id={id}&search=kube-public"), "namespaces").await;
    assert_eq!(rows[0]["resource_quota"], Value::Null);
    delete_namespace(&plane.client(), "bb-quota").await;
}

#[tokio::test]
async fn workload_detail_is_complete_and_hides_values_from_viewers() {
    let plane = shared().await.unwrap();
    let kube = plane.client();
    let mut deployment = workloads::deployment("bb-detail", "web", 1);
    deployment["spec"]["template"]["spec"]["containers"][0]["env"] =
        json!([{"name": "GREETING", "value": "hello-canary"}]);
    apply(&kube, &[workloads::namespace("bb-detail"), deployment]).await;
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "detail", plane).await;
    let path =
        format!("/api/k8s/workloads/detail?cluster_id={id}&namespace=bb-detail&type=deployment&name=web");

    let detail = eventually("the detail has pods, events and revisions", async || {
        let detail = admin.get(&path).await.data();
        let filled = |key: &str| detail[key].as_array().is_some_and(|list| !list.is_empty());
        (filled("pods") && filled("events") && filled("revisions")).then_some(detail)
    })
    .await;
    let object = kube.get("/apis/apps/v1/namespaces/bb-detail/deployments/web").await.unwrap();
    assert_eq!(detail["workload"]["name"], "web");
    assert_eq!(detail["containers"][0]["image"], workloads::IMAGE);
    assert_eq!(detail["containers"][0]["requests"], json!({"cpu": "10m", "memory": "8Mi"}));
    assert_eq!(detail["containers"][0]["env"], json!(["GREETING"]));
    assert_eq!(detail["manifest"]["metadata"]["uid"], object["metadata"]["uid"]);
    assert_eq!(detail["manifest"]["spec"]["template"], object["spec"]["template"]);
    assert!(detail["manifest"]["metadata"].get("managedFields").is_none());

    let viewer = server.user(&admin, "viewer").await;
    let masked = viewer.get(&path).await.data();
    assert_eq!(masked["containers"][0]["env"], json!(["GREETING"]));
    assert!(!masked.to_string().contains("hello-canary"));
    let missing = path.replace("name=web", "name=nobody");
    let refused = admin.get(&missing).await.refused("RESOURCE_NOT_FOUND");
    assert_eq!(
        (&refused["context"]["source"], &refused["context"]["name"]),
        (&json!("cluster"), &json!("nobody"))
    );
    delete_namespace(&plane.client(), "bb-detail").await;
}
