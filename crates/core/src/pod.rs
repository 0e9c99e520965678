//! Pods: rows with the status that kubectl prints, and logs, read once or followed.

use std::sync::Arc;

use async_trait::async_trait;
use serde::Serialize;

use crate::{
    access::{AccessRequest, Caller, Permit, Resource, Verb},
    clock::Spawner,
    cluster::ClusterId,
    error::Result,
    gate::Gate,
    kind::Kind,
    name::{ContainerName, Namespace, ObjectName},
    streams::{EventStream, StreamGuard, StreamLimits, Streams},
};

mod follow;
mod line;
mod row;

use follow::forward;
use line::Lines;

pub use follow::{Follow, FollowStart, LogChunks, LogEvent, LogStream};
pub use line::{CUT, LONGEST_LINE, LineId, LogLine};
pub(crate) use row::OCCUPIES;
pub use row::{ContainerStatus, Owner, PodContainer, PodObject, PodRow};

/// Which part of a container's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// Which container; the pod's default one when none.
    pub container: Option<ContainerName>,
    /// The last lines, 1 to 10000.
    pub tail_lines: u32,
    /// Of the container's previous run.
    pub previous: bool,
    /// Not older than this many seconds, at least 1.
    pub since_seconds: Option<u32>,
    /// Each line begins with its time.
    pub timestamps: bool,
}

impl LogOptions {
    /// Lines when none are asked for.
    pub const DEFAULT_TAIL: u32 = 100;
    /// The most lines that can be asked for.
    pub const MAX_TAIL: u32 = 10_000;
    /// The most bytes of one answer; what is older is cut.
    pub const MAX_BYTES: usize = 4 << 20;
}

/// The end of a container's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PodLogs {
    /// The pod.
    pub pod_name: String,
    /// The container read.
    pub container: String,
    /// All containers.
    pub containers: Vec<String>,
    /// All init containers.
    pub init_containers: Vec<String>,
    /// The lines asked for.
    pub tail_lines: u32,
    /// Whether the log was cut at 4 MiB.
    pub truncated: bool,
    /// The lines, as one text; bytes that are not UTF-8 are U+FFFD.
    pub logs: String,
}

/// Reads pods in the permit's cluster and namespace.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait PodApi: Send + Sync {
    /// The end of a container's log. Without a container named: the one of the annotation
    /// `kubectl.kubernetes.io/default-container`, else the first.
    ///
    /// # Errors
    /// `NotFoundInCluster` for the pod, the container (resource `container`) or its previous log (resource
    /// `previous_log`); `ContainerNotStarted` with the waiting reason; else as every call to a cluster.
    async fn logs(&self, permit: &Permit, pod: &ObjectName, options: &LogOptions) -> Result<PodLogs>;

    /// A container's log from `follow.start` on, each line with its time whatever `follow.timestamps` says, until the
    /// container ends. Of a log that is silent there may be nothing for hours; a peer that is gone is noticed.
    ///
    /// # Errors
    /// As [`PodApi::logs`], but for the previous log; from the stream itself what happened to the connection.
    async fn follow(&self, permit: &Permit, pod: &ObjectName, follow: &Follow) -> Result<LogChunks>;
}

/// Shows logs.
#[derive(Clone)]
pub struct Pods {
    pub(crate) gate: Gate,
    pub(crate) api: Arc<dyn PodApi>,
    pub(crate) spawner: Arc<dyn Spawner>,
    pub(crate) streams: Streams,
}

impl Pods {
    /// These use cases alone, for an embedder without the rest of [`crate::app::App`].
    pub fn new(gate: Gate, api: Arc<dyn PodApi>, spawner: Arc<dyn Spawner>, limits: StreamLimits) -> Self {
        Self { gate, api, spawner, streams: Streams::new(limits) }
    }

    /// The end of a container's log.
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

    /// A container's log as it is written.
    ///
    /// # Errors
    /// As [`PodApi::follow`]; `Overloaded` when the caller, or all callers together, follow too many.
    pub async fn follow(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        namespace: &Namespace,
        pod: &ObjectName,
        follow: &Follow,
    ) -> Result<LogStream> {
        let (permit, lost) = self.gate.follow(caller, access(cluster, namespace, pod)).await?;
        let place = self.streams.enter(caller.user_id)?;
        let chunks = self.api.follow(&permit, pod, follow).await?;
        let lines = Lines::new(&follow.start, follow.timestamps);
        Ok(EventStream::start(StreamGuard { lost, place }, &self.spawner, |reader| {
            forward(chunks, lines, reader)
        }))
    }

    /// Ends every stream, each with [`crate::streams::StreamEnd::ServerStopping`], and lets none begin: for a process that
    /// stops. In [`crate::app::App`] these are the streams of lists, too.
    pub fn end_streams(&self) {
        self.streams.stop();
    }
}

fn access(cluster: ClusterId, namespace: &Namespace, pod: &ObjectName) -> AccessRequest {
    AccessRequest::to(Verb::Logs, Resource::Kind(Kind::Pod))
        .in_cluster(cluster)
        .in_namespace(namespace)
        .named(pod.as_str())
}
