//! The envelope, the headers, the languages.

use actix_web::{http::StatusCode, test::TestRequest};
use pilothouse_core::{Cause, error::Source};
use pilothouse_http::HttpSettings;
use serde_json::json;

use crate::test_app::{Credentials, Ready, TestApp};

#[actix_web::test]
async fn an_unknown_path_is_a_404_in_the_envelope() {
    let house = TestApp::new().await;
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
        let reply = house.send(TestRequest::get().uri(path)).await;
        assert_eq!(reply.refusal(), (404, "RESOURCE_NOT_FOUND".into(), "unknown_path".into()), "{path}");
    }
}

#[actix_web::test]
async fn a_refusal_has_every_key_and_only_known_context() {
    let house = TestApp::new().await;
    let reply =
        house.send(TestRequest::get().uri("/api/auth/me").insert_header(("x-request-id", "mine-1"))).await;
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
    assert_eq!(json["message"], "认证失败");
    assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
}

#[actix_web::test]
async fn a_success_has_its_three_keys() {
    let house = TestApp::new().await;
    let viewer = house.login("viewer").await;
    let reply = house.get(&viewer, "/api/k8s/clusters", "").await;
    assert!(reply.text.starts_with(r#"{"success":true,"data":{"clusters":[{"id":"#), "{}", reply.text);
    assert!(reply.text.ends_with(r#""message":"Done"}"#), "{}", reply.text);
    let page = reply.data();
    assert_eq!(page["pagination"], json!({"page": 1, "per_page": 20, "total": 1, "pages": 1}));
    assert_eq!(page["clusters"][0]["status"], "online");
    assert!(page.get("as_of").is_none(), "our own rows are always current");
}

#[actix_web::test]
async fn a_list_of_a_cluster_says_how_fresh_it_is() {
    let house = TestApp::new().await;
    let viewer = house.login("viewer").await;
    let query = format!("cluster_id={}&namespace=shop&sort=-name&per_page=1", house.cluster);
    let page = house.get(&viewer, "/api/k8s/workloads", &query).await.data();
    assert_eq!((&page["as_of"], &page["stale"]), (&json!("1970-01-01T00:00:00Z"), &json!(false)));
    assert!(page.get("warnings").is_none());
    assert_eq!(page["pagination"], json!({"page": 1, "per_page": 1, "total": 2, "pages": 2}));
    assert_eq!(page["workloads"][0]["name"], "web");
    let all = format!("cluster_id={}&namespace=*&type=job", house.cluster);
    let page = house.get(&viewer, "/api/k8s/workloads", &all).await.data();
    assert_eq!(page["workloads"][0]["name"], "once");
}

#[actix_web::test]
async fn request_ids_are_echoed_when_harmless() {
    let house = TestApp::new().await;
    let sent = |id: String| house.send(TestRequest::get().uri("/livez").insert_header(("x-request-id", id)));
    for good in ["a", "A.b_c-9", &"x".repeat(64)] {
        assert_eq!(sent(good.to_owned()).await.header("x-request-id"), Some(good));
    }
    let mut ours = Vec::new();
    for bad in ["", " ", "a b", "a/b", "ä", &"x".repeat(65), "a\"b"] {
        let reply = sent(bad.to_owned()).await;
        let id = reply.header("x-request-id").unwrap().to_owned();
        assert!(id != bad && id.len() == 36, "{bad:?} became {id:?}");
        ours.push(id);
    }
    ours.dedup();
    assert_eq!(ours.len(), 7, "each request has its own");
}

#[actix_web::test]
async fn every_reply_has_its_headers() {
    let house = TestApp::new().await;
    let viewer = house.login("viewer").await;
    let replies = [
        house.get(&viewer, "/api/auth/me", "").await,
        house.get(&viewer, "/api/auth/me", "x=1").await,
        house.send(TestRequest::get().uri("/nope")).await,
        house.send(TestRequest::get().uri("/livez")).await,
        house.send(TestRequest::get().uri("/api/openapi.json")).await,
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
async fn a_panic_is_a_500_that_tells_nothing() {
    let house = TestApp::with(HttpSettings::default(), Ready::Panics).await;
    let reply = house.send(TestRequest::get().uri("/readyz").insert_header(("x-request-id", "boom"))).await;
    assert_eq!(reply.refusal(), (500, "INTERNAL_ERROR".into(), "internal".into()));
    assert_eq!(reply.json()["request_id"], "boom");
    assert!(!reply.text.contains("canary"));
    assert_eq!(house.send(TestRequest::get().uri("/livez")).await.status, StatusCode::OK);
}

#[actix_web::test]
async fn not_ready_is_503_with_retry_after() {
    let house = TestApp::with(HttpSettings::default(), Ready::No).await;
    let reply = house.send(TestRequest::get().uri("/readyz")).await;
    assert_eq!(reply.refusal(), (503, "SERVICE_UNAVAILABLE".into(), "store_unavailable".into()));
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert_eq!(house.send(TestRequest::get().uri("/livez")).await.status, StatusCode::OK);
}

#[actix_web::test]
async fn chinese_by_default_english_when_preferred() {
    let house = TestApp::new().await;
    let ask = |language: &'static str| {
        house.send(TestRequest::get().uri("/nope").insert_header(("accept-language", language)))
    };
    assert_eq!(ask("fr").await.json()["message"], "资源不存在");
    assert_eq!(ask("zh-CN,en;q=0.5").await.json()["message"], "资源不存在");
    assert_eq!(ask("en-GB,zh;q=0.9").await.json()["message"], "Resource not found");
    assert_eq!(ask("en").await.json()["context"], ask("zh").await.json()["context"]);
}

#[actix_web::test]
async fn a_change_names_what_was_done() {
    let house = TestApp::new().await;
    let ops = house.login("ops").await;
    let body =
        json!({"name": "b", "api_server": "https://b.example.com", "auth_type": "token", "token": "t"});
    let request = TestRequest::post().uri("/api/k8s/clusters").set_json(&body);
    let Credentials { bearer, cookie } = &ops.credentials;
    let reply = house
        .send(
            request
                .insert_header(("authorization", format!("Bearer {}", bearer.as_ref().unwrap())))
                .insert_header(("cookie", format!("session_id={}", cookie.as_ref().unwrap()))),
        )
        .await;
    assert_eq!(reply.json()["message"], "集群创建成功");
    assert!(reply.data().get("warnings").is_none());
    let untested = json!({"name": "c", "api_server": "https://c.example.com", "auth_type": "token", "token": "t", "skip_test": true});
    let data = house.post(&ops, "/api/k8s/clusters", untested).await.data();
    assert_eq!(data["warnings"].as_array().unwrap().len(), 1);
    assert_eq!(data["cluster"]["node_count"], json!(null));
}

#[actix_web::test]
async fn a_clusters_refusals_are_never_our_401() {
    let house = TestApp::new().await;
    let ops = house.login("ops").await;
    let query = format!("cluster_id={}&namespace=shop&pod_name=web-0", house.cluster);
    for &cause in Cause::ALL.iter().filter(|cause| cause.source() == Source::Cluster) {
        house.fake.clusters.fail(Some(cause));
        let reply = house.get(&ops, "/api/k8s/pods/logs", &query).await;
        let (status, code, word) = reply.refusal();
        assert_eq!((code.as_str(), word.as_str()), (cause.code().as_str(), cause.as_str()));
        assert_eq!(reply.json()["context"]["source"], "cluster");
        assert_ne!(status, 401, "{cause:?}");
    }
}
