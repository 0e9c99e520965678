//! What servers may cost that send too much, too slowly, or without end: a refusal, and nothing of other clusters'.

use std::sync::{Arc, Mutex};

use pilothouse_core::{
    access::{AccessRequest, Caller, Resource},
    cluster::ClusterId,
    testing,
};
use pilothouse_kube::{CacheSettings, EgressRules, KubeSettings, Limits, ReadBudgets};
use tokio::{
    sync::mpsc::unbounded_channel,
    time::{Instant, sleep},
};

use super::*;
use crate::cache::{Watch, event, from_the_beginning, is_watch, told};

const PATIENCE: Duration = Duration::from_secs(20);
const MIB: usize = 1 << 20;

/// Budgets that a test exhausts quickly.
const SMALL: ReadBudgets =
    ReadBudgets { memory: 8 * MIB, request: Limits { memory: MIB, received: 100 * MIB, objects: 2_000 } };

/// An adapter without cached lists and with small budgets.
fn small(server: &FakeServer) -> KubeClusters {
    let egress = EgressRules { allow_loopback: true, ..EgressRules::default() };
    let settings = KubeSettings { deadlines: LONG, egress, reads: SMALL, ..KubeSettings::default() };
    clusters_with(by_token(&server.address, Some(&server.ca), TOKEN), settings).0
}

/// Longer than a machine under load needs to refuse.
const LONG: Deadlines = Deadlines {
    read: Duration::from_secs(30),
    write: Duration::from_secs(30),
    test: Duration::from_secs(30),
};

/// A chunk of this many objects, each with a label this long and a controller, that leads to `next`.
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

/// A list without end: each chunk leads to another one.
async fn endless(objects: usize, label: usize) -> FakeServer {
    FakeServer::start(move |_, before| chunk(objects, label, &format!("c{before}"))).await
}

fn cause<T>(result: Result<T>) -> Option<Cause> {
    result.err().map(|error| error.cause)
}

#[tokio::test]
async fn a_list_without_end_is_refused_and_gives_its_memory_back() {
    let server = endless(10, 20_000).await;
    let adapter = small(&server);
    // as often as one likes: what a refused read held is free again
    for _ in 0..3 {
        assert_eq!(cause(list_pods(&adapter).await), Some(Cause::TooLarge));
    }
    let asked = server.asked().len();
    assert!(asked <= 3 * 8, "{asked} chunks of 200 KB for three requests of 1 MiB");
}

#[tokio::test]
async fn objects_are_counted_even_if_nothing_is_kept_of_them() {
    // pods that nothing controls are no part of a workload
    let server = FakeServer::start(|asked, before| match asked.target.contains("/pods") {
        true => {
            let items: Vec<_> = (0..500).map(|n| json!({"metadata": {"name": format!("p{n}")}})).collect();
            let metadata = json!({"continue": format!("c{before}")});
            Reply::json(200, &json!({"kind": "PodList", "metadata": metadata, "items": items}))
        }
        false if asked.target.contains("/deployments/") => {
            let spec = json!({"selector": {"matchLabels": {"app": "web"}}});
            let metadata = json!({"name": "web", "namespace": "shop", "uid": "d1"});
            Reply::json(200, &json!({"metadata": metadata, "spec": spec}))
        }
        false => Reply::json(200, &json!({"kind": "AnyList", "metadata": {}, "items": []})),
    })
    .await;
    let get = permit(Verb::Get, Kind::Deployment, "shop");
    let detail = WorkloadApi::get(&small(&server), &get, &object("web")).await;
    assert_eq!(cause(detail), Some(Cause::TooLarge));
    assert!(server.asked().len() <= 12, "{} requests for 2,000 objects", server.asked().len());
}

#[tokio::test]
async fn what_a_detail_keeps_of_pods_is_counted() {
    let server = FakeServer::start(|asked, before| match asked.target.contains("/deployments/") {
        true => {
            let spec = json!({"selector": {"matchLabels": {"app": "web"}}});
            let metadata = json!({"name": "web", "namespace": "shop", "uid": "d1"});
            Reply::json(200, &json!({"metadata": metadata, "spec": spec}))
        }
        false if asked.target.contains("/pods") => chunk(10, 20_000, &format!("c{before}")),
        false => Reply::json(200, &json!({"kind": "AnyList", "metadata": {}, "items": []})),
    })
    .await;
    let get = permit(Verb::Get, Kind::Deployment, "shop");
    let detail = WorkloadApi::get(&small(&server), &get, &object("web")).await;
    assert_eq!(cause(detail), Some(Cause::TooLarge));
}

#[tokio::test]
async fn chunks_that_lead_nowhere_are_an_error() {
    type Answer = fn(usize) -> Reply;
    let cases: [(&str, usize, Answer); 3] = [
        ("no objects, and another place", 1, |_| chunk(0, 1, "next")),
        ("the same place again", 2, |_| chunk(1, 1, "next")),
        ("more objects than twice what was asked for", 1, |_| chunk(1_001, 1, "")),
    ];
    for (case, asked, answer) in cases {
        let server = FakeServer::start(move |_, before| answer(before)).await;
        assert_eq!(cause(list_pods(&small(&server)).await), Some(Cause::UnexpectedAnswer), "{case}");
        assert_eq!(server.asked().len(), asked, "{case}");
    }
}

#[tokio::test]
async fn of_a_chunk_that_is_too_long_no_more_than_16_mib_are_read() {
    let body = format!("{{\"kind\": \"PodList\", \"x\": \"{}\"}}", "x".repeat(17 * MIB));
    let limits = Arc::new(Mutex::new(Vec::new()));
    let seen = limits.clone();
    let server = FakeServer::start(move |asked, _| {
        let limit =
            asked.target.split("limit=").nth(1).map(|limit| limit.split('&').next().unwrap().to_owned());
        seen.lock().unwrap().extend(limit);
        Reply::Body(200, vec![], body.clone())
    })
    .await;
    let egress = EgressRules { allow_loopback: true, ..EgressRules::default() };
    let settings = KubeSettings { deadlines: LONG, egress, ..KubeSettings::default() };
    let adapter = clusters_with(by_token(&server.address, Some(&server.ca), TOKEN), settings).0;
    assert_eq!(cause(list_pods(&adapter).await), Some(Cause::UnexpectedAnswer));
    assert_eq!(*limits.lock().unwrap(), ["500", "50", "5", "1"]);
}

#[tokio::test]
async fn an_object_too_large_to_be_shown_as_a_tree_is_refused() {
    let metadata = json!({"name": "web", "namespace": "shop", "uid": "d1"});
    let body = json!({"metadata": metadata, "spec": {"x": "x".repeat(5 * MIB)}}).to_string();
    let server = FakeServer::start(move |_, _| Reply::Body(200, vec![], body.clone())).await;
    let get = permit(Verb::Get, Kind::Deployment, "shop");
    assert_eq!(cause(WorkloadApi::get(&adapter(&server), &get, &object("web")).await), Some(Cause::TooLarge));
}

/// One adapter with cached lists over several clusters.
struct Fleet {
    adapter: KubeClusters,
}

impl Fleet {
    fn new(servers: &[&FakeServer], keeping: CacheSettings) -> Self {
        let connection = |server: &FakeServer| by_token(&server.address, Some(&server.ca), TOKEN);
        let (adapter, registry) = common::with_cache(connection(servers[0]), SHORT, keeping);
        for (id, server) in (1..).zip(servers) {
            registry.set_of(ClusterId(id), connection(server), 1);
        }
        Self { adapter }
    }

    async fn page(&self, cluster: i64, list: List) -> Result<Listing> {
        let kinds = list.info().kinds;
        let access = AccessRequest::to(Verb::List, Resource::Kind(kinds[0])).in_cluster(ClusterId(cluster));
        let query = ListQuery { kinds: kinds.to_vec(), ..ListQuery::default() };
        self.adapter.page(&testing::permit(&Caller::system(), access), list, &query).await
    }

    /// The list, as soon as it is as expected.
    async fn becomes(
        &self,
        cluster: i64,
        list: List,
        expected: impl Fn(&Listing) -> bool,
        what: &str,
    ) -> Listing {
        let end = Instant::now() + PATIENCE;
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

/// A server whose lists never come, or whose watches tell what there is drop by drop; counts what was begun.
async fn slow(dripping: bool) -> FakeServer {
    FakeServer::start(move |asked, _| match (is_watch(asked), dripping) {
        (true, true) => {
            let (write, read) = unbounded_channel();
            tokio::spawn(async move {
                for n in 0.. {
                    if write
                        .send(Sent::Bytes(event("ADDED", &format!("p{n}"), 2, "Running").into_bytes()))
                        .is_err()
                    {
                        return;
                    }
                    sleep(Duration::from_millis(500)).await;
                }
            });
            Reply::Following(read)
        }
        (true, false) => Reply::status(422, "Invalid", "sendInitialEvents is forbidden", json!({})),
        (false, _) => Reply::Silence,
    })
    .await
}

/// A server whose first watch tells of one pod; after it is cut the version is gone, and the next tells of another.
async fn healthy() -> (FakeServer, Arc<Mutex<Vec<Watch>>>) {
    let watches = Arc::<Mutex<Vec<_>>>::default();
    let begun = watches.clone();
    let server = FakeServer::start(move |asked, _| {
        if !from_the_beginning(asked) {
            return Reply::status(410, "Expired", "too old resource version", json!({}));
        }
        let (write, read) = unbounded_channel();
        let mut begun = begun.lock().unwrap();
        let name = if begun.is_empty() { "old" } else { "new" };
        let text = event("ADDED", name, 2, "Running") + &told(5);
        let _ = write.send(Sent::Bytes(text.into_bytes()));
        begun.push(write);
        Reply::Following(read)
    })
    .await;
    (server, watches)
}

#[tokio::test]
async fn lists_that_are_read_slowly_hold_up_no_other_cluster() {
    for dripping in [false, true] {
        let slow = [slow(dripping).await, slow(dripping).await, slow(dripping).await];
        let (well, watches) = healthy().await;
        let fleet = Arc::new(Fleet::new(&[&well, &slow[0], &slow[1], &slow[2]], CacheSettings::default()));
        let lists = [List::Pods, List::ConfigMaps, List::Services, List::Secrets];
        let mut readers = tokio::task::JoinSet::new();
        for (cluster, list) in (2..=4).flat_map(|cluster| lists.map(|list| (cluster, list))) {
            let fleet = fleet.clone();
            readers.spawn(async move { drop(fleet.page(cluster, list).await) });
        }
        // until all of them wait for more
        let end = Instant::now() + PATIENCE;
        let begun = |server: &FakeServer| {
            server.asked().iter().filter(|asked| is_watch(asked) == dripping).count() >= lists.len()
        };
        while !slow.iter().all(begun) {
            assert!(Instant::now() < end, "slow reads have begun");
            sleep(Duration::from_millis(20)).await;
        }
        fleet.becomes(1, List::Pods, |listing| names(listing) == ["old"], "the first read").await;
        let watch = watches.lock().unwrap().last().cloned().unwrap();
        let _ = watch.send(Sent::Break);
        let new = |listing: &Listing| names(listing) == ["new"] && !listing.stale;
        fleet.becomes(1, List::Pods, new, "a read anew").await;
    }
}

/// A list that is larger than its share of the memory is not cached, and no other list makes room for it.
#[tokio::test]
async fn a_list_too_large_evicts_no_other() {
    let pods = |count: usize| {
        move |asked: &Asked, _| {
            let large = "x".repeat(200_000);
            let pod = |n: usize| {
                let metadata = json!({"name": format!("p{n}"), "namespace": "shop", "labels": {"large": large}, "resourceVersion": "2"});
                format!("{}\n", json!({"type": "ADDED", "object": {"metadata": metadata}}))
            };
            match is_watch(asked) {
                true => {
                    let (write, read) = unbounded_channel();
                    let all = (0..count).map(pod).collect::<String>() + &told(5);
                    let text = if from_the_beginning(asked) { all } else { String::new() };
                    let _ = write.send(Sent::Bytes(text.into_bytes()));
                    // it stays open
                    tokio::spawn(async move { write.closed().await });
                    Reply::Following(read)
                }
                false => pod_list(&["direct"], ""),
            }
        }
    };
    let (well, heavy) = (FakeServer::start(pods(10)).await, FakeServer::start(pods(50)).await);
    // the large list has room beside nothing but itself
    let fleet = Fleet::new(&[&well, &heavy], CacheSettings { memory: 11 * MIB, ..CacheSettings::default() });
    fleet.becomes(1, List::Pods, |listing| listing.rows.len() == 10, "the small list").await;
    let direct = |listing: &Listing| listing.warnings == [Warning::NotCached("pods")];
    fleet.becomes(2, List::Pods, direct, "the large list, read each time").await;
    let listing = fleet.page(1, List::Pods).await.unwrap();
    assert_eq!((listing.rows.len(), listing.stale), (10, false));
    assert_eq!(well.asked().iter().filter(|asked| from_the_beginning(asked)).count(), 1, "read once");
    let figures = fleet.adapter.list_cache_stats();
    assert_eq!((figures[0].clusters, figures[0].rows), (2, 10), "nothing is left of the large one");
}

/// A list that begins small and then grows without end is not cached either.
#[tokio::test]
async fn a_list_that_grows_by_events_is_given_up_when_it_is_too_large() {
    let server = FakeServer::start(move |asked, _| match is_watch(asked) {
        true if from_the_beginning(asked) => {
            let (write, read) = unbounded_channel();
            let _ = write.send(Sent::Bytes(told(5).into_bytes()));
            tokio::spawn(async move {
                let large = "x".repeat(200_000);
                for n in 6..56 {
                    let metadata = json!({"name": format!("p{n}"), "namespace": "shop", "labels": {"large": large},
                        "resourceVersion": n.to_string()});
                    let event = format!("{}\n", json!({"type": "ADDED", "object": {"metadata": metadata}}));
                    let _ = write.send(Sent::Bytes(event.into_bytes()));
                }
                write.closed().await;
            });
            Reply::Following(read)
        }
        true => Reply::status(403, "Forbidden", "cannot watch", json!({})),
        false => pod_list(&["direct"], ""),
    })
    .await;
    let fleet = Fleet::new(&[&server], CacheSettings { memory: 8 * MIB, ..CacheSettings::default() });
    let direct = |listing: &Listing| listing.warnings == [Warning::NotCached("pods")];
    fleet.becomes(1, List::Pods, direct, "read each time").await;
    let end = Instant::now() + PATIENCE;
    loop {
        // its memory is given back just after it is known not to be kept
        let figures = fleet.adapter.list_cache_stats();
        if figures[0].rows == 0 && figures[0].bytes < MIB {
            return;
        }
        assert!(Instant::now() < end, "{figures:?}");
        sleep(Duration::from_millis(20)).await;
    }
}
