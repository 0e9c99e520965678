//! Pods: rows with the status that kubectl prints, and logs.

use std::sync::Arc;

use async_trait::async_trait;
use serde::Serialize;

use crate::{
    access::{Access, Caller, Permit, Resource, Verb},
    cluster::ClusterId,
    error::Result,
    gate::Gate,
    kind::Kind,
    name::{ContainerName, Namespace, ObjectName},
};

mod row;

pub use row::{Owner, PodObject, PodRow};

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
    /// The most lines.
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
}

/// Shows logs.
#[derive(Clone)]
pub struct Pods {
    pub(crate) gate: Gate,
    pub(crate) api: Arc<dyn PodApi>,
}

impl Pods {
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
        let access = Access::to(Verb::Logs, Resource::Kind(Kind::Pod))
            .in_cluster(cluster)
            .in_namespace(namespace)
            .named(pod.as_str());
        let permit = self.gate.allow(caller, access).await?;
        self.api.logs(&permit, pod, options).await
    }
}
