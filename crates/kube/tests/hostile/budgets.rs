//! Read budgets against servers that send too much, too slowly, or without end: the request is refused, and other
//! clusters are not affected.

use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use pilothouse_core::{
    access::{AccessRequest, Caller, Resource},
    ids::ClusterId,
    testing,
};
use pilothouse_kube::{CacheSettings, EgressRules, KubeSettings, Limits, ReadBudgets};
use tokio::{
    sync::mpsc::unbounded_channel,
    time::{Instant, sleep},
};

use super::*;
use crate::watch_server::{Watch, event, initial_events_end, is_watch, requests_initial_events};

const TEST_TIMEOUT: Duration = Duration::from_secs(20);
const MIB: usize = 1 << 20;

/// Budgets that a test exhausts quickly.
const SMALL_BUDGETS: ReadBudgets =
    ReadBudgets { memory: 8 * MIB, request: Limits { memory: MIB, received: 100 * MIB, objects: 2_000 } };

/// An adapter without cached lists and with small budgets.
fn small_budget_adapter(server: &FakeServer) -> KubeClusters {
    let egress = EgressRules { allow_loopback: true, ..EgressRules::default() };
    let settings =
        KubeSettings { deadlines: LONG_DEADLINES, egress, reads: SMALL_BUDGETS, ..KubeSettings::default() };
    clusters_with(by_token(&server.address, Some(&server.ca), TOKEN), settings).0
}

/// Deadlines that exceed the time in which a loaded machine refuses a request.
const LONG_DEADLINES: Deadlines = Deadlines {
    read: Duration::from_secs(30),
    write: Duration::from_secs(30),
    test: Duration::from_secs(30),
};

/// A chunk with this many objects, each with a label of this length and a controller, and the continue token `next`.
fn chunk(objects: usize, label: usize, next: &str) -> Reply {
    let label = "x".repeat(label);
    let owners = json!([{"kind": "ReplicaSet", "name": "web-abc", "uid": "r1", "controller": true}]);
    let item = |n: usize| {
        json!({"metadata": {"name": format!("p{n}"), "namespace": "shop", "uid": format!("u{n}"),
            "labels": {"large": label}, "ownerReferences": owners}})
    };
    let items: Vec<_> = (0..objects).map(item).collect();
    Reply::json(200, &json!({"kind": "AnyList", "metadata": {"continue": next}, "items": items}))
}

/// An endless list: each chunk has a continue token.
async fn endless_list(objects: usize, label: usize) -> FakeServer {
    FakeServer::start(move |_, before| chunk(objects, label, &format!("c{before}"))).await
}

fn cause<T>(result: Result<T>) -> Option<Cause> {
    result.err().map(|error| error.cause)
}

/// Reads the pods of a namespace.
async fn pods_of(adapter: &KubeClusters, namespace: &str) -> Result<Listing> {
    let namespaces = NamespaceScope::One(common::namespace(namespace));
    let query = ListQuery { cluster: Some(CLUSTER), namespaces, ..ListQuery::default() };
    adapter.page(&permit(Verb::List, Kind::Pod, namespace), List::Pods, &query).await
}

#[tokio::test]
async fn endless_list_is_refused_and_releases_memory() {
    let server = endless_list(10, 20_000).await;
    let adapter = small_budget_adapter(&server);
    // a refused read must release its memory. In other namespaces, because the same request is not read again
    for namespace in ["one", "two", "three"] {
        assert_eq!(cause(pods_of(&adapter, namespace).await), Some(Cause::TooLarge));
    }
    let requests = server.requests().len();
    assert!(requests <= 3 * 8, "{requests} chunks of 200 KB for three requests of 1 MiB");
}

/// An adapter without cached lists, whose requests may hold 16 MiB each.
fn adapter_of_16_mib(server: &FakeServer) -> KubeClusters {
    let default = ReadBudgets::default();
    let reads = ReadBudgets { request: Limits { memory: 16 * MIB, ..default.request }, ..default };
    let egress = EgressRules { allow_loopback: true, ..EgressRules::default() };
    let settings = KubeSettings { deadlines: LONG_DEADLINES, egress, reads, ..KubeSettings::default() };
    clusters_with(by_token(&server.address, Some(&server.ca), TOKEN), settings).0
}

#[tokio::test]
async fn concurrent_reads_of_endless_list_end_with_the_first_and_are_not_repeated() {
    let server = endless_list(10, 100_000).await;
    let adapter = adapter_of_16_mib(&server);
    let reads = join_all((0..6).map(|_| list_pods(&adapter))).await;
    for read in reads {
        assert_eq!(cause(read), Some(Cause::TooLarge));
    }
    let requests = server.requests().len();
    // chunks of 1 MB: up to five until a read is large, and 17 until one is too large
    assert!(requests <= 5 * 5 + 17, "{requests} chunks for six requests");
    assert_eq!(cause(list_pods(&adapter).await), Some(Cause::TooLarge));
    assert_eq!(server.requests().len(), requests, "the same request is refused without reading");
    assert_eq!(cause(pods_of(&adapter, "other").await), Some(Cause::TooLarge));
    assert!(server.requests().len() > requests, "another request is read");
}

#[tokio::test]
async fn details_that_are_too_large_are_not_read_again() {
    let server = FakeServer::start(|request, before| match request.target.contains("/deployments/") {
        true => {
            let spec = json!({"selector": {"matchLabels": {"app": "web"}}});
            let metadata = json!({"name": "web", "namespace": "shop", "uid": "d1"});
            Reply::json(200, &json!({"metadata": metadata, "spec": spec}))
        }
        false if request.target.contains("/pods") => chunk(10, 20_000, &format!("c{before}")),
        false => Reply::json(200, &json!({"kind": "AnyList", "metadata": {}, "items": []})),
    })
    .await;
    let (adapter, get) = (small_budget_adapter(&server), permit(Verb::Get, Kind::Deployment, "shop"));
    let details = async || cause(WorkloadApi::get(&adapter, &get, &object("web")).await);
    assert_eq!(details().await, Some(Cause::TooLarge));
    let requests = server.requests().len();
    assert_eq!(details().await, Some(Cause::TooLarge));
    assert_eq!(server.requests().len(), requests);
}

/// Lists above 4 MiB: one is read at a time, and the others wait for it.
#[tokio::test]
async fn concurrent_large_reads_of_a_cluster_all_succeed() {
    let server = FakeServer::start(|request, _| {
        let last = request.target.contains("continue=second");
        chunk(10, 300_000, if last { "" } else { "second" })
    })
    .await;
    let adapter = adapter_of_16_mib(&server);
    for read in join_all((0..4).map(|_| list_pods(&adapter))).await {
        assert_eq!(read.map(|listing| listing.pagination.total), Ok(20));
    }
}

#[tokio::test]
async fn discarded_objects_count_against_the_limit() {
    // pods without a controller are not part of a workload
    let server = FakeServer::start(|request, before| match request.target.contains("/pods") {
        true => {
            let items: Vec<_> = (0..500).map(|n| json!({"metadata": {"name": format!("p{n}")}})).collect();
            let metadata = json!({"continue": format!("c{before}")});
            Reply::json(200, &json!({"kind": "PodList", "metadata": metadata, "items": items}))
        }
        false if request.target.contains("/deployments/") => {
            let spec = json!({"selector": {"matchLabels": {"app": "web"}}});
            let metadata = json!({"name": "web", "namespace": "shop", "uid": "d1"});
            Reply::json(200, &json!({"metadata": metadata, "spec": spec}))
        }
        false => Reply::json(200, &json!({"kind": "AnyList", "metadata": {}, "items": []})),
    })
    .await;
    let get = permit(Verb::Get, Kind::Deployment, "shop");
    let detail = WorkloadApi::get(&small_budget_adapter(&server), &get, &object("web")).await;
    assert_eq!(cause(detail), Some(Cause::TooLarge));
    assert!(server.requests().len() <= 12, "{} requests for 2,000 objects", server.requests().len());
}

#[tokio::test]
async fn pods_of_workload_detail_count_against_memory_limit() {
    let server = FakeServer::start(|request, before| match request.target.contains("/deployments/") {
        true => {
            let spec = json!({"selector": {"matchLabels": {"app": "web"}}});
            let metadata = json!({"name": "web", "namespace": "shop", "uid": "d1"});
            Reply::json(200, &json!({"metadata": metadata, "spec": spec}))
        }
        false if request.target.contains("/pods") => chunk(10, 20_000, &format!("c{before}")),
        false => Reply::json(200, &json!({"kind": "AnyList", "metadata": {}, "items": []})),
    })
    .await;
    let get = permit(Verb::Get, Kind::Deployment, "shop");
    let detail = WorkloadApi::get(&small_budget_adapter(&server), &get, &object("web")).await;
    assert_eq!(cause(detail), Some(Cause::TooLarge));
}

#[tokio::test]
async fn chunks_that_do_not_advance_are_an_error() {
    type ReplyFn = fn(usize) -> Reply;
    let cases: [(&str, usize, ReplyFn); 3] = [
        ("no objects, but a continue token", 1, |_| chunk(0, 1, "next")),
        ("the same continue token again", 2, |_| chunk(1, 1, "next")),
        ("more than twice the requested objects", 1, |_| chunk(1_001, 1, "")),
    ];
    for (case, requests, reply) in cases {
        let server = FakeServer::start(move |_, before| reply(before)).await;
        assert_eq!(
            cause(list_pods(&small_budget_adapter(&server)).await),
            Some(Cause::UnexpectedAnswer),
            "{case}"
        );
        assert_eq!(server.requests().len(), requests, "{case}");
    }
}

#[tokio::test]
async fn chunk_above_16_mib_is_requested_with_smaller_limits() {
    let body = format!("{{\"kind\": \"PodList\", \"x\": \"{}\"}}", "x".repeat(17 * MIB));
    let limits = Arc::new(Mutex::new(Vec::new()));
    let recorded = limits.clone();
    let server = FakeServer::start(move |request, _| {
        let limit =
            request.target.split("limit=").nth(1).map(|limit| limit.split('&').next().unwrap().to_owned());
        recorded.lock().unwrap().extend(limit);
        Reply::Body(200, vec![], body.clone())
    })
    .await;
    let egress = EgressRules { allow_loopback: true, ..EgressRules::default() };
    let settings = KubeSettings { deadlines: LONG_DEADLINES, egress, ..KubeSettings::default() };
    let adapter = clusters_with(by_token(&server.address, Some(&server.ca), TOKEN), settings).0;
    assert_eq!(cause(list_pods(&adapter).await), Some(Cause::UnexpectedAnswer));
    assert_eq!(*limits.lock().unwrap(), ["500", "50", "5", "1"]);
}

#[tokio::test]
async fn object_too_large_for_detail_is_refused() {
    let metadata = json!({"name": "web", "namespace": "shop", "uid": "d1"});
    let body = json!({"metadata": metadata, "spec": {"x": "x".repeat(5 * MIB)}}).to_string();
    let server = FakeServer::start(move |_, _| Reply::Body(200, vec![], body.clone())).await;
    let get = permit(Verb::Get, Kind::Deployment, "shop");
    assert_eq!(cause(WorkloadApi::get(&adapter(&server), &get, &object("web")).await), Some(Cause::TooLarge));
}

/// An adapter with a list cache over several clusters.
struct Fleet {
    adapter: KubeClusters,
}

impl Fleet {
    fn new(servers: &[&FakeServer], settings: CacheSettings) -> Self {
        let connection = |server: &FakeServer| by_token(&server.address, Some(&server.ca), TOKEN);
        let (adapter, registry) = common::with_cache(connection(servers[0]), SHORT_DEADLINES, settings);
        for (id, server) in (1..).zip(servers) {
            registry.set_of(ClusterId(id), connection(server), 1);
        }
        Self { adapter }
    }

    async fn page(&self, cluster: i64, list: List) -> Result<Listing> {
        let kinds = list.info().kinds;
        let access = AccessRequest::to(Verb::List, Resource::Kind(kinds[0]))
            .in_cluster(ClusterId(cluster))
            .within(NamespaceScope::All);
        let query = ListQuery { kinds: kinds.to_vec(), ..ListQuery::default() };
        self.adapter.page(&testing::permit(&Caller::system(), access), list, &query).await
    }

    /// Reads the list until `expected` returns true; panics with `what` after [`TEST_TIMEOUT`].
    async fn wait_for(
        &self,
        cluster: i64,
        list: List,
        expected: impl Fn(&Listing) -> bool,
        what: &str,
    ) -> Listing {
        let end = Instant::now() + TEST_TIMEOUT;
        loop {
            let listing = self.page(cluster, list).await;
            match &listing {
                Ok(listing) if expected(listing) => {}
                _ => {
                    assert!(Instant::now() < end, "{what}, but {listing:?}");
                    sleep(Duration::from_millis(20)).await;
                    continue;
                }
            }
            return listing.unwrap();
        }
    }
}

/// A server whose lists never arrive, or whose watches send initial events every 500 ms without end.
async fn slow_server(trickling: bool) -> FakeServer {
    FakeServer::start(move |request, _| match (is_watch(request), trickling) {
        (true, true) => {
            let (write, read) = unbounded_channel();
            tokio::spawn(async move {
                for n in 0.. {
                    if write
                        .send(BodyPart::Bytes(event("ADDED", &format!("p{n}"), 2, "Running").into_bytes()))
                        .is_err()
                    {
                        return;
                    }
                    sleep(Duration::from_millis(500)).await;
                }
            });
            Reply::Stream(read)
        }
        (true, false) => Reply::status(422, "Invalid", "sendInitialEvents is forbidden", json!({})),
        (false, _) => Reply::NoResponse,
    })
    .await
}

/// A server whose first watch has the pod `old`; after a disconnect its version has expired, and the next watch has the
/// pod `new`.
async fn healthy_server() -> (FakeServer, Arc<Mutex<Vec<Watch>>>) {
    let watches = Arc::<Mutex<Vec<_>>>::default();
    let open_watches = watches.clone();
    let server = FakeServer::start(move |request, _| {
        if !requests_initial_events(request) {
            return Reply::status(410, "Expired", "too old resource version", json!({}));
        }
        let (write, read) = unbounded_channel();
        let mut open_watches = open_watches.lock().unwrap();
        let name = if open_watches.is_empty() { "old" } else { "new" };
        let text = event("ADDED", name, 2, "Running") + &initial_events_end(5);
        let _ = write.send(BodyPart::Bytes(text.into_bytes()));
        open_watches.push(write);
        Reply::Stream(read)
    })
    .await;
    (server, watches)
}

#[tokio::test]
async fn slow_lists_do_not_delay_other_clusters() {
    for trickling in [false, true] {
        let slow = [slow_server(trickling).await, slow_server(trickling).await, slow_server(trickling).await];
        let (healthy_server, watches) = healthy_server().await;
        let fleet =
            Arc::new(Fleet::new(&[&healthy_server, &slow[0], &slow[1], &slow[2]], CacheSettings::default()));
        let lists = [List::Pods, List::ConfigMaps, List::Services, List::Secrets];
        let mut readers = tokio::task::JoinSet::new();
        for (cluster, list) in (2..=4).flat_map(|cluster| lists.map(|list| (cluster, list))) {
            let fleet = fleet.clone();
            readers.spawn(async move { drop(fleet.page(cluster, list).await) });
        }
        // waits until all slow reads are running
        let end = Instant::now() + TEST_TIMEOUT;
        let is_running = |server: &FakeServer| {
            server.requests().iter().filter(|request| is_watch(request) == trickling).count() >= lists.len()
        };
        while !slow.iter().all(is_running) {
            assert!(Instant::now() < end, "slow reads are running");
            sleep(Duration::from_millis(20)).await;
        }
        fleet.wait_for(1, List::Pods, |listing| names(listing) == ["old"], "the first read").await;
        let watch = watches.lock().unwrap().last().cloned().unwrap();
        let _ = watch.send(BodyPart::Disconnect);
        let new = |listing: &Listing| names(listing) == ["new"] && !listing.stale;
        fleet.wait_for(1, List::Pods, new, "the second read").await;
    }
}

/// A list that exceeds the maximum size of one list is not cached, and evicts no other list.
#[tokio::test]
async fn list_too_large_for_the_cache_evicts_no_other_list() {
    let pods = |count: usize| {
        move |request: &RecordedRequest, _| {
            let large = "x".repeat(200_000);
            let pod = |n: usize| {
                let metadata = json!({"name": format!("p{n}"), "namespace": "shop", "labels": {"large": large}, "resourceVersion": "2"});
                format!("{}\n", json!({"type": "ADDED", "object": {"metadata": metadata}}))
            };
            match is_watch(request) {
                true => {
                    let (write, read) = unbounded_channel();
                    let all = (0..count).map(pod).collect::<String>() + &initial_events_end(5);
                    let text = if requests_initial_events(request) { all } else { String::new() };
                    let _ = write.send(BodyPart::Bytes(text.into_bytes()));
                    // keeps the watch open
                    tokio::spawn(async move { write.closed().await });
                    Reply::Stream(read)
                }
                false => pod_list(&["direct"], ""),
            }
        }
    };
    let (healthy_server, heavy) = (FakeServer::start(pods(10)).await, FakeServer::start(pods(50)).await);
    // the large list would fit only if no other list were cached
    let fleet = Fleet::new(
        &[&healthy_server, &heavy],
        CacheSettings { memory: 11 * MIB, ..CacheSettings::default() },
    );
    fleet.wait_for(1, List::Pods, |listing| listing.rows.len() == 10, "the small list").await;
    let direct = |listing: &Listing| listing.warnings == [Warning::NotCached("pods")];
    fleet.wait_for(2, List::Pods, direct, "the large list is not cached").await;
    let listing = fleet.page(1, List::Pods).await.unwrap();
    assert_eq!((listing.rows.len(), listing.stale), (10, false));
    assert_eq!(
        healthy_server.requests().iter().filter(|request| requests_initial_events(request)).count(),
        1,
        "read once"
    );
    let stats = fleet.adapter.list_cache_stats();
    assert_eq!((stats[0].clusters, stats[0].rows), (2, 10), "no rows of the large list remain");
}

/// A list that starts small and then grows without end is not cached either.
#[tokio::test]
async fn list_that_grows_too_large_is_removed_from_cache() {
    let server = FakeServer::start(move |request, _| match is_watch(request) {
        true if requests_initial_events(request) => {
            let (write, read) = unbounded_channel();
            let _ = write.send(BodyPart::Bytes(initial_events_end(5).into_bytes()));
            tokio::spawn(async move {
                let large = "x".repeat(200_000);
                for n in 6..56 {
                    let metadata = json!({"name": format!("p{n}"), "namespace": "shop", "labels": {"large": large},
                        "resourceVersion": n.to_string()});
                    let event = format!("{}\n", json!({"type": "ADDED", "object": {"metadata": metadata}}));
                    let _ = write.send(BodyPart::Bytes(event.into_bytes()));
                }
                write.closed().await;
            });
            Reply::Stream(read)
        }
        true => Reply::status(403, "Forbidden", "cannot watch", json!({})),
        false => pod_list(&["direct"], ""),
    })
    .await;
    let fleet = Fleet::new(&[&server], CacheSettings { memory: 8 * MIB, ..CacheSettings::default() });
    let direct = |listing: &Listing| listing.warnings == [Warning::NotCached("pods")];
    fleet.wait_for(1, List::Pods, direct, "the list is not cached").await;
    let end = Instant::now() + TEST_TIMEOUT;
    loop {
        // the memory of a list is released shortly after the list is marked as uncacheable
        let stats = fleet.adapter.list_cache_stats();
        if stats[0].rows == 0 && stats[0].bytes < MIB {
            return;
        }
        assert!(Instant::now() < end, "{stats:?}");
        sleep(Duration::from_millis(20)).await;
    }
}
