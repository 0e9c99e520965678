//! Watching a list on the in-memory ports: the events that a reader receives, and the end of the stream.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    cell::Cell,
    thread,
    time::{Duration, Instant},
};

use futures_channel::mpsc::UnboundedSender;
use futures_executor::block_on;
use futures_util::{StreamExt, stream::BoxStream};
use pilothouse_core::{
    Cause, Result,
    access::Caller,
    app::{App, AppSettings},
    error::Reason,
    ids::ClusterId,
    inventory::{
        List, ListEvent, ListStream, ListStreamEvent, LiveEvent, LiveStream, WatchEvent, WatchQuery,
    },
    kind::Kind,
    namespaces::{NamespacePattern, NamespaceScope, NamespaceSet},
    rows::{Change, ListQuery, Row},
    streams::{StreamEvent, StreamLimits},
    testing::{
        fake::{Condition, Fake},
        new_cluster,
    },
};
use serde_json::{json, value::to_raw_value};

struct Fixture {
    fake: Fake,
    app: App,
    cluster: ClusterId,
}

impl Fixture {
    /// A fixture with a cluster that contains two running pods and one pending pod.
    fn with(streams: StreamLimits) -> Self {
        let fake = Fake::default();
        let app = App::new(fake.ports(), AppSettings { streams, ..AppSettings::default() });
        let cluster = new_cluster("demo");
        let cluster = block_on(app.clusters.create(&Caller::system(), cluster)).unwrap().value.id;
        for (name, phase) in [("a", "Running"), ("b", "Pending"), ("c", "Running")] {
            fake.clusters.put(cluster, Kind::Pod, pod(name, phase));
        }
        fake.clusters.calls();
        Self { fake, app, cluster }
    }

    fn watch(&self, more: &[(&str, &str)]) -> Result<ListStream> {
        block_on(self.app.watches.watch(&Caller::system(), self.query(self.cluster, more)?))
    }

    fn query(&self, cluster: ClusterId, more: &[(&str, &str)]) -> Result<WatchQuery> {
        let id = cluster.to_string();
        let pairs = [&[("kind", "pods"), ("cluster_id", &*id), ("namespace", "shop")], more].concat();
        let pairs: Vec<_> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        WatchQuery::parse(&pairs)
    }

    /// Adds or changes a pod, and sends the event of it.
    fn change(&self, events: &UnboundedSender<ListEvent>, name: &str, phase: &str) {
        self.fake.clusters.put(self.cluster, Kind::Pod, pod(name, phase));
        let changes = vec![Change::Added(row(name, phase))];
        events.unbounded_send(ListEvent::Changes(changes.into())).unwrap();
    }
}

fn pod(name: &str, phase: &str) -> serde_json::Value {
    json!({"metadata": {"name": name, "namespace": "shop"}, "status": {"phase": phase}})
}

fn row(name: &str, phase: &str) -> Row {
    row_of(&pod(name, phase))
}

fn row_of(pod: &serde_json::Value) -> Row {
    let project = List::Pods.info().project.unwrap();
    project(Kind::Pod, &to_raw_value(pod).unwrap()).unwrap().remove(0)
}

/// The next event as text.
fn next(stream: &mut ListStream) -> Vec<String> {
    text(block_on(stream.next()).unwrap())
}

fn text(event: ListStreamEvent) -> Vec<String> {
    match event {
        StreamEvent::Next(WatchEvent::Rows(rows)) => {
            rows.iter().map(|(change, row)| format!("{} {}", change.as_str(), row.name())).collect()
        }
        StreamEvent::Next(WatchEvent::Synced { total, .. }) => vec![format!("synced {total}")],
        StreamEvent::Next(WatchEvent::Freshness { stale, .. }) => vec![format!("stale {stale}")],
        StreamEvent::Next(WatchEvent::Window { rows, pagination, stale, .. }) => {
            let names: Vec<_> = rows.iter().map(Row::name).collect();
            vec![format!("window {} of {}, stale {stale}", names.join(" "), pagination.total)]
        }
        StreamEvent::End(end) => vec![format!("end {}", end.reason())],
    }
}

fn eventually(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        thread::yield_now();
    }
}

#[test]
fn watch_sends_rows_first_then_matching_changes() {
    let fixture = Fixture::with(StreamLimits::default());
    let events = fixture.fake.clusters.next_watch();
    let mut stream = fixture.watch(&[("status", "Running")]).unwrap();
    assert_eq!(next(&mut stream), ["added a", "added c"]);
    assert_eq!(next(&mut stream), ["synced 2"]);
    let send = |changes: Vec<Change>| events.unbounded_send(ListEvent::Changes(changes.into())).unwrap();
    // changes that do not match the query
    send(vec![Change::Added(row("d", "Pending")), Change::Removed(row("d", "Pending"))]);
    send(vec![
        Change::Changed(row("b", "Pending"), row("b", "Running")),
        Change::Changed(row("a", "Running"), row("a", "Failed")),
        Change::Removed(row("c", "Running")),
        Change::Added(row("e", "Running")),
    ]);
    assert_eq!(next(&mut stream), ["added b", "removed a", "removed c", "added e"]);
    let mut labelled = pod("b", "Running");
    labelled["metadata"]["labels"] = json!({"app": "web"});
    send(vec![Change::Changed(row("b", "Running"), row_of(&labelled))]);
    assert_eq!(next(&mut stream), ["changed b"]);
    let as_of = "2026-01-01T00:00:00Z".parse().unwrap();
    events.unbounded_send(ListEvent::Freshness { as_of, stale: true }).unwrap();
    assert_eq!(next(&mut stream), ["stale true"]);
}

#[test]
fn watch_of_a_set_sends_rows_and_changes_of_its_namespaces() {
    let in_team = |name: &str| {
        let mut pod = pod(name, "Running");
        pod["metadata"]["namespace"] = json!("team-a");
        pod
    };
    let fixture = Fixture::with(StreamLimits::default());
    fixture.fake.clusters.put(fixture.cluster, Kind::Pod, in_team("t"));
    let events = fixture.fake.clusters.next_watch();
    let set = NamespaceSet::new([NamespacePattern::parse("team-*").unwrap()]);
    let query =
        ListQuery { namespaces: NamespaceScope::Set(set), kinds: vec![Kind::Pod], ..ListQuery::default() };
    let watch =
        WatchQuery { list: List::Pods, cluster: fixture.cluster, query, window: false, objects: None };
    let mut stream = block_on(fixture.app.watches.watch(&Caller::system(), watch)).unwrap();
    assert_eq!([next(&mut stream), next(&mut stream)].concat(), ["added t", "synced 1"]);
    let changes = [
        Change::Removed(row("a", "Running")),
        Change::Added(row_of(&in_team("u"))),
        Change::Changed(row("c", "Running"), row("c", "Failed")),
    ];
    events.unbounded_send(ListEvent::Changes(changes.into())).unwrap();
    assert_eq!(next(&mut stream), ["added u"]);
}

#[test]
fn end_event_contains_the_reason() {
    for (event, reason) in
        [(ListEvent::Lagged, "end lagged"), (ListEvent::ConnectionChanged, "end connection_changed")]
    {
        let fixture = Fixture::with(StreamLimits::default());
        let events = fixture.fake.clusters.next_watch();
        let mut stream = fixture.watch(&[]).unwrap();
        assert_eq!((next(&mut stream).len(), next(&mut stream)), (3, vec!["synced 3".to_owned()]));
        events.unbounded_send(event).unwrap();
        assert_eq!(next(&mut stream), [reason]);
        assert!(block_on(stream.next()).is_none());
        eventually("list watch is closed", || events.is_closed());
    }
}

#[test]
fn cluster_deletion_and_shutdown_end_the_watch() {
    let last = |stream: &mut ListStream| loop {
        if let StreamEvent::End(end) = block_on(stream.next()).unwrap() {
            break end.reason();
        }
    };
    let fixture = Fixture::with(StreamLimits::default());
    let _events = fixture.fake.clusters.next_watch();
    let mut stream = fixture.watch(&[]).unwrap();
    block_on(fixture.app.clusters.delete(&Caller::system(), fixture.cluster)).unwrap();
    assert_eq!(last(&mut stream), "not_found");

    let fixture = Fixture::with(StreamLimits::default());
    let _events = fixture.fake.clusters.next_watch();
    let mut stream = fixture.watch(&[]).unwrap();
    fixture.app.streams.close();
    assert_eq!(last(&mut stream), "server_stopping");
}

#[test]
fn watches_count_against_the_stream_limit_and_free_their_slot() {
    let fixture = Fixture::with(StreamLimits { per_user: 1, ..StreamLimits::default() });
    let events = fixture.fake.clusters.next_watch();
    let stream = fixture.watch(&[]).unwrap();
    assert_eq!(fixture.watch(&[]).err().map(|error| error.cause), Some(Cause::Overloaded));
    drop(stream);
    eventually("list watch is closed", || events.is_closed());
    eventually("stream slot is free", || fixture.watch(&[]).is_ok());
}

#[test]
fn rows_that_are_not_sent_yet_are_limited() {
    // the list has three rows
    let limits = StreamLimits { unsent_rows_per_user: 2, ..StreamLimits::default() };
    let fixture = Fixture::with(limits);
    assert_eq!(fixture.watch(&[]).err().map(|error| error.cause), Some(Cause::Overloaded));
    assert!(fixture.watch(&[("status", "Running")]).is_ok());
    assert!(fixture.watch(&[("page", "1")]).is_ok(), "a page of a list holds no other rows");

    let fixture = Fixture::with(StreamLimits { unsent_rows: 3, ..StreamLimits::default() });
    let mut streams = Vec::new();
    for _ in 0..3 {
        let _events = fixture.fake.clusters.next_watch();
        let mut stream = fixture.watch(&[]).unwrap();
        assert_eq!((next(&mut stream).len(), next(&mut stream)), (3, vec!["synced 3".to_owned()]));
        streams.push(stream);
    }
}

#[test]
fn stalled_reader_is_ended_with_few_rows_buffered() {
    let fixture = Fixture::with(StreamLimits::default());
    let events = fixture.fake.clusters.next_watch();
    let mut stream = fixture.watch(&[]).unwrap();
    let changes: Vec<_> = (0..10_000).map(|n| Change::Added(row(&format!("more-{n}"), "Running"))).collect();
    events.unbounded_send(ListEvent::Changes(changes.into())).unwrap();
    eventually("list watch is closed", || events.is_closed());
    let mut received = 0;
    let end = loop {
        match block_on(stream.next()).unwrap() {
            StreamEvent::Next(WatchEvent::Rows(rows)) => received += rows.len(),
            StreamEvent::Next(_) => {}
            StreamEvent::End(end) => break end.reason(),
        }
    };
    assert_eq!(end, "too_slow");
    assert!(received < 2_000, "{received}");
}

#[test]
fn stalled_reader_of_windows_is_ended_with_few_pages_buffered() {
    let fixture = Fixture::with(StreamLimits::default());
    let watch = || fixture.query(fixture.cluster, &[("per_page", "500")]).unwrap();
    // a page of a watch, and one of a live stream
    for is_live in [false, true] {
        let events = fixture.fake.clusters.next_watch();
        let caller = Caller::system();
        let live = is_live.then(|| fixture.app.watches.live(&caller, vec![watch()]).unwrap());
        let plain = (!is_live).then(|| block_on(fixture.app.watches.watch(&caller, watch())).unwrap());
        let end = Instant::now() + Duration::from_secs(30);
        for n in 0.. {
            assert!(Instant::now() < end, "the list watch is open");
            fixture.fake.clusters.put(fixture.cluster, Kind::Pod, pod(&format!("more-{n}"), "Running"));
            let changes = vec![Change::Added(row("more", "Running"))];
            if events.unbounded_send(ListEvent::Changes(changes.into())).is_err() {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        let (mut pages, mut last) = (0, None);
        let mut stream: BoxStream<'_, ListStreamEvent> = match (live, plain) {
            (Some(live), _) => live
                .map(|event| match event {
                    StreamEvent::Next(LiveEvent { event, .. }) => event,
                    StreamEvent::End(end) => StreamEvent::End(end),
                })
                .boxed(),
            (None, plain) => plain.unwrap().boxed(),
        };
        while let Some(event) = block_on(stream.next()) {
            match event {
                StreamEvent::Next(_) => pages += 1,
                StreamEvent::End(end) => last = Some(end.reason()),
            }
        }
        assert_eq!(last, Some("too_slow"));
        assert!(pages <= 2, "{pages} pages");
    }
}

#[test]
fn window_is_sent_when_its_page_changes() {
    let fixture = Fixture::with(StreamLimits::default());
    let events = fixture.fake.clusters.next_watch();
    let mut stream = fixture.watch(&[("page", "1"), ("per_page", "2"), ("sort", "-name")]).unwrap();
    assert_eq!(next(&mut stream), ["window c b of 3, stale false"]);
    fixture.change(&events, "d", "Running");
    assert_eq!(next(&mut stream), ["window d c of 4, stale false"]);
    // a row that is not on the page: the page is read again, as it is after each sleep of the spawner, and not sent
    fixture.change(&events, "a", "Failed");
    fixture.fake.clusters.calls();
    let reads = Cell::new(0);
    eventually("the page is read twice", || {
        reads.set(reads.get() + fixture.fake.clusters.calls().len());
        reads.get() >= 2
    });
    fixture.change(&events, "c", "Failed");
    assert_eq!(next(&mut stream), ["window d c of 4, stale false"], "another status");
    fixture.change(&events, "0", "Running");
    assert_eq!(next(&mut stream), ["window d c of 5, stale false"], "the total changes");

    let as_of = "2026-01-01T00:00:00Z".parse().unwrap();
    fixture.fake.clusters.set(fixture.cluster, Condition::Cached { as_of, stale: true });
    events.unbounded_send(ListEvent::Freshness { as_of, stale: true }).unwrap();
    assert_eq!(next(&mut stream), ["window d c of 5, stale true"]);
    drop(events);
    assert_eq!(next(&mut stream), ["end connection_changed"]);
    assert!(block_on(stream.next()).is_none());
}

#[test]
fn page_parameters_make_a_window_and_are_checked() {
    let fixture = Fixture::with(StreamLimits::default());
    let refused = |more: &[(&str, &str)]| {
        let error = fixture.query(fixture.cluster, more).unwrap_err();
        let field = &error.context.fields[0];
        (field.name.clone(), field.reason)
    };
    assert_eq!(refused(&[("page", "0")]), ("page".to_owned(), Reason::OutOfRange));
    assert_eq!(refused(&[("per_page", "501")]), ("per_page".to_owned(), Reason::OutOfRange));
    assert_eq!(refused(&[("sort", "labels")]), ("sort".to_owned(), Reason::NotOneOf));
    let cases: [(&[(&str, &str)], bool); 5] = [
        (&[], false),
        (&[("search", "a")], false),
        (&[("page", "2")], true),
        (&[("per_page", "20")], true),
        (&[("sort", "name")], true),
    ];
    for (more, window) in cases {
        assert_eq!(fixture.query(fixture.cluster, more).unwrap().window, window, "{more:?}");
    }
}

#[test]
fn window_goes_on_after_missed_events() {
    let fixture = Fixture::with(StreamLimits::default());
    let events = fixture.fake.clusters.next_watch();
    let more = fixture.fake.clusters.next_watch();
    let mut stream = fixture.watch(&[("page", "1")]).unwrap();
    assert_eq!(next(&mut stream), ["window a b c of 3, stale false"]);
    fixture.fake.clusters.put(fixture.cluster, Kind::Pod, pod("d", "Running"));
    events.unbounded_send(ListEvent::Lagged).unwrap();
    assert_eq!(next(&mut stream), ["window a b c d of 4, stale false"]);
    fixture.change(&more, "e", "Running");
    assert_eq!(next(&mut stream), ["window a b c d e of 5, stale false"]);
    more.unbounded_send(ListEvent::ConnectionChanged).unwrap();
    assert_eq!(next(&mut stream), ["end connection_changed"]);
}

/// The next event of a live stream: the place of its watch and its text; without a place for the end of the stream.
fn next_live(stream: &mut LiveStream) -> (Option<usize>, Vec<String>) {
    match block_on(stream.next()).unwrap() {
        StreamEvent::Next(LiveEvent { sub, event }) => (Some(sub), text(event)),
        StreamEvent::End(end) => (None, vec![format!("end {}", end.reason())]),
    }
}

#[test]
fn live_stream_goes_on_when_one_of_its_watches_is_over() {
    let fixture = Fixture::with(StreamLimits { per_user: 1, ..StreamLimits::default() });
    let events = fixture.fake.clusters.next_watch();
    let watches = vec![
        fixture.query(ClusterId(99), &[]).unwrap(),
        fixture.query(fixture.cluster, &[("page", "1")]).unwrap(),
    ];
    let mut stream = fixture.app.watches.live(&Caller::system(), watches).unwrap();
    let mut first = [next_live(&mut stream), next_live(&mut stream)];
    first.sort();
    assert_eq!(
        first,
        [
            (Some(0), vec!["end not_found".to_owned()]),
            (Some(1), vec!["window a b c of 3, stale false".to_owned()])
        ]
    );
    assert_eq!(
        fixture.watch(&[]).err().map(|error| error.cause),
        Some(Cause::Overloaded),
        "a live stream counts as one"
    );
    fixture.change(&events, "d", "Running");
    assert_eq!(next_live(&mut stream), (Some(1), vec!["window a b c d of 4, stale false".to_owned()]));
    block_on(fixture.app.clusters.delete(&Caller::system(), fixture.cluster)).unwrap();
    assert_eq!(next_live(&mut stream), (Some(1), vec!["end not_found".to_owned()]));
    assert_eq!(next_live(&mut stream), (None, vec!["end not_found".to_owned()]));
    assert!(block_on(stream.next()).is_none());
    eventually("list watch is closed", || events.is_closed());
}

#[test]
fn live_stream_has_one_to_sixteen_watches() {
    let fixture = Fixture::with(StreamLimits::default());
    let refused = |count: usize| {
        let watches = vec![fixture.query(fixture.cluster, &[]).unwrap(); count];
        let error = fixture.app.watches.live(&Caller::system(), watches).err();
        error.map(|error| error.context.fields[0].reason)
    };
    assert_eq!(refused(0), Some(Reason::Required));
    assert_eq!(refused(17), Some(Reason::TooLong));
    assert_eq!(refused(16), None);
}

#[test]
fn stalled_reader_of_a_live_stream_is_ended_with_few_rows_buffered() {
    let fixture = Fixture::with(StreamLimits::default());
    let senders = [fixture.fake.clusters.next_watch(), fixture.fake.clusters.next_watch()];
    let watches = vec![fixture.query(fixture.cluster, &[]).unwrap(); 2];
    let mut stream = fixture.app.watches.live(&Caller::system(), watches).unwrap();
    let changes: Vec<_> = (0..10_000).map(|n| Change::Added(row(&format!("more-{n}"), "Running"))).collect();
    for events in &senders {
        events.unbounded_send(ListEvent::Changes(changes.clone().into())).unwrap();
    }
    eventually("both list watches are closed", || senders.iter().all(UnboundedSender::is_closed));
    let (mut rows, mut end) = (0, None);
    while let Some(event) = block_on(stream.next()) {
        match event {
            StreamEvent::Next(LiveEvent { event: StreamEvent::Next(WatchEvent::Rows(more)), .. }) => {
                rows += more.len();
            }
            StreamEvent::Next(_) => {}
            StreamEvent::End(reason) => end = Some(reason.reason()),
        }
    }
    assert_eq!(end, Some("too_slow"));
    assert!(rows < 200, "{rows}");
}
