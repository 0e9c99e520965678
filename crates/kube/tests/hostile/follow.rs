//! Log streams.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use futures_util::StreamExt;
use tokio::{
    sync::mpsc::{UnboundedSender, unbounded_channel},
    time::{Instant, sleep, timeout},
};

use super::*;

/// A cluster with one pod, whose log the test writes.
struct FollowedLog {
    server: FakeServer,
    adapter: KubeClusters,
    log: UnboundedSender<BodyPart>,
    /// Whether the container is running.
    running: Arc<AtomicBool>,
}

impl FollowedLog {
    async fn new() -> Self {
        let (log, sent) = unbounded_channel();
        let (sent, running) = (Mutex::new(Some(sent)), Arc::new(AtomicBool::new(true)));
        let is_running = running.clone();
        let server = FakeServer::start(move |request, _| {
            if request.target.contains("/log?") {
                return sent.lock().unwrap().take().map_or(Reply::Disconnect, Reply::Stream);
            }
            let state = if is_running.load(Ordering::Relaxed) { "running" } else { "terminated" };
            let status = json!({"name": "app", "restartCount": 0, "state": {state: {}}});
            Reply::json(
                200,
                &json!({
                    "metadata": {"name": "web", "uid": "1"},
                    "spec": {"nodeName": "node", "containers": [{"name": "app"}]},
                    "status": {"phase": "Running", "containerStatuses": [status]},
                }),
            )
        })
        .await;
        let adapter = adapter(&server);
        Self { server, adapter, log, running }
    }

    fn write(&self, text: &str) {
        self.log.send(BodyPart::Bytes(text.into())).unwrap_or_else(|_| panic!("the reader is gone"));
    }

    async fn follow(&self) -> LogChunks {
        follow(&self.adapter, newest()).await.unwrap()
    }

    async fn wait_closed(&self) {
        timeout(Duration::from_secs(10), self.log.closed()).await.expect("the connection is closed");
    }
}

fn newest() -> FollowStart {
    FollowStart::Newest { lines: 7, since_seconds: Some(60) }
}

async fn follow(adapter: &KubeClusters, start: FollowStart) -> Result<LogChunks> {
    let follow = Follow { container: None, start, timestamps: false };
    adapter.follow(&permit(Verb::Logs, Kind::Pod, "shop"), &object("web"), &follow).await
}

async fn next(chunks: &mut LogChunks) -> Option<Result<String, Cause>> {
    let next = timeout(Duration::from_secs(20), chunks.next()).await.expect("a chunk before the deadline");
    next.map(|chunk| match chunk {
        Ok(chunk) => Ok(String::from_utf8_lossy(&chunk).into_owned()),
        Err(StreamEnd::Failed(error)) => Err(error.cause),
        Err(end) => panic!("{}", end.reason()),
    })
}

#[tokio::test]
async fn log_bytes_arrive_past_every_deadline() {
    let followed = FollowedLog::new().await;
    followed.write("one\n");
    let mut chunks = followed.follow().await;
    let target = "/api/v1/namespaces/shop/pods/web/log?&container=app&follow=true&sinceSeconds=60&tailLines=7&timestamps=true";
    assert_eq!(followed.server.requests()[1].target, target);
    assert_eq!(next(&mut chunks).await, Some(Ok("one\n".into())));
    sleep(SHORT_DEADLINES.read * 2).await;
    followed.write("two\n");
    assert_eq!(next(&mut chunks).await, Some(Ok("two\n".into())));
    followed.running.store(false, Ordering::Relaxed);
    followed.log.send(BodyPart::End).unwrap();
    assert_eq!(next(&mut chunks).await, None, "the container has ended");
}

#[tokio::test]
async fn resumed_log_starts_at_the_previous_second() {
    let followed = FollowedLog::new().await;
    followed.write("one\n");
    let after = FollowStart::After("2026-01-02T03:04:05.9Z_0_0000002a".parse().unwrap());
    drop(follow(&followed.adapter, after).await.unwrap());
    let target = &followed.server.requests()[1].target;
    assert!(
        target.contains("&sinceTime=2026-01-02T03%3A04%3A04Z") && !target.contains("tailLines"),
        "{target}"
    );
}

#[tokio::test]
async fn silent_log_is_followed_before_response_head() {
    let followed = FollowedLog::new().await;
    let started = Instant::now();
    let mut chunks = followed.follow().await;
    assert!(started.elapsed() < Duration::from_secs(10));
    let waiting = timeout(SHORT_DEADLINES.read * 2, chunks.next()).await;
    assert!(waiting.is_err(), "silence is not limited by a deadline");
    followed.write("at last\n");
    assert_eq!(next(&mut chunks).await, Some(Ok("at last\n".into())));
}

#[tokio::test]
async fn dropped_log_stream_closes_its_connection() {
    let followed = FollowedLog::new().await;
    drop(followed.follow().await);
    followed.wait_closed().await; // before the response head

    let followed = FollowedLog::new().await;
    followed.write("one\n");
    let mut chunks = followed.follow().await;
    assert_eq!(next(&mut chunks).await, Some(Ok("one\n".into())));
    drop(chunks);
    followed.wait_closed().await; // within the response body
}

#[tokio::test]
async fn broken_log_stream_ends_with_connection_lost() {
    let followed = FollowedLog::new().await;
    followed.write("on");
    let mut chunks = followed.follow().await;
    followed.log.send(BodyPart::Disconnect).unwrap();
    assert_eq!(next(&mut chunks).await, Some(Ok("on".into())));
    assert_eq!(next(&mut chunks).await, Some(Err(Cause::ConnectionLost)));
}

#[tokio::test]
async fn log_ending_before_its_container_is_connection_lost() {
    let followed = FollowedLog::new().await;
    followed.write("one\n");
    followed.log.send(BodyPart::End).unwrap();
    let mut chunks = followed.follow().await;
    assert_eq!(next(&mut chunks).await, Some(Ok("one\n".into())));
    assert_eq!(next(&mut chunks).await, Some(Err(Cause::ConnectionLost)));
}

#[tokio::test]
async fn endless_line_arrives_in_chunks() {
    let (_server, adapter) = endless().await;
    let mut chunks = follow(&adapter, newest()).await.unwrap();
    for _ in 0..200 {
        let chunk = chunks.next().await.unwrap().unwrap();
        assert!(chunk.len() <= 512 << 10, "{}", chunk.len());
    }
}

async fn endless() -> (FakeServer, KubeClusters) {
    with_log_reply(|| Reply::Endless).await
}

/// A cluster with a running pod and this reply to a request for its log.
async fn with_log_reply(log: impl Fn() -> Reply + Send + Sync + 'static) -> (FakeServer, KubeClusters) {
    let pod = json!({
        "metadata": {"name": "web", "uid": "1"},
        "spec": {"nodeName": "node", "containers": [{"name": "app"}]},
        "status": {"containerStatuses": [{"name": "app", "state": {"running": {}}}]},
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
async fn refused_log_fails_at_once_without_retry() {
    let cases: [(fn() -> Reply, Cause); 4] = [
        (|| Reply::status(403, "Forbidden", "no", json!({})), Cause::ForbiddenByCluster),
        (|| Reply::status(503, "ServiceUnavailable", "no", json!({})), Cause::FailingCluster),
        (
            || Reply::Body(301, vec![("Location", "https://127.0.0.1:1/".into())], String::new()),
            Cause::UnexpectedAnswer,
        ),
        (|| Reply::Disconnect, Cause::ConnectionLost),
    ];
    for (reply, cause) in cases {
        let (server, adapter) = with_log_reply(reply).await;
        let error = follow(&adapter, newest()).await.err().unwrap();
        assert_eq!(error.cause, cause);
        assert_eq!(server.requests().len(), 2, "{cause:?}: one request for the pod, one for its log");
    }
}
