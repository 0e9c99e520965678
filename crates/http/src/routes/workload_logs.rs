//! Route for the logs of a workload.

use actix_web::web::Data;
use pilothouse_core::{
    Error,
    error::Reason,
    ids::ClusterId,
    name::{ContainerName, Namespace, ObjectName},
    pod::LogOptions,
    workload::{WorkloadRef, WorkloadType},
    workload_log::{
        ContainerChoice, LineFilter, LogTime, WorkloadLogEvent, WorkloadLogQuery, WorkloadLogStart,
    },
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::params::Bounded;
use crate::{
    api::Api,
    error::Result,
    extract::Authenticated,
    sse::{Events, Resumable},
};

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct FollowQuery {
    /// The ids of 1 to 20 clusters, separated by commas, each once.
    #[param(value_type = String, max_length = 400, pattern = "^[1-9][0-9]*(,[1-9][0-9]*)*$", example = "1,2")]
    cluster_id: ClusterIds,
    #[param(inline)]
    namespace: Namespace,
    #[param(inline)]
    r#type: WorkloadType,
    #[param(inline)]
    name: ObjectName,
    /// The container of each pod, or `*` for all init containers and containers; the default is the default container
    /// of each pod.
    #[param(
        value_type = String,
        required = false,
        max_length = 63,
        pattern = r"^(\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?)$"
    )]
    container: Option<Container>,
    /// Number of existing lines of each container to send first; ignored when the stream is resumed.
    #[param(value_type = u32, required = false, minimum = 1, maximum = 10000, default = 100)]
    tail_lines: Option<Bounded<1, { LogOptions::MAX_TAIL }>>,
    /// Maximum age of the existing lines, in seconds; ignored when the stream is resumed.
    #[param(value_type = u32, required = false, minimum = 1)]
    since_seconds: Option<Bounded<1, { i32::MAX.cast_unsigned() }>>,
    /// Read the logs of the previous runs of the containers; then the stream ends.
    #[serde(default)]
    #[param(default = false)]
    previous: bool,
    /// Only lines that contain this text, ignoring case.
    #[param(value_type = String, required = false, min_length = 1, max_length = 256, example = "error")]
    q: Option<String>,
    /// Only lines in which this expression matches: RE2 without `\p`; not together with `q`.
    #[param(value_type = String, required = false, min_length = 1, max_length = 256, example = "status=5[0-9]+")]
    re: Option<String>,
}

/// Ids of clusters, separated by commas.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct ClusterIds(Vec<ClusterId>);

impl TryFrom<String> for ClusterIds {
    type Error = Reason;

    fn try_from(text: String) -> Result<Self, Reason> {
        let id = |text: &str| match text.parse::<i64>() {
            _ if text.is_empty() => Err(Reason::Required),
            _ if !text.bytes().all(|byte| byte.is_ascii_digit()) => Err(Reason::InvalidType),
            Ok(id) if id >= 1 => Ok(ClusterId(id)),
            _ => Err(Reason::OutOfRange),
        };
        text.split(',').map(id).collect::<Result<_, _>>().map(Self)
    }
}

/// The name of a container, or `*`.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Container(ContainerChoice);

impl TryFrom<String> for Container {
    type Error = Reason;

    fn try_from(text: String) -> Result<Self, Reason> {
        match text.as_str() {
            "*" => Ok(Self(ContainerChoice::All)),
            _ => ContainerName::new(text).map(ContainerChoice::Named).map(Self),
        }
    }
}

pub(crate) async fn follow(
    api: Data<Api>,
    Authenticated(signed_in, Resumable(query, after)): Authenticated<Resumable<FollowQuery, LogTime>>,
) -> Result<Events<WorkloadLogEvent>> {
    let filter = filter(query.q.as_deref(), query.re.as_deref())?;
    let newest = WorkloadLogStart::Newest {
        lines: query.tail_lines.map_or(LogOptions::DEFAULT_TAIL, |lines| lines.0),
        since_seconds: query.since_seconds.map(|seconds| seconds.0),
    };
    let query = WorkloadLogQuery {
        clusters: query.cluster_id.0,
        workload: WorkloadRef { namespace: query.namespace, kind: query.r#type, name: query.name },
        containers: query.container.map_or(ContainerChoice::Default, |container| container.0),
        start: after.map_or(newest, WorkloadLogStart::After),
        previous: query.previous,
        filter,
    };
    Ok(Events(api.app.workload_logs.follow(signed_in.caller(), query).await?))
}

/// The filter of the lines.
fn filter(text: Option<&str>, regex: Option<&str>) -> Result<Option<LineFilter>, Error> {
    let refused = |name: &'static str| move |reason| Error::invalid(name, reason);
    match (text, regex) {
        (None, None) => Ok(None),
        (Some(text), None) => LineFilter::text(text).map(Some).map_err(refused("q")),
        (None, Some(regex)) => LineFilter::regex(regex).map(Some).map_err(refused("re")),
        (Some(_), Some(_)) => Err(Error::invalid("re", Reason::NotAllowed)),
    }
}
