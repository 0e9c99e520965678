//! Browser sessions: the refresh token is a cookie that no script can read.

use std::time::Duration;

use actix_web::{http::StatusCode, test::TestRequest};
use pilothouse_http::HttpSettings;
use serde_json::{Value, json};

use crate::test_app::{Credentials, PASSWORD, Ready, Reply, TestApp};

/// The cookies of a browser, by name. A path is not modelled: each request of a test names the cookies that it sends.
#[derive(Clone, Debug, Default)]
struct Browser {
    session_id: String,
    refresh_token: String,
}

/// The `Set-Cookie` headers of a response.
fn set_cookies(reply: &Reply) -> Vec<&str> {
    reply.headers.get_all("set-cookie").map(|value| value.to_str().unwrap()).collect()
}

impl Browser {
    /// Signs in as the user `viewer`.
    async fn sign_in(api: &TestApp) -> (Self, Value) {
        let body = json!({"username": "viewer", "password": PASSWORD, "cookie": true}).to_string();
        let reply = api.call(&Credentials::default(), "POST", "/api/auth/login", &body).await;
        let mut browser = Self::default();
        browser.store(&reply);
        (browser, reply.data())
    }

    /// Stores the cookies of a response.
    fn store(&mut self, reply: &Reply) {
        for cookie in set_cookies(reply) {
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            match name {
                "session_id" => value.clone_into(&mut self.session_id),
                "refresh_token" => value.clone_into(&mut self.refresh_token),
                _ => panic!("{name}"),
            }
        }
    }

    /// Sends a refresh with both cookies.
    async fn refresh(&self, api: &TestApp) -> Reply {
        self.refresh_with(api, "").await
    }

    async fn refresh_with(&self, api: &TestApp, body: &str) -> Reply {
        let cookies = format!("session_id={}; refresh_token={}", self.session_id, self.refresh_token);
        let request = TestRequest::post().uri("/api/auth/refresh").insert_header(("cookie", cookies));
        let request = if body.is_empty() {
            request
        } else {
            request.insert_header(("content-type", "application/json")).set_payload(body.to_owned())
        };
        api.send(request.insert_header(("accept-language", "en"))).await
    }

    /// Whether an access token is valid with the session cookie.
    async fn is_signed_in(&self, api: &TestApp, access_token: &Value) -> bool {
        let bearer = access_token.as_str().map(str::to_owned);
        let credentials = Credentials { bearer, cookie: Some(self.session_id.clone()) };
        api.call(&credentials, "GET", "/api/auth/me", "").await.status == StatusCode::OK
    }
}

/// The names of the fields of an object, sorted.
fn keys(data: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = data.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[actix_web::test]
async fn cookies_have_their_attributes_and_no_secret_of_them_is_in_a_body() {
    for (secure_cookie, secure) in [(true, "; Secure"), (false, "")] {
        let api = TestApp::with(HttpSettings { secure_cookie, ..HttpSettings::default() }, Ready::Yes).await;
        let body = json!({"username": "viewer", "password": PASSWORD, "cookie": true}).to_string();
        let login = api.call(&Credentials::default(), "POST", "/api/auth/login", &body).await;
        let mut browser = Browser::default();
        browser.store(&login);
        assert_eq!(keys(&login.data()), ["access_token", "expires_in", "token_type", "user"]);
        let refreshed = browser.refresh(&api).await;
        let first = browser.clone();
        browser.store(&refreshed);
        assert_eq!(keys(&refreshed.data()), ["access_token", "expires_in", "token_type"]);
        assert_eq!(first.session_id, browser.session_id);
        assert_ne!(first.refresh_token, browser.refresh_token);
        for (reply, Browser { session_id, refresh_token }) in [(&login, &first), (&refreshed, &browser)] {
            let expected = [
                format!("session_id={session_id}; HttpOnly; SameSite=Strict; Path=/{secure}"),
                format!(
                    "refresh_token={refresh_token}; HttpOnly; SameSite=Strict; Path=/api/auth/refresh{secure}"
                ),
            ];
            assert_eq!(set_cookies(reply), expected);
            assert!(!reply.text.contains(session_id) && !reply.text.contains(refresh_token));
        }
    }
}

#[actix_web::test]
async fn session_survives_a_reload_of_the_page() {
    let api = TestApp::new().await;
    let (mut browser, login) = Browser::sign_in(&api).await;
    assert!(browser.is_signed_in(&api, &login["access_token"]).await);
    for _ in 0..3 {
        // a reload loses the access token, which only the page has
        api.advance(Duration::from_secs(60));
        let reply = browser.refresh(&api).await;
        browser.store(&reply);
        assert!(browser.is_signed_in(&api, &reply.data()["access_token"]).await);
    }
}

#[actix_web::test]
async fn two_tabs_that_refresh_get_the_same_pair() {
    let api = TestApp::new().await;
    let (mut browser, _) = Browser::sign_in(&api).await;
    let one = browser.refresh(&api).await;
    api.advance(Duration::from_secs(9));
    let two = browser.refresh(&api).await;
    assert_eq!(set_cookies(&one), set_cookies(&two));
    let (one, data) = (one.data(), two.data());
    assert_eq!(one["access_token"], data["access_token"]);
    assert_eq!((&one["expires_in"], &data["expires_in"]), (&json!(600), &json!(591)));
    assert!(browser.is_signed_in(&api, &data["access_token"]).await);
    // later, the old cookie is a replay
    let old = browser.clone();
    browser.store(&two);
    api.advance(Duration::from_secs(2));
    assert_eq!(old.refresh(&api).await.error().2, "session_ended");
    assert_eq!(browser.refresh(&api).await.error().2, "session_ended");
}

#[actix_web::test]
async fn refresh_takes_exactly_one_token() {
    let api = TestApp::new().await;
    let (browser, _) = Browser::sign_in(&api).await;
    let body = json!({"refresh_token": browser.refresh_token}).to_string();
    let both = browser.refresh_with(&api, &body).await;
    assert_eq!(
        (both.status, both.fields()),
        (StatusCode::BAD_REQUEST, vec!["refresh_token=not_allowed".into()])
    );
    let session = Credentials { bearer: None, cookie: Some(browser.session_id.clone()) };
    for none in ["", "{}", r#"{"refresh_token":null}"#] {
        let reply = api.call(&session, "POST", "/api/auth/refresh", none).await;
        assert_eq!(reply.fields(), ["refresh_token=required"], "{none}");
        let status = browser.refresh_with(&api, none).await.status;
        assert_eq!(status, StatusCode::OK, "with the cookie: {none}");
    }
    // two cookies of the name: one may have been injected
    let cookies = format!("session_id={}; refresh_token=a; refresh_token=b", browser.session_id);
    let request = TestRequest::post().uri("/api/auth/refresh").insert_header(("cookie", cookies));
    assert_eq!(api.send(request).await.fields(), ["refresh_token=required"]);
}

#[actix_web::test]
async fn refresh_cookie_alone_is_no_session() {
    let api = TestApp::new().await;
    let (browser, _) = Browser::sign_in(&api).await;
    let cookie = format!("refresh_token={}", browser.refresh_token);
    let request = TestRequest::post().uri("/api/auth/refresh").insert_header(("cookie", cookie));
    assert_eq!(api.send(request).await.error().2, "not_signed_in");
    let forged = Browser { refresh_token: "0".repeat(64), ..browser };
    assert_eq!(forged.refresh(&api).await.error().2, "refresh_rejected");
}

#[actix_web::test]
async fn logout_and_a_login_without_cookie_remove_the_refresh_cookie() {
    const CLEARED: &str =
        "refresh_token=; HttpOnly; SameSite=Strict; Path=/api/auth/refresh; Secure; Max-Age=0";
    let api = TestApp::new().await;
    let (browser, _) = Browser::sign_in(&api).await;
    let session = Credentials { bearer: None, cookie: Some(browser.session_id.clone()) };
    let logout = api.call(&session, "POST", "/api/auth/logout", "").await;
    let session_cleared = "session_id=; HttpOnly; SameSite=Strict; Path=/; Secure; Max-Age=0";
    assert_eq!(set_cookies(&logout), [session_cleared, CLEARED]);
    assert_eq!(browser.refresh(&api).await.error().2, "session_ended");
    for cookie in ["", r#","cookie":false"#] {
        let body = format!(r#"{{"username":"viewer","password":"{PASSWORD}"{cookie}}}"#);
        let login = api.call(&Credentials::default(), "POST", "/api/auth/login", &body).await;
        assert_eq!(set_cookies(&login)[1..], [CLEARED]);
        assert!(login.data()["refresh_token"].is_string());
    }
}

#[actix_web::test]
async fn background_refresh_of_a_browser_does_not_extend_the_session() {
    let api = TestApp::new().await;
    let (mut browser, _) = Browser::sign_in(&api).await;
    for _ in 0..5 {
        api.advance(Duration::from_secs(300));
        let cookies = format!("session_id={}; refresh_token={}", browser.session_id, browser.refresh_token);
        let request = TestRequest::post().uri("/api/auth/refresh").insert_header(("cookie", cookies));
        let reply = api.send(request.insert_header(("x-background", "true"))).await;
        assert_eq!(reply.status, StatusCode::OK);
        browser.store(&reply);
    }
    api.advance(Duration::from_secs(300));
    assert_eq!(browser.refresh(&api).await.error().2, "session_ended");
}
