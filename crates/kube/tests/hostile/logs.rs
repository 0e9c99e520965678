//! Reading logs.

use std::sync::Mutex;

use futures_util::StreamExt;
use pilothouse_core::pod::{LogFile, ReadOptions};
use tokio::sync::mpsc::unbounded_channel;

use super::*;

pub(crate) async fn logs_under(
    adapter: &KubeClusters,
    permit: &Permit,
    container: Option<&str>,
) -> Result<PodLogs> {
    let options = LogOptions {
        container: container.map(|name| ContainerName::new(name).unwrap()),
        tail_lines: 100,
        previous: container == Some("second"),
        since_seconds: Some(60),
        timestamps: true,
    };
    adapter.logs(permit, &object("web"), &options).await
}

/// A cluster with one pod of three containers and this reply to a request for a log.
async fn with_log(log: impl Fn() -> Reply + Send + Sync + 'static) -> (FakeServer, KubeClusters) {
    let pod = json!({
        "metadata": {"name": "web", "annotations": {"kubectl.kubernetes.io/default-container": "second"}},
        "spec": {"nodeName": "node", "initContainers": [{"name": "setup"}], "containers": [{"name": "first"}, {"name": "second"}],
            "ephemeralContainers": [{"name": "debugger"}]},
        "status": {"phase": "Pending", "containerStatuses": [
            {"name": "first", "state": {"waiting": {"reason": "ImagePullBackOff"}}},
            {"name": "second", "state": {"running": {}}}]},
    });
    let server =
        FakeServer::start(
            move |request, _| {
                if request.target.contains("/log?") { log() } else { Reply::json(200, &pod) }
            },
        )
        .await;
    let adapter = adapter(&server);
    (server, adapter)
}

#[tokio::test]
async fn logs_come_from_requested_or_default_container() {
    let permit = permit(Verb::Logs, Kind::Pod, "shop");
    let (server, adapter) = with_log(|| Reply::Body(200, vec![], "one\ntwo\n".to_owned())).await;
    let logs = logs_under(&adapter, &permit, None).await.unwrap();
    assert_eq!(
        (logs.container.as_str(), logs.logs.as_str(), logs.truncated),
        ("second", "one\ntwo\n", false)
    );
    assert_eq!(
        (logs.containers.join(" "), logs.init_containers.join(" ")),
        ("first second".into(), "setup".into())
    );
    let expected = "/api/v1/namespaces/shop/pods/web/log?&container=second&sinceSeconds=60&tailLines=100&timestamps=true";
    assert_eq!(server.requests()[1].target, expected);
    for container in ["setup", "debugger"] {
        assert_eq!(logs_under(&adapter, &permit, Some(container)).await.unwrap().container, container);
    }

    let error = logs_under(&adapter, &permit, Some("third")).await.unwrap_err();
    assert_eq!(
        (error.cause, error.context.resource.as_deref()),
        (Cause::NotFoundInCluster, Some("container"))
    );
    assert_eq!((error.context.pod.as_deref(), error.context.name.as_deref()), (Some("web"), Some("third")));
}

#[tokio::test]
async fn missing_log_has_its_reason() {
    let permit = permit(Verb::Logs, Kind::Pod, "shop");
    let waiting = "container \"first\" in pod \"web\" is waiting to start: trying and failing to pull image";
    let (_server, adapter) = with_log(move || Reply::status(400, "BadRequest", waiting, json!({}))).await;
    let error = logs_under(&adapter, &permit, Some("first")).await.unwrap_err();
    assert_eq!(
        (error.cause, error.context.message.as_deref()),
        (Cause::ContainerNotStarted, Some("ImagePullBackOff"))
    );
    let error = logs_under(&adapter, &permit, Some("setup")).await.unwrap_err();
    assert_eq!(
        (error.cause, error.context.message.as_deref()),
        (Cause::ContainerNotStarted, Some("ImagePullBackOff"))
    );

    let previous = "previous terminated container \"second\" in pod \"web\" not found";
    let (_server, adapter) = with_log(move || Reply::status(400, "BadRequest", previous, json!({}))).await;
    let error = logs_under(&adapter, &permit, Some("second")).await.unwrap_err();
    assert_eq!(
        (error.cause, error.context.resource.as_deref()),
        (Cause::NotFoundInCluster, Some("previous_log"))
    );
    assert_eq!((error.context.pod.as_deref(), error.context.name.as_deref()), (Some("web"), Some("second")));

    let (_server, adapter) = with_log(|| Reply::status(403, "Forbidden", "no", json!({}))).await;
    let error = logs_under(&adapter, &permit, None).await.unwrap_err();
    assert_eq!(
        (error.cause, error.context.resource.as_deref()),
        (Cause::ForbiddenByCluster, Some("pods/log"))
    );
}

#[tokio::test]
async fn long_log_is_truncated_to_its_last_lines() {
    let permit = permit(Verb::Logs, Kind::Pod, "shop");
    let long: String = (0..1_000_000).map(|line| format!("line {line:07}\n")).collect();
    let body = long.clone();
    let (_server, adapter) = with_log(move || Reply::Body(200, vec![], body.clone())).await;
    let logs = logs_under(&adapter, &permit, None).await.unwrap();
    assert!(logs.truncated && long.ends_with(&logs.logs) && logs.logs.starts_with("line "));
    assert!((LogOptions::MAX_BYTES - 13..=LogOptions::MAX_BYTES).contains(&logs.logs.len()));
}

/// Reads the log of a container as a stream: its container and its bytes, or the end of an incomplete stream.
async fn read(adapter: &KubeClusters, previous: bool) -> Result<(String, Result<Vec<u8>, StreamEnd>)> {
    let options = ReadOptions { previous, timestamps: true, ..ReadOptions::default() };
    let permit = permit(Verb::Logs, Kind::Pod, "shop");
    let LogFile { container, mut chunks } = adapter.read(&permit, &object("web"), &options).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.next().await {
        match chunk {
            Ok(chunk) => bytes.extend(chunk),
            Err(end) => return Ok((container, Err(end))),
        }
    }
    Ok((container, Ok(bytes)))
}

#[tokio::test]
async fn whole_log_is_streamed_past_every_limit() {
    let text = "a line of the log\n".repeat(500_000);
    let log = text.clone();
    let (server, adapter) = with_log(move || Reply::Body(200, vec![], log.clone())).await;
    let (container, bytes) = read(&adapter, false).await.unwrap();
    assert_eq!(container, "second", "the default container");
    let bytes = bytes.unwrap();
    assert!(bytes == text.as_bytes(), "{} bytes of {}", bytes.len(), text.len());
    let expected = "/api/v1/namespaces/shop/pods/web/log?&container=second&timestamps=true";
    assert_eq!(server.requests()[1].target, expected);
}

#[tokio::test]
async fn broken_download_of_a_log_ends_with_connection_lost() {
    let (log, sent) = unbounded_channel();
    let sent = Mutex::new(Some(sent));
    let reply = move || sent.lock().unwrap().take().map_or(Reply::Disconnect, Reply::Stream);
    let (_server, adapter) = with_log(reply).await;
    log.send(BodyPart::Bytes("on".into())).unwrap_or_else(|_| panic!("the reader is gone"));
    log.send(BodyPart::Disconnect).unwrap_or_else(|_| panic!("the reader is gone"));
    let (_, end) = read(&adapter, false).await.unwrap();
    let Err(StreamEnd::Failed(error)) = end else { panic!("{end:?}") };
    assert_eq!(error.cause, Cause::ConnectionLost);
}

#[tokio::test]
async fn previous_log_that_does_not_exist_is_not_found() {
    let message = "previous terminated container \"second\" in pod \"web\" not found";
    let (server, adapter) = with_log(move || Reply::status(400, "BadRequest", message, json!({}))).await;
    let error = read(&adapter, true).await.unwrap_err();
    assert_eq!(
        (error.cause, error.context.resource.as_deref()),
        (Cause::NotFoundInCluster, Some("previous_log"))
    );
    assert!(server.requests()[1].target.contains("&previous=true"), "{}", server.requests()[1].target);
}

#[tokio::test]
async fn containers_of_a_pod_are_named_with_their_default() {
    let (_server, adapter) = with_log(|| Reply::Disconnect).await;
    let permit = permit(Verb::Logs, Kind::Pod, "shop");
    let containers = adapter.containers(&permit, &object("web")).await.unwrap();
    assert_eq!(containers.default.as_str(), "second");
    let names: Vec<_> = containers.names.iter().map(ContainerName::as_str).collect();
    assert_eq!(names, ["setup", "first", "second", "debugger"]);
}
