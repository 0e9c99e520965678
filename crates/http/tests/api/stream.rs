//! Followed logs: their events, and how streams begin and end over a socket.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use actix_web::{rt::System, test::TestRequest};
use jiff::Timestamp;
use pilothouse_core::{
    access::Caller,
    clock::Clock as _,
    grant::GrantRecord,
    ids::GrantId,
    inventory::ListEvent,
    rights::{RoleName, Subject},
    role::Role,
    user::{NewPassword, NewUser},
};
use pilothouse_http::HttpSettings;
use serde_json::{Value, json};

use crate::{
    socket::{Running, eventually},
    test_app::{PASSWORD, TestApp},
};

const PATH: &str = "/api/k8s/pods/logs/stream";

fn query(cluster: i64) -> String {
    format!("cluster_id={cluster}&namespace=shop&pod_name=web-0")
}

/// A parsed server-sent event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) event: String,
    pub(crate) id: String,
    pub(crate) data: String,
}

impl Event {
    /// The reason of an `end` event.
    pub(crate) fn reason(&self) -> String {
        assert_eq!(self.event, "end", "{self:?}");
        serde_json::from_str::<Value>(&self.data).unwrap()["reason"].as_str().unwrap().to_owned()
    }
}

/// Reads one event and skips comments; none at the end of the stream.
pub(crate) fn event(lines: &mut impl Iterator<Item = String>) -> Option<Event> {
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

pub(crate) fn events(text: &str) -> Vec<Event> {
    let mut lines = text.split('\n').map(str::to_owned);
    std::iter::from_fn(|| event(&mut lines)).collect()
}

#[actix_web::test]
async fn stream_ends_with_an_end_event_and_can_be_resumed() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    let reply = api.get(&viewer, PATH, &query(api.cluster)).await;
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
    assert!(reply.header("x-request-id").is_some());
    assert!(reply.text.starts_with(":\n\n"), "no leading comment: {:?}", reply.text);
    let all = events(&reply.text);
    assert_eq!((all[0].event.as_str(), all[0].data.as_str()), ("log", "a line"));
    let end: Value = serde_json::from_str(&all[1].data).unwrap();
    assert_eq!((&end["reason"], &end["error_code"]), (&json!("completed"), &Value::Null));
    assert!(end["details"].as_str().is_some_and(|details| !details.is_empty()), "{end}");
    assert_eq!(all.len(), 2);

    let stamped = api.get(&viewer, PATH, &format!("{}&timestamps=true", query(api.cluster))).await;
    assert_eq!(events(&stamped.text)[0].data, "2026-01-01T00:00:00Z a line");

    let bearer = format!("Bearer {}", viewer.credentials.bearer.unwrap());
    let cookie = format!("session_id={}", viewer.credentials.cookie.unwrap());
    let resume = async |ids: &[&str]| {
        let mut request = TestRequest::get().uri(&format!("{PATH}?{}", query(api.cluster)));
        request = request.insert_header(("authorization", bearer.as_str()));
        request = request.insert_header(("cookie", cookie.as_str()));
        for id in ids {
            request = request.append_header(("last-event-id", *id));
        }
        api.send(request).await
    };
    assert_eq!(events(&resume(&[&all[0].id]).await.text)[0].reason(), "completed");
    assert_eq!(events(&resume(&[""]).await.text)[0].data, "a line", "an empty id starts from the beginning");
    assert_eq!(resume(&["nonsense"]).await.fields(), ["Last-Event-ID=malformed"]);
    assert_eq!(resume(&["\u{e9}"]).await.fields(), ["Last-Event-ID=malformed"]);
    assert_eq!(resume(&[&all[0].id, &all[0].id]).await.fields(), ["Last-Event-ID=duplicate"]);
}

#[actix_web::test]
async fn error_is_sent_before_the_first_event() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    let query = query(api.cluster);
    let refused = async |query: &str| {
        let reply = api.get(&viewer, PATH, query).await;
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
    assert_eq!(absent.error(), (404, "RESOURCE_NOT_FOUND".into(), "not_found_in_cluster".into()));
    api.fake.clusters.fail(Some(pilothouse_core::Cause::ContainerNotStarted));
    let waiting = refused(&query).await;
    assert_eq!(waiting.error(), (409, "CONFLICT_ERROR".into(), "container_not_started".into()));
    api.app.streams.close();
    let stopping = refused(&query).await;
    assert_eq!(stopping.error(), (503, "SERVICE_UNAVAILABLE".into(), "overloaded".into()));
    assert!(stopping.header("retry-after").is_some());
}

impl Running {
    /// Follows a log as a viewer; returns after the head of the response.
    pub(crate) fn follow(&self) -> BufReader<TcpStream> {
        self.open("viewer", &format!("{PATH}?{}", query(self.cluster)))
    }

    /// Opens a stream as this user; returns after the head of the response.
    pub(crate) fn open(&self, username: &str, target: &str) -> BufReader<TcpStream> {
        let headers = self.login(username).headers().into_iter();
        let headers: String = headers.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let mut stream = self.connect();
        let head = format!("GET {target} HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "no response: {head}");
        }
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        reader
    }

    /// Creates the user `ann` of the role `none`. Returns the subject of her grants.
    fn ann(&self) -> Subject {
        let user = NewUser {
            username: "ann".to_owned().try_into().unwrap(),
            password: NewPassword::new(&PASSWORD.into()).unwrap(),
            role: Role::None,
            display_name: None,
        };
        Subject::User(block_on(self.app.users.create(&Caller::system(), user)).unwrap().id)
    }

    /// Grants the role viewer in a namespace of the cluster.
    fn grant(&self, subject: &Subject, namespace: &str, until: Option<Timestamp>) -> GrantId {
        let grant = GrantRecord {
            subject: subject.clone(),
            role: RoleName::new("viewer").unwrap(),
            clusters: serde_json::from_value(json!({"ids": [self.cluster]})).unwrap(),
            reach: serde_json::from_value(json!([namespace])).unwrap(),
            from: None,
            until,
            reason: None,
        };
        block_on(self.app.grants.create(&Caller::system(), grant)).unwrap().value.id
    }

    fn revoke(&self, grant: GrantId) {
        block_on(self.app.grants.revoke(&Caller::system(), grant, None)).unwrap();
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    System::new().block_on(work)
}

/// The event lines of a chunked response. Lines of the chunk framing end with a carriage return and are skipped.
pub(crate) fn lines(reader: BufReader<TcpStream>) -> impl Iterator<Item = String> {
    let lines = reader.split(b'\n').map_while(Result::ok).map(|line| String::from_utf8(line).unwrap());
    lines.filter(|line| !line.ends_with('\r'))
}

/// 1000 log lines in one chunk.
fn many_lines(from: usize) -> Vec<u8> {
    let line = |n| format!("2026-01-01T00:00:00Z {n:0100}\n");
    (from..from + 1000).map(line).collect::<String>().into_bytes()
}

#[test]
fn lines_are_sent_as_they_are_written() {
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
fn client_disconnect_closes_the_cluster_connection_of_an_idle_log() {
    let running = Running::start(HttpSettings::default());
    let log = running.fake.clusters.next_log();
    let reader = running.follow();
    assert!(!log.is_closed());
    drop(reader);
    let end = Instant::now() + Duration::from_secs(10);
    eventually("the connection to the cluster is closed", || log.is_closed());
    assert!(Instant::now() < end, "not closed before the next heartbeat");
}

#[test]
fn revoked_session_ends_its_stream() {
    let running = Running::start(HttpSettings::default());
    let log = running.fake.clusters.next_log();
    let mut lines = lines(running.follow());
    log.unbounded_send(Ok(b"2026-01-01T00:00:00Z one\n".to_vec())).unwrap();
    assert_eq!(event(&mut lines).unwrap().data, "one");
    // after the access token expires, within the session
    running.fake.runtime.clock.advance(Duration::from_secs(15 * 60));
    log.unbounded_send(Ok(b"2026-01-01T00:15:00Z two\n".to_vec())).unwrap();
    assert_eq!(event(&mut lines).unwrap().data, "two");
    let (rows, _) = block_on(running.app.sessions.list(&Caller::system(), &Default::default())).unwrap();
    let row: Value = serde_json::from_str(rows[0].json()).unwrap();
    let id = pilothouse_core::ids::SessionId(row["id"].as_i64().unwrap());
    block_on(running.app.sessions.revoke(&Caller::system(), id)).unwrap();
    assert_eq!(event(&mut lines).unwrap().reason(), "session_ended");
    eventually("the connection to the cluster is closed", || log.is_closed());
}

#[test]
fn log_stream_ends_with_its_grant() {
    let running = Running::start(HttpSettings::default());
    let ann = running.ann();
    let minute = Duration::from_secs(60);
    for is_revoked in [true, false] {
        let until = (!is_revoked).then(|| running.fake.runtime.clock.now() + minute);
        let grant = running.grant(&ann, "shop", until);
        let log = running.fake.clusters.next_log();
        let mut lines = lines(running.open("ann", &format!("{PATH}?{}", query(running.cluster))));
        log.unbounded_send(Ok(b"2026-01-01T00:00:00Z one\n".to_vec())).unwrap();
        assert_eq!(event(&mut lines).unwrap().data, "one");
        if is_revoked {
            running.revoke(grant);
        } else {
            running.fake.runtime.clock.advance(minute);
        }
        let end = event(&mut lines).unwrap();
        assert_eq!(end.reason(), "rights_changed", "revoked: {is_revoked}");
        let data: Value = serde_json::from_str(&end.data).unwrap();
        assert_eq!(data["error_code"], "PERMISSION_DENIED");
        eventually("the connection to the cluster is closed", || log.is_closed());
    }
}

#[test]
fn log_stream_goes_on_while_one_of_two_grants_remains() {
    let running = Running::start(HttpSettings::default());
    let ann = running.ann();
    let first = running.grant(&ann, "shop", None);
    let log = running.fake.clusters.next_log();
    let mut lines = lines(running.open("ann", &format!("{PATH}?{}", query(running.cluster))));
    let second = running.grant(&ann, "shop", None);
    running.revoke(first);
    // the time of many checks of the rights
    std::thread::sleep(Duration::from_millis(200));
    log.unbounded_send(Ok(b"2026-01-01T00:00:00Z one\n".to_vec())).unwrap();
    assert_eq!(event(&mut lines).unwrap().data, "one");
    running.revoke(second);
    assert_eq!(event(&mut lines).unwrap().reason(), "rights_changed");
}

#[test]
fn watch_ends_when_its_rights_grow_or_shrink() {
    let running = Running::start(HttpSettings::default());
    let ann = running.ann();
    running.grant(&ann, "shop", None);
    let target = format!("/api/k8s/watch?kind=pods&cluster_id={}&namespace=*", running.cluster);
    let mut bank = None;
    for change in ["grow", "shrink"] {
        let _events = running.fake.clusters.next_watch();
        let mut lines = lines(running.open("ann", &target));
        match bank {
            None => bank = Some(running.grant(&ann, "bank", None)),
            Some(grant) => running.revoke(grant),
        }
        let end = std::iter::from_fn(|| event(&mut lines)).find(|event| event.event == "end");
        assert_eq!(end.expect("an end event").reason(), "rights_changed", "{change}");
    }
}

#[test]
fn watch_of_a_live_stream_ends_with_its_grant_and_the_others_go_on() {
    let running = Running::start(HttpSettings::default());
    let ann = running.ann();
    let grant = running.grant(&ann, "shop", None);
    running.grant(&ann, "bank", None);
    let watches = [running.fake.clusters.next_watch(), running.fake.clusters.next_watch()];
    let cluster = running.cluster;
    let sub = |namespace: &str| format!("sub=kind%3Dpods%26cluster_id%3D{cluster}%26namespace%3D{namespace}");
    let mut lines = lines(running.open("ann", &format!("/api/k8s/live?{}&{}", sub("shop"), sub("bank"))));
    let mut next = |name: &str| {
        let event = std::iter::from_fn(|| event(&mut lines)).find(|event| event.event == name);
        let event = event.expect("an event");
        let sub = serde_json::from_str::<Value>(&event.data).unwrap()["sub"].clone();
        (event, sub)
    };
    // both are open
    let mut synced = [next("synced").1, next("synced").1].map(|sub| sub.as_u64());
    synced.sort_unstable();
    assert_eq!(synced, [Some(0), Some(1)]);
    running.revoke(grant);
    let (end, sub) = next("end");
    assert_eq!((end.reason(), sub), ("rights_changed".to_owned(), json!(0)));
    for events in &watches {
        // that of the first watch is closed
        let _ = events.unbounded_send(ListEvent::Freshness { as_of: Timestamp::UNIX_EPOCH, stale: true });
    }
    assert_eq!(next("freshness").1, 1);
}

#[test]
fn graceful_stop_ends_streams_at_once() {
    let running = Running::start(HttpSettings::default());
    let _log = running.fake.clusters.next_log();
    let mut lines = lines(running.follow());
    let begun = Instant::now();
    running.app.streams.close();
    let stopped = running.handle.stop(true);
    assert_eq!(event(&mut lines).unwrap().reason(), "server_stopping");
    assert_eq!(event(&mut lines), None);
    block_on(stopped);
    assert!(begun.elapsed() < HttpSettings::default().shutdown_time / 2, "{:?}", begun.elapsed());
}

#[test]
fn stalled_reader_gets_the_end_event_when_it_reads_again() {
    let running = Running::start(HttpSettings::default());
    let log = running.fake.clusters.next_log();
    let reader = running.follow();
    let mut sent = 0;
    eventually("the connection to the cluster is closed", || {
        let closed = log.unbounded_send(Ok(many_lines(sent))).is_err();
        sent += 1000;
        closed
    });
    let mut lines = lines(reader);
    let mut read = 0;
    let end = loop {
        match event(&mut lines).expect("an end event") {
            event if event.event == "log" => {
                assert_eq!(event.data.parse::<usize>().unwrap(), read, "no line is lost before the end");
                read += 1;
            }
            end => break end,
        }
    };
    assert_eq!(end.reason(), "too_slow");
}

#[cfg(target_os = "linux")]
#[test]
fn connection_of_a_client_that_stops_reading_is_closed() {
    let unread_time = Duration::from_secs(1);
    let running = Running::start(HttpSettings { unread_time, max_connections: 1, ..HttpSettings::default() });
    let log = running.fake.clusters.next_log();
    let reader = running.follow();
    // long lines: the pending ones exceed the write buffer, so the response cannot end before the client reads
    let line = format!("2026-01-01T00:00:00Z {}\n", "x".repeat(60_000));
    eventually("the connection to the cluster is closed", || {
        log.unbounded_send(Ok(line.clone().into_bytes())).is_err()
    });
    // the only connection is in use until the first client is closed
    let mut next = running.connect();
    next.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    next.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut response = String::new();
    BufReader::new(next).read_line(&mut response).expect("response to the next client");
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    drop(reader);
}
