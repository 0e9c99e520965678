//! `Idempotency-Key`: the same answer, without doing it twice.

use std::{collections::BTreeSet, time::Duration};

use actix_web::test::TestRequest;
use pilothouse_core::Cause;
use pilothouse_http::{document, endpoints};
use serde_json::{Value, json};

use crate::{
    table::{Line, lines},
    test_app::{Reply, SignedIn, TestApp},
};

/// What takes no key: what answers with a secret, and what changes nothing.
const WITHOUT: [&str; 5] = [
    "/api/auth/login",
    "/api/auth/logout",
    "/api/auth/refresh",
    "/api/k8s/clusters/test",
    "/api/k8s/secrets/reveal",
];

impl TestApp {
    /// A POST under these keys.
    async fn keyed(&self, who: &SignedIn, keys: &[&str], path: &str, body: &str) -> Reply {
        let request = TestRequest::post().uri(path).insert_header(("accept-language", "en"));
        let credentials = &who.credentials;
        let request = request
            .insert_header(("content-type", "application/json"))
            .insert_header(("authorization", format!("Bearer {}", credentials.bearer.as_ref().unwrap())))
            .insert_header(("cookie", format!("session_id={}", credentials.cookie.as_ref().unwrap())))
            .set_payload(body.to_owned());
        let add = |request: TestRequest, key: &&str| request.append_header(("idempotency-key", *key));
        self.send(keys.iter().fold(request, add)).await
    }

    /// How many operations are recorded.
    fn recorded(&self) -> usize {
        self.fake.store.all_operations().len()
    }

    fn scale(&self, replicas: u32) -> String {
        json!({"cluster_id": self.cluster, "namespace": "shop", "type": "deployment", "name": "web", "replicas": replicas})
            .to_string()
    }
}

const SCALE: &str = "/api/k8s/workloads/scale";

/// Whether `again` is `first` repeated.
fn is_repetition(first: &Reply, again: &Reply) {
    assert_eq!((again.status, &again.text), (first.status, &first.text));
    assert_eq!(
        (first.header("idempotency-replayed"), again.header("idempotency-replayed")),
        (None, Some("true"))
    );
    assert_eq!(first.header("content-type"), again.header("content-type"));
    assert_ne!(first.header("x-request-id"), again.header("x-request-id"), "each request has its own");
}

#[test]
fn every_change_documents_the_header_and_nothing_else_does() {
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
    let posts = endpoints().into_iter().filter(|(method, path)| method == "POST" && !WITHOUT.contains(path));
    assert_eq!(takes, posts.map(|(method, path)| (method, path.to_owned())).collect());
}

#[actix_web::test]
async fn every_change_is_made_once_and_its_answer_repeated_to_the_byte() {
    let mut tried = BTreeSet::new();
    // whoever ends the own session has none to ask again with
    let succeeds =
        |line: &Line| line.method == "POST" && line.status("super") == 200 && !line.input.contains("{own}");
    for line in lines().into_iter().filter(succeeds) {
        let path = line.path.as_str();
        if WITHOUT.contains(&path) {
            continue;
        }
        let house = TestApp::new().await;
        house.login("target").await;
        let who = house.login("super").await;
        let input = line.input(&house, "super", &who.refresh).await;
        let before = house.recorded();
        let first = house.keyed(&who, &["key-1"], path, &input).await;
        assert_eq!((first.status.as_u16(), house.recorded()), (200, before + 1), "{path}: {}", first.text);
        house.fake.clusters.calls();
        let again = house.keyed(&who, &["key-1"], path, &input).await;
        is_repetition(&first, &again);
        assert!(house.fake.clusters.calls().is_empty(), "{path} was done again");
        assert_eq!(house.recorded(), before + 1, "{path}: a repetition is no operation");
        tried.insert(line.path.clone());
    }
    let posts = endpoints().into_iter().filter(|(method, path)| method == "POST" && !WITHOUT.contains(path));
    assert_eq!(tried, posts.map(|(_, path)| path.to_owned()).collect());
}

#[actix_web::test]
async fn what_takes_no_key_ignores_it_and_keeps_nothing() {
    let house = TestApp::new().await;
    let who = house.login("ops").await;
    let body = json!({"cluster_id": house.cluster, "namespace": "shop", "name": "pass"}).to_string();
    for key in ["key", "key", "", "a b"] {
        let reply = house.keyed(&who, &[key, key], "/api/k8s/secrets/reveal", &body).await;
        assert!(reply.text.contains("canary-data"), "{}", reply.text);
        assert_eq!(reply.header("idempotency-replayed"), None);
    }
    assert_eq!(house.fake.store.claims(), 0);
}

#[actix_web::test]
async fn the_key_stands_for_one_request_of_one_user() {
    let house = TestApp::new().await;
    let (ops, admin) = (house.login("ops").await, house.login("super").await);
    let first = house.keyed(&ops, &["key"], SCALE, &house.scale(3)).await;
    let id = first.header("x-request-id").unwrap().to_owned();
    assert_eq!(first.data()["workload"]["replicas"], 3);
    let conflict = |reply: Reply| {
        assert_eq!(reply.refusal(), (409, "CONFLICT_ERROR".into(), "idempotency_key_reused".into()));
        assert_eq!(reply.json()["context"]["name"], id.as_str(), "the request that used it first");
    };
    conflict(house.keyed(&ops, &["key"], SCALE, &house.scale(4)).await);
    conflict(
        house
            .keyed(
                &ops,
                &["key"],
                "/api/k8s/workloads/restart",
                &house.scale(3).replace(",\"replicas\":3", ""),
            )
            .await,
    );
    let mut other: Value = serde_json::from_str(&house.scale(3)).unwrap();
    other["name"] = json!("nobody");
    conflict(house.keyed(&ops, &["key"], SCALE, &other.to_string()).await);
    assert_eq!(house.keyed(&admin, &["key"], SCALE, &house.scale(5)).await.data()["workload"]["replicas"], 5);
    // the same said in another order, in another session
    let again = house.login("ops").await;
    let spaced = house.scale(3).replace(',', " , ").replace(":", ": ");
    assert_eq!(house.keyed(&again, &["key"], SCALE, &spaced).await.text, first.text);
    assert_eq!(house.keyed(&ops, &["other"], SCALE, &house.scale(4)).await.data()["workload"]["replicas"], 4);
}

#[actix_web::test]
async fn a_lost_role_does_not_get_the_answers_of_the_old_one() {
    let house = TestApp::new().await;
    let (ops, admin) = (house.login("ops").await, house.login("super").await);
    house.keyed(&ops, &["key"], SCALE, &house.scale(3)).await.data();
    let demotion = json!({"id": house.user("ops").await, "role": "viewer"});
    house.post(&admin, "/api/auth/users/update", demotion).await.data();
    let viewer = house.login("ops").await;
    for key in ["key", "new"] {
        let reply = house.keyed(&viewer, &[key], SCALE, &house.scale(3)).await;
        assert_eq!(reply.refusal().2, "role_too_low");
    }
    assert_eq!(house.fake.store.claims(), 1, "the role is asked before a key is stored");
    // of another role that may do it, too, the answer is another one's
    let promotion = json!({"id": house.user("ops").await, "role": "super_admin"});
    house.post(&admin, "/api/auth/users/update", promotion).await.data();
    let promoted = house.login("ops").await;
    let reply = house.keyed(&promoted, &["key"], SCALE, &house.scale(3)).await;
    assert_eq!(reply.refusal().2, "idempotency_key_reused");
}

#[actix_web::test]
async fn a_repetition_needs_a_session_like_any_call() {
    let house = TestApp::new().await;
    let ops = house.login("ops").await;
    house.keyed(&ops, &["key"], SCALE, &house.scale(3)).await.data();
    house.advance(Duration::from_secs(11 * 60));
    let reply = house.keyed(&ops, &["key"], SCALE, &house.scale(3)).await;
    assert_eq!(reply.refusal(), (401, "AUTHENTICATION_ERROR".into(), "token_expired".into()));
}

#[actix_web::test]
async fn keys_by_table() {
    let house = TestApp::new().await;
    let ops = house.login("ops").await;
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
        let reply = house.keyed(&ops, keys, SCALE, &house.scale(3)).await;
        match reason {
            None => assert_eq!(reply.status.as_u16(), 200, "{keys:?}"),
            Some(reason) => assert_eq!(reply.fields(), [format!("Idempotency-Key={reason}")], "{keys:?}"),
        }
    }
    assert_eq!((house.fake.clusters.calls().len(), house.fake.store.claims()), (2, 2));
}

#[actix_web::test]
async fn a_refused_call_frees_the_key() {
    let house = TestApp::new().await;
    let ops = house.login("ops").await;
    let bad = house.keyed(&ops, &["key"], SCALE, &house.scale(3).replace("web", "a/b")).await;
    assert_eq!((bad.status.as_u16(), house.fake.store.claims()), (400, 0));
    let absent = house.keyed(&ops, &["key"], SCALE, &house.scale(3).replace("web", "none")).await;
    assert_eq!((absent.status.as_u16(), house.fake.store.claims()), (404, 0));
    house.fake.clusters.fail(Some(Cause::Unreachable));
    assert_eq!(house.keyed(&ops, &["key"], SCALE, &house.scale(3)).await.refusal().2, "unreachable");
    house.fake.clusters.fail(None);
    assert_eq!(house.keyed(&ops, &["key"], SCALE, &house.scale(3)).await.data()["workload"]["replicas"], 3);
}

#[actix_web::test]
async fn what_may_have_happened_is_not_tried_again() {
    let house = TestApp::new().await;
    let ops = house.login("ops").await;
    house.fake.clusters.fail(Some(Cause::DeadlineExceeded));
    let first = house.keyed(&ops, &["key"], SCALE, &house.scale(3)).await;
    assert_eq!(first.refusal(), (504, "TIMEOUT_ERROR".into(), "deadline_exceeded".into()));
    house.fake.clusters.fail(None);
    house.fake.clusters.calls();
    is_repetition(&first, &house.keyed(&ops, &["key"], SCALE, &house.scale(3)).await);
    assert!(house.fake.clusters.calls().is_empty());
}

#[actix_web::test]
async fn a_cluster_that_did_not_answer_a_test_may_be_registered_later_under_the_same_key() {
    let house = TestApp::new().await;
    let ops = house.login("ops").await;
    let body =
        r#"{"name":"b","api_server":"https://b.example.com","auth_type":"token","token":"canary-token"}"#;
    house.fake.clusters.fail(Some(Cause::DeadlineExceeded));
    let first = house.keyed(&ops, &["key"], "/api/k8s/clusters", body).await;
    assert_eq!(first.refusal().2, "deadline_exceeded");
    house.fake.clusters.fail(None);
    let second = house.keyed(&ops, &["key"], "/api/k8s/clusters", body).await;
    assert_eq!(second.data()["cluster"]["name"], "b");
}

#[actix_web::test]
async fn an_answer_lost_with_the_process_is_a_conflict_that_says_where_to_look() {
    let house = TestApp::new().await;
    let ops = house.login("ops").await;
    let first = house.keyed(&ops, &["key"], SCALE, &house.scale(3)).await;
    house.fake.store.lose_answers();
    house.fake.clusters.calls();
    let again = house.keyed(&ops, &["key"], SCALE, &house.scale(3)).await;
    assert_eq!(again.refusal(), (409, "CONFLICT_ERROR".into(), "idempotency_outcome_unknown".into()));
    let id = first.header("x-request-id").unwrap();
    assert_eq!(again.json()["context"]["name"], id);
    assert!(again.json()["details"].as_str().unwrap().contains(id), "{}", again.text);
    assert!(house.fake.clusters.calls().is_empty());
}

#[actix_web::test]
async fn a_key_is_forgotten_after_a_day() {
    let house = TestApp::new().await;
    let ops = house.login("ops").await;
    house.keyed(&ops, &["key"], SCALE, &house.scale(3)).await.data();
    house.advance(Duration::from_secs(24 * 3600));
    let ops = house.login("ops").await;
    let again = house.keyed(&ops, &["key"], SCALE, &house.scale(4)).await;
    assert_eq!(again.data()["workload"]["replicas"], 4);
}
