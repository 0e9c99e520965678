//! [`PodApi`]: reading and following logs.

use async_trait::async_trait;
use http::StatusCode;
use kube::core::subresource::LogParams;
use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    kind::Kind,
    name::{ContainerName, Namespace, ObjectName},
    object::parse,
    pod::{
        ContainerStatus, Follow, FollowStart, LogChunks, LogFile, LogOptions, PodApi, PodContainer,
        PodContainers, PodLogs, PodObject, PodRow, ReadOptions,
    },
};

use crate::{
    KubeClusters, apiserver_messages,
    client::{ApiResponse, ClusterClient},
    error::{self, Failure},
    request::Call,
};

mod follow;

use follow::ContainerRun;

/// Annotation that names the default container, as in kubectl.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// The container of a log request, and its pod.
struct Target {
    /// GET of the pod.
    get: Call,
    pod: PodObject,
    container: String,
    containers: Vec<String>,
    init_containers: Vec<String>,
}

impl Target {
    async fn find(
        client: &ClusterClient<'_>,
        namespace: &Namespace,
        name: &ObjectName,
        requested: Option<&ContainerName>,
    ) -> Result<Self> {
        let get = Call::get(Kind::Pod, Some(namespace), name)?;
        let pod: PodObject = client.get_object(&get, parse).await?;
        let names = |containers: &[PodContainer]| -> Vec<_> {
            containers.iter().map(|container| container.name.clone()).collect()
        };
        let (containers, init_containers) = (names(&pod.spec.containers), names(&pod.spec.init_containers));
        let container =
            choose_container(requested, &pod, &containers, &init_containers).ok_or_else(|| {
                part_not_found(&get, "container", requested.map(pilothouse_core::name::ContainerName::as_str))
            })?;
        if pod.spec.node_name.is_none() {
            // for a pod without a node the API server returns an empty log instead of an error
            return Err(not_started(&get, None, pod));
        }
        Ok(Self { get, pod, container, containers, init_containers })
    }
}

#[async_trait]
impl PodApi for KubeClusters {
    async fn logs(&self, permit: &Permit, pod: &ObjectName, options: &LogOptions) -> Result<PodLogs> {
        let client = self.client(permit, self.deadlines().read).await?;
        let namespace = permit.namespace()?;
        let target = Target::find(&client, namespace, pod, options.container.as_ref()).await?;
        let params = LogParams {
            container: Some(target.container.clone()),
            previous: options.previous,
            since_seconds: options.since_seconds.map(i64::from),
            tail_lines: Some(options.tail_lines.into()),
            timestamps: options.timestamps,
            ..LogParams::default()
        };
        let call = Call::logs(namespace, pod, &params, LogOptions::MAX_BYTES)?;
        let response = match client.read(&call).await {
            Ok(response) => response,
            Err(failure) => return Err(map_log_error(failure, &call, target, options.previous)),
        };
        let Target { container, containers, init_containers, .. } = target;
        Ok(PodLogs {
            pod_name: pod.to_string(),
            container,
            containers,
            init_containers,
            tail_lines: options.tail_lines,
            truncated: response.truncated,
            logs: text(response),
        })
    }

    async fn follow(&self, permit: &Permit, pod: &ObjectName, follow: &Follow) -> Result<LogChunks> {
        let deadline = self.deadlines().read;
        let client = self.client(permit, deadline).await?;
        let namespace = permit.namespace()?;
        let target = Target::find(&client, namespace, pod, follow.container.as_ref()).await?;
        let mut params = LogParams {
            container: Some(target.container.clone()),
            follow: true,
            timestamps: true,
            ..LogParams::default()
        };
        match &follow.start {
            FollowStart::Newest { lines, since_seconds } => {
                params.tail_lines = Some((*lines).into());
                params.since_seconds = since_seconds.map(i64::from);
            }
            FollowStart::Beginning => {}
            FollowStart::Since(start) => params.since_time = Some(*start),
            FollowStart::After(start) => params.since_time = Some(start.since()),
        }
        let call = Call::logs(namespace, pod, &params, 0)?;
        let run = ContainerRun {
            transport: client.transport().clone(),
            permit: permit.clone(),
            observer: self.observer.clone(),
            get: target.get.clone(),
            container: target.container.clone(),
            uid: target.pod.metadata.uid.clone(),
            restart_count: status(&target.pod, &target.container).map_or(0, |status| status.restart_count),
            deadline,
        };
        let chunks = follow::chunks(client.open_stream(call.clone())?, run).await;
        chunks.map_err(|failure| map_log_error(failure, &call, target, false))
    }

    async fn read(&self, permit: &Permit, pod: &ObjectName, options: &ReadOptions) -> Result<LogFile> {
        let client = self.client(permit, self.deadlines().read).await?;
        let namespace = permit.namespace()?;
        let target = Target::find(&client, namespace, pod, options.container.as_ref()).await?;
        let params = LogParams {
            container: Some(target.container.clone()),
            previous: options.previous,
            since_seconds: options.since_seconds.map(i64::from),
            tail_lines: options.tail_lines.map(i64::from),
            timestamps: options.timestamps,
            ..LogParams::default()
        };
        let call = Call::logs(namespace, pod, &params, 0)?;
        match client.stream_via_breaker(call.clone()).await {
            Ok(body) => {
                Ok(LogFile { container: target.container, chunks: follow::whole(body, client.transport()) })
            }
            Err(failure) => Err(map_log_error(failure, &call, target, options.previous)),
        }
    }

    async fn containers(&self, permit: &Permit, pod: &ObjectName) -> Result<PodContainers> {
        let client = self.client(permit, self.deadlines().read).await?;
        let get = Call::get(Kind::Pod, Some(permit.namespace()?), pod)?;
        let pod: PodObject = client.get_object(&get, parse).await?;
        let names = |containers: &[PodContainer]| -> Vec<_> {
            containers.iter().map(|container| container.name.clone()).collect()
        };
        let (init_containers, containers) = (names(&pod.spec.init_containers), names(&pod.spec.containers));
        let default = choose_container(None, &pod, &containers, &init_containers);
        let named = |name: String| ContainerName::new(name).ok();
        let default =
            default.and_then(named).ok_or_else(|| Error::new(Cause::UnexpectedAnswer).read_only())?;
        let all = init_containers.into_iter().chain(containers).chain(names(&pod.spec.ephemeral_containers));
        let names = all.filter_map(named).collect();
        Ok(PodContainers { default, names })
    }
}

/// The container to read: the named one, also an ephemeral one; the pod's default, or the first.
fn choose_container(
    requested: Option<&ContainerName>,
    pod: &PodObject,
    containers: &[String],
    init_containers: &[String],
) -> Option<String> {
    let find_name = |name: &str| {
        let ephemeral = pod.spec.ephemeral_containers.iter().map(|container| &container.name);
        containers.iter().chain(init_containers).chain(ephemeral).find(|known| *known == name).cloned()
    };
    if let Some(name) = requested {
        find_name(name.as_str())
    } else {
        let annotated = pod.metadata.annotations.get(DEFAULT_CONTAINER).and_then(|name| find_name(name));
        annotated.or_else(|| containers.first().cloned())
    }
}

/// The error for a missing container or previous log of a pod.
fn part_not_found(call: &Call, resource: &str, name: Option<&str>) -> Error {
    let mut error = error::about(Cause::NotFoundInCluster, call).resource(resource);
    error.context.pod = std::mem::replace(&mut error.context.name, name.map(ToOwned::to_owned));
    error
}

/// The log as text. A truncated log begins at a line start, so that no character is cut.
fn text(response: ApiResponse) -> String {
    let ApiResponse { body, truncated, .. } = response;
    let start =
        if truncated { body.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1) } else { 0 };
    String::from_utf8_lossy(&body[start..]).into_owned()
}

/// Status of a container.
fn status<'a>(pod: &'a PodObject, container: &str) -> Option<&'a ContainerStatus> {
    let all = &pod.status;
    let statuses = all.container_statuses.iter().chain(&all.init_container_statuses);
    statuses.chain(&all.ephemeral_container_statuses).find(|status| status.name == container)
}

/// Maps the failure to read a log to its reason. The API server sends every reason as 400 with a message.
fn map_log_error(failure: Failure, call: &Call, target: Target, previous: bool) -> Error {
    let Target { pod, container, .. } = target;
    if !failure.is(StatusCode::BAD_REQUEST) {
        return failure.into();
    }
    if previous && apiserver_messages::has_no_previous_log(&failure.cluster_message) {
        return part_not_found(call, "previous_log", Some(&container));
    }
    let status = status(&pod, &container);
    let waiting =
        status.and_then(|status| status.state.waiting.as_ref()).map(|waiting| waiting.reason.clone());
    let has_started =
        status.is_some_and(|status| status.state.running.is_some() || status.state.terminated.is_some());
    if apiserver_messages::is_waiting_to_start(&failure.cluster_message) || !has_started {
        return not_started(call, waiting, pod);
    }
    failure.into()
}

/// The error for a container that has not started: with its waiting reason or, without one, the status of the pod's
/// row.
fn not_started(call: &Call, waiting: Option<String>, pod: PodObject) -> Error {
    let reason = waiting.filter(|reason| !reason.is_empty()).unwrap_or_else(|| PodRow::project(pod).status);
    error::about(Cause::ContainerNotStarted, call).message(&reason)
}
