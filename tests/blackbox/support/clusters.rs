//! Real clusters, and registering them.

use pilothouse_testbed::{Admin, ControlPlane, workloads};
use serde_json::{Value, json};

use super::Client;

/// A control plane without controllers: nothing acts on what is stored, so a test has it for itself in seconds.
pub(crate) async fn light() -> ControlPlane {
    ControlPlane::builder().controllers(false).start().await.expect("a control plane starts")
}

/// Registers a control plane by its kubeconfig, and returns its id.
pub(crate) async fn cluster(client: &Client, name: &str, plane: &ControlPlane) -> i64 {
    let body = json!({"name": name, "auth_type": "kubeconfig", "kubeconfig": plane.kubeconfig()});
    client.post("/api/k8s/clusters", body).await.data()["cluster"]["id"].as_i64().expect("an id")
}

/// Makes a namespace for a test; its objects are for nobody else.
pub(crate) async fn namespace(admin: &Admin, name: &str) {
    apply(admin, &[workloads::namespace(name)]).await;
}

/// Makes objects directly in the cluster.
pub(crate) async fn apply(admin: &Admin, objects: &[Value]) {
    for object in objects {
        admin.apply(object).await.expect("the cluster takes the object");
    }
}

/// The names of Kubernetes objects, or of our rows.
pub(crate) fn names(rows: &[Value]) -> Vec<&str> {
    rows.iter().filter_map(|row| row["name"].as_str().or(row["metadata"]["name"].as_str())).collect()
}

/// The strings of a JSON list.
pub(crate) fn strings(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}
