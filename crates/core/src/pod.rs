//! Pods: list rows with the status that kubectl prints, and container logs, read once or followed.

use std::sync::Arc;

use async_trait::async_trait;
use serde::Serialize;

use crate::{
    access::{AccessRequest, Caller, Permit, Verb},
    error::Result,
    gate::Gate,
    ids::ClusterId,
    kind::Kind,
    name::{ContainerName, Namespace, ObjectName},
    spawn::Spawner,
    streams::{EventStream, StreamGuard, Streams},
};

mod download;
mod fault;
mod follow;
mod line;
mod object;
mod row;
mod status;

use follow::forward;

pub use download::{LogDownload, LogFile, ReadOptions};
pub use follow::{Follow, FollowStart, LogChunks, LogEvent, LogStream};
pub(crate) use line::Lines;
pub use line::{LineId, LogLine, MAX_LINE_BYTES, TRUNCATION_MARK};
pub use object::{ContainerStatus, PodContainer, PodObject};
pub(crate) use row::{OCCUPIES_NODE, WORKLOAD};
pub use row::{Owner, PodRow};

/// Options of reading a container's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// The container. `None`: the pod's default container.
    pub container: Option<ContainerName>,
    /// Number of lines from the end of the log, 1 to 10000.
    pub tail_lines: u32,
    /// Whether to read the log of the container's previous run.
    pub previous: bool,
    /// Maximum age of the lines in seconds, at least 1.
    pub since_seconds: Option<u32>,
    /// Whether each line begins with its timestamp.
    pub timestamps: bool,
}

impl LogOptions {
    /// Default number of lines.
    pub const DEFAULT_TAIL: u32 = 100;
    /// Maximum number of lines.
    pub const MAX_TAIL: u32 = 10_000;
    /// Maximum size of the log in one response, in bytes. Older lines are omitted.
    pub const MAX_BYTES: usize = 4 << 20;
}

/// The end of a container's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PodLogs {
    /// The pod.
    pub pod_name: String,
    /// The container whose log was read.
    pub container: String,
    /// Names of all containers of the pod.
    pub containers: Vec<String>,
    /// Names of all init containers of the pod.
    pub init_containers: Vec<String>,
    /// The requested number of lines.
    pub tail_lines: u32,
    /// Whether the log was truncated to 4 MiB.
    pub truncated: bool,
    /// The lines as one text. Bytes that are not UTF-8 are replaced by U+FFFD.
    pub logs: String,
}

/// The containers of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodContainers {
    /// The container whose log is read by default.
    pub default: ContainerName,
    /// All init containers, then all containers, then all ephemeral containers.
    pub names: Vec<ContainerName>,
}

/// Port: reads pod logs in the permit's cluster and namespace.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait PodApi: Send + Sync {
    /// Returns the end of a container's log. The default container is the one in the annotation
    /// `kubectl.kubernetes.io/default-container`, otherwise the first.
    ///
    /// # Errors
    /// `NotFoundInCluster` for the pod, the container (resource `container`) or its previous log (resource
    /// `previous_log`); `ContainerNotStarted` with the waiting reason; and the errors of every call to a cluster.
    async fn logs(&self, permit: &Permit, pod: &ObjectName, options: &LogOptions) -> Result<PodLogs>;

    /// Streams a container's log from `follow.start` until the container terminates. Each line begins with its
    /// timestamp, whether or not `follow.timestamps` is set. The stream may be idle for hours; a dead connection is
    /// detected.
    ///
    /// # Errors
    /// As [`PodApi::logs`], except for the previous log. The stream itself reports connection errors.
    async fn follow(&self, permit: &Permit, pod: &ObjectName, follow: &Follow) -> Result<LogChunks>;

    /// Streams a container's log as it is now, without waiting for further lines. The stream itself reports connection
    /// errors.
    ///
    /// # Errors
    /// As [`PodApi::logs`].
    async fn read(&self, permit: &Permit, pod: &ObjectName, options: &ReadOptions) -> Result<LogFile>;

    /// Returns the containers of a pod.
    ///
    /// # Errors
    /// `NotFoundInCluster` for the pod; `UnexpectedAnswer` for a pod without containers; and the errors of every call to
    /// a cluster.
    async fn containers(&self, permit: &Permit, pod: &ObjectName) -> Result<PodContainers>;
}

/// Use cases: reading, following and downloading container logs.
#[derive(Clone)]
pub struct Pods {
    pub(crate) gate: Gate,
    pub(crate) api: Arc<dyn PodApi>,
    pub(crate) spawner: Arc<dyn Spawner>,
    pub(crate) streams: Streams,
}

impl Pods {
    /// Creates these use cases alone, for an embedder without the rest of [`crate::app::App`].
    pub fn new(gate: Gate, api: Arc<dyn PodApi>, spawner: Arc<dyn Spawner>, streams: Streams) -> Self {
        Self { gate, api, spawner, streams }
    }

    /// Returns the end of a container's log.
    ///
    /// # Errors
    /// As [`PodApi::logs`].
    pub async fn logs(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        namespace: &Namespace,
        pod: &ObjectName,
        options: &LogOptions,
    ) -> Result<PodLogs> {
        let permit = self.gate.allow(caller, access(cluster, namespace, pod)).await?;
        self.api.logs(&permit, pod, options).await
    }

    /// Follows a container's log.
    ///
    /// # Errors
    /// As [`PodApi::follow`]; `Overloaded` if the caller, or all callers together, have too many open streams or
    /// connections for logs.
    pub async fn follow(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        namespace: &Namespace,
        pod: &ObjectName,
        follow: &Follow,
    ) -> Result<LogStream> {
        let (permit, revoked) = self.gate.follow(caller, access(cluster, namespace, pod)).await?;
        let slot = self.streams.enter_log(caller.principal())?;
        let chunks = self.api.follow(&permit, pod, follow).await?;
        let lines = Lines::new(&follow.start, follow.timestamps);
        Ok(EventStream::start(StreamGuard { revoked, slot }, &self.spawner, |reader| {
            forward(chunks, lines, reader)
        }))
    }
}

fn access(cluster: ClusterId, namespace: &Namespace, pod: &ObjectName) -> AccessRequest {
    AccessRequest::to_object(Verb::Logs, Kind::Pod, cluster, namespace, pod.as_str())
}
