//! The row that each request leaves, whatever is in it: within the bound of one row.

use actix_web::test::TestRequest;
use pilothouse_core::audit::LARGEST_ROW;
use pilothouse_http::document;
use serde_json::Value;

use crate::{large::variants, table::lines, test_app::TestApp};

/// Everything that may enter a row is as long as a request may make it: headers, names, lists.
#[actix_web::test]
async fn no_row_is_larger_than_eight_kibibytes() {
    let document: Value = serde_json::from_str(&document().to_string()).unwrap();
    let changes = |line: &crate::table::Line| line.method == "POST" && line.status("super") == 200;
    let long = "\"x\\".repeat(10_000);
    for line in lines().into_iter().filter(changes) {
        let house = TestApp::new().await;
        house.login("target").await;
        let who = house.login("super").await;
        let good = line.input(&house, "super", &who.refresh).await;
        let before = house.fake.store.entries().len();
        // what is accepted, and has much that a row could tell
        let tells = |(what, _): &(String, String)| what == "padded" || what.starts_with("longest keys");
        for (what, body) in variants(&document, &line.path, &good).into_iter().filter(tells) {
            let request = TestRequest::post()
                .uri(&line.path)
                .insert_header(("content-type", "application/json"))
                .insert_header(("user-agent", long.as_str()))
                .insert_header(("x-request-id", long.as_str()))
                .insert_header(("x-forwarded-for", long.as_str()))
                .set_payload(body);
            let headers = who.credentials.headers().into_iter();
            let reply = house.send(headers.fold(request, TestRequest::insert_header)).await;
            assert!(reply.status.as_u16() < 500, "{} {what}: {}", line.path, reply.text);
        }
        let entries = house.fake.store.entries();
        for entry in &entries[before..] {
            let text = entry.canonical().unwrap();
            assert!(text.len() <= LARGEST_ROW, "{}: {} bytes: {text:.300}", line.path, text.len());
        }
        for row in house.fake.store.all_operations() {
            let text = serde_json::to_string(&row).unwrap();
            assert!(text.len() <= LARGEST_ROW, "{}: {} bytes: {text:.300}", line.path, text.len());
        }
    }
}
