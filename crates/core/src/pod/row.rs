//! Row of a pod. Its status is the value of the STATUS column of `kubectl get pods` (`printPod` in
//! `k8s.io/kubernetes/pkg/printers/internalversion/printers.go`).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    object::{Labels, Metadata, or_default},
    rows::{Cell, Field, Filter, ListRow},
};

/// Fields of Pod that Pilothouse reads.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodObject {
    /// Its metadata.
    #[serde(deserialize_with = "or_default")]
    pub metadata: Metadata,
    /// Its containers and node.
    #[serde(deserialize_with = "or_default")]
    pub spec: PodSpec,
    /// Its status.
    #[serde(deserialize_with = "or_default")]
    pub status: PodStatus,
}

/// Fields of a pod's `spec` that Pilothouse reads.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields of the Kubernetes PodSpec")]
pub struct PodSpec {
    pub node_name: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub containers: Vec<PodContainer>,
    #[serde(deserialize_with = "or_default")]
    pub init_containers: Vec<PodContainer>,
}

/// Fields of a container that Pilothouse reads.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields of the Kubernetes Container")]
pub struct PodContainer {
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    pub restart_policy: Option<String>,
}

/// Fields of a pod's `status` that Pilothouse reads.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields of the Kubernetes PodStatus")]
pub struct PodStatus {
    #[serde(deserialize_with = "or_default")]
    pub phase: String,
    #[serde(deserialize_with = "or_default")]
    pub reason: String,
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub conditions: Vec<PodCondition>,
    #[serde(deserialize_with = "or_default")]
    pub container_statuses: Vec<ContainerStatus>,
    #[serde(deserialize_with = "or_default")]
    pub init_container_statuses: Vec<ContainerStatus>,
}

/// Fields of a condition that Pilothouse reads.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields of the Kubernetes PodCondition")]
pub struct PodCondition {
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    #[serde(deserialize_with = "or_default")]
    pub status: String,
    #[serde(deserialize_with = "or_default")]
    pub reason: String,
}

/// Fields of a container's status that Pilothouse reads.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields of the Kubernetes ContainerStatus")]
pub struct ContainerStatus {
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    #[serde(deserialize_with = "or_default")]
    pub ready: bool,
    #[serde(deserialize_with = "or_default")]
    pub started: bool,
    #[serde(deserialize_with = "or_default")]
    pub restart_count: i64,
    #[serde(deserialize_with = "or_default")]
    pub state: ContainerState,
}

/// Fields of a container's state that Pilothouse reads.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields of the Kubernetes ContainerState")]
pub struct ContainerState {
    pub waiting: Option<Waiting>,
    pub running: Option<Running>,
    pub terminated: Option<Terminated>,
}

/// State of a waiting container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields of the Kubernetes ContainerStateWaiting")]
pub struct Waiting {
    #[serde(deserialize_with = "or_default")]
    pub reason: String,
}

/// State of a running container.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Running {}

/// State of a terminated container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields of the Kubernetes ContainerStateTerminated")]
pub struct Terminated {
    #[serde(deserialize_with = "or_default")]
    pub reason: String,
    #[serde(deserialize_with = "or_default")]
    pub exit_code: i64,
    #[serde(deserialize_with = "or_default")]
    pub signal: i64,
}

impl Terminated {
    /// The reason as kubectl prints it: `OOMKilled`, otherwise `Signal:9`, otherwise `ExitCode:1`.
    fn reason_text(&self) -> String {
        match self {
            Self { reason, .. } if !reason.is_empty() => reason.clone(),
            Self { signal: 0, exit_code, .. } => format!("ExitCode:{exit_code}"),
            Self { signal, .. } => format!("Signal:{signal}"),
        }
    }
}

/// Controller of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Owner {
    /// Its kind: `ReplicaSet`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// List row of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PodRow {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its status as `kubectl get pods` prints it: `Running`, `CrashLoopBackOff`, `Init:0/1`, `Terminating`.
    pub status: String,
    /// Ready containers and all containers: `1/2`.
    pub ready: String,
    /// Number of restarts of all containers.
    pub restarts: i64,
    /// The node that it runs on; null before it is scheduled.
    pub node: Option<String>,
    /// Its IP address.
    pub pod_ip: Option<String>,
    /// The names of its containers.
    pub containers: Vec<String>,
    /// Its controller.
    pub owner: Option<Owner>,
    /// Its labels.
    pub labels: Labels,
    /// Creation time.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub created_at: Option<Timestamp>,
    /// Whether it has terminated (`Succeeded`, `Failed`) and no longer counts on its node, as in `kubectl describe
    /// node`.
    #[serde(skip)]
    ended: bool,
}

/// Internal field by which the pods of each node are counted.
pub(crate) const OCCUPIES_NODE: &str = "occupies";

impl ListRow for PodRow {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("name", |row| Cell::text(&*row.name)),
        Field::new("namespace", |row| Cell::text(&*row.namespace)),
        Field::filtered("status", Filter::Any, |row: &Self| Cell::text(&*row.status)).counted(),
        Field::new("ready", |row| Cell::text(&*row.ready)),
        Field::new("restarts", |row| Cell::from(row.restarts)),
        Field::filtered("node", Filter::Any, |row| Cell::from(&row.node)),
        Field::new("pod_ip", |row| Cell::from(&row.pod_ip)),
        Field::new("created_at", |row| Cell::from(row.created_at)),
        Field::filter_only("workload", |row| Cell::from(&row.workload())),
        Field::internal(
            OCCUPIES_NODE,
            |row: &Self| {
                if row.ended { Cell::Null } else { Cell::from(&row.node) }
            },
        )
        .counted(),
    ];

    fn name(&self) -> &str {
        &self.name
    }

    fn namespace(&self) -> Option<&str> {
        Some(&self.namespace)
    }
}

impl PodRow {
    /// Projects a Pod.
    pub fn project(object: PodObject) -> Self {
        let computed = ComputedStatus::of(&object);
        let owner = object
            .metadata
            .controller()
            .map(|owner| Owner { kind: owner.kind.clone(), name: owner.name.clone() });
        let PodObject { metadata, spec, status } = object;
        Self {
            name: metadata.name,
            namespace: metadata.namespace.unwrap_or_default(),
            status: computed.reason,
            ready: format!("{}/{}", computed.ready, computed.total),
            restarts: computed.restarts,
            node: spec.node_name,
            pod_ip: status.pod_ip,
            containers: spec.containers.into_iter().map(|container| container.name).collect(),
            owner,
            labels: metadata.labels,
            created_at: metadata.creation_timestamp,
            ended: matches!(&*status.phase, "Succeeded" | "Failed"),
        }
    }

    /// The workload that it belongs to, as `type/name`. A pod of a deployment is owned by a replica set, whose name is
    /// the deployment's name followed by the hash of the pod template.
    pub fn workload(&self) -> Option<String> {
        let owner = self.owner.as_ref()?;
        let hash = self.labels.get("pod-template-hash");
        match (owner.kind.as_str(), hash) {
            ("ReplicaSet", Some(hash)) => {
                let deployment = owner.name.strip_suffix(hash.as_str())?.strip_suffix('-')?;
                Some(format!("deployment/{deployment}"))
            }
            (kind, _) => Some(format!("{}/{}", kind.to_lowercase(), owner.name)),
        }
    }
}

/// Status values that kubectl computes for a pod.
struct ComputedStatus {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i64,
}

impl ComputedStatus {
    fn of(pod: &PodObject) -> Self {
        let PodObject { metadata, spec, status } = pod;
        let sidecar = |name: &str| {
            spec.init_containers
                .iter()
                .any(|c| c.name == name && c.restart_policy.as_deref() == Some("Always"))
        };
        let condition = |kind: &str| status.conditions.iter().find(|condition| condition.kind == kind);
        let holds = |kind: &str| condition(kind).is_some_and(|condition| condition.status == "True");

        let mut this = Self {
            reason: if status.reason.is_empty() { status.phase.clone() } else { status.reason.clone() },
            ready: 0,
            total: spec.containers.len() + spec.init_containers.iter().filter(|c| sidecar(&c.name)).count(),
            restarts: 0,
        };
        if condition("PodScheduled").is_some_and(|condition| condition.reason == "SchedulingGated") {
            this.reason = "SchedulingGated".to_owned();
        }

        let mut initializing = false;
        let mut sidecar_restarts = 0;
        for (i, container) in status.init_container_statuses.iter().enumerate() {
            this.restarts += container.restart_count;
            let is_sidecar = sidecar(&container.name);
            if is_sidecar {
                sidecar_restarts += container.restart_count;
            }
            let reason = match &container.state {
                ContainerState { terminated: Some(Terminated { exit_code: 0, .. }), .. } => continue,
                _ if is_sidecar && container.started => {
                    this.ready += usize::from(container.ready);
                    continue;
                }
                ContainerState { terminated: Some(terminated), .. } => terminated.reason_text(),
                ContainerState { waiting: Some(Waiting { reason }), .. }
                    if !reason.is_empty() && reason != "PodInitializing" =>
                {
                    reason.clone()
                }
                _ => format!("{i}/{}", spec.init_containers.len()),
            };
            this.reason = format!("Init:{reason}");
            initializing = true;
            break;
        }

        if !initializing || holds("Initialized") {
            this.restarts = sidecar_restarts;
            let mut running = false;
            for container in status.container_statuses.iter().rev() {
                this.restarts += container.restart_count;
                match &container.state {
                    ContainerState { waiting: Some(Waiting { reason }), .. } if !reason.is_empty() => {
                        this.reason.clone_from(reason);
                    }
                    ContainerState { terminated: Some(terminated), .. } => {
                        this.reason = terminated.reason_text();
                    }
                    ContainerState { running: Some(_), .. } if container.ready => {
                        running = true;
                        this.ready += 1;
                    }
                    _ => {}
                }
            }
            if this.reason == "Completed" && running {
                this.reason = if holds("Ready") { "Running" } else { "NotReady" }.to_owned();
            }
        }

        if metadata.deletion_timestamp.is_some() {
            if status.reason == "NodeLost" {
                this.reason = "Unknown".to_owned();
            } else if !matches!(status.phase.as_str(), "Succeeded" | "Failed") {
                this.reason = "Terminating".to_owned();
            }
        }
        this
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn row(pod: Value) -> PodRow {
        PodRow::project(serde_json::from_value(pod).unwrap())
    }

    fn running(ready: bool) -> Value {
        json!({"name": "a", "ready": ready, "restartCount": 2, "state": {"running": {}}})
    }

    fn waiting(reason: &str) -> Value {
        json!({"name": "a", "restartCount": 5, "state": {"waiting": {"reason": reason}}})
    }

    fn ended(reason: &str, exit_code: i64, signal: i64) -> Value {
        json!({"name": "a", "state": {"terminated": {"reason": reason, "exitCode": exit_code, "signal": signal}}})
    }

    /// The cases of kubectl's own table test (`TestPrintPod`), with the expected output first.
    #[test]
    fn status_equals_kubectl_output() {
        let one = json!({"containers": [{"name": "a"}]});
        let init = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j"}]});
        let sidecar = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i", "restartPolicy": "Always"}]});
        let deleted_at = "2026-01-01T00:00:00Z";
        let cases = [
            (
                "Running",
                "1/1",
                2,
                json!({"spec": one, "status": {"phase": "Running", "containerStatuses": [running(true)]}}),
            ),
            ("Pending", "0/1", 0, json!({"spec": one, "status": {"phase": "Pending"}})),
            ("Evicted", "0/1", 0, json!({"spec": one, "status": {"phase": "Failed", "reason": "Evicted"}})),
            (
                "CrashLoopBackOff",
                "0/1",
                5,
                json!({"spec": one, "status": {"phase": "Running", "containerStatuses": [waiting("CrashLoopBackOff")]}}),
            ),
            (
                "OOMKilled",
                "0/1",
                0,
                json!({"spec": one, "status": {"phase": "Failed", "containerStatuses": [ended("OOMKilled", 137, 0)]}}),
            ),
            (
                "ExitCode:3",
                "0/1",
                0,
                json!({"spec": one, "status": {"phase": "Failed", "containerStatuses": [ended("", 3, 0)]}}),
            ),
            (
                "Signal:9",
                "0/1",
                0,
                json!({"spec": one, "status": {"phase": "Failed", "containerStatuses": [ended("", 3, 9)]}}),
            ),
            (
                "Completed",
                "0/1",
                0,
                json!({"spec": one, "status": {"phase": "Succeeded", "containerStatuses": [ended("Completed", 0, 0)]}}),
            ),
            (
                "NotReady",
                "1/2",
                2,
                json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}, "status": {"phase": "Running",
                "containerStatuses": [ended("Completed", 0, 0), running(true)]}}),
            ),
            (
                "Running",
                "1/2",
                2,
                json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}, "status": {"phase": "Running",
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [ended("Completed", 0, 0), running(true)]}}),
            ),
            (
                "Init:0/2",
                "0/1",
                0,
                json!({"spec": init, "status": {"phase": "Pending",
                "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}}),
            ),
            (
                "Init:1/2",
                "0/1",
                0,
                json!({"spec": init, "status": {"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "j", "state": {"waiting": {"reason": "PodInitializing"}}}]}}),
            ),
            (
                "Init:CrashLoopBackOff",
                "0/1",
                5,
                json!({"spec": init, "status": {"phase": "Pending",
                "initContainerStatuses": [waiting("CrashLoopBackOff")]}}),
            ),
            (
                "Init:ExitCode:1",
                "0/1",
                0,
                json!({"spec": init, "status": {"phase": "Pending",
                "initContainerStatuses": [ended("", 1, 0)]}}),
            ),
            (
                "Init:Signal:9",
                "0/1",
                0,
                json!({"spec": init, "status": {"phase": "Pending",
                "initContainerStatuses": [ended("", 1, 9)]}}),
            ),
            (
                "Running",
                "2/2",
                5,
                json!({"spec": sidecar, "status": {"phase": "Running", "containerStatuses": [running(true)],
                "initContainerStatuses": [{"name": "i", "ready": true, "started": true, "restartCount": 3, "state": {"running": {}}}]}}),
            ),
            (
                "SchedulingGated",
                "0/1",
                0,
                json!({"spec": one, "status": {"phase": "Pending",
                "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}}),
            ),
            (
                "Terminating",
                "1/1",
                2,
                json!({"metadata": {"deletionTimestamp": deleted_at}, "spec": one,
                "status": {"phase": "Running", "containerStatuses": [running(true)]}}),
            ),
            (
                "Completed",
                "0/1",
                0,
                json!({"metadata": {"deletionTimestamp": deleted_at}, "spec": one,
                "status": {"phase": "Succeeded", "containerStatuses": [ended("Completed", 0, 0)]}}),
            ),
            (
                "Unknown",
                "1/1",
                2,
                json!({"metadata": {"deletionTimestamp": deleted_at}, "spec": one,
                "status": {"phase": "Running", "reason": "NodeLost", "containerStatuses": [running(true)]}}),
            ),
        ];
        for (status, ready, restarts, pod) in cases {
            let row = row(pod.clone());
            assert_eq!(
                (row.status.as_str(), row.ready.as_str(), row.restarts),
                (status, ready, restarts),
                "{pod}"
            );
        }
    }

    #[test]
    fn workload_is_derived_from_the_controller() {
        let owned = |kind: &str, name: &str, labels: Value| {
            row(json!({"metadata": {"labels": labels,
                "ownerReferences": [{"kind": "Node", "name": "x"}, {"kind": kind, "name": name, "controller": true}]}}))
            .workload()
        };
        let hash = json!({"pod-template-hash": "5d9f"});
        assert_eq!(owned("ReplicaSet", "web-5d9f", hash).as_deref(), Some("deployment/web"));
        assert_eq!(owned("ReplicaSet", "web", json!({})).as_deref(), Some("replicaset/web"));
        assert_eq!(owned("StatefulSet", "db", json!(null)).as_deref(), Some("statefulset/db"));
        assert_eq!(row(json!({})).workload(), None);
    }
}
