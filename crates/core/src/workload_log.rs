//! Logs of a workload: the lines of all its containers, in one or several clusters, merged by time.
//!
//! - `pods.rs`: which pods there are.
//! - `source.rs`: the log of one container, over its restarts.
//! - `merge.rs`: the order of the lines.
//! - `follow.rs`: the stream: pods become sources, sources become events.

use std::{fmt, str::FromStr, sync::Arc};

use futures_util::{FutureExt, future::select_all};
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    access::{AccessRequest, Caller, Verb},
    clock::Clock,
    error::{Error, Reason, Result},
    gate::Gate,
    ids::ClusterId,
    inventory::Inventory,
    kind::Kind,
    name::ContainerName,
    pod::PodApi,
    spawn::Spawner,
    streams::{EventStream, StreamGuard, Streams},
    workload::WorkloadRef,
};

mod filter;
mod follow;
mod merge;
mod pods;
mod source;

pub use filter::LineFilter;
use follow::Follower;
use source::Access;

/// Maximum number of clusters of one stream.
pub const MAX_CLUSTERS: usize = 20;
/// Maximum number of containers whose logs one stream follows.
pub const MAX_SOURCES: usize = 50;

/// Query of the logs of a workload.
#[derive(Clone, Debug)]
pub struct WorkloadLogQuery {
    /// The clusters, 1 to [`MAX_CLUSTERS`], each once.
    pub clusters: Vec<ClusterId>,
    /// The workload, of the same name in each cluster.
    pub workload: WorkloadRef,
    /// The containers of each pod.
    pub containers: ContainerChoice,
    /// First lines of the stream.
    pub start: WorkloadLogStart,
    /// Whether the logs of the previous runs of the containers are read, once; then the stream ends.
    pub previous: bool,
    /// Filter of the lines. `None`: all.
    pub filter: Option<LineFilter>,
}

/// Choice of containers of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerChoice {
    /// The default container of each pod.
    Default,
    /// The container of this name.
    Named(ContainerName),
    /// All init containers and containers.
    All,
}

/// First lines of the logs of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkloadLogStart {
    /// The newest lines of each log.
    Newest {
        /// Number of lines of each log, 1 to 10000.
        lines: u32,
        /// Maximum age of the lines in seconds, at least 1.
        since_seconds: Option<u32>,
    },
    /// The lines after this time, and some before it.
    After(LogTime),
}

/// Id of a line of the logs of a workload: its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogTime(pub Timestamp);

/// Format of the `id` of an event: `2026-01-02T03:04:05.123456789Z`.
impl fmt::Display for LogTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for LogTime {
    type Err = Reason;

    fn from_str(text: &str) -> Result<Self, Reason> {
        // only the canonical form is accepted
        text.parse().ok().map(Self).filter(|time| time.to_string() == text).ok_or(Reason::Malformed)
    }
}

/// Event of the logs of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkloadLogEvent {
    /// Lines, ordered by time as far as they have arrived.
    Lines(Vec<WorkloadLogLine>),
    /// A container begins or ends to be followed, or cannot be followed.
    Source(SourceEvent),
}

/// Line of the logs of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadLogLine {
    /// The container that wrote it.
    pub source: Arc<LogSource>,
    /// Its time; `None` if none is known, as for an error message of the kubelet.
    pub time: Option<Timestamp>,
    /// Id from which to resume. `None` while that would lose lines of a log that is behind.
    pub id: Option<LogTime>,
    /// The text without the line terminator.
    pub text: String,
}

/// Container whose log is followed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogSource {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The name of the pod.
    pub pod: String,
    /// The name of the container.
    pub container: String,
}

/// Change of a source of the logs of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceEvent {
    /// The cluster; null for sources of all clusters.
    pub cluster_id: Option<ClusterId>,
    /// The name of the pod; null if the event is about the pods of a cluster.
    pub pod: Option<String>,
    /// The name of the container; null if the event is about a pod.
    pub container: Option<String>,
    /// The state.
    pub state: SourceState,
    /// The reason of the state: a waiting reason of Kubernetes, or the cause of an error.
    pub reason: Option<String>,
    /// Number of pods that are left out, whole or in part; only in the state `left_out`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<usize>,
}

/// State of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceState {
    /// Its lines are followed.
    Following,
    /// It has not started; it is followed as soon as it starts. Without a pod: there is none yet.
    Waiting,
    /// It has ended. It is followed again if it is started again.
    Ended,
    /// It cannot be read now; it is tried again, and goes on after the last line.
    Failed,
    /// There are more than [`MAX_SOURCES`] containers. Those of the newest pods are followed.
    LeftOut,
}

/// Event stream of the logs of a workload.
pub type WorkloadLogStream = EventStream<WorkloadLogEvent>;

/// Use case: following the logs of a workload.
#[derive(Clone)]
pub struct WorkloadLogs {
    pub(crate) gate: Gate,
    pub(crate) inventory: Arc<dyn Inventory>,
    pub(crate) api: Arc<dyn PodApi>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) spawner: Arc<dyn Spawner>,
    pub(crate) streams: Streams,
}

impl WorkloadLogs {
    /// Follows the logs of a workload. A cluster, pod or container that cannot be read is reported by an event, and the
    /// others go on. The stream ends when the caller's right in one of the clusters ends or changes.
    ///
    /// # Errors
    /// As [`Gate::follow`] for each cluster; `InvalidInput` for no, too many or repeated clusters; `Overloaded` if the
    /// caller, or all callers together, have too many open streams.
    pub async fn follow(&self, caller: &Caller, query: WorkloadLogQuery) -> Result<WorkloadLogStream> {
        check(&query.clusters)?;
        let WorkloadRef { namespace, kind, name } = &query.workload;
        let named = format!("{kind}/{name}");
        let (mut permits, mut revoked) = (Vec::new(), Vec::new());
        for cluster in &query.clusters {
            let access = AccessRequest::to_object(Verb::Logs, Kind::Pod, *cluster, namespace, &named);
            let (permit, ended) = self.gate.follow(caller, access).await?;
            permits.push((*cluster, permit));
            revoked.push(ended);
        }
        let user = caller.principal();
        let slot = self.streams.enter(user)?;
        let access = Access {
            api: self.api.clone(),
            spawner: self.spawner.clone(),
            streams: self.streams.clone(),
            user,
            filter: query.filter.clone().map(Arc::new),
        };
        let follower = Follower::new(access, self.inventory.clone(), self.clock.clone(), permits, query)?;
        let revoked = select_all(revoked).map(|(error, ..)| error).boxed();
        let events = follower.events();
        Ok(EventStream::start(StreamGuard { revoked, slot }, &self.spawner, |reader| reader.send_all(events)))
    }
}

fn check(clusters: &[ClusterId]) -> Result<()> {
    let is_repeated = (1..clusters.len()).any(|at| clusters[..at].contains(&clusters[at]));
    let reason = match clusters.len() {
        0 => Reason::Required,
        1..=MAX_CLUSTERS if is_repeated => Reason::Duplicate,
        1..=MAX_CLUSTERS => return Ok(()),
        _ => Reason::TooLong,
    };
    Err(Error::invalid("cluster_id", reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_of_a_line_has_one_form() {
        let id = "2026-01-02T03:04:05.123456789Z";
        assert_eq!(id.parse::<LogTime>().unwrap().to_string(), id);
        for text in ["", "2026-01-02", "2026-01-02T03:04:05+00:00", "2026-01-02T03:04:05Z_0_00000000", "x"] {
            assert_eq!(text.parse::<LogTime>(), Err(Reason::Malformed), "{text}");
        }
    }

    #[test]
    fn clusters_are_given_once_each() {
        let reason = |ids: &[i64]| {
            let clusters: Vec<_> = ids.iter().map(|id| ClusterId(*id)).collect();
            check(&clusters).err().map(|error| error.context.fields[0].reason)
        };
        assert_eq!(reason(&[]), Some(Reason::Required));
        assert_eq!(reason(&[1, 2]), None);
        assert_eq!(reason(&[1, 2, 1]), Some(Reason::Duplicate));
        assert_eq!(reason(&(1..=20).collect::<Vec<_>>()), None);
        assert_eq!(reason(&(1..=21).collect::<Vec<_>>()), Some(Reason::TooLong));
    }
}
