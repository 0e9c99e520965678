//! Sample Kubernetes objects as JSON for [`Admin::apply`](crate::Admin::apply). They use the only image that nodes
//! have.

use serde_json::{Value, json};

/// The only image on a node of the test bed, besides the pod sandbox. The tag is fixed, because `latest` would be
/// pulled.
pub const IMAGE: &str = "busybox:1";

/// Shell script that logs one line per second until SIGTERM. The trap is needed, because process 1 ignores SIGTERM by
/// default.
const LOG_EVERY_SECOND: &str = "trap 'exit 0' TERM; n=0; while :; do n=$((n+1)); echo \"$HOSTNAME says line $n\"; sleep 1 & wait $!; done";

/// A namespace.
pub fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

/// A Deployment whose pods log one line per second.
pub fn deployment(namespace: &str, name: &str, replicas: u32) -> Value {
    let mut object = object("apps/v1", "Deployment", namespace, name);
    object["spec"] = json!({
        "replicas": replicas, "selector": selector(name), "template": template(name, &["sh", "-c", LOG_EVERY_SECOND]),
    });
    object
}

/// A StatefulSet whose pods log one line per second.
pub fn stateful_set(namespace: &str, name: &str, replicas: u32) -> Value {
    let mut object = deployment(namespace, name, replicas);
    object["kind"] = "StatefulSet".into();
    object["spec"]["serviceName"] = name.into();
    object
}

/// A DaemonSet whose pods log one line per second.
pub fn daemon_set(namespace: &str, name: &str) -> Value {
    let mut object = object("apps/v1", "DaemonSet", namespace, name);
    object["spec"] =
        json!({"selector": selector(name), "template": template(name, &["sh", "-c", LOG_EVERY_SECOND])});
    object
}

/// A Job that logs one line and completes.
pub fn job(namespace: &str, name: &str) -> Value {
    let mut object = object("batch/v1", "Job", namespace, name);
    object["spec"] = json!({"template": run_once_template(name, &["echo", "done"]), "backoffLimit": 2});
    object
}

/// A CronJob that logs one line per minute.
pub fn cron_job(namespace: &str, name: &str) -> Value {
    let mut object = object("batch/v1", "CronJob", namespace, name);
    let job = json!({"spec": {"template": run_once_template(name, &["echo", "another minute"])}});
    object["spec"] = json!({"schedule": "* * * * *", "jobTemplate": job});
    object
}

/// A pod that logs one line per second.
pub fn pod(namespace: &str, name: &str) -> Value {
    pod_running(namespace, name, &["sh", "-c", LOG_EVERY_SECOND])
}

/// A pod that logs a reason and fails repeatedly: `CrashLoopBackOff`.
pub fn crash_looping_pod(namespace: &str, name: &str) -> Value {
    pod_running(namespace, name, &["sh", "-c", "echo 'cannot reach the database'; exit 3"])
}

/// A pod that runs the given command.
pub fn pod_running(namespace: &str, name: &str, command: &[&str]) -> Value {
    let mut object = object("v1", "Pod", namespace, name);
    object["metadata"]["labels"] = json!({"app": name});
    object["spec"] = template(name, command)["spec"].take();
    object
}

/// A ConfigMap with two keys.
pub fn config_map(namespace: &str, name: &str) -> Value {
    let mut object = object("v1", "ConfigMap", namespace, name);
    object["data"] = json!({"greeting": "hello", "settings.toml": "colour = \"blue\"\n"});
    object
}

/// A ResourceQuota on pods, CPU and memory requests. The quota admits only pods that request CPU and memory, as all
/// pods of this module do.
pub fn resource_quota(namespace: &str, name: &str) -> Value {
    let mut object = object("v1", "ResourceQuota", namespace, name);
    object["spec"] = json!({"hard": {"pods": "20", "requests.cpu": "2", "requests.memory": "1Gi"}});
    object
}

/// A HorizontalPodAutoscaler that keeps 1 to 3 replicas of a StatefulSet. Without a metrics server it changes nothing.
pub fn autoscaler(namespace: &str, name: &str, stateful_set: &str) -> Value {
    let mut object = object("autoscaling/v2", "HorizontalPodAutoscaler", namespace, name);
    let cpu = json!({"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}});
    object["spec"] = json!({
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": stateful_set},
        "minReplicas": 1, "maxReplicas": 3, "metrics": [{"type": "Resource", "resource": cpu}],
    });
    object
}

/// Sample objects for a new namespace: namespace, quota, ConfigMap, workloads, an autoscaler; in the order of creation.
pub fn samples(name: &str) -> Vec<Value> {
    vec![
        namespace(name),
        resource_quota(name, "limits"),
        config_map(name, "settings"),
        deployment(name, "web", 2),
        stateful_set(name, "db", 1),
        autoscaler(name, "db", "db"),
        daemon_set(name, "agent"),
        cron_job(name, "report"),
        job(name, "migrate"),
        crash_looping_pod(name, "broken"),
    ]
}

fn object(version: &str, kind: &str, namespace: &str, name: &str) -> Value {
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": namespace}})
}

fn selector(name: &str) -> Value {
    json!({"matchLabels": {"app": name}})
}

fn template(name: &str, command: &[&str]) -> Value {
    let container = json!({
        "name": name, "image": IMAGE, "command": command,
        "resources": {"requests": {"cpu": "10m", "memory": "8Mi"}},
    });
    json!({
        "metadata": {"labels": {"app": name}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 5},
    })
}

fn run_once_template(name: &str, command: &[&str]) -> Value {
    let mut template = template(name, command);
    template["spec"]["restartPolicy"] = "Never".into();
    template
}
