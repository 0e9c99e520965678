//! [`PodApi`]: logs.

use async_trait::async_trait;
use http::StatusCode;
use kube::core::subresource::LogParams;
use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    kind::Kind,
    name::{ContainerName, ObjectName},
    object::parse,
    pod::{LogOptions, PodApi, PodLogs, PodObject, PodRow},
};

use crate::{
    KubeClusters,
    error::{self, Failure},
    request::Call,
    visit::Answer,
};

/// Which container is meant when none is named, as kubectl reads it.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

#[async_trait]
impl PodApi for KubeClusters {
    async fn logs(&self, permit: &Permit, pod: &ObjectName, options: &LogOptions) -> Result<PodLogs> {
        let visit = self.visit(permit, self.deadlines().read).await?;
        let namespace = permit.namespace()?;
        let get = Call::get(Kind::Pod, Some(namespace), pod)?;
        let object: PodObject = parse(&visit.read(&get).await?.object(&get)?)?;
        let containers: Vec<_> =
            object.spec.containers.iter().map(|container| container.name.clone()).collect();
        let init_containers: Vec<_> =
            object.spec.init_containers.iter().map(|container| container.name.clone()).collect();
        let container = choose(options.container.as_ref(), &object, &containers, &init_containers)
            .ok_or_else(|| no_container(options.container.as_ref(), &get))?;

        if object.spec.node_name.is_none() {
            // of a pod without a node the API server shows an empty log, as if there were one
            return Err(not_started(&get, None, object));
        }
        let params = LogParams {
            container: Some(container.clone()),
            previous: options.previous,
            since_seconds: options.since_seconds.map(i64::from),
            tail_lines: Some(options.tail_lines.into()),
            timestamps: options.timestamps,
            ..LogParams::default()
        };
        let call = Call::logs(namespace, pod, &params, LogOptions::MAX_BYTES)?;
        let answer = match visit.read(&call).await {
            Ok(answer) => answer,
            Err(failure) => return Err(explain(failure, &call, &container, options.previous, object)),
        };
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

fn no_container(named: Option<&ContainerName>, pod: &Call) -> Error {
    let mut error = error::about(Cause::NotFoundInCluster, pod).resource("container");
    error.context.name = named.map(ToString::to_string);
    error
}

/// The log as text. Where older bytes were dropped it begins with a whole line, so that no character is cut either.
fn text(answer: Answer) -> String {
    let Answer { body, cut } = answer;
    let line = if cut { body.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1) } else { 0 };
    String::from_utf8_lossy(&body[line..]).into_owned()
}

/// Why there is no log. The API server says all of it with 400 and a sentence.
fn explain(failure: Failure, call: &Call, container: &str, previous: bool, pod: PodObject) -> Error {
    if !failure.is(StatusCode::BAD_REQUEST) {
        return failure.into();
    }
    if previous && failure.said.contains("previous terminated container") {
        return error::about(Cause::NotFoundInCluster, call).resource("previous_log").name(container);
    }
    let mut statuses = pod.status.container_statuses.iter().chain(&pod.status.init_container_statuses);
    let status = statuses.find(|status| status.name == container);
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
