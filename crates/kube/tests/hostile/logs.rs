//! Reading logs.

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
        "spec": {"nodeName": "node", "initContainers": [{"name": "setup"}], "containers": [{"name": "first"}, {"name": "second"}]},
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
    assert_eq!(logs_under(&adapter, &permit, Some("setup")).await.unwrap().container, "setup");

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
