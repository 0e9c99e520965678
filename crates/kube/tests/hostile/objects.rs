//! Objects of any kind: printed tables in lists and watches, and details.

use futures_util::StreamExt;
use pilothouse_core::{
    inventory::{
        ListEvent,
        objects::{ObjectApi, ObjectListing, ServedKind, ServedKinds},
    },
    name::PathName,
    rows::Change,
    testing::fake::FakeRuntime,
};
use pilothouse_kube::CacheSettings;
use tokio::time::{Instant, sleep};

use super::*;
use crate::watch_server::{TEST_TIMEOUT, WatchServer, requests_initial_events, send};

mod discovery;

const BOATS_PATH: &str = "/apis/day2.example.org/v1/boats";

fn boats() -> ServedKind {
    ServedKind {
        group: "day2.example.org".to_owned(),
        version: "v1".to_owned(),
        plural: "boats".to_owned(),
        kind: "Boat".to_owned(),
        namespaced: true,
        custom: true,
        verbs: ["get", "list", "watch"].map(str::to_owned).into(),
        ..ServedKind::default()
    }
}

fn path(request: &RecordedRequest) -> &str {
    request.target.split('?').next().unwrap_or_default()
}

fn accept(request: &RecordedRequest) -> &str {
    request.headers.get("accept").map(String::as_str).unwrap_or_default()
}

fn columns(names: &[&str]) -> Value {
    names
        .iter()
        .map(|name| json!({"name": name, "type": "string", "format": "", "description": "", "priority": 0}))
        .collect()
}

/// A row of a table: a boat with this cell, in the namespace `shop`.
fn row(name: &str, version: u64, crew: &str) -> Value {
    let metadata = json!({"name": name, "namespace": "shop", "uid": format!("u-{name}"), "resourceVersion": version.to_string(),
        "managedFields": [{"manager": "canary"}]});
    json!({"cells": [name, crew], "object": {"kind": "PartialObjectMetadata", "metadata": metadata}})
}

fn table(columns: &Value, version: u64, rows: &[Value]) -> Value {
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": version.to_string()},
        "columnDefinitions": columns, "rows": rows})
}

/// A watch event with a table; only the first one of a watch has columns.
fn event(kind: &str, columns: Option<&Value>, row: &Value) -> String {
    let mut table = table(&Value::Null, 0, std::slice::from_ref(row));
    match columns {
        Some(columns) => table["columnDefinitions"] = columns.clone(),
        None => drop(table.as_object_mut().unwrap().remove("columnDefinitions")),
    }
    format!("{}\n", json!({"type": kind, "object": table}))
}

/// The bookmark that ends the initial events.
fn initial_events_end(version: u64) -> String {
    let annotations = json!({"k8s.io/initial-events-end": "true"});
    let metadata = json!({"resourceVersion": version.to_string(), "annotations": annotations});
    event("BOOKMARK", None, &json!({"cells": ["", ""], "object": {"metadata": metadata}}))
}

/// The discovery of a cluster with pods and these kinds of the group `day2.example.org`.
fn discovery(request: &RecordedRequest, plurals: &[&str]) -> Option<Reply> {
    let resource = |plural: &&str| {
        json!({"resource": plural, "responseKind": {"group": "", "version": "", "kind": "Boat"}, "scope": "Namespaced",
            "singularResource": "", "verbs": ["get", "list", "watch"]})
    };
    let group = |name: &str, resources: Vec<Value>| {
        let versions = json!([{"version": "v1", "resources": resources, "freshness": "Current"}]);
        let items = json!([{"metadata": {"name": name}, "versions": versions}]);
        Reply::json(
            200,
            &json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}),
        )
    };
    match path(request) {
        "/api" => {
            let mut pods = resource(&"pods");
            pods["responseKind"]["kind"] = "Pod".into();
            Some(group("", vec![pods]))
        }
        "/apis" => Some(group("day2.example.org", plurals.iter().map(resource).collect())),
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions" => {
            let columns = json!([{"name": "Name", "type": "string", "format": "name"}, {"name": "Created At", "type": "date"}]);
            let rows: Vec<_> = plurals
                .iter()
                .map(|plural| json!({"cells": [format!("{plural}.day2.example.org"), "2026-01-01T00:00:00Z"], "object": null}))
                .collect();
            Some(Reply::json(200, &table(&columns, 1, &rows)))
        }
        _ => None,
    }
}

fn cluster_permit() -> Permit {
    let access = AccessRequest::to(Verb::Get, Resource::Cluster).in_cluster(CLUSTER);
    pilothouse_core::testing::permit(&pilothouse_core::access::Caller::system(), access)
}

async fn kinds(adapter: &KubeClusters, max_age: Option<Duration>) -> Result<ServedKinds> {
    adapter.kinds(&cluster_permit(), max_age).await.map(|kinds| (*kinds).clone())
}

async fn page(adapter: &KubeClusters, served: &ServedKind) -> Result<ObjectListing> {
    let kind = served.to_kind().unwrap();
    let query = ListQuery { kinds: vec![kind], ..ListQuery::default() };
    ObjectApi::page(adapter, &permit_all(Verb::List, kind), served, &query).await
}

/// Columns, and the cells of each row.
fn printed(page: &ObjectListing) -> (Vec<String>, Vec<Value>) {
    let cells = page.listing.rows.iter().map(|row| row.parse::<Value>().unwrap()["cells"].clone());
    (page.columns.iter().map(|column| column.name.clone()).collect(), cells.collect())
}

/// Waits for a page with these cells.
async fn wait_for_cells(adapter: &KubeClusters, expected: &[Value]) -> ObjectListing {
    let end = Instant::now() + TEST_TIMEOUT;
    loop {
        let found = page(adapter, &boats()).await;
        match &found {
            Ok(found) if printed(found).1 == expected => return found.clone(),
            _ => assert!(Instant::now() < end, "{expected:?}, but {found:?}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn objects_are_listed_in_chunks_as_a_printed_table() {
    let server = FakeServer::start(|request, _| {
        let columns = columns(&["Name", "Crew"]);
        if request.target.contains("continue=next") {
            return Reply::json(200, &table(&columns, 5, &[row("raft", 3, "none")]));
        }
        let mut first = table(&columns, 5, &[row("ship", 2, "ann"), row("boat", 4, "bob")]);
        first["metadata"]["continue"] = "next".into();
        Reply::json(200, &first)
    })
    .await;
    let adapter = adapter(&server);
    let found = page(&adapter, &boats()).await.unwrap();
    let cells = vec![json!(["boat", "bob"]), json!(["raft", "none"]), json!(["ship", "ann"])];
    assert_eq!(printed(&found), (vec!["Name".to_owned(), "Crew".to_owned()], cells));
    assert!(!found.listing.rows.iter().any(|row| row.json().contains("canary")));
    for request in server.requests() {
        assert_eq!(path(&request), BOATS_PATH);
        assert!(accept(&request).starts_with("application/json;as=Table;v=v1;g=meta.k8s.io"), "{request:?}");
    }
    // sorted by a cell, in one namespace
    let kind = boats().to_kind().unwrap();
    let fields = (List::Objects.info().fields)();
    let field = fields.iter().position(|field| field.name == "cell.1").unwrap();
    let sort = Some(pilothouse_core::rows::Sort { field, descending: true });
    let shop = NamespaceScope::One(common::namespace("shop"));
    let query = ListQuery { kinds: vec![kind], namespaces: shop, sort, ..ListQuery::default() };
    let found = ObjectApi::page(&adapter, &permit(Verb::List, kind, "shop"), &boats(), &query).await.unwrap();
    assert_eq!(names(&found.listing), ["raft", "boat", "ship"]);
    let last = server.requests().pop().unwrap();
    assert_eq!(path(&last), "/apis/day2.example.org/v1/namespaces/shop/boats");
}

#[tokio::test]
async fn kind_that_the_server_does_not_print_has_name_and_age() {
    let server = FakeServer::start(|_, _| {
        let item = json!({"metadata": {"name": "ship", "namespace": "shop", "creationTimestamp": "2025-12-31T23:59:00Z"}, "spec": {"a": "canary"}});
        Reply::json(200, &json!({"kind": "BoatList", "metadata": {}, "items": [item]}))
    })
    .await;
    let found = page(&adapter(&server), &boats()).await.unwrap();
    assert_eq!(printed(&found), (vec!["Name".to_owned(), "Age".to_owned()], vec![json!(["ship", "60s"])]));
    assert!(!found.listing.rows[0].json().contains("canary"));
}

#[tokio::test]
async fn cached_rows_follow_the_tables_of_a_watch() {
    let first = |request: &RecordedRequest, _| {
        let columns = columns(&["Name", "Crew"]);
        let all = event("ADDED", Some(&columns), &row("ship", 2, "ann"))
            + &event("ADDED", None, &row("boat", 3, "bob"))
            + &initial_events_end(5);
        Some(if requests_initial_events(request) { all } else { String::new() })
    };
    let cluster = WatchServer::new(first, |_| Reply::Disconnect, CacheSettings::default()).await;
    let adapter = &cluster.adapter;
    wait_for_cells(adapter, &[json!(["boat", "bob"]), json!(["ship", "ann"])]).await;
    assert_eq!(cluster.other_requests(), 0);
    let kind = boats().to_kind().unwrap();
    let query = ListQuery { kinds: vec![kind], ..ListQuery::default() };
    let permit = permit_all(Verb::List, kind);
    let mut events = adapter.watch(&permit, List::Objects, &query).await.unwrap().events;
    let watch = cluster.last_watch();
    send(&watch, &event("MODIFIED", None, &row("ship", 6, "ann, eve")));
    send(&watch, &event("DELETED", None, &row("boat", 7, "bob")));
    let mut changes = Vec::new();
    while changes.len() < 2 {
        if let Some(ListEvent::Changes(more)) = events.next().await {
            changes.extend(more.iter().map(|change| match change {
                Change::Changed(_, row) => format!("changed {}", row.parse::<Value>().unwrap()["cells"]),
                Change::Removed(row) => format!("removed {}", row.parse::<Value>().unwrap()["cells"]),
                Change::Added(_) => "added".to_owned(),
            }));
        }
    }
    assert_eq!(changes, [r#"changed ["ship","ann, eve"]"#, r#"removed ["boat","bob"]"#]);
    let found = wait_for_cells(adapter, &[json!(["ship", "ann, eve"])]).await;
    assert!(!found.listing.stale && found.listing.warnings.is_empty());
    // rows of other namespaces are outside the caller's rights
    let other = permit_within(Verb::List, kind, team());
    let none = ObjectApi::page(adapter, &other, &boats(), &query).await.unwrap();
    assert_eq!(none.listing.pagination.total, 0);
    assert!(cluster.watch_targets().iter().all(|target| target.starts_with(BOATS_PATH)));
}

/// So a watch of a large list holds no copy of it.
#[tokio::test]
async fn rows_of_a_watch_are_printed_when_they_are_taken() {
    let first = |request: &RecordedRequest, _| {
        let columns = json!([{"name": "Name", "type": "string"}, {"name": "Age", "type": "date"}]);
        let mut ship = row("ship", 2, "60s");
        ship["object"]["metadata"]["creationTimestamp"] = "2025-12-31T23:59:00Z".into();
        let all = event("ADDED", Some(&columns), &ship) + &initial_events_end(5);
        Some(if requests_initial_events(request) { all } else { String::new() })
    };
    let server = WatchServer::new(first, |_| Reply::Disconnect, CacheSettings::default()).await.server;
    let clock = FakeRuntime::default().clock;
    let connection = by_token(&server.address, Some(&server.ca), TOKEN);
    let settings = CacheSettings::default();
    let (adapter, _registry) =
        common::with_cache_and_clock(connection, SHORT_DEADLINES, settings, clock.clone());
    let kind = boats().to_kind().unwrap();
    let query = ListQuery { kinds: vec![kind], ..ListQuery::default() };
    let mut rows = adapter.watch(&permit_all(Verb::List, kind), List::Objects, &query).await.unwrap().rows;
    assert_eq!(rows.len(), 1);
    clock.advance(Duration::from_secs(10));
    assert_eq!(rows.next().unwrap().parse::<Value>().unwrap()["cells"], json!(["ship", "70s"]));
}

#[tokio::test]
async fn changed_columns_begin_the_list_anew() {
    let first = |request: &RecordedRequest, before: usize| {
        let (names, crew) =
            if before == 0 { (&["Name", "Crew"], "ann") } else { (&["Name", "Captain"], "eve") };
        let columns = columns(names);
        let ship = event(
            if requests_initial_events(request) { "ADDED" } else { "MODIFIED" },
            Some(&columns),
            &row("ship", 6, crew),
        );
        Some(if requests_initial_events(request) { ship + &initial_events_end(5) } else { ship })
    };
    let cluster = WatchServer::new(first, |_| Reply::Disconnect, CacheSettings::default()).await;
    let found = wait_for_cells(&cluster.adapter, &[json!(["ship", "ann"])]).await;
    assert_eq!(printed(&found).0, ["Name", "Crew"]);
    // the server ends the watch, as it does when a definition is changed; the next one has other columns
    let _ = cluster.last_watch().send(BodyPart::End);
    let found = wait_for_cells(&cluster.adapter, &[json!(["ship", "eve"])]).await;
    assert_eq!(printed(&found).0, ["Name", "Captain"]);
}

#[tokio::test]
async fn changed_columns_are_noticed_without_an_event() {
    let first = |request: &RecordedRequest, before: usize| {
        let (names, crew) =
            if before == 0 { (&["Name", "Crew"], "ann") } else { (&["Name", "Captain"], "eve") };
        let ship = event("ADDED", Some(&columns(names)), &row("ship", 6, crew));
        Some(if requests_initial_events(request) { ship + &initial_events_end(5) } else { String::new() })
    };
    let other = |_: &RecordedRequest| Reply::json(200, &table(&columns(&["Name", "Captain"]), 5, &[]));
    let cluster = WatchServer::new(first, other, CacheSettings::default()).await;
    wait_for_cells(&cluster.adapter, &[json!(["ship", "ann"])]).await;
    let kind = boats().to_kind().unwrap();
    let query = ListQuery { kinds: vec![kind], ..ListQuery::default() };
    let permit = permit_all(Verb::List, kind);
    let mut events = cluster.adapter.watch(&permit, List::Objects, &query).await.unwrap().events;
    let _ = cluster.last_watch().send(BodyPart::End);
    while !matches!(events.next().await, None | Some(ListEvent::ConnectionChanged)) {}
    let found = wait_for_cells(&cluster.adapter, &[json!(["ship", "eve"])]).await;
    assert_eq!(printed(&found).0, ["Name", "Captain"]);
    let lists = cluster.server.requests().into_iter().filter(|request| request.target.contains("limit=1"));
    assert!(lists.count() >= 1, "the columns were read");
}

#[tokio::test]
async fn kind_that_cannot_be_watched_is_read_directly() {
    let first = |_: &RecordedRequest, _| None;
    let other = |_: &RecordedRequest| {
        Reply::json(200, &table(&columns(&["Name", "Crew"]), 5, &[row("ship", 2, "ann")]))
    };
    let cluster = WatchServer::new(first, other, CacheSettings::default()).await;
    let served = ServedKind { verbs: vec!["list".to_owned()], ..boats() };
    for _ in 0..2 {
        let found = page(&cluster.adapter, &served).await.unwrap();
        assert_eq!((names(&found.listing), &found.listing.warnings[..]), (vec!["ship"], &[][..]));
    }
    assert_eq!((cluster.watch_targets().len(), cluster.other_requests()), (0, 2));
}

#[tokio::test]
async fn object_is_read_by_any_valid_name_with_its_events() {
    let server = FakeServer::start(|request, _| match path(request) {
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node" => {
            let metadata = json!({"name": "system:node", "uid": "0f8e5b0e-1", "resourceVersion": "7",
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "canary"}, "managedFields": [{"manager": "m"}]});
            Reply::json(200, &json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": metadata, "rules": []}))
        }
        "/api/v1/events" => {
            let event = json!({"metadata": {"name": "e", "namespace": "default"}, "reason": "Seen", "involvedObject": {"kind": "ClusterRole", "name": "system:node"}});
            Reply::json(200, &json!({"kind": "EventList", "metadata": {}, "items": [event]}))
        }
        _ => Reply::status(404, "NotFound", "no", json!({"kind": "clusterroles", "name": "absent"})),
    })
    .await;
    let adapter = adapter(&server);
    let served = ServedKind {
        group: "rbac.authorization.k8s.io".to_owned(),
        plural: "clusterroles".to_owned(),
        kind: "ClusterRole".to_owned(),
        namespaced: false,
        custom: false,
        ..boats()
    };
    let kind = served.to_kind().unwrap();
    let access = AccessRequest::to(Verb::Get, Resource::Kind(kind)).in_cluster(CLUSTER);
    let permit = pilothouse_core::testing::permit(&pilothouse_core::access::Caller::system(), access);
    let get =
        async |name: &str| ObjectApi::get(&adapter, &permit, &PathName::new(name).unwrap()).await.unwrap();
    let found = get("system:node").await.unwrap();
    assert_eq!((&*found.uid, &*found.resource_version, found.events.len()), ("0f8e5b0e-1", "7", 1));
    assert!(
        !found.object.to_string().contains("canary") && found.object["metadata"]["managedFields"].is_null()
    );
    let events = server.requests().into_iter().find(|request| path(request) == "/api/v1/events").unwrap();
    assert!(events.target.contains("fieldSelector=involvedObject.uid%3D0f8e5b0e-1"), "{}", events.target);
    assert!(get("absent").await.is_none());
}

#[tokio::test]
async fn events_of_a_node_are_those_of_its_name() {
    let server = FakeServer::start(|request, _| match path(request) {
        "/api/v1/nodes/n1" => {
            let metadata = json!({"name": "n1", "uid": "0f8e5b0e-1", "resourceVersion": "7"});
            Reply::json(200, &json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata}))
        }
        // a kubelet takes the name for the uid
        "/api/v1/events" if request.target.contains("involvedObject.name%3Dn1") => {
            let event = json!({"metadata": {"name": "e", "namespace": "default"}, "reason": "NodeReady",
                "involvedObject": {"kind": "Node", "name": "n1", "uid": "n1"}});
            Reply::json(200, &json!({"kind": "EventList", "metadata": {}, "items": [event]}))
        }
        _ => Reply::json(200, &json!({"kind": "EventList", "metadata": {}, "items": []})),
    })
    .await;
    let access = AccessRequest::to(Verb::Get, Resource::Kind(Kind::Node)).in_cluster(CLUSTER);
    let permit = pilothouse_core::testing::permit(&pilothouse_core::access::Caller::system(), access);
    let found = ObjectApi::get(&adapter(&server), &permit, &PathName::new("n1").unwrap()).await.unwrap();
    assert_eq!(found.unwrap().events.len(), 1);
}
