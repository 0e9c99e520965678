//! Levels that come with age: in cached lists, in watches, and in lists that are not cached.

use futures_util::{StreamExt, future::ready};
use pilothouse_core::{
    inventory::ListEvent,
    rows::{Change, Level},
    testing::fake::FakeRuntime,
};
use pilothouse_kube::CacheSettings;

use super::*;
use crate::watch_server::{TEST_TIMEOUT, WatchServer, initial_events_end, requests_initial_events};

/// The clock of tests starts at 2026-01-01T00:00:00Z: one pod has been pending for five minutes, the other for one.
const PODS: [(&str, &str); 2] = [("new", "2025-12-31T23:59:00Z"), ("old", "2025-12-31T23:55:00Z")];

fn pod((name, created_at): (&str, &str)) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop", "resourceVersion": "2", "creationTimestamp": created_at},
        "status": {"phase": "Pending"}})
}

fn levels(rows: &[Row]) -> Vec<String> {
    let level = |row: &Row| serde_json::from_str::<Value>(row.json()).unwrap()["level"].clone();
    rows.iter().map(|row| format!("{} {}", row.name(), level(row).as_str().unwrap())).collect()
}

/// A query of the pods with this level.
fn with_level(level: Level) -> ListQuery {
    let fields = (List::Pods.info().fields)();
    let field = fields.iter().position(|field| field.name == "level").unwrap();
    let filters = vec![(field, vec![level.as_str().to_owned()])];
    ListQuery { kinds: vec![Kind::Pod], filters, ..ListQuery::default() }
}

#[tokio::test]
async fn level_changes_with_age_in_lists_and_watches() {
    let first = |request: &RecordedRequest, _| {
        let added = |of| format!("{}\n", json!({"type": "ADDED", "object": pod(of)}));
        let all = PODS.map(added).concat() + &initial_events_end(5);
        Some(if requests_initial_events(request) { all } else { String::new() })
    };
    let server = WatchServer::new(first, |_| Reply::Disconnect, CacheSettings::default()).await.server;
    let clock = FakeRuntime::default().clock;
    let connection = by_token(&server.address, Some(&server.ca), TOKEN);
    let settings = CacheSettings::default();
    let (adapter, _registry) =
        common::with_cache_and_clock(connection, SHORT_DEADLINES, settings, clock.clone());
    let permit = permit_all(Verb::List, Kind::Pod);
    let all = ListQuery { kinds: vec![Kind::Pod], ..ListQuery::default() };
    let watched = adapter.watch(&permit, List::Pods, &all).await.unwrap();
    assert_eq!(levels(&watched.rows.collect::<Vec<_>>()), ["new progress", "old warn"]);
    let warned = adapter.page(&permit, List::Pods, &with_level(Level::Warn)).await.unwrap();
    assert_eq!(levels(&warned.rows), ["old warn"]);

    clock.advance(Duration::from_secs(4 * 60));
    let mut events = watched.events.filter_map(|event| match event {
        ListEvent::Changes(changes) => ready(Some(changes)),
        _ => ready(None),
    });
    let changes = tokio::time::timeout(TEST_TIMEOUT, events.next()).await.unwrap().unwrap();
    let [Change::Changed(before, after)] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!(levels(&[before.clone(), after.clone()]), ["new progress", "new warn"]);
    let warned = adapter.page(&permit, List::Pods, &with_level(Level::Warn)).await.unwrap();
    assert_eq!(levels(&warned.rows), ["new warn", "old warn"]);
}

#[tokio::test]
async fn uncached_list_has_the_levels_of_the_time_at_which_it_was_read() {
    let (_server, adapter) = server_with_reply(|| {
        let items = PODS.map(pod);
        Reply::json(200, &json!({"kind": "PodList", "metadata": {}, "items": items}))
    })
    .await;
    assert_eq!(levels(&list_pods(&adapter).await.unwrap().rows), ["new progress", "old warn"]);
}
