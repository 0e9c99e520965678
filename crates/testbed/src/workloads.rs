//! Objects to try things on, as JSON for [`Admin::apply`](crate::Admin::apply). Their image is the one a node here has.

use serde_json::{Value, json};

/// The only image of a node of ours, besides the pod sandbox; a fixed tag, for `latest` would be pulled.
pub const IMAGE: &str = "busybox:1";

/// Says a line a second until told to end: as process 1 it ends only with the trap.
const TALK: &str = "trap 'exit 0' TERM; n=0; while :; do n=$((n+1)); echo \"$HOSTNAME says line $n\"; sleep 1 & wait $!; done";

/// A namespace.
pub fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

/// A Deployment whose pods log a line a second.
pub fn deployment(namespace: &str, name: &str, replicas: u32) -> Value {
    let mut object = object("apps/v1", "Deployment", namespace, name);
    object["spec"] = json!({
        "replicas": replicas, "selector": selector(name), "template": template(name, &["sh", "-c", TALK]),
    });
    object
}

/// A StatefulSet whose pods log a line a second.
pub fn stateful_set(namespace: &str, name: &str, replicas: u32) -> Value {
    let mut object = deployment(namespace, name, replicas);
    object["kind"] = "StatefulSet".into();
    object["spec"]["serviceName"] = name.into();
    object
}

/// A DaemonSet whose pods log a line a second.
pub fn daemon_set(namespace: &str, name: &str) -> Value {
    let mut object = object("apps/v1", "DaemonSet", namespace, name);
    object["spec"] = json!({"selector": selector(name), "template": template(name, &["sh", "-c", TALK])});
    object
}

/// A Job that says one line and is done.
pub fn job(namespace: &str, name: &str) -> Value {
    let mut object = object("batch/v1", "Job", namespace, name);
    object["spec"] = json!({"template": once(name, &["echo", "done"]), "backoffLimit": 2});
    object
}

/// A CronJob that says one line every minute.
pub fn cron_job(namespace: &str, name: &str) -> Value {
    let mut object = object("batch/v1", "CronJob", namespace, name);
    let job = json!({"spec": {"template": once(name, &["echo", "another minute"])}});
    object["spec"] = json!({"schedule": "* * * * *", "jobTemplate": job});
    object
}

/// A pod that logs a line a second.
pub fn pod(namespace: &str, name: &str) -> Value {
    pod_running(namespace, name, &["sh", "-c", TALK])
}

/// A pod that says why and fails, over and over: `CrashLoopBackOff`.
pub fn crash_looping_pod(namespace: &str, name: &str) -> Value {
    pod_running(namespace, name, &["sh", "-c", "echo 'cannot reach the database'; exit 3"])
}

/// A pod that runs a command of one's own.
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

/// A ResourceQuota on pods, CPU and memory requests; only pods that ask for both are then admitted, as all here do.
pub fn resource_quota(namespace: &str, name: &str) -> Value {
    let mut object = object("v1", "ResourceQuota", namespace, name);
    object["spec"] = json!({"hard": {"pods": "20", "requests.cpu": "2", "requests.memory": "1Gi"}});
    object
}

/// One of everything, for a look around: a namespace, a quota, and what runs in it. In this order.
pub fn samples(name: &str) -> Vec<Value> {
    vec![
        namespace(name),
        resource_quota(name, "limits"),
        config_map(name, "settings"),
        deployment(name, "web", 2),
        stateful_set(name, "db", 1),
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

fn once(name: &str, command: &[&str]) -> Value {
    let mut template = template(name, command);
    template["spec"]["restartPolicy"] = "Never".into();
    template
}
