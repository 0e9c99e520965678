//! Login, logout, token refresh, passwords and users.

use std::time::Duration;

use actix_web::{http::StatusCode, test::TestRequest};
use pilothouse_http::HttpSettings;
use serde_json::{Value, json};

use crate::test_app::{Credentials, PASSWORD, Ready, SignedIn, TestApp};

#[actix_web::test]
async fn login_response_has_exactly_the_fields_of_the_contract() {
    let api = TestApp::new().await;
    let data = api.login("viewer").await.data;
    let mut keys: Vec<_> = data.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["access_token", "expires_in", "refresh_token", "session_id", "token_type", "user"]);
    assert_eq!((&data["token_type"], &data["expires_in"]), (&json!("Bearer"), &json!(600)));
    let id = api.user("viewer").await;
    assert_eq!(
        data["user"],
        json!({"id": id, "username": "viewer", "display_name": "viewer", "role": "viewer"})
    );
}

#[actix_web::test]
async fn session_cookie_has_its_attributes() {
    let body = json!({"username": "viewer", "password": PASSWORD}).to_string();
    for (secure_cookie, secure) in [(true, "; Secure"), (false, "")] {
        let api = TestApp::with(HttpSettings { secure_cookie, ..HttpSettings::default() }, Ready::Yes).await;
        let reply = api.call(&Credentials::default(), "POST", "/api/auth/login", &body).await;
        let value = reply.json()["data"]["session_id"].as_str().unwrap().to_owned();
        let cookie = format!("session_id={value}; HttpOnly; SameSite=Strict; Path=/{secure}");
        assert_eq!(reply.header("set-cookie"), Some(cookie.as_str()));
        let session = Credentials { bearer: None, cookie: Some(value) };
        let reply = api.call(&session, "POST", "/api/auth/logout", "").await;
        let cleared = format!("session_id=; HttpOnly; SameSite=Strict; Path=/{secure}; Max-Age=0");
        assert_eq!(
            (reply.header("set-cookie"), &reply.data()),
            (Some(cleared.as_str()), &json!({"end_session_url": null}))
        );
        assert_eq!(api.call(&session, "POST", "/api/auth/logout", "").await.error().2, "session_ended");
    }
}

#[actix_web::test]
async fn session_id_chosen_by_the_client_is_ignored() {
    let api = TestApp::new().await;
    let chosen = Credentials { bearer: None, cookie: Some("0".repeat(64)) };
    let body = json!({"username": "viewer", "password": PASSWORD}).to_string();
    let data = api.call(&chosen, "POST", "/api/auth/login", &body).await.data();
    assert_ne!(data["session_id"].as_str(), chosen.cookie.as_deref());
}

#[actix_web::test]
async fn refresh_replaces_the_pair_of_tokens() {
    let api = TestApp::new().await;
    let SignedIn { credentials, refresh, data } = api.login("viewer").await;
    let body = json!({"refresh_token": refresh}).to_string();
    let fresh = api.call(&credentials, "POST", "/api/auth/refresh", &body).await.data();
    assert!(fresh.get("user").is_none());
    assert_eq!(fresh["session_id"], data["session_id"]);
    assert_ne!(fresh["refresh_token"], data["refresh_token"]);
    let reply = api.call(&credentials, "GET", "/api/auth/me", "").await;
    assert_eq!(reply.error(), (401, "AUTHENTICATION_ERROR".into(), "token_expired".into()));
    let next =
        Credentials { bearer: fresh["access_token"].as_str().map(str::to_owned), ..credentials.clone() };
    assert_eq!(api.call(&next, "GET", "/api/auth/me", "").await.status, StatusCode::OK);
    api.advance(Duration::from_secs(11));
    let replayed = api.call(&credentials, "POST", "/api/auth/refresh", &body).await;
    assert_eq!(replayed.error().2, "session_ended");
    assert_eq!(api.call(&next, "GET", "/api/auth/me", "").await.error().2, "session_ended");
}

#[actix_web::test]
async fn background_reads_and_refreshes_do_not_extend_the_session() {
    let api = TestApp::new().await;
    let SignedIn { mut credentials, mut refresh, .. } = api.login("viewer").await;
    let send = async |credentials: &Credentials, request: TestRequest, background: &str| {
        let request = request.insert_header(("x-background", background));
        api.send(credentials.headers().into_iter().fold(request, TestRequest::insert_header)).await
    };
    let get = |path: &str| TestRequest::get().uri(path);
    let post = |path: &str, body: Value| TestRequest::post().uri(path).set_json(body);
    let idle_expiry = async |credentials: &Credentials, background: &str| {
        let me = send(credentials, get("/api/auth/me"), background).await.data();
        me["session"]["idle_expires_at"].as_str().unwrap().to_owned()
    };
    let first = idle_expiry(&credentials, "true").await;
    for _ in 0..3 {
        api.advance(Duration::from_secs(300));
        let body = json!({"refresh_token": refresh});
        let fresh = send(&credentials, post("/api/auth/refresh", body), "true").await.data();
        credentials.bearer = fresh["access_token"].as_str().map(str::to_owned);
        refresh = fresh["refresh_token"].as_str().unwrap().to_owned();
        assert_eq!(idle_expiry(&credentials, "true").await, first);
        let list = send(&credentials, get("/api/auth/sessions"), "true").await.data();
        assert_eq!(list["sessions"][0]["idle_expires_at"], first.as_str());
    }
    // a change counts as the user's, and so does any other value of the header
    let absent = post("/api/auth/sessions/revoke", json!({"id": 999_999}));
    assert_eq!(send(&credentials, absent, "true").await.status, StatusCode::NOT_FOUND);
    let second = idle_expiry(&credentials, "true").await;
    assert!(second > first, "{second} {first}");
    api.advance(Duration::from_secs(300));
    assert!(idle_expiry(&credentials, "yes").await > second);
}

#[actix_web::test]
async fn cross_site_page_cannot_use_the_cookie() {
    let api = TestApp::new().await;
    let signed_in = api.login("viewer").await;
    let cookie = format!("session_id={}", signed_in.credentials.cookie.as_ref().unwrap());
    let logout = || TestRequest::post().uri("/api/auth/logout").insert_header(("cookie", cookie.as_str()));
    for (name, value) in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "https://evil.example"),
    ] {
        let reply = api.send(logout().insert_header((name, value))).await;
        assert_eq!(
            reply.error(),
            (401, "AUTHENTICATION_ERROR".into(), "cross_site".into()),
            "{name}: {value}"
        );
    }
    assert_eq!(
        api.get(&signed_in, "/api/auth/me", "").await.status,
        StatusCode::OK,
        "the session is still valid"
    );
    let own = logout().insert_header(("sec-fetch-site", "same-origin"));
    assert_eq!(api.send(own).await.status, StatusCode::OK);
}

#[actix_web::test]
async fn me_returns_user_and_session_without_secrets() {
    let api = TestApp::new().await;
    let signed_in = api.login("viewer").await;
    let reply = api.get(&signed_in, "/api/auth/me", "").await;
    for secret in [&signed_in.refresh, signed_in.credentials.cookie.as_ref().unwrap(), &PASSWORD.to_owned()] {
        assert!(!reply.text.contains(secret.as_str()));
    }
    let me = reply.data();
    assert_eq!((&me["user"]["username"], &me["session"]["current"]), (&json!("viewer"), &json!(true)));
    assert_eq!(me["session"]["source_ip"], "192.0.2.7");
}

#[actix_web::test]
async fn password_change_ends_the_other_sessions() {
    let api = TestApp::new().await;
    let (session, other_session) = (api.login("viewer").await, api.login("viewer").await);
    let change = |old: &str, new: &str| json!({"old_password": old, "new_password": new});
    let path = "/api/auth/password";
    assert_eq!(
        api.post(&session, path, change("wrong", "another horse battery")).await.fields(),
        ["old_password=not_allowed"]
    );
    assert_eq!(
        api.post(&session, path, change(PASSWORD, "short")).await.fields(),
        ["new_password=too_short"]
    );
    let data = api.post(&session, path, change(PASSWORD, "another horse battery")).await.data();
    assert_eq!(data["user"]["username"], "viewer");
    assert_eq!(api.get(&session, "/api/auth/me", "").await.status, StatusCode::OK);
    assert_eq!(api.get(&other_session, "/api/auth/me", "").await.error().2, "session_ended");
}

#[actix_web::test]
async fn failed_logins_are_throttled_with_retry_after() {
    let api = TestApp::new().await;
    let body = json!({"username": "viewer", "password": "wrong wrong wrong"}).to_string();
    let anonymous = Credentials::default();
    let attempt = || api.call(&anonymous, "POST", "/api/auth/login", &body);
    for _ in 0..5 {
        assert_eq!(attempt().await.error(), (401, "AUTHENTICATION_ERROR".into(), "bad_credentials".into()));
    }
    let reply = attempt().await;
    assert_eq!(reply.error(), (429, "RATE_LIMITED".into(), "too_many_logins".into()));
    let seconds: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=30).contains(&seconds), "{seconds}");
}

#[actix_web::test]
async fn user_is_created_changed_and_deleted() {
    let api = TestApp::new().await;
    let admin = api.login("super").await;
    let new = json!({"username": " Fresh ", "password": PASSWORD, "role": "viewer", "display_name": "新人"});
    let user = api.post(&admin, "/api/auth/users", new.clone()).await.data()["user"].take();
    assert_eq!((&user["username"], &user["display_name"]), (&json!("fresh"), &json!("新人")));
    assert_eq!(api.post(&admin, "/api/auth/users", new).await.error().2, "name_taken");
    let id = user["id"].as_i64().unwrap();
    let fresh = api.login("fresh").await;
    let update = json!({"id": id, "disabled": true});
    assert_eq!(api.post(&admin, "/api/auth/users/update", update).await.data()["user"]["disabled"], true);
    assert_eq!(api.get(&fresh, "/api/auth/me", "").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(api.post(&admin, "/api/auth/users/delete", json!({"id": id})).await.data(), json!({}));
    let own = json!({"id": api.user("super").await});
    assert_eq!(api.post(&admin, "/api/auth/users/delete", own).await.error().2, "last_super_admin");
}
