//! Size of audit rows: every change stays within the limit of one row, for any request.

use actix_web::test::TestRequest;
use pilothouse_core::operation::MAX_ROW_BYTES;
use pilothouse_http::document;
use serde_json::Value;

use crate::{large::variants, table::lines, test_app::TestApp};

/// Each request has headers, names and lists of the maximum length that a request permits.
#[actix_web::test]
async fn audit_rows_are_at_most_8_kib() {
    let document: Value = serde_json::from_str(&document().to_string()).unwrap();
    let changes = |line: &crate::table::Line| line.method == "POST" && line.status("super") == 200;
    let long = "\"x\\".repeat(10_000);
    for line in lines().into_iter().filter(changes) {
        let api = TestApp::new().await;
        api.login("target").await;
        let signed_in = api.login("super").await;
        let good = line.input(&api, "super", &signed_in.refresh).await;
        let before = api.fake.store.entries().len();
        // accepted variants with large values that could enter a row
        let relevant = |(label, _): &(String, String)| label == "padded" || label.starts_with("longest keys");
        for (label, body) in variants(&document, &line.path, &good).into_iter().filter(relevant) {
            let request = TestRequest::post()
                .uri(&line.path)
                .insert_header(("content-type", "application/json"))
                .insert_header(("user-agent", long.as_str()))
                .insert_header(("x-request-id", long.as_str()))
                .insert_header(("x-forwarded-for", long.as_str()))
                .set_payload(body);
            let headers = signed_in.credentials.headers().into_iter();
            let reply = api.send(headers.fold(request, TestRequest::insert_header)).await;
            assert!(reply.status.as_u16() < 500, "{} {label}: {}", line.path, reply.text);
        }
        let entries = api.fake.store.entries();
        for entry in &entries[before..] {
            let text = entry.canonical().unwrap();
            assert!(text.len() <= MAX_ROW_BYTES, "{}: {} bytes: {text:.300}", line.path, text.len());
        }
        for row in api.fake.store.all_operations() {
            let text = serde_json::to_string(&row).unwrap();
            assert!(text.len() <= MAX_ROW_BYTES, "{}: {} bytes: {text:.300}", line.path, text.len());
        }
    }
}
