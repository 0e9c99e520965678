//! metrics-server of a control plane: the API `metrics.k8s.io`, with the usage of nodes and pods.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    Component, ControlPlane,
    error::{Error, Result},
};

/// Time limit of the first metrics. metrics-server needs two reads of the kubelet, 10 s apart.
const METRICS_TIMEOUT: Duration = Duration::from_secs(120);

/// Starts metrics-server, unless it runs, and registers its API. Returns when the usage of a node is known, which takes
/// about 40 s. [`ControlPlane::signal`] and [`ControlPlane::restart`] accept [`Component::MetricsServer`] afterwards.
///
/// From then on, HorizontalPodAutoscalers scale. While the API is registered and metrics-server does not run, deleted
/// namespaces stay Terminating. So tests of either need a control plane of their own.
///
/// # Errors
/// [`Error::NotRunning`] for a control plane without controllers, and [`Error::Deadline`] for one without a node.
pub async fn metrics_server(plane: &ControlPlane) -> Result<()> {
    let owned = plane.owned("start metrics-server")?;
    plane.pid(Component::ControllerManager)?; // a node needs it
    match plane.pid(Component::MetricsServer) {
        Ok(_) => {}
        Err(Error::NotRunning(_)) => owned.spawn(Component::MetricsServer)?,
        Err(error) => return Err(error),
    }
    let client = plane.client();
    for object in registration(owned.ports.metrics_server) {
        client.apply(&object).await?;
    }
    let has_items = |list: &Value| list["items"].as_array().is_some_and(|items| !items.is_empty());
    let known = client.wait_until("/apis/metrics.k8s.io/v1beta1/nodes", has_items, METRICS_TIMEOUT).await;
    owned.still_runs(Component::MetricsServer)?;
    known.map(drop)
}

/// The Service and the APIService of metrics-server. Without kube-proxy, the API server cannot connect to the cluster IP
/// of a Service, but it connects to the name of an `ExternalName` Service. The serving certificate is self-signed.
fn registration(port: u16) -> [Value; 2] {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "metrics-server", "namespace": "kube-system"},
        "spec": {"type": "ExternalName", "externalName": "localhost"},
    });
    let api_service = json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": "v1beta1.metrics.k8s.io"},
        "spec": {
            "group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
            "insecureSkipTLSVerify": true,
            "service": {"name": "metrics-server", "namespace": "kube-system", "port": port},
        },
    });
    [service, api_service]
}
