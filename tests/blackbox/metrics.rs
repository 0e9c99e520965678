//! Metrics for Prometheus.

use std::collections::{BTreeMap, BTreeSet};

use pilothouse_testbed::{Component, Signal};
use serde_json::{Value, json};

use crate::support::{Install, PASSWORD, Server, control_plane, eventually, register_cluster};

const MANUAL: &str = include_str!("../../docs/operate.md");

/// The result of one scrape, checked against the conventions of Prometheus.
struct Scrape {
    text: String,
    /// Value by series: name and labels as written.
    samples: BTreeMap<String, f64>,
    /// Type by metric family.
    types: BTreeMap<String, String>,
}

impl Scrape {
    async fn of(server: &Server) -> Self {
        let response = reqwest::get(format!("http://{}/metrics", address(server))).await.unwrap();
        assert_eq!(response.status(), 200);
        let format = response.headers()["content-type"].to_str().unwrap().to_owned();
        assert!(format.starts_with("text/plain; version=0.0.4"), "{format}");
        Self::read(response.text().await.unwrap())
    }

    fn read(text: String) -> Self {
        let (mut samples, mut types, mut names_with_help) =
            (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').expect(line);
                assert!(!help.is_empty() && names_with_help.insert(name.to_owned()), "{line}");
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect(line);
                assert!(names_with_help.contains(name), "{line}");
                assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
                assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
                let has_known_prefix = name.starts_with("pilothouse_") || name.starts_with("process_");
                assert!(
                    has_known_prefix && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                    "{line}"
                );
                assert!(!["_ms", "_milliseconds", "_kb"].iter().any(|unit| name.ends_with(unit)), "{line}");
                assert!(kind != "histogram" || name.ends_with("_seconds"), "{line}");
            } else {
                let (series, value) = line.rsplit_once(' ').expect(line);
                let value: f64 = value.parse().expect(line);
                let name = series.split('{').next().unwrap();
                let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| {
                    let family = name.strip_suffix(suffix)?;
                    (types.get(family).map(String::as_str) == Some("histogram")).then_some(family)
                });
                assert!(types.contains_key(family.unwrap_or(name)), "{line}");
                assert!(samples.insert(series.to_owned(), value).is_none(), "duplicate series: {line}");
            }
        }
        Self { text, samples, types }
    }

    /// The sum of the series with this name and all these labels, as written.
    fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let has_name = |series: &str| series == name || series.starts_with(&format!("{name}{{"));
        let found = self.samples.iter().filter(|(series, _)| has_name(series));
        found
            .filter(|(series, _)| labels.iter().all(|label| series.contains(label)))
            .map(|(_, value)| value)
            .sum()
    }
}

/// The metrics address that the server logged last.
pub(crate) fn address(server: &Server) -> String {
    let log = server.install.log();
    let mut lines = log.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .find_map(|line| line["metrics"].as_str().map(str::to_owned))
        .expect("a line with the metrics address")
}

/// The sum of the series of a family.
pub(crate) async fn sum_of(server: &Server, name: &str) -> f64 {
    Scrape::of(server).await.sum(name, &[])
}

async fn start_with_metrics() -> Server {
    Install::new().set("METRICS_LISTEN", "127.0.0.1:0").set("LOG_FORMAT", "json").start().await
}

#[tokio::test]
async fn metrics_follow_conventions_and_count_events() {
    let plane = control_plane().await;
    let server = start_with_metrics().await;
    let start = Scrape::of(&server).await;
    assert_eq!(start.sum("pilothouse_logins_total", &["outcome=\"refused\""]), 0.0);
    assert_eq!(start.sum("pilothouse_build_info", &[]), 1.0);
    assert_eq!(start.sum("pilothouse_database_up", &[]), 1.0);
    assert!(start.sum("process_resident_memory_bytes", &[]) > 1e6);
    assert!(start.sum("process_open_fds", &[]) > 3.0 && start.sum("process_start_time_seconds", &[]) > 1e9);

    let admin = server.admin().await;
    server.client().try_sign_in("admin", "not the password").await.refused("AUTHENTICATION_ERROR");
    let id = register_cluster(&admin, "canary-cluster", &plane).await;
    admin.get(format!("/api/k8s/namespaces?cluster_id={id}&search=canary-query")).await.data();
    admin.get("/api/canary-path").await.refused("RESOURCE_NOT_FOUND");
    admin.post("/api/k8s/workloads/scale", json!({"canary-field": 1})).await.refused("VALIDATION_ERROR");
    let unreachable = json!({"auth_type": "token", "token": "t", "api_server": "https://127.0.0.1:1"});
    admin.post("/api/k8s/clusters/test", unreachable).await.refused("CONNECTION_ERROR");

    let after = Scrape::of(&server).await;
    let grown = |name: &str, labels: &[&str]| after.sum(name, labels) - start.sum(name, labels);
    assert_eq!(grown("pilothouse_logins_total", &["outcome=\"success\""]), 1.0);
    assert_eq!(grown("pilothouse_logins_total", &["outcome=\"refused\""]), 1.0);
    assert_eq!(grown("pilothouse_sessions", &[]), 1.0);
    let requests = "pilothouse_http_requests_total";
    let listed = ["method=\"GET\"", "route=\"/api/k8s/namespaces\"", "status=\"200\"", "error_code=\"\""];
    assert_eq!(grown(requests, &listed), 1.0);
    assert_eq!(grown(requests, &["route=\"\"", "error_code=\"RESOURCE_NOT_FOUND\""]), 1.0);
    assert_eq!(grown(requests, &["workloads/scale", "status=\"400\"", "VALIDATION_ERROR"]), 1.0);
    assert_eq!(grown(requests, &[]), grown("pilothouse_http_request_duration_seconds_count", &[]));
    assert_eq!(after.sum("pilothouse_http_requests_in_flight", &[]), 0.0);
    let cluster_id = id;
    let id = format!("cluster=\"{id}\"");
    assert_eq!(after.sum("pilothouse_cluster_up", &[&id]), 1.0);
    assert!(grown("pilothouse_cluster_requests_total", &[&id, "outcome=\"success\""]) >= 1.0);
    assert!(grown("pilothouse_cluster_requests_total", &["cluster=\"\"", "outcome=\"unreachable\""]) >= 1.0);
    let counted = grown("pilothouse_cluster_requests_total", &[&id]);
    assert_eq!(grown("pilothouse_cluster_request_duration_seconds_count", &[&id]), counted);
    // two logins, a registration and a test, each with at least one entry
    assert!(grown("pilothouse_audit_sequence", &[]) >= 4.0);
    assert_eq!(after.sum("pilothouse_audit_signed", &[]), 1.0);
    assert!(after.sum("pilothouse_audit_unsigned_seconds", &[]) < 120.0);

    for user_input in ["canary", "admin", PASSWORD, "127.0.0.1", "BREW"] {
        assert!(!after.text.contains(user_input), "{user_input}: {}", after.text);
    }
    for family in after.types.keys().filter(|name| !name.starts_with("process_")) {
        assert!(MANUAL.contains(&format!("| `{family}")), "docs/operate.md does not list {family}");
    }
    let listed =
        MANUAL.lines().filter_map(|line| line.strip_prefix("| `pilothouse_")?.split(['{', '`']).next());
    for name in listed {
        assert!(after.types.contains_key(&format!("pilothouse_{name}")), "no series of {name}");
    }

    // refusals of the circuit breaker are counted, and the series of a deleted cluster are removed
    plane.signal(Component::ApiServer, Signal::Kill).unwrap();
    let scale = json!({
        "cluster_id": cluster_id, "namespace": "default", "type": "deployment", "name": "web", "replicas": 1,
    });
    eventually("the circuit is open", async || {
        let response = admin.post("/api/k8s/workloads/scale", scale.clone()).await;
        (response.body["context"]["cause"] == "circuit_open").then_some(())
    })
    .await;
    let open = [&*id, "cause=\"circuit_open\""];
    assert!(Scrape::of(&server).await.sum("pilothouse_cluster_refusals_total", &open) >= 1.0);
    admin.post("/api/k8s/clusters/delete", json!({"id": cluster_id})).await.data();
    let remaining = Scrape::of(&server).await.text;
    assert!(!remaining.contains(&id), "{remaining}");
    server.stop().await;
}

#[tokio::test]
async fn histogram_buckets_are_cumulative_up_to_the_count() {
    let server = start_with_metrics().await;
    server.admin().await;
    let scrape = Scrape::of(&server).await;
    let name = "pilothouse_http_request_duration_seconds";
    let labels = "method=\"POST\",route=\"/api/auth/login\"";
    let buckets = scrape.text.lines().filter(|line| line.starts_with(&format!("{name}_bucket{{{labels}")));
    let counts: Vec<f64> = buckets.map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap()).collect();
    assert!(counts.len() > 5 && counts.is_sorted(), "{counts:?}");
    assert_eq!(counts.last(), Some(&scrape.samples[&format!("{name}_count{{{labels}}}")]));
    assert!(scrape.samples[&format!("{name}_sum{{{labels}}}")] > 0.0);
}

#[tokio::test]
async fn metrics_are_served_only_by_their_listener() {
    let server = start_with_metrics().await;
    let metrics = format!("http://{}", address(&server));
    for (path, status) in [("/", 404), ("/livez", 404), ("/api/k8s/clusters", 404), ("/metrics/", 404)] {
        assert_eq!(reqwest::get(format!("{metrics}{path}")).await.unwrap().status(), status, "{path}");
    }
    let post = reqwest::Client::new().post(format!("{metrics}/metrics")).send().await.unwrap();
    assert_eq!(post.status(), 405);
    server.client().get("/metrics").await.refused("RESOURCE_NOT_FOUND");
    server.stop().await;

    let unset = Install::new().set("LOG_FORMAT", "json").start().await;
    let log = unset.install.log();
    assert!(log.contains("\"listen\""), "{log}");
    assert!(!log.contains("\"metrics\""), "there is no listener without the setting");
}

#[tokio::test]
async fn unknown_http_methods_share_one_series() {
    let server = start_with_metrics().await;
    let client = reqwest::Client::new();
    for number in 0..20 {
        let method = reqwest::Method::from_bytes(format!("CANARY{number}").as_bytes()).unwrap();
        client.request(method, format!("{}/livez", server.address)).send().await.unwrap();
    }
    let scrape = Scrape::of(&server).await;
    assert_eq!(scrape.sum("pilothouse_http_requests_total", &["method=\"other\"", "status=\"405\""]), 20.0);
    assert!(!scrape.text.contains("CANARY"));
}
