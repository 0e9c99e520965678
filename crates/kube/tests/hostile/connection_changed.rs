//! A replaced or removed connection: streams over it end, and no request is sent over it.

use std::sync::{Arc, Mutex};

use futures_util::{StreamExt, future::join_all};
use pilothouse_core::inventory::{ListEvent, WatchSnapshot};
use pilothouse_kube::CacheSettings;
use tokio::{
    sync::mpsc::{UnboundedSender, unbounded_channel},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::*;

const TEST_TIMEOUT: Duration = Duration::from_secs(20);

/// A cluster with a pod `web`, whose log and pod watches the test controls.
struct Streaming {
    server: FakeServer,
    adapter: KubeClusters,
    registry: Arc<Registry>,
}

impl Streaming {
    async fn new() -> Self {
        // logs and watches stay open until their senders are dropped
        let streams = Mutex::<Vec<UnboundedSender<BodyPart>>>::default();
        let server = FakeServer::start(move |request, _| {
            let log = request.target.contains("/log?");
            if log || request.target.contains("watch=true") {
                let (write, read) = unbounded_channel();
                let annotations = json!({"k8s.io/initial-events-end": "true"});
                let metadata = json!({"resourceVersion": "5", "annotations": annotations});
                let bookmark = json!({"type": "BOOKMARK", "object": {"metadata": metadata}});
                let first = if log { "one\n".to_owned() } else { format!("{bookmark}\n") };
                write.send(BodyPart::Bytes(first.into_bytes())).unwrap();
                streams.lock().unwrap().push(write);
                return Reply::Stream(read);
            }
            if request.target.contains("/pods/web") {
                let status = json!({"name": "app", "restartCount": 0, "state": {"running": {}}});
                return Reply::json(
                    200,
                    &json!({
                        "metadata": {"name": "web", "uid": "1"},
                        "spec": {"nodeName": "node", "containers": [{"name": "app"}]},
                        "status": {"phase": "Running", "containerStatuses": [status]},
                    }),
                );
            }
            pod_list(&[], "")
        })
        .await;
        let connection = by_token(&server.address, Some(&server.ca), "first");
        let (adapter, registry) = common::with_cache(connection, SHORT_DEADLINES, CacheSettings::default());
        Self { server, adapter, registry }
    }

    /// A followed log, after its first line, and a watch.
    async fn streams(&self) -> (LogChunks, WatchSnapshot) {
        let follow = Follow {
            container: None,
            start: FollowStart::Newest { lines: 7, since_seconds: None },
            timestamps: false,
        };
        let permit_logs = permit(Verb::Logs, Kind::Pod, "shop");
        let mut log = self.adapter.follow(&permit_logs, &object("web"), &follow).await.unwrap();
        assert_eq!(log.next().await.unwrap().unwrap(), b"one\n");
        let query = ListQuery { kinds: vec![Kind::Pod], ..ListQuery::default() };
        let snapshot =
            self.adapter.watch(&permit_all(Verb::List, Kind::Pod), List::Pods, &query).await.unwrap();
        (log, snapshot)
    }

    fn replace(&self) {
        self.registry.set(by_token(&self.server.address, Some(&self.server.ca), "second"), 2);
    }

    fn remove(&self) {
        self.registry.0.lock().unwrap().clear();
    }

    /// Waits until no connection is open.
    async fn wait_all_closed(&self) {
        let end = Instant::now() + TEST_TIMEOUT;
        while self.server.open() > 0 {
            assert!(Instant::now() < end, "{} connections are open", self.server.open());
            sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn expect_both_end(mut log: LogChunks, mut snapshot: WatchSnapshot) {
    let ends = async {
        let end = log.next().await.expect("a stream end").unwrap_err();
        assert_eq!(end, StreamEnd::ConnectionChanged);
        loop {
            match snapshot.events.next().await {
                Some(ListEvent::ConnectionChanged) => return,
                Some(_) => {}
                None => panic!("the last event carries the reason"),
            }
        }
    };
    timeout(TEST_TIMEOUT, ends).await.expect("both streams end");
}

#[tokio::test]
async fn replaced_connection_ends_streams_and_idle_connections() {
    let cluster = Streaming::new().await;
    let streams = cluster.streams().await;
    join_all((0..4).map(|_| create(&cluster.adapter))).await;
    cluster.replace();
    cluster.adapter.connection_changed(CLUSTER).await;
    let requests = cluster.server.requests().len();
    expect_both_end(streams.0, streams.1).await;
    cluster.wait_all_closed().await;
    assert_eq!(cluster.server.requests().len(), requests, "nothing more was sent");
    let reopened = cluster.streams().await;
    for request in &cluster.server.requests()[requests..] {
        assert_eq!(request.headers["authorization"], "Bearer second");
    }
    drop(reopened);
}

#[tokio::test]
async fn removed_cluster_ends_streams_and_idle_connections() {
    let cluster = Streaming::new().await;
    let streams = cluster.streams().await;
    join_all((0..4).map(|_| create(&cluster.adapter))).await;
    cluster.remove();
    cluster.adapter.connection_changed(CLUSTER).await;
    let requests = cluster.server.requests().len();
    expect_both_end(streams.0, streams.1).await;
    cluster.wait_all_closed().await;
    assert_eq!(list_pods(&cluster.adapter).await.unwrap_err().cause, Cause::NotFound);
    assert_eq!(cluster.server.requests().len(), requests, "nothing more was sent");
}

/// Another replica changes the registry: the adapter is not notified, and detects the change by polling.
#[tokio::test]
async fn change_by_another_replica_ends_streams() {
    for change in [Streaming::replace, Streaming::remove] {
        let cluster = Streaming::new().await;
        let streams = cluster.streams().await;
        change(&cluster);
        expect_both_end(streams.0, streams.1).await;
        cluster.wait_all_closed().await;
    }
}

/// A request that has not been sent when the connection is replaced is never sent over the old one.
#[tokio::test]
async fn request_waiting_for_replaced_connection_is_not_sent() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    let (adapter, registry) = clusters(by_token(&address, None, TOKEN), Deadlines::default());
    let waiting = tokio::spawn({
        let adapter = adapter.clone();
        async move { create(&adapter).await.map(drop) }
    });
    let end = Instant::now() + TEST_TIMEOUT;
    listener.set_nonblocking(true).unwrap();
    let mut peer = loop {
        match listener.accept() {
            Ok((peer, _)) => break peer,
            Err(_) => sleep(Duration::from_millis(5)).await,
        }
        assert!(Instant::now() < end, "the adapter connects");
    };
    registry.0.lock().unwrap().clear();
    adapter.connection_changed(CLUSTER).await;
    let refused = timeout(TEST_TIMEOUT, waiting).await.unwrap().unwrap().unwrap_err();
    assert_eq!((refused.cause, refused.outcome_unknown()), (Cause::Unreachable, false));
    // only the beginning of a handshake was sent; then the connection is closed
    let sent = tokio::task::spawn_blocking(move || {
        peer.set_nonblocking(false).unwrap();
        let mut sent = Vec::new();
        std::io::Read::read_to_end(&mut peer, &mut sent).map(|_| sent)
    });
    let sent =
        timeout(TEST_TIMEOUT, sent).await.expect("the connection is closed").unwrap().unwrap_or_default();
    assert!(!String::from_utf8_lossy(&sent).contains(TOKEN));
}

/// A cluster that does not respond to the first token, and lists one pod for any other.
async fn silent_for_first_token() -> (FakeServer, KubeClusters, Arc<Registry>) {
    let server = FakeServer::start(|request, _| match request.headers["authorization"].as_str() {
        "Bearer first" => Reply::NoResponse,
        _ => pod_list(&["web"], ""),
    })
    .await;
    let connection = by_token(&server.address, Some(&server.ca), "first");
    let (adapter, registry) = common::with_cache(connection, Deadlines::default(), CacheSettings::default());
    (server, adapter, registry)
}

/// Starts the first read of a list and waits until the cluster has received a request.
async fn waiting_reader(server: &FakeServer, adapter: &KubeClusters) -> JoinHandle<Result<Listing>> {
    let reader = adapter.clone();
    let reader = tokio::spawn(async move { list_pods(&reader).await });
    let end = Instant::now() + TEST_TIMEOUT;
    while server.requests().is_empty() {
        assert!(Instant::now() < end, "the cluster received a request");
        sleep(Duration::from_millis(5)).await;
    }
    reader
}

#[tokio::test]
async fn waiting_reader_gets_not_found_when_cluster_is_removed() {
    let (server, adapter, registry) = silent_for_first_token().await;
    let reader = waiting_reader(&server, &adapter).await;
    registry.0.lock().unwrap().clear();
    adapter.connection_changed(CLUSTER).await;
    assert_eq!(reader.await.unwrap().unwrap_err().cause, Cause::NotFound);
}

#[tokio::test]
async fn waiting_reader_uses_the_replacing_connection() {
    let (server, adapter, registry) = silent_for_first_token().await;
    let reader = waiting_reader(&server, &adapter).await;
    registry.set(by_token(&server.address, Some(&server.ca), "second"), 2);
    adapter.connection_changed(CLUSTER).await;
    assert_eq!(names(&reader.await.unwrap().unwrap()), ["web"]);
}
