//! Fields of pods that Pilothouse reads.

use jiff::Timestamp;
use serde::Deserialize;

use crate::object::{Metadata, lenient_time, or_default};

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
    #[serde(deserialize_with = "or_default")]
    pub ephemeral_containers: Vec<PodContainer>,
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
    #[serde(deserialize_with = "or_default")]
    pub message: String,
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub conditions: Vec<PodCondition>,
    #[serde(deserialize_with = "or_default")]
    pub container_statuses: Vec<ContainerStatus>,
    #[serde(deserialize_with = "or_default")]
    pub init_container_statuses: Vec<ContainerStatus>,
    #[serde(deserialize_with = "or_default")]
    pub ephemeral_container_statuses: Vec<ContainerStatus>,
}

/// Fields of a condition that Pilothouse reads.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields of the Kubernetes PodCondition")]
pub struct PodCondition {
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    #[serde(deserialize_with = "or_default")]
    pub status: String,
    #[serde(deserialize_with = "or_default")]
    pub reason: String,
    #[serde(deserialize_with = "or_default")]
    pub message: String,
    #[serde(deserialize_with = "lenient_time")]
    pub last_transition_time: Option<Timestamp>,
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
    #[serde(deserialize_with = "or_default")]
    pub last_state: ContainerState,
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
    #[serde(deserialize_with = "or_default")]
    pub message: String,
}

/// State of a running container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields of the Kubernetes ContainerStateRunning")]
pub struct Running {
    #[serde(deserialize_with = "lenient_time")]
    pub started_at: Option<Timestamp>,
}

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
    #[serde(deserialize_with = "or_default")]
    pub message: String,
    #[serde(deserialize_with = "lenient_time")]
    pub finished_at: Option<Timestamp>,
}

impl PodStatus {
    /// The statuses of all containers, init containers first.
    pub fn all_containers(&self) -> impl Iterator<Item = &ContainerStatus> {
        self.init_container_statuses.iter().chain(&self.container_statuses)
    }

    /// The condition of this type.
    pub fn condition(&self, kind: &str) -> Option<&PodCondition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }

    /// Time of the last restart of a container.
    pub fn restarted_at(&self) -> Option<Timestamp> {
        self.all_containers().filter_map(ContainerStatus::restarted_at).max()
    }
}

impl PodCondition {
    /// The reason of a condition that does not hold.
    pub(super) fn cause(&self) -> Option<String> {
        (self.status != "True" && !self.reason.is_empty()).then(|| self.reason.clone())
    }
}

impl ContainerStatus {
    /// Time of the last restart: the start of the current run, or the end of the one before.
    pub fn restarted_at(&self) -> Option<Timestamp> {
        let ended = self.last_state.terminated.as_ref().and_then(|terminated| terminated.finished_at);
        self.started_at().or(ended).filter(|_| self.restart_count > 0)
    }

    /// Time since which the container runs.
    pub fn started_at(&self) -> Option<Timestamp> {
        self.state.running.as_ref().and_then(|running| running.started_at)
    }

    /// The reason for which the container waits.
    pub fn waiting_reason(&self) -> Option<&str> {
        self.state.waiting.as_ref().map(|waiting| waiting.reason.as_str())
    }
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
