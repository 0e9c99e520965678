//! Tests of the request observer.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use actix_web::test::TestRequest;
use pilothouse_core::Code;
use pilothouse_http::{HttpSettings, Observer, RequestOutcome};

use crate::test_app::{Ready, TestApp};

/// Records every event.
#[derive(Default)]
struct RecordingObserver {
    started: AtomicUsize,
    finished: Mutex<Vec<String>>,
}

impl Observer for RecordingObserver {
    fn started(&self) {
        self.started.fetch_add(1, Ordering::Relaxed);
    }

    fn finished(&self, request: &RequestOutcome<'_>) {
        let (status, code) = request.response.unwrap_or_default();
        let route = request.route.unwrap_or("-");
        let code = code.map_or("-", Code::as_str);
        self.finished.lock().unwrap().push(format!("{} {route} {status} {code}", request.method));
    }
}

#[actix_web::test]
async fn every_request_is_observed_once_with_its_route() {
    let observer = Arc::new(RecordingObserver::default());
    let api = TestApp::with_observer(HttpSettings::default(), Ready::Panics, observer.clone()).await;
    let viewer = api.login("viewer").await;
    api.get(&viewer, "/api/k8s/clusters", "page=1").await;
    api.get(&viewer, "/api/k8s/namespaces", "cluster_id=999").await;
    for (method, path) in [("GET", "/no/such"), ("DELETE", "/livez"), ("BREW", "/livez"), ("GET", "/readyz")]
    {
        api.call(&viewer.credentials, method, path, "").await;
    }
    api.send(TestRequest::get().uri("/api/k8s//clusters")).await;
    let finished = observer.finished.lock().unwrap().clone();
    assert_eq!(
        finished,
        [
            "POST /api/auth/login 200 -",
            "GET /api/k8s/clusters 200 -",
            "GET /api/k8s/namespaces 404 RESOURCE_NOT_FOUND",
            "GET - 404 RESOURCE_NOT_FOUND",
            "DELETE /livez 405 METHOD_NOT_ALLOWED",
            "other /livez 405 METHOD_NOT_ALLOWED",
            // the route is unknown after a panic in the handler
            "GET - 500 INTERNAL_ERROR",
            "GET - 404 RESOURCE_NOT_FOUND",
        ]
    );
    assert_eq!(observer.started.load(Ordering::Relaxed), finished.len());
}
