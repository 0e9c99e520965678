//! Lists that are kept, fed by servers that do what good and bad ones do.

use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use pilothouse_core::inventory::{Change, ListEvent};
use pilothouse_kube::CacheSettings;
use tokio::{
    sync::mpsc::{UnboundedSender, unbounded_channel},
    time::{Instant, sleep},
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// A watch that is under way: where a test writes what the server says.
pub(super) type Watch = UnboundedSender<Sent>;

/// A server whose watches of pods are the test's; `begin` answers each watch, given how many came before.
pub(super) struct WatchSnapshot {
    pub(super) server: FakeServer,
    pub(super) adapter: KubeClusters,
    watches: Arc<Mutex<Vec<Watch>>>,
}

pub(super) fn event(kind: &str, name: &str, version: u64, phase: &str) -> String {
    let metadata = json!({"name": name, "namespace": "shop", "resourceVersion": version.to_string()});
    format!("{}\n", json!({"type": kind, "object": {"metadata": metadata, "status": {"phase": phase}}}))
}

/// All has been told, up to this version.
pub(super) fn told(version: u64) -> String {
    let annotations = json!({"k8s.io/initial-events-end": "true"});
    let metadata = json!({"resourceVersion": version.to_string(), "annotations": annotations});
    format!("{}\n", json!({"type": "BOOKMARK", "object": {"metadata": metadata}}))
}

pub(super) fn error(code: u16) -> String {
    format!("{}\n", json!({"type": "ERROR", "object": {"kind": "Status", "code": code, "metadata": {}}}))
}

pub(super) fn say(watch: &Watch, text: &str) {
    // a watch that the other side has ended hears nothing
    let _ = watch.send(Sent::Bytes(text.as_bytes().to_vec()));
}

/// A list of a version.
pub(super) fn list(names: &[&str], version: u64) -> Reply {
    let items: Vec<_> =
        names.iter().map(|name| json!({"metadata": {"name": name, "namespace": "shop"}})).collect();
    let metadata = json!({"resourceVersion": version.to_string()});
    Reply::json(200, &json!({"kind": "PodList", "metadata": metadata, "items": items}))
}

pub(super) fn is_watch(asked: &Asked) -> bool {
    asked.target.contains("watch=true") || asked.target.contains("watch=1")
}

impl WatchSnapshot {
    /// `first` is what each watch says at once, by how many came before; none is answered by `other`, as is all else.
    pub(super) async fn new(
        first: impl Fn(&Asked, usize) -> Option<String> + Send + Sync + 'static,
        other: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
        keeping: CacheSettings,
    ) -> Self {
        let watches = Arc::<Mutex<Vec<Watch>>>::default();
        let begun = watches.clone();
        let server = FakeServer::start(move |asked, _| {
            if is_watch(asked) {
                let (write, read) = unbounded_channel();
                let mut begun = begun.lock().unwrap();
                if let Some(text) = first(asked, begun.len()) {
                    say(&write, &text);
                    begun.push(write);
                    return Reply::Following(read);
                }
            }
            other(asked)
        })
        .await;
        let connection = by_token(&server.address, Some(&server.ca), TOKEN);
        let adapter = common::with_cache(connection, SHORT, keeping).0;
        Self { server, adapter, watches }
    }

    /// Every watch from the beginning tells of pods `a` and `b` in version 5.
    pub(super) async fn usual() -> Self {
        Self::new(
            |asked, _| {
                let all = event("ADDED", "b", 3, "Running") + &event("ADDED", "a", 2, "Running") + &told(5);
                Some(if from_the_beginning(asked) { all } else { String::new() })
            },
            |_| list(&["direct"], 5),
            CacheSettings::default(),
        )
        .await
    }

    pub(super) fn newest(&self) -> Watch {
        self.watches.lock().unwrap().last().cloned().expect("a watch")
    }

    pub(super) async fn page(&self) -> Result<Listing> {
        let query = ListQuery { kinds: vec![Kind::Pod], ..ListQuery::default() };
        self.adapter.page(&permit_all(Verb::List, Kind::Pod), List::Pods, &query).await
    }

    /// The names and states of the pods shown, as soon as they are as expected.
    pub(super) async fn shows(&self, expected: &[&str]) -> Listing {
        self.becomes(|listing| shown(listing) == expected, &format!("{expected:?}")).await
    }

    pub(super) async fn becomes(&self, as_expected: impl Fn(&Listing) -> bool, what: &str) -> Listing {
        let end = Instant::now() + PATIENCE;
        loop {
            // on a busy machine the first rows may take longer than one read may
            let listing = self.page().await;
            match listing {
                Ok(listing) if as_expected(&listing) => return listing,
                _ => {}
            }
            let told = listing.as_ref().map(|listing| (shown(listing), listing.stale));
            assert!(Instant::now() < end, "{what}, but {told:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// What was asked besides watches.
    pub(super) fn lists(&self) -> usize {
        self.server.asked().iter().filter(|asked| !is_watch(asked)).count()
    }

    pub(super) fn watched(&self) -> Vec<String> {
        self.server.asked().into_iter().filter(is_watch).map(|asked| asked.target).collect()
    }
}

pub(super) fn from_the_beginning(asked: &Asked) -> bool {
    asked.target.contains("sendInitialEvents=true")
}

fn shown(listing: &Listing) -> Vec<String> {
    let row = |row: &pilothouse_core::inventory::Row| {
        let json: Value = serde_json::from_str(row.json()).unwrap();
        format!("{} {}", row.name(), json["status"].as_str().unwrap_or_default())
    };
    listing.rows.iter().map(row).collect()
}

#[tokio::test]
async fn a_list_is_read_once_and_then_follows_what_happens() {
    let watched = WatchSnapshot::usual().await;
    let listing = watched.shows(&["a Running", "b Running"]).await;
    assert!(!listing.stale && listing.warnings.is_empty());
    let watch = watched.newest();
    say(&watch, &(event("MODIFIED", "a", 6, "Failed") + &event("DELETED", "b", 7, "Running")));
    // a line in two pieces
    let added = event("ADDED", "c", 8, "Pending");
    say(&watch, &added[..20]);
    say(&watch, &added[20..]);
    watched.shows(&["a Failed", "c Pending"]).await;
    assert_eq!((watched.lists(), watched.watched().len()), (0, 1), "one answer told it all");
    let figures = watched.adapter.list_cache_stats();
    assert_eq!((figures[0].list, figures[0].clusters, figures[0].rows, figures[0].fills), ("pods", 1, 2, 1));
}

#[tokio::test]
async fn what_happens_while_all_is_told_is_not_lost() {
    let first = |asked: &Asked, _| {
        from_the_beginning(asked).then(|| {
            [
                event("ADDED", "a", 2, "Running"),
                event("ADDED", "b", 3, "Running"),
                event("MODIFIED", "a", 6, "Failed"),
                event("DELETED", "b", 7, "Running"),
                event("ADDED", "c", 8, "Pending"),
                told(8),
            ]
            .concat()
        })
    };
    let watched = WatchSnapshot::new(first, |_| Reply::Close, CacheSettings::default()).await;
    watched.shows(&["a Failed", "c Pending"]).await;
}

#[tokio::test]
async fn a_server_that_cannot_tell_all_in_a_watch_is_listed() {
    let unknown = || Reply::status(422, "Invalid", "sendInitialEvents is forbidden", json!({}));
    type First = fn(&Asked) -> Option<String>;
    let cases: [(&str, First); 4] = [
        ("refuses", |_| None),
        ("ignores it", |_| Some(event("ADDED", "synthetic", 2, "Running"))),
        ("answers with a list", |_| Some(json!({"kind": "PodList", "items": []}).to_string() + "\n")),
        ("ends at once", |_| None),
    ];
    for (case, first) in cases {
        let first = move |asked: &Asked, _| match from_the_beginning(asked) {
            true => first(asked),
            false => {
                assert!(asked.target.contains("resourceVersion=5"), "{}", asked.target);
                Some(event("ADDED", "b", 6, "Running"))
            }
        };
        let other = move |asked: &Asked| match is_watch(asked) {
            true if case == "ends at once" => Reply::Body(200, vec![], String::new()),
            true => unknown(),
            false => list(&["a"], 5),
        };
        let watched = WatchSnapshot::new(first, other, CacheSettings::default()).await;
        watched.becomes(|listing| names(listing) == ["a", "b"], case).await;
        assert_eq!(watched.lists(), 1, "{case}");
    }
}

#[tokio::test]
async fn without_the_right_to_watch_lists_are_read_each_time_and_say_so() {
    let forbidden = || Reply::status(403, "Forbidden", "cannot watch", json!({}));
    let other = move |asked: &Asked| if is_watch(asked) { forbidden() } else { list(&["direct"], 5) };
    let watched = WatchSnapshot::new(|_, _| None, other, CacheSettings::default()).await;
    for lists in 1..=2 {
        let listing = watched.page().await.unwrap();
        assert_eq!(names(&listing), ["direct"]);
        assert_eq!(listing.warnings, [Warning::NotCached("pods")]);
        assert_eq!(watched.lists(), lists);
    }
    let query = ListQuery { kinds: vec![Kind::Pod], ..ListQuery::default() };
    let refused = watched.adapter.watch(&permit_all(Verb::List, Kind::Pod), List::Pods, &query).await;
    assert_eq!(refused.err().map(|error| error.cause), Some(Cause::ForbiddenByCluster));
}

#[tokio::test]
async fn a_list_too_large_to_be_kept_is_read_each_time() {
    let keeping = CacheSettings { memory: 6 << 20, ..CacheSettings::default() };
    let first = |asked: &Asked, _| {
        let large = "x".repeat(200_000);
        let pod = |n: usize| {
            let metadata = json!({"name": format!("p{n}"), "namespace": "shop", "labels": {"large": large}, "resourceVersion": "2"});
            format!("{}\n", json!({"type": "ADDED", "object": {"metadata": metadata}}))
        };
        from_the_beginning(asked).then(|| (0..60).map(pod).collect::<String>() + &told(5))
    };
    let watched = WatchSnapshot::new(first, |_| list(&["direct"], 5), keeping).await;
    let listing = watched.page().await.unwrap();
    assert_eq!(names(&listing), ["direct"]);
    assert_eq!(listing.warnings, [Warning::NotCached("pods")]);
}

#[tokio::test]
async fn what_the_server_has_forgotten_is_read_anew() {
    // by a status and by an event; each time the first watch from the beginning tells of another world
    for by_status in [true, false] {
        let first = move |asked: &Asked, before: usize| match (from_the_beginning(asked), before) {
            (true, 0) => Some(event("ADDED", "old", 2, "Running") + &told(5)),
            (true, _) => Some(event("ADDED", "new", 90, "Running") + &told(90)),
            (false, _) if by_status => None,
            (false, _) => Some(error(410)),
        };
        let gone = |_: &Asked| Reply::status(410, "Expired", "too old resource version", json!({}));
        let watched = WatchSnapshot::new(first, gone, CacheSettings::default()).await;
        watched.shows(&["old Running"]).await;
        let _ = watched.newest().send(Sent::Break);
        watched.shows(&["new Running"]).await;
        assert!(watched.watched().iter().any(|target| target.contains("resourceVersion=5")));
    }
}

#[tokio::test]
async fn a_broken_watch_goes_on_from_where_it_was_and_an_ended_one_too() {
    let first = |asked: &Asked, _| {
        Some(match from_the_beginning(asked) {
            true => event("ADDED", "a", 2, "Running") + &told(5),
            false => String::new(),
        })
    };
    let watched = WatchSnapshot::new(first, |_| list(&["a"], 7), CacheSettings::default()).await;
    watched.shows(&["a Running"]).await;
    for (sent, version) in [(Sent::Break, 6), (Sent::End, 7)] {
        let before = watched.watched().len();
        let watch = watched.newest();
        say(&watch, &event("MODIFIED", "a", version, "Failed"));
        watched.shows(&["a Failed"]).await;
        let _ = watch.send(sent);
        let end = Instant::now() + PATIENCE;
        while watched.watched().len() == before {
            assert!(Instant::now() < end, "watched again");
            sleep(Duration::from_millis(20)).await;
        }
        let target = watched.watched().pop().unwrap();
        assert!(target.contains(&format!("resourceVersion={version}")), "{target}");
        assert!(!target.contains("sendInitialEvents=true"));
    }
}

#[tokio::test]
async fn versions_that_go_backwards_are_another_world() {
    let first = |asked: &Asked, before: usize| match (from_the_beginning(asked), before) {
        (true, 0) => Some(event("ADDED", "a", 50, "Running") + &told(90)),
        (true, _) => Some(event("ADDED", "restored", 50, "Running") + &told(60)),
        // the snapshot is older than what was shown; the server is silent, as a real one is, and ends the watch
        (false, _) => Some(String::new()),
    };
    let watched = WatchSnapshot::new(first, |_| list(&["restored"], 60), CacheSettings::default()).await;
    watched.shows(&["a Running"]).await;
    let _ = watched.newest().send(Sent::Break);
    let resumed = Instant::now() + PATIENCE;
    while watched.watched().len() < 2 {
        assert!(Instant::now() < resumed);
        sleep(Duration::from_millis(20)).await;
    }
    let _ = watched.newest().send(Sent::End);
    watched.shows(&["restored Running"]).await;
}

#[tokio::test]
async fn a_list_stays_readable_while_its_cluster_is_away_and_says_so() {
    let WatchSnapshot { server, adapter, watches } = WatchSnapshot::usual().await;
    let query = ListQuery { kinds: vec![Kind::Pod], ..ListQuery::default() };
    let permit = permit_all(Verb::List, Kind::Pod);
    let page = async || adapter.page(&permit, List::Pods, &query).await.unwrap();
    let fresh = page().await;
    assert!(!fresh.stale);
    let mut events = adapter.watch(&permit, List::Pods, &query).await.unwrap().events;
    drop(server);
    let _ = watches.lock().unwrap().last().unwrap().send(Sent::Break);
    let event = tokio::time::timeout(PATIENCE, events.next()).await.unwrap();
    assert!(matches!(event, Some(ListEvent::Freshness { stale: true, .. })), "{event:?}");
    let stale = page().await;
    assert_eq!((names(&stale), stale.stale), (vec!["a", "b"], true));
    assert!(stale.as_of >= fresh.as_of);
    assert_eq!(adapter.list_cache_stats()[0].stale, 1);
}

#[tokio::test]
async fn who_watches_is_told_of_every_change_after_the_rows() {
    let watched = WatchSnapshot::usual().await;
    watched.shows(&["a Running", "b Running"]).await;
    let query = ListQuery { kinds: vec![Kind::Pod], per_page: 1, ..ListQuery::default() };
    let seen = watched.adapter.watch(&permit_all(Verb::List, Kind::Pod), List::Pods, &query).await.unwrap();
    assert_eq!(seen.rows.iter().map(|row| row.name()).collect::<Vec<_>>(), ["a", "b"], "not a page, all");
    let watch = watched.newest();
    say(&watch, &(event("MODIFIED", "a", 6, "Failed") + &event("MODIFIED", "a", 7, "Failed")));
    say(&watch, &(event("ADDED", "c", 8, "Pending") + &event("DELETED", "b", 9, "Running")));
    let (mut events, mut told) = (seen.events, Vec::new());
    while told.len() < 3 {
        let event = tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap();
        let ListEvent::Changes(changes) = event else { panic!("{event:?}") };
        told.extend(changes.iter().map(|change| match change {
            Change::Added(row) => format!("+{}", row.name()),
            Change::Changed(_, row) => format!("~{}", row.name()),
            Change::Removed(row) => format!("-{}", row.name()),
        }));
    }
    assert_eq!(told, ["~a", "+c", "-b"], "what did not change a row is told to nobody");
}

#[tokio::test]
async fn a_change_made_here_is_in_the_next_list() {
    // ConfigMaps: a create, answered with version 9; the watch tells of it a moment later, or never
    for told_in_time in [true, false] {
        let first = |asked: &Asked, _| from_the_beginning(asked).then(|| told(5));
        let other = |asked: &Asked| {
            let metadata = json!({"name": "settings", "namespace": "shop", "resourceVersion": "9"});
            match asked.method.as_str() {
                "POST" => Reply::json(201, &json!({"kind": "ConfigMap", "metadata": metadata})),
                _ => Reply::json(
                    200,
                    &json!({"kind": "ConfigMapList", "metadata": {}, "items": [{"metadata": metadata}]}),
                ),
            }
        };
        let watched = WatchSnapshot::new(first, other, CacheSettings::default()).await;
        let query = ListQuery { kinds: vec![Kind::ConfigMap], ..ListQuery::default() };
        let permit = permit_all(Verb::List, Kind::ConfigMap);
        let page = async || watched.adapter.page(&permit, List::ConfigMaps, &query).await.unwrap();
        assert!(page().await.rows.is_empty());
        create(&watched.adapter).await.unwrap();
        let watch = watched.newest();
        if told_in_time {
            let later = tokio::spawn(async move {
                sleep(Duration::from_millis(300)).await;
                say(&watch, &event("ADDED", "settings", 9, ""));
            });
            assert_eq!(names(&page().await), ["settings"]);
            later.await.unwrap();
            assert_eq!(watched.lists(), 1, "the POST alone");
        } else {
            assert_eq!(names(&page().await), ["settings"], "read from the cluster");
        }
    }
}

#[tokio::test]
async fn a_deletion_made_here_is_in_the_next_list() {
    let first = |asked: &Asked, _| {
        from_the_beginning(asked)
            .then(|| event("ADDED", "settings", 2, "") + &event("ADDED", "other", 3, "") + &told(5))
    };
    let other = |_: &Asked| {
        Reply::json(200, &json!({"kind": "Status", "status": "Success", "details": {"uid": "1"}}))
    };
    let watched = WatchSnapshot::new(first, other, CacheSettings::default()).await;
    let query = ListQuery { kinds: vec![Kind::ConfigMap], ..ListQuery::default() };
    let list = permit_all(Verb::List, Kind::ConfigMap);
    let page = async || watched.adapter.page(&list, List::ConfigMaps, &query).await.unwrap();
    assert_eq!(names(&page().await), ["other", "settings"]);
    let delete = permit(Verb::Delete, Kind::ConfigMap, "shop");
    watched.adapter.delete_configmap(&delete, &object("settings")).await.unwrap();
    let watch = watched.newest();
    let later = tokio::spawn(async move {
        sleep(Duration::from_millis(300)).await;
        say(&watch, &event("DELETED", "settings", 9, ""));
    });
    assert_eq!(names(&page().await), ["other"]);
    later.await.unwrap();
}

#[tokio::test]
async fn a_cluster_that_was_never_reached_has_no_list() {
    let watched = WatchSnapshot::usual().await;
    let address = watched.server.address.clone();
    let ca = watched.server.ca.clone();
    drop(watched);
    let adapter = common::with_cache(by_token(&address, Some(&ca), TOKEN), SHORT, CacheSettings::default()).0;
    let query = ListQuery { kinds: vec![Kind::Pod], ..ListQuery::default() };
    let error = adapter.page(&permit_all(Verb::List, Kind::Pod), List::Pods, &query).await.unwrap_err();
    assert_eq!(error.cause, Cause::Unreachable);
    // whoever asks while the next try is far away does not wait for it
    for _ in 0..8 {
        let asked = Instant::now();
        adapter.page(&permit_all(Verb::List, Kind::Pod), List::Pods, &query).await.unwrap_err();
        assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    }
}

#[tokio::test]
async fn lists_are_of_the_connection_that_is_stored_now() {
    let [old, new] = [WatchSnapshot::usual().await, WatchSnapshot::usual().await];
    let connection = |of: &WatchSnapshot| by_token(&of.server.address, Some(&of.server.ca), TOKEN);
    let (adapter, registry) = common::with_cache(connection(&old), SHORT, CacheSettings::default());
    let query = ListQuery { kinds: vec![Kind::Pod], ..ListQuery::default() };
    let permit = permit_all(Verb::List, Kind::Pod);
    adapter.page(&permit, List::Pods, &query).await.unwrap();
    let mut events = adapter.watch(&permit, List::Pods, &query).await.unwrap().events;
    registry.set(connection(&new), 2);
    adapter.page(&permit, List::Pods, &query).await.unwrap();
    assert_eq!((old.watched().len(), new.watched().len()), (1, 1));
    let last = tokio::time::timeout(PATIENCE, events.next()).await.unwrap();
    assert!(matches!(last, Some(ListEvent::ConnectionChanged)), "{last:?}");
}
