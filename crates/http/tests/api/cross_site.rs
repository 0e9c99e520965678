//! Cross-site requests: a browser sends them for a page of another site, with the headers that it adds itself.

use actix_web::test::TestRequest;
use pilothouse_http::{HttpSettings, endpoints};
use serde_json::json;

use crate::{
    table::good_inputs,
    test_app::{Credentials, PASSWORD, Ready, TestApp},
};

/// Headers by which a browser identifies the site of a request.
static CROSS_SITE_HEADERS: [&[(&str, &str)]; 7] = [
    &[("sec-fetch-site", "cross-site")],
    &[("sec-fetch-site", "same-site")],
    &[("sec-fetch-site", "cross-site"), ("origin", "https://pilothouse.example.com")],
    &[("sec-fetch-site", "nonsense")],
    &[("origin", "https://evil.example.com")],
    &[("origin", "https://pilothouse.example.com.evil.example.com")],
    &[("origin", "null")],
];

/// Media types that a page can send without a preflight (Fetch, "CORS-safelisted request-header"), and invalid ones.
static TYPES: [Option<&str>; 9] = [
    None,
    Some("text/plain"),
    Some("text/plain; charset=application/json"),
    Some("text/plain;application/json"),
    Some("application/x-www-form-urlencoded"),
    Some("multipart/form-data; boundary=x"),
    Some("application/jsonp"),
    Some("application/json, text/plain"),
    Some("application/json-patch+json"),
];

/// All values for the first route, one in turn for each other: each response is validated against the document, which
/// is slow.
fn in_turn<T>(all: &'static [T], route: usize) -> &'static [T] {
    if route == 0 { all } else { std::slice::from_ref(&all[route % all.len()]) }
}

/// Number, path and body of a request to each POST route.
async fn posts(api: &TestApp) -> Vec<(usize, &'static str, String)> {
    let mut posts = Vec::new();
    for (_, path) in endpoints().into_iter().filter(|(method, _)| method == "POST") {
        let line = good_inputs("POST", path).swap_remove(0);
        posts.push((posts.len(), path, line.input(api, "super", "none").await));
    }
    posts
}

fn post(path: &str, credentials: &Credentials, body: &str) -> TestRequest {
    let request = TestRequest::post()
        .uri(path)
        .peer_addr("192.0.2.7:4711".parse().unwrap())
        .insert_header(("host", "pilothouse.example.com"))
        .set_payload(body.to_owned());
    credentials.headers().into_iter().fold(request, actix_web::test::TestRequest::insert_header)
}

#[actix_web::test]
async fn cross_site_post_is_refused() {
    let api = TestApp::new().await;
    let signed_in = api.login("super").await;
    let posts = posts(&api).await;
    let before = api.fake.store.entries().len();
    for (n, path, body) in posts {
        for headers in in_turn(&CROSS_SITE_HEADERS, n) {
            let request =
                post(path, &signed_in.credentials, &body).insert_header(("content-type", "application/json"));
            let request = headers.iter().fold(request, |request, header| request.insert_header(*header));
            let reply = api.send(request).await;
            assert_eq!(
                reply.error(),
                (401, "AUTHENTICATION_ERROR".into(), "cross_site".into()),
                "{path} {headers:?}"
            );
            assert!(reply.header("set-cookie").is_none(), "{path} {headers:?}");
            assert!(reply.header("access-control-allow-origin").is_none(), "{path} {headers:?}");
        }
    }
    assert_eq!(api.fake.store.entries().len(), before, "no audit entry was written");
    assert!(api.fake.clusters.calls().is_empty());
}

#[actix_web::test]
async fn cross_site_read_is_refused() {
    let api = TestApp::new().await;
    let signed_in = api.login("super").await;
    let reads = endpoints().into_iter().filter(|(method, path)| method == "GET" && path.contains("/api/"));
    let open = ["/api/version", "/api/openapi.json", "/api/auth/providers"];
    let reads = reads.filter(|(_, path)| !open.contains(path));
    for (n, (_, path)) in reads.enumerate() {
        for headers in in_turn(&CROSS_SITE_HEADERS, n) {
            let request = TestRequest::get().uri(path).insert_header(("host", "pilothouse.example.com"));
            let request = signed_in
                .credentials
                .headers()
                .into_iter()
                .fold(request, actix_web::test::TestRequest::insert_header);
            let reply = api.send(headers.iter().fold(request, |r, header| r.insert_header(*header))).await;
            assert_eq!(reply.error().2, "cross_site", "{path} {headers:?}");
        }
    }
    assert!(api.fake.clusters.calls().is_empty());
}

/// A browser sends a form without a preflight, but none of its media types is accepted.
#[actix_web::test]
async fn post_with_a_form_media_type_is_refused() {
    let api = TestApp::new().await;
    let signed_in = api.login("super").await;
    let posts = posts(&api).await;
    let before = api.fake.store.entries().len();
    for (n, path, body) in posts {
        let body = if body.is_empty() { "{}".to_owned() } else { body };
        for kind in in_turn(&TYPES, n) {
            let request = post(path, &signed_in.credentials, &body);
            let request = kind.iter().fold(request, |r, kind| r.insert_header(("content-type", *kind)));
            let reply = api.send(request).await;
            let expected = (415, "UNSUPPORTED_MEDIA_TYPE".into(), "unsupported_media_type".into());
            assert_eq!(reply.error(), expected, "{path} {kind:?}");
        }
    }
    assert_eq!(api.fake.store.entries().len(), before);
    assert!(api.fake.clusters.calls().is_empty());
}

/// CORS is not supported.
#[actix_web::test]
async fn preflight_is_refused() {
    let api = TestApp::new().await;
    for (_, path) in endpoints() {
        let preflight = TestRequest::default()
            .method(actix_web::http::Method::OPTIONS)
            .uri(path)
            .insert_header(("origin", "https://evil.example.com"))
            .insert_header(("access-control-request-method", "POST"))
            .insert_header(("access-control-request-headers", "authorization,content-type"));
        let reply = api.send(preflight).await;
        assert_eq!(reply.status.as_u16(), 405, "{path}");
        assert!(reply.headers.keys().all(|name| !name.as_str().starts_with("access-control")), "{path}");
    }
}

/// Requests of Pilothouse's own pages, of scripts and of programs are accepted.
#[actix_web::test]
async fn same_origin_and_non_browser_requests_are_accepted() {
    let api = TestApp::new().await;
    let body = json!({"username": "viewer", "password": PASSWORD}).to_string();
    let own: [&[(&str, &str)]; 4] = [
        &[],
        &[("sec-fetch-site", "same-origin"), ("origin", "https://pilothouse.example.com")],
        &[("sec-fetch-site", "none")],
        &[("origin", "https://pilothouse.example.com")],
    ];
    for headers in own {
        let request = post("/api/auth/login", &Credentials::default(), &body)
            .insert_header(("content-type", "application/json"));
        let reply = api.send(headers.iter().fold(request, |r, header| r.insert_header(*header))).await;
        assert_eq!(reply.status.as_u16(), 200, "{headers:?}: {}", reply.text);
    }
}

/// The client address is that of the socket, in the audit trail and for the login throttle.
#[actix_web::test]
async fn client_address_headers_are_ignored() {
    let api = TestApp::new().await;
    let wrong = json!({"username": "nobody", "password": "wrong wrong wrong"}).to_string();
    for n in 0..3 {
        let request = [
            ("x-forwarded-for", format!("203.0.113.{n}")),
            ("forwarded", format!("for=203.0.113.{n}")),
            ("x-real-ip", format!("203.0.113.{n}")),
            ("x-client-ip", format!("203.0.113.{n}")),
            ("true-client-ip", format!("203.0.113.{n}")),
            ("cf-connecting-ip", format!("203.0.113.{n}")),
            ("x-forwarded-host", "evil.example.com".to_owned()),
        ]
        .into_iter()
        .fold(post("/api/auth/login", &Credentials::default(), &wrong), |request, header| {
            request.insert_header(header)
        });
        let reply = api.send(request.insert_header(("content-type", "application/json"))).await;
        assert_eq!(reply.error().2, "bad_credentials");
    }
    let rows = api.fake.store.all_operations();
    let logins: Vec<_> = rows.iter().filter(|row| row.operation_type == "login").collect();
    assert_eq!(logins.len(), 3);
    assert!(logins.iter().all(|row| row.source_ip.as_deref() == Some("192.0.2.7")), "{logins:?}");
}

/// Behind a trusted proxy the client address is taken from its `X-Forwarded-For`.
#[actix_web::test]
async fn client_address_comes_from_a_trusted_proxy() {
    let trusted_proxies = vec!["192.0.2.0/24".parse().unwrap()];
    let api = TestApp::with(HttpSettings { trusted_proxies, ..HttpSettings::default() }, Ready::Yes).await;
    let wrong = json!({"username": "nobody", "password": "wrong wrong wrong"}).to_string();
    let request = post("/api/auth/login", &Credentials::default(), &wrong)
        .insert_header(("x-forwarded-for", "198.51.100.1, 203.0.113.9, 192.0.2.8"))
        .insert_header(("x-real-ip", "198.51.100.1"))
        .insert_header(("content-type", "application/json"));
    assert_eq!(api.send(request).await.error().2, "bad_credentials");
    let rows = api.fake.store.all_operations();
    assert_eq!(rows.last().unwrap().source_ip.as_deref(), Some("203.0.113.9"));
}
