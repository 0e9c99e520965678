//! A workload compared in two real clusters.

use pilothouse_testbed::{ControlPlane, kubectl, shared, workloads};
use serde_json::{Value, json};

use crate::support::{
    Server, apply, create_namespace, delete_namespace, register_cluster, shared_control_plane, strings,
};

const NAMESPACE: &str = "bb-compare";

async fn change(plane: &ControlPlane, arguments: &[&str]) {
    let namespace = format!("--namespace={NAMESPACE}");
    kubectl(plane, &[&[&*namespace][..], arguments].concat()).await.unwrap();
}

#[tokio::test]
async fn fields_that_kubectl_changed_in_one_cluster_differ() {
    let planes = [shared().await.unwrap(), shared_control_plane().await];
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let mut ids = Vec::new();
    for (plane, name) in planes.into_iter().zip(["one", "two"]) {
        let kube = plane.client();
        create_namespace(&kube, NAMESPACE).await;
        let settings = workloads::config_map(NAMESPACE, "settings");
        apply(&kube, &[workloads::deployment(NAMESPACE, "web", 2), settings]).await;
        change(plane, &["set", "env", "deployment/web", "--from=configmap/settings"]).await;
        ids.push(register_cluster(&admin, name, plane).await);
    }
    let [one, two] = planes;
    for (plane, cpu) in [(one, "cpu=1"), (two, "cpu=1000m")] {
        change(plane, &["set", "resources", "deployment/web", &format!("--requests={cpu}")]).await;
    }
    let compare = async |name: &str| {
        let path = format!("/api/k8s/compare?namespace={NAMESPACE}&type=deployment&name={name}");
        admin.get(path).await.data()
    };
    let differing = |data: &Value| -> Vec<String> {
        let fields = data["fields"].as_array().unwrap().iter().filter(|field| field["same"] == false);
        fields.filter_map(|field| field["path"].as_str().map(str::to_owned)).collect()
    };
    let data = compare("web").await;
    assert_eq!(differing(&data), [""; 0], "{data}");
    assert_eq!((&data["missing"], data["clusters"].as_array().unwrap().len()), (&json!([]), 2));

    change(two, &["set", "image", "deployment/web", "web=busybox:2"]).await;
    change(two, &["set", "env", "deployment/web", "MODE=fast"]).await;
    change(two, &["scale", "deployment/web", "--replicas=3"]).await;
    change(two, &["patch", "configmap/settings", "--patch={\"data\":{\"greeting\":\"good morning\"}}"]).await;
    let data = compare("web").await;
    let expected = ["config/settings", "containers/web/env/MODE", "containers/web/image", "replicas"];
    assert_eq!(differing(&data), expected, "{data}");
    let values = |path: &str| {
        let field = data["fields"].as_array().unwrap().iter().find(|field| field["path"] == path).unwrap();
        [&field["values"][ids[0].to_string()], &field["values"][ids[1].to_string()]]
    };
    assert_eq!(values("containers/web/image"), [workloads::IMAGE, "busybox:2"]);
    assert_eq!(values("containers/web/env/MODE"), [&Value::Null, &json!("fast")]);
    assert_eq!(values("replicas"), [2, 3]);
    assert!(!data.to_string().contains("good morning"), "of a ConfigMap only a digest is shown: {data}");

    two.client().delete(&format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/web")).await.unwrap();
    let data = compare("web").await;
    assert_eq!(data["missing"], json!([ids[1]]));
    assert_eq!(differing(&data), [""; 0]);
    assert_eq!(compare("none").await["missing"], json!(ids));
    for cluster in compare("web").await["clusters"].as_array().unwrap() {
        assert_eq!((&cluster["status"], &cluster["complete"]), (&json!("ok"), &json!(true)));
        assert!(strings(&cluster["unreadable"]).is_empty(), "{cluster}");
    }
    delete_namespace(&one.client(), NAMESPACE).await;
}
