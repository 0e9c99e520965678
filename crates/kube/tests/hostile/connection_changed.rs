//! A cluster whose connection is replaced or removed: what goes over the old one ends, and nothing more is sent over it.

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

const PATIENCE: Duration = Duration::from_secs(20);

/// A cluster with a pod `web`, whose log and whose watches of pods are the test's.
struct Streaming {
    server: FakeServer,
    adapter: KubeClusters,
    registry: Arc<Registry>,
}

impl Streaming {
    async fn new() -> Self {
        // logs and watches go on for as long as what writes to them lives
        let streams = Mutex::<Vec<UnboundedSender<Sent>>>::default();
        let server = FakeServer::start(move |asked, _| {
            let log = asked.target.contains("/log?");
            if log || asked.target.contains("watch=true") {
                let (write, read) = unbounded_channel();
                let annotations = json!({"k8s.io/initial-events-end": "true"});
                let metadata = json!({"resourceVersion": "5", "annotations": annotations});
                let told = json!({"type": "BOOKMARK", "object": {"metadata": metadata}});
                let first = if log { "one\n".to_owned() } else { format!("{told}\n") };
                write.send(Sent::Bytes(first.into_bytes())).unwrap();
                streams.lock().unwrap().push(write);
                return Reply::Following(read);
            }
            if asked.target.contains("/pods/web") {
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
        let (adapter, registry) = common::with_cache(connection, SHORT, CacheSettings::default());
        Self { server, adapter, registry }
    }

    /// A followed log of which one line was read, and a watch.
    async fn streams(&self) -> (LogChunks, WatchSnapshot) {
        let follow = Follow {
            container: None,
            start: FollowStart::Newest { lines: 7, since_seconds: None },
            timestamps: false,
        };
        let permitted = permit(Verb::Logs, Kind::Pod, "shop");
        let mut log = self.adapter.follow(&permitted, &object("web"), &follow).await.unwrap();
        assert_eq!(log.next().await.unwrap().unwrap(), b"one\n");
        let query = ListQuery { kinds: vec![Kind::Pod], ..ListQuery::default() };
        let watched =
            self.adapter.watch(&permit_all(Verb::List, Kind::Pod), List::Pods, &query).await.unwrap();
        (log, watched)
    }

    fn replace(&self) {
        self.registry.set(by_token(&self.server.address, Some(&self.server.ca), "second"), 2);
    }

    fn remove(&self) {
        self.registry.0.lock().unwrap().clear();
    }

    /// Waits until no connection is open.
    async fn all_closed(&self) {
        let end = Instant::now() + PATIENCE;
        while self.server.open() > 0 {
            assert!(Instant::now() < end, "{} connections are open", self.server.open());
            sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn both_end(mut log: LogChunks, mut watched: WatchSnapshot) {
    let ends = async {
        let end = log.next().await.expect("an end is told").unwrap_err();
        assert_eq!(end, StreamEnd::ConnectionChanged);
        loop {
            match watched.events.next().await {
                Some(ListEvent::ConnectionChanged) => return,
                Some(_) => {}
                None => panic!("the last event says why"),
            }
        }
    };
    timeout(PATIENCE, ends).await.expect("both end");
}

#[tokio::test]
async fn streams_and_idle_connections_end_with_the_connection_that_was_replaced() {
    let cluster = Streaming::new().await;
    let streams = cluster.streams().await;
    join_all((0..4).map(|_| create(&cluster.adapter))).await;
    cluster.replace();
    cluster.adapter.connection_changed(CLUSTER).await;
    let asked = cluster.server.asked().len();
    both_end(streams.0, streams.1).await;
    cluster.all_closed().await;
    assert_eq!(cluster.server.asked().len(), asked, "nothing more was sent");
    let again = cluster.streams().await;
    for asked in &cluster.server.asked()[asked..] {
        assert_eq!(asked.headers["authorization"], "Bearer second");
    }
    drop(again);
}

#[tokio::test]
async fn streams_and_idle_connections_end_with_the_cluster_that_was_removed() {
    let cluster = Streaming::new().await;
    let streams = cluster.streams().await;
    join_all((0..4).map(|_| create(&cluster.adapter))).await;
    cluster.remove();
    cluster.adapter.connection_changed(CLUSTER).await;
    let asked = cluster.server.asked().len();
    both_end(streams.0, streams.1).await;
    cluster.all_closed().await;
    assert_eq!(list_pods(&cluster.adapter).await.unwrap_err().cause, Cause::NotFound);
    assert_eq!(cluster.server.asked().len(), asked, "nothing more was sent");
}

/// Another replica changes the cluster: this process has to find out.
#[tokio::test]
async fn what_another_replica_replaces_or_removes_ends_too() {
    for change in [Streaming::replace, Streaming::remove] {
        let cluster = Streaming::new().await;
        let streams = cluster.streams().await;
        change(&cluster);
        both_end(streams.0, streams.1).await;
        cluster.all_closed().await;
    }
}

/// A read that has not been sent when the connection is replaced is never sent over the old one.
#[tokio::test]
async fn a_request_that_waits_for_its_connection_is_not_sent() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    let (adapter, registry) = clusters(by_token(&address, None, TOKEN), Deadlines::default());
    let waiting = tokio::spawn({
        let adapter = adapter.clone();
        async move { create(&adapter).await.map(drop) }
    });
    let end = Instant::now() + PATIENCE;
    listener.set_nonblocking(true).unwrap();
    let mut peer = loop {
        match listener.accept() {
            Ok((peer, _)) => break peer,
            Err(_) => sleep(Duration::from_millis(5)).await,
        }
        assert!(Instant::now() < end, "it connects");
    };
    registry.0.lock().unwrap().clear();
    adapter.connection_changed(CLUSTER).await;
    let refused = timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap_err();
    assert_eq!((refused.cause, refused.outcome_unknown()), (Cause::Unreachable, false));
    // what was sent is the beginning of a handshake; then the connection is closed
    let sent = tokio::task::spawn_blocking(move || {
        peer.set_nonblocking(false).unwrap();
        let mut sent = Vec::new();
        std::io::Read::read_to_end(&mut peer, &mut sent).map(|_| sent)
    });
    let sent = timeout(PATIENCE, sent).await.expect("it is closed").unwrap().unwrap_or_default();
    assert!(!String::from_utf8_lossy(&sent).contains(TOKEN));
}

/// A cluster that does not answer to the first token, and lists one pod to any other.
async fn silent_at_first() -> (FakeServer, KubeClusters, Arc<Registry>) {
    let server = FakeServer::start(|asked, _| match asked.headers["authorization"].as_str() {
        "Bearer first" => Reply::Silence,
        _ => pod_list(&["web"], ""),
    })
    .await;
    let connection = by_token(&server.address, Some(&server.ca), "first");
    let (adapter, registry) = common::with_cache(connection, Deadlines::default(), CacheSettings::default());
    (server, adapter, registry)
}

/// A reader of a list that nobody has read yet, once the cluster was asked for it.
async fn waiting_reader(server: &FakeServer, adapter: &KubeClusters) -> JoinHandle<Result<Listing>> {
    let reader = adapter.clone();
    let reader = tokio::spawn(async move { list_pods(&reader).await });
    let end = Instant::now() + PATIENCE;
    while server.asked().is_empty() {
        assert!(Instant::now() < end, "the cluster is asked");
        sleep(Duration::from_millis(5)).await;
    }
    reader
}

#[tokio::test]
async fn a_reader_that_waits_for_a_list_is_told_that_the_cluster_was_removed() {
    let (server, adapter, registry) = silent_at_first().await;
    let reader = waiting_reader(&server, &adapter).await;
    registry.0.lock().unwrap().clear();
    adapter.connection_changed(CLUSTER).await;
    assert_eq!(reader.await.unwrap().unwrap_err().cause, Cause::NotFound);
}

#[tokio::test]
async fn a_reader_that_waits_for_a_list_reads_it_over_the_connection_that_replaced_the_first() {
    let (server, adapter, registry) = silent_at_first().await;
    let reader = waiting_reader(&server, &adapter).await;
    registry.set(by_token(&server.address, Some(&server.ca), "second"), 2);
    adapter.connection_changed(CLUSTER).await;
    assert_eq!(names(&reader.await.unwrap().unwrap()), ["web"]);
}
