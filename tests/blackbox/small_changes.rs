//! Runs of cron jobs, deletions of pods, and dependents: what the cluster has afterwards, compared with kubectl.

use std::collections::BTreeSet;

use pilothouse_testbed::{kubectl, shared, workloads};
use serde_json::{Value, json};

use crate::support::{
    Server, apply, create_namespace, delete_namespace, eventually, eventually_ok, register_cluster, strings,
};

/// The names of the Jobs in a namespace.
async fn jobs(namespace: &str) -> Vec<String> {
    let arguments = ["get", "jobs", "--namespace", namespace, "--output=jsonpath={.items[*].metadata.name}"];
    let printed = kubectl(shared().await.unwrap(), &arguments).await.unwrap();
    printed.split_whitespace().map(str::to_owned).collect()
}

#[tokio::test]
async fn run_now_under_one_key_is_one_job() {
    let plane = shared().await.unwrap();
    create_namespace(&plane.client(), "bb-run").await;
    let mut report = workloads::cron_job("bb-run", "report");
    // never by its schedule
    report["spec"]["schedule"] = json!("0 0 30 2 *");
    apply(&plane.client(), &[report]).await;
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "run", plane).await;
    let body =
        json!({"cluster_id": id, "namespace": "bb-run", "name": "report", "reason": "missed at night"});
    let keyed = admin.with_idempotency_key("tonight");
    let first = keyed.post("/api/k8s/cronjobs/run", body.clone()).await.data();
    let again = keyed.post("/api/k8s/cronjobs/run", body.clone()).await.data();
    assert_eq!(first, again);
    let name = first["workload"]["name"].as_str().unwrap().to_owned();
    assert_eq!(jobs("bb-run").await, [name.as_str()]);

    let rows = admin.operations(format!("cluster_id={id}&operation_type=run")).await;
    assert_eq!(rows.len(), 1, "{rows:#?}");
    assert_eq!(
        (&rows[0]["resource_type"], &rows[0]["reason"]),
        (&json!("cronjob"), &json!("missed at night"))
    );
    let operation = rows[0]["operation_id"].as_str().unwrap().replace('-', "");
    assert_eq!(name, format!("report-{}", &operation[20..]), "the name comes from the operation");

    let another = admin.with_idempotency_key("again").post("/api/k8s/cronjobs/run", body).await.data();
    let names: BTreeSet<_> = jobs("bb-run").await.into_iter().collect();
    let other = another["workload"]["name"].as_str().unwrap().to_owned();
    assert_eq!(names, BTreeSet::from([name.clone(), other]));
    let list = format!("/api/k8s/workloads?cluster_id={id}&namespace=bb-run&type=job");
    let listed = admin.rows(list, "workloads").await;
    assert_eq!(listed.len(), 2, "the list shows both: {listed:?}");
    delete_namespace(&plane.client(), "bb-run").await;
}

#[tokio::test]
async fn deletion_of_a_pod_takes_its_uid_and_the_right_for_its_kind() {
    let plane = shared().await.unwrap();
    let kube = plane.client();
    create_namespace(&kube, "bb-pods").await;
    apply(&kube, &[workloads::deployment("bb-pods", "web", 1), workloads::pod("bb-pods", "bare")]).await;
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "pods", plane).await;
    let of_web = "/api/v1/namespaces/bb-pods/pods?labelSelector=app%3Dweb";
    let web = eventually("the pod of the deployment", async || {
        let pods = kube.get(of_web).await.unwrap();
        pods["items"].get(0).cloned()
    })
    .await;
    let operator = server.user(&admin, "none").await;
    let user = admin.rows("/api/auth/users".to_owned(), "users").await;
    let user = user.iter().find(|user| user["username"] == "none").unwrap()["id"].clone();
    let grant = json!({"subject": {"type": "user", "id": user}, "role": "operator",
        "clusters": {"ids": [id]}, "namespaces": ["bb-pods"]});
    admin.post("/api/access/grants", grant).await.data();

    let body = |pod: &Value| {
        let metadata = &pod["metadata"];
        json!({"cluster_id": id, "namespace": "bb-pods", "pod_name": metadata["name"], "uid": metadata["uid"]})
    };
    let bare = kube.get("/api/v1/namespaces/bb-pods/pods/bare").await.unwrap();
    let refused = operator.post("/api/k8s/pods/delete", body(&bare)).await.refused("PERMISSION_DENIED");
    let missing = &refused["context"]["missing"];
    assert_eq!((&missing["verb"], &missing["resource"]), (&json!("delete"), &json!("workloads")));
    assert_eq!(missing["namespace"], "bb-pods");
    let mut at_once = body(&web);
    at_once["grace_seconds"] = json!(0);
    operator.post("/api/k8s/pods/delete", at_once).await.refused("PERMISSION_DENIED");
    let mut earlier = body(&web);
    earlier["uid"] = json!("3f2b6a1e-0c5d-4a6b-9d8e-7f6a5b4c3d2e");
    let conflict = operator.post("/api/k8s/pods/delete", earlier).await.refused("CONFLICT_ERROR");
    assert_eq!(conflict["context"]["cause"], "modified");
    let uid = |pod: &Value| pod["metadata"]["uid"].clone();
    assert_eq!(uid(&kube.get("/api/v1/namespaces/bb-pods/pods/bare").await.unwrap()), uid(&bare));

    operator.post("/api/k8s/pods/delete", body(&web)).await.data();
    eventually("a pod in its place", async || {
        let pods = kube.get(of_web).await.unwrap();
        let items = pods["items"].as_array().unwrap().clone();
        items.iter().any(|pod| uid(pod) != uid(&web)).then_some(())
    })
    .await;
    admin.post("/api/k8s/pods/delete", body(&bare)).await.data();
    delete_namespace(&plane.client(), "bb-pods").await;
}

/// The tree is the promise of a deletion; kubectl's deletion keeps it.
#[tokio::test]
async fn dependents_are_what_kubectl_deletes() {
    let plane = shared().await.unwrap();
    let kube = plane.client();
    create_namespace(&kube, "bb-dependents").await;
    apply(&kube, &[workloads::deployment("bb-dependents", "web", 2)]).await;
    let path = "/apis/apps/v1/namespaces/bb-dependents/deployments/web";
    let web = kube.get(path).await.unwrap()["metadata"]["uid"].clone();
    // the garbage collector deletes an object whose owner has another name
    let owner = |kind: &str, version: &str, uid: &Value| json!({"apiVersion": version, "kind": kind, "name": "web", "uid": uid});
    let mut owned = workloads::config_map("bb-dependents", "owned");
    owned["metadata"]["ownerReferences"] = json!([owner("Deployment", "apps/v1", &web)]);
    let keeper = workloads::config_map("bb-dependents", "keeper");
    apply(&kube, &[owned, keeper]).await;
    let keeper = kube.get("/api/v1/namespaces/bb-dependents/configmaps/keeper").await.unwrap();
    let mut shared_one = workloads::config_map("bb-dependents", "shared");
    shared_one["metadata"]["ownerReferences"] = json!([
        owner("Deployment", "apps/v1", &web),
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "keeper", "uid": keeper["metadata"]["uid"]},
    ]);
    apply(&kube, &[shared_one]).await;

    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "dependents", plane).await;
    let query = format!("cluster_id={id}&namespace=bb-dependents&resource=deployments.apps&name=web");
    let found = eventually_ok(async || {
        let data = admin.get(format!("/api/k8s/dependents?{query}")).await.data();
        // a replica set, two pods, a ConfigMap
        if data["count"] == 4 { Ok(data) } else { Err(format!("not 4 objects: {data}")) }
    })
    .await;
    let rows = found["tree"].as_array().unwrap();
    let of_kind = |kind: &str| rows.iter().filter(|row| row["kind"] == kind).count();
    assert_eq!((of_kind("ReplicaSet"), of_kind("Pod"), of_kind("ConfigMap")), (1, 2, 2), "{found}");
    let kept: Vec<_> = rows.iter().filter(|row| row["keeps"] == true).collect();
    assert_eq!(kept.len(), 1, "{found}");
    assert_eq!((&kept[0]["name"], &kept[0]["why"]), (&json!("shared"), &json!("other_owner")));
    assert_eq!(
        (&found["pvcs"], &found["note"]),
        (&json!(0), &json!(null)),
        "{:?}",
        strings(&found["warnings"])
    );

    let delete = ["delete", "deployment", "web", "--namespace", "bb-dependents", "--cascade=background"];
    kubectl(plane, &delete).await.unwrap();
    eventually("the garbage collector deletes what the tree names", async || {
        let kinds = "replicasets.apps,pods,configmaps";
        let arguments =
            ["get", kinds, "--namespace", "bb-dependents", "--output=jsonpath={.items[*].metadata.uid}"];
        let left = kubectl(plane, &arguments).await.unwrap();
        let left: BTreeSet<_> = left.split_whitespace().collect();
        let is_left = |row: &&Value| left.contains(row["uid"].as_str().unwrap());
        let gone = !rows.iter().filter(|row| row["keeps"] == false).any(|row| is_left(&row));
        (gone && kept.iter().all(is_left)).then_some(())
    })
    .await;
    delete_namespace(&plane.client(), "bb-dependents").await;
}
