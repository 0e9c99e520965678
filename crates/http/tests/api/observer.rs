//! What is told of requests to whoever counts them.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use actix_web::test::TestRequest;
use pilothouse_core::Code;
use pilothouse_http::{Ended, HttpSettings, Observer};

use crate::test_app::{Ready, TestApp};

/// Remembers it.
#[derive(Default)]
struct SseEvent {
    began: AtomicUsize,
    ended: Mutex<Vec<String>>,
}

impl Observer for SseEvent {
    fn began(&self) {
        self.began.fetch_add(1, Ordering::Relaxed);
    }

    fn ended(&self, request: &Ended<'_>) {
        let (status, code) = request.answer.unwrap_or_default();
        let route = request.route.unwrap_or("-");
        let code = code.map_or("-", Code::as_str);
        self.ended.lock().unwrap().push(format!("{} {route} {status} {code}", request.method));
    }
}

#[actix_web::test]
async fn every_request_is_told_once_by_its_route() {
    let told = Arc::new(SseEvent::default());
    let house = TestApp::record_probe(HttpSettings::default(), Ready::Panics, told.clone()).await;
    let viewer = house.login("viewer").await;
    house.get(&viewer, "/api/k8s/clusters", "page=1").await;
    house.get(&viewer, "/api/k8s/namespaces", "cluster_id=999").await;
    for (method, path) in [("GET", "/no/such"), ("DELETE", "/livez"), ("BREW", "/livez"), ("GET", "/readyz")]
    {
        house.call(&viewer.credentials, method, path, "").await;
    }
    house.send(TestRequest::get().uri("/api/k8s//clusters")).await;
    let ended = told.ended.lock().unwrap().clone();
    assert_eq!(
        ended,
        [
            "POST /api/auth/login 200 -",
            "GET /api/k8s/clusters 200 -",
            "GET /api/k8s/namespaces 404 RESOURCE_NOT_FOUND",
            "GET - 404 RESOURCE_NOT_FOUND",
            "DELETE /livez 405 METHOD_NOT_ALLOWED",
            "other /livez 405 METHOD_NOT_ALLOWED",
            // of one whose handler panicked the route is not known any more
            "GET - 500 INTERNAL_ERROR",
            "GET - 404 RESOURCE_NOT_FOUND",
        ]
    );
    assert_eq!(told.began.load(Ordering::Relaxed), ended.len());
}
