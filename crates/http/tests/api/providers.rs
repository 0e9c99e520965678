//! Sign-in through identity providers: the list, OpenID Connect, and a directory.

use std::sync::Arc;

use actix_web::{http::StatusCode, test::TestRequest};
use pilothouse_core::{
    Cause, Error,
    clock::Clock as _,
    name::ProviderId,
    provider::{
        LogoutNotice, MockDirectory, MockOpenIdProvider, OidcSignIn, PasswordCheck, Person, Provider,
        ProviderPort,
    },
    testing::fake::Fake,
};
use pilothouse_http::{HttpSettings, NoopObserver};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::test_app::{Credentials, Ready, Reply, TestApp};

const START: &str = "/api/auth/oidc/corp/start";
const FINISH: &str = "/api/auth/oidc/corp/finish";
const BACKCHANNEL: &str = "/api/auth/oidc/corp/backchannel";
const FORM: &str = "application/x-www-form-urlencoded";
const COOKIE: &str = "__Host-oidc_login";

fn person() -> Person {
    Person::new("subject-1", "mei", Some("Mei 梅".to_owned()), ["shop-dev".to_owned()]).unwrap()
}

/// An OpenID provider that accepts the code `good`.
fn open_id(fake: &Fake) -> MockOpenIdProvider {
    let mut provider = MockOpenIdProvider::new();
    provider
        .expect_authorization_url()
        .returning(|request| Ok(format!("https://idp.example/authorize?state={}", request.state)));
    provider.expect_redeem().returning(|answer| {
        if answer.code.expose_secret() != "good" {
            return Err(Error::new(Cause::SignInRejected));
        }
        let refresh_token = Some("refresh".into());
        Ok(OidcSignIn { person: person(), authenticated_at: None, sid: Some("sid-1".into()), refresh_token })
    });
    provider.expect_end_session_url().returning(|| Ok(Some("https://idp.example/logout".to_owned())));
    let valid_until = fake.runtime.clock.now() + std::time::Duration::from_secs(120);
    provider.expect_verify_logout().returning(move |token| match token {
        "a+b/c=" => {
            let (jti, sid) = ("jti-1".to_owned(), Some("sid-1".to_owned()));
            Ok(LogoutNotice { jti, valid_until, subject: None, sid })
        }
        _ => Err(Error::new(Cause::SignInRejected)),
    });
    provider
}

/// A directory with the person `mei`.
fn directory() -> MockDirectory {
    let mut directory = MockDirectory::new();
    directory.expect_sign_in().returning(|username, password| {
        let is_right = username == "mei" && password.expose_secret() == "right";
        Ok(if is_right { PasswordCheck::Right(person()) } else { PasswordCheck::Wrong { name: None } })
    });
    directory
}

async fn app(settings: HttpSettings) -> TestApp {
    let mut fake = Fake::default();
    let ports = [
        ("corp", "Corp", ProviderPort::Oidc(Arc::new(open_id(&fake)))),
        ("ad", "Directory", ProviderPort::Ldap(Arc::new(directory()))),
    ];
    fake.providers = ports
        .into_iter()
        .map(|(id, label, port)| {
            let id = ProviderId::new(id).unwrap();
            (id.clone(), Provider { id, label: label.to_owned(), trusts_second_factor: false, port })
        })
        .collect();
    TestApp::over(fake, settings, Ready::Yes, Arc::new(NoopObserver)).await
}

/// A browser between the start and the end of a sign-in: the value of its cookie, and the state.
struct Started {
    cookie: String,
    state: String,
}

async fn start(api: &TestApp, query: &str) -> Started {
    let reply = api.call(&Credentials::default(), "GET", START, query).await;
    assert_eq!(reply.status, StatusCode::FOUND, "{}", reply.text);
    let state = reply.header("location").unwrap().strip_prefix("https://idp.example/authorize?state=");
    let cookie = reply.header("set-cookie").unwrap().split(';').next().unwrap();
    Started { cookie: cookie.to_owned(), state: state.unwrap().to_owned() }
}

/// Ends a sign-in with this cookie and body.
async fn finish(api: &TestApp, cookie: &str, body: Value) -> Reply {
    let request = TestRequest::post().uri(FINISH).insert_header(("cookie", cookie)).set_json(body);
    api.send(request.insert_header(("accept-language", "en"))).await
}

/// The `Set-Cookie` headers of a response.
fn set_cookies(reply: &Reply) -> Vec<&str> {
    reply.headers.get_all("set-cookie").map(|value| value.to_str().unwrap()).collect()
}

/// Signs in, and returns the credentials of the session.
async fn sign_in(api: &TestApp) -> Credentials {
    let Started { cookie, state } = start(api, "").await;
    let reply = finish(api, &cookie, json!({"code": "good", "state": state})).await;
    let session = set_cookies(&reply)[0].split(';').next().unwrap().strip_prefix("session_id=").unwrap();
    let bearer = reply.data()["access_token"].as_str().map(str::to_owned);
    Credentials { bearer, cookie: Some(session.to_owned()) }
}

#[actix_web::test]
async fn ways_to_sign_in_are_open_to_everybody() {
    let api = app(HttpSettings::default()).await;
    let list = api.call(&Credentials::default(), "GET", "/api/auth/providers", "").await.data();
    let expected = json!({"providers": [
        {"id": "local", "kind": "local", "label": "Pilothouse", "start_url": null},
        {"id": "ad", "kind": "ldap", "label": "Directory", "start_url": null},
        {"id": "corp", "kind": "oidc", "label": "Corp", "start_url": START},
    ]});
    assert_eq!(list, expected);
}

#[actix_web::test]
async fn start_binds_the_sign_in_to_the_browser() {
    for (secure_cookie, name, secure) in [(true, COOKIE, "; Secure"), (false, "oidc_login", "")] {
        let api = app(HttpSettings { secure_cookie, ..HttpSettings::default() }).await;
        let reply = api.call(&Credentials::default(), "GET", START, "to=/clusters").await;
        assert_eq!((reply.status, reply.text.as_str()), (StatusCode::FOUND, ""));
        let [cookie] = set_cookies(&reply)[..] else { panic!("one cookie") };
        let (value, attributes) = cookie.strip_prefix(name).unwrap()[1..].split_once(';').unwrap();
        assert_eq!(value.len(), 64);
        assert_eq!(attributes, format!(" HttpOnly; SameSite=Lax; Path=/{secure}; Max-Age=600"));
        assert!(!reply.header("location").unwrap().contains(value), "the state is another secret");
        assert_eq!(reply.header("cache-control"), Some("no-store"));
    }
}

#[actix_web::test]
async fn finish_opens_a_browser_session_and_returns_to_the_console() {
    let api = app(HttpSettings::default()).await;
    let Started { cookie, state } = start(&api, "to=/clusters%3Fq%3D1").await;
    let body = json!({"code": "good", "state": state, "iss": "https://idp.example"});
    let reply = finish(&api, &cookie, body.clone()).await;
    let data = reply.data();
    let mut keys: Vec<_> = data.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["access_token", "expires_in", "to", "token_type", "user"]);
    assert_eq!((&data["to"], &data["user"]["role"]), (&json!("/clusters?q=1"), &json!("none")));
    assert_eq!(data["user"]["username"], "corp:mei");
    let cookies = set_cookies(&reply);
    assert_eq!(cookies.len(), 3);
    assert!(cookies[0].starts_with("session_id=") && cookies[1].starts_with("refresh_token="));
    let cleared = format!("{COOKIE}=; HttpOnly; SameSite=Lax; Path=/; Secure; Max-Age=0");
    assert_eq!(cookies[2], cleared);
    // a state is accepted once
    let again = finish(&api, &cookie, body).await;
    assert_eq!(again.error(), (401, "AUTHENTICATION_ERROR".into(), "sign_in_expired".into()));
}

#[actix_web::test]
async fn sign_in_ends_in_the_browser_that_began_it() {
    let api = app(HttpSettings::default()).await;
    let [one, other] = [start(&api, "").await, start(&api, "").await];
    let body = json!({"code": "good", "state": one.state});
    let twice = format!("{}; {COOKIE}=x", one.cookie);
    let without_prefix = one.cookie.replace(COOKIE, "oidc_login");
    for cookie in ["a=b", &other.cookie, &twice, &without_prefix] {
        assert_eq!(finish(&api, cookie, body.clone()).await.error().2, "sign_in_expired", "{cookie}");
    }
    let cross_site = TestRequest::post().uri(FINISH).insert_header(("cookie", one.cookie.as_str()));
    let cross_site = cross_site.insert_header(("origin", "https://evil.example")).set_json(body.clone());
    assert_eq!(api.send(cross_site).await.error().2, "cross_site");
    let refused = finish(&api, &other.cookie, json!({"code": "bad", "state": other.state})).await;
    assert_eq!(refused.error().2, "sign_in_rejected");
    assert_eq!(finish(&api, &one.cookie, body).await.status, StatusCode::OK);
}

#[actix_web::test]
async fn body_of_the_end_of_a_sign_in_is_checked() {
    let api = app(HttpSettings::default()).await;
    let Started { cookie, state } = start(&api, "").await;
    for (body, field) in [
        (json!({"state": state}), "code=required"),
        (json!({"code": "good"}), "state=required"),
        (json!({"code": "good", "state": state, "error": "x"}), "error=unknown"),
        (json!({"code": 1, "state": state}), "code=invalid_type"),
    ] {
        assert_eq!(finish(&api, &cookie, body).await.fields(), [field]);
    }
    let long = finish(&api, &cookie, json!({"code": "x".repeat(16 << 10), "state": state})).await;
    assert_eq!(long.status, StatusCode::PAYLOAD_TOO_LARGE);
    let code = "x".repeat(15 << 10);
    assert_eq!(
        finish(&api, &cookie, json!({"code": code, "state": state})).await.error().2,
        "sign_in_rejected"
    );
}

#[actix_web::test]
async fn unknown_provider_is_not_found() {
    let api = app(HttpSettings::default()).await;
    let anonymous = Credentials::default();
    for id in ["nope", "ad"] {
        let reply = api.call(&anonymous, "GET", &format!("/api/auth/oidc/{id}/start"), "").await;
        assert_eq!(reply.error(), (404, "RESOURCE_NOT_FOUND".into(), "not_found".into()), "{id}");
    }
    for path in ["/api/auth/oidc/Corp/start", "/api/auth/oidc/local/start", "/api/auth/oidc/corp;a=b/start"] {
        assert_eq!(api.call(&anonymous, "GET", path, "").await.error().2, "unknown_path", "{path}");
    }
    let body = json!({"username": "mei", "password": "right", "provider": "corp"}).to_string();
    assert_eq!(api.call(&anonymous, "POST", "/api/auth/login", &body).await.error().2, "not_found");
}

#[actix_web::test]
async fn logout_names_the_page_that_ends_the_session_at_the_provider() {
    let api = app(HttpSettings::default()).await;
    let session = sign_in(&api).await;
    let data = api.call(&session, "POST", "/api/auth/logout", "").await.data();
    assert_eq!(data, json!({"end_session_url": "https://idp.example/logout"}));
    let local = api.login("viewer").await;
    let data = api.post(&local, "/api/auth/logout", json!({})).await.data();
    assert_eq!(data, json!({"end_session_url": null}));
}

#[actix_web::test]
async fn back_channel_logout_is_a_form_and_ends_the_session_once() {
    let api = app(HttpSettings::default()).await;
    let session = sign_in(&api).await;
    let post = async |media_type: &str, body: &str| {
        let request = TestRequest::post().uri(BACKCHANNEL).insert_header(("accept-language", "en"));
        api.send(request.insert_header(("content-type", media_type)).set_payload(body.to_owned())).await
    };
    assert_eq!(post("application/json", "{}").await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    for (body, field) in [
        ("", "logout_token=required"),
        ("other=1", "logout_token=required"),
        ("logout_token=a&logout_token=b", "logout_token=duplicate"),
        ("logout_token=forged", "logout_token=malformed"),
        ("logout_token=%zz", "logout_token=malformed"),
    ] {
        assert_eq!(post(FORM, body).await.fields(), [field], "{body}");
    }
    let me = async || api.call(&session, "GET", "/api/auth/me", "").await;
    assert_eq!(me().await.status, StatusCode::OK);
    let body = "other=1&logout_token=a%2Bb%2Fc%3D";
    assert_eq!(post(FORM, body).await.status, StatusCode::OK);
    assert_eq!(me().await.error().2, "session_ended");
    assert_eq!(post(FORM, body).await.fields(), ["logout_token=malformed"], "used before");
}

#[actix_web::test]
async fn page_of_the_callback_is_static_and_calls_only_this_server() {
    let api = app(HttpSettings::default()).await;
    let page =
        api.send(TestRequest::get().uri("/api/auth/oidc/corp/callback?code=canary&state=canary")).await;
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(!page.text.contains("canary"));
    assert_eq!(page.header("cache-control"), Some("no-store"));
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    let script = api.send(TestRequest::get().uri("/api/auth/oidc/callback.js")).await;
    assert_eq!(script.header("content-type"), Some("text/javascript; charset=utf-8"));
    for reply in [&page, &script] {
        assert_eq!(reply.status, StatusCode::OK);
        let policy = reply.header("content-security-policy").unwrap();
        for rule in
            ["default-src 'none'", "script-src 'self';", "connect-src 'self'", "frame-ancestors 'none'"]
        {
            assert!(policy.contains(rule), "{policy}");
        }
        assert!(!reply.text.contains("://"), "{}", reply.text);
    }
}

#[actix_web::test]
async fn person_of_a_directory_signs_in_with_name_and_password() {
    let api = app(HttpSettings::default()).await;
    let login = async |username: &str, password: &str, provider: &str| {
        let body = json!({"username": username, "password": password, "provider": provider}).to_string();
        api.call(&Credentials::default(), "POST", "/api/auth/login", &body).await
    };
    let data = login("mei", "right", "ad").await.data();
    assert_eq!((&data["user"]["username"], &data["user"]["role"]), (&json!("ad:mei"), &json!("none")));
    for (username, password) in [("mei", "wrong"), ("nobody", "right"), ("mei", "")] {
        let refused = login(username, password, "ad").await;
        assert_eq!(refused.error(), (401, "AUTHENTICATION_ERROR".into(), "bad_credentials".into()));
    }
    assert_eq!(login("mei", "right", "nope").await.error().2, "not_found");
    let local = login("viewer", crate::test_app::PASSWORD, "local").await;
    assert_eq!(local.data()["user"]["username"], "viewer");
}
