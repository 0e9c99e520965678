//! Control planes, and their registration.

use pilothouse_testbed::{Admin, ControlPlane, workloads};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::Client;

/// Starts a control plane without controllers. No other component changes stored objects, and the start takes seconds.
pub(crate) async fn control_plane() -> ControlPlane {
    ControlPlane::builder().controllers(false).start().await.expect("a control plane starts")
}

/// A control plane without controllers that tests share, because a start takes seconds of both processors. A test may
/// use it if the test does not signal its processes, and changes, counts and expects only objects that no other test
/// names.
pub(crate) async fn shared_control_plane() -> &'static ControlPlane {
    static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
    SHARED.get_or_init(control_plane).await
}

/// Registers a control plane by its kubeconfig, and returns its id.
pub(crate) async fn register_cluster(client: &Client, name: &str, control_plane: &ControlPlane) -> i64 {
    let body = json!({"name": name, "auth_type": "kubeconfig", "kubeconfig": control_plane.kubeconfig()});
    client.post("/api/k8s/clusters", body).await.data()["cluster"]["id"].as_i64().expect("a cluster id")
}

/// Creates a namespace that only one test uses.
pub(crate) async fn create_namespace(admin: &Admin, name: &str) {
    apply(admin, &[workloads::namespace(name)]).await;
}

/// Deletes a namespace at the end of a test. Otherwise its pods would use processor time until the end of all tests.
pub(crate) async fn delete_namespace(admin: &Admin, name: &str) {
    admin.delete(&format!("/api/v1/namespaces/{name}")).await.expect("the namespace is deleted");
}

/// Applies objects directly to the cluster.
pub(crate) async fn apply(admin: &Admin, objects: &[Value]) {
    for object in objects {
        admin.apply(object).await.expect("the object is applied");
    }
}

/// The names of Kubernetes objects, or of rows of a list response.
pub(crate) fn names(rows: &[Value]) -> Vec<&str> {
    rows.iter().filter_map(|row| row["name"].as_str().or(row["metadata"]["name"].as_str())).collect()
}

/// The warnings of a response, without the one that the cluster does not serve usage: not every control plane of the
/// tests has a metrics-server.
pub(crate) fn warnings(data: &Value) -> Vec<&str> {
    strings(&data["warnings"]).into_iter().filter(|warning| !warning.contains("metrics.k8s.io")).collect()
}

/// The strings of a JSON array.
pub(crate) fn strings(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}
