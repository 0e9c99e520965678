//! Usage of CPU and memory from `metrics.k8s.io`.

use pilothouse_core::usage::{KnownUsage, Subject, UsageApi};
use pilothouse_kube::CacheSettings;
use tokio::time::{Instant, sleep};

use super::{
    watch_server::{TEST_TIMEOUT, WatchServer, initial_events_end},
    *,
};

const API: &str = "/apis/metrics.k8s.io/v1beta1";

fn pods() -> Reply {
    let pod = |name: &str, cpu: &str| {
        json!({"metadata": {"name": name, "namespace": "shop"}, "timestamp": "2026-01-01T00:00:00Z",
            "containers": [{"name": "app", "usage": {"cpu": cpu, "memory": "4Ki"}}]})
    };
    let items = json!([pod("web-1", "1500000n"), pod("web-2", "3m")]);
    Reply::json(200, &json!({"kind": "PodMetricsList", "items": items}))
}

fn nodes() -> Reply {
    let usage = json!({"cpu": "250m", "memory": "1Gi"});
    let node = json!({"metadata": {"name": "n1"}, "timestamp": "2026-01-01T00:00:00Z", "usage": usage});
    Reply::json(200, &json!({"kind": "NodeMetricsList", "items": [node]}))
}

fn metrics(request: &RecordedRequest) -> Reply {
    match request.target.strip_prefix(API) {
        Some("/nodes") => nodes(),
        Some("/pods" | "/namespaces/shop/pods") => pods(),
        _ => Reply::Body(404, vec![], "404 page not found".to_owned()),
    }
}

fn cpu(known: &KnownUsage, name: &str) -> Option<i64> {
    known.table.get(Subject::Pod { namespace: "shop", name }).map(|usage| usage.cpu_millis)
}

fn targets(server: &FakeServer) -> Vec<String> {
    server.requests().into_iter().map(|request| request.target).collect()
}

#[tokio::test]
async fn first_read_waits_for_the_first_poll_and_later_reads_send_nothing() {
    let server = FakeServer::start(|request, _| metrics(request)).await;
    let adapter = adapter(&server);
    let of_pods = permit(Verb::List, Kind::Pod, "shop");
    let known = adapter.known(&of_pods).await;
    assert_eq!((cpu(&known, "web-1"), cpu(&known, "web-2"), cpu(&known, "web-3")), (Some(2), Some(3), None));
    let node = adapter.known(&permit_within(Verb::List, Kind::Node, NamespaceScope::Unscoped)).await;
    assert_eq!(node.table.get(Subject::Node { name: "n1" }).map(|usage| usage.memory_bytes), Some(1 << 30));
    for _ in 0..3 {
        assert_eq!(cpu(&adapter.known(&of_pods).await, "web-1"), Some(2));
    }
    assert_eq!(targets(&server), [format!("{API}/namespaces/shop/pods"), format!("{API}/nodes")]);
}

#[tokio::test]
async fn absent_or_refused_api_is_a_warning() {
    let refused = || Reply::status(403, "Forbidden", "no", json!({}));
    let unavailable =
        || Reply::status(503, "ServiceUnavailable", "the server is currently unable", json!({}));
    let absent = || Reply::Body(404, vec![], "404 page not found".to_owned());
    let cases: [(ReplyFn, Option<Warning>); 5] = [
        (Box::new(absent), Some(Warning::NotServed("metrics.k8s.io"))),
        (Box::new(unavailable), Some(Warning::NotServed("metrics.k8s.io"))),
        (Box::new(refused), Some(Warning::Unreadable("metrics.k8s.io"))),
        (Box::new(|| Reply::Body(200, vec![], "<html>".to_owned())), None),
        (Box::new(|| Reply::NoResponse), None),
    ];
    for (reply, warning) in cases {
        let (_server, adapter) = server_with_reply(reply).await;
        let permit = permit_all(Verb::List, Kind::Pod);
        let started = Instant::now();
        let mut known = adapter.known(&permit).await;
        assert!(started.elapsed() < Duration::from_secs(3), "a page does not wait for usage");
        // the retries of a 503 take longer than the wait of the first read
        while known.warning != warning && started.elapsed() < Duration::from_secs(10) {
            sleep(Duration::from_millis(20)).await;
            known = adapter.known(&permit).await;
        }
        assert_eq!((known.table.is_empty(), known.warning), (true, warning));
    }
}

#[tokio::test]
async fn api_that_does_not_respond_opens_no_circuit() {
    // one more than the failures that open a circuit
    const READS: usize = 6;
    let server = FakeServer::start(|_, _| Reply::NoResponse).await;
    let deadlines = Deadlines { read: Duration::from_secs(1), ..SHORT_DEADLINES };
    let (adapter, _) = clusters(by_token(&server.address, Some(&server.ca), TOKEN), deadlines);
    for n in 0..READS {
        let known = adapter.known(&permit(Verb::List, Kind::Pod, &format!("team-{n}"))).await;
        assert!(known.table.is_empty());
    }
    let started = Instant::now();
    while targets(&server).len() < READS {
        assert!(started.elapsed() < TEST_TIMEOUT, "{:?}", targets(&server));
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn workloads_have_the_usage_of_their_cached_pods() {
    let owned = json!({"type": "ADDED", "object": {"metadata": {"name": "web-1", "namespace": "shop",
        "resourceVersion": "1", "labels": {"pod-template-hash": "5d9f"}, "ownerReferences": [
            {"kind": "ReplicaSet", "name": "web-5d9f", "uid": "u", "controller": true}]}}});
    let text = format!("{owned}\n{}", initial_events_end(1));
    let settings = CacheSettings::default();
    let server = WatchServer::new(move |_, _| Some(text.clone()), metrics, settings).await;
    let permit = permit(Verb::List, Kind::Deployment, "shop");
    let web = Subject::Workload { namespace: "shop", r#type: "deployment", name: "web" };
    let started = Instant::now();
    let usage = loop {
        if let Some(usage) = server.adapter.known(&permit).await.table.get(web) {
            break usage;
        }
        assert!(started.elapsed() < TEST_TIMEOUT, "{:?}", targets(&server.server));
        sleep(Duration::from_millis(20)).await;
    };
    assert_eq!((usage.cpu_millis, usage.memory_bytes), (2, 4096));
}

#[tokio::test]
async fn series_begins_with_the_first_request_and_only_for_existing_objects() {
    let server = FakeServer::start(|request, _| match request.target.split('?').next() {
        Some("/api/v1/namespaces/shop/pods/web-1") => {
            Reply::json(200, &json!({"kind": "Pod", "metadata": {"name": "web-1", "namespace": "shop"}}))
        }
        Some("/api/v1/namespaces/shop/pods/gone") => Reply::status(404, "NotFound", "no", json!({})),
        _ => metrics(request),
    })
    .await;
    let adapter = adapter(&server);
    let permit = permit(Verb::Get, Kind::Pod, "shop");
    for _ in 0..2 {
        let (series, warning) = adapter.series(&permit, &object("web-1")).await.unwrap().unwrap();
        assert_eq!(series.points.iter().map(|point| point.cpu_millis).collect::<Vec<_>>(), [2]);
        assert_eq!((series.from.to_string().as_str(), warning), ("2026-01-01T00:00:00Z", None));
    }
    assert_eq!(adapter.series(&permit, &object("gone")).await.unwrap(), None);
    let gets = targets(&server).into_iter().filter(|target| target.contains("/pods/web-1")).count();
    assert_eq!(gets, 1, "the pod is looked up for the first request only");
}

#[tokio::test]
async fn replaced_connection_is_polled_anew() {
    let first = FakeServer::start(|request, _| metrics(request)).await;
    let connection = by_token(&first.address, Some(&first.ca), TOKEN);
    let (adapter, registry) = clusters(connection, SHORT_DEADLINES);
    let permit = permit(Verb::List, Kind::Pod, "shop");
    assert_eq!(cpu(&adapter.known(&permit).await, "web-1"), Some(2));
    let second = FakeServer::start(|_, _| Reply::Body(404, vec![], String::new())).await;
    registry.set(by_token(&second.address, Some(&second.ca), TOKEN), 2);
    adapter.connection_changed(CLUSTER).await;
    let known = adapter.known(&permit).await;
    assert_eq!((known.table.is_empty(), known.warning), (true, Some(Warning::NotServed("metrics.k8s.io"))));
}
