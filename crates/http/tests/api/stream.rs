//! Followed logs: events, and over a socket how they begin and end.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use actix_web::{rt::System, test::TestRequest};
use pilothouse_core::access::Caller;
use pilothouse_http::HttpSettings;
use serde_json::{Value, json};

use crate::{
    socket::{Running, eventually},
    test_app::TestApp,
};

const PATH: &str = "/api/k8s/pods/logs/stream";

fn query(cluster: i64) -> String {
    format!("cluster_id={cluster}&namespace=shop&pod_name=web-0")
}

/// An event as its reader sees it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Event {
    event: String,
    id: String,
    data: String,
}

impl Event {
    /// The reason of an end.
    fn reason(&self) -> String {
        assert_eq!(self.event, "end", "{self:?}");
        serde_json::from_str::<Value>(&self.data).unwrap()["reason"].as_str().unwrap().to_owned()
    }
}

/// Reads one event, passing over comments; none at the end of the stream.
fn event(lines: &mut impl Iterator<Item = String>) -> Option<Event> {
    let mut event = Event::default();
    for line in lines.by_ref() {
        match line.split_once(": ") {
            Some(("event", text)) => event.event = text.to_owned(),
            Some(("id", text)) => event.id = text.to_owned(),
            Some(("data", text)) => event.data.push_str(text),
            _ if line.is_empty() && event != Event::default() => return Some(event),
            _ => assert!(line.is_empty() || line.starts_with(':'), "{line:?}"),
        }
    }
    None
}

fn events(text: &str) -> Vec<Event> {
    let mut lines = text.split('\n').map(str::to_owned);
    std::iter::from_fn(|| event(&mut lines)).collect()
}

#[actix_web::test]
async fn a_stream_is_events_and_says_why_it_ended() {
    let house = TestApp::new().await;
    let viewer = house.login("viewer").await;
    let reply = house.get(&viewer, PATH, &query(house.cluster)).await;
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
    assert!(reply.header("x-request-id").is_some());
    assert!(reply.text.starts_with(":\n\n"), "a comment first: {:?}", reply.text);
    let all = events(&reply.text);
    assert_eq!((all[0].event.as_str(), all[0].data.as_str()), ("log", "a line"));
    let end: Value = serde_json::from_str(&all[1].data).unwrap();
    let details = "The container has ended and its whole log was sent";
    assert_eq!(end, json!({"reason": "completed", "error_code": null, "details": details}));
    assert_eq!(all.len(), 2);

    let stamped = house.get(&viewer, PATH, &format!("{}&timestamps=true", query(house.cluster))).await;
    assert_eq!(events(&stamped.text)[0].data, "2026-01-01T00:00:00Z a line");

    let bearer = format!("Bearer {}", viewer.credentials.bearer.unwrap());
    let cookie = format!("session_id={}", viewer.credentials.cookie.unwrap());
    let resume = async |ids: &[&str]| {
        let mut request = TestRequest::get().uri(&format!("{PATH}?{}", query(house.cluster)));
        request = request.insert_header(("authorization", bearer.as_str()));
        request = request.insert_header(("cookie", cookie.as_str()));
        for id in ids {
            request = request.append_header(("last-event-id", *id));
        }
        house.send(request).await
    };
    assert_eq!(events(&resume(&[&all[0].id]).await.text)[0].reason(), "completed");
    assert_eq!(events(&resume(&[""]).await.text)[0].data, "a line", "as of a reader that has none yet");
    assert_eq!(resume(&["nonsense"]).await.fields(), ["Last-Event-ID=malformed"]);
    assert_eq!(resume(&["\u{e9}"]).await.fields(), ["Last-Event-ID=malformed"]);
    assert_eq!(resume(&[&all[0].id, &all[0].id]).await.fields(), ["Last-Event-ID=duplicate"]);
}

#[actix_web::test]
async fn what_is_refused_is_refused_before_the_first_event() {
    let house = TestApp::new().await;
    let viewer = house.login("viewer").await;
    let query = query(house.cluster);
    let refused = async |query: &str| {
        let reply = house.get(&viewer, PATH, query).await;
        assert_eq!(reply.header("content-type"), Some("application/json"), "{query}");
        reply
    };
    for (more, field) in [
        ("&tail_lines=0", "tail_lines=out_of_range"),
        ("&tail_lines=10001", "tail_lines=out_of_range"),
        ("&since_seconds=0", "since_seconds=out_of_range"),
        ("&previous=true", "previous=unknown"),
        ("&container=A", "container=invalid_name"),
        ("&timestamps=1", "timestamps=invalid_type"),
    ] {
        assert_eq!(refused(&format!("{query}{more}")).await.fields(), [field]);
    }
    let absent = refused(&query.replace("web-0", "web-1")).await;
    assert_eq!(absent.refusal(), (404, "RESOURCE_NOT_FOUND".into(), "not_found_in_cluster".into()));
    house.fake.clusters.fail(Some(pilothouse_core::Cause::ContainerNotStarted));
    let waiting = refused(&query).await;
    assert_eq!(waiting.refusal(), (409, "CONFLICT_ERROR".into(), "container_not_started".into()));
    house.app.pods.end_streams();
    let stopping = refused(&query).await;
    assert_eq!(stopping.refusal(), (503, "SERVICE_UNAVAILABLE".into(), "overloaded".into()));
    assert!(stopping.header("retry-after").is_some());
}

impl Running {
    /// Follows a log as a viewer, until the head of the answer has come.
    pub(crate) fn follow(&self) -> BufReader<TcpStream> {
        let headers = self.login("viewer").headers().into_iter();
        let headers: String = headers.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let mut stream = self.connect();
        let head = format!("GET {PATH}?{} HTTP/1.1\r\nhost: x\r\n{headers}\r\n", query(self.cluster));
        stream.write_all(head.as_bytes()).unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "no answer: {head}");
        }
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        reader
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    System::new().block_on(work)
}

/// The lines of a chunked answer; those that belong to the chunks end with a carriage return, those of events do not.
fn lines(reader: BufReader<TcpStream>) -> impl Iterator<Item = String> {
    let lines = reader.split(b'\n').map_while(Result::ok).map(|line| String::from_utf8(line).unwrap());
    lines.filter(|line| !line.ends_with('\r'))
}

/// What a log of many lines sends at once.
fn many_lines(from: usize) -> Vec<u8> {
    let line = |n| format!("2026-01-01T00:00:00Z {n:0100}\n");
    (from..from + 1000).map(line).collect::<String>().into_bytes()
}

#[test]
fn lines_come_as_they_are_written() {
    let running = Running::start(HttpSettings::default());
    let log = running.fake.clusters.next_log();
    let mut lines = lines(running.follow());
    for n in 0..3 {
        log.unbounded_send(Ok(format!("2026-01-01T00:00:0{n}Z {n}\n").into_bytes())).unwrap();
        assert_eq!(event(&mut lines).unwrap().data, n.to_string());
    }
    drop(log);
    assert_eq!(event(&mut lines).unwrap().reason(), "completed");
}

#[test]
fn a_client_that_goes_lets_go_of_the_cluster_though_the_log_is_silent() {
    let running = Running::start(HttpSettings::default());
    let log = running.fake.clusters.next_log();
    let reader = running.follow();
    assert!(!log.is_closed());
    drop(reader);
    let end = Instant::now() + Duration::from_secs(10);
    eventually("the cluster is let go", || log.is_closed());
    assert!(Instant::now() < end, "sooner than the next heartbeat");
}

#[test]
fn a_revoked_session_ends_its_stream() {
    let running = Running::start(HttpSettings::default());
    let log = running.fake.clusters.next_log();
    let mut lines = lines(running.follow());
    log.unbounded_send(Ok(b"2026-01-01T00:00:00Z one\n".to_vec())).unwrap();
    assert_eq!(event(&mut lines).unwrap().data, "one");
    // past the access token's life, within the session's
    running.fake.runtime.clock.advance(Duration::from_secs(15 * 60));
    log.unbounded_send(Ok(b"2026-01-01T00:15:00Z two\n".to_vec())).unwrap();
    assert_eq!(event(&mut lines).unwrap().data, "two");
    let (rows, _) = block_on(running.app.sessions.list(&Caller::system(), &Default::default())).unwrap();
    let row: Value = serde_json::from_str(rows[0].json()).unwrap();
    let id = pilothouse_core::session::SessionId(row["id"].as_i64().unwrap());
    block_on(running.app.sessions.revoke(&Caller::system(), id)).unwrap();
    assert_eq!(event(&mut lines).unwrap().reason(), "session_ended");
    eventually("the cluster is let go", || log.is_closed());
}

#[test]
fn a_stop_ends_streams_at_once() {
    let running = Running::start(HttpSettings::default());
    let _log = running.fake.clusters.next_log();
    let mut lines = lines(running.follow());
    let begun = Instant::now();
    running.app.pods.end_streams();
    let stopped = running.handle.stop(true);
    assert_eq!(event(&mut lines).unwrap().reason(), "server_stopping");
    assert_eq!(event(&mut lines), None);
    block_on(stopped);
    assert!(begun.elapsed() < HttpSettings::default().shutdown_time / 2, "{:?}", begun.elapsed());
}

#[test]
fn a_reader_that_stands_still_is_told_when_it_reads_again() {
    let running = Running::start(HttpSettings::default());
    let log = running.fake.clusters.next_log();
    let reader = running.follow();
    let mut sent = 0;
    eventually("the cluster is let go", || {
        let closed = log.unbounded_send(Ok(many_lines(sent))).is_err();
        sent += 1000;
        closed
    });
    let mut lines = lines(reader);
    let mut read = 0;
    let end = loop {
        match event(&mut lines).expect("a last word") {
            event if event.event == "log" => {
                assert_eq!(event.data.parse::<usize>().unwrap(), read, "none is lost before the end");
                read += 1;
            }
            end => break end,
        }
    };
    assert_eq!(end.reason(), "too_slow");
}

#[cfg(target_os = "linux")]
#[test]
fn a_client_that_never_reads_again_is_cut() {
    let unread_time = Duration::from_secs(1);
    let running = Running::start(HttpSettings { unread_time, max_connections: 1, ..HttpSettings::default() });
    let log = running.fake.clusters.next_log();
    let reader = running.follow();
    // lines so long that those which wait are more than the server writes ahead: its answer is not over by itself
    let line = format!("2026-01-01T00:00:00Z {}\n", "x".repeat(60_000));
    eventually("the cluster is let go", || log.unbounded_send(Ok(line.clone().into_bytes())).is_err());
    // the one connection is taken until the first client is cut
    let mut next = running.connect();
    next.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    next.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    BufReader::new(next).read_line(&mut answer).expect("the next client is served");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    drop(reader);
}
