//! Cost of a request that is refused by role: apart from its shape, nothing of the request is parsed, hashed, looked up
//! or stored before the role check. Covers the route table with the largest bodies, with and without an
//! `Idempotency-Key`.
//!
//! This is a separate binary with a single test, because it measures the CPU time of its process.

#![allow(clippy::unwrap_used, reason = "an unwrap fails the test")]

#[allow(dead_code, reason = "shared with other tests")]
#[path = "../api/existing.rs"]
mod existing;
#[path = "../api/large.rs"]
mod large;
#[allow(dead_code, reason = "shared with other tests")]
#[path = "../api/table.rs"]
mod table;
#[allow(dead_code, reason = "shared with other tests")]
#[path = "../api/test_app.rs"]
mod test_app;

use std::{collections::BTreeSet, time::Duration};

use actix_web::test::TestRequest;
use pilothouse_core::operation::MAX_ROW_BYTES;
use pilothouse_http::document;
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

use crate::{
    large::{variants, with_unknown_field},
    table::{Line, lines},
    test_app::{Reply, SignedIn, TestApp},
};

/// A viewer's request, which can be sent repeatedly.
struct Request<'a> {
    api: &'a TestApp,
    signed_in: &'a SignedIn,
    path: &'a str,
    body: &'a str,
    key: Option<&'a str>,
}

impl Request<'_> {
    /// Sends the request; returns the response and the CPU time of all threads.
    async fn send(&self) -> (Reply, Duration) {
        let request = TestRequest::post()
            .uri(self.path)
            .peer_addr("192.0.2.7:4711".parse().unwrap())
            .insert_header(("content-type", "application/json"))
            .set_payload(self.body.to_owned());
        let headers = self.signed_in.credentials.headers().into_iter();
        let request = headers.fold(request, TestRequest::insert_header);
        let request = self
            .key
            .into_iter()
            .fold(request, |request, key| request.insert_header(("idempotency-key", key)));
        let before = cpu_time();
        let reply = self.api.send(request).await;
        (reply, cpu_time() - before)
    }
}

fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap()
}

/// Size of everything stored, in bytes.
fn stored(api: &TestApp) -> usize {
    let entries = api.fake.store.entries();
    let rows = api.fake.store.all_operations();
    let entries = entries.iter().map(|entry| entry.canonical().unwrap().len()).sum::<usize>();
    let rows = rows.iter().map(|row| serde_json::to_string(row).unwrap().len()).sum::<usize>();
    entries + rows + api.fake.store.claims() * MAX_ROW_BYTES
}

#[actix_web::test]
async fn request_refused_by_role_costs_no_more_than_its_shape_check() {
    let document: Value = serde_json::from_str(&document().to_string()).unwrap();
    let refused =
        |line: &Line| line.method == "POST" && line.status("viewer") == 403 && line.status("super") == 200;
    let (mut tried, mut slow) = (BTreeSet::new(), Vec::new());
    for line in lines().into_iter().filter(refused) {
        let api = TestApp::new().await;
        api.login("target").await;
        let signed_in = api.login("viewer").await;
        let good = line.input(&api, "viewer", "").await;
        for (label, body) in variants(&document, &line.path, &good) {
            let label = format!("{} {}, {label}", line.method, line.path);
            let request =
                |body, key| Request { api: &api, signed_in: &signed_in, path: &line.path, body, key };
            let shape = with_unknown_field(&body);
            let (reply, mut shape_cost) = request(&shape, None).send().await;
            assert_eq!(reply.status.as_u16(), 400, "{label}: {}", reply.text);
            for key in [None, Some("key")] {
                let before = (api.fake.store.entries().len(), stored(&api));
                let (reply, mut cost) = request(&body, key).send().await;
                let status = reply.status.as_u16();
                assert!(matches!(status, 400 | 403), "{label}: {}", reply.text);
                assert!(reply.text.len() < 16 << 10, "{label}: response of {} bytes", reply.text.len());
                if status == 403 {
                    tried.insert(line.path.clone());
                }
                // a refusal by role writes one row, a refused shape none; nothing else is stored
                let rows = api.fake.store.entries().len() - before.0;
                assert_eq!(rows, usize::from(status == 403), "{label}");
                let grown = stored(&api) - before.1;
                assert!(grown <= rows * 2048, "{label}: {grown} bytes are stored");
                // repeat and compare the fastest runs, because a busy machine can slow down any single one
                for _ in 0..6 {
                    if cost <= 3 * shape_cost + Duration::from_millis(10) {
                        break;
                    }
                    shape_cost = shape_cost.min(request(&shape, None).send().await.1);
                    cost = cost.min(request(&body, key).send().await.1);
                }
                if cost > 3 * shape_cost + Duration::from_millis(10) {
                    slow.push(format!(
                        "{label}, key {key:?}: {cost:?} of CPU, {shape_cost:?} for the shape check"
                    ));
                }
            }
        }
        assert!(api.fake.clusters.calls().is_empty(), "{}", line.path);
    }
    assert!(slow.is_empty(), "{slow:#?}");
    let all: BTreeSet<_> = lines().into_iter().filter(refused).map(|line| line.path).collect();
    assert_eq!(tried, all, "every route is refused by role at least once");
}
