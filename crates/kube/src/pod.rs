//! [`PodApi`]: logs, read once or followed.

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
        ContainerStatus, Follow, FollowStart, LogChunks, LogOptions, PodApi, PodContainer, PodLogs,
        PodObject, PodRow,
    },
};

use crate::{
    KubeClusters,
    client::{Answer, ClusterClient},
    error::{self, Failure},
    request::Call,
};

mod follow;

use follow::Run;

/// Which container is meant when none is named, as kubectl reads it.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// A container whose log is asked for, and its pod.
struct Target {
    /// Asks for the pod.
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
        named: Option<&ContainerName>,
    ) -> Result<Self> {
        let get = Call::get(Kind::Pod, Some(namespace), name)?;
        let pod: PodObject = client.one(&get, parse).await?;
        let names = |containers: &[PodContainer]| -> Vec<_> {
            containers.iter().map(|container| container.name.clone()).collect()
        };
        let (containers, init_containers) = (names(&pod.spec.containers), names(&pod.spec.init_containers));
        let container = choose(named, &pod, &containers, &init_containers)
            .ok_or_else(|| no_part(&get, "container", named.map(|name| name.as_str())))?;
        if pod.spec.node_name.is_none() {
            // of a pod without a node the API server shows an empty log, as if there were one
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
        let answer = match client.read(&call).await {
            Ok(answer) => answer,
            Err(failure) => return Err(explain(failure, &call, target, options.previous)),
        };
        let Target { container, containers, init_containers, .. } = target;
        Ok(PodLogs {
            pod_name: pod.to_string(),
            container,
            containers,
            init_containers,
            tail_lines: options.tail_lines,
            truncated: answer.cut,
            logs: text(answer),
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
            FollowStart::After(line) => params.since_time = Some(line.since()),
        }
        let call = Call::logs(namespace, pod, &params, 0)?;
        let run = Run {
            transport: client.transport().clone(),
            permit: permit.clone(),
            observer: self.observer.clone(),
            get: target.get.clone(),
            container: target.container.clone(),
            uid: target.pod.metadata.uid.clone(),
            restarts: status(&target.pod, &target.container).map_or(0, |status| status.restart_count),
            deadline,
        };
        let chunks = follow::chunks(client.open(call.clone())?, run).await;
        chunks.map_err(|failure| explain(failure, &call, target, false))
    }
}

/// The container to read: the one named, the pod's default one, the first.
fn choose(
    named: Option<&ContainerName>,
    pod: &PodObject,
    containers: &[String],
    init_containers: &[String],
) -> Option<String> {
    let known = |name: &str| containers.iter().chain(init_containers).find(|known| *known == name).cloned();
    match named {
        Some(name) => known(name.as_str()),
        None => {
            let annotated = pod.metadata.annotations.get(DEFAULT_CONTAINER).and_then(|name| known(name));
            annotated.or_else(|| containers.first().cloned())
        }
    }
}

/// No such part of a pod.
fn no_part(call: &Call, resource: &str, name: Option<&str>) -> Error {
    let mut error = error::about(Cause::NotFoundInCluster, call).resource(resource);
    error.context.pod = std::mem::replace(&mut error.context.name, name.map(ToOwned::to_owned));
    error
}

/// The log as text. Where older bytes were dropped it begins with a whole line, so that no character is cut either.
fn text(answer: Answer) -> String {
    let Answer { body, cut, .. } = answer;
    let line = if cut { body.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1) } else { 0 };
    String::from_utf8_lossy(&body[line..]).into_owned()
}

/// How a container stands.
fn status<'a>(pod: &'a PodObject, container: &str) -> Option<&'a ContainerStatus> {
    let mut statuses = pod.status.container_statuses.iter().chain(&pod.status.init_container_statuses);
    statuses.find(|status| status.name == container)
}

/// Why there is no log. The API server says all of it with 400 and a sentence.
fn explain(failure: Failure, call: &Call, target: Target, previous: bool) -> Error {
    let Target { pod, container, .. } = target;
    if !failure.is(StatusCode::BAD_REQUEST) {
        return failure.into();
    }
    if previous && failure.said.contains("previous terminated container") {
        return no_part(call, "previous_log", Some(&container));
    }
    let status = status(&pod, &container);
    let waiting =
        status.and_then(|status| status.state.waiting.as_ref()).map(|waiting| waiting.reason.clone());
    let begun =
        status.is_some_and(|status| status.state.running.is_some() || status.state.terminated.is_some());
    if failure.said.contains("waiting to start") || !begun {
        return not_started(call, waiting, pod);
    }
    failure.into()
}

/// With the container's waiting reason; without one, what the pod's row says.
fn not_started(call: &Call, waiting: Option<String>, pod: PodObject) -> Error {
    let reason = waiting.filter(|reason| !reason.is_empty()).unwrap_or_else(|| PodRow::project(pod).status);
    error::about(Cause::ContainerNotStarted, call).message(&reason)
}
