//! What went wrong in other products of this kind, tried here. docs/advisories.md has the whole list; each test bears the
//! name of the first advisory it is about.

use std::{
    io::{Read, Write},
    time::Duration,
};

use actix_web::test::TestRequest;
use pilothouse_core::{
    access::{Caller, Role},
    user::UserPatch,
};
use pilothouse_http::{HttpSettings, endpoints};
use serde_json::json;

use crate::{
    socket::Running,
    table::good_inputs,
    test_app::{Credentials, PASSWORD, TestApp},
};

/// What anybody may ask.
pub(crate) const OPEN: [&str; 6] =
    ["/livez", "/readyz", "/api/openapi.json", "/api/auth/login", "/api/auth/refresh", "/api/auth/logout"];

/// A good input of every route, as a super admin would send it.
pub(crate) async fn inputs(house: &TestApp) -> Vec<(String, &'static str, String)> {
    let mut inputs = Vec::new();
    for (method, path) in endpoints() {
        let input = good_inputs(&method, path).swap_remove(0).input(house, "super", "none").await;
        inputs.push((method, path, input));
    }
    inputs
}

/// KubePi: some routes of the API asked nobody who they were.
#[actix_web::test]
async fn cve_2023_22478_every_route_but_the_open_ones_asks_who_is_calling() {
    let house = TestApp::new().await;
    let before = house.fake.store.entries().len();
    for (method, path, input) in inputs(&house).await {
        if OPEN.contains(&path) {
            continue;
        }
        let reply = house.call(&Credentials::default(), &method, path, &input).await;
        assert_eq!(
            reply.refusal(),
            (401, "AUTHENTICATION_ERROR".into(), "not_signed_in".into()),
            "{method} {path}"
        );
    }
    assert_eq!(house.fake.store.entries().len(), before);
    assert!(house.fake.clusters.calls().is_empty());
}

/// Portainer: after a failed check of the token the handler ran all the same.
#[actix_web::test]
async fn cve_2026_44882_nothing_runs_behind_a_token_that_was_refused() {
    let house = TestApp::new().await;
    let who = house.login("super").await.credentials;
    let spoilt = [
        Credentials { bearer: Some("1.2.3".into()), ..who.clone() },
        Credentials { bearer: Some(format!("{}x", who.bearer.clone().unwrap())), ..who.clone() },
        Credentials { cookie: Some("0".repeat(64)), ..who.clone() },
    ];
    let before = house.fake.store.entries().len();
    let mut spoilt = spoilt.iter().cycle();
    for (method, path, input) in inputs(&house).await.into_iter().filter(|(_, path, _)| !OPEN.contains(path))
    {
        let reply = house.call(spoilt.next().unwrap(), &method, path, &input).await;
        assert_eq!(reply.status.as_u16(), 401, "{method} {path}");
    }
    assert_eq!(house.fake.store.entries().len(), before);
    assert!(house.fake.clusters.calls().is_empty());
}

/// KubePi: the session's id stayed the same over a login.
#[actix_web::test]
async fn cve_2023_22479_a_login_makes_a_session_id_of_its_own() {
    let house = TestApp::new().await;
    let planted = house.login("viewer").await.credentials;
    let body = json!({"username": "super", "password": PASSWORD}).to_string();
    let data = house.call(&planted, "POST", "/api/auth/login", &body).await.data();
    let id = data["session_id"].as_str().unwrap().to_owned();
    assert_ne!(Some(&id), planted.cookie.as_ref());
    // the planted one is worth what it was, with either token
    let me = house.call(&planted, "GET", "/api/auth/me", "").await.data();
    assert_eq!(me["user"]["username"], "viewer");
    let raised = Credentials { bearer: data["access_token"].as_str().map(str::to_owned), ..planted };
    assert_eq!(house.call(&raised, "GET", "/api/auth/me", "").await.refusal().2, "session_mismatch");
}

/// KubePi: whoever changed themselves could send a role along.
#[actix_web::test]
async fn cve_2023_37917_nobody_raises_themselves() {
    let house = TestApp::new().await;
    let viewer = house.login("viewer").await;
    let id = house.user("viewer").await;
    let own =
        json!({"old_password": PASSWORD, "new_password": "another horse battery", "role": "super_admin"});
    assert_eq!(house.post(&viewer, "/api/auth/password", own).await.fields(), ["role=unknown"]);
    for body in [
        json!({"id": id, "role": "super_admin"}),
        json!({"id": id, "display_name": "x", "role": "ops_admin"}),
    ] {
        assert_eq!(house.post(&viewer, "/api/auth/users/update", body).await.refusal().0, 403);
    }
    let login = json!({"username": "viewer", "password": PASSWORD, "role": "super_admin"}).to_string();
    let reply = house.call(&Credentials::default(), "POST", "/api/auth/login", &login).await;
    assert_eq!(reply.fields(), ["role=unknown"]);
    assert_eq!(house.get(&viewer, "/api/auth/me", "").await.data()["user"]["role"], "viewer");
}

/// KubeSphere: an object's id was enough, whoever's it was.
#[actix_web::test]
async fn cve_2024_46528_what_is_anothers_is_as_absent_as_what_never_was() {
    let house = TestApp::new().await;
    let (viewer, _target) = (house.login("viewer").await, house.login("target").await);
    let foreign = house.session("target").await.unwrap();
    let refusal = async |id: i64| {
        let reply = house.post(&viewer, "/api/auth/sessions/revoke", json!({"id": id})).await;
        (reply.refusal(), reply.json()["details"].as_str().map(|text| text.replace(&id.to_string(), "N")))
    };
    assert_eq!(refusal(foreign).await, refusal(999_999).await);
    assert!(house.session("target").await.is_some(), "it lives on");
    let logs = house.get(&viewer, "/api/k8s/audit/operations", "per_page=500").await.data()["logs"].take();
    assert!(logs.as_array().unwrap().iter().all(|row| row["username"] == "viewer"), "{logs}");
}

/// Headlamp: a client with an admin's credential was used again for whoever came next.
#[actix_web::test]
async fn cve_2025_14269_nobody_borrows_the_credential_of_the_caller_before() {
    let house = TestApp::new().await;
    let (admin, query) = (house.login("super").await, format!("cluster_id={}", house.cluster));
    house.get(&admin, "/api/k8s/namespaces", &query).await.data();
    assert!(!house.fake.clusters.calls().is_empty());
    let nobody = house.call(&Credentials::default(), "GET", "/api/k8s/namespaces", &query).await;
    assert_eq!(nobody.status.as_u16(), 401);
    house.post(&admin, "/api/auth/logout", json!({})).await.data();
    assert_eq!(house.get(&admin, "/api/k8s/namespaces", &query).await.status.as_u16(), 401);
    assert!(house.fake.clusters.calls().is_empty(), "neither was asked of the cluster");
}

/// Rancher: a page of somebody else's opened a stream with the visitor's cookie.
#[actix_web::test]
async fn cve_2019_13209_a_cross_site_page_opens_no_stream() {
    let house = TestApp::new().await;
    let who = house.login("super").await;
    let uri = format!("/api/k8s/pods/logs/stream?cluster_id={}&namespace=shop&pod_name=web-0", house.cluster);
    for (name, value) in [("origin", "https://evil.example.com"), ("sec-fetch-site", "cross-site")] {
        let request = TestRequest::get().uri(&uri).insert_header(("host", "pilothouse.example.com"));
        let request =
            who.credentials.headers().into_iter().fold(request, |r, header| r.insert_header(header));
        let reply = house.send(request.insert_header((name, value))).await;
        assert_eq!(reply.refusal().2, "cross_site");
    }
    assert!(house.fake.clusters.calls().is_empty());
}

/// Rancher: `_method` made a GET what it was not.
#[actix_web::test]
async fn cve_2026_88804_a_parameter_makes_no_other_method() {
    let house = TestApp::new().await;
    let who = house.login("super").await;
    let before = house.fake.store.entries().len();
    for method in ["POST", "PUT", "DELETE"] {
        let reply = house.get(&who, "/api/k8s/clusters", &format!("_method={method}")).await;
        assert_eq!(reply.fields(), ["_method=unknown"]);
        let request = TestRequest::get()
            .uri("/api/k8s/clusters/delete")
            .insert_header(("x-http-method-override", method));
        let request =
            who.credentials.headers().into_iter().fold(request, |r, header| r.insert_header(header));
        assert_eq!(house.send(request).await.status.as_u16(), 405);
    }
    assert_eq!(house.fake.store.entries().len(), before);
}

/// Rancher: rights outlived the role, the binding and the user they came from.
#[actix_web::test]
async fn cve_2023_32199_a_right_ends_with_what_gave_it() {
    let house = TestApp::new().await;
    let create = |name: &str| json!({"cluster_id": house.cluster, "name": name});
    let patch = |role, disabled| UserPatch { role, disabled, ..UserPatch::default() };
    for (n, patch) in [patch(Some(Role::Viewer), None), patch(None, Some(true))].into_iter().enumerate() {
        let ops = house.login("ops").await;
        let name = format!("before-{n}");
        assert_eq!(house.post(&ops, "/api/k8s/namespaces", create(&name)).await.status.as_u16(), 200);
        let id = pilothouse_core::user::UserId(house.user("ops").await);
        house.app.users.update(&Caller::system(), id, patch).await.unwrap();
        assert_eq!(house.post(&ops, "/api/k8s/namespaces", create("after")).await.status.as_u16(), 401);
        let back = UserPatch { role: Some(Role::OpsAdmin), disabled: Some(false), ..UserPatch::default() };
        house.app.users.update(&Caller::system(), id, back).await.unwrap();
    }
    let ops = house.login("ops").await;
    let id = pilothouse_core::user::UserId(house.user("ops").await);
    house.app.users.delete(&Caller::system(), id).await.unwrap();
    assert_eq!(house.post(&ops, "/api/k8s/namespaces", create("after")).await.status.as_u16(), 401);
}

/// Rancher: a lower admin reset or locked out a higher one.
#[actix_web::test]
async fn cve_2025_23391_nobody_touches_people_but_super_admins_and_one_of_these_stays() {
    let house = TestApp::new().await;
    let own = house.user("super").await;
    for low in ["viewer", "ops"] {
        let who = house.login(low).await;
        for (path, body) in [
            ("users", json!({"username": "eve", "password": PASSWORD, "role": "super_admin"})),
            ("users/update", json!({"id": own, "disabled": true})),
            ("users/update", json!({"id": own, "role": "viewer"})),
            ("users/delete", json!({"id": own})),
            ("users/reset-password", json!({"id": own, "new_password": "another horse battery"})),
        ] {
            let reply = house.post(&who, &format!("/api/auth/{path}"), body).await;
            assert_eq!(reply.refusal().1, "PERMISSION_DENIED", "{low} {path}");
        }
    }
    let admin = house.login("super").await;
    for (path, body) in [
        ("users/update", json!({"id": own, "disabled": true})),
        ("users/update", json!({"id": own, "role": "ops_admin"})),
        ("users/delete", json!({"id": own})),
    ] {
        assert_eq!(
            house.post(&admin, &format!("/api/auth/{path}"), body).await.refusal().2,
            "last_super_admin"
        );
    }
}

/// Steve: a watch was let through that a list was not.
#[actix_web::test]
async fn cve_2024_52280_a_stream_asks_what_a_read_asks() {
    let house = TestApp::new().await;
    let viewer = house.login("viewer").await;
    let (logs, stream) = ("/api/k8s/pods/logs", "/api/k8s/pods/logs/stream");
    let query = format!("cluster_id={}&namespace=shop&pod_name=web-0", house.cluster);
    for credentials in [
        Credentials::default(),
        Credentials { bearer: None, ..viewer.credentials.clone() },
        Credentials { cookie: None, ..viewer.credentials.clone() },
    ] {
        for path in [logs, stream] {
            assert_eq!(house.call(&credentials, "GET", path, &query).await.status.as_u16(), 401, "{path}");
        }
    }
    for query in
        ["cluster_id=999999&namespace=shop&pod_name=web-0", "cluster_id=1&namespace=*&pod_name=web-0"]
    {
        let [read, followed] =
            [house.get(&viewer, logs, query).await, house.get(&viewer, stream, query).await];
        assert_eq!(read.refusal(), followed.refusal(), "{query}");
    }
    assert!(house.fake.clusters.calls().is_empty());
}

/// Argo CD: SameSite did not cover a sibling's page, and no media type was asked for.
#[actix_web::test]
async fn cve_2024_22424_a_siblings_form_changes_nothing() {
    let house = TestApp::new().await;
    let who = house.login("super").await;
    let before = house.fake.store.entries().len();
    let send = async |headers: &[(&str, &str)]| {
        let request = TestRequest::post().uri("/api/k8s/namespaces").insert_header(("host", "a.example.com"));
        let request =
            who.credentials.headers().into_iter().fold(request, |r, header| r.insert_header(header));
        let request = request.set_payload(json!({"cluster_id": house.cluster, "name": "new"}).to_string());
        house.send(headers.iter().fold(request, |r, header| r.insert_header(*header))).await.status.as_u16()
    };
    assert_eq!(send(&[("content-type", "text/plain")]).await, 415);
    assert_eq!(send(&[]).await, 415);
    assert_eq!(send(&[("content-type", "application/json"), ("origin", "https://b.example.com")]).await, 401);
    assert_eq!(send(&[("content-type", "application/json"), ("sec-fetch-site", "same-site")]).await, 401);
    assert_eq!(house.fake.store.entries().len(), before);
}

/// Argo CD: a terminal lived on when its user's session did not.
#[actix_web::test]
async fn cve_2023_40025_a_stream_ends_with_its_session() {
    let house = TestApp::new().await;
    let viewer = house.login("viewer").await;
    let log = house.fake.clusters.next_log();
    log.unbounded_send(Ok(b"2026-01-01T00:00:00Z first\n".to_vec())).unwrap();
    let query = format!("cluster_id={}&namespace=shop&pod_name=web-0", house.cluster);
    let reading = house.get(&viewer, "/api/k8s/pods/logs/stream", &query);
    let revoking = async {
        // the stream has begun when its cluster is asked
        while house.fake.clusters.calls().is_empty() {
            actix_web::rt::time::sleep(Duration::from_millis(5)).await;
        }
        let id = pilothouse_core::session::SessionId(house.session("viewer").await.unwrap());
        house.app.sessions.revoke(&Caller::system(), id).await.unwrap();
    };
    let (reply, ()) = futures_util::join!(reading, revoking);
    assert!(reply.text.contains("event: end") && reply.text.contains("session_ended"), "{}", reply.text);
}

/// Argo CD: a forbidden name and an absent one were told apart.
#[actix_web::test]
async fn cve_2022_41354_what_is_forbidden_is_refused_alike_whether_it_is_there_or_not() {
    let house = TestApp::new().await;
    let viewer = house.login("viewer").await;
    for (path, body) in [
        ("/api/k8s/clusters/delete", json!({"id": 0})),
        ("/api/k8s/clusters/update", json!({"id": 0, "name": "x"})),
        ("/api/auth/users/delete", json!({"id": 0})),
        ("/api/auth/users/update", json!({"id": 0, "disabled": true})),
        ("/api/auth/users/reset-password", json!({"id": 0, "new_password": "another horse battery"})),
    ] {
        let known = if path.contains("users") { house.user("target").await } else { house.cluster };
        let mut told = Vec::new();
        for id in [known, 999_999] {
            let mut body = body.clone();
            body["id"] = json!(id);
            let mut json = house.post(&viewer, path, body).await.json();
            json["request_id"].take();
            told.push(json);
        }
        assert_eq!(told[0]["error_code"], "PERMISSION_DENIED", "{path}");
        assert_eq!(told[0], told[1], "{path}");
    }
    for namespace in ["shop", "absent"] {
        let body = json!({"cluster_id": house.cluster, "namespace": namespace, "type": "deployment", "name": "web", "replicas": 1});
        assert_eq!(house.post(&viewer, "/api/k8s/workloads/scale", body).await.refusal().2, "role_too_low");
    }
}

/// Portainer: a WebSocket ran commands for whoever opened it.
#[test]
fn cve_2018_12678_nothing_is_upgraded() {
    // what wants an upgrade has a body without an end: the answer to a refused one waits for as much
    let quick = HttpSettings { body_time: Duration::from_millis(500), ..HttpSettings::default() };
    let running = Running::start(quick);
    let who = running.login("super").headers();
    let who: String = who.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let status = |path: &str| {
        let mut stream = running.connect();
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\n{who}connection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        // the connection may stay open: its first line says all
        let mut line = [0; 12];
        stream.read_exact(&mut line).unwrap();
        String::from_utf8_lossy(&line[9..]).parse::<u16>().unwrap()
    };
    for (_, path) in endpoints().into_iter().filter(|(method, _)| method == "GET") {
        assert_ne!(status(path), 101, "{path}");
    }
    for path in ["/api/k8s/pods/exec", "/api/websocket/exec", "/api/k8s/pods/attach", "/api/k8s/proxy"] {
        assert_eq!(status(path), 404, "{path}");
    }
}
