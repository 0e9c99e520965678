//! Response envelope, common headers and languages.

use actix_web::{http::StatusCode, test::TestRequest};
use pilothouse_core::{Cause, error::ErrorSource};
use pilothouse_http::HttpSettings;
use serde_json::{Value, json};

use crate::test_app::{Credentials, Ready, TestApp};

#[actix_web::test]
async fn unknown_path_is_404_in_the_envelope() {
    let api = TestApp::new().await;
    for path in [
        "/",
        "/nope",
        "/api",
        "/api/",
        "/api/k8s/clusters/",
        "/api//k8s/clusters",
        "/api/k8s/%2e/clusters",
        "/api/k8s/./clusters",
        "/api/k8s/x/../clusters",
        "/api/k8s%2fclusters",
        "/API/k8s/clusters",
        "/api/k8s/clusters/1",
        "/livez/",
    ] {
        let reply = api.send(TestRequest::get().uri(path)).await;
        assert_eq!(reply.error(), (404, "RESOURCE_NOT_FOUND".into(), "unknown_path".into()), "{path}");
    }
}

#[actix_web::test]
async fn error_has_every_key_and_only_known_context() {
    let api = TestApp::new().await;
    let reply =
        api.send(TestRequest::get().uri("/api/auth/me").insert_header(("x-request-id", "mine-1"))).await;
    let json = reply.json();
    let keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected =
        ["success", "error_code", "message", "details", "suggestions", "context", "request_id"];
    expected.sort_unstable();
    assert_eq!(
        {
            let mut keys = keys;
            keys.sort_unstable();
            keys
        },
        expected
    );
    assert_eq!(json["context"], json!({"cause": "not_signed_in", "source": "us"}));
    assert_eq!(json["request_id"], "mine-1");
    assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
}

/// Reports whether an envelope has a text in `message`.
fn has_message(envelope: &Value) -> bool {
    envelope["message"].as_str().is_some_and(|message| !message.is_empty())
}

#[actix_web::test]
async fn success_has_data_and_message() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    let reply = api.get(&viewer, "/api/k8s/clusters", "").await;
    assert!(reply.text.starts_with(r#"{"success":true,"data":{"clusters":[{"id":"#), "{}", reply.text);
    assert!(has_message(&reply.json()), "{}", reply.text);
    let page = reply.data();
    assert_eq!(page["pagination"], json!({"page": 1, "per_page": 20, "total": 1, "pages": 1}));
    assert_eq!(page["clusters"][0]["status"], "online");
    assert!(page.get("as_of").is_none(), "Pilothouse's own rows have no as_of");
}

#[actix_web::test]
async fn list_of_a_cluster_has_as_of_and_stale() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    let query = format!("cluster_id={}&namespace=shop&sort=-name&per_page=1", api.cluster);
    let page = api.get(&viewer, "/api/k8s/workloads", &query).await.data();
    assert_eq!((&page["as_of"], &page["stale"]), (&json!("1970-01-01T00:00:00Z"), &json!(false)));
    assert!(page.get("warnings").is_none());
    assert_eq!(page["pagination"], json!({"page": 1, "per_page": 1, "total": 2, "pages": 2}));
    assert_eq!(page["workloads"][0]["name"], "web");
    let all = format!("cluster_id={}&namespace=*&type=job", api.cluster);
    let page = api.get(&viewer, "/api/k8s/workloads", &all).await.data();
    assert_eq!(page["workloads"][0]["name"], "once");
}

#[actix_web::test]
async fn valid_request_ids_are_echoed() {
    let api = TestApp::new().await;
    let sent = |id: String| api.send(TestRequest::get().uri("/livez").insert_header(("x-request-id", id)));
    for good in ["a", "A.b_c-9", &"x".repeat(64)] {
        assert_eq!(sent(good.to_owned()).await.header("x-request-id"), Some(good));
    }
    let mut generated = Vec::new();
    for bad in ["", " ", "a b", "a/b", "ä", &"x".repeat(65), "a\"b"] {
        let reply = sent(bad.to_owned()).await;
        let id = reply.header("x-request-id").unwrap().to_owned();
        assert!(id != bad && id.len() == 36, "{bad:?} became {id:?}");
        generated.push(id);
    }
    generated.dedup();
    assert_eq!(generated.len(), 7, "each request has its own id");
}

#[actix_web::test]
async fn every_response_has_the_common_headers() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    let replies = [
        api.get(&viewer, "/api/auth/me", "").await,
        api.get(&viewer, "/api/auth/me", "x=1").await,
        api.send(TestRequest::get().uri("/nope")).await,
        api.send(TestRequest::get().uri("/livez")).await,
        api.send(TestRequest::get().uri("/api/openapi.json")).await,
        TestApp::with(HttpSettings::default(), Ready::Panics)
            .await
            .send(TestRequest::get().uri("/readyz"))
            .await,
    ];
    for reply in replies {
        assert!(reply.header("x-request-id").is_some(), "{reply:?}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        assert_eq!(reply.header("content-type"), Some("application/json"));
    }
}

#[actix_web::test]
async fn panic_is_500_without_its_message() {
    let api = TestApp::with(HttpSettings::default(), Ready::Panics).await;
    let reply = api.send(TestRequest::get().uri("/readyz").insert_header(("x-request-id", "boom"))).await;
    assert_eq!(reply.error(), (500, "INTERNAL_ERROR".into(), "internal".into()));
    assert_eq!(reply.json()["request_id"], "boom");
    assert!(!reply.text.contains("canary"));
    assert_eq!(api.send(TestRequest::get().uri("/livez")).await.status, StatusCode::OK);
}

#[actix_web::test]
async fn not_ready_is_503_with_retry_after() {
    let api = TestApp::with(HttpSettings::default(), Ready::No).await;
    let reply = api.send(TestRequest::get().uri("/readyz")).await;
    assert_eq!(reply.error(), (503, "SERVICE_UNAVAILABLE".into(), "store_unavailable".into()));
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert_eq!(api.send(TestRequest::get().uri("/livez")).await.status, StatusCode::OK);
}

#[actix_web::test]
async fn texts_are_chinese_by_default_and_english_when_preferred() {
    let api = TestApp::new().await;
    let ask = |language: &'static str| {
        api.send(TestRequest::get().uri("/nope").insert_header(("accept-language", language)))
    };
    let is_english =
        async |language| ask(language).await.json()["message"].as_str().is_some_and(str::is_ascii);
    assert!(!is_english("fr").await && !is_english("zh-CN,en;q=0.5").await);
    assert!(is_english("en-GB,zh;q=0.9").await);
    assert_eq!(ask("en").await.json()["context"], ask("zh").await.json()["context"]);
}

#[actix_web::test]
async fn change_has_a_message_and_warnings() {
    let api = TestApp::new().await;
    let ops = api.login("ops").await;
    let body =
        json!({"name": "b", "api_server": "https://b.example.com", "auth_type": "token", "token": "t"});
    let request = TestRequest::post().uri("/api/k8s/clusters").set_json(&body);
    let Credentials { bearer, cookie } = &ops.credentials;
    let reply = api
        .send(
            request
                .insert_header(("authorization", format!("Bearer {}", bearer.as_ref().unwrap())))
                .insert_header(("cookie", format!("session_id={}", cookie.as_ref().unwrap()))),
        )
        .await;
    assert!(has_message(&reply.json()), "{}", reply.text);
    assert!(reply.data().get("warnings").is_none());
    let untested = json!({"name": "c", "api_server": "https://c.example.com", "auth_type": "token", "token": "t", "skip_test": true});
    let data = api.post(&ops, "/api/k8s/clusters", untested).await.data();
    assert_eq!(data["warnings"].as_array().unwrap().len(), 1);
    assert_eq!(data["cluster"]["node_count"], json!(null));
}

#[actix_web::test]
async fn cluster_errors_are_never_401() {
    let api = TestApp::new().await;
    let ops = api.login("ops").await;
    let query = format!("cluster_id={}&namespace=shop&pod_name=web-0", api.cluster);
    for &cause in Cause::ALL.iter().filter(|cause| cause.source() == ErrorSource::Cluster) {
        api.fake.clusters.fail(Some(cause));
        let reply = api.get(&ops, "/api/k8s/pods/logs", &query).await;
        let (status, code, name) = reply.error();
        assert_eq!((code.as_str(), name.as_str()), (cause.code().as_str(), cause.as_str()));
        assert_eq!(reply.json()["context"]["source"], "cluster");
        assert_ne!(status, 401, "{cause:?}");
    }
}
