//! List cache against well-behaved and misbehaving watch servers.

use futures_util::StreamExt;
use pilothouse_core::{inventory::ListEvent, rows::Change};
use pilothouse_kube::CacheSettings;
use tokio::time::{Instant, sleep};

use super::*;
use crate::watch_server::{
    TEST_TIMEOUT, WatchServer, error, event, initial_events_end, is_watch, list, requests_initial_events,
    send,
};

#[tokio::test]
async fn list_is_read_once_and_then_follows_watch_events() {
    let cluster = WatchServer::with_two_pods().await;
    let listing = cluster.wait_for_rows(&["a Running", "b Running"]).await;
    assert!(!listing.stale && listing.warnings.is_empty());
    let watch = cluster.last_watch();
    send(&watch, &(event("MODIFIED", "a", 6, "Failed") + &event("DELETED", "b", 7, "Running")));
    // one line in two chunks
    let added = event("ADDED", "c", 8, "Pending");
    send(&watch, &added[..20]);
    send(&watch, &added[20..]);
    cluster.wait_for_rows(&["a Failed", "c Pending"]).await;
    assert_eq!((cluster.other_requests(), cluster.watch_targets().len()), (0, 1), "one watch and no list");
    let stats = cluster.adapter.list_cache_stats();
    assert_eq!((stats[0].list, stats[0].clusters, stats[0].rows, stats[0].fills), ("pods", 1, 2, 1));
}

#[tokio::test]
async fn events_between_initial_events_are_not_lost() {
    let first = |request: &RecordedRequest, _| {
        requests_initial_events(request).then(|| {
            [
                event("ADDED", "a", 2, "Running"),
                event("ADDED", "b", 3, "Running"),
                event("MODIFIED", "a", 6, "Failed"),
                event("DELETED", "b", 7, "Running"),
                event("ADDED", "c", 8, "Pending"),
                initial_events_end(8),
            ]
            .concat()
        })
    };
    let cluster = WatchServer::new(first, |_| Reply::Disconnect, CacheSettings::default()).await;
    cluster.wait_for_rows(&["a Failed", "c Pending"]).await;
}

#[tokio::test]
async fn server_without_send_initial_events_is_listed() {
    let unknown = || Reply::status(422, "Invalid", "sendInitialEvents is forbidden", json!({}));
    type First = fn(&RecordedRequest) -> Option<String>;
    let cases: [(&str, First); 4] = [
        ("refuses the parameter", |_| None),
        ("ignores the parameter", |_| Some(event("ADDED", "synthetic", 2, "Running"))),
        ("replies with a list", |_| Some(json!({"kind": "PodList", "items": []}).to_string() + "\n")),
        ("ends at once", |_| None),
    ];
    for (case, first) in cases {
        let first = move |request: &RecordedRequest, _| match requests_initial_events(request) {
            true => first(request),
            false => {
                assert!(request.target.contains("resourceVersion=5"), "{}", request.target);
                Some(event("ADDED", "b", 6, "Running"))
            }
        };
        let other = move |request: &RecordedRequest| match is_watch(request) {
            true if case == "ends at once" => Reply::Body(200, vec![], String::new()),
            true => unknown(),
            false => list(&["a"], 5),
        };
        let cluster = WatchServer::new(first, other, CacheSettings::default()).await;
        cluster.wait_for(|listing| names(listing) == ["a", "b"], case).await;
        assert_eq!(cluster.other_requests(), 1, "{case}");
    }
}

#[tokio::test]
async fn without_watch_permission_lists_are_uncached_with_warning() {
    let forbidden = || Reply::status(403, "Forbidden", "cannot watch", json!({}));
    let other =
        move |request: &RecordedRequest| if is_watch(request) { forbidden() } else { list(&["direct"], 5) };
    let cluster = WatchServer::new(|_, _| None, other, CacheSettings::default()).await;
    for lists in 1..=2 {
        let listing = cluster.page().await.unwrap();
        assert_eq!(names(&listing), ["direct"]);
        assert_eq!(listing.warnings, [Warning::NotCached("pods")]);
        assert_eq!(cluster.other_requests(), lists);
    }
    let query = ListQuery { kinds: vec![Kind::Pod], ..ListQuery::default() };
    let refused = cluster.adapter.watch(&permit_all(Verb::List, Kind::Pod), List::Pods, &query).await;
    assert_eq!(refused.err().map(|error| error.cause), Some(Cause::ForbiddenByCluster));
}

#[tokio::test]
async fn list_too_large_for_the_cache_is_read_each_time() {
    let settings = CacheSettings { memory: 6 << 20, ..CacheSettings::default() };
    let first = |request: &RecordedRequest, _| {
        let large = "x".repeat(200_000);
        let pod = |n: usize| {
            let metadata = json!({"name": format!("p{n}"), "namespace": "shop", "labels": {"large": large}, "resourceVersion": "2"});
            format!("{}\n", json!({"type": "ADDED", "object": {"metadata": metadata}}))
        };
        requests_initial_events(request)
            .then(|| (0..60).map(pod).collect::<String>() + &initial_events_end(5))
    };
    let cluster = WatchServer::new(first, |_| list(&["direct"], 5), settings).await;
    let listing = cluster.page().await.unwrap();
    assert_eq!(names(&listing), ["direct"]);
    assert_eq!(listing.warnings, [Warning::NotCached("pods")]);
}

#[tokio::test]
async fn expired_resource_version_causes_relist() {
    // by HTTP status and by `ERROR` event; the second list has other contents
    for by_status in [true, false] {
        let first = move |request: &RecordedRequest, before: usize| match (
            requests_initial_events(request),
            before,
        ) {
            (true, 0) => Some(event("ADDED", "old", 2, "Running") + &initial_events_end(5)),
            (true, _) => Some(event("ADDED", "new", 90, "Running") + &initial_events_end(90)),
            (false, _) if by_status => None,
            (false, _) => Some(error(410)),
        };
        let expired =
            |_: &RecordedRequest| Reply::status(410, "Expired", "too old resource version", json!({}));
        let cluster = WatchServer::new(first, expired, CacheSettings::default()).await;
        cluster.wait_for_rows(&["old Running"]).await;
        let _ = cluster.last_watch().send(BodyPart::Disconnect);
        cluster.wait_for_rows(&["new Running"]).await;
        assert!(cluster.watch_targets().iter().any(|target| target.contains("resourceVersion=5")));
    }
}

#[tokio::test]
async fn broken_or_ended_watch_resumes_from_last_version() {
    let first = |request: &RecordedRequest, _| {
        Some(match requests_initial_events(request) {
            true => event("ADDED", "a", 2, "Running") + &initial_events_end(5),
            false => String::new(),
        })
    };
    let cluster = WatchServer::new(first, |_| list(&["a"], 7), CacheSettings::default()).await;
    cluster.wait_for_rows(&["a Running"]).await;
    for (sent, version) in [(BodyPart::Disconnect, 6), (BodyPart::End, 7)] {
        let before = cluster.watch_targets().len();
        let watch = cluster.last_watch();
        send(&watch, &event("MODIFIED", "a", version, "Failed"));
        cluster.wait_for_rows(&["a Failed"]).await;
        let _ = watch.send(sent);
        let end = Instant::now() + TEST_TIMEOUT;
        while cluster.watch_targets().len() == before {
            assert!(Instant::now() < end, "the watch is resumed");
            sleep(Duration::from_millis(20)).await;
        }
        let target = cluster.watch_targets().pop().unwrap();
        assert!(target.contains(&format!("resourceVersion={version}")), "{target}");
        assert!(!target.contains("sendInitialEvents=true"));
    }
}

#[tokio::test]
async fn versions_that_go_backwards_cause_relist() {
    let first = |request: &RecordedRequest, before: usize| match (requests_initial_events(request), before) {
        (true, 0) => Some(event("ADDED", "a", 50, "Running") + &initial_events_end(90)),
        (true, _) => Some(event("ADDED", "restored", 50, "Running") + &initial_events_end(60)),
        // the restored server has not reached the last version: like an API server, it sends nothing and then ends the
        // watch
        (false, _) => Some(String::new()),
    };
    let cluster = WatchServer::new(first, |_| list(&["restored"], 60), CacheSettings::default()).await;
    cluster.wait_for_rows(&["a Running"]).await;
    let _ = cluster.last_watch().send(BodyPart::Disconnect);
    let resumed = Instant::now() + TEST_TIMEOUT;
    while cluster.watch_targets().len() < 2 {
        assert!(Instant::now() < resumed);
        sleep(Duration::from_millis(20)).await;
    }
    let _ = cluster.last_watch().send(BodyPart::End);
    cluster.wait_for_rows(&["restored Running"]).await;
}

#[tokio::test]
async fn list_of_unreachable_cluster_is_readable_and_stale() {
    let WatchServer { server, adapter, watches } = WatchServer::with_two_pods().await;
    let query = ListQuery { kinds: vec![Kind::Pod], ..ListQuery::default() };
    let permit = permit_all(Verb::List, Kind::Pod);
    let page = async || adapter.page(&permit, List::Pods, &query).await.unwrap();
    let fresh = page().await;
    assert!(!fresh.stale);
    let mut events = adapter.watch(&permit, List::Pods, &query).await.unwrap().events;
    drop(server);
    let _ = watches.lock().unwrap().last().unwrap().send(BodyPart::Disconnect);
    let event = tokio::time::timeout(TEST_TIMEOUT, events.next()).await.unwrap();
    assert!(matches!(event, Some(ListEvent::Freshness { stale: true, .. })), "{event:?}");
    let stale = page().await;
    assert_eq!((names(&stale), stale.stale), (vec!["a", "b"], true));
    assert!(stale.as_of >= fresh.as_of);
    assert_eq!(adapter.list_cache_stats()[0].stale, 1);
}

#[tokio::test]
async fn watcher_receives_every_change_after_the_rows() {
    let cluster = WatchServer::with_two_pods().await;
    cluster.wait_for_rows(&["a Running", "b Running"]).await;
    let query = ListQuery { kinds: vec![Kind::Pod], per_page: 1, ..ListQuery::default() };
    let snapshot =
        cluster.adapter.watch(&permit_all(Verb::List, Kind::Pod), List::Pods, &query).await.unwrap();
    assert_eq!(
        snapshot.rows.map(|row| row.name().to_owned()).collect::<Vec<_>>(),
        ["a", "b"],
        "all rows, not a page"
    );
    let watch = cluster.last_watch();
    send(&watch, &(event("MODIFIED", "a", 6, "Failed") + &event("MODIFIED", "a", 7, "Failed")));
    send(&watch, &(event("ADDED", "c", 8, "Pending") + &event("DELETED", "b", 9, "Running")));
    let (mut events, mut received) = (snapshot.events, Vec::new());
    while received.len() < 3 {
        let event = tokio::time::timeout(TEST_TIMEOUT, events.next()).await.unwrap().unwrap();
        let ListEvent::Changes(changes) = event else { panic!("{event:?}") };
        received.extend(changes.iter().map(|change| match change {
            Change::Added(row) => format!("+{}", row.name()),
            Change::Changed(_, row) => format!("~{}", row.name()),
            Change::Removed(row) => format!("-{}", row.name()),
        }));
    }
    assert_eq!(received, ["~a", "+c", "-b"], "an event that changes no row is not sent");
}

#[tokio::test]
async fn changes_come_without_rows_and_also_under_a_permit_to_read_logs() {
    let cluster = WatchServer::with_two_pods().await;
    cluster.wait_for_rows(&["a Running", "b Running"]).await;
    let query = ListQuery { kinds: vec![Kind::Pod], ..ListQuery::default() };
    let permits = [permit_all(Verb::List, Kind::Pod), permit(Verb::Logs, Kind::Pod, "shop")];
    let mut streams = Vec::new();
    for permit in &permits {
        streams.push(cluster.adapter.changes(permit, List::Pods, &query).await.unwrap());
    }
    let elsewhere = permit(Verb::Logs, Kind::Pod, "elsewhere");
    let mut none = cluster.adapter.changes(&elsewhere, List::Pods, &query).await.unwrap();
    let watch = cluster.last_watch();
    send(&watch, &event("MODIFIED", "a", 6, "Failed"));
    for events in &mut streams {
        let event = tokio::time::timeout(TEST_TIMEOUT, events.next()).await.unwrap().unwrap();
        let ListEvent::Changes(changes) = event else { panic!("{event:?}") };
        assert_eq!(changes.iter().map(|change| change.row().name()).collect::<Vec<_>>(), ["a"]);
    }
    drop(cluster);
    let last = tokio::time::timeout(TEST_TIMEOUT, none.next()).await.unwrap();
    assert!(!matches!(last, Some(ListEvent::Changes(_))), "a change in another namespace: {last:?}");
}

#[tokio::test]
async fn next_list_contains_own_write() {
    // a create of a ConfigMap returns version 9; its watch event arrives 300 ms later, or never
    for event_arrives in [true, false] {
        let first =
            |request: &RecordedRequest, _| requests_initial_events(request).then(|| initial_events_end(5));
        let other = |request: &RecordedRequest| {
            let metadata = json!({"name": "settings", "namespace": "shop", "resourceVersion": "9"});
            match request.method.as_str() {
                "POST" => Reply::json(201, &json!({"kind": "ConfigMap", "metadata": metadata})),
                _ => Reply::json(
                    200,
                    &json!({"kind": "ConfigMapList", "metadata": {}, "items": [{"metadata": metadata}]}),
                ),
            }
        };
        let cluster = WatchServer::new(first, other, CacheSettings::default()).await;
        let query = ListQuery { kinds: vec![Kind::ConfigMap], ..ListQuery::default() };
        let permit = permit_all(Verb::List, Kind::ConfigMap);
        let page = async || cluster.adapter.page(&permit, List::ConfigMaps, &query).await.unwrap();
        assert!(page().await.rows.is_empty());
        create(&cluster.adapter).await.unwrap();
        let watch = cluster.last_watch();
        if event_arrives {
            let later = tokio::spawn(async move {
                sleep(Duration::from_millis(300)).await;
                send(&watch, &event("ADDED", "settings", 9, ""));
            });
            assert_eq!(names(&page().await), ["settings"]);
            later.await.unwrap();
            assert_eq!(cluster.other_requests(), 1, "only the POST");
        } else {
            assert_eq!(names(&page().await), ["settings"], "read from the cluster");
        }
    }
}

#[tokio::test]
async fn next_list_lacks_own_deletion() {
    let first = |request: &RecordedRequest, _| {
        requests_initial_events(request).then(|| {
            event("ADDED", "settings", 2, "") + &event("ADDED", "other", 3, "") + &initial_events_end(5)
        })
    };
    let other = |_: &RecordedRequest| {
        Reply::json(200, &json!({"kind": "Status", "status": "Success", "details": {"uid": "1"}}))
    };
    let cluster = WatchServer::new(first, other, CacheSettings::default()).await;
    let query = ListQuery { kinds: vec![Kind::ConfigMap], ..ListQuery::default() };
    let list = permit_all(Verb::List, Kind::ConfigMap);
    let page = async || cluster.adapter.page(&list, List::ConfigMaps, &query).await.unwrap();
    assert_eq!(names(&page().await), ["other", "settings"]);
    let delete = permit(Verb::Delete, Kind::ConfigMap, "shop");
    cluster.adapter.delete_configmap(&delete, &object("settings")).await.unwrap();
    let watch = cluster.last_watch();
    let later = tokio::spawn(async move {
        sleep(Duration::from_millis(300)).await;
        send(&watch, &event("DELETED", "settings", 9, ""));
    });
    assert_eq!(names(&page().await), ["other"]);
    later.await.unwrap();
}

#[tokio::test]
async fn cluster_never_reached_has_no_list() {
    let cluster = WatchServer::with_two_pods().await;
    let address = cluster.server.address.clone();
    let ca = cluster.server.ca.clone();
    drop(cluster);
    let adapter =
        common::with_cache(by_token(&address, Some(&ca), TOKEN), SHORT_DEADLINES, CacheSettings::default()).0;
    let query = ListQuery { kinds: vec![Kind::Pod], ..ListQuery::default() };
    let error = adapter.page(&permit_all(Verb::List, Kind::Pod), List::Pods, &query).await.unwrap_err();
    assert_eq!(error.cause, Cause::Unreachable);
    // requests during the backoff do not wait for the next attempt
    for _ in 0..8 {
        let started = Instant::now();
        adapter.page(&permit_all(Verb::List, Kind::Pod), List::Pods, &query).await.unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn list_uses_the_current_stored_connection() {
    let [old, new] = [WatchServer::with_two_pods().await, WatchServer::with_two_pods().await];
    let connection = |of: &WatchServer| by_token(&of.server.address, Some(&of.server.ca), TOKEN);
    let (adapter, registry) = common::with_cache(connection(&old), SHORT_DEADLINES, CacheSettings::default());
    let query = ListQuery { kinds: vec![Kind::Pod], ..ListQuery::default() };
    let permit = permit_all(Verb::List, Kind::Pod);
    adapter.page(&permit, List::Pods, &query).await.unwrap();
    let mut events = adapter.watch(&permit, List::Pods, &query).await.unwrap().events;
    registry.set(connection(&new), 2);
    adapter.page(&permit, List::Pods, &query).await.unwrap();
    assert_eq!((old.watch_targets().len(), new.watch_targets().len()), (1, 1));
    let last = tokio::time::timeout(TEST_TIMEOUT, events.next()).await.unwrap();
    assert!(matches!(last, Some(ListEvent::ConnectionChanged)), "{last:?}");
}

#[tokio::test]
async fn reader_of_a_set_receives_rows_and_events_of_its_namespaces() {
    fn in_team(event: String) -> String {
        event.replace("\"shop\"", "\"team-a\"")
    }
    let first = |request: &RecordedRequest, _| {
        let all = event("ADDED", "a", 2, "Running")
            + &in_team(event("ADDED", "b", 3, "Running"))
            + &initial_events_end(5);
        Some(if requests_initial_events(request) { all } else { String::new() })
    };
    let cluster = WatchServer::new(first, |_| Reply::Disconnect, CacheSettings::default()).await;
    cluster.wait_for_rows(&["a Running", "b Running"]).await;
    let permit = permit_within(Verb::List, Kind::Pod, team());
    let query = ListQuery { kinds: vec![Kind::Pod], ..ListQuery::default() };
    let page = cluster.adapter.page(&permit, List::Pods, &query).await.unwrap();
    assert_eq!((names(&page), page.pagination.total), (vec!["b"], 1));
    let counts = cluster.adapter.count(&permit, List::Pods).await.unwrap();
    assert_eq!((counts.total, counts.by_status.get("Running")), (1, Some(&1)));

    let snapshot = cluster.adapter.watch(&permit, List::Pods, &query).await.unwrap();
    assert_eq!(snapshot.rows.map(|row| row.name().to_owned()).collect::<Vec<_>>(), ["b"]);
    let watch = cluster.last_watch();
    send(&watch, &event("ADDED", "d", 6, "Running"));
    send(&watch, &(event("MODIFIED", "a", 7, "Failed") + &in_team(event("MODIFIED", "b", 8, "Failed"))));
    send(&watch, &in_team(event("ADDED", "c", 9, "Pending")));
    let (mut events, mut received) = (snapshot.events, Vec::new());
    while received.len() < 2 {
        let event = tokio::time::timeout(TEST_TIMEOUT, events.next()).await.unwrap().unwrap();
        let ListEvent::Changes(changes) = event else { panic!("{event:?}") };
        received.extend(changes.iter().map(|change| change.row().name().to_owned()));
    }
    assert_eq!(received, ["b", "c"]);
}

#[tokio::test]
async fn cached_namespace_belongs_to_itself() {
    fn namespace(kind: &str, name: &str, version: u64) -> String {
        event(kind, name, version, "Active").replace("\"namespace\":\"shop\",", "")
    }
    let first = |request: &RecordedRequest, _| {
        let all = match request.target.starts_with("/api/v1/namespaces") {
            true => namespace("ADDED", "shop", 2) + &namespace("ADDED", "team-a", 3) + &initial_events_end(5),
            false => initial_events_end(5),
        };
        Some(if requests_initial_events(request) { all } else { String::new() })
    };
    let cluster = WatchServer::new(first, |_| Reply::Disconnect, CacheSettings::default()).await;
    let query = ListQuery { kinds: vec![Kind::Namespace], ..ListQuery::default() };
    let page = async |scope: NamespaceScope| {
        let permit = permit_within(Verb::List, Kind::Namespace, scope);
        cluster.adapter.page(&permit, List::Namespaces, &query).await.unwrap()
    };
    assert_eq!(names(&page(NamespaceScope::All).await), ["shop", "team-a"]);
    assert_eq!(names(&page(team()).await), ["team-a"]);
    for watch in &*cluster.watches.lock().unwrap() {
        send(watch, &namespace("DELETED", "team-a", 6));
    }
    let end = Instant::now() + TEST_TIMEOUT;
    while names(&page(NamespaceScope::All).await) != ["shop"] {
        assert!(Instant::now() < end, "the namespace is deleted");
        sleep(Duration::from_millis(10)).await;
    }
}
