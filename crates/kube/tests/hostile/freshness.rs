//! Freshness of cached lists: `stale` is false only for 1.25 times the watch timeout after a complete event, a
//! bookmark, or the regular end of a watch. Received bytes alone do not count. Most tests use a watch timeout of 1 s.

use futures_util::StreamExt;
use pilothouse_core::inventory::ListEvent;
use pilothouse_kube::CacheSettings;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::watch_server::{
    Watch, WatchServer, error, event, initial_events_end, list, requests_initial_events, send,
};

const TEST_TIMEOUT: Duration = Duration::from_secs(20);

fn short_watches() -> CacheSettings {
    CacheSettings { watch: Duration::from_secs(1), ..CacheSettings::default() }
}

fn initial_events() -> String {
    event("ADDED", "a", 2, "Running") + &initial_events_end(5)
}

/// Sends this text every 100 ms until the watch is closed.
fn trickle(watch: Watch, text: &'static str) {
    tokio::spawn(async move {
        while !watch.is_closed() {
            send(&watch, text);
            sleep(Duration::from_millis(100)).await;
        }
    });
}

async fn wait_until_stale(cluster: &WatchServer, what: &str) {
    let listing = cluster.wait_for(|listing| listing.stale, what).await;
    assert_eq!(names(&listing), ["a"], "{what}");
}

#[tokio::test]
async fn bytes_without_event_do_not_prove_freshness() {
    for text in [" ", "{", "{\"type\""] {
        // later watches send nothing
        let first = |request: &RecordedRequest, _| {
            Some(if requests_initial_events(request) { initial_events() } else { String::new() })
        };
        let cluster = WatchServer::new(first, |_| Reply::Disconnect, short_watches()).await;
        cluster.wait_for_rows(&["a Running"]).await;
        trickle(cluster.last_watch(), text);
        wait_until_stale(&cluster, text).await;
    }
}

/// The server accepts every watch and sends nothing.
#[tokio::test]
async fn watch_without_events_does_not_prove_freshness() {
    let first = |request: &RecordedRequest, _| {
        Some(if requests_initial_events(request) { initial_events() } else { String::new() })
    };
    let cluster = WatchServer::new(first, |_| list(&["a"], 9), short_watches()).await;
    cluster.wait_for_rows(&["a Running"]).await;
    let over = Instant::now() + Duration::from_secs(4);
    wait_until_stale(&cluster, "silence").await;
    // ends each new watch at once. The first watch sent events, so its regular end would prove freshness
    let mut ended = 1;
    while Instant::now() < over {
        let all = cluster.watch_targets().len();
        if all > ended {
            ended = all;
            let _ = cluster.last_watch().send(BodyPart::End);
        }
        assert!(cluster.page().await.unwrap().stale, "after {ended} watches");
        sleep(Duration::from_millis(20)).await;
    }
}

/// After an expired version, slowly arriving initial events do not prove that the rows are current.
#[tokio::test]
async fn rows_are_stale_during_relist() {
    let first = |request: &RecordedRequest, before: usize| match (requests_initial_events(request), before) {
        (true, 0) => Some(initial_events()),
        // one object, and never the end of the initial events
        (true, _) => Some(event("ADDED", "b", 6, "Running")),
        (false, _) => Some(error(410)),
    };
    let settings = CacheSettings::default();
    let cluster = WatchServer::new(first, |_| Reply::NoResponse, settings).await;
    let fresh = cluster.wait_for_rows(&["a Running"]).await;
    assert!(!fresh.stale);
    let _ = cluster.last_watch().send(BodyPart::Disconnect);
    wait_until_stale(&cluster, "the version has expired").await;
    let end = Instant::now() + TEST_TIMEOUT;
    while cluster.watch_targets().iter().filter(|target| target.contains("sendInitialEvents=true")).count()
        < 2
    {
        assert!(Instant::now() < end, "a second watch with initial events");
        assert!(cluster.page().await.unwrap().stale);
        sleep(Duration::from_millis(20)).await;
    }
    assert!(cluster.page().await.unwrap().stale, "while initial events are arriving");
}

#[tokio::test]
async fn server_that_expires_every_version_has_no_fresh_rows() {
    let first = |request: &RecordedRequest, before: usize| match (requests_initial_events(request), before) {
        (true, 0) => Some(initial_events() + &error(410)),
        _ => None,
    };
    let other = |_: &RecordedRequest| Reply::status(410, "Expired", "too old resource version", json!({}));
    let cluster = WatchServer::new(first, other, short_watches()).await;
    wait_until_stale(&cluster, "410 for every version").await;
}

#[tokio::test]
async fn watcher_is_notified_of_staleness_by_time_and_of_recovery() {
    let first = |request: &RecordedRequest, _| {
        Some(if requests_initial_events(request) { initial_events() } else { String::new() })
    };
    let cluster = WatchServer::new(first, |_| Reply::Disconnect, short_watches()).await;
    cluster.wait_for_rows(&["a Running"]).await;
    let query = ListQuery { kinds: vec![Kind::Pod], ..ListQuery::default() };
    let snapshot =
        cluster.adapter.watch(&permit_all(Verb::List, Kind::Pod), List::Pods, &query).await.unwrap();
    let mut events = snapshot.events;
    trickle(cluster.last_watch(), " ");
    let mut wait_for = async |expected: bool| {
        let received = async {
            loop {
                match events.next().await {
                    Some(ListEvent::Freshness { stale, .. }) if stale == expected => return,
                    Some(_) => {}
                    None => panic!("the stream ended"),
                }
            }
        };
        timeout(TEST_TIMEOUT, received).await.unwrap_or_else(|_| panic!("no event with stale {expected}"));
    };
    wait_for(true).await;
    // sends bookmarks on the watch that is open now
    let proving = async {
        let mut version = 6;
        loop {
            send(&cluster.last_watch(), &bookmark(version));
            version += 1;
            sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = wait_for(false) => {}
        () = proving => {}
    }
}

fn bookmark(version: u64) -> String {
    let metadata = json!({"resourceVersion": version.to_string()});
    format!("{}\n", json!({"type": "BOOKMARK", "object": {"metadata": metadata}}))
}

/// In a cluster without events, the regular end of each watch proves that the rows are current. After a failure, the
/// timeout of a watch is 3 s.
#[tokio::test]
async fn regular_end_of_watch_proves_freshness() {
    let first = |request: &RecordedRequest, _| {
        Some(if requests_initial_events(request) { initial_events() } else { String::new() })
    };
    let settings = CacheSettings { watch: Duration::from_secs(8), ..CacheSettings::default() };
    let cluster = WatchServer::new(first, |_| list(&["a"], 9), settings).await;
    let before = cluster.wait_for_rows(&["a Running"]).await;
    let _ = cluster.last_watch().send(BodyPart::Disconnect);
    wait_until_stale(&cluster, "a broken watch").await;
    let end = Instant::now() + TEST_TIMEOUT;
    let mut ended = 1;
    loop {
        assert!(Instant::now() < end, "the rows are current again before the deadline");
        let all = cluster.watch_targets().len();
        if all > ended {
            ended = all;
            assert!(cluster.watch_targets()[1].contains("timeoutSeconds=3"), "{:?}", cluster.watch_targets());
            sleep(Duration::from_secs(3)).await;
            let _ = cluster.last_watch().send(BodyPart::End);
        }
        let listing = cluster.page().await.unwrap();
        if !listing.stale {
            assert!(listing.as_of >= before.as_of);
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
}
