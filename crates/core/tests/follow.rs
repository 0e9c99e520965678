//! Following a log on the in-memory ports: the lines that a reader receives, and the end of the stream.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::VecDeque,
    thread,
    time::{Duration, Instant},
};

use futures_executor::block_on;
use futures_util::{FutureExt, StreamExt};
use pilothouse_core::{
    Cause, Error, Result,
    access::Caller,
    app::{App, AppSettings},
    ids::ClusterId,
    kind::Kind,
    name::{Namespace, ObjectName},
    pod::{Follow, FollowStart, LineId, LogEvent, LogLine, LogStream},
    streams::{StreamEnd, StreamLimits},
    testing::{fake::Fake, new_cluster},
};
use serde_json::json;

struct Fixture {
    fake: Fake,
    app: App,
    cluster: ClusterId,
}

impl Fixture {
    fn new() -> Self {
        Self::with(StreamLimits::default())
    }

    fn with(streams: StreamLimits) -> Self {
        let fake = Fake::default();
        let app = App::new(fake.ports(), AppSettings { streams, ..AppSettings::default() });
        let cluster = new_cluster("demo");
        let cluster = block_on(app.clusters.create(&Caller::system(), cluster)).unwrap().value.id;
        fake.clusters.put(cluster, Kind::Pod, json!({"metadata": {"name": "web-0", "namespace": "shop"}}));
        fake.clusters.calls();
        Self { fake, app, cluster }
    }

    fn follow(&self, after: Option<LineId>) -> Result<Followed> {
        let newest = FollowStart::Newest { lines: 100, since_seconds: None };
        let start = after.map_or(newest, FollowStart::After);
        let follow = Follow { container: None, start, timestamps: false };
        let (namespace, pod) = (Namespace::new("shop").unwrap(), ObjectName::new("web-0").unwrap());
        let stream =
            block_on(self.app.pods.follow(&Caller::system(), self.cluster, &namespace, &pod, &follow))?;
        Ok(Followed { stream, unread: VecDeque::new() })
    }
}

fn eventually(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        thread::yield_now();
    }
}

/// A log stream, and the unread lines of its last batch.
#[derive(Debug)]
struct Followed {
    stream: LogStream,
    unread: VecDeque<LogLine>,
}

impl Followed {
    fn next(&mut self) -> Option<Result<LogLine, StreamEnd>> {
        while self.unread.is_empty() {
            match block_on(self.stream.next())? {
                LogEvent::Next(lines) => self.unread.extend(lines),
                LogEvent::End(end) => return Some(Err(end)),
            }
        }
        self.unread.pop_front().map(Ok)
    }
}

fn line(log: &mut Followed) -> (Option<LineId>, String) {
    match log.next() {
        Some(Ok(line)) => (line.id, line.text),
        other => panic!("expected a line: {other:?}"),
    }
}

fn end(log: &mut Followed) -> StreamEnd {
    loop {
        match log.next() {
            Some(Ok(_)) => {}
            Some(Err(end)) => {
                assert_eq!(log.next(), None, "no event follows the end event");
                return end;
            }
            None => panic!("no end event"),
        }
    }
}

#[test]
fn lines_arrive_as_written_and_the_end_is_reported() {
    let fixture = Fixture::new();
    let log = fixture.fake.clusters.next_log();
    let mut stream = fixture.follow(None).unwrap();
    log.unbounded_send(Ok(b"2026-01-01T00:00:00Z o".to_vec())).unwrap();
    assert!(stream.stream.next().now_or_never().is_none(), "an incomplete line is not sent");
    log.unbounded_send(Ok(b"ne\n2026-01-01T00:00:00Z two".to_vec())).unwrap();
    let (first, text) = line(&mut stream);
    assert!(first.unwrap().to_string().starts_with("2026-01-01T00:00:00Z_0_"), "{first:?}");
    assert_eq!(text, "one");
    drop(log);
    assert_eq!(line(&mut stream).1, "two", "the last line needs no newline");
    assert_eq!(end(&mut stream), StreamEnd::Completed);
    assert!(
        fixture.fake.store.all_operations().iter().all(|row| row.operation_type != "logs"),
        "reads are not recorded"
    );

    let log = fixture.fake.clusters.next_log();
    let mut stream = fixture.follow(first).unwrap();
    log.unbounded_send(Ok(b"2026-01-01T00:00:00Z one\n2026-01-01T00:00:00Z two\n".to_vec())).unwrap();
    assert_eq!(line(&mut stream).1, "two");
}

#[test]
fn incomplete_line_of_a_broken_stream_is_not_sent() {
    let fixture = Fixture::new();
    let log = fixture.fake.clusters.next_log();
    let mut stream = fixture.follow(None).unwrap();
    log.unbounded_send(Ok(b"2026-01-01T00:00:00Z one\n2026-01-01T00:00:00Z tw".to_vec())).unwrap();
    log.unbounded_send(Err(Error::new(Cause::ConnectionLost))).unwrap();
    assert_eq!(line(&mut stream).1, "one");
    assert_eq!(stream.next(), Some(Err(StreamEnd::Failed(Error::new(Cause::ConnectionLost)))));
    eventually("cluster stream is closed", || log.is_closed());
}

#[test]
fn dropped_reader_closes_the_cluster_stream() {
    let fixture = Fixture::with(StreamLimits { per_user: 1, ..StreamLimits::default() });
    let log = fixture.fake.clusters.next_log();
    let stream = fixture.follow(None).unwrap();
    assert_eq!(fixture.follow(None).unwrap_err().cause, Cause::Overloaded);
    assert_eq!(fixture.fake.clusters.calls().len(), 1, "a refused stream sends no request to the cluster");
    drop(stream);
    eventually("cluster stream is closed", || log.is_closed());
    eventually("stream slot is free", || fixture.follow(None).is_ok());
}

#[test]
fn stalled_reader_is_ended_and_can_resume() {
    let fixture = Fixture::new();
    let log = fixture.fake.clusters.next_log();
    let mut stream = fixture.follow(None).unwrap();
    let lines = || (0..100).map(|n| format!("2026-01-01T00:00:00Z {n}\n").into_bytes());
    for line in lines() {
        log.unbounded_send(Ok(line)).unwrap();
    }
    eventually("cluster stream is closed", || log.is_closed());
    let (mut read, mut last) = (Vec::new(), None);
    let end = loop {
        match stream.next().unwrap() {
            Ok(line) => (last, _) = (line.id, read.push(line.text)),
            Err(end) => break end,
        }
    };
    assert_eq!(end, StreamEnd::TooSlow);
    assert!((1..20).contains(&read.len()), "few lines are buffered: {}", read.len());

    let log = fixture.fake.clusters.next_log();
    let mut stream = fixture.follow(last).unwrap();
    log.unbounded_send(Ok(lines().collect::<Vec<_>>().concat())).unwrap();
    let next = read.len();
    assert_eq!(line(&mut stream).1, next.to_string());
}

#[test]
fn deleted_cluster_ends_its_streams() {
    let fixture = Fixture::new();
    let _log = fixture.fake.clusters.next_log();
    let mut stream = fixture.follow(None).unwrap();
    block_on(fixture.app.clusters.delete(&Caller::system(), fixture.cluster)).unwrap();
    assert_eq!(end(&mut stream).reason(), "not_found");
}

#[test]
fn shutdown_ends_all_streams() {
    let fixture = Fixture::new();
    let silent = fixture.fake.clusters.next_log();
    let mut streams = [fixture.follow(None).unwrap(), fixture.follow(None).unwrap()];
    fixture.app.streams.close();
    assert_eq!(end(&mut streams[0]), StreamEnd::ServerStopping);
    eventually("cluster stream is closed", || silent.is_closed());
    assert_eq!(fixture.follow(None).unwrap_err().cause, Cause::Overloaded);
}
