//! What a viewer's refused request costs: nothing of it is parsed, hashed, looked up or stored beyond its shape before the
//! role is asked. The route table with the largest bodies, with and without an `Idempotency-Key`.
//!
//! A binary of its own with one test in it: it measures the CPU of its process.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../../../../tests/conformance/mod.rs"]
mod conformance;
#[path = "../api/large.rs"]
mod large;
#[allow(dead_code, reason = "other tests need more of it")]
#[path = "../api/table.rs"]
mod table;
#[allow(dead_code, reason = "other tests need more of it")]
#[path = "../api/test_app.rs"]
mod test_app;

use std::{collections::BTreeSet, time::Duration};

use actix_web::test::TestRequest;
use pilothouse_core::audit::LARGEST_ROW;
use pilothouse_http::document;
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

use crate::{
    large::{misshapen, variants},
    table::{Line, lines},
    test_app::{Reply, SignedIn, TestApp},
};

/// A viewer's request, as often as it is sent.
struct Request<'a> {
    house: &'a TestApp,
    who: &'a SignedIn,
    path: &'a str,
    body: &'a str,
    key: Option<&'a str>,
}

impl Request<'_> {
    /// Sends it; the answer, and the CPU time of all threads meanwhile.
    async fn send(&self) -> (Reply, Duration) {
        let request = TestRequest::post()
            .uri(self.path)
            .peer_addr("192.0.2.7:4711".parse().unwrap())
            .insert_header(("content-type", "application/json"))
            .set_payload(self.body.to_owned());
        let headers = self.who.credentials.headers().into_iter();
        let request = headers.fold(request, TestRequest::insert_header);
        let request = self
            .key
            .into_iter()
            .fold(request, |request, key| request.insert_header(("idempotency-key", key)));
        let before = cpu_time();
        let reply = self.house.send(request).await;
        (reply, cpu_time() - before)
    }
}

fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap()
}

/// How many bytes are kept of all that was asked.
fn stored(house: &TestApp) -> usize {
    let entries = house.fake.store.entries();
    let rows = house.fake.store.all_operations();
    let entries = entries.iter().map(|entry| entry.canonical().unwrap().len()).sum::<usize>();
    let rows = rows.iter().map(|row| serde_json::to_string(row).unwrap().len()).sum::<usize>();
    entries + rows + house.fake.store.claims() * LARGEST_ROW
}

#[actix_web::test]
async fn a_viewers_refused_request_costs_no_more_than_its_shape() {
    let document: Value = serde_json::from_str(&document().to_string()).unwrap();
    let refused =
        |line: &Line| line.method == "POST" && line.status("viewer") == 403 && line.status("super") == 200;
    let (mut tried, mut slow) = (BTreeSet::new(), Vec::new());
    for line in lines().into_iter().filter(refused) {
        let house = TestApp::new().await;
        house.login("target").await;
        let who = house.login("viewer").await;
        let good = line.input(&house, "viewer", "").await;
        for (what, body) in variants(&document, &line.path, &good) {
            let what = format!("{} {}, {what}", line.method, line.path);
            let request = |body, key| Request { house: &house, who: &who, path: &line.path, body, key };
            let shape = misshapen(&body);
            let (reply, mut of_shape) = request(&shape, None).send().await;
            assert_eq!(reply.status.as_u16(), 400, "{what}: {}", reply.text);
            for key in [None, Some("key")] {
                let before = (house.fake.store.entries().len(), stored(&house));
                let (reply, mut cost) = request(&body, key).send().await;
                let status = reply.status.as_u16();
                assert!(matches!(status, 400 | 403), "{what}: {}", reply.text);
                assert!(reply.text.len() < 16 << 10, "{what}: {} bytes of answer", reply.text.len());
                if status == 403 {
                    tried.insert(line.path.clone());
                }
                // a row of a refusal by role, none of a shape; and nothing else is kept
                let rows = house.fake.store.entries().len() - before.0;
                assert_eq!(rows, usize::from(status == 403), "{what}");
                let grown = stored(&house) - before.1;
                assert!(grown <= rows * 2048, "{what}: {grown} bytes are kept");
                // a busy machine may make any one of them slow: then each is the fastest of several
                for _ in 0..6 {
                    if cost <= 3 * of_shape + Duration::from_millis(10) {
                        break;
                    }
                    of_shape = of_shape.min(request(&shape, None).send().await.1);
                    cost = cost.min(request(&body, key).send().await.1);
                }
                if cost > 3 * of_shape + Duration::from_millis(10) {
                    slow.push(format!("{what}, key {key:?}: {cost:?} of CPU, {of_shape:?} for its shape"));
                }
            }
        }
        assert!(house.fake.clusters.calls().is_empty(), "{}", line.path);
    }
    assert!(slow.is_empty(), "{slow:#?}");
    let all: BTreeSet<_> = lines().into_iter().filter(refused).map(|line| line.path).collect();
    assert_eq!(tried, all, "each is refused by role at least once");
}
