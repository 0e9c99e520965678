//! Discovery: the kinds that a server serves, kinds that come, go and change, and the protocols of each version.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use super::*;
use crate::common::{
    kind_server::{KindServer, Protocol},
    kinds,
};

#[tokio::test]
async fn kinds_are_read_in_three_requests_and_kept() {
    let server =
        FakeServer::start(|request, _| discovery(request, &["boats"]).unwrap_or(Reply::Disconnect)).await;
    let adapter = adapter(&server);
    for _ in 0..2 {
        let found = kinds(&adapter, None).await.unwrap();
        let names: Vec<_> = found.kinds.iter().map(|kind| (&*kind.plural, kind.custom)).collect();
        assert_eq!((names, found.warnings), (vec![("pods", false), ("boats", true)], vec![]));
        assert_eq!(found.kinds[1].to_kind(), boats().to_kind());
    }
    let requests = server.requests();
    let mut paths: Vec<_> = requests.iter().map(path).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["/api", "/apis", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"]);
    assert!(requests.iter().all(|request| request.headers.contains_key("accept")));
    assert!(requests.iter().any(|request| accept(request).contains("as=APIGroupDiscoveryList")));
    kinds(&adapter, Some(Duration::ZERO)).await.unwrap();
    assert_eq!(server.requests().len(), 6);
}

#[tokio::test]
async fn kinds_of_an_older_server_are_read_by_version() {
    let server = FakeServer::start(|request, _| match path(request) {
        "/api" => Reply::json(200, &json!({"kind": "APIVersions", "versions": ["v1"]})),
        "/apis" => {
            let group = |name: &str| json!({"name": name, "versions": [{"version": "v1"}], "preferredVersion": {"version": "v1"}});
            Reply::json(200, &json!({"kind": "APIGroupList", "groups": [group("day2.example.org"), group("metrics.k8s.io")]}))
        }
        "/api/v1" => Reply::json(200, &json!({"kind": "APIResourceList", "resources": [
            {"name": "pods", "kind": "Pod", "namespaced": true, "verbs": ["list"]}, {"name": "pods/log", "kind": "Pod", "namespaced": true, "verbs": ["get"]}]})),
        "/apis/day2.example.org/v1" => Reply::json(200, &json!({"kind": "APIResourceList", "resources": [
            {"name": "boats", "kind": "Boat", "namespaced": true, "verbs": ["list", "watch"]}]})),
        "/apis/metrics.k8s.io/v1" => Reply::status(404, "NotFound", "the server is away", json!({})),
        _ => Reply::status(403, "Forbidden", "no", json!({})),
    })
    .await;
    let found = kinds(&adapter(&server), None).await.unwrap();
    let names: Vec<_> = found.kinds.iter().map(|kind| (&*kind.plural, kind.custom)).collect();
    assert_eq!(names, [("pods", false), ("boats", false)]);
    let warnings = [
        Warning::GroupUnavailable("metrics.k8s.io".to_owned()),
        Warning::Unreadable("customresourcedefinitions"),
    ];
    assert_eq!(found.warnings, warnings);
}

#[tokio::test]
async fn failed_discovery_is_an_error_and_is_tried_again() {
    let works = Arc::new(AtomicBool::new(false));
    let served = works.clone();
    let server = FakeServer::start(move |request, _| match discovery(request, &["boats"]) {
        Some(reply) if served.load(Ordering::SeqCst) => reply,
        _ => Reply::json(200, &json!({"kind": "Status"})),
    })
    .await;
    let adapter = adapter(&server);
    assert_eq!(kinds(&adapter, None).await.unwrap_err().cause, Cause::UnexpectedAnswer);
    works.store(true, Ordering::SeqCst);
    assert_eq!(kinds(&adapter, None).await.unwrap().kinds.len(), 2);
}

#[tokio::test]
async fn kind_that_is_gone_is_an_error_until_it_is_back() {
    let is_there = Arc::new(AtomicBool::new(false));
    let served = is_there.clone();
    let first = move |request: &RecordedRequest, _| {
        let all = event("ADDED", Some(&columns(&["Name", "Crew"])), &row("ship", 2, "ann"))
            + &initial_events_end(5);
        let body = if requests_initial_events(request) { all } else { String::new() };
        served.load(Ordering::SeqCst).then_some(body)
    };
    let other = |_: &RecordedRequest| Reply::Body(404, vec![], "404 page not found".to_owned());
    let cluster = WatchServer::new(first, other, CacheSettings::default()).await;
    let error = page(&cluster.adapter, &boats()).await.unwrap_err();
    assert_eq!(
        (error.cause, error.context.resource.as_deref()),
        (Cause::KindNotServed, Some("boats.day2.example.org"))
    );
    is_there.store(true, Ordering::SeqCst);
    wait_for_cells(&cluster.adapter, &[json!(["ship", "ann"])]).await;
}

#[tokio::test]
async fn watches_of_a_kind_end_when_the_discovery_has_it_no_more() {
    let plurals = Arc::new(Mutex::new(vec!["boats"]));
    let served = plurals.clone();
    let first = |request: &RecordedRequest, _| {
        let all = event("ADDED", Some(&columns(&["Name", "Crew"])), &row("ship", 2, "ann"))
            + &initial_events_end(5);
        Some(if requests_initial_events(request) { all } else { String::new() })
    };
    let other = move |request: &RecordedRequest| {
        discovery(request, &served.lock().unwrap()).unwrap_or(Reply::Disconnect)
    };
    let cluster = WatchServer::new(first, other, CacheSettings::default()).await;
    assert_eq!(kinds(&cluster.adapter, None).await.unwrap().kinds.len(), 2);
    wait_for_cells(&cluster.adapter, &[json!(["ship", "ann"])]).await;
    let kind = boats().to_kind().unwrap();
    let query = ListQuery { kinds: vec![kind], ..ListQuery::default() };
    let mut events =
        cluster.adapter.watch(&permit_all(Verb::List, kind), List::Objects, &query).await.unwrap().events;
    // still served: the list stays
    kinds(&cluster.adapter, Some(Duration::ZERO)).await.unwrap();
    assert_eq!(cluster.watch_targets().len(), 1);
    plurals.lock().unwrap().clear();
    assert_eq!(kinds(&cluster.adapter, Some(Duration::ZERO)).await.unwrap().kinds.len(), 1);
    loop {
        match events.next().await {
            Some(ListEvent::ConnectionChanged) => break,
            Some(_) => {}
            None => panic!("the events ended without a reason"),
        }
    }
}

#[tokio::test]
async fn watch_of_a_kind_that_is_gone_ends_although_nobody_reads_the_discovery() {
    let plurals = Arc::new(Mutex::new(vec!["boats"]));
    let (watched, served) = (plurals.clone(), plurals.clone());
    let first = move |request: &RecordedRequest, _| {
        let all = event("ADDED", Some(&columns(&["Name", "Crew"])), &row("ship", 2, "ann"))
            + &initial_events_end(5);
        let body = if requests_initial_events(request) { all } else { String::new() };
        watched.lock().unwrap().contains(&"boats").then_some(body)
    };
    let other = move |request: &RecordedRequest| {
        let not_found = || Reply::Body(404, vec![], "404 page not found".to_owned());
        discovery(request, &served.lock().unwrap()).unwrap_or_else(not_found)
    };
    let cluster = WatchServer::new(first, other, CacheSettings::default()).await;
    wait_for_cells(&cluster.adapter, &[json!(["ship", "ann"])]).await;
    let kind = boats().to_kind().unwrap();
    let query = ListQuery { kinds: vec![kind], ..ListQuery::default() };
    let mut events =
        cluster.adapter.watch(&permit_all(Verb::List, kind), List::Objects, &query).await.unwrap().events;
    plurals.lock().unwrap().clear();
    let _ = cluster.last_watch().send(BodyPart::End);
    let end = async { while !matches!(events.next().await, None | Some(ListEvent::ConnectionChanged)) {} };
    tokio::time::timeout(TEST_TIMEOUT, end).await.unwrap();
    assert_eq!(page(&cluster.adapter, &boats()).await.unwrap_err().cause, Cause::KindNotServed);
}

/// The cells of a boat whose columns are those of [`kinds::ServedKind::boats`].
fn boat(name: &str, crew: u8) -> (Value, Vec<Value>) {
    let object = json!({"metadata": {"name": name, "namespace": "shop"}});
    (object, vec![json!(name), json!(crew), json!("5d"), json!("ann")])
}

#[tokio::test]
async fn every_version_of_the_protocol_serves_kinds_and_cached_objects() {
    for protocol in [Protocol::V1_37, Protocol::V1_30, Protocol::BY_GROUP] {
        let served = vec![
            kinds::ServedKind::boats("v1"),
            kinds::ServedKind::deployments(),
            kinds::ServedKind::node_metrics(),
        ];
        let fake = KindServer::start(protocol, served).await;
        fake.fail("metrics.k8s.io", true);
        let connection = by_token(&fake.server.address, Some(&fake.server.ca), TOKEN);
        let adapter = common::with_cache(connection, SHORT_DEADLINES, CacheSettings::default()).0;
        let found = self::kinds(&adapter, None).await.unwrap();
        let names: Vec<_> =
            found.kinds.iter().map(|kind| format!("{}.{}", kind.plural, kind.group)).collect();
        assert_eq!(names, ["deployments.apps", "boats.day2.example.org"], "{}", protocol.version);
        assert_eq!(
            found.warnings,
            [Warning::GroupUnavailable("metrics.k8s.io".to_owned())],
            "{}",
            protocol.version
        );

        let (object, cells) = boat("ship", 3);
        fake.apply("boats", object, cells);
        wait_for_cells(&adapter, &[json!(["ship", 3, "5d", "ann"])]).await;
        // the fake sends no changes between a list and its watch
        let end = Instant::now() + TEST_TIMEOUT;
        while fake.watches("boats") == 0 {
            assert!(Instant::now() < end, "{}: no watch", protocol.version);
            sleep(Duration::from_millis(20)).await;
        }
        let (object, cells) = boat("raft", 1);
        fake.apply("boats", object, cells);
        wait_for_cells(&adapter, &[json!(["raft", 1, "5d", "ann"]), json!(["ship", 3, "5d", "ann"])]).await;
        fake.delete("boats", "shop", "ship");
        let page = wait_for_cells(&adapter, &[json!(["raft", 1, "5d", "ann"])]).await;
        assert!(!page.listing.stale, "{}", protocol.version);

        // the definition gets a column: the open watch ends, and the first event of the next one has the new columns
        let mut changed = kinds::ServedKind::boats("v1");
        changed.columns.push(("Port", "string", 0));
        fake.serve(changed);
        let (object, mut cells) = boat("barge", 9);
        cells.push(json!("here"));
        let end = Instant::now() + TEST_TIMEOUT;
        while fake.watches("boats") == 0 {
            assert!(Instant::now() < end, "{}: no watch", protocol.version);
            // a read begins the list anew
            let _ = self::page(&adapter, &boats()).await;
            sleep(Duration::from_millis(20)).await;
        }
        fake.apply("boats", object, cells);
        let page = wait_for_cells(&adapter, &[json!(["barge", 9, "5d", "ann", "here"])]).await;
        assert_eq!(printed(&page).0, ["Name", "Crew", "Launched", "Captain", "Port"], "{}", protocol.version);
    }
}
