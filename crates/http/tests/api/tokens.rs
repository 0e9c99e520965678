//! API tokens: requests with a token instead of a session, and the tokens of service accounts.

use actix_web::http::StatusCode;
use pilothouse_core::operation::Status;
use serde_json::{Value, json};

use crate::test_app::{Credentials, SignedIn, TestApp};

const TOKENS: &str = "/api/auth/tokens";

/// Makes a token. Returns its row and its secret as credentials.
async fn make(api: &TestApp, signed_in: &SignedIn, body: Value) -> (Value, Credentials) {
    let data = api.post(signed_in, TOKENS, body).await.data();
    let bearer = data["secret"].as_str().map(str::to_owned);
    (data["token"].clone(), Credentials { bearer, cookie: None })
}

/// Creates a service account of a user with a token of it. Returns the id and the credentials.
async fn service_account(api: &TestApp, admin: &SignedIn, owner: i64) -> (Value, Credentials) {
    let body = json!({"name": "robot", "description": "deploys", "owner_user_id": owner});
    let id = api.post(admin, "/api/auth/service-accounts", body).await.data()["service_account"]["id"].take();
    let (row, credentials) = make(api, admin, json!({"name": "ci", "service_account_id": id})).await;
    assert_eq!(row["owner"], json!({"type": "service_account", "id": id, "name": "robot"}));
    (id, credentials)
}

#[actix_web::test]
async fn token_replaces_a_session_until_it_is_revoked() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    let (row, token) = make(&api, &viewer, json!({"name": "ci"})).await;
    let secret = token.bearer.clone().unwrap();
    assert!(secret.starts_with("php_") && secret.len() == 40);
    assert_eq!(row["prefix"].as_str(), Some(&secret[..8]));
    assert_eq!(row["ceiling"], json!({"role": null, "clusters": {"all": true}, "namespaces": null}));
    assert_eq!(row["last_used_at"], Value::Null);
    let list = api.get(&viewer, TOKENS, "").await;
    assert!(!list.text.contains(&secret[8..]), "the secret is shown once");

    assert_eq!(api.call(&token, "GET", "/api/k8s/clusters", "").await.status, StatusCode::OK);
    let me = api.call(&token, "GET", "/api/auth/me", "").await.data();
    assert_eq!((&me["user"]["username"], &me["session"]), (&json!("viewer"), &Value::Null));
    assert_eq!((&me["token"]["name"], &me["service_account"]), (&json!("ci"), &Value::Null));
    assert_eq!(me["token"]["last_used_ip"], "192.0.2.7");
    let mine = api.call(&token, "GET", "/api/access/mine", "").await.data();
    assert_eq!(mine["user"]["username"], "viewer");

    api.post(&viewer, "/api/auth/tokens/revoke", json!({"id": row["id"]})).await.data();
    let reply = api.call(&token, "GET", "/api/k8s/clusters", "").await;
    assert_eq!(reply.error(), (401, "AUTHENTICATION_ERROR".into(), "token_invalid".into()));
    assert_eq!(api.get(&viewer, TOKENS, "").await.data()["tokens"], json!([]));
}

#[actix_web::test]
async fn token_beside_a_session_cookie_is_refused() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    let (_, token) = make(&api, &viewer, json!({"name": "ci"})).await;
    for cookie in [
        viewer.credentials.cookie.clone().unwrap(),
        "x".to_owned(),
        String::new(),
        "x; session_id=y".to_owned(),
    ] {
        let mixed = Credentials { cookie: Some(cookie), ..token.clone() };
        assert_eq!(api.call(&mixed, "GET", "/api/auth/me", "").await.error().2, "session_mismatch");
    }
    for forged in ["php_", "php_000000000000000000000000000000000000", "phs_x"] {
        let forged = Credentials { bearer: Some(forged.to_owned()), cookie: None };
        assert_eq!(api.call(&forged, "GET", "/api/auth/me", "").await.error().2, "token_invalid");
    }
}

#[actix_web::test]
async fn token_is_cut_to_its_ceiling_and_its_networks() {
    let api = TestApp::new().await;
    let ops = api.login("ops").await;
    let ceiling = json!({"name": "narrow", "role": "viewer", "namespaces": ["bank"]});
    let (_, narrow) = make(&api, &ops, ceiling).await;
    let configmaps = format!("cluster_id={}&namespace=shop", api.cluster);
    let reply = api.call(&narrow, "GET", "/api/k8s/configmaps", &configmaps).await;
    assert_eq!(reply.error(), (403, "PERMISSION_DENIED".into(), "role_too_low".into()));
    let body = json!({"id": api.cluster, "description": "changed"}).to_string();
    assert_eq!(api.call(&narrow, "POST", "/api/k8s/clusters/update", &body).await.error().0, 403);
    let (_, elsewhere) = make(&api, &ops, json!({"name": "elsewhere", "networks": ["10.0.0.0/8"]})).await;
    assert_eq!(api.call(&elsewhere, "GET", "/api/auth/me", "").await.error().2, "token_network");
    let (row, here) = make(&api, &ops, json!({"name": "here", "networks": ["192.0.2.7"]})).await;
    assert_eq!(row["networks"], json!(["192.0.2.7/32"]));
    assert_eq!(api.call(&here, "GET", "/api/auth/me", "").await.status, StatusCode::OK);

    let nothing = json!({
        "name": "whole", "expires_in_days": null, "role": null, "clusters": null, "namespaces": null, "networks": null,
        "service_account_id": null,
    });
    let (row, whole) = make(&api, &ops, nothing).await;
    assert_eq!(row["networks"], json!([]));
    assert_eq!(row["ceiling"], json!({"role": null, "clusters": {"all": true}, "namespaces": null}));
    assert_eq!(api.call(&whole, "GET", "/api/auth/me", "").await.status, StatusCode::OK);
}

#[actix_web::test]
async fn token_changes_no_account_credential_or_right() {
    let api = TestApp::new().await;
    let admin = api.login("super").await;
    let (_, token) = make(&api, &admin, json!({"name": "ci"})).await;
    let target = api.user("target").await;
    for (path, body) in [
        (TOKENS, json!({"name": "another"})),
        ("/api/auth/password", json!({"old_password": "x", "new_password": "another horse battery"})),
        ("/api/auth/totp/enroll", json!({})),
        ("/api/auth/totp/confirm", json!({"code": "123456"})),
        ("/api/auth/totp/verify", json!({"code": "123456"})),
        ("/api/auth/totp/verify", json!({"code": "123456"})),
        ("/api/auth/totp/disable", json!({"code": "123456"})),
        ("/api/auth/users/delete", json!({"id": target})),
        ("/api/auth/service-accounts", json!({"name": "robot", "owner_user_id": target})),
        ("/api/access/roles/delete", json!({"name": "first-aid"})),
        (
            "/api/access/grants",
            json!({"subject": {"type": "user", "id": target}, "role": "viewer", "clusters": {"all": true}, "namespaces": null}),
        ),
    ] {
        let before = api.fake.store.all_operations().len();
        let reply = api.call(&token, "POST", path, &body.to_string()).await;
        assert_eq!(reply.error(), (403, "PERMISSION_DENIED".into(), "token_not_allowed".into()), "{path}");
        let recorded = api.fake.store.all_operations().split_off(before);
        let [row] = &recorded[..] else { panic!("{path}: {recorded:?}") };
        assert_eq!((&*row.username, row.status), ("super", Status::Failed), "{path}");
    }
    let reveal = json!({"cluster_id": api.cluster, "namespace": "shop", "name": "pass"}).to_string();
    let reply = api.call(&token, "POST", "/api/k8s/secrets/reveal", &reveal).await;
    assert_eq!(reply.error().2, "token_not_allowed", "it wants a fresh second factor");
}

#[actix_web::test]
async fn service_account_signs_in_by_token_and_is_named_in_the_trail() {
    let api = TestApp::new().await;
    let admin = api.login("super").await;
    let (id, token) = service_account(&api, &admin, api.user("ops").await).await;
    let me = api.call(&token, "GET", "/api/auth/me", "").await.data();
    assert_eq!((&me["user"], &me["session"]), (&Value::Null, &Value::Null));
    assert_eq!(
        (&me["service_account"]["name"], &me["service_account"]["owner"]),
        (&json!("robot"), &json!("ops"))
    );
    let scale = json!({"cluster_id": api.cluster, "namespace": "shop", "type": "deployment", "name": "web", "replicas": 3})
        .to_string();
    let path = "/api/k8s/workloads/scale";
    assert_eq!(api.call(&token, "POST", path, &scale).await.status, StatusCode::NOT_FOUND, "no grant yet");
    let grant = json!({"subject": {"type": "service_account", "id": id}, "role": "operator", "clusters": {"all": true}, "namespaces": ["shop"]});
    api.post(&admin, "/api/access/grants", grant).await.data();
    assert_eq!(api.call(&token, "POST", path, &scale).await.status, StatusCode::OK);
    let row = api.fake.store.all_operations().pop().unwrap();
    assert_eq!((row.username.as_str(), row.user_id), ("sa:robot", None));
    let mine = api.call(&token, "GET", "/api/access/mine", "").await.data();
    assert_eq!((&mine["user"]["username"], &mine["user"]["id"]), (&json!("sa:robot"), &Value::Null));

    // it stops with its owner, and ends when it is deleted
    let ops = api.user("ops").await;
    let disabled = |disabled: bool| json!({"id": ops, "disabled": disabled});
    api.post(&admin, "/api/auth/users/update", disabled(true)).await.data();
    assert_eq!(api.call(&token, "GET", "/api/auth/me", "").await.error().2, "token_invalid");
    api.post(&admin, "/api/auth/users/update", disabled(false)).await.data();
    assert_eq!(api.call(&token, "GET", "/api/auth/me", "").await.status, StatusCode::OK);
    api.post(&admin, "/api/auth/service-accounts/delete", json!({"id": id})).await.data();
    assert_eq!(api.call(&token, "GET", "/api/auth/me", "").await.error().2, "token_invalid");
}
