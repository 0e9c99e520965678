//! `Idempotency-Key`: a retry gets the stored response, and the change is made once.

use std::{collections::BTreeSet, time::Duration};

use actix_web::test::TestRequest;
use pilothouse_core::Cause;
use pilothouse_http::{document, endpoints};
use serde_json::{Value, json};

use crate::{
    second_factors::{enroll, refreshed},
    table::{Line, WITH_FACTOR, lines},
    test_app::{Reply, SignedIn, TestApp},
};

/// POST routes without a key: they return a secret or change nothing.
const WITHOUT_KEY: [&str; 10] = [
    "/api/auth/login",
    "/api/auth/logout",
    "/api/auth/refresh",
    "/api/auth/tokens",
    "/api/auth/totp/confirm",
    "/api/auth/totp/disable",
    "/api/auth/totp/enroll",
    "/api/auth/totp/verify",
    "/api/k8s/clusters/test",
    "/api/k8s/secrets/reveal",
];

impl TestApp {
    /// Sends a POST with these keys.
    pub(crate) async fn keyed(&self, signed_in: &SignedIn, keys: &[&str], path: &str, body: &str) -> Reply {
        let request = TestRequest::post().uri(path).insert_header(("accept-language", "en"));
        let request = request.peer_addr("192.0.2.7:4711".parse().unwrap());
        let credentials = &signed_in.credentials;
        let request = request
            .insert_header(("content-type", "application/json"))
            .insert_header(("authorization", format!("Bearer {}", credentials.bearer.as_ref().unwrap())))
            .insert_header(("cookie", format!("session_id={}", credentials.cookie.as_ref().unwrap())))
            .set_payload(body.to_owned());
        let add = |request: TestRequest, key: &&str| request.append_header(("idempotency-key", *key));
        self.send(keys.iter().fold(request, add)).await
    }

    /// The number of recorded operations.
    fn recorded(&self) -> usize {
        self.fake.store.all_operations().len()
    }

    fn scale(&self, replicas: u32) -> String {
        json!({"cluster_id": self.cluster, "namespace": "shop", "type": "deployment", "name": "web", "replicas": replicas})
            .to_string()
    }
}

const SCALE: &str = "/api/k8s/workloads/scale";

/// Checks that `replayed` is the stored response `first`.
fn assert_replayed(first: &Reply, replayed: &Reply) {
    assert_eq!((replayed.status, &replayed.text), (first.status, &first.text));
    assert_eq!(
        (first.header("idempotency-replayed"), replayed.header("idempotency-replayed")),
        (None, Some("true"))
    );
    assert_eq!(first.header("content-type"), replayed.header("content-type"));
    assert_ne!(first.header("x-request-id"), replayed.header("x-request-id"), "each request has its own id");
}

#[test]
fn only_changes_document_the_idempotency_header() {
    let document = document();
    let mut takes = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let parameters = operation["parameters"].as_array().unwrap();
            let header = parameters.iter().find(|parameter| parameter["name"] == "Idempotency-Key");
            if let Some(header) = header {
                assert_eq!((&header["in"], &header["required"]), (&json!("header"), &json!(false)), "{path}");
                assert_eq!(header["schema"]["maxLength"], 64);
                takes.insert((method.to_uppercase(), path.clone()));
            }
        }
    }
    let posts =
        endpoints().into_iter().filter(|(method, path)| method == "POST" && !WITHOUT_KEY.contains(path));
    assert_eq!(takes, posts.map(|(method, path)| (method, path.to_owned())).collect());
}

#[actix_web::test]
async fn every_change_is_executed_once_and_replayed_byte_for_byte() {
    let mut tried = BTreeSet::new();
    // a request that ends its own session cannot be retried
    let succeeds =
        |line: &Line| line.method == "POST" && line.status("super") == 200 && !line.input.contains("{own}");
    for line in lines().into_iter().filter(succeeds) {
        let path = line.path.as_str();
        if WITHOUT_KEY.contains(&path) {
            continue;
        }
        let api = TestApp::new().await;
        api.login("target").await;
        let signed_in = api.login("super").await;
        let input = line.input(&api, "super", &signed_in.refresh).await;
        let before = api.recorded();
        let first = api.keyed(&signed_in, &["key-1"], path, &input).await;
        assert_eq!((first.status.as_u16(), api.recorded()), (200, before + 1), "{path}: {}", first.text);
        api.fake.clusters.calls();
        let replayed = api.keyed(&signed_in, &["key-1"], path, &input).await;
        assert_replayed(&first, &replayed);
        assert!(api.fake.clusters.calls().is_empty(), "{path} was executed twice");
        assert_eq!(api.recorded(), before + 1, "{path}: a replay is not recorded");
        tried.insert(line.path.clone());
    }
    let posts =
        endpoints().into_iter().filter(|(method, path)| method == "POST" && !WITHOUT_KEY.contains(path));
    let posts = posts.map(|(_, path)| path.to_owned()).filter(|path| !WITH_FACTOR.contains(&path.as_str()));
    assert_eq!(tried, posts.collect());
}

/// A repetition with a stale second factor is refused exactly where the same request without a key is.
#[actix_web::test]
async fn second_factor_of_a_repeated_change_is_judged_again() {
    let succeeds =
        |line: &Line| line.method == "POST" && line.status("super") == 200 && !line.input.contains("{own}");
    let mut refused = BTreeSet::new();
    for line in lines().into_iter().filter(succeeds) {
        let path = line.path.as_str();
        if WITHOUT_KEY.contains(&path) {
            continue;
        }
        let api = TestApp::new().await;
        api.login("target").await;
        let signed_in = api.login("super").await;
        enroll(&api, &signed_in).await;
        let input = line.input(&api, "super", &signed_in.refresh).await;
        let first = api.keyed(&signed_in, &["key-1"], path, &input).await;
        assert_eq!(first.status.as_u16(), 200, "{path}: {}", first.text);
        api.advance(Duration::from_secs(11 * 60));
        let signed_in = refreshed(&api, signed_in).await;
        let without_key = api.keyed(&signed_in, &[], path, &input).await;
        let (before, claims) = (api.recorded(), api.fake.store.claims());
        let replayed = api.keyed(&signed_in, &["key-1"], path, &input).await;
        if without_key.error().2 == "second_factor_stale" {
            let stale = (401, "AUTHENTICATION_ERROR".to_owned(), "second_factor_stale".to_owned());
            assert_eq!(replayed.error(), stale, "{path}");
            assert_eq!((api.recorded(), api.fake.store.claims()), (before + 1, claims), "{path}");
            refused.insert(line.path.clone());
        } else {
            assert_replayed(&first, &replayed);
        }
    }
    assert!(refused.contains("/api/access/grants") && refused.contains("/api/auth/users"), "{refused:?}");
    assert!(!refused.contains("/api/auth/users/delete") && !refused.contains(SCALE), "{refused:?}");
}

#[actix_web::test]
async fn routes_without_key_ignore_the_header_and_store_nothing() {
    let api = TestApp::new().await;
    let signed_in = api.login("ops").await;
    let body = json!({"cluster_id": api.cluster, "namespace": "shop", "name": "pass"}).to_string();
    for key in ["key", "key", "", "a b"] {
        let reply = api.keyed(&signed_in, &[key, key], "/api/k8s/secrets/reveal", &body).await;
        assert!(reply.text.contains("canary-data"), "{}", reply.text);
        assert_eq!(reply.header("idempotency-replayed"), None);
    }
    assert_eq!(api.fake.store.claims(), 0);
}

#[actix_web::test]
async fn key_belongs_to_one_request_of_one_user() {
    let api = TestApp::new().await;
    let (ops, admin) = (api.login("ops").await, api.login("super").await);
    let first = api.keyed(&ops, &["key"], SCALE, &api.scale(3)).await;
    let id = first.header("x-request-id").unwrap().to_owned();
    assert_eq!(first.data()["workload"]["replicas"], 3);
    let conflict = |reply: Reply| {
        assert_eq!(reply.error(), (409, "CONFLICT_ERROR".into(), "idempotency_key_reused".into()));
        assert_eq!(reply.json()["context"]["name"], id.as_str(), "the request that used the key first");
    };
    conflict(api.keyed(&ops, &["key"], SCALE, &api.scale(4)).await);
    conflict(
        api.keyed(&ops, &["key"], "/api/k8s/workloads/restart", &api.scale(3).replace(",\"replicas\":3", ""))
            .await,
    );
    let mut other: Value = serde_json::from_str(&api.scale(3)).unwrap();
    other["name"] = json!("nobody");
    conflict(api.keyed(&ops, &["key"], SCALE, &other.to_string()).await);
    assert_eq!(api.keyed(&admin, &["key"], SCALE, &api.scale(5)).await.data()["workload"]["replicas"], 5);
    // the same request with other whitespace, in another session
    let other_session = api.login("ops").await;
    let spaced = api.scale(3).replace(',', " , ").replace(":", ": ");
    assert_eq!(api.keyed(&other_session, &["key"], SCALE, &spaced).await.text, first.text);
    assert_eq!(api.keyed(&ops, &["other"], SCALE, &api.scale(4)).await.data()["workload"]["replicas"], 4);
}

#[actix_web::test]
async fn changed_role_does_not_get_stored_responses() {
    let api = TestApp::new().await;
    let (ops, admin) = (api.login("ops").await, api.login("super").await);
    api.keyed(&ops, &["key"], SCALE, &api.scale(3)).await.data();
    let demotion = json!({"id": api.user("ops").await, "role": "viewer"});
    api.post(&admin, "/api/auth/users/update", demotion).await.data();
    let viewer = api.login("ops").await;
    for key in ["key", "new"] {
        let reply = api.keyed(&viewer, &[key], SCALE, &api.scale(3)).await;
        assert_eq!(reply.error().2, "role_too_low");
    }
    assert_eq!(api.fake.store.claims(), 1, "the role is checked before a key is stored");
    // another permitted role does not get the response of the old role either
    let promotion = json!({"id": api.user("ops").await, "role": "super_admin"});
    api.post(&admin, "/api/auth/users/update", promotion).await.data();
    let promoted = api.login("ops").await;
    let reply = api.keyed(&promoted, &["key"], SCALE, &api.scale(3)).await;
    assert_eq!(reply.error().2, "idempotency_key_reused");
}

#[actix_web::test]
async fn repeated_change_is_judged_anew() {
    let api = TestApp::new().await;
    let ann = api.ann().await;
    let grant = api.grant_to_ann("editor", json!(["shop"])).await;
    let scale = async || api.keyed(&ann, &["key"], SCALE, &api.scale(3)).await;
    let first = scale().await;
    first.data();
    assert_replayed(&first, &scale().await);
    api.revoke(grant).await;
    assert_eq!(scale().await.error().2, "not_found", "no right in the cluster");
    api.grant_to_ann("viewer", json!(["shop"])).await;
    assert_eq!(scale().await.error().2, "role_too_low");
    // the response to one right is not given to another
    api.grant_to_ann("operator", json!(["shop"])).await;
    assert_eq!(scale().await.error().2, "idempotency_key_reused");
}

#[actix_web::test]
async fn repeated_gift_depends_only_on_grants_that_may_give() {
    let api = TestApp::new().await;
    let admin = api.login("super").await;
    let ann = api.ann().await;
    let rules = json!([{"verbs": ["create"], "resources": ["grants"]}]);
    let role = json!({"name": "granter", "description": "", "rules": rules});
    api.post(&admin, "/api/access/roles", role).await.data();
    let granter = api.grant_to_ann("granter", json!(["shop"])).await;
    let viewer = api.grant_to_ann("viewer", json!(["shop"])).await;
    let gift = json!({
        "subject": {"type": "user", "id": api.user("ops").await},
        "role": "viewer",
        "clusters": {"ids": [api.cluster]},
        "namespaces": ["shop"],
    });
    let gift = gift.to_string();
    let give = async || api.keyed(&ann, &["key"], "/api/access/grants", &gift).await;
    let first = give().await;
    first.data();
    api.grant_to_ann("editor", json!(["other"])).await;
    assert_replayed(&first, &give().await);
    api.revoke(viewer).await;
    assert_replayed(&first, &give().await);
    api.revoke(granter).await;
    assert_eq!(give().await.error().2, "role_too_low");
    api.grant_to_ann("granter", json!(["shop"])).await;
    assert_eq!(give().await.error().2, "idempotency_key_reused");
}

#[actix_web::test]
async fn replay_requires_a_valid_session() {
    let api = TestApp::new().await;
    let ops = api.login("ops").await;
    api.keyed(&ops, &["key"], SCALE, &api.scale(3)).await.data();
    api.advance(Duration::from_secs(11 * 60));
    let reply = api.keyed(&ops, &["key"], SCALE, &api.scale(3)).await;
    assert_eq!(reply.error(), (401, "AUTHENTICATION_ERROR".into(), "token_expired".into()));
}

#[actix_web::test]
async fn malformed_or_repeated_key_is_refused() {
    let api = TestApp::new().await;
    let ops = api.login("ops").await;
    let (longest, too_long) = ("k".repeat(64), "k".repeat(65));
    let cases: [(&[&str], Option<&str>); 7] = [
        (&[&longest], None),
        (&["\"8e03978e-40d5\""], None),
        (&[&too_long], Some("too_long")),
        (&[""], Some("required")),
        (&["a b"], Some("malformed")),
        (&["ä"], Some("malformed")),
        (&["a", "a"], Some("duplicate")),
    ];
    for (keys, reason) in cases {
        let reply = api.keyed(&ops, keys, SCALE, &api.scale(3)).await;
        match reason {
            None => assert_eq!(reply.status.as_u16(), 200, "{keys:?}"),
            Some(reason) => assert_eq!(reply.fields(), [format!("Idempotency-Key={reason}")], "{keys:?}"),
        }
    }
    assert_eq!((api.fake.clusters.calls().len(), api.fake.store.claims()), (2, 2));
}

#[actix_web::test]
async fn refused_request_releases_the_key() {
    let api = TestApp::new().await;
    let ops = api.login("ops").await;
    let bad = api.keyed(&ops, &["key"], SCALE, &api.scale(3).replace("web", "a/b")).await;
    assert_eq!((bad.status.as_u16(), api.fake.store.claims()), (400, 0));
    let absent = api.keyed(&ops, &["key"], SCALE, &api.scale(3).replace("web", "none")).await;
    assert_eq!((absent.status.as_u16(), api.fake.store.claims()), (404, 0));
    api.fake.clusters.fail(Some(Cause::Unreachable));
    assert_eq!(api.keyed(&ops, &["key"], SCALE, &api.scale(3)).await.error().2, "unreachable");
    api.fake.clusters.fail(None);
    assert_eq!(api.keyed(&ops, &["key"], SCALE, &api.scale(3)).await.data()["workload"]["replicas"], 3);
}

#[actix_web::test]
async fn change_with_unknown_outcome_is_not_executed_again() {
    let api = TestApp::new().await;
    let ops = api.login("ops").await;
    api.fake.clusters.fail(Some(Cause::DeadlineExceeded));
    let first = api.keyed(&ops, &["key"], SCALE, &api.scale(3)).await;
    assert_eq!(first.error(), (504, "TIMEOUT_ERROR".into(), "deadline_exceeded".into()));
    api.fake.clusters.fail(None);
    api.fake.clusters.calls();
    assert_replayed(&first, &api.keyed(&ops, &["key"], SCALE, &api.scale(3)).await);
    assert!(api.fake.clusters.calls().is_empty());
}

#[actix_web::test]
async fn failed_connection_test_releases_the_key() {
    let api = TestApp::new().await;
    let ops = api.login("ops").await;
    let body =
        r#"{"name":"b","api_server":"https://b.example.com","auth_type":"token","token":"canary-token"}"#;
    api.fake.clusters.fail(Some(Cause::DeadlineExceeded));
    let first = api.keyed(&ops, &["key"], "/api/k8s/clusters", body).await;
    assert_eq!(first.error().2, "deadline_exceeded");
    api.fake.clusters.fail(None);
    let second = api.keyed(&ops, &["key"], "/api/k8s/clusters", body).await;
    assert_eq!(second.data()["cluster"]["name"], "b");
}

#[actix_web::test]
async fn lost_response_is_a_conflict_naming_the_first_request() {
    let api = TestApp::new().await;
    let ops = api.login("ops").await;
    let first = api.keyed(&ops, &["key"], SCALE, &api.scale(3)).await;
    api.fake.store.lose_replies();
    api.fake.clusters.calls();
    let replayed = api.keyed(&ops, &["key"], SCALE, &api.scale(3)).await;
    assert_eq!(replayed.error(), (409, "CONFLICT_ERROR".into(), "idempotency_outcome_unknown".into()));
    let id = first.header("x-request-id").unwrap();
    assert_eq!(replayed.json()["context"]["name"], id);
    assert!(replayed.json()["details"].as_str().unwrap().contains(id), "{}", replayed.text);
    assert!(api.fake.clusters.calls().is_empty());
}

#[actix_web::test]
async fn key_expires_after_24_hours() {
    let api = TestApp::new().await;
    let ops = api.login("ops").await;
    api.keyed(&ops, &["key"], SCALE, &api.scale(3)).await.data();
    api.advance(Duration::from_secs(24 * 3600));
    let ops = api.login("ops").await;
    let reply = api.keyed(&ops, &["key"], SCALE, &api.scale(4)).await;
    assert_eq!(reply.data()["workload"]["replicas"], 4);
}
