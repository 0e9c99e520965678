//! Fields of pods that Pilothouse reads.

use serde::Deserialize;

use crate::object::{Metadata, or_default};

/// Fields of Pod that Pilothouse reads.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodObject {
    /// Metadata.
    #[serde(deserialize_with = "or_default")]
    pub metadata: Metadata,
    /// Containers and node.
    #[serde(deserialize_with = "or_default")]
    pub spec: PodSpec,
    /// Status.
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
    pub(super) fn reason_text(&self) -> String {
        match self {
            Self { reason, .. } if !reason.is_empty() => reason.clone(),
            Self { signal: 0, exit_code, .. } => format!("ExitCode:{exit_code}"),
            Self { signal, .. } => format!("Signal:{signal}"),
        }
    }
}
