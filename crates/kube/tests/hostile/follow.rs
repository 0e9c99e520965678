//! Followed logs.

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

/// A server with one pod, and one log that a test writes.
struct Followed {
    server: FakeServer,
    adapter: KubeClusters,
    log: UnboundedSender<Sent>,
    /// Whether the container runs.
    runs: Arc<AtomicBool>,
}

impl Followed {
    async fn new() -> Self {
        let (log, sent) = unbounded_channel();
        let (sent, runs) = (Mutex::new(Some(sent)), Arc::new(AtomicBool::new(true)));
        let running = runs.clone();
        let server = FakeServer::start(move |asked, _| {
            if asked.target.contains("/log?") {
                return sent.lock().unwrap().take().map_or(Reply::Close, Reply::Following);
            }
            let state = if running.load(Ordering::Relaxed) { "running" } else { "terminated" };
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
        Self { server, adapter, log, runs }
    }

    fn write(&self, text: &str) {
        self.log.send(Sent::Bytes(text.into())).unwrap_or_else(|_| panic!("nobody reads"));
    }

    async fn follow(&self) -> LogChunks {
        follow(&self.adapter, newest()).await.unwrap()
    }

    async fn let_go(&self) {
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
    let next = timeout(Duration::from_secs(20), chunks.next()).await.expect("something is said in time");
    next.map(|chunk| match chunk {
        Ok(chunk) => Ok(String::from_utf8_lossy(&chunk).into_owned()),
        Err(StreamEnd::Failed(error)) => Err(error.cause),
        Err(end) => panic!("{}", end.reason()),
    })
}

#[tokio::test]
async fn bytes_come_as_they_are_written_past_every_deadline() {
    let followed = Followed::new().await;
    followed.write("one\n");
    let mut chunks = followed.follow().await;
    let target = "/api/v1/namespaces/shop/pods/web/log?&container=app&follow=true&sinceSeconds=60&tailLines=7&timestamps=true";
    assert_eq!(followed.server.asked()[1].target, target);
    assert_eq!(next(&mut chunks).await, Some(Ok("one\n".into())));
    sleep(SHORT.read * 2).await;
    followed.write("two\n");
    assert_eq!(next(&mut chunks).await, Some(Ok("two\n".into())));
    followed.runs.store(false, Ordering::Relaxed);
    followed.log.send(Sent::End).unwrap();
    assert_eq!(next(&mut chunks).await, None, "the container has ended");
}

#[tokio::test]
async fn a_resumed_log_is_read_from_the_second_before() {
    let followed = Followed::new().await;
    followed.write("one\n");
    let after = FollowStart::After("2026-01-02T03:04:05.9Z_0_0000002a".parse().unwrap());
    drop(follow(&followed.adapter, after).await.unwrap());
    let asked = &followed.server.asked()[1].target;
    assert!(asked.contains("&sinceTime=2026-01-02T03%3A04%3A04Z") && !asked.contains("tailLines"), "{asked}");
}

#[tokio::test]
async fn a_silent_log_is_followed_though_its_answer_has_not_begun() {
    let followed = Followed::new().await;
    let begun = Instant::now();
    let mut chunks = followed.follow().await;
    assert!(begun.elapsed() < Duration::from_secs(10));
    let waiting = timeout(SHORT.read * 2, chunks.next()).await;
    assert!(waiting.is_err(), "it may be silent for longer than any deadline");
    followed.write("at last\n");
    assert_eq!(next(&mut chunks).await, Some(Ok("at last\n".into())));
}

#[tokio::test]
async fn whoever_stops_reading_lets_go_of_the_connection() {
    let followed = Followed::new().await;
    drop(followed.follow().await);
    followed.let_go().await; // before the head

    let followed = Followed::new().await;
    followed.write("one\n");
    let mut chunks = followed.follow().await;
    assert_eq!(next(&mut chunks).await, Some(Ok("one\n".into())));
    drop(chunks);
    followed.let_go().await; // within the body
}

#[tokio::test]
async fn a_log_that_breaks_off_says_so() {
    let followed = Followed::new().await;
    followed.write("on");
    let mut chunks = followed.follow().await;
    followed.log.send(Sent::Break).unwrap();
    assert_eq!(next(&mut chunks).await, Some(Ok("on".into())));
    assert_eq!(next(&mut chunks).await, Some(Err(Cause::ConnectionLost)));
}

#[tokio::test]
async fn a_log_that_ends_before_its_container_is_lost_not_complete() {
    let followed = Followed::new().await;
    followed.write("one\n");
    followed.log.send(Sent::End).unwrap();
    let mut chunks = followed.follow().await;
    assert_eq!(next(&mut chunks).await, Some(Ok("one\n".into())));
    assert_eq!(next(&mut chunks).await, Some(Err(Cause::ConnectionLost)));
}

#[tokio::test]
async fn a_line_without_end_comes_in_pieces() {
    let (_server, adapter) = endless().await;
    let mut chunks = follow(&adapter, newest()).await.unwrap();
    for _ in 0..200 {
        let chunk = chunks.next().await.unwrap().unwrap();
        assert!(chunk.len() <= 512 << 10, "{}", chunk.len());
    }
}

async fn endless() -> (FakeServer, KubeClusters) {
    refusing(|| Reply::Endless).await
}

/// A server with a running pod, and this answer to a request for its log.
async fn refusing(log: impl Fn() -> Reply + Send + Sync + 'static) -> (FakeServer, KubeClusters) {
    let pod = json!({
        "metadata": {"name": "web", "uid": "1"},
        "spec": {"nodeName": "node", "containers": [{"name": "app"}]},
        "status": {"containerStatuses": [{"name": "app", "state": {"running": {}}}]},
    });
    let server =
        FakeServer::start(
            move |asked, _| {
                if asked.target.contains("/log?") { log() } else { Reply::json(200, &pod) }
            },
        )
        .await;
    let adapter = adapter(&server);
    (server, adapter)
}

#[tokio::test]
async fn what_is_refused_is_refused_at_once_and_asked_once() {
    let cases: [(fn() -> Reply, Cause); 4] = [
        (|| Reply::status(403, "Forbidden", "no", json!({})), Cause::ForbiddenByCluster),
        (|| Reply::status(503, "ServiceUnavailable", "no", json!({})), Cause::FailingCluster),
        (
            || Reply::Body(301, vec![("Location", "https://127.0.0.1:1/".into())], String::new()),
            Cause::UnexpectedAnswer,
        ),
        (|| Reply::Close, Cause::ConnectionLost),
    ];
    for (reply, cause) in cases {
        let (server, adapter) = refusing(reply).await;
        let error = follow(&adapter, newest()).await.err().unwrap();
        assert_eq!(error.cause, cause);
        assert_eq!(server.asked().len(), 2, "{cause:?}: the pod, and once its log");
    }
}
