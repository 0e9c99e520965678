//! `stale: false` of a cached list: never without a proof that is younger than the clock allows, whatever bytes arrive.
//! A proof is a whole event, a bookmark, or the end of a watch in its time. The clock is set to one second and a quarter.

use futures_util::StreamExt;
use pilothouse_core::inventory::ListEvent;
use pilothouse_kube::CacheSettings;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::cache::{Watch, WatchSnapshot, error, event, from_the_beginning, list, say, told};

const PATIENCE: Duration = Duration::from_secs(20);

fn short() -> CacheSettings {
    CacheSettings { watch: Duration::from_secs(1), ..CacheSettings::default() }
}

fn all() -> String {
    event("ADDED", "a", 2, "Running") + &told(5)
}

/// Says this again and again, until the watch is over.
fn trickle(watch: Watch, text: &'static str) {
    tokio::spawn(async move {
        while !watch.is_closed() {
            say(&watch, text);
            sleep(Duration::from_millis(100)).await;
        }
    });
}

async fn becomes_stale(watched: &WatchSnapshot, what: &str) {
    let listing = watched.becomes(|listing| listing.stale, what).await;
    assert_eq!(names(&listing), ["a"], "{what}");
}

#[tokio::test]
async fn bytes_that_are_no_event_prove_nothing() {
    for text in [" ", "{", "{\"type\""] {
        // every later watch trickles, too
        let first = |asked: &Asked, _| Some(if from_the_beginning(asked) { all() } else { String::new() });
        let watched = WatchSnapshot::new(first, |_| Reply::Close, short()).await;
        watched.shows(&["a Running"]).await;
        trickle(watched.newest(), text);
        becomes_stale(&watched, text).await;
    }
}

/// A server that accepts every watch anew, and says nothing on any, proves nothing either.
#[tokio::test]
async fn a_watch_that_only_begins_proves_nothing() {
    let first = |asked: &Asked, _| Some(if from_the_beginning(asked) { all() } else { String::new() });
    let watched = WatchSnapshot::new(first, |_| list(&["a"], 9), short()).await;
    watched.shows(&["a Running"]).await;
    let over = Instant::now() + Duration::from_secs(4);
    becomes_stale(&watched, "silence").await;
    // each new watch is ended at once
    let mut ended = 0;
    while Instant::now() < over {
        let all = watched.watched().len();
        if all > ended {
            ended = all;
            let _ = watched.newest().send(Sent::End);
        }
        assert!(watched.page().await.unwrap().stale, "after {ended} watches");
        sleep(Duration::from_millis(20)).await;
    }
}

/// What is told slowly after the version was forgotten is not what is shown.
#[tokio::test]
async fn while_all_is_read_anew_the_old_rows_are_stale() {
    let first = |asked: &Asked, before: usize| match (from_the_beginning(asked), before) {
        (true, 0) => Some(all()),
        // one object, and never the end of all
        (true, _) => Some(event("ADDED", "b", 6, "Running")),
        (false, _) => Some(error(410)),
    };
    let keeping = CacheSettings::default();
    let watched = WatchSnapshot::new(first, |_| Reply::Silence, keeping).await;
    let fresh = watched.shows(&["a Running"]).await;
    assert!(!fresh.stale);
    let _ = watched.newest().send(Sent::Break);
    becomes_stale(&watched, "the version is forgotten").await;
    let end = Instant::now() + PATIENCE;
    while watched.watched().iter().filter(|target| target.contains("sendInitialEvents=true")).count() < 2 {
        assert!(Instant::now() < end, "all is read anew");
        assert!(watched.page().await.unwrap().stale);
        sleep(Duration::from_millis(20)).await;
    }
    assert!(watched.page().await.unwrap().stale, "while it is being read");
}

#[tokio::test]
async fn a_server_that_forgets_every_version_never_has_fresh_rows() {
    let first = |asked: &Asked, before: usize| match (from_the_beginning(asked), before) {
        (true, 0) => Some(all() + &error(410)),
        _ => None,
    };
    let other = |_: &Asked| Reply::status(410, "Expired", "too old resource version", json!({}));
    let watched = WatchSnapshot::new(first, other, short()).await;
    becomes_stale(&watched, "410 again and again").await;
}

#[tokio::test]
async fn who_watches_is_told_when_time_alone_makes_the_rows_stale_and_when_they_are_proven() {
    let first = |asked: &Asked, _| Some(if from_the_beginning(asked) { all() } else { String::new() });
    let watched = WatchSnapshot::new(first, |_| Reply::Close, short()).await;
    watched.shows(&["a Running"]).await;
    let query = ListQuery { kinds: vec![Kind::Pod], ..ListQuery::default() };
    let seen = watched.adapter.watch(&permit_all(Verb::List, Kind::Pod), List::Pods, &query).await.unwrap();
    let mut events = seen.events;
    trickle(watched.newest(), " ");
    let mut wait_for = async |expected: bool| {
        let told = async {
            loop {
                match events.next().await {
                    Some(ListEvent::Freshness { stale, .. }) if stale == expected => return,
                    Some(_) => {}
                    None => panic!("the stream ended"),
                }
            }
        };
        timeout(PATIENCE, told).await.unwrap_or_else(|_| panic!("told that stale is {expected}"));
    };
    wait_for(true).await;
    // a bookmark on whichever watch is open now
    let proving = async {
        let mut version = 6;
        loop {
            say(&watched.newest(), &bookmark(version));
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

/// A quiet cluster is fresh: its server ends each watch in its time. After a failure that is 3 s.
#[tokio::test]
async fn the_end_of_a_watch_in_its_time_is_a_proof() {
    let first = |asked: &Asked, _| Some(if from_the_beginning(asked) { all() } else { String::new() });
    let keeping = CacheSettings { watch: Duration::from_secs(8), ..CacheSettings::default() };
    let watched = WatchSnapshot::new(first, |_| list(&["a"], 9), keeping).await;
    let before = watched.shows(&["a Running"]).await;
    let _ = watched.newest().send(Sent::Break);
    becomes_stale(&watched, "a broken watch").await;
    let end = Instant::now() + PATIENCE;
    let mut ended = 1;
    loop {
        assert!(Instant::now() < end, "fresh again");
        let all = watched.watched().len();
        if all > ended {
            ended = all;
            assert!(watched.watched()[1].contains("timeoutSeconds=3"), "{:?}", watched.watched());
            sleep(Duration::from_secs(3)).await;
            let _ = watched.newest().send(Sent::End);
        }
        let listing = watched.page().await.unwrap();
        if !listing.stale {
            assert!(listing.as_of >= before.as_of);
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
}
