//! The logs of a workload, and the download of a log.

use std::io::Read;

use actix_web::test::TestRequest;
use pilothouse_core::{Cause, Error, kind::Kind};
use pilothouse_http::HttpSettings;
use serde_json::{Value, json};

use crate::{
    socket::{Running, eventually},
    stream::{Event, event, events, lines},
    test_app::{Reply, SignedIn, TestApp},
};

const STREAM: &str = "/api/k8s/workloads/logs/stream";
const DOWNLOAD: &str = "/api/k8s/pods/logs/download";

fn data(event: &Event) -> Value {
    serde_json::from_str(&event.data).unwrap()
}

fn query(cluster: i64) -> String {
    format!("cluster_id={cluster}&namespace=shop&type=deployment&name=web")
}

fn download(cluster: i64) -> String {
    format!("cluster_id={cluster}&namespace=shop&pod_name=web-0")
}

/// A pod of the deployment `web`.
fn pod() -> Value {
    let owner = json!({"kind": "ReplicaSet", "name": "web-5f", "controller": true});
    let labels = json!({"pod-template-hash": "5f"});
    json!({
        "metadata": {"name": "web-5f-x", "namespace": "shop", "labels": labels, "ownerReferences": [owner]},
        "spec": {"containers": [{"name": "app"}]},
    })
}

/// The next event of this name.
fn next(lines: &mut impl Iterator<Item = String>, name: &str) -> Event {
    loop {
        let event = event(lines).expect("an event");
        if event.event == name {
            return event;
        }
        assert_ne!(event.event, "end", "{event:?}");
    }
}

#[test]
fn workload_log_names_the_container_of_each_line() {
    let running = Running::start(HttpSettings::default());
    running.fake.clusters.put(pilothouse_core::ids::ClusterId(running.cluster), Kind::Pod, pod());
    let _watch = running.fake.clusters.next_watch();
    let log = running.fake.clusters.next_log();
    let mut lines = lines(running.open("viewer", &format!("{STREAM}?{}&re=^line", query(running.cluster))));
    let source = next(&mut lines, "source");
    assert_eq!(
        data(&source),
        json!({"cluster_id": running.cluster, "pod": "web-5f-x", "container": "app", "state": "following", "reason": null})
    );
    log.unbounded_send(Ok(b"2026-01-01T00:00:01Z not this\n2026-01-01T00:00:02.5Z line one\n".to_vec()))
        .unwrap();
    let line = next(&mut lines, "log");
    assert_eq!(line.id, "2026-01-01T00:00:02.5Z");
    assert_eq!(
        data(&line),
        json!({"cluster_id": running.cluster, "pod": "web-5f-x", "container": "app",
            "time": "2026-01-01T00:00:02.5Z", "line": "line one"})
    );
    drop(lines);
    eventually("the connection to the cluster is closed", || log.is_closed());
}

#[actix_web::test]
async fn workload_log_refuses_bad_parameters() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    let good = query(api.cluster);
    let twice = format!("cluster_id={0},{0}&namespace=shop&type=deployment&name=web", api.cluster);
    let cases = [
        (good.replace("type=deployment", "type=pod"), "type=not_one_of"),
        (good.replace("cluster_id=", "cluster_id=0,"), "cluster_id=out_of_range"),
        (good.replace("cluster_id=", "cluster_id=,"), "cluster_id=required"),
        (good.replace("cluster_id=", "cluster_id=a,"), "cluster_id=invalid_type"),
        (twice, "cluster_id=duplicate"),
        (format!("{good}&container=A"), "container=invalid_name"),
        (format!("{good}&tail_lines=0"), "tail_lines=out_of_range"),
        (format!("{good}&q="), "q=required"),
        (format!("{good}&q={}", "x".repeat(257)), "q=too_long"),
        (format!("{good}&re=("), "re=malformed"),
        (format!("{good}&re=(a{{99}}){{99}}"), "re=too_long"),
        (format!("{good}&q=a&re=a"), "re=not_allowed"),
    ];
    for (query, refused) in cases {
        assert_eq!(api.get(&viewer, STREAM, &query).await.fields(), [refused], "{query}");
    }
    let absent = api
        .get(&viewer, STREAM, &good.replace(&format!("cluster_id={}", api.cluster), "cluster_id=99"))
        .await;
    assert_eq!(absent.error().0, 404);
}

#[actix_web::test]
async fn workload_log_is_resumed_by_a_time() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    let resume = async |id: &str| {
        let request = TestRequest::get().uri(&format!("{STREAM}?{}", query(api.cluster)));
        send(&api, &viewer, request.insert_header(("last-event-id", id.to_owned()))).await
    };
    let resumed = resume("2026-01-01T00:00:02.5Z").await;
    let stream = events(&resumed.text);
    assert_eq!(data(&stream[0])["reason"], "no_pods", "{}", resumed.text);
    assert_eq!(stream.last().unwrap().reason(), "connection_changed", "the fake list of pods is over");
    for id in ["x", "2026-01-01T00:00:00Z_0_00000000"] {
        assert_eq!(resume(id).await.fields(), ["Last-Event-ID=malformed"], "{id}");
    }
}

/// Sends a request with the credentials of a user.
async fn send(api: &TestApp, user: &SignedIn, request: TestRequest) -> Reply {
    let headers = user.credentials.headers().into_iter();
    api.send(headers.fold(request, TestRequest::insert_header)).await
}

#[actix_web::test]
async fn log_is_downloaded_as_a_file() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    let reply = api.get(&viewer, DOWNLOAD, &download(api.cluster)).await;
    assert_eq!(reply.text, "a line\n");
    assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(reply.header("content-disposition"), Some("attachment; filename=\"web-0_app.log\""));
    assert_eq!(reply.header("content-encoding"), None);
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    let stamped = api.get(&viewer, DOWNLOAD, &format!("{}&timestamps=true", download(api.cluster))).await;
    assert_eq!(stamped.text, "2026-01-01T00:00:00Z a line\n");
    let absent = api.get(&viewer, DOWNLOAD, &download(api.cluster).replace("web-0", "web-1")).await;
    assert_eq!(absent.error(), (404, "RESOURCE_NOT_FOUND".into(), "not_found_in_cluster".into()));
    let refused = api.get(&viewer, DOWNLOAD, &format!("{}&tail_lines=1", download(api.cluster))).await;
    assert_eq!(refused.fields(), ["tail_lines=unknown"]);
}

#[actix_web::test]
async fn large_log_is_downloaded_completely_with_and_without_compression() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    for coding in ["gzip", "identity"] {
        let log = api.fake.clusters.next_log();
        let parts = [0, 1]
            .map(|part| (0..10_000).map(|line| format!("{:08}\n", part * 10_000 + line)).collect::<String>());
        for part in &parts {
            log.unbounded_send(Ok(part.clone().into_bytes())).unwrap();
        }
        let expected = parts.concat();
        drop(log);
        let request = TestRequest::get().uri(&format!("{DOWNLOAD}?{}", download(api.cluster)));
        let reply = send(&api, &viewer, request.insert_header(("accept-encoding", coding))).await;
        assert_eq!(reply.header("content-encoding"), (coding == "gzip").then_some("gzip"));
        assert!(reply.text == expected, "{coding}: {} bytes of {}", reply.text.len(), expected.len());
        assert_eq!(reply.bytes.len() < expected.len() / 2, coding == "gzip");
    }
}

/// Reads until the text ends with this, or the connection is closed.
fn read_until(reader: &mut impl Read, text: &mut Vec<u8>, end: &[u8]) {
    let mut part = [0; 64];
    while !text.ends_with(end) {
        match reader.read(&mut part) {
            Ok(read) if read > 0 => text.extend_from_slice(&part[..read]),
            _ => break,
        }
    }
}

#[test]
fn download_of_a_broken_log_is_aborted() {
    const LAST_CHUNK: &str = "\r\n0\r\n\r\n";
    let running = Running::start(HttpSettings::default());
    for is_broken in [true, false] {
        let log = running.fake.clusters.next_log();
        log.unbounded_send(Ok(b"one\n".to_vec())).unwrap();
        let mut reader = running.open("viewer", &format!("{DOWNLOAD}?{}", download(running.cluster)));
        let mut body = Vec::new();
        read_until(&mut reader, &mut body, b"one\n\r\n");
        if is_broken {
            log.unbounded_send(Err(Error::new(Cause::ConnectionLost))).unwrap();
        }
        drop(log);
        read_until(&mut reader, &mut body, LAST_CHUNK.as_bytes());
        let body = String::from_utf8(body).unwrap();
        assert!(body.contains("one\n"), "{body:?}");
        assert_eq!(body.ends_with(LAST_CHUNK), !is_broken, "{body:?}");
    }
}
