//! Non-interference: clusters that differ only outside the namespaces of a permit give the same pages, counts and
//! events, from the cache and without it.

use futures_util::StreamExt;
use pilothouse_core::{inventory::ListEvent, rows::Change};
use pilothouse_kube::CacheSettings;

use super::*;
use crate::watch_server::{TEST_TIMEOUT, WatchServer, initial_events_end, requests_initial_events, send};

/// Query parameters of pages.
const QUERIES: [&[(&str, &str)]; 6] = [
    &[("namespace", "*")],
    &[("namespace", "team-a")],
    &[("namespace", "*"), ("sort", "-name")],
    &[("namespace", "*"), ("sort", "status"), ("per_page", "2"), ("page", "2")],
    &[("namespace", "*"), ("search", "web-1")],
    &[("namespace", "*"), ("status", "Failed")],
];

fn pod(namespace: &str, name: &str, phase: &str, version: usize) -> Value {
    let metadata = json!({"name": name, "namespace": namespace, "resourceVersion": version.to_string()});
    json!({"metadata": metadata, "status": {"phase": phase}})
}

/// Six pods in the namespaces `team-*`, and between them others: this many after each.
fn pods(others: usize) -> Vec<Value> {
    let mut pods = Vec::new();
    for n in 0..6 {
        pods.push(pod(["team-a", "team-b"][n % 2], &format!("web-{n}"), ["Running", "Failed"][n / 3], 5));
        for i in 0..others {
            pods.push(pod(["bank", "kube-system", "shop"][i % 3], &format!("web-{n}-{i}"), "Failed", 5));
        }
    }
    pods
}

fn lines(change: &str, pods: &[Value]) -> String {
    let line = |pod: &Value| format!("{}\n", json!({"type": change, "object": pod}));
    pods.iter().map(line).collect()
}

/// The pages and counts under a permit for the namespaces `team-*`.
async fn pages(adapter: &KubeClusters) -> Vec<String> {
    let permit = permit_within(Verb::List, Kind::Pod, team());
    let mut pages = Vec::new();
    for pairs in QUERIES {
        let cluster = ("cluster_id".to_owned(), CLUSTER.to_string());
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let query = List::Pods.parse_page(&pairs.chain([cluster]).collect::<Vec<_>>()).unwrap();
        let page = adapter.page(&permit, List::Pods, &query).await.unwrap();
        let rows: Vec<_> = page.rows.iter().map(Row::json).collect();
        pages.push(format!("{rows:?} {:?} {} {:?}", page.pagination, page.stale, page.warnings));
    }
    let counts = adapter.count(&permit, List::Pods).await.unwrap();
    pages.push(format!("{} {:?}", counts.total, counts.by_status));
    pages
}

/// What is read from a cluster without the cache.
async fn uncached(others: usize) -> Vec<String> {
    let list = json!({"kind": "PodList", "metadata": {}, "items": pods(others)});
    let server = FakeServer::start(move |_, _| Reply::json(200, &list)).await;
    pages(&adapter(&server)).await
}

/// What is read from a cluster through the cache, and the events of a watch in which as many other pods change.
async fn cached(others: usize) -> Vec<String> {
    let first = move |request: &RecordedRequest, _| {
        let all = || lines("ADDED", &pods(others)) + &initial_events_end(9);
        Some(if requests_initial_events(request) { all() } else { String::new() })
    };
    let cluster = WatchServer::new(first, |_| Reply::Disconnect, CacheSettings::default()).await;
    let total = pods(others).len() as u64;
    cluster.wait_for(|listing| listing.pagination.total == total, "all pods").await;
    let mut seen = pages(&cluster.adapter).await;

    let permit = permit_within(Verb::List, Kind::Pod, team());
    let query = ListQuery { kinds: vec![Kind::Pod], ..ListQuery::default() };
    let snapshot = cluster.adapter.watch(&permit, List::Pods, &query).await.unwrap();
    seen.extend(snapshot.rows.map(|row| row.json().to_owned()));
    let watch = cluster.last_watch();
    for n in 0..6 {
        let version = 1000 * n;
        for i in 0..others {
            let other = |version| [pod("shop", &format!("new-{n}-{i}"), "Running", version)];
            send(&watch, &lines("ADDED", &other(version + 2 * i + 10)));
            send(&watch, &lines("DELETED", &other(version + 2 * i + 11)));
        }
        let changed = [pod(["team-a", "team-b"][n % 2], &format!("web-{n}"), "Succeeded", version + 1000)];
        send(&watch, &lines(if n < 4 { "MODIFIED" } else { "DELETED" }, &changed));
    }
    let (mut events, before) = (snapshot.events, seen.len());
    while seen.len() < before + 6 {
        let event = tokio::time::timeout(TEST_TIMEOUT, events.next()).await.unwrap().unwrap();
        let ListEvent::Changes(changes) = event else { continue };
        seen.extend(changes.iter().map(|change| match change {
            Change::Added(row) => format!("added {}", row.json()),
            Change::Changed(old, new) => format!("changed {} {}", old.json(), new.json()),
            Change::Removed(row) => format!("removed {}", row.json()),
        }));
    }
    seen
}

#[tokio::test]
async fn objects_outside_a_set_change_no_page_count_or_event() {
    let [alone, alone_in_cache] = [uncached(0).await, cached(0).await];
    assert!(alone[0].contains("web-5"), "{}", alone[0]);
    // few enough for the buffer of a watch
    for others in [1, 15] {
        assert_eq!(uncached(others).await, alone, "{others}");
        assert_eq!(cached(others).await, alone_in_cache, "{others}");
    }
}
