//! Tests of kubectl: version, output, input, failure.

use pilothouse_testbed::{kubectl, kubectl_output, kubernetes_version, shared, workloads};
use serde_json::Value;

#[tokio::test]
async fn kubectl_has_the_version_of_the_control_plane() {
    let version = kubectl(shared().await.unwrap(), &["version", "--output=json"]).await.unwrap();
    let version: Value = serde_json::from_str(&version).unwrap();
    assert_eq!(version["clientVersion"]["gitVersion"], kubernetes_version());
    assert!(version["serverVersion"]["gitVersion"].is_string(), "{version}");
}

#[tokio::test]
async fn kubectl_applies_its_input_and_prints_the_object() {
    let plane = shared().await.unwrap();
    let object = workloads::config_map("default", "applied").to_string();
    let output = kubectl_output(plane, &["apply", "--filename=-"], &object).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "configmap/applied created\n");
    let arguments =
        ["get", "configmap", "applied", "--namespace=default", "--output=jsonpath={.data.greeting}"];
    assert_eq!(kubectl(plane, &arguments).await.unwrap(), "hello");
}

#[tokio::test]
async fn kubectl_error_contains_the_message_of_the_server() {
    let plane = shared().await.unwrap();
    let error = kubectl(plane, &["get", "configmap", "no-such-object"]).await.unwrap_err().to_string();
    assert!(error.contains("NotFound") && error.contains("no-such-object"), "{error}");
}
