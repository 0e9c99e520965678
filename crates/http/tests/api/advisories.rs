//! What went wrong in other products of this kind, tried here. docs/advisories.md has the whole list; each test bears the
//! name of the first advisory it is about.

use std::{
    io::{Read, Write},
    time::Duration,
};

use actix_web::test::TestRequest;
use pilothouse_core::{
    access::{Caller, Role},
    kind::Kind,
    user::UserPatch,
};
use pilothouse_http::{HttpSettings, document, endpoints};
use serde_json::{Value, json};

use crate::{
    house::{Credentials, House, PASSWORD},
    socket::Running,
    table::good_inputs,
};

/// What anybody may ask.
const OPEN: [&str; 6] =
    ["/livez", "/readyz", "/api/openapi.json", "/api/auth/login", "/api/auth/refresh", "/api/auth/logout"];

/// A good input of every route, as a super admin would send it.
async fn inputs(house: &House) -> Vec<(String, &'static str, String)> {
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
    let house = House::new().await;
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
    let house = House::new().await;
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
    let house = House::new().await;
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

/// KubePi: the list of users had their password hashes.
#[actix_web::test]
async fn cve_2023_37916_no_answer_has_a_password_or_its_hash() {
    let house = House::new().await;
    let who = house.login("super").await;
    for (method, path, input) in inputs(&house).await {
        // the document has a password of its own, as an example
        if method == "GET" && path != "/api/openapi.json" {
            // the hash of these tests is the password itself
            let reply = house.get(&who, path, &input).await;
            assert!(!reply.text.contains(PASSWORD), "{path}");
        }
    }
    let document = document().to_string();
    for word in ["password_hash", "\"hash\":{\"type\":\"string\",\"format\":\"password\"}", "phc"] {
        assert!(!document.contains(word), "{word}");
    }
}

/// KubePi: whoever changed themselves could send a role along.
#[actix_web::test]
async fn cve_2023_37917_nobody_raises_themselves() {
    let house = House::new().await;
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
    let house = House::new().await;
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
    let house = House::new().await;
    let (admin, query) = (house.login("super").await, format!("cluster_id={}", house.cluster));
    house.get(&admin, "/api/k8s/namespaces", &query).await.data();
    assert!(!house.fake.clusters.calls().is_empty());
    let nobody = house.call(&Credentials::default(), "GET", "/api/k8s/namespaces", &query).await;
    assert_eq!(nobody.status.as_u16(), 401);
    house.post(&admin, "/api/auth/logout", json!({})).await.data();
    assert_eq!(house.get(&admin, "/api/k8s/namespaces", &query).await.status.as_u16(), 401);
    assert!(house.fake.clusters.calls().is_empty(), "neither was asked of the cluster");
}

/// Rancher, twice: a list of what to leave out of the audit trail forgot a field. Ours is of what goes in.
#[actix_web::test]
async fn cve_2023_22649_no_field_of_a_body_is_recorded_that_is_not_named() {
    let house = House::new().await;
    let who = house.login("super").await;
    let canary = "canary-body-value";
    for (method, path, input) in inputs(&house).await {
        if method != "POST" || path == "/api/auth/logout" || path == "/api/auth/refresh" {
            continue;
        }
        // every text of the body, one at a time; names and ids are recorded on purpose
        let body: Value = serde_json::from_str(&input).unwrap_or_default();
        let texts = [
            "data",
            "password",
            "new_password",
            "old_password",
            "token",
            "kubeconfig",
            "labels",
            "description",
        ];
        for key in texts.into_iter().filter(|key| body.get(key).is_some()) {
            let mut body = body.clone();
            body[key] = match &body[key] {
                Value::Object(map) => map
                    .keys()
                    .map(|key| (key.clone(), json!(canary)))
                    .collect::<serde_json::Map<_, _>>()
                    .into(),
                _ => json!(canary),
            };
            house.post(&who, path, body).await;
        }
    }
    let trail = format!("{:?} {:?}", house.fake.store.entries(), house.fake.store.all_operations());
    assert!(!trail.contains(canary), "{trail}");
}

/// Rancher: anybody could send somebody's credential to an address of their choice, by its id.
#[actix_web::test]
async fn cve_2021_25320_no_input_names_a_stored_credential() {
    let document: Value = serde_json::from_str(&document().to_string()).unwrap();
    let named = document["components"]["schemas"].as_object().unwrap().iter().flat_map(|(schema, of)| {
        of["properties"].as_object().into_iter().flatten().map(move |(name, _)| format!("{schema}.{name}"))
    });
    let suspicious: Vec<_> = named
        .filter(|name| name.contains("credential_id") || name.contains("token_id") || name.ends_with("_ref"))
        .collect();
    assert_eq!(suspicious, Vec::<String>::new());
    let house = House::new().await;
    let ops = house.login("ops").await;
    let elsewhere = json!({"id": house.cluster, "api_server": "https://evil.example.com"});
    assert_eq!(house.post(&ops, "/api/k8s/clusters/test", elsewhere).await.status.as_u16(), 400);
    assert!(house.fake.clusters.calls().is_empty());
}

/// Rancher: the proxy sent its own credential to whatever host it was pointed at.
#[actix_web::test]
async fn cve_2025_54468_a_new_address_takes_its_credential_anew() {
    let house = House::new().await;
    let ops = house.login("ops").await;
    for more in [
        json!({}),
        json!({"skip_test": true}),
        json!({"auth_type": "token"}),
        json!({"auth_type": "kubeconfig"}),
    ] {
        let mut body = json!({"id": house.cluster, "api_server": "https://evil.example.com"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let reply = house.post(&ops, "/api/k8s/clusters/update", body).await;
        assert_eq!(reply.refusal().1, "VALIDATION_ERROR", "{more}");
    }
    assert!(house.fake.clusters.calls().is_empty());
    let rows = house.get(&ops, "/api/k8s/clusters", "").await.data();
    assert_eq!(rows["clusters"][0]["api_server"], "https://k8s.example.com:6443");
}

/// Rancher: a page of somebody else's opened a stream with the visitor's cookie.
#[actix_web::test]
async fn cve_2019_13209_a_foreign_page_opens_no_stream() {
    let house = House::new().await;
    let who = house.login("super").await;
    let uri = format!("/api/k8s/pods/logs/stream?cluster_id={}&namespace=shop&pod_name=web-0", house.cluster);
    for (name, value) in [("origin", "https://evil.example.com"), ("sec-fetch-site", "cross-site")] {
        let request = TestRequest::get().uri(&uri).insert_header(("host", "pilothouse.example.com"));
        let request =
            who.credentials.headers().into_iter().fold(request, |r, header| r.insert_header(header));
        let reply = house.send(request.insert_header((name, value))).await;
        assert_eq!(reply.refusal().2, "foreign_page");
    }
    assert!(house.fake.clusters.calls().is_empty());
}

/// Rancher: `_method` made a GET what it was not.
#[actix_web::test]
async fn cve_2026_88804_a_parameter_makes_no_other_method() {
    let house = House::new().await;
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
    let house = House::new().await;
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
    let house = House::new().await;
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

/// Rancher, Vault: a body too large or too deep took the server down, before anybody had signed in.
#[actix_web::test]
async fn cve_2025_23388_a_body_too_large_or_too_deep_is_refused() {
    let house = House::new().await;
    let login = async |body: String| {
        let reply = house.call(&Credentials::default(), "POST", "/api/auth/login", &body).await;
        (reply.status.as_u16(), reply.json()["error_code"].as_str().unwrap().to_owned())
    };
    assert_eq!(login("[".repeat(4_000)).await, (400, "VALIDATION_ERROR".into()));
    assert_eq!(login(format!("{{\"username\":{}", "{\"a\":".repeat(600))).await.0, 400);
    assert_eq!(login("[".repeat(1 << 20)).await, (413, "PAYLOAD_TOO_LARGE".into()));
    let who = house.login("super").await;
    let deep = format!("{{\"cluster_id\":1,\"data\":{}{}", "[".repeat(500_000), "]".repeat(500_000));
    let reply = house.call(&who.credentials, "POST", "/api/k8s/configmaps", &deep).await;
    assert_eq!(reply.status.as_u16(), 400);
    let large = format!("{{\"cluster_id\":1,\"name\":\"{}\"}}", "x".repeat(2 << 20));
    assert_eq!(
        house.call(&who.credentials, "POST", "/api/k8s/configmaps", &large).await.status.as_u16(),
        413
    );
}

/// Steve: a watch was let through that a list was not.
#[actix_web::test]
async fn cve_2024_52280_a_stream_asks_what_a_read_asks() {
    let house = House::new().await;
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
    let house = House::new().await;
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
    let house = House::new().await;
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
    let house = House::new().await;
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

/// Argo CD, four times: a Secret's value came out by an annotation, a patch's error, a difference.
#[actix_web::test]
async fn cve_2023_40029_what_kubectl_wrote_beside_a_secret_is_not_shown() {
    let house = House::new().await;
    let who = house.login("super").await;
    let applied = json!({"apiVersion": "v1", "kind": "Secret", "data": {"password": "Y2FuYXJ5LWFwcGxpZWQ="},
        "stringData": {"password": "canary-applied"}});
    let metadata = json!({"name": "applied", "namespace": "shop", "annotations": {
        "kubectl.kubernetes.io/last-applied-configuration": applied.to_string(), "kept": "yes"},
        "managedFields": [{"manager": "canary-applied"}]});
    let object = json!({"metadata": metadata, "data": {"password": "Y2FuYXJ5LWFwcGxpZWQ="}});
    house.fake.clusters.put(pilothouse_core::cluster::ClusterId(house.cluster), Kind::Secret, object);
    let query = format!("cluster_id={}&namespace=shop", house.cluster);
    let detail = house.get(&who, "/api/k8s/secrets/detail", &format!("{query}&name=applied")).await;
    assert_eq!(detail.json()["data"]["annotations"], json!({"kept": "yes"}));
    let list = house.get(&who, "/api/k8s/secrets", &query).await;
    let update = json!({"cluster_id": house.cluster, "namespace": "shop", "name": "applied",
        "data": {"password": "canary-applied"}, "resource_version": "stale"});
    let refused = house.post(&who, "/api/k8s/secrets/update", update).await;
    assert_eq!(refused.refusal().1, "CONFLICT_ERROR");
    for reply in [detail, list, refused] {
        assert!(
            !reply.text.contains("canary-applied") && !reply.text.contains("Y2FuYXJ5LWFwcGxpZWQ"),
            "{}",
            reply.text
        );
    }
}

/// Argo CD: a token for reading projects could read the credentials of repositories.
#[actix_web::test]
async fn cve_2025_55190_no_read_gives_a_stored_credential_to_anybody() {
    let house = House::new().await;
    let who = house.login("super").await;
    for (method, path, input) in inputs(&house).await {
        if method == "GET" {
            let reply = house.get(&who, path, &input).await;
            assert!(!reply.text.contains("canary-token"), "{path}");
        }
    }
    for path in ["clusters/test", "clusters/update"] {
        let body = json!({"id": house.cluster, "name": "renamed"});
        let body = if path == "clusters/test" { json!({"id": house.cluster}) } else { body };
        let reply = house.post(&who, &format!("/api/k8s/{path}"), body).await;
        assert!(!reply.data().to_string().contains("canary-token"), "{path}");
    }
}

/// Portainer: a token in the address went into logs and the Referer header.
#[actix_web::test]
async fn cve_2026_44883_a_token_in_the_address_is_no_token() {
    let house = House::new().await;
    let Credentials { bearer, cookie } = house.login("super").await.credentials;
    let cookie = Credentials { bearer: None, cookie };
    let mut names = ["token", "access_token", "authorization", "jwt"].into_iter().cycle();
    for (method, path, _) in inputs(&house).await.into_iter().filter(|(_, path, _)| !OPEN.contains(path)) {
        let target = format!("{path}?{}={}", names.next().unwrap(), bearer.as_ref().unwrap());
        assert_eq!(house.call(&cookie, &method, &target, "").await.status.as_u16(), 401, "{method} {target}");
    }
}

/// Portainer: a WebSocket ran commands for whoever opened it.
#[test]
fn cve_2018_12678_nothing_is_upgraded() {
    let running = Running::start(HttpSettings::default());
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

/// KubeView: an endpoint for debugging gave out admin certificates.
#[actix_web::test]
async fn cve_2022_45933_what_is_open_to_all_tells_nothing_of_a_cluster() {
    let house = House::new().await;
    let who = house.login("super").await;
    house.get(&who, "/api/k8s/pods", &format!("cluster_id={}&namespace=*", house.cluster)).await.data();
    for path in ["/livez", "/readyz", "/api/openapi.json", "/api/docs", "/api/docs/"] {
        let reply = house.call(&Credentials::default(), "GET", path, "").await;
        for word in ["k8s.example.com:6443", "canary", "web-0", "super\""] {
            assert!(!reply.text.contains(word), "{path}: {word}");
        }
    }
    for path in
        ["/metrics", "/debug/pprof", "/api/debug", "/api/scrape", "/api/k8s/raw", "/.env", "/api/config"]
    {
        assert_eq!(house.call(&Credentials::default(), "GET", path, "").await.status.as_u16(), 404, "{path}");
    }
}
