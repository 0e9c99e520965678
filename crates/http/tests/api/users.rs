//! Signing in and out.

use std::time::Duration;

use actix_web::{http::StatusCode, test::TestRequest};
use pilothouse_http::HttpSettings;
use serde_json::json;

use crate::test_app::{Credentials, PASSWORD, Ready, SignedIn, TestApp};

#[actix_web::test]
async fn a_login_answers_exactly_as_the_contract_says() {
    let house = TestApp::new().await;
    let data = house.login("viewer").await.data;
    let mut keys: Vec<_> = data.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["access_token", "expires_in", "refresh_token", "session_id", "token_type", "user"]);
    assert_eq!((&data["token_type"], &data["expires_in"]), (&json!("Bearer"), &json!(600)));
    let id = house.user("viewer").await;
    assert_eq!(
        data["user"],
        json!({"id": id, "username": "viewer", "display_name": "viewer", "role": "viewer"})
    );
}

#[actix_web::test]
async fn the_cookie_has_its_attributes() {
    let body = json!({"username": "viewer", "password": PASSWORD}).to_string();
    for (secure_cookie, secure) in [(true, "; Secure"), (false, "")] {
        let house =
            TestApp::with(HttpSettings { secure_cookie, ..HttpSettings::default() }, Ready::Yes).await;
        let reply = house.call(&Credentials::default(), "POST", "/api/auth/login", &body).await;
        let value = reply.json()["data"]["session_id"].as_str().unwrap().to_owned();
        let cookie = format!("session_id={value}; HttpOnly; SameSite=Strict; Path=/{secure}");
        assert_eq!(reply.header("set-cookie"), Some(cookie.as_str()));
        let session = Credentials { bearer: None, cookie: Some(value) };
        let reply = house.call(&session, "POST", "/api/auth/logout", "").await;
        let cleared = format!("session_id=; HttpOnly; SameSite=Strict; Path=/{secure}; Max-Age=0");
        assert_eq!((reply.header("set-cookie"), &reply.data()), (Some(cleared.as_str()), &json!({})));
        assert_eq!(house.call(&session, "POST", "/api/auth/logout", "").await.refusal().2, "session_ended");
    }
}

#[actix_web::test]
async fn a_session_id_that_was_chosen_beforehand_is_not_used() {
    let house = TestApp::new().await;
    let chosen = Credentials { bearer: None, cookie: Some("0".repeat(64)) };
    let body = json!({"username": "viewer", "password": PASSWORD}).to_string();
    let data = house.call(&chosen, "POST", "/api/auth/login", &body).await.data();
    assert_ne!(data["session_id"].as_str(), chosen.cookie.as_deref());
}

#[actix_web::test]
async fn a_refresh_replaces_the_pair() {
    let house = TestApp::new().await;
    let SignedIn { credentials, refresh, data } = house.login("viewer").await;
    let body = json!({"refresh_token": refresh}).to_string();
    let fresh = house.call(&credentials, "POST", "/api/auth/refresh", &body).await.data();
    assert!(fresh.get("user").is_none());
    assert_eq!(fresh["session_id"], data["session_id"]);
    assert_ne!(fresh["refresh_token"], data["refresh_token"]);
    let reply = house.call(&credentials, "GET", "/api/auth/me", "").await;
    assert_eq!(reply.refusal(), (401, "AUTHENTICATION_ERROR".into(), "token_expired".into()));
    let next =
        Credentials { bearer: fresh["access_token"].as_str().map(str::to_owned), ..credentials.clone() };
    assert_eq!(house.call(&next, "GET", "/api/auth/me", "").await.status, StatusCode::OK);
    house.advance(Duration::from_secs(11));
    let replayed = house.call(&credentials, "POST", "/api/auth/refresh", &body).await;
    assert_eq!(replayed.refusal().2, "session_ended");
    assert_eq!(house.call(&next, "GET", "/api/auth/me", "").await.refusal().2, "session_ended");
}

#[actix_web::test]
async fn a_cross_site_page_cannot_use_the_cookie() {
    let house = TestApp::new().await;
    let who = house.login("viewer").await;
    let cookie = format!("session_id={}", who.credentials.cookie.as_ref().unwrap());
    let logout = || TestRequest::post().uri("/api/auth/logout").insert_header(("cookie", cookie.as_str()));
    for (name, value) in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "https://evil.example"),
    ] {
        let reply = house.send(logout().insert_header((name, value))).await;
        assert_eq!(
            reply.refusal(),
            (401, "AUTHENTICATION_ERROR".into(), "cross_site".into()),
            "{name}: {value}"
        );
    }
    assert_eq!(house.get(&who, "/api/auth/me", "").await.status, StatusCode::OK, "the session lives on");
    let own = logout().insert_header(("sec-fetch-site", "same-origin"));
    assert_eq!(house.send(own).await.status, StatusCode::OK);
}

#[actix_web::test]
async fn me_is_the_user_and_the_session_without_a_secret() {
    let house = TestApp::new().await;
    let who = house.login("viewer").await;
    let reply = house.get(&who, "/api/auth/me", "").await;
    for secret in [&who.refresh, who.credentials.cookie.as_ref().unwrap(), &PASSWORD.to_owned()] {
        assert!(!reply.text.contains(secret.as_str()));
    }
    let me = reply.data();
    assert_eq!((&me["user"]["username"], &me["session"]["current"]), (&json!("viewer"), &json!(true)));
    assert_eq!(me["session"]["source_ip"], "192.0.2.7");
}

#[actix_web::test]
async fn a_password_is_changed_and_the_other_sessions_end() {
    let house = TestApp::new().await;
    let (here, there) = (house.login("viewer").await, house.login("viewer").await);
    let change = |old: &str, new: &str| json!({"old_password": old, "new_password": new});
    let path = "/api/auth/password";
    assert_eq!(
        house.post(&here, path, change("wrong", "another horse battery")).await.fields(),
        ["old_password=not_allowed"]
    );
    assert_eq!(house.post(&here, path, change(PASSWORD, "short")).await.fields(), ["new_password=too_short"]);
    let data = house.post(&here, path, change(PASSWORD, "another horse battery")).await.data();
    assert_eq!(data["user"]["username"], "viewer");
    assert_eq!(house.get(&here, "/api/auth/me", "").await.status, StatusCode::OK);
    assert_eq!(house.get(&there, "/api/auth/me", "").await.refusal().2, "session_ended");
}

#[actix_web::test]
async fn failed_logins_are_throttled_with_retry_after() {
    let house = TestApp::new().await;
    let body = json!({"username": "viewer", "password": "wrong wrong wrong"}).to_string();
    let nobody = Credentials::default();
    let attempt = || house.call(&nobody, "POST", "/api/auth/login", &body);
    for _ in 0..5 {
        assert_eq!(attempt().await.refusal(), (401, "AUTHENTICATION_ERROR".into(), "bad_credentials".into()));
    }
    let reply = attempt().await;
    assert_eq!(reply.refusal(), (429, "RATE_LIMITED".into(), "too_many_logins".into()));
    let seconds: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=30).contains(&seconds), "{seconds}");
}

#[actix_web::test]
async fn a_user_is_made_changed_and_removed() {
    let house = TestApp::new().await;
    let admin = house.login("super").await;
    let new = json!({"username": " Fresh ", "password": PASSWORD, "role": "viewer", "display_name": "新人"});
    let user = house.post(&admin, "/api/auth/users", new.clone()).await.data()["user"].take();
    assert_eq!((&user["username"], &user["display_name"]), (&json!("fresh"), &json!("新人")));
    assert_eq!(house.post(&admin, "/api/auth/users", new).await.refusal().2, "name_taken");
    let id = user["id"].as_i64().unwrap();
    let fresh = house.login("fresh").await;
    let update = json!({"id": id, "disabled": true});
    assert_eq!(house.post(&admin, "/api/auth/users/update", update).await.data()["user"]["disabled"], true);
    assert_eq!(house.get(&fresh, "/api/auth/me", "").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(house.post(&admin, "/api/auth/users/delete", json!({"id": id})).await.data(), json!({}));
    let own = json!({"id": house.user("super").await});
    assert_eq!(house.post(&admin, "/api/auth/users/delete", own).await.refusal().2, "last_super_admin");
}
