//! Routes for container logs.

use actix_web::web::Data;
use pilothouse_core::{
    name::{ContainerName, Namespace, ObjectName},
    pod::{Follow, FollowStart, LogLine, LogOptions, PodLogs, ReadOptions},
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::params::{Bounded, Id};
use crate::{
    api::Api,
    error::Result,
    extract::Authenticated,
    log_file::LogFile,
    query::Params,
    response::Response,
    sse::{Events, Resumable},
};

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogsQuery {
    /// The id of the cluster.
    #[param(inline)]
    cluster_id: Id,
    #[param(inline)]
    namespace: Namespace,
    /// The name of the pod.
    #[param(inline)]
    pod_name: ObjectName,
    /// The container; the default is the pod's default container.
    #[param(value_type = ContainerName, inline, required = false)]
    container: Option<ContainerName>,
    /// Number of lines, counted from the end of the log.
    #[param(value_type = u32, required = false, minimum = 1, maximum = 10000, default = 100)]
    tail_lines: Option<Bounded<1, { LogOptions::MAX_TAIL }>>,
    /// Read the log of the previous run of the container.
    #[serde(default)]
    #[param(default = false)]
    previous: bool,
    /// Maximum age of the lines, in seconds.
    #[param(value_type = u32, required = false, minimum = 1)]
    since_seconds: Option<Bounded<1, { i32::MAX.cast_unsigned() }>>,
    /// Prefix each line with its timestamp.
    #[serde(default)]
    #[param(default = false)]
    timestamps: bool,
}

pub(crate) async fn logs(
    api: Data<Api>,
    Authenticated(signed_in, Params(query)): Authenticated<Params<LogsQuery>>,
) -> Result<Response<PodLogs>> {
    let options = LogOptions {
        container: query.container,
        tail_lines: query.tail_lines.map_or(LogOptions::DEFAULT_TAIL, |lines| lines.0),
        previous: query.previous,
        since_seconds: query.since_seconds.map(|seconds| seconds.0),
        timestamps: query.timestamps,
    };
    let (cluster, namespace, pod) = (query.cluster_id.into(), query.namespace, query.pod_name);
    Ok(Response::of(api.app.pods.logs(signed_in.caller(), cluster, &namespace, &pod, &options).await?))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct FollowQuery {
    /// The id of the cluster.
    #[param(inline)]
    cluster_id: Id,
    #[param(inline)]
    namespace: Namespace,
    /// The name of the pod.
    #[param(inline)]
    pod_name: ObjectName,
    /// The container; the default is the pod's default container.
    #[param(value_type = ContainerName, inline, required = false)]
    container: Option<ContainerName>,
    /// Number of existing lines to send first; ignored when the stream is resumed.
    #[param(value_type = u32, required = false, minimum = 1, maximum = 10000, default = 100)]
    tail_lines: Option<Bounded<1, { LogOptions::MAX_TAIL }>>,
    /// Maximum age of the existing lines, in seconds; ignored when the stream is resumed.
    #[param(value_type = u32, required = false, minimum = 1)]
    since_seconds: Option<Bounded<1, { i32::MAX.cast_unsigned() }>>,
    /// Prefix each line with its timestamp.
    #[serde(default)]
    #[param(default = false)]
    timestamps: bool,
}

pub(crate) async fn follow(
    api: Data<Api>,
    Authenticated(signed_in, Resumable(query, after)): Authenticated<Resumable<FollowQuery>>,
) -> Result<Events<Vec<LogLine>>> {
    let from_newest = || FollowStart::Newest {
        lines: query.tail_lines.map_or(LogOptions::DEFAULT_TAIL, |lines| lines.0),
        since_seconds: query.since_seconds.map(|seconds| seconds.0),
    };
    let start = after.map_or_else(from_newest, FollowStart::After);
    let follow = Follow { container: query.container, start, timestamps: query.timestamps };
    let (cluster, namespace, pod) = (query.cluster_id.into(), query.namespace, query.pod_name);
    Ok(Events(api.app.pods.follow(signed_in.caller(), cluster, &namespace, &pod, &follow).await?))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct DownloadQuery {
    /// The id of the cluster.
    #[param(inline)]
    cluster_id: Id,
    #[param(inline)]
    namespace: Namespace,
    /// The name of the pod.
    #[param(inline)]
    pod_name: ObjectName,
    /// The container; the default is the pod's default container.
    #[param(value_type = ContainerName, inline, required = false)]
    container: Option<ContainerName>,
    /// Read the log of the previous run of the container.
    #[serde(default)]
    #[param(default = false)]
    previous: bool,
    /// Maximum age of the lines, in seconds; the default is the whole log.
    #[param(value_type = u32, required = false, minimum = 1)]
    since_seconds: Option<Bounded<1, { i32::MAX.cast_unsigned() }>>,
    /// Prefix each line with its timestamp.
    #[serde(default)]
    #[param(default = false)]
    timestamps: bool,
}

pub(crate) async fn download(
    api: Data<Api>,
    Authenticated(signed_in, Params(query)): Authenticated<Params<DownloadQuery>>,
) -> Result<LogFile> {
    let options = ReadOptions {
        container: query.container,
        previous: query.previous,
        tail_lines: None,
        since_seconds: query.since_seconds.map(|seconds| seconds.0),
        timestamps: query.timestamps,
    };
    let (cluster, namespace, pod) = (query.cluster_id.into(), query.namespace, query.pod_name);
    let pods = &api.app.pods;
    let log = pods.download(signed_in.caller(), cluster, &namespace, &pod, &options).await?;
    Ok(LogFile::of(pod.as_str(), log))
}
