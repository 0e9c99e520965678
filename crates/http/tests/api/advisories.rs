//! Security advisories of comparable products, reproduced against the HTTP API. docs/advisories.md has the complete
//! list; each test is named after its first advisory.

use std::{
    io::{Read, Write},
    time::Duration,
};

use actix_web::test::TestRequest;
use pilothouse_core::{access::Caller, role::Role, user::UserPatch};
use pilothouse_http::{HttpSettings, document, endpoints};
use serde_json::json;

use crate::{
    socket::Running,
    table::good_inputs,
    test_app::{Credentials, PASSWORD, TestApp},
};

/// Routes that do not require a bearer token.
pub(crate) const PUBLIC_PATHS: [&str; 8] = [
    "/livez",
    "/readyz",
    "/api/version",
    "/api/openapi.json",
    "/api/auth/providers",
    "/api/auth/login",
    "/api/auth/refresh",
    "/api/auth/logout",
];

/// A valid input of every route for a super admin.
pub(crate) async fn inputs(api: &TestApp) -> Vec<(String, &'static str, String)> {
    let mut inputs = Vec::new();
    for (method, path) in endpoints() {
        let input = good_inputs(&method, path).swap_remove(0).input(api, "super", "none").await;
        inputs.push((method, path, input));
    }
    inputs
}

/// KubePi: some API routes required no authentication.
#[actix_web::test]
async fn cve_2023_22478_every_route_but_the_public_ones_requires_authentication() {
    let api = TestApp::new().await;
    let inputs = inputs(&api).await;
    let before = api.fake.store.entries().len();
    for (method, path, input) in inputs {
        if PUBLIC_PATHS.contains(&path) {
            continue;
        }
        let reply = api.call(&Credentials::default(), &method, path, &input).await;
        assert_eq!(
            reply.error(),
            (401, "AUTHENTICATION_ERROR".into(), "not_signed_in".into()),
            "{method} {path}"
        );
    }
    assert_eq!(api.fake.store.entries().len(), before);
    assert!(api.fake.clusters.calls().is_empty());
}

/// Portainer: the handler ran although the token was refused.
#[actix_web::test]
async fn cve_2026_44882_no_handler_runs_after_a_refused_token() {
    let api = TestApp::new().await;
    let signed_in = api.login("super").await.credentials;
    let invalid = [
        Credentials { bearer: Some("1.2.3".into()), ..signed_in.clone() },
        Credentials { bearer: Some(format!("{}x", signed_in.bearer.clone().unwrap())), ..signed_in.clone() },
        Credentials { cookie: Some("0".repeat(64)), ..signed_in.clone() },
    ];
    let inputs = inputs(&api).await;
    let before = api.fake.store.entries().len();
    let mut invalid = invalid.iter().cycle();
    for (method, path, input) in inputs.into_iter().filter(|(_, path, _)| !PUBLIC_PATHS.contains(path)) {
        let reply = api.call(invalid.next().unwrap(), &method, path, &input).await;
        assert_eq!(reply.status.as_u16(), 401, "{method} {path}");
    }
    assert_eq!(api.fake.store.entries().len(), before);
    assert!(api.fake.clusters.calls().is_empty());
}

/// KubePi: the session id stayed the same after a login (session fixation).
#[actix_web::test]
async fn cve_2023_22479_login_creates_a_new_session_id() {
    let api = TestApp::new().await;
    let planted = api.login("viewer").await.credentials;
    let body = json!({"username": "super", "password": PASSWORD}).to_string();
    let data = api.call(&planted, "POST", "/api/auth/login", &body).await.data();
    let id = data["session_id"].as_str().unwrap().to_owned();
    assert_ne!(Some(&id), planted.cookie.as_ref());
    // the planted session is unchanged, with either token
    let me = api.call(&planted, "GET", "/api/auth/me", "").await.data();
    assert_eq!(me["user"]["username"], "viewer");
    let raised = Credentials { bearer: data["access_token"].as_str().map(str::to_owned), ..planted };
    assert_eq!(api.call(&raised, "GET", "/api/auth/me", "").await.error().2, "session_mismatch");
}

/// KubePi: a user who changed their own account could set its role (mass assignment).
#[actix_web::test]
async fn cve_2023_37917_user_cannot_raise_their_own_role() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    let id = api.user("viewer").await;
    let own =
        json!({"old_password": PASSWORD, "new_password": "another horse battery", "role": "super_admin"});
    assert_eq!(api.post(&viewer, "/api/auth/password", own).await.fields(), ["role=unknown"]);
    for body in [
        json!({"id": id, "role": "super_admin"}),
        json!({"id": id, "display_name": "x", "role": "ops_admin"}),
    ] {
        assert_eq!(api.post(&viewer, "/api/auth/users/update", body).await.error().0, 403);
    }
    let login = json!({"username": "viewer", "password": PASSWORD, "role": "super_admin"}).to_string();
    let reply = api.call(&Credentials::default(), "POST", "/api/auth/login", &login).await;
    assert_eq!(reply.fields(), ["role=unknown"]);
    assert_eq!(api.get(&viewer, "/api/auth/me", "").await.data()["user"]["role"], "viewer");
}

/// KubeSphere: the id of an object was sufficient for access, regardless of its owner.
#[actix_web::test]
async fn cve_2024_46528_foreign_session_is_404_like_missing() {
    let api = TestApp::new().await;
    let (viewer, _target) = (api.login("viewer").await, api.login("target").await);
    let other_session = api.session("target").await.unwrap();
    let revoke_error = async |id: i64| {
        let reply = api.post(&viewer, "/api/auth/sessions/revoke", json!({"id": id})).await;
        (reply.error(), reply.json()["details"].as_str().map(|text| text.replace(&id.to_string(), "N")))
    };
    assert_eq!(revoke_error(other_session).await, revoke_error(999_999).await);
    assert!(api.session("target").await.is_some(), "the session of the other user is still valid");
    let logs = api.get(&viewer, "/api/k8s/audit/operations", "per_page=500").await.data()["logs"].take();
    assert!(logs.as_array().unwrap().iter().all(|row| row["username"] == "viewer"), "{logs}");
}

/// Headlamp: a client with an admin's credential was reused for the next caller.
#[actix_web::test]
async fn cve_2025_14269_credential_of_the_previous_caller_is_not_reused() {
    let api = TestApp::new().await;
    let (admin, query) = (api.login("super").await, format!("cluster_id={}", api.cluster));
    api.get(&admin, "/api/k8s/namespaces", &query).await.data();
    assert!(!api.fake.clusters.calls().is_empty());
    let anonymous = api.call(&Credentials::default(), "GET", "/api/k8s/namespaces", &query).await;
    assert_eq!(anonymous.status.as_u16(), 401);
    api.post(&admin, "/api/auth/logout", json!({})).await.data();
    assert_eq!(api.get(&admin, "/api/k8s/namespaces", &query).await.status.as_u16(), 401);
    assert!(api.fake.clusters.calls().is_empty(), "no request was sent to the cluster");
}

/// Rancher: a cross-site page opened a stream with the visitor's cookie.
#[actix_web::test]
async fn cve_2019_13209_cross_site_page_cannot_open_a_stream() {
    let api = TestApp::new().await;
    let signed_in = api.login("super").await;
    let uri = format!("/api/k8s/pods/logs/stream?cluster_id={}&namespace=shop&pod_name=web-0", api.cluster);
    for (name, value) in [("origin", "https://evil.example.com"), ("sec-fetch-site", "cross-site")] {
        let request = TestRequest::get().uri(&uri).insert_header(("host", "pilothouse.example.com"));
        let request = signed_in
            .credentials
            .headers()
            .into_iter()
            .fold(request, actix_web::test::TestRequest::insert_header);
        let reply = api.send(request.insert_header((name, value))).await;
        assert_eq!(reply.error().2, "cross_site");
    }
    assert!(api.fake.clusters.calls().is_empty());
}

/// Rancher: the parameter `_method` changed the method of a GET.
#[actix_web::test]
async fn cve_2026_88804_parameter_cannot_override_the_method() {
    let api = TestApp::new().await;
    let signed_in = api.login("super").await;
    let before = api.fake.store.entries().len();
    for method in ["POST", "PUT", "DELETE"] {
        let reply = api.get(&signed_in, "/api/k8s/clusters", &format!("_method={method}")).await;
        assert_eq!(reply.fields(), ["_method=unknown"]);
        let request = TestRequest::get()
            .uri("/api/k8s/clusters/delete")
            .insert_header(("x-http-method-override", method));
        let request = signed_in
            .credentials
            .headers()
            .into_iter()
            .fold(request, actix_web::test::TestRequest::insert_header);
        assert_eq!(api.send(request).await.status.as_u16(), 405);
    }
    assert_eq!(api.fake.store.entries().len(), before);
}

/// Rancher: permissions remained after the role, the binding or the user was removed.
#[actix_web::test]
async fn cve_2023_32199_permission_ends_with_role_and_user() {
    let api = TestApp::new().await;
    let create = |name: &str| json!({"cluster_id": api.cluster, "name": name});
    let patch = |role, disabled| UserPatch { role, disabled, ..UserPatch::default() };
    for (n, patch) in [patch(Some(Role::Viewer), None), patch(None, Some(true))].into_iter().enumerate() {
        let ops = api.login("ops").await;
        let name = format!("before-{n}");
        assert_eq!(api.post(&ops, "/api/k8s/namespaces", create(&name)).await.status.as_u16(), 200);
        let id = pilothouse_core::ids::UserId(api.user("ops").await);
        api.app.users.update(&Caller::system(), id, patch).await.unwrap();
        assert_eq!(api.post(&ops, "/api/k8s/namespaces", create("after")).await.status.as_u16(), 401);
        let back = UserPatch { role: Some(Role::OpsAdmin), disabled: Some(false), ..UserPatch::default() };
        api.app.users.update(&Caller::system(), id, back).await.unwrap();
    }
    let ops = api.login("ops").await;
    let id = pilothouse_core::ids::UserId(api.user("ops").await);
    api.app.users.delete(&Caller::system(), id).await.unwrap();
    assert_eq!(api.post(&ops, "/api/k8s/namespaces", create("after")).await.status.as_u16(), 401);
}

/// Rancher: an admin could reset or lock out an admin with a higher role.
#[actix_web::test]
async fn cve_2025_23391_only_super_admins_change_users_and_one_remains() {
    let api = TestApp::new().await;
    let own = api.user("super").await;
    for low in ["viewer", "ops"] {
        let signed_in = api.login(low).await;
        for (path, body) in [
            ("users", json!({"username": "eve", "password": PASSWORD, "role": "super_admin"})),
            ("users/update", json!({"id": own, "disabled": true})),
            ("users/update", json!({"id": own, "role": "viewer"})),
            ("users/delete", json!({"id": own})),
            ("users/reset-password", json!({"id": own, "new_password": "another horse battery"})),
        ] {
            let reply = api.post(&signed_in, &format!("/api/auth/{path}"), body).await;
            assert_eq!(reply.error().1, "PERMISSION_DENIED", "{low} {path}");
        }
    }
    let admin = api.login("super").await;
    for (path, body) in [
        ("users/update", json!({"id": own, "disabled": true})),
        ("users/update", json!({"id": own, "role": "ops_admin"})),
        ("users/delete", json!({"id": own})),
    ] {
        assert_eq!(api.post(&admin, &format!("/api/auth/{path}"), body).await.error().2, "last_super_admin");
    }
}

/// Steve: a watch was permitted where the list was not.
#[actix_web::test]
async fn cve_2024_52280_stream_requires_the_same_permission_as_a_read() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    let (logs, stream) = ("/api/k8s/pods/logs", "/api/k8s/pods/logs/stream");
    let query = format!("cluster_id={}&namespace=shop&pod_name=web-0", api.cluster);
    for credentials in [
        Credentials::default(),
        Credentials { bearer: None, ..viewer.credentials.clone() },
        Credentials { cookie: None, ..viewer.credentials.clone() },
    ] {
        for path in [logs, stream] {
            assert_eq!(api.call(&credentials, "GET", path, &query).await.status.as_u16(), 401, "{path}");
        }
    }
    for query in
        ["cluster_id=999999&namespace=shop&pod_name=web-0", "cluster_id=1&namespace=*&pod_name=web-0"]
    {
        let [read, followed] = [api.get(&viewer, logs, query).await, api.get(&viewer, stream, query).await];
        assert_eq!(read.error(), followed.error(), "{query}");
    }
    assert!(api.fake.clusters.calls().is_empty());
}

/// Argo CD: SameSite does not cover a sibling domain, and the media type was not checked.
#[actix_web::test]
async fn cve_2024_22424_form_of_a_sibling_domain_changes_nothing() {
    let api = TestApp::new().await;
    let signed_in = api.login("super").await;
    let before = api.fake.store.entries().len();
    let send = async |headers: &[(&str, &str)]| {
        let request = TestRequest::post().uri("/api/k8s/namespaces").insert_header(("host", "a.example.com"));
        let request = signed_in
            .credentials
            .headers()
            .into_iter()
            .fold(request, actix_web::test::TestRequest::insert_header);
        let request = request.set_payload(json!({"cluster_id": api.cluster, "name": "new"}).to_string());
        api.send(headers.iter().fold(request, |r, header| r.insert_header(*header))).await.status.as_u16()
    };
    assert_eq!(send(&[("content-type", "text/plain")]).await, 415);
    assert_eq!(send(&[]).await, 415);
    assert_eq!(send(&[("content-type", "application/json"), ("origin", "https://b.example.com")]).await, 401);
    assert_eq!(send(&[("content-type", "application/json"), ("sec-fetch-site", "same-site")]).await, 401);
    assert_eq!(api.fake.store.entries().len(), before);
}

/// Argo CD: a terminal outlived the session of its user.
#[actix_web::test]
async fn cve_2023_40025_stream_ends_with_its_session() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    let log = api.fake.clusters.next_log();
    log.unbounded_send(Ok(b"2026-01-01T00:00:00Z first\n".to_vec())).unwrap();
    let query = format!("cluster_id={}&namespace=shop&pod_name=web-0", api.cluster);
    let reading = api.get(&viewer, "/api/k8s/pods/logs/stream", &query);
    let revoking = async {
        // the stream has begun when the cluster is called
        while api.fake.clusters.calls().is_empty() {
            actix_web::rt::time::sleep(Duration::from_millis(5)).await;
        }
        let id = pilothouse_core::ids::SessionId(api.session("viewer").await.unwrap());
        api.app.sessions.revoke(&Caller::system(), id).await.unwrap();
    };
    let (reply, ()) = futures_util::join!(reading, revoking);
    assert!(reply.text.contains("event: end") && reply.text.contains("session_ended"), "{}", reply.text);
}

/// Argo CD: responses for a forbidden and an absent name differed.
#[actix_web::test]
async fn cve_2022_41354_forbidden_objects_get_the_same_error_as_missing_ones() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    for (path, body) in [
        ("/api/k8s/clusters/delete", json!({"id": 0})),
        ("/api/k8s/clusters/update", json!({"id": 0, "name": "x"})),
        ("/api/auth/users/delete", json!({"id": 0})),
        ("/api/auth/users/update", json!({"id": 0, "disabled": true})),
        ("/api/auth/users/reset-password", json!({"id": 0, "new_password": "another horse battery"})),
    ] {
        let existing = if path.contains("users") { api.user("target").await } else { api.cluster };
        let mut replies = Vec::new();
        for id in [existing, 999_999] {
            let mut body = body.clone();
            body["id"] = json!(id);
            let mut json = api.post(&viewer, path, body).await.json();
            json["request_id"].take();
            // the refusal names the id that the caller sent
            replies.push(json.to_string().replace(&id.to_string(), "ID"));
        }
        assert!(replies[0].contains("PERMISSION_DENIED"), "{path}");
        assert_eq!(replies[0], replies[1], "{path}");
    }
    for namespace in ["shop", "absent"] {
        let body = json!({"cluster_id": api.cluster, "namespace": namespace, "type": "deployment", "name": "web", "replicas": 1});
        assert_eq!(api.post(&viewer, "/api/k8s/workloads/scale", body).await.error().2, "role_too_low");
    }
}

/// Portainer: a WebSocket ran commands without authentication.
#[test]
fn cve_2018_12678_only_documented_routes_accept_an_upgrade() {
    // a short timeout, in case the bytes after the head of an upgrade are read as a body
    let quick = HttpSettings { body_time: Duration::from_millis(500), ..HttpSettings::default() };
    let running = Running::start(quick);
    let headers = running.login("super").headers();
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let status = |path: &str| {
        let mut stream = running.connect();
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\n{headers}connection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        // only the status line is read, because the connection may stay open
        let mut line = [0; 12];
        stream.read_exact(&mut line).unwrap();
        String::from_utf8_lossy(&line[9..]).parse::<u16>().unwrap()
    };
    let document = document();
    let is_documented = |path: &str| document["paths"][path]["get"]["responses"]["101"].is_object();
    for (_, path) in endpoints().into_iter().filter(|(method, path)| method == "GET" && !is_documented(path))
    {
        assert_ne!(status(path), 101, "{path}");
    }
    for path in ["/api/websocket/exec", "/api/k8s/proxy"] {
        assert_eq!(status(path), 404, "{path}");
    }
}
